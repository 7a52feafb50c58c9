//! Reading and editing the headers of a message, whichever head it holds.

use middlenet_http::HeaderSpan;

use super::Message;
use super::message::{name_span, value_span};

#[inline]
fn is(message: &Message<'_>, header: &HeaderSpan, name: &[u8]) -> bool {
    usize::from(header.name_length) == name.len() && message.span(name_span(header)).eq_ignore_ascii_case(name)
}

/// The value of the first header of that name.
pub(super) fn get<'m>(message: &'m Message<'_>, name: &str) -> Option<&'m [u8]> {
    let found = message.index().iter().find(|h| is(message, h, name.as_bytes()))?;
    Some(message.span(value_span(found)))
}

/// Replaces all headers of that name by one.
pub(super) fn set(message: &mut Message<'_>, name: &str, value: &[u8]) {
    let Some(at) = position(message, name, 0) else { return message.push_header(name.as_bytes(), value) };
    let Some(span) = message.append(&[value]) else { return };
    let entry = &mut message.index_mut()[at];
    (entry.value_start, entry.value_length) = (span.start, span.length);
    remove_from(message, name, at + 1);
}

/// Removes all headers of that name, and says whether there were any.
pub(super) fn remove(message: &mut Message<'_>, name: &str) -> bool {
    remove_from(message, name, 0)
}

/// Removes the headers that are not to be kept, and says how many.
pub(super) fn retain(message: &mut Message<'_>, mut keep: impl FnMut(&[u8], &[u8]) -> bool) -> usize {
    let count = message.index().len();
    let mut kept = 0;
    for at in 0..count {
        // Others may write the count meanwhile; the table has its size.
        let header = message.index_mut()[at];
        if keep(message.span(name_span(&header)), message.span(value_span(&header))) {
            message.index_mut()[kept] = header;
            kept += 1;
        }
    }
    message.header_mut().headers = kept as u16;
    count - kept
}

fn remove_from(message: &mut Message<'_>, name: &str, from: usize) -> bool {
    // Read once: a process that shares the buffer may write another count meanwhile. The table has its size in any case.
    let count = message.index().len();
    let first = from.min(count);
    let mut kept = first;
    for at in first..count {
        let header = message.index_mut()[at];
        if !is(message, &header, name.as_bytes()) {
            message.index_mut()[kept] = header;
            kept += 1;
        }
    }
    if kept < count {
        message.header_mut().headers = kept as u16;
    }
    kept < count
}

fn position(message: &Message<'_>, name: &str, from: usize) -> Option<usize> {
    let found = message.index().iter().skip(from).position(|h| is(message, h, name.as_bytes()))?;
    Some(found + from)
}
