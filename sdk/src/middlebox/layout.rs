//! Where things lie in a message buffer, and what travels through an SK_MSG socket.
//!
//! ```text
//!      0  MessageHeader                                   broker; verdict and edits: functions
//!    256  index of headers, 128 entries of 8 bytes        broker; edits: functions
//!   1280  bytes as received: head, then what followed it  broker
//!         tail room: edits
//!  16384
//! ```
//!
//! Functions may write anywhere in a buffer that they hold, so nothing here is believed by the broker when it comes
//! back: spans are checked, and heads are copied and checked while they are serialised.

use middlenet_http::Span;
use middlenet_shm::Descriptor;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Bytes of a message buffer.
pub const MESSAGE_BYTES: usize = 16 << 10;
/// Headers in an index.
pub const MAX_HEADERS: usize = 128;
/// Where the index begins.
pub(super) const INDEX_OFFSET: usize = 256;
/// Where received bytes begin.
pub const DATA_OFFSET: usize = INDEX_OFFSET + MAX_HEADERS * 8;
/// Bytes read into a buffer at most; what is left is the tail room.
pub const READ_BYTES: usize = 12 << 10;
/// Stops in a route.
pub const MAX_ROUTE: usize = 16;
/// No hop, in a field that names one by its place in the chain.
pub const NO_HOP: u8 = u8::MAX;
/// In the `verdict` field of a descriptor that a function returns through its ring: it could not be delivered.
pub const UNDELIVERED: u8 = u8::MAX;
/// Descriptors in one group.
pub const MAX_GROUP: usize = 64;

/// Bits of [`MessageHeader::flags`].
pub mod flag {
    /// The last piece of a body or stream direction.
    pub const LAST: u8 = 1;
    /// From the upstream to the client.
    pub const TO_CLIENT: u8 = 2;
    /// An edit found no room.
    pub const NO_ROOM: u8 = 4;
    /// The buffer holds an answer of a function.
    pub const ANSWER: u8 = 8;
    /// Over IPv6; else the first four bytes of the addresses count.
    pub const IPV6: u8 = 16;
}

/// A party on the way of a message: a function, or at the end the broker's worker.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Stop {
    /// Place of the function in its chain; [`NO_HOP`] for the worker.
    pub position: u8,
    /// Key of its socket.
    pub key: u8,
}

/// The first 256 bytes of a message buffer.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct MessageHeader {
    /// The client connection; unique in the run.
    pub connection: u64,
    /// The request; unique in the run.
    pub request: u64,
    /// `Finished`: bytes of the request, head and body.
    pub received_bytes: u64,
    /// `Finished`: bytes of the response.
    pub sent_bytes: u64,
    /// `Finished`: from the end of the request's head to the end of the response, in µs.
    pub duration_us: u64,
    /// Functions, by place, that want no more of this stream.
    pub offloaded: u32,
    /// The upstream that the function at `router` chose, in its numbering.
    pub upstream: u16,
    /// Status of a response or answer.
    pub status: u16,
    /// Method of a request.
    pub method: Span,
    /// Target of a request; in `Finished`: address of the upstream.
    pub target: Span,
    /// Reason phrase of a response.
    pub reason: Span,
    /// A piece of a body or stream, or the body of an answer.
    pub body: Span,
    /// Entries of the index.
    pub headers: u16,
    /// First free byte of the tail room.
    pub tail: u16,
    /// Port of the client.
    pub peer_port: u16,
    /// Port of the listener.
    pub local_port: u16,
    /// Argument of the verdict: drop reason.
    pub argument: u16,
    /// A [`Kind`](super::Kind).
    pub kind: u8,
    /// See [`flag`].
    pub flags: u8,
    /// Where in `route` the message is.
    pub cursor: u8,
    /// Stops in `route`.
    pub stops: u8,
    /// Number of the worker the message belongs to.
    pub worker: u8,
    /// A [`VerdictCode`](super::VerdictCode).
    pub verdict: u8,
    /// Number of the output that was chosen; [`NO_HOP`]: none.
    pub jump: u8,
    /// Place of the function that chose the upstream; [`NO_HOP`]: none did.
    pub router: u8,
    /// HTTP/1.`minor`.
    pub minor: u8,
    /// A `Method` of the http crate.
    pub method_code: u8,
    /// Place of the function that chose the output in `jump`.
    pub jumper: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The client's address.
    pub peer: [u8; 16],
    /// The listener's address.
    pub local: [u8; 16],
    /// The way of the message; the last stop is the worker.
    pub route: [Stop; MAX_ROUTE],
    /// Zero.
    pub reserved_tail: [u64; 13],
}

const _: () = assert!(size_of::<MessageHeader>() == INDEX_OFFSET);

/// What goes through an SK_MSG socket: 16 bytes, either the head of a group or a descriptor.
pub type Cell = [u8; 16];

/// The head of a group: it goes to one destination, and costs one redirect. The BPF program reads it as well.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct Group {
    /// Descriptors that follow, at most [`MAX_GROUP`].
    pub count: u32,
    /// Key of the receiver's socket.
    pub destination: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

const _: () = assert!(size_of::<Group>() == size_of::<Descriptor>());
