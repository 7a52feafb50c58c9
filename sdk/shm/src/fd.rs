//! Passing file descriptors, the capabilities of a domain, over a Unix socket.

use std::io::{self, IoSlice};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, sendmsg, socketpair};

/// Most file descriptors in one message.
pub const MAX_FDS: usize = 16;

/// A connected pair of Unix sockets that keep message boundaries, closed on exec.
///
/// # Errors
/// What the kernel says, in practice that file descriptors are used up.
pub fn socket_pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)?)
}

/// Sends one message with up to [`MAX_FDS`] file descriptors; the receiver gets all of it or none.
///
/// # Errors
/// `InvalidInput` for an empty message (the receiver could not tell it from the end) or too many descriptors;
/// otherwise what the kernel says: `WouldBlock` on a non-blocking socket, `BrokenPipe` when the peer is gone.
pub fn send(sock: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if bytes.is_empty() || fds.len() > MAX_FDS {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let control = if raw.is_empty() { &[] } else { &rights[..] };
    loop {
        match sendmsg::<()>(sock.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None) {
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}

/// Room for the control messages that [`receive`] accepts, aligned as their headers need it.
#[repr(C, align(8))]
struct ControlRoom([u8; 256]);

/// Receives one message of up to `max_bytes` and its file descriptors (closed on exec). No bytes: the peer has closed.
///
/// # Errors
/// `InvalidData` when the message or its descriptors did not fit; the descriptors that did arrive are closed.
/// Otherwise what the kernel says, among it `WouldBlock` on a non-blocking socket.
pub fn receive(sock: BorrowedFd<'_>, max_bytes: usize) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut bytes = vec![0u8; max_bytes];
    let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
    let mut room = ControlRoom([0; 256]);
    // SAFETY: msghdr is plain C data for which all zeroes is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &mut part;
    header.msg_iovlen = 1;
    header.msg_control = room.0.as_mut_ptr().cast();
    // SAFETY: CMSG_SPACE only computes.
    let control_bytes = unsafe { libc::CMSG_SPACE((MAX_FDS * size_of::<RawFd>()) as u32) } as usize;
    header.msg_controllen = control_bytes.min(room.0.len());

    let received = loop {
        // SAFETY: header points to `part`, `bytes` and `room`, all alive and as large as it says.
        let n = unsafe { libc::recvmsg(sock.as_raw_fd(), &mut header, libc::MSG_CMSG_CLOEXEC) };
        match Errno::result(n) {
            Ok(n) => break n as usize,
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
    };
    let fds = received_fds(&header);
    if header.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    bytes.truncate(received);
    Ok((bytes, fds))
}

/// Takes ownership of every descriptor in a received header, so that none leaks whatever comes next.
fn received_fds(header: &libc::msghdr) -> Vec<OwnedFd> {
    let mut fds = Vec::new();
    // SAFETY: the kernel filled the header's control area; CMSG_FIRSTHDR and CMSG_NXTHDR stay inside it.
    let mut control = unsafe { libc::CMSG_FIRSTHDR(header) };
    while !control.is_null() {
        // SAFETY: not null, so it points to a whole cmsghdr in the control area.
        let head = unsafe { &*control };
        if head.cmsg_level == libc::SOL_SOCKET && head.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: CMSG_LEN only computes.
            let data_bytes = head.cmsg_len - unsafe { libc::CMSG_LEN(0) } as usize;
            // SAFETY: the data of this message follows its header and holds `data_bytes` bytes.
            let data = unsafe { libc::CMSG_DATA(control) }.cast::<RawFd>();
            for i in 0..data_bytes / size_of::<RawFd>() {
                // SAFETY: within the data; the kernel installed the descriptor for us, and nobody else owns it.
                fds.push(unsafe { OwnedFd::from_raw_fd(data.add(i).read_unaligned()) });
            }
        }
        // SAFETY: as for CMSG_FIRSTHDR.
        control = unsafe { libc::CMSG_NXTHDR(header, control) };
    }
    fds
}
