//! Header lines (RFC 9112 5): one at a time, from left to right, strictly.
//!
//! Every decision here is made at the first byte that forces it and from the bytes before it, so a prefix of the input gives
//! either the same answer or none yet.

use crate::framing::Fields;
use crate::{HeaderSpan, Known, MAX_HEADERS, Reject, scan};

/// What a line is.
pub(crate) enum Line {
    /// A header, and where the next line starts.
    Header(HeaderSpan, usize),
    /// The empty line; where the body starts.
    End(usize),
}

/// The line of `bytes` that starts at `at`; `None` if it is not complete. `bytes` is at most 65,535 long.
#[inline]
pub(crate) fn line(bytes: &[u8], at: usize) -> Result<Option<Line>, Reject> {
    let Some(rest) = bytes.get(at..) else { return Ok(None) };
    let name_length = scan::token(rest);
    match rest.get(name_length) {
        None => return if name_length > 255 { Err(Reject::HeaderNameTooLong) } else { Ok(None) },
        Some(b':') if (1..=255).contains(&name_length) => {}
        Some(_) => return no_name(rest, at, name_length),
    }
    let mut start = name_length + 1;
    while let Some(b' ' | b'\t') = rest.get(start) {
        start += 1;
    }
    let value = &rest[start..];
    let mut length = scan::value(value);
    let next = match value.get(length..) {
        Some([b'\r', b'\n', ..]) => start + length + 2,
        Some([]) => return Ok(None),
        Some(_) | None => return unexpected(value, length, Reject::BadHeaderValue),
    };
    while length > 0 && matches!(value[length - 1], b' ' | b'\t') {
        length -= 1;
    }
    let header = HeaderSpan {
        name_start: at as u16,
        value_start: (at + start) as u16,
        value_length: length as u16,
        name_length: name_length as u8,
        known: Known::classify(&rest[..name_length]) as u8,
    };
    Ok(Some(Line::Header(header, at + next)))
}

/// What a line is that does not start with a name and a colon.
#[cold]
fn no_name(rest: &[u8], at: usize, name_length: usize) -> Result<Option<Line>, Reject> {
    if name_length > 255 {
        return Err(Reject::HeaderNameTooLong);
    }
    match (&rest[name_length..], name_length) {
        ([b'\r', b'\n', ..], 0) => Ok(Some(Line::End(at + 2))),
        ([b' ' | b'\t', ..], 0) => Err(Reject::ObsFold),
        ([b':', ..], 0) => Err(Reject::EmptyHeaderName),
        ([b' ' | b'\t', ..], _) => Err(Reject::SpaceBeforeColon),
        _ => unexpected(rest, name_length, Reject::BadHeaderName),
    }
}

/// Why `bytes[at]` does not belong there: line ends and NUL have names of their own, anything else is `otherwise`. `None` if
/// the byte after it decides and is not there.
#[cold]
pub(crate) fn unexpected<T>(bytes: &[u8], at: usize, otherwise: Reject) -> Result<Option<T>, Reject> {
    match bytes.get(at..) {
        None | Some([] | [b'\r']) => Ok(None),
        Some([b'\n', ..]) => Err(Reject::BareLf),
        Some([0, ..]) => Err(Reject::Nul),
        Some([b'\r', next, ..]) if *next != b'\n' => Err(Reject::BareCr),
        Some(_) => Err(otherwise),
    }
}

/// All header lines from `at` to the empty line: how many, and where the body starts. `fields` learns what they mean.
#[inline]
pub(crate) fn section(
    bytes: &[u8],
    mut at: usize,
    most: usize,
    out: &mut [HeaderSpan; MAX_HEADERS],
    fields: &mut Fields,
) -> Result<Option<(u16, usize)>, Reject> {
    let mut count = 0;
    loop {
        match line(bytes, at) {
            Ok(Some(Line::Header(header, next))) => {
                let slot = out.get_mut(count).filter(|_| count < most).ok_or(Reject::TooManyHeaders)?;
                *slot = header;
                fields.note(header, bytes)?;
                count += 1;
                at = next;
            }
            Ok(Some(Line::End(next))) => return Ok(Some((count as u16, next))),
            Ok(None) => return Ok(None),
            Err(Reject::ObsFold) if count == 0 => return Err(Reject::LeadingWhitespace),
            Err(reject) => return Err(reject),
        }
    }
}
