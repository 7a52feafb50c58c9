//! Heads written anew.
//!
//! A head is never forwarded as it came. Its parts may also have been in memory that another process writes, so nothing is
//! believed: each piece is copied into the output first, and the copy is what is checked. One pass over the parts, no second
//! look at them.

use crate::request::is_target;
use crate::{Framing, Known, KnownSet, MAX_CONNECTION_OPTIONS, Method, authority, scan};

/// What the sender of a head decides about it, as opposed to what it passes on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Egress<'a> {
    /// How the body that follows is delimited; written as `Content-Length` or `Transfer-Encoding`. Requests without a body:
    /// [`Framing::None`] writes nothing, `Length(0)` a length of 0.
    pub framing: Framing,
    /// `Content-Length` of a response without a body that has one to tell of: to HEAD, or 304. Ignored unless the framing is
    /// [`Framing::None`], and for 1xx and 204.
    pub announced_length: Option<u64>,
    /// Write `Connection: close`. [`Framing::UntilClose`] writes it in any case.
    pub close: bool,
    /// Write `Connection: keep-alive`, which an HTTP/1.0 client needs to be told.
    pub keep_alive_explicit: bool,
    /// Write `Connection: upgrade` and `Upgrade` with this value; `close` and `keep_alive_explicit` then do not count.
    pub upgrade: Option<&'a [u8]>,
    /// Names not to pass on, since `extra` has them or nobody is to see them.
    pub replace: KnownSet,
    /// Headers to append. They are checked like the others, and may not be hop-by-hop or about framing.
    pub extra: &'a [(&'a [u8], &'a [u8])],
}

/// The longest header section that is written, but for the last header.
const HEAD_BYTES: usize = 32 << 10;

/// Why a head cannot be written. What was handed in is not HTTP; whoever handed it in is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
#[non_exhaustive]
pub enum BadHead {
    /// the method is not a token, or longer than 32 bytes
    #[error("the method is not a token, or longer than 32 bytes")]
    Method,
    /// CONNECT is not forwarded
    #[error("CONNECT is not forwarded")]
    Connect,
    /// the request target has none of the forms that the method allows
    #[error("the request target has none of the forms that the method allows")]
    Target,
    /// a header name is not a token of at most 255 bytes
    #[error("a header name is not a token of at most 255 bytes")]
    Name,
    /// a header value has a control byte, or white space at an end
    #[error("a header value has a control byte, or white space at an end")]
    Value,
    /// a request has no Host
    #[error("a request has no Host")]
    NoHost,
    /// Host is not a name or an address with an optional port
    #[error("Host is not a name or an address with an optional port")]
    Host,
    /// Connection lists more than 32 options
    #[error("Connection lists more than 32 options")]
    ConnectionOptions,
    /// the status is not between 100 and 999
    #[error("the status is not between 100 and 999")]
    Status,
    /// the reason phrase has a control byte
    #[error("the reason phrase has a control byte")]
    Reason,
    /// the framing does not fit the message: a request until close, chunks in HTTP/1.0, a body with 1xx, 204 or 304
    #[error(
        "the framing does not fit the message: a request until close, chunks in HTTP/1.0, a body with 1xx, 204 or 304"
    )]
    Framing,
    /// the head is longer than 32 KiB
    #[error("the head is longer than 32 KiB")]
    TooLarge,
}

impl BadHead {
    /// All variants, each at its index.
    pub const ALL: [BadHead; 12] = [
        BadHead::Method,
        BadHead::Connect,
        BadHead::Target,
        BadHead::Name,
        BadHead::Value,
        BadHead::NoHost,
        BadHead::Host,
        BadHead::ConnectionOptions,
        BadHead::Status,
        BadHead::Reason,
        BadHead::Framing,
        BadHead::TooLarge,
    ];

    /// A stable name for counters.
    pub const fn reason(self) -> &'static str {
        match self {
            BadHead::Method => "egress-method",
            BadHead::Connect => "egress-connect",
            BadHead::Target => "egress-target",
            BadHead::Name => "egress-name",
            BadHead::Value => "egress-value",
            BadHead::NoHost => "egress-no-host",
            BadHead::Host => "egress-host",
            BadHead::ConnectionOptions => "egress-connection-options",
            BadHead::Status => "egress-status",
            BadHead::Reason => "egress-reason",
            BadHead::Framing => "egress-framing",
            BadHead::TooLarge => "egress-too-large",
        }
    }

    /// Its place in [`BadHead::ALL`], for counters kept in arrays.
    pub const fn index(self) -> usize {
        self as usize
    }
}

/// Appends a request head, always as HTTP/1.1.
///
/// `method`, `target` and `headers` are what is passed on; hop-by-hop headers (RFC 9110 7.6.1) and what `Connection` names,
/// `Content-Length`, `Expect`, what [`Egress::replace`] lists and any `Host` after the first are left out. The names in
/// `Connection` do not remove a header that is known here and goes to the end, such as `Host` or `X-Forwarded-For`: RFC 9110
/// forbids to list them, and a client would hide from the server what a proxy says of it.
///
/// Errors: [`BadHead`]; `out` is then as before.
pub fn write_request_head<'h>(
    out: &mut Vec<u8>,
    method: &[u8],
    target: &[u8],
    headers: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
    egress: &Egress<'_>,
) -> Result<(), BadHead> {
    undo_unless(out, |out| {
        let start = out.len();
        out.extend_from_slice(method);
        let known = check_method(&out[start..])?;
        out.push(b' ');
        let target_start = out.len();
        out.extend_from_slice(target);
        let copy = &out[target_start..];
        if copy.is_empty() || scan::target(copy) != copy.len() || !is_target(known, copy) {
            return Err(BadHead::Target);
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        let skip = KnownSet::of(&[Known::ContentLength, Known::Expect]);
        if !write_fields(out, headers, egress, skip)? {
            return Err(BadHead::NoHost);
        }
        match egress.framing {
            Framing::None => {}
            Framing::Length(length) => write_length(out, length),
            Framing::Chunked => out.extend_from_slice(CHUNKED),
            Framing::UntilClose => return Err(BadHead::Framing),
        }
        write_connection(out, egress, false)
    })
}

/// Appends a response head as HTTP/1.`minor`.
///
/// `reason` and `headers` are what is passed on, without hop-by-hop headers and what `Connection` names, `Content-Length`
/// and what [`Egress::replace`] lists; see [`write_request_head`].
///
/// Errors: [`BadHead`]; `out` is then as before.
pub fn write_response_head<'h>(
    out: &mut Vec<u8>,
    minor: u8,
    status: u16,
    reason: &[u8],
    headers: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
    egress: &Egress<'_>,
) -> Result<(), BadHead> {
    undo_unless(out, |out| {
        if !(100..=999).contains(&status) {
            return Err(BadHead::Status);
        }
        out.extend_from_slice(if minor == 0 { b"HTTP/1.0 " } else { b"HTTP/1.1 " });
        write_decimal(out, u64::from(status));
        out.push(b' ');
        let start = out.len();
        out.extend_from_slice(reason);
        if scan::value(&out[start..]) != out.len() - start {
            return Err(BadHead::Reason);
        }
        out.extend_from_slice(b"\r\n");
        write_fields(out, headers, egress, KnownSet::of(&[Known::ContentLength]))?;
        // These have no body and say nothing of one (RFC 9110 8.6).
        let never = status < 200 || status == 204;
        match egress.framing {
            Framing::None | Framing::Length(0) if never => {}
            Framing::None => egress.announced_length.into_iter().for_each(|length| write_length(out, length)),
            _ if never || status == 304 => return Err(BadHead::Framing),
            Framing::Length(length) => write_length(out, length),
            Framing::Chunked if minor == 0 => return Err(BadHead::Framing),
            Framing::Chunked => out.extend_from_slice(CHUNKED),
            Framing::UntilClose => {}
        }
        write_connection(out, egress, egress.framing == Framing::UntilClose)
    })
}

const CHUNKED: &[u8] = b"Transfer-Encoding: chunked\r\n";

#[inline]
fn undo_unless(out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>) -> Result<(), BadHead>) -> Result<(), BadHead> {
    let start = out.len();
    write(out).inspect_err(|_| out.truncate(start))
}

fn check_method(copy: &[u8]) -> Result<Method, BadHead> {
    match Method::classify(copy) {
        Method::Connect => Err(BadHead::Connect),
        Method::Other if copy.len() > 32 || !scan::is_token(copy) => Err(BadHead::Method),
        method => Ok(method),
    }
}

/// What became of a header that was handed in.
pub(crate) enum Piece {
    Written(Known),
    LeftOut,
    /// A `Connection` line, still in the output from `line` on, for its options to be read.
    Connection {
        line: usize,
    },
}

/// Appends a header line unless its name is in `skip`. On an error the output ends anywhere.
#[inline]
pub(crate) fn append(out: &mut Vec<u8>, name: &[u8], value: &[u8], skip: KnownSet) -> Result<Piece, BadHead> {
    let line = out.len();
    out.extend_from_slice(name);
    let copy = &out[line..];
    let known = Known::classify(copy);
    // A name that is known is a token.
    if known == Known::Other && (copy.len() > 255 || !scan::is_token(copy)) {
        return Err(BadHead::Name);
    }
    if known != Known::Connection && skip.contains(known) {
        out.truncate(line);
        return Ok(Piece::LeftOut);
    }
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value);
    if !scan::is_value(&out[start..]) {
        return Err(BadHead::Value);
    }
    if known == Known::Host && !authority::is_host(&out[start..]) {
        return Err(BadHead::Host);
    }
    out.extend_from_slice(b"\r\n");
    Ok(if known == Known::Connection { Piece::Connection { line } } else { Piece::Written(known) })
}

/// Appends what is passed on of `headers`, and the extra ones. Whether there is a `Host`.
#[inline]
fn write_fields<'h>(
    out: &mut Vec<u8>,
    headers: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
    egress: &Egress<'_>,
    skip: KnownSet,
) -> Result<bool, BadHead> {
    let start = out.len();
    let mut skip = KnownSet::HOP_BY_HOP.union(skip).union(egress.replace);
    let (mut options, mut nominated, mut has_host) = (0, false, false);
    for (name, value) in headers {
        // Spans in shared memory may overlap: a small message could be made a large head.
        if out.len() - start > HEAD_BYTES {
            return Err(BadHead::TooLarge);
        }
        match append(out, name, value, skip)? {
            Piece::LeftOut => {}
            Piece::Written(Known::Host) => {
                has_host = true;
                skip = skip.with(Known::Host);
            }
            Piece::Written(_) => {}
            Piece::Connection { line } => {
                let value = &out[line + "Connection: ".len()..out.len() - 2];
                let mut nominates = false;
                for option in scan::list(value) {
                    options += 1;
                    nominates |= names_a_header(option);
                }
                if options > MAX_CONNECTION_OPTIONS {
                    return Err(BadHead::ConnectionOptions);
                }
                if nominates {
                    nominated = true;
                } else {
                    out.truncate(line);
                }
            }
        }
    }
    if nominated {
        drop_nominated(out, start);
    }
    let skip = if has_host { KnownSet::HOP_BY_HOP.with(Known::Host) } else { KnownSet::HOP_BY_HOP };
    for (name, value) in egress.extra {
        match append(out, name, value, skip.with(Known::ContentLength))? {
            Piece::Written(known) => has_host |= known == Known::Host,
            Piece::LeftOut => {}
            Piece::Connection { line } => out.truncate(line),
        }
    }
    Ok(has_host)
}

/// Whether an option of `Connection` can name a header that would otherwise be passed on.
fn names_a_header(option: &[u8]) -> bool {
    !option.eq_ignore_ascii_case(b"close") && Known::classify(option) == Known::Other
}

/// Removes from the lines that were written from `start` on those that a `Connection` among them names, and `Connection`
/// itself. The lines are well-formed and list at most [`MAX_CONNECTION_OPTIONS`]. What stays is appended behind them before
/// they go, so that nothing is allocated once the output has its size.
#[cold]
fn drop_nominated(out: &mut Vec<u8>, start: usize) {
    let end = out.len();
    let (mut options, mut count) = ([(0, 0); MAX_CONNECTION_OPTIONS], 0);
    let mut at = start;
    while let Some((name, next)) = written_line(&out[..end], at) {
        if Known::classify(&out[at..name]) == Known::Connection {
            let mut from = name + 2;
            for part in out[from..next - 2].split(|&byte| byte == b',') {
                let option = scan::trim(part);
                let trimmed = from + part.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
                if let Some(slot) = options.get_mut(count).filter(|_| !option.is_empty()) {
                    *slot = (trimmed, trimmed + option.len());
                    count += 1;
                }
                from += part.len() + 1;
            }
        }
        at = next;
    }
    at = start;
    while let Some((name, next)) = written_line(&out[..end], at) {
        let name = &out[at..name];
        let goes = match Known::classify(name) {
            Known::Connection => true,
            Known::Other => options[..count].iter().any(|&(from, to)| out[from..to].eq_ignore_ascii_case(name)),
            _ => false,
        };
        if !goes {
            out.extend_from_within(at..next);
        }
        at = next;
    }
    out.drain(start..end);
}

/// Where the name of the line at `at` ends, and where the next line starts, if there is one.
fn written_line(lines: &[u8], at: usize) -> Option<(usize, usize)> {
    let rest = &lines[at..];
    let colon = rest.iter().position(|&byte| byte == b':')?;
    let lf = rest.iter().position(|&byte| byte == b'\n')?;
    Some((at + colon, at + lf + 1))
}

/// Appends what concerns the connection, and the final CRLF.
#[inline]
fn write_connection(out: &mut Vec<u8>, egress: &Egress<'_>, until_close: bool) -> Result<(), BadHead> {
    if let Some(protocol) = egress.upgrade {
        out.extend_from_slice(b"Connection: upgrade\r\n");
        append(out, b"Upgrade", protocol, KnownSet::EMPTY)?;
    } else if egress.close || until_close {
        out.extend_from_slice(b"Connection: close\r\n");
    } else if egress.keep_alive_explicit {
        out.extend_from_slice(b"Connection: keep-alive\r\n");
    }
    out.extend_from_slice(b"\r\n");
    Ok(())
}

fn write_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    write_decimal(out, length);
    out.extend_from_slice(b"\r\n");
}

fn write_decimal(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}
