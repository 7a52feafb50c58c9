//! Load generators, and what they say.

mod ab;
mod wrk;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use middlenet_tests::{Netns, Process};

use super::LOAD_CORE;
use super::case::Load;
use super::server::Tool;
use crate::BenchError;
use crate::run::go_on;
use crate::work_folder::WorkFolder;

/// Beyond its time of measuring.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a generator saw.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Seen {
    /// Responses per second, whatever their status.
    pub(crate) rate: f64,
    /// From a request to its response.
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    /// Responses.
    pub(crate) responses: u64,
    /// Responses with another status than 2xx or 3xx, and requests without one.
    pub(crate) failed: u64,
}

/// What is asked for, and from where.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'t> {
    pub(crate) address: SocketAddr,
    /// Where clients are, if not on the host.
    pub(crate) netns: Option<&'t Netns>,
    /// Whether the middlebox rewrites `/old/` to `/new/`.
    pub(crate) rewrites: bool,
}

impl Target<'_> {
    /// The URL of every request.
    fn url(&self) -> String {
        format!("http://{}/{}/page", self.address, if self.rewrites { "old" } else { "new" })
    }
}

/// Runs one for some whole seconds, on the load's core.
///
/// # Errors
/// When it is not installed, or says nothing that can be read.
pub(crate) fn run(
    load: Load,
    target: Target<'_>,
    concurrency: usize,
    seconds: u64,
    folder: &WorkFolder,
) -> Result<Seen, BenchError> {
    match load {
        Load::Wrk => wrk::run(target, concurrency, seconds),
        Load::Ab => ab::run(target, concurrency, seconds, true, folder),
        Load::AbClose => ab::run(target, concurrency, seconds, false, folder),
    }
}

/// Runs a command of `tool` to its end, and wants success; returns its standard output.
fn output(tool: Tool, target: Target<'_>, seconds: u64, add: impl FnOnce(&mut Command)) -> Result<String, BenchError> {
    let mut command = tool.command(LOAD_CORE, target.netns)?;
    add(&mut command);
    let output = Process::spawn(&mut command)?.wait(PATIENCE + Duration::from_secs(seconds))?;
    go_on()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = (output.stderr + &output.stdout).trim().replace('\n', "; ");
    Err(BenchError::Failed(format!("{} ended with {}: {said}", tool.program, output.status)))
}

/// The number that begins the rest of the first line that begins like this.
fn number_after<T: std::str::FromStr>(text: &str, beginning: &str) -> Option<T> {
    let rest = text.lines().find_map(|line| line.trim_start().strip_prefix(beginning))?;
    rest.split_whitespace().next()?.parse().ok()
}
