//! JSON messages with file descriptors over a local socket.

use middlenet_shm as shm;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// What goes through the socket itself; a longer message (a routing table) travels in a memfd beside it, because a packet
/// socket refuses what does not fit its send buffer.
const INLINE_BYTES: usize = 32 << 10;
const INLINE: u8 = b'i';
const OUT_OF_LINE: u8 = b'm';

/// Why a message did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The other side is gone.
    #[error("the other side closed the control socket")]
    Closed,
    /// The system refused.
    #[error("the control socket failed: {0}")]
    Io(#[from] std::io::Error),
    /// It was no message of ours.
    #[error("a control message could not be read: {0}")]
    Form(#[from] serde_json::Error),
    /// It was longer than either side may send.
    #[error("a control message of {0} bytes is over the limit of {limit}", limit = super::protocol::MESSAGE_BYTES)]
    TooLong(u64),
    /// No answer in time.
    #[error("no answer on the control socket within {0:?}")]
    TimedOut(Duration),
}

/// One end of a control socket. Each message is one JSON value; a peer that sends anything else gets an error, not trust.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// Both ends of a new socket.
    pub fn pair() -> std::io::Result<(Self, Self)> {
        let (a, b) = shm::socket_pair()?;
        Ok((Self(a), Self(b)))
    }

    /// An end that was passed to this process.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// The socket, to be passed on or polled.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Gives the socket away.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends one message with descriptors.
    pub fn send<M: Serialize>(&self, message: &M, fds: &[BorrowedFd<'_>]) -> Result<(), ChannelError> {
        let mut bytes = vec![INLINE];
        serde_json::to_writer(&mut bytes, message)?;
        let length = bytes.len() as u64;
        if bytes.len() > super::protocol::MESSAGE_BYTES {
            return Err(ChannelError::TooLong(length));
        }
        if bytes.len() <= INLINE_BYTES {
            return Ok(shm::send(self.fd(), &bytes, fds)?);
        }
        let flags = nix::sys::memfd::MFdFlags::MFD_CLOEXEC;
        let mut file =
            File::from(nix::sys::memfd::memfd_create(c"middlenet-message", flags).map_err(std::io::Error::from)?);
        file.write_all(&bytes[1..])?;
        let mut all = vec![file.as_fd()];
        all.extend_from_slice(fds);
        Ok(shm::send(self.fd(), &[OUT_OF_LINE], &all)?)
    }

    /// Waits for one message.
    pub fn receive<M: DeserializeOwned>(&self) -> Result<(M, Vec<OwnedFd>), ChannelError> {
        let (bytes, mut fds) = shm::receive(self.fd(), INLINE_BYTES)?;
        match bytes.split_first() {
            None => Err(ChannelError::Closed),
            Some((&OUT_OF_LINE, _)) if !fds.is_empty() => {
                let mut file = File::from(fds.remove(0));
                let length = file.metadata()?.len();
                if length > super::protocol::MESSAGE_BYTES as u64 {
                    return Err(ChannelError::TooLong(length));
                }
                file.seek(SeekFrom::Start(0))?;
                let mut body = Vec::new();
                file.take(super::protocol::MESSAGE_BYTES as u64).read_to_end(&mut body)?;
                Ok((serde_json::from_slice(&body)?, fds))
            }
            Some((_, body)) => Ok((serde_json::from_slice(body)?, fds)),
        }
    }

    /// Whether a message waits (or the other side is gone); waits at most `timeout` for that.
    pub fn readable(&self, timeout: Duration) -> std::io::Result<bool> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let timeout = PollTimeout::try_from(timeout).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLIN)];
        match poll(&mut fds, timeout) {
            Ok(n) => Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// Whether a message can be sent without waiting for the other side to read earlier ones.
    pub fn writable(&self) -> std::io::Result<bool> {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let mut fds = [PollFd::new(self.fd(), PollFlags::POLLOUT)];
        match poll(&mut fds, PollTimeout::ZERO) {
            Ok(n) => Ok(n > 0),
            Err(nix::errno::Errno::EINTR) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// [`Channel::receive`], but at most `timeout`.
    pub fn receive_within<M: DeserializeOwned>(&self, timeout: Duration) -> Result<(M, Vec<OwnedFd>), ChannelError> {
        let deadline = std::time::Instant::now() + timeout;
        loop {
            let left = deadline.saturating_duration_since(std::time::Instant::now());
            if self.readable(left)? {
                return self.receive();
            }
            if left.is_zero() {
                return Err(ChannelError::TimedOut(timeout));
            }
        }
    }
}
