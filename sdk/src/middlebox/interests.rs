//! Which messages there are, and which a function wants.

use serde::{Deserialize, Serialize};

/// Kinds of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// The head of a request.
    RequestHead = 0,
    /// A piece of a request's body.
    RequestBody = 1,
    /// The head of a response.
    ResponseHead = 2,
    /// A piece of a response's body.
    ResponseBody = 3,
    /// A new connection, in TCP chains.
    Connection = 4,
    /// Bytes of a TCP connection or of a tunnel.
    Stream = 5,
    /// The end of a request.
    Finished = 6,
    /// The end of a client connection.
    Closed = 7,
}

impl Kind {
    /// All of them, by number.
    pub const ALL: [Self; 8] = [
        Self::RequestHead,
        Self::RequestBody,
        Self::ResponseHead,
        Self::ResponseBody,
        Self::Connection,
        Self::Stream,
        Self::Finished,
        Self::Closed,
    ];

    /// The kind of that number; nothing where a peer wrote nonsense.
    pub fn decode(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The interest that brings it.
    pub const fn interest(self) -> Interests {
        Interests(1 << self as u8)
    }
}

/// Which messages a function wants. What nobody in a chain wants never leaves the broker.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Interests(pub u16);

impl Interests {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// [`Request`](super::Request)s.
    pub const REQUEST_HEAD: Self = Kind::RequestHead.interest();
    /// Pieces of request bodies.
    pub const REQUEST_BODY: Self = Kind::RequestBody.interest();
    /// [`Response`](super::Response)s.
    pub const RESPONSE_HEAD: Self = Kind::ResponseHead.interest();
    /// Pieces of response bodies.
    pub const RESPONSE_BODY: Self = Kind::ResponseBody.interest();
    /// New connections of TCP chains.
    pub const CONNECTION: Self = Kind::Connection.interest();
    /// Bytes of TCP chains and of tunnels (WebSocket), both directions.
    pub const STREAM: Self = Kind::Stream.interest();
    /// The end of each request, with its status, bytes and duration.
    pub const FINISHED: Self = Kind::Finished.interest();
    /// The end of each client connection.
    pub const CLOSED: Self = Kind::Closed.interest();
    /// With a body interest: the function may change a piece's length. Such bodies are sent chunked, or to the end of the
    /// connection where the peer speaks HTTP/1.0. Without it, edits that change the length are refused.
    pub const RESIZES_BODY: Self = Self(1 << 8);

    /// Both. For constants: `Interests::REQUEST_HEAD.with(Interests::FINISHED)`.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` is in here.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether it wants messages of that kind.
    #[inline]
    pub const fn wants(self, kind: Kind) -> bool {
        self.0 & kind.interest().0 != 0
    }
}

impl std::ops::BitOr for Interests {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        self.with(other)
    }
}
