//! IPv4 (RFC 791).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::WireError;
use crate::checksum::{Delta, Sum};
use crate::fragment::Fragment;

/// Length of the header without options, in bytes.
pub const HEADER_LEN: usize = 20;

pub(crate) const FLAG_DF: u16 = 0x4000;
const FLAG_MF: u16 = 0x2000;
const OFFSET_MASK: u16 = 0x1fff;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) total_len: U16,
    pub(crate) id: U16,
    pub(crate) flags_offset: U16,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: U16,
    pub(crate) src: [u8; 4],
    pub(crate) dst: [u8; 4],
}

impl Header {
    /// Header length in bytes, at least [`HEADER_LEN`].
    #[inline]
    fn checked_len(&self) -> Result<usize, WireError> {
        if self.version_ihl >> 4 != 4 {
            return Err(WireError::BadVersion);
        }
        let len = usize::from(self.version_ihl & 0x0f) * 4;
        if len < HEADER_LEN { Err(WireError::BadLength) } else { Ok(len) }
    }

    /// Lengths of options and payload, given what follows the fixed header.
    #[inline]
    fn lengths(&self, rest: usize) -> Result<(usize, usize), WireError> {
        let header_len = self.checked_len()?;
        let total = usize::from(self.total_len.get());
        if total < header_len {
            return Err(WireError::BadLength);
        }
        if total > rest + HEADER_LEN {
            return Err(WireError::Truncated);
        }
        Ok((header_len - HEADER_LEN, total - header_len))
    }

    #[inline]
    fn fragment(&self) -> Option<Fragment> {
        let field = self.flags_offset.get();
        if field & (FLAG_MF | OFFSET_MASK) == 0 {
            return None;
        }
        Some(Fragment {
            id: u32::from(self.id.get()),
            offset_bytes: (field & OFFSET_MASK) * 8,
            more: field & FLAG_MF != 0,
        })
    }
}

/// A view of an IPv4 packet.
///
/// The payload ends where the header says, so Ethernet padding is never part of it.
#[derive(Clone, Copy)]
pub struct Ipv4<'a> {
    head: &'a Header,
    options: &'a [u8],
    payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Checks version and lengths, not the checksum (see [`verify_checksum`](Ipv4::verify_checksum)).
    ///
    /// Errors: [`WireError::BadVersion`]; [`WireError::BadLength`] if the header length is below 20 or above the total
    /// length; [`WireError::Truncated`] if the total length is above the bytes given.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let (options_len, payload_len) = head.lengths(rest.len())?;
        let (options, rest) = rest.split_at_checked(options_len).ok_or(WireError::Truncated)?;
        let payload = rest.get(..payload_len).ok_or(WireError::Truncated)?;
        Ok(Ipv4 { head, options, payload })
    }

    /// Like [`parse`](Ipv4::parse), for the packet that an ICMP error quotes: the payload may be cut short.
    #[inline]
    pub fn parse_quoted(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let header_len = head.checked_len()?;
        let total = usize::from(head.total_len.get());
        if total < header_len {
            return Err(WireError::BadLength);
        }
        let (options, rest) = rest.split_at_checked(header_len - HEADER_LEN).ok_or(WireError::Truncated)?;
        let payload = rest.get(..total - header_len).unwrap_or(rest);
        Ok(Ipv4 { head, options, payload })
    }

    /// Header length with options, in bytes.
    #[inline]
    pub fn header_len(&self) -> usize {
        HEADER_LEN + self.options.len()
    }

    /// Length of the packet with its header, in bytes.
    #[inline]
    pub fn total_len(&self) -> usize {
        usize::from(self.head.total_len.get())
    }

    /// Differentiated services code point, 0 to 63 (RFC 2474).
    #[inline]
    pub fn dscp(&self) -> u8 {
        self.head.tos >> 2
    }

    /// Explicit congestion notification, 0 to 3 (RFC 3168).
    #[inline]
    pub fn ecn(&self) -> u8 {
        self.head.tos & 3
    }

    /// The whole type-of-service byte.
    #[inline]
    pub fn tos(&self) -> u8 {
        self.head.tos
    }

    /// Identification, shared by the fragments of a packet.
    #[inline]
    pub fn id(&self) -> u16 {
        self.head.id.get()
    }

    /// Whether routers must not fragment the packet.
    #[inline]
    pub fn dont_fragment(&self) -> bool {
        self.head.flags_offset.get() & FLAG_DF != 0
    }

    /// Whether more fragments follow.
    #[inline]
    pub fn more_fragments(&self) -> bool {
        self.head.flags_offset.get() & FLAG_MF != 0
    }

    /// Where this fragment's payload belongs, in bytes.
    #[inline]
    pub fn fragment_offset_bytes(&self) -> u16 {
        (self.head.flags_offset.get() & OFFSET_MASK) * 8
    }

    /// What part of a packet this is; none if it is whole.
    #[inline]
    pub fn fragment(&self) -> Option<Fragment> {
        self.head.fragment()
    }

    /// Whether the payload begins with the upper-layer header: true unless this is a later fragment.
    #[inline]
    pub fn is_first_fragment(&self) -> bool {
        self.head.flags_offset.get() & OFFSET_MASK == 0
    }

    /// Time to live, in hops.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.head.ttl
    }

    /// Upper-layer protocol, see [`protocol`](crate::protocol).
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.head.protocol
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.head.checksum.get()
    }

    /// Checks the header checksum. Errors: [`WireError::BadChecksum`].
    #[inline]
    pub fn verify_checksum(&self) -> Result<(), WireError> {
        let sum = Sum::new().bytes(self.head.as_bytes()).bytes(self.options);
        if sum.is_valid() { Ok(()) } else { Err(WireError::BadChecksum) }
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        self.head.src.into()
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        self.head.dst.into()
    }

    /// Options as on the wire, with their padding.
    #[inline]
    pub fn options(&self) -> &'a [u8] {
        self.options
    }

    /// What follows the header, without Ethernet padding.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// The pseudo header of the upper layer, over the whole payload.
    #[inline]
    pub fn pseudo_header(&self) -> Sum {
        Sum::pseudo_ipv4(self.src(), self.dst(), self.protocol(), self.payload.len())
    }
}

/// A view of an IPv4 packet that may change it. Setters keep the header checksum right incrementally (RFC 1624), so a
/// checksum that was wrong before stays wrong.
pub struct Ipv4Mut<'a> {
    head: &'a mut Header,
    options: &'a mut [u8],
    payload: &'a mut [u8],
}

impl<'a> Ipv4Mut<'a> {
    /// Checks as [`Ipv4::parse`] does.
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let (options_len, payload_len) = head.lengths(rest.len())?;
        let (options, rest) = rest.split_at_mut_checked(options_len).ok_or(WireError::Truncated)?;
        let payload = rest.get_mut(..payload_len).ok_or(WireError::Truncated)?;
        Ok(Ipv4Mut { head, options, payload })
    }

    /// Checks as [`Ipv4::parse_quoted`] does.
    #[inline]
    pub fn parse_quoted(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let quoted = Ipv4::parse_quoted(bytes)?;
        let (options_len, payload_len) = (quoted.options.len(), quoted.payload.len());
        let (head, rest) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let (options, rest) = rest.split_at_mut_checked(options_len).ok_or(WireError::Truncated)?;
        let payload = rest.get_mut(..payload_len).ok_or(WireError::Truncated)?;
        Ok(Ipv4Mut { head, options, payload })
    }

    /// The same packet, to read.
    #[inline]
    pub fn view(&self) -> Ipv4<'_> {
        Ipv4 { head: self.head, options: self.options, payload: self.payload }
    }

    /// As [`Ipv4::ttl`].
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.view().ttl()
    }

    /// Sets the time to live.
    #[inline]
    pub fn set_ttl(&mut self, ttl: u8) {
        let proto = u16::from(self.head.protocol);
        let old = u16::from(self.head.ttl) << 8 | proto;
        self.head.ttl = ttl;
        self.update(Delta::new().u16(old, u16::from(ttl) << 8 | proto));
    }

    /// Takes one hop off the time to live and returns what is left; none, and no change, if it was 0 or 1, when a router
    /// must not forward the packet (RFC 1812 section 5.3.1).
    #[inline]
    pub fn dec_ttl(&mut self) -> Option<u8> {
        if self.head.ttl <= 1 {
            return None;
        }
        self.head.ttl -= 1;
        // The word `ttl << 8 | protocol` falls by 0x0100, so its complement adds 0x0100 to the checksum. As
        // `Delta::apply` does, keep 0xffff from appearing: the carry goes round (RFC 1624 section 3).
        let sum = u32::from(self.head.checksum.get()) + 0x0100;
        self.head.checksum.set((sum + u32::from(sum >= 0xffff)) as u16);
        Some(self.head.ttl)
    }

    /// Sets the source address; the upper layer's checksum is not touched (see [`rewrite`](crate::rewrite)).
    #[inline]
    pub fn set_src(&mut self, src: Ipv4Addr) {
        let delta = Delta::new().u32(u32::from_be_bytes(self.head.src), src.to_bits());
        self.head.src = src.octets();
        self.update(delta);
    }

    /// Sets the destination address; the upper layer's checksum is not touched (see [`rewrite`](crate::rewrite)).
    #[inline]
    pub fn set_dst(&mut self, dst: Ipv4Addr) {
        let delta = Delta::new().u32(u32::from_be_bytes(self.head.dst), dst.to_bits());
        self.head.dst = dst.octets();
        self.update(delta);
    }

    /// Sets the whole type-of-service byte.
    #[inline]
    pub fn set_tos(&mut self, tos: u8) {
        let head = u16::from(self.head.version_ihl) << 8;
        let delta = Delta::new().u16(head | u16::from(self.head.tos), head | u16::from(tos));
        self.head.tos = tos;
        self.update(delta);
    }

    /// Sets the differentiated services code point; only the low 6 bits count.
    #[inline]
    pub fn set_dscp(&mut self, dscp: u8) {
        self.set_tos(dscp << 2 | self.head.tos & 3);
    }

    /// Sets the congestion notification; only the low 2 bits count.
    #[inline]
    pub fn set_ecn(&mut self, ecn: u8) {
        self.set_tos(self.head.tos & !3 | ecn & 3);
    }

    /// Sets the identification.
    #[inline]
    pub fn set_id(&mut self, id: u16) {
        let delta = Delta::new().u16(self.head.id.get(), id);
        self.head.id.set(id);
        self.update(delta);
    }

    /// Computes the header checksum anew.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.head.checksum.set(0);
        let checksum = Sum::new().bytes(self.head.as_bytes()).bytes(self.options).checksum();
        self.head.checksum.set(checksum);
    }

    /// What follows the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }

    /// What follows the header, for as long as the packet is borrowed.
    #[inline]
    pub fn into_payload(self) -> &'a mut [u8] {
        self.payload
    }

    #[inline]
    fn update(&mut self, delta: Delta) {
        self.head.checksum.set(delta.apply(self.head.checksum.get()));
    }
}
