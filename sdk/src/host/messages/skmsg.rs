//! The SK_MSG socket of a function: a stream of cells, in groups.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use middlenet_shm::Descriptor;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::CELLS;
use crate::middlebox::{GROUP_BYTES, GroupReader, write_group};

/// How long a receive waits. Then the rings and the control socket are looked at. It is not the broker's tick: when all wait for
/// that, a receive would end at the moment at which the next message comes, and that would look like a lost wake-up.
const RECEIVE_MS: u16 = 70;
/// A wait and a second look that take longer than this say nothing of wake-ups: this process waited for its core meanwhile.
const PROMPT: Duration = Duration::from_millis(75);

/// What a receive brought.
pub(super) enum Received {
    /// Descriptors, or a part of one.
    Some,
    /// Nothing in time.
    Nothing,
    /// The broker has closed the connection, or it failed.
    Closed,
    /// The stream makes no sense.
    Garbled,
}

/// Reads and writes groups of descriptors. Bytes come from the BPF program's side of the kernel: only parties of the
/// domain can send, so a stream that cannot be read is closed rather than repaired.
#[derive(Debug)]
pub(super) struct SkmsgSocket {
    socket: OwnedFd,
    reader: GroupReader,
    /// Receives that timed out although something had come.
    late: u32,
    /// Something has come: the socket is in the broker's sockmap.
    entered: bool,
    /// The other end is closed.
    ended: bool,
}

impl SkmsgSocket {
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(RECEIVE_MS.into()))?;
        Ok(Self { socket, reader: GroupReader::new(CELLS), late: 0, entered: false, ended: false })
    }

    /// Receives that timed out although something had come: wake-ups that the kernel lost.
    pub(super) fn late(&self) -> u32 {
        self.late
    }

    /// Whether the other end is closed: from then on a receive does not wait.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Waits for bytes, and takes out the descriptors that have come whole.
    pub(super) fn receive(&mut self, descriptors: &mut Vec<Descriptor>) -> Received {
        // A receive that waits since before the socket was put into the sockmap does not see what comes by it; poll does.
        if !self.entered {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if !poll(&mut fds, PollTimeout::from(RECEIVE_MS)).is_ok_and(|ready| ready > 0) {
                return Received::Nothing;
            }
            self.entered = true;
        }
        let room = self.reader.room();
        let began = Instant::now();
        let taken = match recv(self.socket.as_raw_fd(), room, MsgFlags::empty()) {
            Err(Errno::EAGAIN) => {
                // Bytes that are there at once although the wait has just ended without any: no wake-up came for them.
                let found = recv(self.socket.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT);
                self.late += u32::from(found.is_ok_and(|n| n > 0) && began.elapsed() < PROMPT);
                found
            }
            other => other,
        };
        self.ended |= !matches!(taken, Ok(1..) | Err(Errno::EAGAIN | Errno::EINTR));
        match taken {
            Ok(0) => Received::Closed,
            Ok(n) if self.reader.take(n, descriptors) => Received::Some,
            Ok(_) => Received::Garbled,
            Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }

    /// Sends one group, at most [`MAX_GROUP`](crate::middlebox::MAX_GROUP) descriptors: all of it or nothing.
    pub(super) fn send(&self, destination: u8, descriptors: &[Descriptor]) -> Result<(), Errno> {
        let mut bytes = [0u8; GROUP_BYTES];
        let length = write_group(&mut bytes, destination, descriptors);
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            match send(self.socket.as_raw_fd(), &bytes[..length], flags) {
                Ok(sent) if sent == length => return Ok(()),
                // A group is far below what the kernel takes in one piece; what it cut is refused by the filter.
                Ok(_) => return Err(Errno::EMSGSIZE),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e),
            }
        }
    }
}
