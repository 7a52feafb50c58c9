//! What is on its way out of a socket and does not fit it yet.

use std::io::IoSlice;
use std::os::fd::AsFd;

use rustix::io::Errno;

/// Memory kept by an outbox that is empty.
const KEPT_BYTES: usize = 32 << 10;

/// Bytes that wait for a socket to become writable. Whoever fills it stops reading where the bytes come from until it is
/// empty, so it holds one read's worth.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
}

/// How far a socket took what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sent {
    /// Everything.
    All,
    /// The rest waits.
    Waits,
    /// The connection is broken.
    Broken,
}

impl Outbox {
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Forgets what waits.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.sent = 0;
    }

    /// Sends pieces, after what waits already; keeps what the socket does not take.
    pub(crate) fn send(&mut self, socket: impl AsFd, pieces: &[&[u8]]) -> Sent {
        if !self.is_empty() {
            pieces.iter().for_each(|p| self.bytes.extend_from_slice(p));
            return self.flush(socket);
        }
        let total: usize = pieces.iter().map(|p| p.len()).sum();
        if total == 0 {
            return Sent::All;
        }
        let mut taken = match write(socket, pieces) {
            Ok(n) => n,
            Err(Errno::AGAIN) => 0,
            Err(_) => return Sent::Broken,
        };
        if taken == total {
            return Sent::All;
        }
        for piece in pieces {
            let skip = taken.min(piece.len());
            self.bytes.extend_from_slice(&piece[skip..]);
            taken -= skip;
        }
        Sent::Waits
    }

    /// Sends what waits.
    pub(crate) fn flush(&mut self, socket: impl AsFd) -> Sent {
        let socket = socket.as_fd();
        while self.sent < self.bytes.len() {
            match write(socket, &[&self.bytes[self.sent..]]) {
                Ok(n) => self.sent += n,
                Err(Errno::AGAIN) => return Sent::Waits,
                Err(_) => return Sent::Broken,
            }
        }
        self.clear();
        if self.bytes.capacity() > KEPT_BYTES {
            self.bytes = Vec::new();
        }
        Sent::All
    }
}

fn write(socket: impl AsFd, pieces: &[&[u8]]) -> Result<usize, Errno> {
    let socket = socket.as_fd();
    loop {
        let result = match pieces {
            [one] => rustix::net::send(socket, one, rustix::net::SendFlags::NOSIGNAL),
            [a, b] => rustix::io::writev(socket, &[IoSlice::new(a), IoSlice::new(b)]),
            [a, b, c] => rustix::io::writev(socket, &[IoSlice::new(a), IoSlice::new(b), IoSlice::new(c)]),
            many => rustix::io::writev(socket, &many.iter().map(|p| IoSlice::new(p)).collect::<Vec<_>>()),
        };
        match result {
            Err(Errno::INTR) => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn what_does_not_fit_waits_and_arrives_in_order() {
        let (a, mut b) = UnixStream::pair().unwrap();
        a.set_nonblocking(true).unwrap();
        let (head, body) = (vec![1u8; 1000], vec![2u8; 1 << 20]);
        let mut outbox = Outbox::default();
        assert_eq!(outbox.send(&a, &[&head, &body]), Sent::Waits);
        let mut received = vec![0; head.len() + body.len()];
        let mut at = 0;
        while at < received.len() {
            at += b.read(&mut received[at..]).unwrap();
            outbox.flush(&a);
        }
        assert!(outbox.is_empty());
        assert_eq!(received, [head, body].concat());
    }

    #[test]
    fn a_closed_peer_is_told() {
        let (a, b) = UnixStream::pair().unwrap();
        drop(b);
        assert_eq!(Outbox::default().send(&a, &[b"x"]), Sent::Broken);
        assert_eq!(Outbox::default().send(&a, &[b"x", b"y"]), Sent::Broken);
    }
}
