//! A second process: this test program, run again for one ignored test, with a socket as its standard input.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use middlenet_shm::{receive, send, socket_pair};

const MARK: &str = "MIDDLENET_TEST_CHILD";

/// Starts the ignored test `name` in a process of its own, and hands it `fds`.
pub(crate) fn start(name: &str, fds: &[BorrowedFd<'_>]) -> (Child, OwnedFd) {
    let (ours, theirs) = socket_pair().unwrap();
    send(ours.as_fd(), b"start", fds).unwrap();
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--ignored", "--nocapture", "--test-threads=1"])
        .env(MARK, "1")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    (child, ours)
}

/// In the child: what it was handed. `None` when someone runs the ignored test by hand.
pub(crate) fn handed() -> Option<Vec<OwnedFd>> {
    std::env::var_os(MARK)?;
    Some(receive(std::io::stdin().as_fd(), 100).unwrap().1)
}

/// Waits for the child's success; after `limit` kills it and fails.
#[allow(dead_code, reason = "each user of this file needs a part of it")]
pub(crate) fn finish(mut child: Child, limit: Duration) {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            assert!(status.success(), "{status}");
            return;
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the child did not end within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
