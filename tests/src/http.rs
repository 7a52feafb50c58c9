//! As much HTTP/1.1 as the tests' own clients and servers need, and no more: both sides are ours, so they trust each other.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::TcpStream;

/// A head: the first line in words, and the headers with names in lower case.
#[derive(Debug, Clone, Default)]
pub struct Head {
    /// Method, target and version, or version, status and reason.
    pub line: Vec<String>,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// Reads one; nothing if the peer has closed before its first byte.
    ///
    /// # Errors
    ///
    /// What the socket says, [`ErrorKind::UnexpectedEof`], or [`ErrorKind::InvalidData`] for what is no head.
    pub fn read(stream: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut head = Self::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            if stream.read_until(b'\n', &mut line)? == 0 {
                return if head.line.is_empty() { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
            let Some(text) = line.strip_suffix(b"\r\n") else { return Err(bad(format!("no line: {line:?}"))) };
            let text = std::str::from_utf8(text).map_err(bad)?;
            if head.line.is_empty() {
                head.line = text.split(' ').map(str::to_owned).collect();
            } else if text.is_empty() {
                return Ok(Some(head));
            } else {
                let Some((name, value)) = text.split_once(": ") else { return Err(bad(format!("no header: {text}"))) };
                head.headers.push((name.to_ascii_lowercase(), value.to_owned()));
            }
        }
    }

    /// The first header of that name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The status of a response.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::InvalidData`].
    pub fn status(&self) -> io::Result<u16> {
        let status = self.line.get(1).filter(|_| self.line[0] == "HTTP/1.1").and_then(|s| s.parse().ok());
        status.ok_or_else(|| bad(format!("no status line: {:?}", self.line)))
    }

    /// Whether the peer closes after this message.
    #[must_use]
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|value| value.contains("close"))
    }
}

/// Reads a body to its end, and hands each piece on.
///
/// # Errors
///
/// As [`Head::read`].
pub fn read_body(stream: &mut impl BufRead, head: &Head, mut piece: impl FnMut(&[u8])) -> io::Result<u64> {
    if head.header("transfer-encoding") == Some("chunked") {
        let mut total = 0;
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let length = u64::from_str_radix(line.trim_end(), 16).map_err(bad)?;
            pass(stream, length, &mut piece)?;
            line.clear();
            stream.read_line(&mut line)?;
            if line != "\r\n" {
                return Err(bad(format!("a chunk ends with {line:?}")));
            }
            total += length;
            if length == 0 {
                return Ok(total);
            }
        }
    }
    let length = head.header("content-length").unwrap_or("0").parse().map_err(bad)?;
    pass(stream, length, &mut piece)?;
    Ok(length)
}

fn pass(stream: &mut impl BufRead, mut left: u64, piece: &mut impl FnMut(&[u8])) -> io::Result<()> {
    while left > 0 {
        let bytes = stream.fill_buf()?;
        if bytes.is_empty() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        let length = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        piece(&bytes[..length]);
        stream.consume(length);
        left -= length as u64;
    }
    Ok(())
}

/// Sends `length` bytes of [`Pattern`](crate::Pattern), as chunks of unequal lengths or as they are.
///
/// # Errors
///
/// What the socket says.
pub fn send_pattern(stream: &mut impl Write, length: u64, chunked: bool) -> io::Result<()> {
    let mut pattern = crate::Pattern::default();
    let mut chunk = 1u64;
    while pattern.position() < length {
        let left = length - pattern.position();
        if !chunked {
            stream.write_all(pattern.next(left.min(256 << 10)))?;
            continue;
        }
        let piece = pattern.next(left.min(chunk));
        // One call for the small ones: what is measured is not how slowly this side can write.
        let mut bytes = format!("{:x}\r\n", piece.len()).into_bytes();
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
        stream.write_all(&bytes)?;
        chunk = chunk * 5 % 262_139;
    }
    if chunked { stream.write_all(b"0\r\n\r\n") } else { Ok(()) }
}

pub(crate) fn bad(what: impl ToString) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.to_string())
}

/// A connection with a buffer for reading.
#[derive(Debug)]
pub struct Wire(pub BufReader<TcpStream>);

impl Wire {
    /// Over a connected socket.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self(BufReader::with_capacity(256 << 10, stream)))
    }

    /// The socket.
    #[must_use]
    pub fn stream(&self) -> &TcpStream {
        self.0.get_ref()
    }

    /// Sends bytes.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.get_mut().write_all(bytes)
    }

    /// Reads exactly as many bytes as there is room.
    ///
    /// # Errors
    ///
    /// What the socket says.
    pub fn receive(&mut self, room: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(room)
    }
}
