//! What stands in front of a packet that an XDP program hands to the data plane.

/// Bytes that a mark takes, as XDP metadata directly in front of the packet: the tag, two bytes of zero, [`MARK_MAGIC`]; in
/// the host's byte order.
pub const MARK_BYTES: u16 = 8;

/// Says that a mark is one: `MNET`.
pub const MARK_MAGIC: u32 = 0x4d4e_4554;

/// The tag of a mark; none if that is no mark.
#[inline]
pub fn read_mark(bytes: &[u8]) -> Option<u16> {
    let &[a, b, _, _, magic @ ..]: &[u8; 8] = bytes.try_into().ok()?;
    (u32::from_ne_bytes(magic) == MARK_MAGIC).then(|| u16::from_ne_bytes([a, b]))
}
