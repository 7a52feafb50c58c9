//! Devices that receive in kernel threads of their own (`/sys/class/net/DEVICE/threaded`): so receiving has a core, and
//! processor time that can be told from everybody else's.

use std::fs;
use std::path::Path;
use std::time::Duration;

use middlenet_tests::{Netns, wait_until};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use crate::BenchError;

/// Until the kernel has made a device's thread.
const PATIENCE: Duration = Duration::from_secs(5);

/// Lets a device receive in a thread of its own, on one core; returns the thread's number. No other device on the host may have
/// the name, which has 9 letters at most: the thread is known by it.
///
/// # Errors
/// When the kernel refuses, or makes no thread.
pub(crate) fn in_thread(netns: &Netns, device: &str, core: usize) -> Result<u32, BenchError> {
    // A veth device has a NAPI only while it looks for packets to join, or has an XDP program.
    netns.exec("ethtool", ["-K", device, "gro", "on"])?;
    netns.exec("sh", ["-c", &format!("echo 1 > /sys/class/net/{device}/threaded")])?;
    let thread = thread(device)?;
    pin(thread, core)?;
    Ok(thread)
}

/// The kernel thread that receives for a device.
///
/// # Errors
/// When there is none after a while.
pub(crate) fn thread(device: &str) -> Result<u32, BenchError> {
    // The kernel keeps 15 letters of `napi/DEVICE-NUMBER`.
    let prefix = format!("napi/{device}-");
    let mut found = None;
    wait_until("the thread of the device", PATIENCE, || {
        found = process_named(&prefix);
        found.is_some()
    })?;
    found.ok_or_else(|| BenchError::Failed(format!("{device} has no thread")))
}

fn process_named(prefix: &str) -> Option<u32> {
    let mut processes = fs::read_dir(Path::new("/proc")).ok()?.flatten();
    processes.find_map(|process| {
        let pid: u32 = process.file_name().to_str()?.parse().ok()?;
        fs::read_to_string(process.path().join("comm")).ok()?.starts_with(prefix).then_some(pid)
    })
}

/// Gives a thread, or with 0 the caller, this core alone.
///
/// # Errors
/// When it cannot be had.
pub(crate) fn pin(thread: u32, core: usize) -> Result<(), BenchError> {
    let mut set = CpuSet::new();
    set.set(core)
        .and_then(|()| sched_setaffinity(Pid::from_raw(thread.cast_signed()), &set))
        .map_err(|e| BenchError::Failed(format!("core {core} cannot be had: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_is_found_by_how_its_name_begins() {
        let own = fs::read_to_string("/proc/self/comm").unwrap();
        assert!(process_named(own.trim_end()).is_some());
        assert_eq!(process_named("no-thread-has-this-name"), None);
    }

    #[test]
    fn a_core_that_is_not_there_is_told() {
        assert!(pin(0, 1023).is_err());
    }
}
