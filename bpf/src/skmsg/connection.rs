//! The TCP connections that parties get.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// How many strangers may connect first before we give up.
const STRANGERS: usize = 64;

/// Two ends of a TCP connection over the loopback interface of this network namespace, without Nagle's delay.
///
/// A sockmap takes TCP sockets, so socketpair(2) does not do. Any process of the host can connect to the listener that
/// this takes for a moment, so the accepted end is compared with the connecting one.
///
/// # Errors
///
/// What the kernel answered; `ConnectionRefused` when somebody kept on connecting in between.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let ours = TcpStream::connect(listener.local_addr()?)?;
    let expected = ours.local_addr()?;
    for _ in 0..STRANGERS {
        let (theirs, from) = listener.accept()?;
        if from == expected {
            ours.set_nodelay(true)?;
            theirs.set_nodelay(true)?;
            return Ok((ours.into(), theirs.into()));
        }
    }
    Err(io::Error::new(io::ErrorKind::ConnectionRefused, "other processes keep connecting to the listener on loopback"))
}

/// `TCP_ESTABLISHED` of the kernel's `tcp_states.h`.
const ESTABLISHED: u8 = 1;

/// Whether this is a TCP connection that stands. A sockmap takes other sockets as well, on which the program never runs.
pub(super) fn check_established(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut state = 0_u8;
    let mut length = size_of::<u8>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, hence open. The kernel writes at most `length` bytes of its `struct tcp_info` to
    // `state`, which has that size and is the first field of that struct.
    let result = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::IPPROTO_TCP, libc::TCP_INFO, (&raw mut state).cast(), &mut length)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if state == ESTABLISHED { Ok(()) } else { Err(io::ErrorKind::NotConnected.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn the_two_ends_are_of_one_connection() {
        let (one, other) = socket_pair().expect("a pair");
        let (mut one, mut other) = (TcpStream::from(one), TcpStream::from(other));
        assert_eq!(one.local_addr().expect("an address"), other.peer_addr().expect("an address"));
        assert!(one.nodelay().expect("an option") && other.nodelay().expect("an option"));
        one.write_all(b"ping").expect("it is open");
        let mut bytes = [0; 4];
        other.read_exact(&mut bytes).expect("it arrives");
        assert_eq!(&bytes, b"ping");
    }
}
