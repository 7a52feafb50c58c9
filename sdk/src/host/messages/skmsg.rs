//! The SK_MSG socket of a function: a stream of cells, in groups.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use middlenet_shm::Descriptor;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};
use zerocopy::{FromBytes, IntoBytes};

use super::CELLS;
use crate::middlebox::{Cell, Group, MAX_GROUP};

const CELL: usize = size_of::<Cell>();
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
}

/// Reads and writes groups of descriptors. Bytes come from the BPF program's side of the kernel: only parties of the
/// domain can send, so a stream that cannot be read is closed rather than repaired.
#[derive(Debug)]
pub(super) struct SkmsgSocket {
    socket: OwnedFd,
    input: Box<[u8]>,
    filled: usize,
    /// Cells of the group under way that have not come yet.
    left: usize,
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
        let input = vec![0; CELLS * CELL].into_boxed_slice();
        Ok(Self { socket, input, filled: 0, left: 0, late: 0, entered: false, ended: false })
    }

    /// Receives that timed out although something had come: wake-ups that the kernel lost.
    pub(super) fn late(&self) -> u32 {
        self.late
    }

    /// Whether the other end is closed: from then on a receive does not wait.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Waits for bytes.
    pub(super) fn receive(&mut self) -> Received {
        // A receive that waits since before the socket was put into the sockmap does not see what comes by it; poll does.
        if !self.entered {
            let mut fds = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
            if !poll(&mut fds, PollTimeout::from(RECEIVE_MS)).is_ok_and(|ready| ready > 0) {
                return Received::Nothing;
            }
            self.entered = true;
        }
        let room = &mut self.input[self.filled..];
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
            Ok(n) => {
                self.filled += n;
                Received::Some
            }
            Err(Errno::EAGAIN | Errno::EINTR) => Received::Nothing,
            Err(_) => Received::Closed,
        }
    }

    /// Takes out the descriptors that have come whole. `false`: the stream makes no sense.
    pub(super) fn take(&mut self, descriptors: &mut Vec<Descriptor>) -> bool {
        let whole = self.filled / CELL * CELL;
        for cell in self.input[..whole].chunks_exact(CELL) {
            if self.left == 0 {
                let count = Group::read_from_bytes(cell).map_or(0, |group| group.count as usize);
                if !(1..=MAX_GROUP).contains(&count) {
                    return false;
                }
                self.left = count;
                continue;
            }
            self.left -= 1;
            if let Ok(descriptor) = Descriptor::read_from_bytes(cell)
                // The filter has struck it out.
                && descriptor.index != u32::MAX
            {
                descriptors.push(descriptor);
            }
        }
        self.input.copy_within(whole..self.filled, 0);
        self.filled -= whole;
        true
    }

    /// Sends one group, at most [`MAX_GROUP`] descriptors: all of it or nothing.
    pub(super) fn send(&self, destination: u8, descriptors: &[Descriptor]) -> Result<(), Errno> {
        let mut bytes = [0u8; (MAX_GROUP + 1) * CELL];
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

/// Writes a group and returns its length in bytes; `bytes` has room for [`MAX_GROUP`] descriptors and the head.
fn write_group(bytes: &mut [u8], destination: u8, descriptors: &[Descriptor]) -> usize {
    let group = Group { count: descriptors.len() as u32, destination: destination.into(), reserved: [0; 2] };
    let (head, rest) = bytes.split_at_mut(CELL);
    head.copy_from_slice(group.as_bytes());
    let body = descriptors.as_bytes();
    rest[..body.len()].copy_from_slice(body);
    CELL + body.len()
}
