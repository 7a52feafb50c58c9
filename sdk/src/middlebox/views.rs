//! What a function sees of a message, by its kind.

use std::net::SocketAddr;
use std::time::Duration;

use middlenet_http::Method;

use super::layout::flag;
use super::{Message, headers};

macro_rules! header_access {
    () => {
        /// The value of the first header of that name, whatever its case.
        pub fn header(&self, name: &str) -> Option<&[u8]> {
            headers::get(&self.message, name)
        }

        /// All headers in order, as `(name, value)`.
        pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
            self.message.headers()
        }

        /// Replaces all headers of that name by one; adds it where there is none.
        ///
        /// Edits take from the room that is left in the buffer, about 3 KiB. Where it does not suffice, the edit is not made and
        /// the broker answers 500 (`no-room`) rather than go on with a message edited by half.
        pub fn set_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
            headers::set(&mut self.message, name, value.as_ref());
        }

        /// Adds a header beside those of that name. For the room it needs see [`set_header`](Self::set_header).
        pub fn add_header(&mut self, name: &str, value: impl AsRef<[u8]>) {
            self.message.push_header(name.as_bytes(), value.as_ref());
        }

        /// Removes all headers of that name, and says whether there were any.
        pub fn remove_header(&mut self, name: &str) -> bool {
            headers::remove(&mut self.message, name)
        }

        /// Removes the headers for which `keep`, asked with name and value, says no. Says how many.
        pub fn retain_headers(&mut self, keep: impl FnMut(&[u8], &[u8]) -> bool) -> usize {
            headers::retain(&mut self.message, keep)
        }
    };
}

/// The head of a request.
#[derive(Debug)]
pub struct Request<'m> {
    message: Message<'m>,
}

impl<'m> Request<'m> {
    pub(super) fn new(message: &'m mut Message<'_>) -> Self {
        Self { message: message.reborrow() }
    }

    /// The method.
    pub fn method(&self) -> Method {
        Method::from_u8(self.message.header().method_code)
    }

    /// The method as sent.
    pub fn method_bytes(&self) -> &[u8] {
        self.message.span(self.message.header().method)
    }

    /// The target: the canonical path, and the query if there is one (`/a/b?c=d`).
    pub fn target(&self) -> &[u8] {
        self.message.span(self.message.header().target)
    }

    /// The canonical path: dot segments resolved, slashes merged, needless percent-encoding undone.
    pub fn path(&self) -> &[u8] {
        split_query(self.target()).0
    }

    /// The query, without its `?`.
    pub fn query(&self) -> Option<&[u8]> {
        split_query(self.target()).1
    }

    /// The host and port asked for.
    pub fn host(&self) -> Option<&[u8]> {
        self.header("host")
    }

    /// HTTP/1.`minor`.
    pub fn minor_version(&self) -> u8 {
        self.message.header().minor
    }

    /// Replaces path and query. A target with bytes that may not stand in one makes the broker answer 500. For the room it
    /// needs see [`set_header`](Self::set_header).
    pub fn set_target(&mut self, target: impl AsRef<[u8]>) {
        if let Some(span) = self.message.append(&[target.as_ref()]) {
            self.message.header_mut().target = span;
        }
    }

    /// Replaces the path and keeps the query.
    pub fn set_path(&mut self, path: impl AsRef<[u8]>) {
        match self.query().map(<[u8]>::to_vec) {
            None => self.set_target(path),
            Some(query) => {
                if let Some(span) = self.message.append(&[path.as_ref(), b"?", &query]) {
                    self.message.header_mut().target = span;
                }
            }
        }
    }

    header_access!();
}

/// The head of a response.
#[derive(Debug)]
pub struct Response<'m> {
    message: Message<'m>,
}

impl<'m> Response<'m> {
    pub(super) fn new(message: &'m mut Message<'_>) -> Self {
        Self { message: message.reborrow() }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.message.header().status
    }

    /// Changes the status, between 200 and 599; any other is ignored.
    pub fn set_status(&mut self, status: u16) {
        if (200..600).contains(&status) {
            let header = self.message.header_mut();
            header.status = status;
            header.reason = Default::default();
        }
    }

    header_access!();
}

/// A piece of a body or of a stream.
#[derive(Debug)]
pub struct Chunk<'m> {
    message: Message<'m>,
    resizes: bool,
}

impl<'m> Chunk<'m> {
    pub(super) fn new(message: &'m mut Message<'_>, resizes: bool) -> Self {
        Self { message: message.reborrow(), resizes }
    }

    /// Its bytes; at most 12 KiB.
    pub fn bytes(&self) -> &[u8] {
        self.message.span(self.message.header().body)
    }

    /// Its bytes, to change in place.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let span = self.message.header().body;
        self.message.span_mut(span)
    }

    /// Whether it is the last of its body or direction; it may be empty.
    pub fn is_last(&self) -> bool {
        self.message.header().flags & flag::LAST != 0
    }

    /// Whether it travels to the client.
    pub fn is_to_client(&self) -> bool {
        self.message.header().flags & flag::TO_CLIENT != 0
    }

    /// Replaces the bytes: by others of the same length; in a stream and with
    /// [`Interests::RESIZES_BODY`](super::Interests::RESIZES_BODY) by shorter ones, or longer ones as far as the buffer has
    /// room (8 KiB with that interest, for pieces of 6 KiB at most; else 2 KiB at least). `false`: nothing was changed.
    pub fn replace(&mut self, bytes: &[u8]) -> bool {
        let span = self.message.header().body;
        let length = usize::from(span.length);
        if bytes.len() == length || (self.resizes && bytes.len() < length) {
            // A buffer is shared: what was in range a moment ago may be so no more.
            let Some(place) = self.bytes_mut().get_mut(..bytes.len()) else { return false };
            place.copy_from_slice(bytes);
            self.message.header_mut().body.length = bytes.len() as u16;
            return true;
        }
        let room = super::MESSAGE_BYTES - usize::from(self.message.header().tail);
        if !self.resizes || bytes.len() > room {
            return false;
        }
        // Behind the piece may lie bytes that nobody has looked at yet, so the new ones go to the tail room.
        match self.message.append(&[bytes]) {
            Some(span) => {
                self.message.header_mut().body = span;
                true
            }
            None => false,
        }
    }
}

/// A new connection of a TCP chain; the addresses are in the [`Context`](super::Context).
#[derive(Debug)]
pub struct Connection<'m> {
    _message: Message<'m>,
}

impl<'m> Connection<'m> {
    pub(super) fn new(message: &'m mut Message<'_>) -> Self {
        Self { _message: message.reborrow() }
    }
}

/// The end of a request.
#[derive(Debug)]
pub struct Finished<'m> {
    message: Message<'m>,
}

impl<'m> Finished<'m> {
    pub(super) fn new(message: &'m mut Message<'_>) -> Self {
        Self { message: message.reborrow() }
    }

    /// Status of the response; 0 when none was sent.
    pub fn status(&self) -> u16 {
        self.message.header().status
    }

    /// Bytes of the request, head and body.
    pub fn received_bytes(&self) -> u64 {
        self.message.header().received_bytes
    }

    /// Bytes of the response, head and body.
    pub fn sent_bytes(&self) -> u64 {
        self.message.header().sent_bytes
    }

    /// From the end of the request's head to the end of the response.
    pub fn duration(&self) -> Duration {
        Duration::from_micros(self.message.header().duration_us)
    }

    /// The upstream that answered, if one did.
    pub fn upstream(&self) -> Option<SocketAddr> {
        std::str::from_utf8(self.message.span(self.message.header().target)).ok()?.parse().ok()
    }

    /// Whether the response was sent in full.
    pub fn is_complete(&self) -> bool {
        self.message.header().flags & flag::LAST != 0
    }
}

fn split_query(target: &[u8]) -> (&[u8], Option<&[u8]>) {
    match target.iter().position(|&b| b == b'?') {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    }
}
