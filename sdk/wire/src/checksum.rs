//! The internet checksum (RFC 1071), its pseudo headers, and its incremental update (RFC 1624).
//!
//! Two types carry the arithmetic. [`Sum`] adds up bytes and becomes a checksum; [`Delta`] adds up changes of words and
//! turns an old checksum into the new one, so that a change of an address is added up once and applied to both the IP
//! and the TCP checksum.

use std::net::{Ipv4Addr, Ipv6Addr};

/// A one's complement sum that is not folded yet.
///
/// ```
/// use middlenet_wire::checksum::Sum;
/// // The example of RFC 1071 section 3.
/// let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
/// assert_eq!(Sum::new().bytes(&bytes).folded(), 0xddf2);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    #[inline]
    pub const fn new() -> Self {
        Sum(0)
    }

    /// The pseudo header of TCP and UDP over IPv4 (RFC 9293 section 3.1); `length` counts the L4 header and payload.
    #[inline]
    pub fn pseudo_ipv4(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, length: usize) -> Self {
        Sum::new().u32(src.to_bits()).u32(dst.to_bits()).u16(u16::from(protocol)).u32(length as u32)
    }

    /// The pseudo header of an upper layer over IPv6 (RFC 8200 section 8.1); `length` counts the upper-layer packet.
    #[inline]
    pub fn pseudo_ipv6(src: Ipv6Addr, dst: Ipv6Addr, protocol: u8, length: usize) -> Self {
        Sum::new().bytes(&src.octets()).bytes(&dst.octets()).u16(u16::from(protocol)).u32(length as u32)
    }

    /// Adds a word in host order.
    #[inline]
    pub const fn u16(self, word: u16) -> Self {
        Sum(fold32(self.0) + word as u64)
    }

    /// Adds two words in host order.
    #[inline]
    pub const fn u32(self, words: u32) -> Self {
        Sum(fold32(self.0) + words as u64)
    }

    /// Adds bytes in network order; an odd last byte counts as the high byte of a word.
    ///
    /// The next bytes added start a new word, so only the last piece of a message may have an odd length.
    #[inline]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        // Eight bytes at a time as two 32-bit halves in native order: a 64-bit accumulator then takes 2^31 additions
        // without a carry out, and one swap at the end restores network order (RFC 1071 section 2(B)).
        let mut native = 0u64;
        let mut chunks = bytes.chunks_exact(8);
        for chunk in &mut chunks {
            let word =
                u64::from_ne_bytes([chunk[0], chunk[1], chunk[2], chunk[3], chunk[4], chunk[5], chunk[6], chunk[7]]);
            native += (word & 0xffff_ffff) + (word >> 32);
        }
        // At most one word of each size is left; every one of them starts at an even offset.
        let mut rest = chunks.remainder();
        if let Some((word, after)) = rest.split_first_chunk::<4>() {
            native += u64::from(u32::from_ne_bytes(*word));
            rest = after;
        }
        if let Some((word, after)) = rest.split_first_chunk::<2>() {
            native += u64::from(u16::from_ne_bytes(*word));
            rest = after;
        }
        if let [last] = *rest {
            native += u64::from(u16::from_ne_bytes([last, 0]));
        }
        Sum(fold32(self.0) + u16::from_be(fold16(native)) as u64)
    }

    /// The sum folded to 16 bits, not complemented. A message that includes its own right checksum folds to `0xffff`.
    #[inline]
    pub const fn folded(self) -> u16 {
        fold16(self.0)
    }

    /// The checksum: the complement of the folded sum.
    #[inline]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// The checksum as UDP sends it: a computed zero is sent as `0xffff` (RFC 768), for zero means "no checksum".
    #[inline]
    pub const fn udp_checksum(self) -> u16 {
        udp_nonzero(self.checksum())
    }

    /// Whether a message that includes its own checksum adds up.
    #[inline]
    pub const fn is_valid(self) -> bool {
        self.folded() == 0xffff
    }
}

/// The internet checksum of `bytes`, as for an IPv4 header or an ICMPv4 message whose checksum field is zero.
#[inline]
pub fn internet_checksum(bytes: &[u8]) -> u16 {
    Sum::new().bytes(bytes).checksum()
}

/// What a set of changed words does to a checksum that covers them: `HC' = ~(~HC + ~m + m')` (RFC 1624 equation 3).
///
/// The result is what a full sum would give, except for a message that becomes all zeros: it gives 0 where the sum gives
/// `0xffff`. Only an ICMPv4 echo reply can become that; its views and [`rewrite`](crate::rewrite) take care of it.
///
/// ```
/// use middlenet_wire::checksum::Delta;
/// // RFC 1624 section 4: equation 3 gives 0x0000 where equation 2 would give 0xffff.
/// assert_eq!(Delta::new().u16(0x5555, 0x3285).apply(0xdd2f), 0x0000);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    #[inline]
    pub const fn new() -> Self {
        Delta(0)
    }

    /// A 16-bit word changed from `old` to `new`.
    #[inline]
    pub const fn u16(self, old: u16, new: u16) -> Self {
        Delta(fold32(self.0) + !old as u64 + new as u64)
    }

    /// A 32-bit word at an even offset changed, such as an IPv4 address (`Ipv4Addr::to_bits`).
    #[inline]
    pub const fn u32(self, old: u32, new: u32) -> Self {
        Delta(fold32(self.0) + !old as u64 + new as u64)
    }

    /// Sixteen bytes at an even offset changed: an IPv6 address.
    #[inline]
    pub fn bytes16(self, old: &[u8; 16], new: &[u8; 16]) -> Self {
        let (old, new) = (u128::from_be_bytes(*old), u128::from_be_bytes(*new));
        let mut delta = self;
        for shift in [96, 64, 32, 0] {
            delta = delta.u32((old >> shift) as u32, (new >> shift) as u32);
        }
        delta
    }

    /// The new checksum.
    #[inline]
    pub const fn apply(self, checksum: u16) -> u16 {
        !fold16(fold32(self.0) + !checksum as u64)
    }

    /// The new checksum of UDP over IPv4: zero, which means none, stays zero; a computed zero becomes `0xffff`.
    #[inline]
    pub const fn apply_udp(self, checksum: u16) -> u16 {
        if checksum == 0 { 0 } else { udp_nonzero(self.apply(checksum)) }
    }
}

/// The checksum after one 16-bit word changed.
#[inline]
pub const fn update_u16(checksum: u16, old: u16, new: u16) -> u16 {
    Delta::new().u16(old, new).apply(checksum)
}

/// The checksum after one 32-bit word at an even offset changed.
#[inline]
pub const fn update_u32(checksum: u16, old: u32, new: u32) -> u16 {
    Delta::new().u32(old, new).apply(checksum)
}

/// The checksum after an IPv6 address changed.
#[inline]
pub fn update_ipv6(checksum: u16, old: Ipv6Addr, new: Ipv6Addr) -> u16 {
    Delta::new().bytes16(&old.octets(), &new.octets()).apply(checksum)
}

#[inline]
const fn udp_nonzero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// At most 33 bits remain, so that a few 32-bit additions never overflow.
#[inline]
const fn fold32(sum: u64) -> u64 {
    (sum & 0xffff_ffff) + (sum >> 32)
}

/// Folds with end-around carry; gives zero for a zero sum only.
#[inline]
const fn fold16(sum: u64) -> u16 {
    let sum = fold32(fold32(sum));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}
