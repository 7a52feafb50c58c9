//! Where the built programs are.

use std::path::PathBuf;

use crate::BenchError;

/// The folder with `middlenet` and what belongs to it: the one that `MIDDLENET_BIN_DIR` names, else this program's own.
#[derive(Debug, Clone)]
pub struct Programs(PathBuf);

impl Programs {
    /// Looks for them.
    ///
    /// # Errors
    /// When `middlenet` is not there.
    pub fn find() -> Result<Self, BenchError> {
        let programs = Self::folder()?;
        programs.path("middlenet")?;
        programs.path("middlenet-nf-manager")?;
        Ok(programs)
    }

    /// The folder alone, for who has something to do without them; [`Programs::path`] tells what is missing.
    ///
    /// # Errors
    /// When this program does not know its own path.
    pub fn folder() -> Result<Self, BenchError> {
        let folder = match std::env::var_os("MIDDLENET_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => {
                let own = PathBuf::from("/proc/self/exe");
                let path = std::env::current_exe().map_err(BenchError::file(&own))?;
                path.parent().map(PathBuf::from).unwrap_or_default()
            }
        };
        Ok(Self(folder))
    }

    /// The path of one of them.
    ///
    /// # Errors
    /// When it has not been built.
    pub fn path(&self, name: &str) -> Result<PathBuf, BenchError> {
        let path = self.0.join(name);
        if path.is_file() {
            return Ok(path);
        }
        Err(BenchError::Host(format!(
            "{} is not there; build it with `cargo build --release -p middlenet-runtime -p middlenet-nf-manager \
             -p middlenet-message-broker -p middlenet-bench`",
            path.display()
        )))
    }
}
