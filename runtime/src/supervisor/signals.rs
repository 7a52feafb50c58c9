//! SIGINT, SIGTERM and SIGHUP as bytes in a socket. Children do not inherit handlers, as they would a mask.

use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::sys::signal::Signal;
use signal_hook::SigId;

#[derive(Debug)]
pub(super) struct Signals {
    stream: UnixStream,
    ids: Vec<SigId>,
}

impl Signals {
    pub(super) fn catch() -> io::Result<Self> {
        let (stream, writer) = UnixStream::pair()?;
        stream.set_nonblocking(true)?;
        let mut ids = Vec::new();
        for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
            ids.push(signal_hook::low_level::pipe::register(signal as i32, writer.try_clone()?)?);
        }
        Ok(Self { stream, ids })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// How many came.
    pub(super) fn take(&mut self) -> usize {
        let mut room = [0; 64];
        self.stream.read(&mut room).unwrap_or(0)
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        for id in self.ids.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
