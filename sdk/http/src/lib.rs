//! Strict HTTP/1.1 framing (RFC 9112) without input or output: values in, values out.
//!
//! A proxy and the server behind it must agree where each message ends. This crate therefore accepts one spelling of each
//! thing, refuses what two parsers could read in two ways, and never forwards the bytes of a head: it writes them anew.
//!
//! | Item | What |
//! |---|---|
//! | [`parse_request`], [`parse_response`] | a head from the front of a buffer, as offsets into it; nothing is allocated |
//! | [`Framing`] | how the body that follows is delimited; the part that HTTP/2 has as well |
//! | [`BodyReader`] | takes a body apart, however its bytes arrive |
//! | [`write_request_head`], [`write_response_head`], [`Egress`] | a head anew, from parts that nobody vouches for |
//! | [`write_chunk_head`], [`write_last_chunk`] | the chunked coding |
//! | [`canonical_target`] | the one spelling of a path that matching, rewriting and forwarding all use |
//! | [`Reject`], [`BadHead`] | why not, with the status to answer and a name to count by |
//!
//! ```
//! use middlenet_http::{BodyReader, BodyStep, Framing, HeaderSpan, Limits, MAX_HEADERS, parse_request};
//!
//! let bytes = b"POST /orders HTTP/1.1\r\nHost: shop\r\nContent-Length: 2\r\n\r\nok";
//! let limits = Limits::default();
//! let mut spans = [HeaderSpan::EMPTY; MAX_HEADERS];
//! let head = parse_request(bytes, &limits, &mut spans)?.expect("the head is complete");
//! assert_eq!(head.target.of(bytes), Some(&b"/orders"[..]));
//! assert_eq!(head.framing, Framing::Length(2));
//!
//! let mut body = BodyReader::new(head.framing, &limits);
//! let rest = &bytes[usize::from(head.length)..];
//! assert_eq!(body.next(rest)?, BodyStep::Data { start: 0, length: 2 });
//! assert!(body.is_done());
//! # Ok::<(), middlenet_http::Reject>(())
//! ```
#![forbid(unsafe_code)]

mod authority;
mod body;
mod chunk;
mod egress;
mod fields;
mod framing;
mod known;
mod limits;
mod method;
mod reject;
mod request;
mod response;
mod scan;
mod span;
mod target;

pub use authority::{authority_of, same_host};
pub use body::{BodyReader, BodyStep};
pub use chunk::{CHUNK_END, LAST_CHUNK, write_chunk_head, write_last_chunk};
pub use egress::{BadHead, Egress, write_request_head, write_response_head};
pub use framing::Framing;
pub use known::{Known, KnownSet};
pub use limits::Limits;
pub use method::Method;
pub use reject::Reject;
pub use request::{RequestHead, parse_request};
pub use response::{ResponseHead, parse_response};
pub use span::{HeaderSpan, Span, pairs, value_of};
pub use target::canonical_target;

/// The most header lines a head can have: the length of the array that a parser fills.
pub const MAX_HEADERS: usize = 128;

/// The most options that `Connection` may list, in all its lines together.
pub const MAX_CONNECTION_OPTIONS: usize = 32;
