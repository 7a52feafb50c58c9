//! Function processes begin here: what they may do is taken from them before any of their code runs.
//!
//! ```text
//!   supervisor (root) --spawn--> middlenet fn NAME CONFINEMENT            built in: confines itself, then is the function
//!                     --spawn--> middlenet confine CONFINEMENT PROGRAM    another's: confines itself, then executes it
//! ```
//!
//! In order: descriptors that nobody passed are closed; files that the function writes are made for its user; its program is
//! opened; then it gives up capabilities, groups and root, and takes on a landlock domain (`files`) and a filter of system calls
//! (`calls`). What is left are the control socket, standard output and error, and the files that the manifest names.
//!
//! Landlock and seccomp need no privilege, so functions of a run without root are confined as well, under that user.

mod calls;
mod files;

use landlock::{LandlockStatus, RestrictionStatus};
use nix::unistd::{Gid, Uid, setgroups, setresgid, setresuid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::domain::Ids;
use crate::plan::Program;

pub use calls::is_there as has_seccomp;

/// What a function finds of the environment of the run, beside where its control socket is.
const ENVIRONMENT: [&str; 7] = ["PATH", "LANG", "LC_ALL", "TZ", "TERM", "RUST_BACKTRACE", "RUST_LOG"];

/// How a function process is confined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Confinement {
    /// The user and group it runs under; nothing where the run is not root's, so that it stays that user.
    pub user: Option<Ids>,
    /// The files it may open beside its program and the system's libraries.
    pub files: Files,
    /// Whether it is handed the maps of a fast path, and may read and write their elements.
    pub maps: bool,
}

/// Files and folders outside of a domain's memory, absolute. For a file, its folder counts as well: files are replaced by others
/// of their name (logs are rotated, tables are edited), and a file beside it is within reach as far as its own rights go.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Files {
    /// To read and to execute.
    pub reads: Vec<PathBuf>,
    /// To write, and to make where they are not there.
    pub writes: Vec<PathBuf>,
}

/// Why a function process could not be confined or started.
#[derive(Debug, thiserror::Error)]
pub enum ConfineError {
    /// The command line is not the supervisor's.
    #[error("the confinement cannot be read: {0}")]
    Form(#[from] serde_json::Error),
    /// The user could not be taken on.
    #[error("the user {user} cannot be taken on: {source}")]
    User {
        /// Its number.
        user: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// Capabilities could not be given up.
    #[error("capabilities cannot be given up: {0}")]
    Capabilities(io::Error),
    /// A file for the function to write could not be made.
    #[error("{path} cannot be made: {source}")]
    Make {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The kernel refused the landlock domain.
    #[error("landlock refuses: {0}")]
    Landlock(#[from] landlock::RulesetError),
    /// The kernel refused the filter.
    #[error("the filter of system calls is refused: {0}")]
    Filter(String),
    /// The program could not be executed.
    #[error("{program} cannot be executed: {source}{}", hint(.source))]
    Execute {
        /// Which.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => " (the run's user needs the right to execute it: `chmod a+x`)",
        _ => "",
    }
}

/// The command that starts a function's program, confined.
pub fn command(middlenet: &Path, program: &Program, confinement: &Confinement) -> Result<Command, serde_json::Error> {
    let mut command = Command::new(middlenet);
    let confinement = serde_json::to_string(confinement)?;
    match program {
        Program::BuiltIn(name) => command.args(["fn", name, &confinement]),
        Program::External(path) => command.args(["confine", &confinement]).arg(path),
    };
    command.env_clear();
    command.envs(ENVIRONMENT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    Ok(command)
}

/// Confines this process, which is to be a built-in function.
///
/// # Errors
/// When something could not be given up.
pub fn enter(confinement: &str) -> Result<(), ConfineError> {
    let confinement: Confinement = serde_json::from_str(confinement)?;
    close_inherited();
    confine(&confinement, None)
}

/// Confines this process and makes it that program.
///
/// # Errors
/// When something could not be given up, or the program cannot be executed.
pub fn execute(confinement: &str, program: &Path, arguments: &[OsString]) -> Result<Infallible, ConfineError> {
    let confinement: Confinement = serde_json::from_str(confinement)?;
    close_inherited();
    let fail = |source| ConfineError::Execute { program: program.into(), source };
    // Opened as root: the folders on the way to it may be closed to the run's user.
    let file = File::open(program).map_err(fail)?;
    let interpreter = files::interpreter(&file).map_err(fail)?;
    let text = |s: &OsStr| CString::new(s.as_bytes()).map_err(|e| fail(e.into()));
    let path = text(program.as_os_str())?;
    let mut words = vec![path.clone()];
    for argument in arguments {
        words.push(text(argument)?);
    }
    let mut environment = Vec::new();
    for (name, value) in std::env::vars_os() {
        environment.push(text(&[name.as_os_str(), value.as_os_str()].join(OsStr::new("=")))?);
    }
    confine(&confinement, Some(files::Executable { program: &file, interpreter: interpreter.as_deref() }))?;
    let executed = match interpreter {
        // An interpreter opens the script by its name.
        Some(_) => nix::unistd::execve(&path, &words, &environment),
        None => nix::unistd::fexecve(&file, &words, &environment),
    };
    executed.map_err(|e| fail(e.into()))
}

/// The version of landlock that this kernel has, 0 for none: tried out in a thread that ends at once.
pub fn landlock_version() -> i32 {
    let trial = || files::Domain::new(&Files::default(), None).and_then(files::Domain::enter);
    match std::thread::spawn(trial).join() {
        Ok(Ok(RestrictionStatus { landlock: LandlockStatus::Available { effective_abi, .. }, .. })) => {
            effective_abi as i32
        }
        _ => 0,
    }
}

fn confine(confinement: &Confinement, executable: Option<files::Executable<'_>>) -> Result<(), ConfineError> {
    if let Some(user) = confinement.user {
        confinement.files.writes.iter().try_for_each(|path| make(path, user))?;
    }
    let executes = executable.is_some();
    // Asked while files can still be read.
    let has_seccomp = calls::is_there();
    let domain = files::Domain::new(&confinement.files, executable)?;
    give_up_privileges(confinement.user)?;
    domain.enter()?;
    calls::restrict(calls::Needs { executes, maps: confinement.maps }, has_seccomp)
}

/// Closes what came over from whoever started the run, and was not passed on on purpose.
fn close_inherited() {
    let listed = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    let fds: Vec<i32> = listed.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for fd in fds.into_iter().filter(|&fd| fd > 2) {
        // The listing itself is closed by now.
        let _ = nix::unistd::close(fd);
    }
}

/// Makes a file that is not there yet, for a user who may have no right to do so.
fn make(path: &Path, user: Ids) -> Result<(), ConfineError> {
    let fail = |source| ConfineError::Make { path: path.into(), source };
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o640).custom_flags(libc::O_NOFOLLOW);
    match options.open(path) {
        Ok(file) => fchown(&file, Some(user.uid), Some(user.gid)).map_err(fail),
        // There already, or nowhere to be: the function says what is wrong with that.
        Err(_) => Ok(()),
    }
}

fn give_up_privileges(user: Option<Ids>) -> Result<(), ConfineError> {
    for capability in CapabilitySet::all().iter() {
        // Who may not do it has nothing that a program it executes could gain: see `no_new_privs`.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    if let Some(Ids { uid, gid }) = user {
        let (u, g) = (Uid::from_raw(uid), Gid::from_raw(gid));
        let taken = setgroups(&[]).and_then(|()| setresgid(g, g, g)).and_then(|()| setresuid(u, u, u));
        taken.map_err(|e| ConfineError::User { user: uid, source: e.into() })?;
    }
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    rustix::thread::set_capabilities(None, none).map_err(|e| ConfineError::Capabilities(e.into()))?;
    // Kernels from 4.3 on have it, and an empty permitted set empties it: no failure leaves anything behind.
    let _ = rustix::thread::clear_ambient_capability_set();
    nix::sys::prctl::set_no_new_privs().map_err(|e| ConfineError::Capabilities(e.into()))
}

#[cfg(test)]
mod tests;
