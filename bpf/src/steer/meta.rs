//! What the program puts in front of a packet.

/// Bytes in front of a packet's first one, in its AF_XDP buffer, that hold its tag.
pub const META_BYTES: usize = 8;

/// `STEER_MAGIC` in `steer.h`.
const MAGIC: u32 = 0x6e74_656d;

/// What a program says of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Where it goes.
    pub tag: u16,
    /// The port that a fast path chose for it to leave by.
    pub egress: Option<u8>,
    /// Whether it travels its chain in reverse; only said where `tag` is a hop.
    pub is_reverse: bool,
}

/// Bit of the mark's second word: in reverse. Its low byte is the egress and one, 0 for none.
const REVERSE: u16 = 1 << 15;

/// Takes the mark out of the [`META_BYTES`] in front of a packet; none if the driver had no room for it.
///
/// The bytes are marked as taken, since the buffer may next hold a packet that arrives without a mark.
#[inline]
pub fn take_mark(before: &mut [u8; META_BYTES]) -> Option<Mark> {
    let [tag_low, tag_high, word_low, word_high, magic @ ..] = before;
    if u32::from_ne_bytes(*magic) != MAGIC {
        return None;
    }
    *magic = [0; 4];
    let word = u16::from_ne_bytes([*word_low, *word_high]);
    Some(Mark {
        tag: u16::from_ne_bytes([*tag_low, *tag_high]),
        egress: (word as u8).checked_sub(1),
        is_reverse: word & REVERSE != 0,
    })
}

/// [`take_mark`] where only rules make marks, which say no more than the tag.
#[inline]
pub fn take_tag(before: &mut [u8; META_BYTES]) -> Option<u16> {
    take_mark(before).map(|mark| mark.tag)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_taken_once() {
        let mut before = [0; META_BYTES];
        assert_eq!(take_mark(&mut before), None);
        before[..2].copy_from_slice(&777_u16.to_ne_bytes());
        before[4..].copy_from_slice(&MAGIC.to_ne_bytes());
        assert_eq!(take_mark(&mut before), Some(Mark { tag: 777, egress: None, is_reverse: false }));
        assert_eq!(take_mark(&mut before), None);
        before[2..4].copy_from_slice(&0x8003_u16.to_ne_bytes());
        before[4..].copy_from_slice(&MAGIC.to_ne_bytes());
        assert_eq!(take_mark(&mut before), Some(Mark { tag: 777, egress: Some(2), is_reverse: true }));
    }
}
