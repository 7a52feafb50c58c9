//! The hop over SK_MSG.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::Release;

use middlenet_bpf::{Filter, KeySet, Skmsg, entry, socket_pair};
use middlenet_sdk::middlebox::{GROUP_BYTES, GroupReader, MAX_GROUP, write_group};
use middlenet_sdk::shm::Descriptor;
use nix::sys::socket::{MsgFlags, recv, send};

use super::laps::Laps;
use super::{Function, HopResult, failed};
use crate::BenchError;

const BROKER: u8 = 1;
const A: u8 = 2;
const B: u8 = 3;
const GENERATION: u16 = 7;
/// Cells that one receive takes at most, as a function of the SDK does.
const CELLS: usize = 1024;

pub(super) fn run(checked: bool, in_flight: usize, seconds: f64) -> Result<HopResult, BenchError> {
    let bpf = |error: middlenet_bpf::Error| BenchError::Failed(error.to_string());
    let filter = if checked { Filter::Checked } else { Filter::Plain };
    let skmsg = Skmsg::load(in_flight as u32, filter).map_err(bpf)?;
    skmsg.ledger().words().iter().for_each(|word| word.store(entry(BROKER.into(), GENERATION), Release));
    // A party's own end, and the other one, which stays here and says nothing.
    let enter = |key, next| -> Result<(OwnedFd, OwnedFd), BenchError> {
        let (socket, peer) = socket_pair().map_err(failed("a connection over loopback"))?;
        skmsg.enter(key, socket.as_fd()).map_err(bpf)?;
        skmsg.set_edges(key, &KeySet::from_iter([next])).map_err(bpf)?;
        Ok((socket, peer))
    };
    let (socket, _broker_peer) = enter(BROKER, A)?;
    let (a, _a_peer) = enter(A, B)?;
    let (b, _b_peer) = enter(B, BROKER)?;
    let functions = [Function::start(&B.to_string(), a)?, Function::start(&BROKER.to_string(), b)?];

    let mut laps = Laps::new(in_flight, seconds, functions.iter().map(Function::pid));
    let mut stream = Stream::new(socket);
    let first = |index| Descriptor { index, generation: GENERATION, ..Descriptor::default() };
    stream.descriptors.extend((0..in_flight as u32).map(first));
    loop {
        stream.pass(A).map_err(failed("sending"))?;
        if !stream.receive().map_err(failed("receiving"))? {
            return Err(BenchError::Failed("the broker's connection was closed".to_owned()));
        }
        if !laps.came_back(&stream.descriptors) {
            return Ok(laps.result());
        }
    }
}

/// A function that passes everything on.
pub(super) fn serve(next: u8) -> Result<(), BenchError> {
    let socket = io::stdin().as_fd().try_clone_to_owned().map_err(failed("standard input"))?;
    let mut stream = Stream::new(socket);
    while stream.receive().map_err(failed("receiving"))? {
        // When the others have gone, so does this one.
        if stream.pass(next).is_err() {
            break;
        }
    }
    Ok(())
}

/// A party's socket, and the descriptors that it has. Reads and writes as a function of the SDK does: a receive takes all
/// that is there, and what goes to one destination goes in as few groups as can be.
struct Stream {
    socket: OwnedFd,
    reader: GroupReader,
    descriptors: Vec<Descriptor>,
}

impl Stream {
    fn new(socket: OwnedFd) -> Self {
        Self { socket, reader: GroupReader::new(CELLS), descriptors: Vec::new() }
    }

    /// Waits for bytes, and takes the descriptors that are there. `false`: the end.
    fn receive(&mut self) -> nix::Result<bool> {
        let n = recv(self.socket.as_raw_fd(), self.reader.room(), MsgFlags::empty())?;
        self.reader.take(n, &mut self.descriptors);
        Ok(n > 0)
    }

    /// Passes on all descriptors.
    fn pass(&mut self, to: u8) -> nix::Result<()> {
        let mut bytes = [0; GROUP_BYTES];
        for descriptors in self.descriptors.chunks(MAX_GROUP) {
            let length = write_group(&mut bytes, to, descriptors);
            send(self.socket.as_raw_fd(), &bytes[..length], MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)?;
        }
        self.descriptors.clear();
        Ok(())
    }
}
