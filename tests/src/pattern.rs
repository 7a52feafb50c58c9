//! Bytes of any length that say at each place which place it is, without being stored or hashed.

use std::sync::LazyLock;

/// Length of the block that repeats: a prime, so that pieces of a body's usual sizes never look like each other.
const BLOCK: usize = 1_048_573;

static BYTES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..BLOCK).map(|_| next()).collect()
});

/// A stream of bytes that is the same wherever it is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pattern {
    at: u64,
}

impl Pattern {
    /// The next bytes, at most `limit`; at least one if `limit` is not 0.
    pub fn next(&mut self, limit: u64) -> &'static [u8] {
        let start = (self.at % BLOCK as u64) as usize;
        let length = usize::try_from(limit).unwrap_or(usize::MAX).min(BLOCK - start);
        self.at += length as u64;
        &BYTES[start..start + length]
    }

    /// Whether these are the next bytes.
    pub fn check(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            let expected = self.next(bytes.len() as u64);
            let (now, rest) = bytes.split_at(expected.len());
            if now != expected {
                return false;
            }
            bytes = rest;
        }
        true
    }

    /// How many bytes have gone.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_that_is_missing_or_doubled_shows() {
        let mut maker = Pattern::default();
        let bytes: Vec<u8> = std::iter::repeat_with(|| maker.next(4096)).take(600).flatten().copied().collect();
        let mut whole = Pattern::default();
        assert!(bytes.chunks(1000).all(|piece| whole.check(piece)));
        assert_eq!(whole.position(), bytes.len() as u64);
        let mut short = Pattern::default();
        assert!(short.check(&bytes[..4096]) && !short.check(&bytes[8192..]));
        let mut again = Pattern::default();
        assert!(again.check(&bytes[..4096]) && !again.check(&bytes[..4096]));
    }
}
