//! The programs under test.

use std::path::PathBuf;

use crate::Error;

/// The path of a program of this workspace, such as `middlenet`, as built with the profile `fast`.
///
/// It is looked for in the directory that `MIDDLENET_BIN_DIR` names, else in `fast/` of the target directory that the
/// running test was built in.
///
/// # Errors
///
/// [`Error::NotBuilt`] if it is not there: a test that needs a program fails without it, it is not skipped.
pub fn binary(name: &str) -> Result<PathBuf, Error> {
    let directory = match std::env::var_os("MIDDLENET_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let test = std::env::current_exe()
                .map_err(|source| Error::File { path: PathBuf::from("/proc/self/exe"), source })?;
            // TARGET/PROFILE/deps/TEST
            test.ancestors().nth(3).unwrap_or(&test).join("fast")
        }
    };
    let path = directory.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::NotBuilt { path }) }
}
