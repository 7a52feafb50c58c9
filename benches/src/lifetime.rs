//! Functions that are killed, and how soon their successors pass packets on.

use std::time::{Duration, Instant};

use middlenet_runtime::api::Status;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::BenchError;
use crate::run::{Run, running_pid};

/// How long a function may take to come back.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Kills the only instance of a function; returns the time until packets come back from its successor.
///
/// # Errors
/// When none comes back.
pub fn gap_after_kill(run: &mut Run, function: &str) -> Result<Duration, BenchError> {
    let old = pid_of(&run.status()?, function)
        .ok_or_else(|| BenchError::Failed(format!("`{function}` does not run before it is killed")))?;
    let killed = Instant::now();
    kill_pid(old)?;
    let mut passed_before = None;
    run.wait_until(&format!("packets through the new `{function}`"), PATIENCE, |status| {
        let is_back = pid_of(status, function).is_some_and(|pid| pid != old);
        let passed = passed_by(status, function);
        // Between two looks at a successor at work: so it is the successor that passed them.
        is_back && *passed_before.get_or_insert(passed) < passed
    })?;
    Ok(killed.elapsed())
}

/// The instance of a function that gets traffic.
pub fn pid_of(status: &Status, function: &str) -> Option<u32> {
    status.functions.iter().find(|f| f.name == function).and_then(running_pid)
}

/// Packets that came back from a function with a verdict other than drop.
pub(crate) fn passed_by(status: &Status, function: &str) -> u64 {
    let hops = status.data_plane.iter().flat_map(|stats| &stats.hops);
    hops.filter(|hop| hop.name == function).map(|hop| hop.out_pkts).sum()
}

/// SIGKILL to a function.
pub(crate) fn kill_pid(pid: u32) -> Result<(), BenchError> {
    // The pid of a child of a supervisor that we run; the kernel gives it to no other before the supervisor has reaped it.
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL)
        .map_err(|e| BenchError::Failed(format!("process {pid} cannot be killed: {e}")))
}
