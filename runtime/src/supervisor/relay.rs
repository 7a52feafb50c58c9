//! Datagrams between functions and their peers.
//!
//! A socket for datagrams sends to whoever the sender names, whatever it is connected to, and no filter of system calls sees that name. So a
//! function gets one end of a pair of sockets of this host, and a thread of the supervisor carries datagrams between the other end
//! and a socket that is connected to the peer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};

/// Pairs at a time; a function that dies takes its own with it.
const PAIRS: usize = 4096;
/// Datagrams of one direction that are carried in a row.
const IN_A_ROW: usize = 16;
const DATAGRAM_BYTES: usize = 65_536;

/// A function's peer.
#[derive(Debug)]
struct Pair {
    function: OwnedFd,
    peer: OwnedFd,
}

/// The thread, once there is something to carry.
#[derive(Debug, Default)]
pub(super) struct Relay(Option<Carrier>);

#[derive(Debug)]
struct Carrier {
    pairs: Sender<Pair>,
    wake: EventFd,
}

impl Relay {
    /// An end for a function of datagrams to and from `peer`.
    pub(super) fn carry(&mut self, peer: OwnedFd) -> io::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (function, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
        let carrier = match &mut self.0 {
            Some(carrier) => carrier,
            empty => empty.insert(Carrier::start()?),
        };
        carrier.pairs.send(Pair { function, peer }).map_err(|_| io::Error::other("the relay has ended"))?;
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
            Err(_) => return,
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any().unwrap_or(false)).collect();
        let mut ready = ready.into_iter().skip(1);
        // Both ends of a pair are closed where one is, or the peer refuses.
        pairs.retain(|pair| {
            let (asks, answers) = (ready.next() == Some(true), ready.next() == Some(true));
            (!asks || pass(&pair.function, &pair.peer, &mut room))
                && (!answers || pass(&pair.peer, &pair.function, &mut room))
        });
        let _ = nix::unistd::read(woken, &mut [0; 8]);
        let ended = loop {
            match new.try_recv() {
                Ok(pair) if pairs.len() < PAIRS => pairs.push(pair),
                Ok(_) => {}
                Err(e) => break e == TryRecvError::Disconnected,
            }
        };
        if ended && pairs.is_empty() {
            return;
        }
    }
}

/// Carries what waits; `false` if there will be no more.
fn pass(from: &OwnedFd, to: &OwnedFd, room: &mut [u8]) -> bool {
    for _ in 0..IN_A_ROW {
        match recv(from.as_raw_fd(), room, MsgFlags::MSG_DONTWAIT) {
            Ok(0) => return false,
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
    use std::net::UdpSocket;
    use std::time::Duration;

    fn end_of(relay: &mut Relay, address: std::net::SocketAddr) -> UdpSocket {
        let peer = PeerAddress { kind: PeerKind::Udp, address }.connect().unwrap();
        let end = UdpSocket::from(relay.carry(peer).unwrap());
        end.set_nonblocking(false).unwrap();
        end.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        end
    }

    #[test]
    fn datagrams_go_both_ways_and_to_nobody_else() {
        let server = UdpSocket::bind("127.0.0.1:0").unwrap();
        server.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
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
            // Whomever it names, there is one peer.
            end.send_to(&[1], "127.0.0.1:9").unwrap();
            assert_eq!(server.recv(&mut bytes).unwrap(), 1);
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
