//! The first place in the queue for a core, while something is measured on a host that others use too.

use std::process::{Command, Stdio};

use crate::BenchError;

/// What this process and what it starts have from now on, until this is dropped.
#[derive(Debug)]
pub(crate) struct Raised;

/// Where the kernel groups processes by session (`sched_autogroup_enabled`), nice values count within a group alone; the group
/// has one of its own, here.
const GROUP: &str = "/proc/self/autogroup";

impl Raised {
    /// Raises this thread, and so what it starts from now on.
    ///
    /// # Errors
    /// Without the privilege.
    pub(crate) fn now() -> Result<Self, BenchError> {
        of(std::process::id(), -20)?;
        // Not there on every kernel.
        let _ = std::fs::write(GROUP, "-20");
        Ok(Self)
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        // It may always be lowered.
        let _ = of(std::process::id(), 0);
        let _ = std::fs::write(GROUP, "0");
    }
}

/// Gives a thread first place: a nice value of -20, so that it has 98 of 100 parts of a core beside one of 0.
///
/// # Errors
/// Without the privilege, or when it has ended.
pub(crate) fn raise(thread: u32) -> Result<(), BenchError> {
    of(thread, -20)
}

/// Lets a thread wait, when it wakes, until its core is left or the time of who has it is over (`SCHED_BATCH`): it works on more at
/// a time, and who wakes it from another core has no interrupt to send.
///
/// # Errors
/// Without the privilege, or when it has ended.
pub(crate) fn wait_for_turn(thread: u32) -> Result<(), BenchError> {
    run("chrt", &["--batch", "--pid", "0", &thread.to_string()])
}

fn of(thread: u32, nice: i32) -> Result<(), BenchError> {
    run("renice", &["-n", &nice.to_string(), "-p", &thread.to_string()])
}

/// Runs a tool of util-linux.
fn run(tool: &str, arguments: &[&str]) -> Result<(), BenchError> {
    let status = Command::new(tool).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(_) => Err(BenchError::Host(format!("`{tool} {}` failed: this needs root", arguments.join(" ")))),
        Err(error) => Err(BenchError::Host(format!("cannot run {tool}: {error}"))),
    }
}
