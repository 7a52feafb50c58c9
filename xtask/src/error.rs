//! Why a command of xtask ended without doing what it was asked.

use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::{fmt, io};

#[derive(Debug)]
pub(crate) enum Error {
    /// The command line is not one that xtask has.
    Usage(String),
    /// A program is not there, or may not be run.
    Start { command: String, source: io::Error },
    /// A program ended, and not with success.
    Failed { command: String, status: ExitStatus },
    /// A program answered something that xtask cannot read.
    Answer { command: String, reason: String },
    /// A file could not be read or written.
    File { path: PathBuf, source: io::Error },
    /// The host lacks something without which nothing builds.
    HostLacks(Vec<String>),
    /// The workspace breaks its own rules.
    Untidy { findings: usize },
    /// No test has a name that was asked for.
    NoSuchTest(Vec<String>),
}

impl Error {
    pub(crate) fn file(path: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::File { path, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(text) => write!(out, "{}", text.trim_end()),
            Self::Start { command, source } => write!(out, "cannot start `{command}`: {source}"),
            Self::Failed { command, status } => write!(out, "`{command}` ended with {status}"),
            Self::Answer { command, reason } => write!(out, "cannot read the answer of `{command}`: {reason}"),
            Self::File { path, source } => write!(out, "cannot use {}: {source}", path.display()),
            Self::HostLacks(what) => write!(out, "this host lacks what the build needs: {}", what.join(", ")),
            Self::Untidy { findings } => write!(out, "the workspace breaks its own rules in {findings} places"),
            Self::NoSuchTest(names) => write!(out, "no test has a name that contains {}", names.join(" or ")),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Start { source, .. } | Self::File { source, .. } => Some(source),
            _ => None,
        }
    }
}
