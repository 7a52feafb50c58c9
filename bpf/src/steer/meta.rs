//! What the program puts in front of a packet.

/// Bytes in front of a packet's first one, in its AF_XDP buffer, that hold its tag.
pub const META_BYTES: usize = 8;

/// `STEER_MAGIC` in `hand_over.h`.
const MAGIC: u32 = 0x6e74_656d;

/// What a tag stands for when it is [`take_mark`]'s: where a packet goes, and what fast paths have made of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The tag.
    pub tag: u16,
    /// The port by which it is to leave, if a fast path has chosen one.
    pub egress: Option<u8>,
    /// It travels from right to left; says something of packets only that come from a fast path.
    pub reverse: bool,
}

/// Takes the tag out of the [`META_BYTES`] in front of a packet; none if the driver had no room for it.
///
/// The bytes are marked as taken, since the buffer may next hold a packet that arrives without a tag.
#[inline]
pub fn take_tag(before: &mut [u8; META_BYTES]) -> Option<u16> {
    take_mark(before).map(|mark| mark.tag)
}

/// The same with what fast paths have made of the packet.
#[inline]
pub fn take_mark(before: &mut [u8; META_BYTES]) -> Option<Mark> {
    let [tag_low, tag_high, egress, way, magic @ ..] = before;
    if u32::from_ne_bytes(*magic) != MAGIC {
        return None;
    }
    *magic = [0; 4];
    let tag = u16::from_ne_bytes([*tag_low, *tag_high]);
    // `STEER_WAY_REVERSE` in `hand_over.h`.
    Some(Mark { tag, egress: egress.checked_sub(1), reverse: *way & 0x80 != 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_taken_once() {
        let mut before = [0; META_BYTES];
        assert_eq!(take_tag(&mut before), None);
        before[..2].copy_from_slice(&777_u16.to_ne_bytes());
        before[4..].copy_from_slice(&MAGIC.to_ne_bytes());
        assert_eq!(take_tag(&mut before), Some(777));
        assert_eq!(take_tag(&mut before), None);
    }
}
