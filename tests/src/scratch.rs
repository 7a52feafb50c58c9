//! Folders that go with the test that made them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Once;

use crate::{Error, name};

/// A folder below the system's folder for temporary files, readable and writable by everybody. Dropping it removes it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// Makes an empty folder.
    ///
    /// The first call in a process also removes what tests that no longer run left behind.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be made.
    pub fn new() -> Result<Self, Error> {
        static SWEEP: Once = Once::new();
        SWEEP.call_once(remove_stale);
        let path = std::env::temp_dir().join(format!("mn-scratch-{}-{}", std::process::id(), name::next()));
        let made = fs::create_dir(&path).and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o777)));
        match made {
            Ok(()) => Ok(Self { path }),
            Err(source) => Err(Error::File { path, source }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of a file in it.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Writes a file in it and returns its path.
    ///
    /// # Errors
    ///
    /// [`Error::File`] if it cannot be written.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) -> Result<PathBuf, Error> {
        let path = self.file(name);
        match fs::write(&path, contents) {
            Ok(()) => Ok(path),
            Err(source) => Err(Error::File { path, source }),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("{} stays: {error}", self.path.display());
        }
    }
}

fn remove_stale() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let owner = entry.file_name().to_str().and_then(name::scratch_owner);
        if owner.is_some_and(|pid| !name::is_alive(pid)) {
            // Another test may remove it at this moment.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
