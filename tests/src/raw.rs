//! Frames as a test wants them, right or wrong.

use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, recv, recvfrom, send,
    socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::{Error, Netns};

/// How a packet socket marks what leaves by the device (packet(7)).
const PACKET_OUTGOING: u8 = 4;

/// A packet socket on one device of a namespace.
#[derive(Debug)]
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens it.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] without `CAP_NET_RAW`, or if there is no such device.
    pub fn open(netns: &Netns, device: &str) -> Result<Self, Error> {
        let fail = |errno: nix::Error| Error::Socket {
            what: format!("open a packet socket on {device}"),
            source: errno.into(),
        };
        netns
            .enter(|| {
                let address = link_address(device)?.ok_or(nix::Error::ENODEV)?;
                let fd = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll)?;
                bind(fd.as_raw_fd(), &address)?;
                nix::sys::socket::setsockopt(&fd, ReceiveTimeout, &TimeVal::milliseconds(100))?;
                Ok(Self(fd))
            })?
            .map_err(fail)
    }

    /// Sends a frame of 14 bytes or more as it is. `false` if the kernel refused it.
    pub fn send(&self, frame: &[u8]) -> bool {
        send(self.0.as_raw_fd(), frame, MsgFlags::empty()).is_ok()
    }

    /// The next frame that comes in or goes out, at most 100 ms later.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut room = vec![0; 65536];
        let n = recv(self.0.as_raw_fd(), &mut room, MsgFlags::empty()).ok()?;
        room.truncate(n);
        Some(room)
    }

    /// The next frame that comes in, at most 100 ms later.
    pub fn receive_incoming(&self) -> Option<Vec<u8>> {
        let mut room = vec![0; 65536];
        let (n, from) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut room).ok()?;
        room.truncate(n);
        (from?.pkttype() != PACKET_OUTGOING).then_some(room)
    }
}

/// The device's packet-socket address, as the kernel lists it: it names the device by its index.
fn link_address(device: &str) -> nix::Result<Option<LinkAddr>> {
    let mut found = nix::ifaddrs::getifaddrs()?.filter(|entry| entry.interface_name == device);
    Ok(found.find_map(|entry| {
        let address = entry.address?;
        (address.family() == Some(AddressFamily::Packet)).then(|| address.as_link_addr().copied()).flatten()
    }))
}

/// A frame that is mostly plausible and somewhere wrong: the right beginning for `dst`, then headers of a random kind with
/// random fields, cut at a random length. The same seed gives the same frame.
#[must_use]
pub fn random_frame(seed: u64, dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    };
    let mut frame = Vec::with_capacity(1514);
    match next() % 8 {
        0 => frame.extend([0xff; 6]),
        1 => frame.extend([0x33, 0x33, 0, 0, 0, 1]),
        _ => frame.extend(dst),
    }
    frame.extend(src);
    match next() % 10 {
        0..4 => {
            frame.extend([0x08, 0x00]);
            // Version and header length right most of the time, total length seldom.
            let first =
                if next() % 4 == 0 { next() as u8 } else { 0x45 + (next() % 4 == 0) as u8 * (next() % 11) as u8 };
            frame.extend([first, 0, (next() % 6) as u8, next() as u8, 0, 1, (next() % 0x60) as u8, next() as u8]);
            frame.extend([
                next() as u8 % 65,
                [1, 6, 17, 47, 50, 132, 255][next() as usize % 7],
                next() as u8,
                next() as u8,
            ]);
            frame.extend([10, 1, 0, 2, 10, [1, 2][next() as usize % 2], 0, next() as u8 % 4]);
        }
        4..7 => {
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, (next() % 6) as u8, next() as u8]);
            frame.extend([[0, 6, 17, 43, 44, 50, 51, 58, 59, 60][next() as usize % 10], next() as u8]);
            for last in [2, next() as u8 % 4] {
                frame.extend([0xfd, 1 + next() as u8 % 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
            }
        }
        7 => frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, (next() % 4) as u8]),
        8 => frame.extend([0x81, 0x00, next() as u8, next() as u8, 0x08, 0x00, 0x45]),
        _ => frame.extend([next() as u8, next() as u8]),
    }
    let length = 14 + next() as usize % if next() % 8 == 0 { 1500 } else { 120 };
    while frame.len() < length {
        frame.extend(next().to_le_bytes());
    }
    frame.truncate(length);
    frame
}
