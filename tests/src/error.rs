//! What can go wrong while a test sets its stage.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why a namespace, a link or a process is not as the test wanted it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program could not be started.
    #[error("cannot start `{command}`")]
    Start {
        /// The command line.
        command: String,
        /// The cause.
        source: io::Error,
    },
    /// The program ended, and not with success.
    #[error("`{command}` ended with {status}: {stderr}")]
    Failed {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// What it wrote to its standard error.
        stderr: String,
    },
    /// What was waited for did not happen in time.
    #[error("{what} did not happen within {after:?}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        after: Duration,
    },
    /// A process ended while the test still needed it.
    #[error("`{command}` ended early with {status}; its output:\n{output}")]
    EndedEarly {
        /// The command line.
        command: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// All it had written.
        output: String,
    },
    /// A file of the kernel or of the test could not be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The calling thread could not enter the namespace.
    #[error("cannot enter network namespace {name}")]
    Enter {
        /// The namespace.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// A run did not answer as its interface promises.
    #[error("the run `{name}`: {what}")]
    Run {
        /// The run.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A socket inside a namespace did not work.
    #[error("cannot {what}")]
    Socket {
        /// What was tried.
        what: String,
        /// The cause.
        source: io::Error,
    },
    /// A virtual machine is not as the test wanted it.
    #[error("the virtual machine: {what}")]
    Vm {
        /// What is wrong.
        what: String,
    },
    /// A program of this workspace has not been built.
    #[error("{} is not there; build it with `cargo build --profile fast -p middlenet-runtime -p middlenet-nf-manager -p middlenet-message-broker`", path.display())]
    NotBuilt {
        /// Where it was looked for.
        path: PathBuf,
    },
}
