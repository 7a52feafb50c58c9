//! The one spelling of a path (CVE-2019-9901, CVE-2021-29492).
//!
//! If the proxy matches one spelling and the server serves another, a rule for `/admin` does not hold for `/x/../admin`. So
//! there is one spelling, by RFC 3986 6.2.2 and stricter, and it is the one that is matched, rewritten and forwarded.

use crate::authority::split_absolute;
use crate::{Reject, scan};

/// Writes the canonical spelling of `target` to `out`, which is cleared first, and says whether it differs. If it does not,
/// use `target`; `out` is then unspecified.
///
/// In the path: dot segments are resolved, repeated slashes are one, unreserved bytes are not percent-encoded, and percent
/// encodings have upper-case digits. Scheme and authority of the absolute form are taken off; whether the authority agrees
/// with `Host` is checked by [`parse_request`](crate::parse_request), and [`authority_of`](crate::authority_of) tells it. The
/// query stays as it is, after a check of its bytes; so does `*`. CONNECT has no path: its target is refused here.
///
/// Errors: [`Reject::PathEscapesRoot`] for `/..`; [`Reject::AmbiguousPath`] for a backslash, an encoded slash, backslash or
/// NUL, and for a dot segment with parameters (`/..;x`), which some servers resolve; [`Reject::BadPercent`];
/// [`Reject::BadTarget`] for another form or another byte.
#[inline]
pub fn canonical_target(target: &[u8], out: &mut Vec<u8>) -> Result<bool, Reject> {
    if scan::target(target) != target.len() {
        return Err(Reject::BadTarget);
    }
    if is_plain(target) || target == b"*" {
        return Ok(false);
    }
    out.clear();
    rewrite(target, out)?;
    Ok(out != target)
}

/// Whether nothing of the path can be spelled otherwise: it starts with a slash, and has neither percent sign nor backslash
/// nor a slash that a slash or a dot follows.
#[inline]
fn is_plain(target: &[u8]) -> bool {
    let mut after_slash = false;
    if target.first() != Some(&b'/') {
        return false;
    }
    for &byte in target {
        match byte {
            b'?' => return true,
            b'%' | b'\\' => return false,
            b'/' | b'.' if after_slash => return false,
            _ => after_slash = byte == b'/',
        }
    }
    true
}

#[cold]
fn rewrite(target: &[u8], out: &mut Vec<u8>) -> Result<(), Reject> {
    let target = match target {
        [b'/', ..] => target,
        _ => split_absolute(target).map(|(_, _, rest)| rest).ok_or(Reject::BadTarget)?,
    };
    let end = target.iter().position(|&byte| byte == b'?').unwrap_or(target.len());
    let (path, query) = target.split_at(end);
    // The output always ends where a segment may start: after a slash.
    out.push(b'/');
    let mut segments = path.split(|&byte| byte == b'/').filter(|segment| !segment.is_empty()).peekable();
    while let Some(segment) = segments.next() {
        let start = out.len();
        decode(segment, out)?;
        let segment = &out[start..];
        let name = segment.split(|&byte| byte == b';').next().unwrap_or_default();
        if name.len() != segment.len() && matches!(name, b"." | b"..") {
            return Err(Reject::AmbiguousPath);
        }
        match segment {
            b"." => out.truncate(start),
            b".." => {
                out.truncate(start - 1);
                let slash = out.iter().rposition(|&byte| byte == b'/').ok_or(Reject::PathEscapesRoot)?;
                out.truncate(slash + 1);
            }
            _ if segments.peek().is_some() || path.ends_with(b"/") => out.push(b'/'),
            _ => {}
        }
    }
    out.extend_from_slice(query);
    Ok(())
}

/// Appends `segment` with each percent encoding as it must be spelled.
fn decode(segment: &[u8], out: &mut Vec<u8>) -> Result<(), Reject> {
    let mut rest = segment;
    while let [byte, after @ ..] = rest {
        rest = after;
        match byte {
            b'\\' => return Err(Reject::AmbiguousPath),
            b'%' => {
                let [high, low, after @ ..] = rest else { return Err(Reject::BadPercent) };
                let value = |digit: &u8| char::from(*digit).to_digit(16).ok_or(Reject::BadPercent);
                let decoded = (value(high)? * 16 + value(low)?) as u8;
                match decoded {
                    b'/' | b'\\' | 0 => return Err(Reject::AmbiguousPath),
                    b'-' | b'.' | b'_' | b'~' => out.push(decoded),
                    _ if decoded.is_ascii_alphanumeric() => out.push(decoded),
                    _ => out.extend_from_slice(&[b'%', high.to_ascii_uppercase(), low.to_ascii_uppercase()]),
                }
                rest = after;
            }
            _ => out.push(*byte),
        }
    }
    Ok(())
}
