//! Ethernet II.

use std::fmt;
use std::str::FromStr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::WireError;

/// Length of an untagged Ethernet header, in bytes.
pub const HEADER_LEN: usize = 14;

/// Ethertypes (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// 802.1Q customer tag.
    pub const VLAN: u16 = 0x8100;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1ad service tag.
    pub const QINQ: u16 = 0x88a8;
    /// Service tag as older switches send it.
    pub const QINQ_OLD: u16 = 0x9100;
}

/// A hardware address.
///
/// ```
/// use middlenet_wire::MacAddr;
/// let mac: MacAddr = "02:00:00:00:00:01".parse().unwrap();
/// assert!(!mac.is_multicast());
/// assert_eq!(mac.to_string(), "02:00:00:00:00:01");
/// ```
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(transparent)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// `ff:ff:ff:ff:ff:ff`.
    pub const BROADCAST: MacAddr = MacAddr([0xff; 6]);
    /// `00:00:00:00:00:00`.
    pub const ZERO: MacAddr = MacAddr([0; 6]);

    /// The address of these six bytes.
    #[inline]
    pub const fn new(a: u8, b: u8, c: u8, d: u8, e: u8, f: u8) -> Self {
        MacAddr([a, b, c, d, e, f])
    }

    /// The six bytes.
    #[inline]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// Whether this is the broadcast address.
    #[inline]
    pub fn is_broadcast(self) -> bool {
        self == Self::BROADCAST
    }

    /// Whether the group bit is set; true for broadcast too.
    #[inline]
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// Whether a station may send from it: neither a group nor zero.
    #[inline]
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && self != Self::ZERO
    }

    /// The group address of an IPv4 multicast address (RFC 1112 section 6.4).
    #[inline]
    pub const fn of_ipv4_multicast(group: std::net::Ipv4Addr) -> Self {
        let [_, b, c, d] = group.octets();
        MacAddr([0x01, 0x00, 0x5e, b & 0x7f, c, d])
    }

    /// The group address of an IPv6 multicast address (RFC 2464 section 7).
    #[inline]
    pub const fn of_ipv6_multicast(group: std::net::Ipv6Addr) -> Self {
        let o = group.octets();
        MacAddr([0x33, 0x33, o[12], o[13], o[14], o[15]])
    }
}

impl From<[u8; 6]> for MacAddr {
    fn from(octets: [u8; 6]) -> Self {
        MacAddr(octets)
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is not six pairs of hexadecimal digits with colons between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a MAC address: six pairs of hexadecimal digits with colons between them are expected")]
pub struct ParseMacError;

impl FromStr for MacAddr {
    type Err = ParseMacError;

    fn from_str(text: &str) -> Result<Self, ParseMacError> {
        let mut octets = [0u8; 6];
        let mut parts = text.split(':');
        for octet in &mut octets {
            let part = parts.next().ok_or(ParseMacError)?;
            if part.len() != 2 || !part.bytes().all(|b| b.is_ascii_hexdigit()) {
                return Err(ParseMacError);
            }
            *octet = u8::from_str_radix(part, 16).map_err(|_| ParseMacError)?;
        }
        if parts.next().is_some() { Err(ParseMacError) } else { Ok(MacAddr(octets)) }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) dst: MacAddr,
    pub(crate) src: MacAddr,
    pub(crate) ethertype: U16,
}

/// A view of an Ethernet frame.
#[derive(Clone, Copy)]
pub struct Ethernet<'a> {
    head: &'a Header,
    payload: &'a [u8],
}

impl<'a> Ethernet<'a> {
    /// Checks that the header is there. Errors: [`WireError::Truncated`].
    #[inline]
    pub fn parse(frame: &'a [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::ref_from_prefix(frame).map_err(|_| WireError::Truncated)?;
        Ok(Ethernet { head, payload })
    }

    /// Destination.
    #[inline]
    pub fn dst(&self) -> MacAddr {
        self.head.dst
    }

    /// Source.
    #[inline]
    pub fn src(&self) -> MacAddr {
        self.head.src
    }

    /// The outermost ethertype: a tag's TPID on a tagged frame; below 0x600 it is an 802.3 length.
    #[inline]
    pub fn ethertype(&self) -> u16 {
        self.head.ethertype.get()
    }

    /// What follows the header: tags first, trailing padding last.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A view of an Ethernet frame that may change it.
pub struct EthernetMut<'a> {
    head: &'a mut Header,
    payload: &'a mut [u8],
}

impl<'a> EthernetMut<'a> {
    /// Checks that the header is there. Errors: [`WireError::Truncated`].
    #[inline]
    pub fn parse(frame: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::mut_from_prefix(frame).map_err(|_| WireError::Truncated)?;
        Ok(EthernetMut { head, payload })
    }

    /// The same frame, to read.
    #[inline]
    pub fn view(&self) -> Ethernet<'_> {
        Ethernet { head: self.head, payload: self.payload }
    }

    /// Sets the destination.
    #[inline]
    pub fn set_dst(&mut self, dst: MacAddr) {
        self.head.dst = dst;
    }

    /// Sets the source.
    #[inline]
    pub fn set_src(&mut self, src: MacAddr) {
        self.head.src = src;
    }

    /// Sets the outermost ethertype.
    #[inline]
    pub fn set_ethertype(&mut self, ethertype: u16) {
        self.head.ethertype.set(ethertype);
    }

    /// Exchanges source and destination, as a reply needs.
    #[inline]
    pub fn swap_addresses(&mut self) {
        std::mem::swap(&mut self.head.dst, &mut self.head.src);
    }

    /// What follows the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }
}
