//! A program with parties, and groups as they look on the wire.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Release};

use middlenet_bpf::{Filter, KeySet, Skmsg, entry, socket_pair};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

pub(crate) const CELL: usize = 16;
pub(crate) const STRUCK_OUT: u32 = u32::MAX;

/// One end of a connection under a key; the other end is what a broker keeps.
pub(crate) struct Party {
    pub(crate) key: u8,
    pub(crate) socket: OwnedFd,
    pub(crate) peer: OwnedFd,
}

impl Party {
    /// Enters a new connection and lets it pass groups to `to`.
    pub(crate) fn enter(skmsg: &Skmsg, key: u8, to: &[u8]) -> Self {
        let (socket, peer) = socket_pair().expect("a connection over loopback");
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(5000)).expect("a time limit");
        skmsg.enter(key, socket.as_fd()).expect("an established connection");
        skmsg.set_edges(key, &to.iter().copied().collect::<KeySet>()).expect("edges");
        Self { key, socket, peer }
    }

    pub(crate) fn send(&self, bytes: &[u8]) -> nix::Result<()> {
        let sent = send(self.socket.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
        assert_eq!(sent, bytes.len(), "a group goes whole or not at all");
        Ok(())
    }

    /// What is there, at most `limit` bytes; waits for some.
    pub(crate) fn receive(&self, limit: usize) -> nix::Result<Vec<u8>> {
        self.read(limit, MsgFlags::empty())
    }

    /// What is there; empty when nothing is.
    pub(crate) fn receive_now(&self) -> Vec<u8> {
        match self.read(1 << 16, MsgFlags::MSG_DONTWAIT) {
            Err(Errno::EAGAIN) => Vec::new(),
            other => other.expect("an open connection"),
        }
    }

    fn read(&self, limit: usize, flags: MsgFlags) -> nix::Result<Vec<u8>> {
        let mut bytes = vec![0; limit];
        let n = recv(self.socket.as_raw_fd(), &mut bytes, flags)?;
        bytes.truncate(n);
        Ok(bytes)
    }
}

/// Three parties that may pass to each other, and who holds what.
pub(crate) struct Domain {
    pub(crate) skmsg: Skmsg,
    pub(crate) parties: Vec<Party>,
}

impl Domain {
    /// Keys 1 to 3. Every buffer is of key 1, generation 5.
    pub(crate) fn new(buffers: u32) -> Self {
        let skmsg = Skmsg::load(buffers, Filter::Checked).expect("the program loads");
        let parties = [(1, [2, 3]), (2, [1, 3]), (3, [1, 2])]
            .map(|(key, to)| Party::enter(&skmsg, key, &to))
            .into_iter()
            .collect();
        let domain = Self { skmsg, parties };
        for buffer in 0..buffers {
            domain.give(buffer, 1, 5);
        }
        domain
    }

    /// The party of a key.
    pub(crate) fn party(&self, key: u8) -> &Party {
        self.parties.iter().find(|party| party.key == key).expect("a party of that key")
    }

    pub(crate) fn give(&self, buffer: u32, key: u16, generation: u16) {
        self.skmsg.ledger().words()[buffer as usize].store(entry(key, generation), Release);
    }

    pub(crate) fn word(&self, buffer: u32) -> u64 {
        self.skmsg.ledger().words()[buffer as usize].load(Acquire)
    }
}

/// A group of descriptors (buffer, generation); the rest of each descriptor is a pattern that must come through.
pub(crate) fn group(destination: u32, descriptors: &[(u32, u16)]) -> Vec<u8> {
    group_that_says(descriptors.len() as u32, destination, descriptors)
}

pub(crate) fn group_that_says(count: u32, destination: u32, descriptors: &[(u32, u16)]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(CELL * (1 + descriptors.len()));
    bytes.extend(count.to_le_bytes());
    bytes.extend(destination.to_le_bytes());
    bytes.extend([0; 8]);
    for &(index, generation) in descriptors {
        bytes.extend(index.to_le_bytes());
        bytes.extend(u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        bytes.extend(generation.to_le_bytes());
        bytes.extend([0xab, 0xcd]);
    }
    bytes
}

/// Takes whole groups out of a stream, and checks that each is as [`group`] makes them.
#[derive(Default)]
pub(crate) struct Reader {
    bytes: Vec<u8>,
}

impl Reader {
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Destination and (buffer, generation) of the next group that is there whole; struck out ones included.
    pub(crate) fn next(&mut self) -> Option<(u32, Vec<(u32, u16)>)> {
        let head = self.bytes.get(..CELL)?;
        let (count, destination) = (word(&head[0..4]) as usize, word(&head[4..8]));
        assert!((1..=64).contains(&count), "the stream is out of step: a count of {count}");
        let length = CELL * (1 + count);
        if self.bytes.len() < length {
            return None;
        }
        let group: Vec<u8> = self.bytes.drain(..length).collect();
        let descriptors = group[CELL..].chunks_exact(CELL).map(|cell| {
            assert_eq!(cell[14..], [0xab, 0xcd], "the stream is out of step");
            let index = word(&cell[0..4]);
            let pattern = u64::from(index).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes();
            assert!(index == STRUCK_OUT || cell[4..12] == pattern, "descriptor {index} was changed on its way");
            (index, u16::from_le_bytes([cell[12], cell[13]]))
        });
        Some((destination, descriptors.collect()))
    }
}

fn word(bytes: &[u8]) -> u32 {
    u32::from_le_bytes(bytes.try_into().expect("four bytes"))
}
