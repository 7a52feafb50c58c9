//! Which bytes may stand where, and finding the first that may not.

/// Bytes of a token (RFC 9110 5.6.2): methods and header names.
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"!#$%&'*+-.^_`|~";
    let mut index = 0;
    while index < others.len() {
        table[others[index] as usize] = true;
        index += 1;
    }
    table
};

/// How many bytes `bytes` starts with that a token may have.
#[inline]
pub(crate) fn token(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| !TOKEN[usize::from(byte)]).unwrap_or(bytes.len())
}

/// Whether all of `bytes` is one token.
#[inline]
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token(bytes) == bytes.len()
}

/// How many bytes `bytes` starts with that a request target may have: visible ASCII without `#` (RFC 3986; a fragment is
/// never sent).
#[inline]
pub(crate) fn target(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| !matches!(byte, 0x21..=0x7e) || byte == b'#').unwrap_or(bytes.len())
}

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGH: u64 = 0x8080_8080_8080_8080;

/// The high bit of each byte of `word` that is a control byte, HTAB included. Bytes above the lowest marked one may be
/// marked by a carry; the lowest is right.
#[inline]
const fn controls(word: u64) -> u64 {
    let below_space = word.wrapping_sub(ONES * 0x20) & !word;
    let delete = word ^ (ONES * 0x7f);
    (below_space | (delete.wrapping_sub(ONES) & !delete)) & HIGH
}

/// How many bytes `bytes` starts with that a header value may have: HTAB, SP, visible bytes and those above 0x7f
/// (RFC 9110 5.5).
#[inline]
pub(crate) fn value(bytes: &[u8]) -> usize {
    let mut at = 0;
    loop {
        at += visible(&bytes[at..]);
        match bytes.get(at) {
            Some(b'\t') => at += 1,
            _ => return at,
        }
    }
}

/// How many bytes `bytes` starts with that are no control bytes; eight at a time.
#[inline]
fn visible(bytes: &[u8]) -> usize {
    let (words, rest) = bytes.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let marked = controls(u64::from_le_bytes(*word));
        if marked != 0 {
            return index * 8 + marked.trailing_zeros() as usize / 8;
        }
    }
    let control = rest.iter().position(|byte| byte.is_ascii_control());
    bytes.len() - rest.len() + control.unwrap_or(rest.len())
}

/// Whether `bytes` is a value as it is sent: no control byte but HTAB, no white space at its ends.
#[inline]
pub(crate) fn is_value(bytes: &[u8]) -> bool {
    let edge = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !edge(bytes.first()) && !edge(bytes.last()) && (!has_controls(bytes) || value(bytes) == bytes.len())
}

/// Whether there is a control byte in `bytes`, HTAB included. The last word overlaps the one before it.
#[inline]
fn has_controls(bytes: &[u8]) -> bool {
    let marked = |word: &[u8; 8]| controls(u64::from_le_bytes(*word)) != 0;
    match bytes.last_chunk() {
        Some(last) => bytes.as_chunks().0.iter().any(marked) || marked(last),
        None => bytes.iter().any(u8::is_ascii_control),
    }
}

/// `bytes` without white space (SP, HTAB) at its ends.
#[inline]
pub(crate) fn trim(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// The members of a comma-separated list (RFC 9110 5.6.1), trimmed; empty ones are left out.
#[inline]
pub(crate) fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|&byte| byte == b',').map(trim).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn eight_at_a_time_is_one_at_a_time(bytes: Vec<u8>) {
            let slow = bytes.iter().position(|&b| b.is_ascii_control() && b != b'\t').unwrap_or(bytes.len());
            prop_assert_eq!(value(&bytes), slow);
            prop_assert_eq!(has_controls(&bytes), bytes.iter().any(u8::is_ascii_control));
        }
    }

    #[test]
    fn every_byte_at_every_place() {
        for byte in 0..=255u8 {
            for place in 0..20 {
                let mut bytes = [b'a'; 20];
                bytes[place] = byte;
                let allowed = byte == b'\t' || !byte.is_ascii_control();
                assert_eq!(value(&bytes), if allowed { 20 } else { place }, "{byte:#x} at {place}");
            }
        }
    }

    #[test]
    fn lists_are_cut_at_commas() {
        assert_eq!(list(b" a ,\t,b,, c").collect::<Vec<_>>(), [b"a", b"b", b"c"]);
        assert_eq!(list(b"").count(), 0);
    }
}
