//! A folder for manifests, captures and compiled references.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::BenchError;

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A folder of this process in the host's folder for temporary files. It goes with all its files when this goes.
#[derive(Debug)]
pub struct WorkFolder(PathBuf);

impl WorkFolder {
    /// A new one.
    ///
    /// # Errors
    /// When it cannot be made, or somebody else made it.
    pub fn new() -> Result<Self, BenchError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("middlenet-bench-{}-{number}", std::process::id()));
        fs::create_dir(&path).map_err(BenchError::file(&path))?;
        Ok(Self(path))
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file in it; returns its path.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<PathBuf, BenchError> {
        let path = self.0.join(name);
        fs::write(&path, bytes).map_err(BenchError::file(&path))?;
        Ok(path)
    }
}

impl Drop for WorkFolder {
    fn drop(&mut self) {
        // What is left in the folder for temporary files is the host's to sweep.
        let _ = fs::remove_dir_all(&self.0);
    }
}
