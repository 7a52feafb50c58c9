//! Whether sockets with the program do on this kernel what the broker relies on.
//!
//! Kernels have broken each of these points, some of them in stable releases.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::Ordering::{Acquire, Release};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{MsgFlags, recv, send, setsockopt, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use super::{Filter, KeySet, SharedLedger, Skmsg, entry, socket_pair};
use crate::{Error, Result};

/// How long something that should be there may take to come.
const PATIENCE_MS: u16 = 500;
/// How long a waiting thread gets to fall asleep, so that it is woken and not merely served.
const ASLEEP: Duration = Duration::from_millis(2);

const BUFFERS: u32 = 8;
const SENDER: u8 = 1;
const RECEIVER: u8 = 2;
const LEAVER: u8 = 3;
const GENERATION: u16 = 7;

/// What was checked, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Check {
    /// What it was, in words.
    pub name: &'static str,
    /// How long it took.
    pub took: Duration,
}

/// A self-test in which nothing failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SelfTest {
    /// Every check, in the order in which they ran.
    pub checks: Vec<Check>,
    /// How long the whole took, with loading the program.
    pub took: Duration,
}

/// Loads an instance of its own, passes groups among three parties of this process and looks at what arrives, at who
/// wakes, and at what is refused. It takes some 20 ms; a check that fails may add half a second.
///
/// # Errors
///
/// [`Error::SelfTest`] names the check and says what was found; otherwise as [`Skmsg::load`].
pub fn self_test() -> Result<SelfTest> {
    let begin = Instant::now();
    let skmsg = Skmsg::load(BUFFERS, Filter::Checked)?;
    let parties = Parties::new(skmsg)?;
    let mut checks = vec![Check { name: "load", took: begin.elapsed() }];
    type Run = fn(&Parties) -> std::result::Result<(), String>;
    let runs: [(&'static str, Run); 7] = [
        ("a group arrives", Parties::arrives),
        ("a level-triggered epoll wakes", |parties| parties.epoll_wakes(EpollFlags::empty())),
        ("an edge-triggered epoll wakes", |parties| parties.epoll_wakes(EpollFlags::EPOLLET)),
        ("a blocked receive wakes", Parties::receive_wakes),
        ("one receive takes several groups", Parties::several_at_once),
        ("a refused group changes nothing", Parties::refusal),
        ("a party that closed is told", Parties::closing),
    ];
    for (name, run) in runs {
        let check = Instant::now();
        run(&parties).map_err(|found| Error::SelfTest { check: name, found })?;
        checks.push(Check { name, took: check.elapsed() });
    }
    Ok(SelfTest { checks, took: begin.elapsed() })
}

struct Parties {
    skmsg: Skmsg,
    ledger: SharedLedger,
    sender: OwnedFd,
    receiver: OwnedFd,
    /// What stays with the broker: the other ends of the connections.
    _peers: [OwnedFd; 2],
}

type Found = std::result::Result<(), String>;

impl Parties {
    fn new(skmsg: Skmsg) -> Result<Self> {
        let failed =
            |error: io::Error| Error::SelfTest { check: "two connections over loopback", found: error.to_string() };
        let (sender, sender_peer) = socket_pair().map_err(failed)?;
        let (receiver, receiver_peer) = socket_pair().map_err(failed)?;
        for socket in [&sender, &receiver] {
            setsockopt(socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(PATIENCE_MS.into()))
                .map_err(|error| failed(error.into()))?;
        }
        skmsg.enter(SENDER, sender.as_fd())?;
        skmsg.enter(RECEIVER, receiver.as_fd())?;
        skmsg.set_edges(SENDER, &KeySet::from_iter([RECEIVER, LEAVER]))?;
        let ledger = skmsg.ledger().clone();
        Ok(Self { skmsg, ledger, sender, receiver, _peers: [sender_peer, receiver_peer] })
    }

    fn arrives(&self) -> Found {
        self.give_to_sender();
        let sent = group(RECEIVER, &[0, 1]);
        self.send(&sent)?;
        self.expect(&sent)?;
        self.held_by(RECEIVER, &[0, 1])
    }

    fn epoll_wakes(&self, trigger: EpollFlags) -> Found {
        let words = |error: Errno| format!("epoll: {error}");
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).map_err(words)?;
        epoll.add(&self.receiver, EpollEvent::new(EpollFlags::EPOLLIN | trigger, 0)).map_err(words)?;
        let wait = |timeout: u16| epoll.wait(&mut [EpollEvent::empty()], EpollTimeout::from(timeout)).map_err(words);
        // Twice: an edge must come again after everything has been read.
        for _ in 0..2 {
            if wait(0)? != 0 {
                return Err("the socket is ready although nothing was sent".to_owned());
            }
            self.give_to_sender();
            let sent = group(RECEIVER, &[0]);
            let begin = Instant::now();
            let woken = self.while_waiting(&sent, || wait(PATIENCE_MS))?;
            if woken? != 1 {
                return Err(format!(
                    "no wake-up within {PATIENCE_MS} ms of {:?} for a group that was sent",
                    begin.elapsed()
                ));
            }
            self.expect(&sent)?;
        }
        epoll.delete(&self.receiver).map_err(words)
    }

    fn receive_wakes(&self) -> Found {
        self.give_to_sender();
        let sent = group(RECEIVER, &[0]);
        self.while_waiting(&sent, || self.expect(&sent))?
    }

    fn several_at_once(&self) -> Found {
        self.give_to_sender();
        let sent = [group(RECEIVER, &[0]), group(RECEIVER, &[1, 2, 3]), group(RECEIVER, &[4])];
        for group in &sent {
            self.send(group)?;
        }
        self.expect(&sent.concat())
    }

    fn refusal(&self) -> Found {
        self.give_to_sender();
        // No edge leads back to the sender; buffer 1 is not the sender's.
        match self.try_send(&group(SENDER, &[0])) {
            Err(Errno::EPIPE) => {}
            other => return Err(format!("a group over an edge that is not allowed got {other:?}, not EPIPE")),
        }
        self.held_by(SENDER, &[0])?;
        // Above all, that the sender is not silenced by it.
        self.ledger.words()[1].store(entry(RECEIVER.into(), GENERATION), Release);
        self.send(&group(RECEIVER, &[0, 1]))?;
        let mut struck_out = group(RECEIVER, &[0, 1]);
        struck_out[32..36].copy_from_slice(&u32::MAX.to_ne_bytes());
        self.expect(&struck_out)?;
        self.held_by(RECEIVER, &[0, 1])
    }

    fn closing(&self) -> Found {
        self.give_to_sender();
        let (leaver, peer) = socket_pair().map_err(|error| format!("no third connection: {error}"))?;
        self.skmsg.enter(LEAVER, leaver.as_fd()).map_err(|error| error.to_string())?;
        self.send(&group(LEAVER, &[0]))?;
        self.held_by(LEAVER, &[0])?;
        drop(peer);
        let mut bytes = [0; 64];
        match (
            recv(leaver.as_raw_fd(), &mut bytes, MsgFlags::empty()),
            recv(leaver.as_raw_fd(), &mut bytes, MsgFlags::empty()),
        ) {
            (Ok(32), Ok(0)) => {}
            other => return Err(format!("after the peer closed, a group and the end were due and {other:?} came")),
        }
        drop(leaver);
        if self.skmsg.has_socket(LEAVER) {
            return Err("the sockmap still has a socket that was closed".to_owned());
        }
        match self.try_send(&group(LEAVER, &[1])) {
            Err(Errno::EPIPE) => self.held_by(SENDER, &[1]),
            other => Err(format!("a group to a closed socket got {other:?}, not EPIPE")),
        }
    }

    fn give_to_sender(&self) {
        for word in self.ledger.words() {
            word.store(entry(SENDER.into(), GENERATION), Release);
        }
    }

    fn held_by(&self, key: u8, buffers: &[usize]) -> Found {
        for &buffer in buffers {
            let found = self.ledger.words()[buffer].load(Acquire);
            if found != entry(key.into(), GENERATION) {
                return Err(format!("the ledger says {found:#x} of buffer {buffer}, which key {key} holds"));
            }
        }
        Ok(())
    }

    fn try_send(&self, bytes: &[u8]) -> nix::Result<usize> {
        send(self.sender.as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    fn send(&self, bytes: &[u8]) -> Found {
        match self.try_send(bytes) {
            Ok(sent) if sent == bytes.len() => Ok(()),
            other => Err(format!("sending a group of {} bytes got {other:?}", bytes.len())),
        }
    }

    /// One receive that brings exactly these bytes.
    fn expect(&self, bytes: &[u8]) -> Found {
        let mut found = vec![0; bytes.len() + 1];
        match recv(self.receiver.as_raw_fd(), &mut found, MsgFlags::empty()) {
            Ok(n) if found[..n] == *bytes => Ok(()),
            Ok(n) => Err(format!("{} bytes were sent and other {n} bytes came", bytes.len())),
            Err(Errno::EAGAIN) => Err(format!("nothing came within {PATIENCE_MS} ms")),
            Err(error) => Err(format!("receiving failed: {error}")),
        }
    }

    /// Sends once a thread sleeps in `wait`, and returns what that said.
    fn while_waiting<T: Send>(&self, bytes: &[u8], wait: impl FnOnce() -> T + Send) -> std::result::Result<T, String> {
        let (started, starts) = mpsc::channel();
        thread::scope(|scope| {
            let waiter = scope.spawn(move || {
                let _ = started.send(());
                wait()
            });
            let _ = starts.recv();
            thread::sleep(ASLEEP);
            self.send(bytes)?;
            waiter.join().map_err(|_| "the waiting thread panicked".to_owned())
        })
    }
}

/// A group of descriptors with nothing but index and generation.
fn group(destination: u8, buffers: &[u32]) -> Vec<u8> {
    let mut bytes = vec![0; 16 * (1 + buffers.len())];
    bytes[0..4].copy_from_slice(&(buffers.len() as u32).to_ne_bytes());
    bytes[4..8].copy_from_slice(&u32::from(destination).to_ne_bytes());
    for (cell, buffer) in bytes[16..].chunks_exact_mut(16).zip(buffers) {
        cell[0..4].copy_from_slice(&buffer.to_ne_bytes());
        cell[12..14].copy_from_slice(&GENERATION.to_ne_bytes());
    }
    bytes
}
