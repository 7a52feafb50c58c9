//! What the program puts in front of a packet.

/// Bytes in front of a packet's first one, in its AF_XDP buffer, that hold its tag.
pub const META_BYTES: usize = 8;

/// `STEER_MAGIC` in `steer.h`.
const MAGIC: u32 = 0x6e74_656d;

/// Takes the tag out of the [`META_BYTES`] in front of a packet; none if the driver had no room for it.
///
/// The bytes are marked as taken, since the buffer may next hold a packet that arrives without a tag.
#[inline]
pub fn take_tag(before: &mut [u8; META_BYTES]) -> Option<u16> {
    let [tag_low, tag_high, _, _, magic @ ..] = before;
    if u32::from_ne_bytes(*magic) != MAGIC {
        return None;
    }
    *magic = [0; 4];
    Some(u16::from_ne_bytes([*tag_low, *tag_high]))
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
