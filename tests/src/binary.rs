//! The programs under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;

use crate::Error;
use crate::process::run;

/// How long an example may take to build, with all it depends on, on a busy host.
const BUILD_DEADLINE: Duration = Duration::from_secs(900);

/// The path of a program of this workspace, such as `middlenet`, as built with the profile `fast`.
///
/// It is looked for in the directory that `MIDDLENET_BIN_DIR` names, else in `fast/` of the target directory that the
/// running test was built in.
///
/// # Errors
///
/// [`Error::NotBuilt`] if it is not there: a test that needs a program fails without it, it is not skipped.
pub fn binary(name: &str) -> Result<PathBuf, Error> {
    let path = directory()?.join(name);
    if path.is_file() { Ok(path) } else { Err(Error::NotBuilt { path }) }
}

fn directory() -> Result<PathBuf, Error> {
    if let Some(directory) = std::env::var_os("MIDDLENET_BIN_DIR") {
        return Ok(PathBuf::from(directory));
    }
    let test =
        std::env::current_exe().map_err(|source| Error::File { path: PathBuf::from("/proc/self/exe"), source })?;
    // TARGET/PROFILE/deps/TEST
    Ok(test.ancestors().nth(3).unwrap_or(&test).join("fast"))
}

/// The path of the program of an example in `examples/`, built as its author would build it, with the profile `dev`.
///
/// # Errors
///
/// If `cargo` fails.
pub fn example(name: &str) -> Result<PathBuf, Error> {
    // Tests of one process would otherwise wait for cargo's lock at the same time, and count it against their deadlines.
    static BUILDING: Mutex<()> = Mutex::new(());
    let _building = BUILDING.lock();
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = directory()?.with_file_name(name);
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--manifest-path"]).arg(workspace.join("examples").join(name).join("Cargo.toml"));
    cargo.arg("--target-dir").arg(&target);
    // The test's own settings are for the test.
    for (variable, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CARGO_PKG_")) {
        cargo.env_remove(variable);
    }
    run(&mut cargo, BUILD_DEADLINE)?;
    Ok(target.join("debug").join(name))
}
