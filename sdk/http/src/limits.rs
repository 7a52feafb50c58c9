//! How much a peer may send before it has said anything useful.

use crate::MAX_HEADERS;

/// Bounds on what is parsed. Each is checked on incomplete input as well, so a peer cannot make a reader hold more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a head, final CRLF included. At most 65,535: a larger number means that.
    pub head_bytes: usize,
    /// Header lines of a head. At most [`MAX_HEADERS`].
    pub headers: usize,
    /// Bytes of a request target. RFC 9112 3 recommends that a request line of 8,000 bytes be supported.
    pub target_bytes: usize,
    /// Bytes of a body, without its framing. A request with more is answered 413.
    pub body_bytes: u64,
    /// Bytes of the line before a chunk: size, extensions and CRLF.
    pub chunk_line_bytes: usize,
    /// Bytes of the trailer section, without its final CRLF. At most 65,535.
    pub trailer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            head_bytes: 8192,
            headers: 100,
            target_bytes: 8000,
            body_bytes: u64::MAX,
            chunk_line_bytes: 256,
            trailer_bytes: 4096,
        }
    }
}

impl Limits {
    /// The largest head whose offsets a span can hold.
    pub(crate) fn head(&self) -> usize {
        self.head_bytes.min(usize::from(u16::MAX))
    }

    pub(crate) fn header_lines(&self) -> usize {
        self.headers.min(MAX_HEADERS)
    }

    pub(crate) fn trailers(&self) -> usize {
        self.trailer_bytes.min(usize::from(u16::MAX))
    }
}
