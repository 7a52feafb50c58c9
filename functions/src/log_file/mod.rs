//! Logs that functions write: lines are gathered, and handed to a thread of its own that writes them.
//!
//! The function never waits for its log: while too much waits for the writer, [`Queue::room`] gives nothing, and the function counts
//! the line it could not write. Once a second the file's name is looked at; when it is another file or gone, it is opened anew, so
//! that a log can be rotated by renaming it.

mod clock;
mod queue;
mod writer;

pub(crate) use clock::{Civil, WallClock};
pub(crate) use queue::Queue;
pub(crate) use writer::Destination;

use middlenet_sdk::ConfigError;
use std::path::PathBuf;

/// Where a configuration's `file` leads: a path, `stdout` or `stderr`.
pub(crate) fn destination(file: &str) -> Result<Destination, ConfigError> {
    match file {
        "stderr" => Ok(Destination::Stderr),
        "stdout" => Ok(Destination::Stdout),
        path if path.starts_with('/') => Ok(Destination::File(PathBuf::from(path))),
        path => Err(ConfigError::new(format!("`file: {path}` is not an absolute path"))
            .with_hint("write the path from `/` on, `stdout` or `stderr`")),
    }
}
