//! Datagrams between functions and their peers.
//!
//! A socket for datagrams sends to whoever the sender names, whatever it is connected to, and no filter of system calls sees that name. So a
//! function gets one end of a pair of sockets of this host, and a thread of the supervisor carries datagrams between the other end
//! and a socket that is connected to the peer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

/// Pairs at a time; a function that dies takes its own with it. Each has three descriptors here while it is made, and two after that.
const PAIRS: usize = 4096;
/// Datagrams of one direction that are carried in a row.
const IN_A_ROW: usize = 16;
const DATAGRAM_BYTES: usize = 65_536;
/// Before the kernel is asked again, where it had no memory to wait with.
const PAUSE: Duration = Duration::from_millis(100);

/// A function's peer.
#[derive(Debug)]
struct Pair {
    function: OwnedFd,
    peer: OwnedFd,
    _held: [Held; 2],
}

/// Counts pairs: each has a copy as long as it is there.
#[derive(Debug, Clone, Default)]
pub(super) struct Held(Arc<()>);

impl Held {
    fn pairs(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// The thread, once there is something to carry.
#[derive(Debug, Default)]
pub(super) struct Relay {
    carrier: Option<Carrier>,
    all: Held,
}

#[derive(Debug)]
struct Carrier {
    pairs: Sender<Pair>,
    wake: EventFd,
}

impl Relay {
    /// An end for a function of datagrams to and from `peer`, unless it holds `most` of them already.
    pub(super) fn carry(&mut self, peer: OwnedFd, held: &Held, most: usize) -> io::Result<OwnedFd> {
        if held.pairs() >= most {
            return Err(io::Error::other(
                "the function holds too many sockets for datagrams: close those that it is done with",
            ));
        }
        if self.all.pairs() >= PAIRS {
            return Err(io::Error::other("all functions together hold too many sockets for datagrams"));
        }
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (function, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let carrier = match &mut self.carrier {
            Some(carrier) => carrier,
            empty => empty.insert(Carrier::start()?),
        };
        let pair = Pair { function, peer, _held: [held.clone(), self.all.clone()] };
        if carrier.pairs.send(pair).is_err() {
            // The next one begins anew.
            self.carrier = None;
            return Err(io::Error::other("the thread that carries datagrams has ended"));
        }
        carrier.wake.write(1)?;
        Ok(theirs)
    }
}

impl Carrier {
    fn start() -> io::Result<Self> {
        let wake = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        let woken = wake.as_fd().try_clone_to_owned()?;
        let (pairs, receiver) = channel();
        std::thread::Builder::new().name("relay".into()).spawn(move || carry_on(&woken, &receiver))?;
        Ok(Self { pairs, wake })
    }
}

/// Carries until nobody asks for more and all are done.
fn carry_on(woken: &OwnedFd, new: &Receiver<Pair>) {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut room = vec![0; DATAGRAM_BYTES];
    loop {
        let mut fds = vec![PollFd::new(woken.as_fd(), PollFlags::POLLIN)];
        fds.extend(
            pairs
                .iter()
                .flat_map(|pair| [&pair.function, &pair.peer])
                .map(|fd| PollFd::new(fd.as_fd(), PollFlags::POLLIN)),
        );
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            // Nothing is known to be ready then, and no pair is given up.
            Err(_) => std::thread::sleep(PAUSE),
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter().skip(1);
        // Both ends of a pair are closed where one is, or the peer refuses.
        pairs.retain(|pair| {
            let (asks, answers) = (ready.next() == Some(true), ready.next() == Some(true));
            (!asks || pass(&pair.function, &pair.peer, &mut room, ended))
                && (!answers || pass(&pair.peer, &pair.function, &mut room, |_| false))
        });
        let _ = nix::unistd::read(woken, &mut [0; 8]);
        let is_over = loop {
            match new.try_recv() {
                Ok(pair) => pairs.push(pair),
                Err(e) => break e == TryRecvError::Disconnected,
            }
        };
        if is_over && pairs.is_empty() {
            return;
        }
    }
}

/// Whether the other end of a pair is closed, if only for writing, where an empty message may be the end or one without content.
fn ended(end: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(end.as_fd(), PollFlags::from_bits_retain(nix::libc::POLLRDHUP))];
    // What is reported here under no name that `PollFlags` has is the same.
    poll(&mut fds, PollTimeout::ZERO).is_ok() && fds[0].any() != Some(false)
}

/// Carries what waits; `false` if there will be no more. Empty datagrams are left out: the function would take one for the end.
fn pass(from: &OwnedFd, to: &OwnedFd, room: &mut [u8], ended: impl Fn(&OwnedFd) -> bool) -> bool {
    for _ in 0..IN_A_ROW {
        match recv(from.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
            Ok(0) if ended(from) => return false,
            Ok(0) => {}
            Ok(length) => {
                // One that finds no room is lost, as datagrams are.
                let _ = send(to.as_raw_fd(), &room[..length], MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL);
            }
            Err(Errno::EAGAIN | Errno::EINTR) => return true,
            Err(_) => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_sdk::peer::{PeerAddress, PeerKind};
    use nix::sys::socket::{Shutdown, shutdown};
    use std::net::UdpSocket;
    use std::time::Duration;

    fn end_of(relay: &mut Relay, address: std::net::SocketAddr) -> UdpSocket {
        let peer = PeerAddress { kind: PeerKind::Udp, address }.connect().unwrap();
        let end = UdpSocket::from(relay.carry(peer, &Held::default(), 1).unwrap());
        end.set_nonblocking(false).unwrap();
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        end
    }

    #[test]
    fn datagrams_go_both_ways_and_to_nobody_else() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let other = UdpSocket::bind("127.0.0.1:0").unwrap();
        other.set_nonblocking(true).unwrap();
        let mut relay = Relay::default();
        let ends = [(); 2].map(|()| end_of(&mut relay, server.local_addr().unwrap()));
        let mut bytes = [0; 16];
        for (n, end) in (0_u8..).zip(&ends) {
            end.send(&[n, 7]).unwrap();
            let (length, from) = server.recv_from(&mut bytes).unwrap();
            assert_eq!(bytes[..length], [n, 7]);
            server.send_to(&[9, n], from).unwrap();
            assert_eq!(end.recv(&mut bytes).unwrap(), 2);
            assert_eq!(bytes[..2], [9, n]);
            // The kernel does not look at the name of another receiver: the peer gets it.
            let _ = end.send_to(&[n, 1], other.local_addr().unwrap());
            end.send(&[n, 2]).unwrap();
            while server.recv(&mut bytes).unwrap() != 2 || bytes[..2] != [n, 2] {}
            assert_eq!(other.recv(&mut bytes).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        }
    }

    #[test]
    fn empty_datagrams_end_nothing() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let end = end_of(&mut Relay::default(), server.local_addr().unwrap());
        let mut bytes = [0; 16];
        end.send(&[]).unwrap();
        end.send(&[1]).unwrap();
        let (length, from) = server.recv_from(&mut bytes).unwrap();
        assert_eq!(bytes[..length], [1]);
        server.send_to(&[], from).unwrap();
        server.send_to(&[2], from).unwrap();
        assert_eq!((end.recv(&mut bytes).unwrap(), bytes[0]), (1, 2));
    }

    /// Otherwise an end that is shut to one side would have something to tell for ever, and nothing to read.
    #[test]
    fn who_shuts_a_socket_for_writing_has_closed_it() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let end = end_of(&mut Relay::default(), server.local_addr().unwrap());
        shutdown(end.as_raw_fd(), Shutdown::Write).unwrap();
        assert_eq!(end.recv(&mut [0; 16]).unwrap(), 0);
    }

    #[test]
    fn who_closes_a_socket_may_have_another() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        let (mut relay, held) = (Relay::default(), Held::default());
        let peer = || PeerAddress { kind: PeerKind::Udp, address: server.local_addr().unwrap() }.connect().unwrap();
        let end = relay.carry(peer(), &held, 1).unwrap();
        assert!(relay.carry(peer(), &held, 1).unwrap_err().to_string().contains("too many"));
        relay.carry(peer(), &Held::default(), 1).unwrap();
        drop(end);
        let start = std::time::Instant::now();
        while relay.carry(peer(), &held, 1).is_err() {
            assert!(start.elapsed() < Duration::from_secs(10));
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_peer_that_refuses_closes_the_pair() {
        let address = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let end = end_of(&mut Relay::default(), address);
        end.send(&[1]).unwrap();
        assert_eq!(end.recv(&mut [0; 16]).unwrap(), 0);
    }
}
