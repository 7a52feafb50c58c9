//! IPv6 (RFC 8200) and the walk over its extension headers.

use std::net::Ipv6Addr;

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::checksum::Sum;
use crate::fragment::Fragment;
use crate::{WireError, protocol};

/// Length of the fixed header, in bytes.
pub const HEADER_LEN: usize = 40;
/// How many extension headers a packet may carry; RFC 8504 section 5.3 lets a node set such a limit, and 8 is its example.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Length of a fragment header, in bytes.
pub const FRAGMENT_HEADER_LEN: usize = 8;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) version_class_label: U32,
    pub(crate) payload_len: U16,
    pub(crate) next_header: u8,
    pub(crate) hop_limit: u8,
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
}

/// A view of an IPv6 packet.
///
/// The payload ends where the header says, so Ethernet padding is never part of it. Jumbograms (RFC 2675) are not known:
/// their payload length is 0, hence their payload empty.
#[derive(Clone, Copy)]
pub struct Ipv6<'a> {
    head: &'a Header,
    payload: &'a [u8],
}

impl<'a> Ipv6<'a> {
    /// Checks version and length.
    ///
    /// Errors: [`WireError::BadVersion`]; [`WireError::Truncated`] if the payload length is above the bytes given.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        if head.version_class_label.get() >> 28 != 6 {
            return Err(WireError::BadVersion);
        }
        let payload = rest.get(..usize::from(head.payload_len.get())).ok_or(WireError::Truncated)?;
        Ok(Ipv6 { head, payload })
    }

    /// Like [`parse`](Ipv6::parse), for the packet that an ICMPv6 error quotes: the payload may be cut short.
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        if head.version_class_label.get() >> 28 != 6 {
            return Err(WireError::BadVersion);
        }
        let payload = rest.get(..usize::from(head.payload_len.get())).unwrap_or(rest);
        Ok(Ipv6 { head, payload })
    }

    /// Traffic class: differentiated services code point and congestion notification.
    #[inline]
    pub fn traffic_class(&self) -> u8 {
        (self.head.version_class_label.get() >> 20) as u8
    }

    /// Differentiated services code point, 0 to 63.
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.traffic_class() >> 2
    }

    /// Explicit congestion notification, 0 to 3.
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.traffic_class() & 3
    }

    /// Flow label, 20 bits (RFC 6437).
    #[inline]
    pub fn flow_label(&self) -> u32 {
        self.head.version_class_label.get() & 0x000f_ffff
    }

    /// Length of what follows the fixed header, as the header states it, in bytes.
    #[inline]
    pub fn payload_len(&self) -> usize {
        usize::from(self.head.payload_len.get())
    }

    /// The protocol of what follows the fixed header: an extension header or the upper layer.
    #[inline]
    pub fn next_header(&self) -> u8 {
        self.head.next_header
    }

    /// Hop limit.
    #[inline]
    pub fn hop_limit(&self) -> u8 {
        self.head.hop_limit
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv6Addr {
        self.head.src.into()
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv6Addr {
        self.head.dst.into()
    }

    /// What follows the fixed header, extension headers first, without Ethernet padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Walks the extension headers to the upper layer. Errors as [`walk_extensions`].
    #[inline]
    pub fn upper_layer(&self) -> Result<UpperLayer, WireError> {
        walk_extensions(self.head.next_header, self.payload)
    }

    /// The pseudo header of an upper layer that is `length` bytes long.
    ///
    /// With a routing header that has segments left the destination would be the last one of them; the sum uses the
    /// header's destination.
    #[inline]
    pub fn pseudo_header(&self, protocol: u8, length: usize) -> Sum {
        Sum::pseudo_ipv6(self.src(), self.dst(), protocol, length)
    }
}

/// A view of an IPv6 packet that may change it.
pub struct Ipv6Mut<'a> {
    head: &'a mut Header,
    payload: &'a mut [u8],
}

impl<'a> Ipv6Mut<'a> {
    /// Checks as [`Ipv6::parse`] does.
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        if head.version_class_label.get() >> 28 != 6 {
            return Err(WireError::BadVersion);
        }
        let payload = rest.get_mut(..usize::from(head.payload_len.get())).ok_or(WireError::Truncated)?;
        Ok(Ipv6Mut { head, payload })
    }

    /// Checks as [`Ipv6::parse_quoted`] does.
    #[inline]
    pub fn parse_quoted(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let payload_len = Ipv6::parse_quoted(bytes)?.payload.len();
        let (head, rest) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let payload = rest.get_mut(..payload_len).ok_or(WireError::Truncated)?;
        Ok(Ipv6Mut { head, payload })
    }

    /// The same packet, to read.
    #[inline]
    pub fn view(&self) -> Ipv6<'_> {
        Ipv6 { head: self.head, payload: self.payload }
    }

    /// Sets the hop limit.
    #[inline]
    pub fn set_hop_limit(&mut self, hop_limit: u8) {
        self.head.hop_limit = hop_limit;
    }

    /// Takes one hop off the hop limit and returns what is left; none, and no change, if it was 0 or 1, when a router
    /// must not forward the packet (RFC 8200 section 3).
    #[inline]
    pub fn dec_hop_limit(&mut self) -> Option<u8> {
        if self.head.hop_limit <= 1 {
            return None;
        }
        self.head.hop_limit -= 1;
        Some(self.head.hop_limit)
    }

    /// Sets the traffic class.
    #[inline]
    pub fn set_traffic_class(&mut self, class: u8) {
        let rest = self.head.version_class_label.get() & 0xf00f_ffff;
        self.head.version_class_label.set(rest | u32::from(class) << 20);
    }

    /// Sets the source address; the upper layer's checksum is not touched (see [`rewrite`](crate::rewrite)).
    #[inline]
    pub fn set_src(&mut self, src: Ipv6Addr) {
        self.head.src = src.octets();
    }

    /// Sets the destination address; the upper layer's checksum is not touched (see [`rewrite`](crate::rewrite)).
    #[inline]
    pub fn set_dst(&mut self, dst: Ipv6Addr) {
        self.head.dst = dst.octets();
    }

    /// What follows the fixed header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// What follows the fixed header, for as long as the packet is borrowed.
    #[inline]
    pub fn into_payload(self) -> &'a mut [u8] {
        self.payload
    }
}

/// What the extension headers lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpperLayer {
    /// The upper-layer protocol. ESP (50) and "no next header" (59) end a walk and stand here. In a later fragment it is
    /// what the fragment header names, which may be an extension header of the whole packet.
    pub protocol: u8,
    /// Where the upper layer begins, in bytes from the end of the fixed header; never beyond the payload.
    pub offset: usize,
    /// What part of a packet this is; none if it is whole. An atomic fragment (RFC 6946) counts as whole.
    pub fragment: Option<Fragment>,
}

/// Walks extension headers: hop-by-hop, routing, destination options, fragment, authentication, mobility, HIP, shim6.
///
/// Errors: [`WireError::Truncated`] if a header reaches beyond the payload; [`WireError::TooManyExtensions`] beyond
/// [`MAX_EXTENSION_HEADERS`]; [`WireError::BadExtension`] for hop-by-hop options that are not first and for a second
/// fragment header.
#[inline]
pub fn walk_extensions(next_header: u8, payload: &[u8]) -> Result<UpperLayer, WireError> {
    let mut found = UpperLayer { protocol: next_header, offset: 0, fragment: None };
    if !protocol::is_ipv6_extension(next_header) {
        return Ok(found);
    }
    let mut rest = payload;
    let mut seen_fragment = false;
    for index in 0..=MAX_EXTENSION_HEADERS {
        if !protocol::is_ipv6_extension(found.protocol) {
            return Ok(found);
        }
        if index == MAX_EXTENSION_HEADERS {
            break;
        }
        let &[next, len, ..] = rest else { return Err(WireError::Truncated) };
        let header_len = match found.protocol {
            protocol::HOP_BY_HOP if index > 0 => return Err(WireError::BadExtension),
            protocol::FRAGMENT => {
                let head = rest.first_chunk::<FRAGMENT_HEADER_LEN>().ok_or(WireError::Truncated)?;
                // A second one could make the packet look like a first fragment to one reader and not to another.
                if seen_fragment {
                    return Err(WireError::BadExtension);
                }
                seen_fragment = true;
                found.fragment = fragment_of(head);
                FRAGMENT_HEADER_LEN
            }
            // RFC 4302 section 2.2: in 4-byte units, minus 2.
            protocol::AH => (usize::from(len) + 2) * 4,
            _ => (usize::from(len) + 1) * 8,
        };
        rest = rest.get(header_len..).ok_or(WireError::Truncated)?;
        found.protocol = next;
        found.offset += header_len;
        if found.fragment.is_some_and(|fragment| !fragment.is_first()) {
            return Ok(found);
        }
    }
    Err(WireError::TooManyExtensions)
}

#[inline]
fn fragment_of(head: &[u8; FRAGMENT_HEADER_LEN]) -> Option<Fragment> {
    let field = u16::from_be_bytes([head[2], head[3]]);
    let (offset_bytes, more) = (field & 0xfff8, field & 1 != 0);
    if offset_bytes == 0 && !more {
        return None;
    }
    Some(Fragment { id: u32::from_be_bytes([head[4], head[5], head[6], head[7]]), offset_bytes, more })
}
