//! Bodies (RFC 9112 6, 7.1), however their bytes arrive.

use crate::fields::{self, Line};
use crate::{Framing, Known, KnownSet, Limits, Reject};

/// Trailers that are not passed on: what a head decides by (RFC 9110 6.5.1), and what ends at this hop.
const NO_TRAILERS: KnownSet = KnownSet::HOP_BY_HOP.union(KnownSet::of(&[
    Known::Host,
    Known::ContentLength,
    Known::Expect,
    Known::XForwardedFor,
    Known::XForwardedProto,
    Known::XForwardedHost,
    Known::XForwardedPort,
    Known::XRealIp,
    Known::Forwarded,
    Known::Via,
    Known::Authorization,
    Known::Cookie,
    Known::SetCookie,
    Known::CacheControl,
    Known::ContentType,
    Known::ContentEncoding,
    Known::ContentRange,
    Known::Range,
    Known::Location,
    Known::Date,
    Known::RetryAfter,
]));

/// How far chunk lines may outweigh the payload before the sender is taken for hostile, in bytes (as Go since CVE-2023-39326).
const OVERHEAD_BYTES: i64 = 16 * 1024;

/// What a call of [`BodyReader::next`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyStep {
    /// Payload: `length` bytes of the input, at least one, from `start`. The input up to `start + length` is consumed.
    Data {
        /// Offset into the input.
        start: usize,
        /// Bytes of payload.
        length: usize,
    },
    /// More input is needed.
    Need {
        /// Bytes of input consumed: all of them.
        consumed: usize,
    },
    /// The body is over. What follows in the input is the next message.
    End {
        /// Bytes of input consumed.
        consumed: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Done,
    /// So many bytes remain, of a body or of a chunk.
    Length(u64),
    UntilClose,
    Size {
        digits: u8,
        size: u64,
    },
    Extension(u64),
    SizeLf(u64),
    Chunk(u64),
    ChunkCr,
    ChunkLf,
    /// At the start of a trailer line, which may be the empty one.
    Trailer,
    TrailerLine,
    FinalLf,
    Failed(Reject),
}

/// Takes a body apart into payload and framing, without holding any of it but trailers.
///
/// Call [`next`](BodyReader::next) with what has arrived and has not been consumed, until it says `Need` or `End`. What it
/// finds does not depend on how the bytes were split. An error is final: later calls repeat it.
#[derive(Debug)]
pub struct BodyReader {
    state: State,
    /// Payload bytes that may still come, for a body that does not say its length.
    allowance: u64,
    chunk_line_bytes: usize,
    line_bytes: usize,
    overhead: i64,
    trailer_bytes: usize,
    trailers_read: usize,
    /// Trailer lines that were kept, and the beginning of the one that is being read.
    trailers: Vec<u8>,
    line_start: usize,
}

impl BodyReader {
    /// A reader for the body after a head.
    pub fn new(framing: Framing, limits: &Limits) -> BodyReader {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) if length > limits.body_bytes => State::Failed(Reject::BodyTooLarge),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { digits: 0, size: 0 },
            Framing::UntilClose => State::UntilClose,
        };
        BodyReader {
            state,
            allowance: limits.body_bytes,
            chunk_line_bytes: limits.chunk_line_bytes,
            line_bytes: 0,
            overhead: 0,
            trailer_bytes: limits.trailers(),
            trailers_read: 0,
            trailers: Vec::new(),
            line_start: 0,
        }
    }

    /// Whether all of the body has been consumed.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Bytes that are still to come, if the head said how many: 0 for a body that is over, `None` for chunks that are not and
    /// for a body that ends with the connection.
    pub fn left(&self) -> Option<u64> {
        match self.state {
            State::Done => Some(0),
            State::Length(left) => Some(left),
            _ => None,
        }
    }

    /// The peer will send nothing more. Errors: [`Reject::BodyCutShort`] if the body is not over; the earlier error, if there
    /// was one.
    pub fn end_of_stream(&mut self) -> Result<(), Reject> {
        match self.state {
            State::Done | State::UntilClose => {
                self.state = State::Done;
                Ok(())
            }
            State::Failed(reject) => Err(reject),
            _ => Err(self.fail(Reject::BodyCutShort)),
        }
    }

    /// The trailers of a chunked body that is over, in order. Those that concern framing, routing or the connection are
    /// left out (RFC 9110 6.5.1).
    pub fn trailers(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let (mut at, lines) = (0, if self.is_done() { &self.trailers[..] } else { &[] });
        std::iter::from_fn(move || match fields::line(lines, at) {
            Ok(Some(Line::Header(header, next))) => {
                at = next;
                Some((header.name(lines)?, header.value(lines)?))
            }
            _ => None,
        })
    }

    /// The next step in `input`, which starts at the first byte that is not consumed.
    ///
    /// Errors: [`Reject`]; the state of the connection is then unknown.
    #[inline]
    pub fn next(&mut self, input: &[u8]) -> Result<BodyStep, Reject> {
        match self.state {
            State::Length(left) if !input.is_empty() => {
                let length = length_of(left, input.len());
                let left = left - length as u64;
                self.state = if left == 0 { State::Done } else { State::Length(left) };
                Ok(BodyStep::Data { start: 0, length })
            }
            State::Length(_) => Ok(BodyStep::Need { consumed: 0 }),
            State::Done => Ok(BodyStep::End { consumed: 0 }),
            State::Failed(reject) => Err(reject),
            State::UntilClose => self.until_close(input),
            _ => self.chunked(input).map_err(|reject| self.fail(reject)),
        }
    }

    fn fail(&mut self, reject: Reject) -> Reject {
        self.state = State::Failed(reject);
        reject
    }

    fn until_close(&mut self, input: &[u8]) -> Result<BodyStep, Reject> {
        if input.is_empty() {
            return Ok(BodyStep::Need { consumed: 0 });
        }
        if self.allowance == 0 {
            return Err(self.fail(Reject::BodyTooLarge));
        }
        let length = length_of(self.allowance, input.len());
        self.allowance -= length as u64;
        Ok(BodyStep::Data { start: 0, length })
    }

    fn chunked(&mut self, input: &[u8]) -> Result<BodyStep, Reject> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            self.state = match (self.state, byte) {
                (State::Chunk(left), _) => {
                    let length = length_of(left, input.len() - at);
                    let left = left - length as u64;
                    self.state = if left == 0 { State::ChunkCr } else { State::Chunk(left) };
                    return Ok(BodyStep::Data { start: at, length });
                }
                (State::ChunkCr, b'\r') => State::ChunkLf,
                (State::ChunkLf, b'\n') => State::Size { digits: 0, size: 0 },
                (State::ChunkCr, b'\n') => return Err(Reject::BareLf),
                (State::ChunkCr | State::ChunkLf, _) => return Err(Reject::BadChunkEnd),
                (State::Trailer, b'\r') => State::FinalLf,
                (State::Trailer | State::TrailerLine, _) => {
                    at += self.trailer(&input[at..])?;
                    continue;
                }
                (State::FinalLf, b'\n') => {
                    self.state = State::Done;
                    return Ok(BodyStep::End { consumed: at + 1 });
                }
                (State::FinalLf, _) => return Err(Reject::BareCr),
                (state, byte) => self.size_line(state, byte)?,
            };
            at += 1;
        }
        Ok(BodyStep::Need { consumed: at })
    }

    /// One byte of the line before a chunk: size, extensions that nobody heeds, CRLF (RFC 9112 7.1, 7.1.1). White space
    /// before an extension's semicolon, which only a bad sender writes, is refused.
    fn size_line(&mut self, state: State, byte: u8) -> Result<State, Reject> {
        self.line_bytes += 1;
        if self.line_bytes > self.chunk_line_bytes {
            return Err(Reject::ChunkLineTooLong);
        }
        match (state, byte) {
            (State::Size { digits: 16, .. }, b) if b.is_ascii_hexdigit() => Err(Reject::BadChunkSize),
            (State::Size { digits, size }, b) if b.is_ascii_hexdigit() => {
                Ok(State::Size { digits: digits + 1, size: size << 4 | u64::from(nibble(b)) })
            }
            (State::Size { digits: 0, .. }, b'\n') => Err(Reject::BareLf),
            (State::Size { digits: 0, .. }, _) => Err(Reject::BadChunkSize),
            (State::Size { size, .. }, b'\r') | (State::Extension(size), b'\r') => Ok(State::SizeLf(size)),
            (State::Size { .. } | State::Extension(_), b'\n') => Err(Reject::BareLf),
            (State::Size { size, .. }, b';') => Ok(State::Extension(size)),
            (State::Size { .. }, _) => Err(Reject::BadChunkSize),
            (State::Extension(_), 0) => Err(Reject::Nul),
            (State::Extension(size), b) if b == b'\t' || !b.is_ascii_control() => Ok(State::Extension(size)),
            (State::Extension(_), _) => Err(Reject::BadChunkExtension),
            (State::SizeLf(size), b'\n') => self.chunk(size),
            _ => Err(Reject::BareCr),
        }
    }

    /// The line before a chunk of `size` bytes is over.
    fn chunk(&mut self, size: u64) -> Result<State, Reject> {
        let line = i64::try_from(std::mem::take(&mut self.line_bytes)).unwrap_or(i64::MAX);
        let paid = i64::try_from(size).unwrap_or(i64::MAX).saturating_mul(2).saturating_add(16);
        self.overhead = self.overhead.saturating_add(line).saturating_sub(paid).max(0);
        if self.overhead > OVERHEAD_BYTES {
            return Err(Reject::ChunkOverhead);
        }
        self.allowance = self.allowance.checked_sub(size).ok_or(Reject::BodyTooLarge)?;
        Ok(if size == 0 { State::Trailer } else { State::Chunk(size) })
    }

    /// Takes bytes of `input` up to the end of a trailer line, and says how many.
    fn trailer(&mut self, input: &[u8]) -> Result<usize, Reject> {
        let end = input.iter().position(|&byte| byte == b'\n').map(|lf| lf + 1);
        let length = end.unwrap_or(input.len());
        self.trailers_read = self.trailers_read.saturating_add(length);
        if self.trailers_read > self.trailer_bytes {
            return Err(Reject::TrailersTooLarge);
        }
        self.trailers.extend_from_slice(&input[..length]);
        self.state = State::TrailerLine;
        if end.is_some() {
            match fields::line(&self.trailers, self.line_start)? {
                Some(Line::Header(header, next)) if next == self.trailers.len() => {
                    if NO_TRAILERS.contains(header.known()) {
                        self.trailers.truncate(self.line_start);
                    }
                }
                _ => return Err(Reject::BadHeaderName),
            }
            self.line_start = self.trailers.len();
            self.state = State::Trailer;
        }
        Ok(length)
    }
}

/// The lesser of a 64-bit and a native length.
#[inline]
fn length_of(left: u64, available: usize) -> usize {
    usize::try_from(left).unwrap_or(usize::MAX).min(available)
}

/// The value of a hexadecimal digit.
fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit - b'0',
        _ => (digit | 0x20) - b'a' + 10,
    }
}
