//! Request heads (RFC 9112 3).

use crate::authority::{self, split_absolute};
use crate::fields::{self, unexpected};
use crate::framing::Fields;
use crate::{Framing, HeaderSpan, Limits, MAX_HEADERS, Method, Reject, Span, scan};

/// The longest method that is taken for one. The longest registered has 17 bytes (`UPDATEREDIRECTREF`).
const METHOD_BYTES: usize = 32;

/// What the head of a request says. Spans are offsets into the bytes that were parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHead {
    /// The method.
    pub method: Method,
    /// Where the method is.
    pub method_span: Span,
    /// Where the target is: origin form, absolute form, `*` with OPTIONS, or host and port with CONNECT. Its path is as the
    /// client spelled it; [`canonical_target`](crate::canonical_target) gives the one to decide by.
    pub target: Span,
    /// The minor version: 0 or 1.
    pub minor: u8,
    /// How many header lines there are; as many spans are filled.
    pub headers: u16,
    /// Bytes of the head, final CRLF included, and an empty line before it: the body starts there.
    pub length: u16,
    /// How the body is delimited; never [`Framing::UntilClose`].
    pub framing: Framing,
    /// Whether the client can use the connection again.
    pub keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends the body. False without a body, and with HTTP/1.0
    /// (RFC 9110 10.1.1).
    pub expect_continue: bool,
    /// Whether the client asks for another protocol in a way that may be let through: HTTP/1.1, no body, the option
    /// `upgrade` in `Connection`, and one `Upgrade` with a single protocol, which is not `h2c`. Otherwise the request is an
    /// ordinary one; a server may always ignore `Upgrade` (RFC 9110 7.8).
    pub upgrade: bool,
    /// The host that is asked for: the value of `Host`, or the authority of an absolute target without one. If both are
    /// there, they agree. `None` only with HTTP/1.0.
    pub host: Option<Span>,
}

/// The request head at the front of `bytes`, with its header lines in `out`; `None` if more bytes are needed.
///
/// One empty line before the request line is skipped (RFC 9112 2.2). Bytes after the head are not looked at. The answer for
/// a prefix is the same or `None`, so it does not matter how the bytes arrive; each call starts at the front.
///
/// Errors: [`Reject`], as soon as the bytes force it. Incomplete heads that have reached a limit are refused too.
#[inline]
pub fn parse_request(
    bytes: &[u8],
    limits: &Limits,
    out: &mut [HeaderSpan; MAX_HEADERS],
) -> Result<Option<RequestHead>, Reject> {
    let window = &bytes[..bytes.len().min(limits.head())];
    let full = window.len() == limits.head();
    let Some((line, at)) = request_line(window, limits)? else {
        return if full { Err(Reject::TargetTooLong) } else { Ok(None) };
    };
    let mut fields = Fields::of_request();
    let Some((headers, end)) = fields::section(window, at, limits.header_lines(), out, &mut fields)? else {
        return if full { Err(Reject::HeadTooLarge) } else { Ok(None) };
    };
    finish(window, line, headers, end, &fields, limits).map(Some)
}

/// The parts of a request line.
struct RequestLine {
    method: Method,
    method_span: Span,
    target: Span,
    minor: u8,
}

/// The request line, and where the next line starts.
#[inline]
fn request_line(bytes: &[u8], limits: &Limits) -> Result<Option<(RequestLine, usize)>, Reject> {
    let start = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
    let token = scan::token(&bytes[start..]);
    if token > METHOD_BYTES {
        return Err(Reject::MethodTooLong);
    }
    let method_end = start + token;
    match bytes.get(method_end) {
        Some(b' ') if token > 0 => {}
        Some(b'\r') if token == 0 && start == 2 => {
            return unexpected(bytes, method_end, Reject::LeadingEmptyLines);
        }
        Some(b'\r') if token > 0 => return unexpected(bytes, method_end, Reject::BadRequestLine),
        _ => return unexpected(bytes, method_end, Reject::BadMethod),
    }
    let target_start = method_end + 1;
    let target_end = target_start + scan::target(&bytes[target_start..]);
    if target_end - target_start > limits.target_bytes {
        return Err(Reject::TargetTooLong);
    }
    match bytes.get(target_end) {
        Some(b' ') if target_end > target_start => {}
        // HTTP/0.9 has no version.
        Some(b'\r') => return unexpected(bytes, target_end, Reject::VersionUnsupported),
        _ => return unexpected(bytes, target_end, Reject::BadTarget),
    }
    let Some((minor, next)) = version_line(bytes, target_end + 1)? else { return Ok(None) };
    let method = Method::classify(&bytes[start..method_end]);
    if !is_target(method, &bytes[target_start..target_end]) {
        return Err(Reject::BadTarget);
    }
    let (method_span, target) = (Span::new(start, method_end), Span::new(target_start, target_end));
    Ok(Some((RequestLine { method, method_span, target, minor }, next)))
}

/// The version at `at` and the CRLF after it: minor version, and where the next line starts.
#[inline]
fn version_line(bytes: &[u8], at: usize) -> Result<Option<(u8, usize)>, Reject> {
    if bytes[at..].starts_with(b"HTTP/1.1\r\n") {
        return Ok(Some((1, at + 10)));
    }
    let Some((minor, end)) = version(bytes, at, Reject::BadRequestLine)? else { return Ok(None) };
    match bytes.get(end..) {
        Some([b'\r', b'\n', ..]) => Ok(Some((minor, end + 2))),
        _ => unexpected(bytes, end, Reject::BadRequestLine),
    }
}

/// `HTTP/1.0` or `HTTP/1.1` at `at`: minor version, and where it ends.
pub(crate) fn version(bytes: &[u8], at: usize, otherwise: Reject) -> Result<Option<(u8, usize)>, Reject> {
    const PATTERN: &[u8; 8] = b"HTTP/d.d";
    for (offset, &wanted) in PATTERN.iter().enumerate() {
        match bytes.get(at + offset) {
            Some(byte) if *byte == wanted && wanted != b'd' => {}
            Some(byte) if wanted == b'd' && byte.is_ascii_digit() => {}
            _ => return unexpected(bytes, at + offset, otherwise),
        }
    }
    match &bytes[at + 5..at + 8] {
        b"1.1" => Ok(Some((1, at + 8))),
        b"1.0" => Ok(Some((0, at + 8))),
        _ => Err(Reject::VersionUnsupported),
    }
}

/// Whether `target` has a form that `method` allows (RFC 9112 3.2). Its bytes are those of a target.
#[inline]
pub(crate) fn is_target(method: Method, target: &[u8]) -> bool {
    match (target, method) {
        (_, Method::Connect) => authority::is_host(target),
        ([b'/', ..], _) | (b"*", Method::Options) => true,
        _ => split_absolute(target).is_some_and(|(_, authority, _)| authority::is_host(authority)),
    }
}

#[inline]
fn finish(
    bytes: &[u8],
    line: RequestLine,
    headers: u16,
    end: usize,
    fields: &Fields,
    limits: &Limits,
) -> Result<RequestHead, Reject> {
    let RequestLine { method, method_span, target, minor } = line;
    if fields.host.is_none() && minor >= 1 {
        return Err(Reject::NoHost);
    }
    let mut host = fields.host;
    if bytes[usize::from(target.start)] != b'/' {
        host = absolute_host(bytes, target, host)?;
    }
    let framing = match fields.content_length {
        _ if fields.chunked && minor == 0 => return Err(Reject::TransferEncodingInOldVersion),
        _ if fields.chunked => Framing::Chunked,
        Some(length) if length > limits.body_bytes => return Err(Reject::BodyTooLarge),
        Some(length) => Framing::Length(length),
        None => Framing::None,
    };
    Ok(RequestHead {
        method,
        method_span,
        target,
        minor,
        headers,
        length: end as u16,
        framing,
        keep_alive: fields.keeps_alive(minor),
        expect_continue: fields.expects_continue && minor >= 1 && !framing.is_empty(),
        upgrade: fields.upgrades(minor) && framing.is_empty(),
        host,
    })
}

/// The host of a request whose target may be in absolute form. Errors: [`Reject::HostDisagrees`].
#[cold]
fn absolute_host(bytes: &[u8], target: Span, host: Option<Span>) -> Result<Option<Span>, Reject> {
    let text = target.of(bytes).unwrap_or_default();
    let Some((scheme, authority, rest)) = split_absolute(text) else { return Ok(host) };
    match host.and_then(|host| host.of(bytes)) {
        Some(value) if !authority::agrees(scheme, authority, value) => Err(Reject::HostDisagrees),
        Some(_) => Ok(host),
        None => {
            let end = usize::from(target.start + target.length) - rest.len();
            Ok(Some(Span::new(end - authority.len(), end)))
        }
    }
}
