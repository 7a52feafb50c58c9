//! A child process and the socket to it.

use middlenet_sdk::protocol::SOCKET_VARIABLE;
use middlenet_sdk::{Channel, ChannelError};
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// How long a message may wait for room in a child's socket. The supervisor sends few, so a full socket means a stuck child.
const SEND_SECONDS: i64 = 1;

/// A child. It is killed and reaped when this goes.
#[derive(Debug)]
pub(super) struct Process {
    child: Child,
    pidfd: OwnedFd,
    channel: Channel,
    /// When it was started.
    pub(super) started: Instant,
    exit: Option<ExitStatus>,
}

impl Process {
    /// Starts a child whose standard input is its control socket and whose output goes to our standard error.
    pub(super) fn spawn(mut command: Command) -> io::Result<Self> {
        let (ours, theirs) = Channel::pair()?;
        setsockopt(&ours.fd(), sockopt::SendTimeout, &TimeVal::seconds(SEND_SECONDS))?;
        let started = Instant::now();
        let mut child = command
            .stdin(Stdio::from(theirs.into_fd()))
            .stdout(Stdio::from(io::stderr().as_fd().try_clone_to_owned()?))
            .env(SOCKET_VARIABLE, "0")
            // Ctrl-C is for the supervisor, which tells its children when to stop.
            .process_group(0)
            .spawn()?;
        match pidfd_open(Pid::from_child(&child), PidfdFlags::empty()) {
            Ok(pidfd) => Ok(Self { child, pidfd, channel: ours, started, exit: None }),
            Err(e) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(e.into())
            }
        }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Readable once the process has ended.
    pub(super) fn pidfd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(super) fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        self.channel.send(message, fds)
    }

    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        if self.exit.is_none() {
            self.exit = self.child.try_wait().ok().flatten();
        }
        self.exit
    }

    pub(super) fn kill(&mut self) {
        // It cannot hit another process: a child keeps its id until it is waited for.
        let _ = self.child.kill();
    }

    /// Waits for its end, at most until `deadline`; then kills it.
    pub(super) fn finish(&mut self, deadline: Instant) {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        while self.ended().is_none() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.kill();
                let _ = self.child.wait();
                return;
            }
            let timeout = PollTimeout::try_from(left.max(Duration::from_millis(1))).unwrap_or(PollTimeout::MAX);
            let _ = poll(&mut [PollFd::new(self.pidfd.as_fd(), PollFlags::POLLIN)], timeout);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            self.kill();
            let _ = self.child.wait();
        }
    }
}

/// How a process ended, for people.
pub(super) fn describe_exit(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => match nix::sys::signal::Signal::try_from(signal) {
            Ok(name) => format!("was killed by {}", name.as_str()),
            Err(_) => format!("was killed by signal {signal}"),
        },
        (None, Some(0)) => "exited".into(),
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended".into(),
    }
}
