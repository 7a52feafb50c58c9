//! Response heads (RFC 9112 4).

use crate::fields::{self, unexpected};
use crate::framing::Fields;
use crate::request::version;
use crate::{Framing, HeaderSpan, Limits, MAX_HEADERS, Method, Reject, Span, scan};

/// What the head of a response says. Spans are offsets into the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    /// The status code, 100 to 999.
    pub status: u16,
    /// Where the reason phrase is; it may be empty.
    pub reason: Span,
    /// The minor version: 0 or 1.
    pub minor: u8,
    /// How many header lines there are; as many spans are filled.
    pub headers: u16,
    /// Bytes of the head, final CRLF included: the body starts there.
    pub length: u16,
    /// How the body is delimited (RFC 9112 6.3).
    pub framing: Framing,
    /// What `Content-Length` says though no body follows: on a response to HEAD, and with 304.
    pub announced_length: Option<u64>,
    /// Whether the connection can be used again. False if the body ends with it, and if a response that cannot have a body
    /// announces one: whoever sent it may send it.
    pub keep_alive: bool,
    /// Whether this is the 101 that ends HTTP on the connection: it has the option `upgrade` and one `Upgrade`. A 101 without
    /// them is not to be passed on.
    pub upgrade: bool,
}

impl ResponseHead {
    /// Whether another response to the same request follows: 1xx other than 101 (RFC 9110 15.2).
    pub const fn is_interim(&self) -> bool {
        self.status < 200 && self.status != 101
    }
}

/// The response head at the front of `bytes`, with its header lines in `out`; `None` if more bytes are needed.
///
/// `request_method` is the method of the request as it was sent, since a response to HEAD has no body. A status line that
/// ends after the status is taken, for servers send it; the framing does not depend on it. The answer for a prefix is the
/// same or `None`.
///
/// Errors: [`Reject`], as soon as the bytes force it. Incomplete heads that have reached a limit are refused too.
#[inline]
pub fn parse_response(
    bytes: &[u8],
    request_method: Method,
    limits: &Limits,
    out: &mut [HeaderSpan; MAX_HEADERS],
) -> Result<Option<ResponseHead>, Reject> {
    let window = &bytes[..bytes.len().min(limits.head())];
    let too_large = window.len() == limits.head();
    let need = || if too_large { Err(Reject::HeadTooLarge) } else { Ok(None) };
    let Some((line, at)) = status_line(window)? else { return need() };
    let mut fields = Fields::of_response();
    let Some((headers, end)) = fields::section(window, at, limits.header_lines(), out, &mut fields)? else {
        return need();
    };
    finish(line, headers, end, &fields, request_method, limits).map(Some)
}

struct StatusLine {
    minor: u8,
    status: u16,
    reason: Span,
}

/// The status line, and where the next line starts.
#[inline]
fn status_line(bytes: &[u8]) -> Result<Option<(StatusLine, usize)>, Reject> {
    let Some((minor, at)) = version(bytes, 0, Reject::BadStatusLine)? else { return Ok(None) };
    let Some(b' ') = bytes.get(at) else { return unexpected(bytes, at, Reject::BadStatusLine) };
    let mut status = 0;
    for place in at + 1..at + 4 {
        match bytes.get(place) {
            Some(digit @ b'0'..=b'9') => status = status * 10 + u16::from(digit - b'0'),
            _ => return unexpected(bytes, place, Reject::BadStatusLine),
        }
    }
    if status < 100 {
        return Err(Reject::BadStatusLine);
    }
    let start = match bytes.get(at + 4) {
        Some(b' ') => at + 5,
        Some(b'\r') => at + 4,
        _ => return unexpected(bytes, at + 4, Reject::BadStatusLine),
    };
    let end = start + scan::value(&bytes[start..]);
    match bytes.get(end..) {
        Some([b'\r', b'\n', ..]) => {}
        _ => return unexpected(bytes, end, Reject::BadStatusLine),
    }
    Ok(Some((StatusLine { minor, status, reason: Span::new(start, end) }, end + 2)))
}

/// RFC 9112 6.3, in its order.
#[inline]
fn finish(
    line: StatusLine,
    headers: u16,
    end: usize,
    fields: &Fields,
    request_method: Method,
    limits: &Limits,
) -> Result<ResponseHead, Reject> {
    let StatusLine { minor, status, reason } = line;
    if fields.chunked && minor == 0 {
        return Err(Reject::TransferEncodingInOldVersion);
    }
    let never = status < 200 || status == 204;
    let tunnel = request_method == Method::Connect && (200..300).contains(&status);
    let framing = match fields.content_length {
        _ if never || tunnel || status == 304 || request_method == Method::Head => Framing::None,
        _ if fields.chunked => Framing::Chunked,
        Some(length) if length > limits.body_bytes => return Err(Reject::BodyTooLarge),
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let contradicts = (never || tunnel) && (fields.chunked || fields.content_length.is_some_and(|length| length > 0));
    let announces = framing == Framing::None && !never && !tunnel;
    Ok(ResponseHead {
        status,
        reason,
        minor,
        headers,
        length: end as u16,
        framing,
        announced_length: fields.content_length.filter(|_| announces),
        keep_alive: fields.keeps_alive(minor) && framing != Framing::UntilClose && !contradicts,
        upgrade: status == 101 && fields.upgrades(minor),
    })
}
