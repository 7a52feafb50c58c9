//! Hosts that a function asks for something: servers whose load it wants to know, a resolver.
//!
//! A function process may make no sockets (`runtime/src/confine.rs`). It declares its peers when it starts
//! ([`Init::peer`](crate::Init::peer)); the runtime notes them when it checks the manifest, and makes a socket to one of them, and
//! to nobody else, when the function [dials](Peer::dial). A function that runs inline dials by itself, to the same peers.
//!
//! ```
//! use middlenet_sdk::prelude::*;
//! use middlenet_sdk::peer::{Connected, Peer, PeerKind};
//!
//! middlenet_sdk::config! { struct Config { agent: std::net::SocketAddr } }
//!
//! struct Asks { agent: Peer, socket: Option<std::net::UdpSocket> }
//!
//! impl NetworkFunction for Asks {
//!     type Config = Config;
//!     fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
//!         Ok(Self { agent: init.peer(PeerKind::Udp, config.agent)?, socket: None })
//!     }
//!     fn process(&mut self, _: &mut Burst<'_>) {}
//!     fn tick(&mut self, _: &mut Burst<'_>) {
//!         match (&self.socket, self.agent.take()) {
//!             (_, Some(Ok(Connected::Udp(socket)))) => self.socket = Some(socket),
//!             (None, _) => self.agent.dial(),
//!             (Some(socket), _) => drop(socket.send(b"how are you?")),
//!         }
//!     }
//! }
//! # fn main() {}
//! ```

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Peers of a function at most.
pub const PEERS: usize = 1024;

/// How a peer is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// By datagrams.
    Udp,
    /// By a connection.
    Tcp,
}

/// Where a peer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PeerAddress {
    /// How it is spoken to.
    pub kind: PeerKind,
    /// Its address and port.
    pub address: SocketAddr,
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            PeerKind::Udp => "udp",
            PeerKind::Tcp => "tcp",
        };
        write!(f, "{} ({kind})", self.address)
    }
}

impl PeerAddress {
    /// For hosts: a socket to the peer that does not block and sends to nobody else. That of a connection may not be established yet.
    ///
    /// # Errors
    /// What the system says: no route, no descriptor left, or at once that the peer refuses.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        let family = if self.address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        let kind = match self.kind {
            PeerKind::Udp => SockType::Datagram,
            PeerKind::Tcp => SockType::Stream,
        };
        let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
        match connect(fd.as_raw_fd(), &SockaddrStorage::from(self.address)) {
            Ok(()) | Err(Errno::EINPROGRESS) => Ok(fd),
            Err(e) => Err(e.into()),
        }
    }
}

/// Why there is no socket to a peer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(tag = "by", content = "why", rename_all = "snake_case")]
pub enum DialError {
    /// The runtime or this host made none: the peer was dialled too often, the function holds too many, the configuration names no such peer,
    /// no descriptor is left. It says nothing about the peer. Later it may be different.
    #[error("no socket is made: {0}")]
    Refused(String),
    /// The peer is not to be had: there is no way to it, or it refused at once.
    #[error("the peer cannot be reached: {0}")]
    Unreachable(String),
}

/// What the system says of a socket that it was asked for.
impl From<io::Error> for DialError {
    fn from(error: io::Error) -> Self {
        let is_of_the_peer = matches!(
            error.raw_os_error().map(Errno::from_raw),
            Some(
                Errno::ECONNREFUSED
                    | Errno::ECONNRESET
                    | Errno::EHOSTDOWN
                    | Errno::EHOSTUNREACH
                    | Errno::ENETDOWN
                    | Errno::ENETUNREACH
                    | Errno::ETIMEDOUT
            )
        );
        match is_of_the_peer {
            true => Self::Unreachable(error.to_string()),
            false => Self::Refused(error.to_string()),
        }
    }
}

/// A socket to a peer. It does not block.
#[derive(Debug)]
pub enum Connected {
    /// It sends to the peer and receives from it. In a process, the supervisor carries the datagrams, so that they go to nobody else; when
    /// the peer refuses, or the socket is shut for writing, `recv` answers with nothing at all from then on.
    Udp(UdpSocket),
    /// It may not be established yet: reading and writing say so, or why it never will be.
    Tcp(TcpStream),
}

/// A peer of a function, from [`Init::peer`](crate::Init::peer).
#[derive(Clone, Debug)]
pub struct Peer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    address: PeerAddress,
    /// The function dials by itself.
    is_direct: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Idle,
    /// The function waits for a socket, and nobody has been asked for it.
    Wanted,
    /// The runtime has been asked.
    Asked,
    Done(Result<OwnedFd, DialError>),
}

impl Peer {
    pub(crate) fn new(address: PeerAddress, is_direct: bool) -> Self {
        Self(Arc::new(Shared { address, is_direct: AtomicBool::new(is_direct), state: Mutex::new(State::Idle) }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves no state half-written.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is.
    pub fn address(&self) -> &PeerAddress {
        &self.0.address
    }

    /// Asks for a socket, if none is asked for or there to be taken. From `tick`: a process is answered by its next tick or a later
    /// one.
    pub fn dial(&self) {
        let mut state = self.state();
        if matches!(*state, State::Idle) {
            *state = match self.0.is_direct.load(Ordering::Relaxed) {
                true => State::Done(self.0.address.connect().map_err(DialError::from)),
                false => State::Wanted,
            };
        }
    }

    /// The socket that was asked for, once it is there, or why there is none. A connection that the peer refuses later is none of
    /// this: reading and writing say so.
    pub fn take(&self) -> Option<Result<Connected, DialError>> {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Idle) {
            State::Done(result) => Some(result.map(|fd| match self.0.address.kind {
                PeerKind::Udp => Connected::Udp(fd.into()),
                PeerKind::Tcp => Connected::Tcp(fd.into()),
            })),
            other => {
                *state = other;
                None
            }
        }
    }

    /// For hosts: whether the runtime is to be asked.
    pub(crate) fn is_wanted(&self) -> bool {
        matches!(*self.state(), State::Wanted)
    }

    /// For hosts: it has been asked.
    pub(crate) fn asked(&self) {
        *self.state() = State::Asked;
    }

    /// For tests: the runtime is asked from now on, whoever dialled before.
    #[cfg(feature = "testkit")]
    pub(crate) fn ask_the_runtime(&self) {
        self.0.is_direct.store(false, Ordering::Relaxed);
    }

    /// For hosts: the answer.
    pub(crate) fn answer(&self, result: Result<OwnedFd, DialError>) {
        let mut state = self.state();
        if matches!(*state, State::Wanted | State::Asked) {
            *state = State::Done(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Init;
    use std::io::{Read, Write};
    use std::net::TcpListener;

    fn received(socket: &UdpSocket) -> Vec<u8> {
        let mut bytes = [0; 64];
        let length = socket.recv(&mut bytes).unwrap();
        bytes[..length].to_vec()
    }

    #[test]
    fn a_function_that_dials_itself_gets_a_socket_at_once() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let mut init = Init::default().with_direct_peers();
        let peer = init.peer(PeerKind::Udp, server.local_addr().unwrap()).unwrap();
        assert!(peer.take().is_none());
        peer.dial();
        let Some(Ok(Connected::Udp(socket))) = peer.take() else { panic!("no socket") };
        socket.send(b"hello").unwrap();
        assert_eq!(received(&server), b"hello");
        assert_eq!(socket.recv(&mut [0; 1]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert!(peer.take().is_none());
    }

    #[test]
    fn a_connection_comes_up_while_nobody_waits() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = PeerAddress { kind: PeerKind::Tcp, address: server.local_addr().unwrap() };
        let peer = Peer::new(address, true);
        peer.dial();
        let Some(Ok(Connected::Tcp(mut stream))) = peer.take() else { panic!("no socket") };
        let (mut accepted, _) = server.accept().unwrap();
        stream.write_all(b"x").unwrap();
        accepted.read_exact(&mut [0; 1]).unwrap();
    }

    #[test]
    fn a_process_asks_once_and_is_answered_once() {
        let mut init = Init::default();
        let peer = init.peer(PeerKind::Tcp, "192.0.2.1:80".parse().unwrap()).unwrap();
        let refused = DialError::Refused("dialled too often".into());
        peer.answer(Err(refused.clone()));
        assert!(peer.take().is_none() && !peer.is_wanted());
        peer.dial();
        assert!(peer.is_wanted());
        peer.asked();
        peer.dial();
        assert!(!peer.is_wanted());
        peer.answer(Err(refused.clone()));
        assert_eq!(peer.take().unwrap().unwrap_err(), refused);
        assert!(peer.take().is_none());
    }

    #[test]
    fn what_this_host_cannot_do_is_no_failure_of_the_peer() {
        let error = |errno: Errno| DialError::from(io::Error::from(errno));
        for errno in [Errno::ECONNREFUSED, Errno::EHOSTUNREACH, Errno::ENETUNREACH] {
            assert!(matches!(error(errno), DialError::Unreachable(_)), "{errno}");
        }
        for errno in [Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM, Errno::EADDRNOTAVAIL, Errno::EPERM] {
            assert!(matches!(error(errno), DialError::Refused(_)), "{errno}");
        }
    }

    #[test]
    fn the_same_address_is_the_same_peer() {
        let mut init = Init::default();
        for _ in 0..2 {
            init.peer(PeerKind::Udp, "192.0.2.1:161".parse().unwrap()).unwrap();
        }
        init.peer(PeerKind::Tcp, "192.0.2.1:161".parse().unwrap()).unwrap();
        assert_eq!(init.peer_addresses().len(), 2);
        assert!(init.peer(PeerKind::Tcp, "0.0.0.0:80".parse().unwrap()).is_err());
        assert!(init.peer(PeerKind::Tcp, "192.0.2.1:0".parse().unwrap()).is_err());
    }
}
