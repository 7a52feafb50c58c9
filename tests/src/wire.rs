//! One end of a TCP connection whose every byte a test decides, and a reader of HTTP/1.1 messages that hides nothing.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

use crate::{Error, Message};

/// How long anything may take unless a test says otherwise.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often a reader looks whether it is to give up.
const LOOK: Duration = Duration::from_millis(20);

/// How the other side ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It will send nothing more.
    Closed,
    /// It took the connection away.
    Reset,
}

/// A connection.
#[derive(Debug)]
pub struct Wire {
    stream: TcpStream,
    /// What has arrived and has not been read.
    buffer: Vec<u8>,
    ended: Option<Ended>,
    patience: Duration,
    stop: Option<Arc<AtomicBool>>,
    aborts: bool,
}

impl Drop for Wire {
    fn drop(&mut self) {
        // A process that is being started elsewhere in this program has the socket too for a moment: closing it would end the
        // connection only then.
        if !self.aborts {
            let _ = self.stream.shutdown(Shutdown::Both);
        }
    }
}

fn broken(what: impl Into<String>, kind: ErrorKind) -> Error {
    Error::Socket { what: what.into(), source: kind.into() }
}

fn cut(what: &str) -> Error {
    broken(what, ErrorKind::UnexpectedEof)
}

impl Wire {
    /// Takes a connected socket.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if it cannot be set up.
    pub fn new(stream: TcpStream) -> Result<Self, Error> {
        let set_up = stream.set_nodelay(true).and_then(|()| stream.set_read_timeout(Some(LOOK)));
        let set_up = set_up.and_then(|()| stream.set_write_timeout(Some(PATIENCE)));
        set_up.map_err(|source| Error::Socket { what: "set up a socket".into(), source })?;
        Ok(Self { stream, buffer: Vec::new(), ended: None, patience: PATIENCE, stop: None, aborts: false })
    }

    /// Gives up waiting when `stop` is set.
    pub(crate) fn until(mut self, stop: Arc<AtomicBool>) -> Self {
        self.stop = Some(stop);
        self
    }

    /// Sets how long it may take until something arrives.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    /// Sends bytes.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if the other side takes no more.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        self.stream.write_all(bytes.as_ref()).map_err(|source| Error::Socket { what: "send".into(), source })
    }

    /// Sends as much as is taken without waiting, and answers how much that was.
    ///
    /// # Errors
    ///
    /// As [`Wire::send`].
    pub fn send_some(&mut self, bytes: impl AsRef<[u8]>) -> Result<usize, Error> {
        let fail = |source| Error::Socket { what: "send".into(), source };
        let bytes = bytes.as_ref();
        self.stream.set_nonblocking(true).map_err(fail)?;
        let mut sent = 0;
        let result = loop {
            match self.stream.write(&bytes[sent..]) {
                Ok(0) => break Ok(sent),
                Ok(n) => sent += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => break Ok(sent),
                Err(e) => break Err(fail(e)),
            }
        };
        self.stream.set_nonblocking(false).map_err(fail)?;
        result
    }

    /// Sends bytes one by one, each in a packet of its own.
    ///
    /// # Errors
    ///
    /// As [`Wire::send`].
    pub fn send_bytewise(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Error> {
        bytes.as_ref().chunks(1).try_for_each(|byte| self.send(byte))
    }

    /// Says that nothing more will be sent.
    pub fn finish(&mut self) {
        // Fails only if the other side has gone.
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Takes the connection away without a word of goodbye: when it is dropped, the other side gets a reset.
    pub fn abort(&mut self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        // A socket that refuses is closed in the ordinary way, and the test will see that.
        let _ = setsockopt(&self.stream.as_fd(), sockopt::Linger, &linger);
        self.aborts = true;
    }

    /// Waits until more has arrived; `false`: nothing more will.
    fn more(&mut self) -> Result<bool, Error> {
        let end = Instant::now() + self.patience;
        let mut room = [0; 65536];
        while self.ended.is_none() {
            match self.stream.read(&mut room) {
                Ok(0) => self.ended = Some(Ended::Closed),
                Ok(n) => {
                    self.buffer.extend_from_slice(&room[..n]);
                    return Ok(true);
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) => {
                    let stopped = self.stop.as_ref().is_some_and(|stop| stop.load(Ordering::Relaxed));
                    if stopped || Instant::now() >= end {
                        let got: String = String::from_utf8_lossy(&self.buffer).chars().take(200).collect();
                        return Err(Error::TimedOut {
                            what: format!("more bytes after {got:?}"),
                            after: self.patience,
                        });
                    }
                }
                Err(_) => self.ended = Some(Ended::Reset),
            }
        }
        Ok(false)
    }

    /// Whether nothing at all arrives for so long, not even the end; what does is kept.
    ///
    /// For what must not happen there is no condition to wait for.
    pub fn stays_silent(&mut self, time: Duration) -> bool {
        let patience = std::mem::replace(&mut self.patience, time);
        let silent = self.buffer.is_empty() && self.more().is_err();
        self.patience = patience;
        silent
    }

    /// Reads everything up to the end.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`].
    pub fn rest(&mut self) -> Result<(Vec<u8>, Ended), Error> {
        while self.more()? {}
        Ok((std::mem::take(&mut self.buffer), self.ended.unwrap_or(Ended::Closed)))
    }

    /// Wants the end, and nothing before it.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; [`Error::Socket`] if anything arrives.
    pub fn end(&mut self) -> Result<Ended, Error> {
        let (bytes, ended) = self.rest()?;
        if bytes.is_empty() {
            return Ok(ended);
        }
        Err(broken(format!("end with {:?} unread", String::from_utf8_lossy(&bytes)), ErrorKind::InvalidData))
    }

    /// Reads exactly so many bytes.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`]; [`Error::Socket`] if the connection ends before.
    pub fn take(&mut self, length: usize) -> Result<Vec<u8>, Error> {
        while self.buffer.len() < length {
            if !self.more()? {
                return Err(cut(&format!("read {length} bytes, only {}", self.buffer.len())));
            }
        }
        Ok(self.buffer.drain(..length).collect())
    }

    /// Reads a line without its CRLF; nothing if the connection ends before its first byte.
    fn line(&mut self) -> Result<Option<Vec<u8>>, Error> {
        loop {
            if let Some(at) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let mut line: Vec<u8> = self.buffer.drain(..at + 2).collect();
                line.truncate(at);
                return Ok(Some(line));
            }
            if !self.more()? {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                return Err(cut(&format!("read a line, only {:?}", String::from_utf8_lossy(&self.buffer))));
            }
        }
    }

    /// Reads a head; nothing if the connection ends before its first byte.
    ///
    /// # Errors
    ///
    /// As [`Wire::take`].
    pub fn head(&mut self) -> Result<Option<Message>, Error> {
        let Some(start) = self.line()? else { return Ok(None) };
        Ok(Some(Message { start: text(&start), headers: self.fields()?, ..Message::default() }))
    }

    fn fields(&mut self) -> Result<Vec<(String, String)>, Error> {
        let mut fields = Vec::new();
        loop {
            let line = self.line()?.ok_or_else(|| cut("read a whole head"))?;
            if line.is_empty() {
                return Ok(fields);
            }
            let line = text(&line);
            let field = line.split_once(':').ok_or_else(|| broken(format!("read {line:?}"), ErrorKind::InvalidData));
            let (name, value) = field?;
            fields.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    fn chunks(&mut self, message: &mut Message) -> Result<(), Error> {
        loop {
            let line = text(&self.line()?.ok_or_else(|| cut("read a chunk"))?);
            let size = usize::from_str_radix(&line, 16);
            let size = size.map_err(|_| broken(format!("read chunk {line:?}"), ErrorKind::InvalidData))?;
            if size == 0 {
                message.trailers = self.fields()?;
                return Ok(());
            }
            message.body.extend(self.take(size)?);
            if self.take(2)? != b"\r\n" {
                return Err(broken("read the end of a chunk", ErrorKind::InvalidData));
            }
        }
    }

    /// Reads the body that belongs to a head.
    ///
    /// # Errors
    ///
    /// As [`Wire::take`]: a body that is cut short is an error.
    pub fn body(&mut self, message: &mut Message, until_close: bool) -> Result<(), Error> {
        if message.header("transfer-encoding") == Some("chunked") {
            return self.chunks(message);
        }
        if let Some(length) = message.header("content-length") {
            let length = length.parse().map_err(|_| broken("read the length", ErrorKind::InvalidData))?;
            message.body = self.take(length)?;
        } else if until_close {
            let (body, ended) = self.rest()?;
            if ended == Ended::Reset {
                return Err(broken(format!("read more than {} bytes", body.len()), ErrorKind::ConnectionReset));
            }
            message.body = body;
        }
        Ok(())
    }

    /// Reads a request with its body; nothing if the connection ends before its first byte.
    ///
    /// # Errors
    ///
    /// As [`Wire::take`].
    pub fn request(&mut self) -> Result<Option<Message>, Error> {
        let Some(mut message) = self.head()? else { return Ok(None) };
        self.body(&mut message, false)?;
        Ok(Some(message))
    }

    /// Reads the response to a request other than HEAD, interim ones left out.
    ///
    /// # Errors
    ///
    /// As [`Wire::take`].
    pub fn response(&mut self) -> Result<Message, Error> {
        loop {
            let mut message = self.response_head()?;
            match message.status() {
                101 | 204 | 304 => return Ok(message),
                100..200 => {}
                _ => {
                    self.body(&mut message, true)?;
                    return Ok(message);
                }
            }
        }
    }

    /// Reads the head of a response, interim or not.
    ///
    /// # Errors
    ///
    /// As [`Wire::take`].
    pub fn response_head(&mut self) -> Result<Message, Error> {
        self.head()?.ok_or_else(|| cut("read a response"))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
