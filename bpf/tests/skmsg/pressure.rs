//! A receiver that does not read.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::{env, process};

use middlenet_bpf::entry;
use middlenet_tests::{Process, require_root, skip};
use nix::errno::Errno;

use super::SOON;
use super::domain::{CELL, Domain, group};

/// Set for the child of `when_tcp_memory_is_short_a_group_is_lost_in_the_receivers_name`.
const SHORT: &str = "MIDDLENET_TEST_TCP_MEMORY";
const TCP_LIMIT_BYTES: usize = 256 << 10;

/// Nothing holds a sender back (Linux 6.18; cilium #6431 says the same of older ones): what is in flight is bounded by the
/// number of buffers, since every group that passes moves one at least.
#[test]
fn a_sender_is_not_held_back() {
    require_root!();
    let buffers = 100_000;
    let domain = Domain::new(buffers);
    for buffer in 0..buffers {
        domain.party(1).send(&group(2, &[(buffer, 5)])).expect("neither EAGAIN nor ENOMEM");
    }
    assert_eq!(domain.party(1).send(&group(2, &[(0, 5)])), Err(Errno::EPIPE), "key 1 holds nothing any more");
    let mut received = 0;
    while received < buffers as usize * 2 * CELL {
        received += domain.party(2).receive(1 << 20).expect("all of it is there").len();
    }
    assert_eq!(received, buffers as usize * 2 * CELL);
}

#[test]
fn when_tcp_memory_is_short_a_group_is_lost_in_the_receivers_name() {
    require_root!();
    let Some(cgroup) = TcpLimit::new() else {
        return skip("no cgroup v1 controller `memory`, with which a process gets little TCP memory");
    };
    let exe = env::current_exe().expect("the test's own file");
    let mut child = Command::new("sh");
    child.args(["-c", "echo $$ >\"$1\" && shift && exec \"$@\"", "sh"]).arg(cgroup.0.join("tasks")).arg(exe);
    child.args(["--exact", "pressure::run_short_of_tcp_memory", "--nocapture"]).env(SHORT, "1");
    let output = Process::spawn(&mut child).expect("the child starts").wait(SOON).expect("the child ends");
    assert!(output.status.success(), "{}{}", output.stdout, output.stderr);
    assert!(output.stdout.contains("ran short"), "{}", output.stdout);
}

/// The child of the test above; on its own it has nothing to do.
#[test]
fn run_short_of_tcp_memory() {
    if env::var_os(SHORT).is_none() {
        return;
    }
    for size in [1, 64] {
        let domain = Domain::new(64);
        let descriptors: Vec<_> = (0..size).map(|buffer| (buffer, 5)).collect();
        let bytes = group(2, &descriptors);
        let mut passed = 0;
        let error = loop {
            descriptors.iter().for_each(|&(buffer, _)| domain.give(buffer, 1, 5));
            match domain.party(1).send(&bytes) {
                Ok(()) => passed += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(error, Errno::ENOMEM);
        let expected = TCP_LIMIT_BYTES / bytes.len();
        assert!(passed > expected / 2 && passed <= expected, "{passed} groups of {} bytes", bytes.len());
        // The program had passed it, so it counts as passed and is the receiver's.
        assert_eq!(domain.skmsg.counters(1).expect("counters").groups as usize, passed + 1);
        assert!(descriptors.iter().all(|&(buffer, _)| domain.word(buffer) == entry(2, 5)));

        // The stream has whole groups only, and the sender goes on once there is room.
        let mut received = 0;
        while received < passed * bytes.len() {
            received += domain.party(2).receive(1 << 20).expect("all of it is there").len();
        }
        assert_eq!(received, passed * bytes.len());
        descriptors.iter().for_each(|&(buffer, _)| domain.give(buffer, 1, 5));
        domain.party(1).send(&bytes).expect("there is room");
        assert_eq!(domain.party(2).receive(1 << 20).expect("it arrives"), bytes);
    }
    println!("ran short");
}

/// A cgroup whose processes get little memory for TCP.
struct TcpLimit(PathBuf);

impl TcpLimit {
    fn new() -> Option<Self> {
        let folder = PathBuf::from(format!("/sys/fs/cgroup/memory/middlenet-test-{}", process::id()));
        fs::create_dir(&folder).ok()?;
        let limit = Self(folder);
        fs::write(limit.0.join("memory.kmem.tcp.limit_in_bytes"), TCP_LIMIT_BYTES.to_string()).ok()?;
        Some(limit)
    }
}

impl Drop for TcpLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
