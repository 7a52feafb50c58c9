//! Sockets: listening, connecting, reading.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{self, AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt};

/// Connections that wait to be accepted, at most (the kernel lowers it to `net.core.somaxconn`).
const BACKLOG: i32 = 4096;

/// What a read brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    /// So many bytes, and whether there may be more.
    Bytes(usize, bool),
    /// The peer will send no more.
    End,
    /// Nothing for now.
    Nothing,
    /// The connection is broken.
    Broken,
}

/// Reads what there is.
#[inline]
pub(crate) fn read(socket: impl AsFd, room: &mut [u8]) -> Read {
    let socket = socket.as_fd();
    let capacity = room.len();
    loop {
        return match net::recv(socket, &mut *room, RecvFlags::empty()) {
            Ok((0, _)) => Read::End,
            // A short read has emptied the socket: what comes later brings a new event.
            Ok((n, _)) => Read::Bytes(n, n == capacity),
            Err(Errno::AGAIN) => Read::Nothing,
            Err(Errno::INTR) => continue,
            Err(_) => Read::Broken,
        };
    }
}

/// Whether nothing has come, neither bytes nor the end.
///
/// For a connection that waited: what came since the last wait has brought no event yet. Bytes that nobody asked for would be
/// taken for the next response.
pub(crate) fn is_silent(socket: impl AsFd) -> bool {
    let mut byte = [0];
    matches!(net::recv(socket, &mut byte[..], RecvFlags::PEEK), Err(Errno::AGAIN))
}

fn stream(address: SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    Ok(net::socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?)
}

/// A socket bound for listening; with `shared`, others of this process may be bound beside it.
fn bound(address: SocketAddr, shared: bool) -> io::Result<OwnedFd> {
    let socket = stream(address)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // Connections inherit it from their listener.
    sockopt::set_tcp_nodelay(&socket, true)?;
    if shared {
        sockopt::set_socket_reuseport(&socket, true)?;
    }
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    net::bind(&socket, &address)?;
    Ok(socket)
}

/// Listening sockets for `workers` workers at one address, and the address with its port resolved.
///
/// # Errors
/// What the kernel says. An address that another program listens on is refused even if that program would share it.
pub(crate) fn listen(address: SocketAddr, workers: usize) -> io::Result<(Vec<OwnedFd>, SocketAddr)> {
    let first = bound(address, false)?;
    net::listen(&first, BACKLOG)?;
    let resolved = local_address(&first)?;
    if workers == 1 {
        return Ok((vec![first], resolved));
    }
    // The plain one showed that the address is free; sharing needs sockets that all agree to it.
    drop(first);
    let sockets = (0..workers)
        .map(|_| {
            let socket = bound(resolved, true)?;
            net::listen(&socket, BACKLOG)?;
            Ok(socket)
        })
        .collect::<io::Result<Vec<_>>>()?;
    Ok((sockets, resolved))
}

/// The address a socket is bound to.
pub(crate) fn local_address(socket: impl AsFd) -> io::Result<SocketAddr> {
    Ok(net::getsockname(socket)?.try_into()?)
}

/// Takes one connection from a listener; nothing if none waits.
pub(crate) fn accept(listener: impl AsFd) -> io::Result<Option<(OwnedFd, SocketAddr)>> {
    match net::acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok((socket, Some(peer))) => Ok(Some((socket, peer.try_into()?))),
        Ok((_, None)) | Err(Errno::AGAIN | Errno::CONNABORTED | Errno::INTR) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Begins a connection: the socket, and whether it stands already.
pub(crate) fn connect(address: SocketAddr) -> io::Result<(OwnedFd, bool)> {
    let socket = stream(address)?;
    sockopt::set_tcp_nodelay(&socket, true)?;
    match net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(e) => Err(e.into()),
    }
}

/// Whether a connection could not be begun for want of something of our own, which says nothing of the other side.
pub(crate) fn is_ours(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::ADDRNOTAVAIL))
}

/// Whether a connection that was begun stands.
pub(crate) fn connected(socket: impl AsFd) -> bool {
    matches!(sockopt::socket_error(socket), Ok(Ok(())))
}
