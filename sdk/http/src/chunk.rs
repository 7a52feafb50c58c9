//! Writing the chunked coding (RFC 9112 7.1).

use crate::egress::{self, BadHead, Piece};
use crate::{Known, KnownSet};

/// What follows the bytes of a chunk.
pub const CHUNK_END: &[u8; 2] = b"\r\n";

/// The end of a chunked body without trailers.
pub const LAST_CHUNK: &[u8; 5] = b"0\r\n\r\n";

/// Appends the line before a chunk of `length` bytes. The bytes and [`CHUNK_END`] follow. Nothing is written for a length of
/// 0, which would end the body; do not write [`CHUNK_END`] then.
#[inline]
pub fn write_chunk_head(out: &mut Vec<u8>, length: usize) {
    if length == 0 {
        return;
    }
    let mut digits = [0; 16];
    let mut at = digits.len();
    let mut left = length;
    while left > 0 {
        at -= 1;
        digits[at] = b"0123456789abcdef"[left & 15];
        left >>= 4;
    }
    out.extend_from_slice(&digits[at..]);
    out.extend_from_slice(b"\r\n");
}

/// Appends the last chunk, `trailers` and the final CRLF. Trailers that concern framing or the connection are left out.
///
/// Errors: [`BadHead`] if a name or a value is none; `out` is as before.
pub fn write_last_chunk<'a>(
    out: &mut Vec<u8>,
    trailers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
) -> Result<(), BadHead> {
    const LEFT_OUT: KnownSet =
        KnownSet::HOP_BY_HOP.union(KnownSet::of(&[Known::Host, Known::ContentLength, Known::Expect]));
    let start = out.len();
    out.extend_from_slice(b"0\r\n");
    for (name, value) in trailers {
        match egress::append(out, name, value, LEFT_OUT) {
            Ok(Piece::Written(_) | Piece::LeftOut) => {}
            Ok(Piece::Connection { line }) => out.truncate(line),
            Err(bad) => {
                out.truncate(start);
                return Err(bad);
            }
        }
    }
    out.extend_from_slice(CHUNK_END);
    Ok(())
}
