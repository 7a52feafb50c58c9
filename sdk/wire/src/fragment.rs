//! What part of a fragmented IP packet a packet is.

/// The place of a fragment in its packet, alike for IPv4 and IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// Identification: with the addresses (and for IPv4 the protocol) it names the packet.
    pub id: u32,
    /// Where this fragment's bytes belong, in bytes; a multiple of 8.
    pub offset_bytes: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

impl Fragment {
    /// Whether this is the fragment that holds the upper-layer header.
    #[inline]
    pub const fn is_first(self) -> bool {
        self.offset_bytes == 0
    }

    /// Whether this is the end of the packet.
    #[inline]
    pub const fn is_last(self) -> bool {
        !self.more
    }
}
