//! A message buffer seen as a whole.

use middlenet_http::{
    HeaderSpan, Known, Limits, Method, Reject, RequestHead, ResponseHead, Span, parse_request, parse_response,
};
use zerocopy::FromBytes;

use super::layout::{DATA_OFFSET, INDEX_OFFSET, MAX_HEADERS, MESSAGE_BYTES, MessageHeader, NO_HOP, flag};
use super::{Answer, Verdict};

/// One message in its buffer. The hosts make it; functions see views of it.
#[derive(Debug)]
pub struct Message<'a> {
    room: &'a mut [u8],
}

/// Verdicts as the header carries them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum VerdictCode {
    /// Onward.
    Next = 0,
    /// The buffer holds the answer.
    Respond = 1,
    /// The connection is to be closed.
    Close = 2,
}

impl VerdictCode {
    /// The verdict of that number; nothing where a peer wrote nonsense.
    pub fn decode(number: u8) -> Option<Self> {
        [Self::Next, Self::Respond, Self::Close].get(usize::from(number)).copied()
    }
}

/// Where a message goes after a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// To the next that wants it.
    Next,
    /// To the named output of that number.
    Output(u8),
    /// Straight back to the broker.
    Home,
}

impl<'a> Message<'a> {
    /// The message in a buffer of [`MESSAGE_BYTES`] bytes, aligned to 8.
    ///
    /// # Panics
    /// When the buffer is smaller or not aligned: buffers of the messages region are.
    #[inline]
    pub fn new(room: &'a mut [u8]) -> Self {
        assert!(room.len() == MESSAGE_BYTES && room.as_ptr().cast::<u64>().is_aligned(), "not a message buffer");
        Self { room }
    }

    /// The same message, borrowed.
    #[inline]
    pub fn reborrow(&mut self) -> Message<'_> {
        Message { room: self.room }
    }

    /// The header.
    #[inline]
    pub fn header(&self) -> &MessageHeader {
        let (header, _) = MessageHeader::ref_from_prefix(self.room).expect("the buffer is large and aligned");
        header
    }

    /// The header, to write.
    #[inline]
    pub fn header_mut(&mut self) -> &mut MessageHeader {
        let (header, _) = MessageHeader::mut_from_prefix(self.room).expect("the buffer is large and aligned");
        header
    }

    /// Room for bytes that are read from a socket.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        &mut self.room[DATA_OFFSET..]
    }

    /// All bytes; spans are relative to the first.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        self.room
    }

    /// The bytes of a span; empty when it lies outside.
    #[inline]
    pub fn span(&self, span: Span) -> &[u8] {
        let start = usize::from(span.start);
        self.room.get(start..start + usize::from(span.length)).unwrap_or_default()
    }

    /// The bytes of a span, to write; empty when it lies outside.
    #[inline]
    pub fn span_mut(&mut self, span: Span) -> &mut [u8] {
        let start = usize::from(span.start);
        self.room.get_mut(start..start + usize::from(span.length)).unwrap_or_default()
    }

    /// The index of headers.
    #[inline]
    pub fn index(&self) -> &[HeaderSpan] {
        let count = usize::from(self.header().headers).min(MAX_HEADERS);
        <[HeaderSpan]>::ref_from_bytes(&self.room[INDEX_OFFSET..INDEX_OFFSET + count * 8]).unwrap_or_default()
    }

    /// The whole index with its unused entries, to write.
    #[inline]
    pub fn index_mut(&mut self) -> &mut [HeaderSpan; MAX_HEADERS] {
        <[HeaderSpan; MAX_HEADERS]>::mut_from_bytes(&mut self.room[INDEX_OFFSET..DATA_OFFSET])
            .expect("the index is aligned")
    }

    /// Index and data apart, for a parser that reads one and writes the other; spans it writes are relative to the data.
    #[inline]
    pub fn index_and_data(&mut self) -> (&mut [HeaderSpan; MAX_HEADERS], &[u8]) {
        let (head, data) = self.room.split_at_mut(DATA_OFFSET);
        let index = <[HeaderSpan; MAX_HEADERS]>::mut_from_bytes(&mut head[INDEX_OFFSET..]);
        (index.expect("the index is aligned"), data)
    }

    /// Headers as `(name, value)`, spans that lie outside as empty.
    #[inline]
    pub fn headers(&self) -> impl Iterator<Item = (&[u8], &[u8])> + Clone {
        self.index().iter().map(|h| (self.span(name_span(h)), self.span(value_span(h))))
    }

    /// Reads the request head in the first bytes of `from..end` of the data, and fills header and index: method, target (the
    /// canonical one), version. The tail room begins at `end`. The head's length is that of its bytes; nothing: more are needed.
    ///
    /// # Errors
    /// [`Reject`].
    pub fn read_request(&mut self, from: usize, end: usize, limits: &Limits) -> Result<Option<RequestHead>, Reject> {
        let (index, data) = self.index_and_data();
        let Some(mut head) = parse_request(data.get(from..end).unwrap_or_default(), limits, index)? else {
            return Ok(None);
        };
        let base = (DATA_OFFSET + from) as u16;
        rebase(&mut index[..usize::from(head.headers)], base);
        head.method_span.start += base;
        head.target.start += base;
        let header = self.header_mut();
        header.headers = head.headers;
        header.method = head.method_span;
        header.target = head.target;
        (header.method_code, header.minor) = (head.method as u8, head.minor);
        header.tail = (DATA_OFFSET + end) as u16;
        // CONNECT has no path.
        if head.method != Method::Connect {
            self.make_canonical(head.target)?;
        }
        Ok(Some(head))
    }

    fn make_canonical(&mut self, target: Span) -> Result<(), Reject> {
        // Allocates only where the target is not canonical already.
        let mut canonical = Vec::new();
        if middlenet_http::canonical_target(self.span(target), &mut canonical)? {
            let span = self.append(&[&canonical]).ok_or(Reject::TargetTooLong)?;
            self.header_mut().target = span;
        }
        Ok(())
    }

    /// Reads the response head in the first bytes of `from..end` of the data, as [`read_request`](Self::read_request).
    ///
    /// # Errors
    /// [`Reject`].
    pub fn read_response(
        &mut self,
        from: usize,
        end: usize,
        method: Method,
        limits: &Limits,
    ) -> Result<Option<ResponseHead>, Reject> {
        let (index, data) = self.index_and_data();
        let parsed = parse_response(data.get(from..end).unwrap_or_default(), method, limits, index)?;
        let Some(mut head) = parsed else { return Ok(None) };
        let base = (DATA_OFFSET + from) as u16;
        rebase(&mut index[..usize::from(head.headers)], base);
        head.reason.start += base;
        let header = self.header_mut();
        header.headers = head.headers;
        header.status = head.status;
        header.reason = head.reason;
        header.minor = head.minor;
        header.tail = (DATA_OFFSET + end) as u16;
        Ok(Some(head))
    }

    /// Copies bytes to the tail room. Nothing, and the flag `NO_ROOM`, when they do not fit.
    pub fn append(&mut self, pieces: &[&[u8]]) -> Option<Span> {
        let start = self.header().tail;
        let length: usize = pieces.iter().map(|p| p.len()).sum();
        let Some(room) = self.room.get_mut(usize::from(start)..usize::from(start) + length) else {
            self.header_mut().flags |= flag::NO_ROOM;
            return None;
        };
        let mut at = 0;
        for piece in pieces {
            room[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        }
        let span = Span { start, length: length as u16 };
        self.header_mut().tail = start + span.length;
        Some(span)
    }

    /// Turns the message into an answer: a response head and a body.
    pub fn write_answer(&mut self, answer: &Answer) {
        let header = self.header_mut();
        header.status = answer.status();
        header.headers = 0;
        header.reason = Span::default();
        header.body = Span::default();
        header.flags |= flag::ANSWER;
        for (name, value) in answer.headers() {
            self.push_header(name, value);
        }
        match self.append(&[answer.body()]) {
            Some(span) => self.header_mut().body = span,
            None => {
                let header = self.header_mut();
                (header.status, header.headers) = (500, 0);
            }
        }
    }

    /// Adds a header at the end.
    pub fn push_header(&mut self, name: &[u8], value: &[u8]) {
        let at = usize::from(self.header().headers);
        let fits = at < MAX_HEADERS && name.len() <= usize::from(u8::MAX);
        if !fits {
            self.header_mut().flags |= flag::NO_ROOM;
            return;
        }
        let Some(span) = self.append(&[name, value]) else { return };
        self.index_mut()[at] = HeaderSpan {
            name_start: span.start,
            name_length: name.len() as u8,
            value_start: span.start + name.len() as u16,
            value_length: value.len() as u16,
            known: Known::classify(name) as u8,
        };
        self.header_mut().headers += 1;
    }

    /// Writes a function's verdict into the header, and says where the message goes.
    #[inline]
    pub fn apply(&mut self, verdict: Verdict, position: u8) -> Onward {
        let header = self.header_mut();
        match verdict {
            Verdict::Next => Onward::Next,
            Verdict::Route(upstream) => {
                header.upstream = upstream.0;
                header.router = position;
                Onward::Next
            }
            Verdict::Offload => {
                header.offloaded |= 1u32.checked_shl(position.into()).unwrap_or(0);
                Onward::Next
            }
            Verdict::Output(output) => Onward::Output(output.0),
            Verdict::Respond(answer) => {
                header.verdict = VerdictCode::Respond as u8;
                self.write_answer(&answer);
                Onward::Home
            }
            Verdict::Close(reason) => {
                header.verdict = VerdictCode::Close as u8;
                header.argument = reason.0;
                header.jump = NO_HOP;
                Onward::Home
            }
        }
    }
}

/// Makes spans that a parser wrote relative to the buffer.
#[inline]
fn rebase(index: &mut [HeaderSpan], base: u16) {
    for header in index {
        header.name_start += base;
        header.value_start += base;
    }
}

/// Where a header's name lies.
#[inline]
pub(super) fn name_span(header: &HeaderSpan) -> Span {
    Span { start: header.name_start, length: header.name_length.into() }
}

/// Where a header's value lies.
#[inline]
pub(super) fn value_span(header: &HeaderSpan) -> Span {
    Span { start: header.value_start, length: header.value_length }
}
