//! ICMPv6 (RFC 4443).

use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::WireError;
use crate::checksum::{Delta, Sum};
use crate::ipv6::Ipv6;

/// Length of the header, in bytes; its last four bytes depend on the type.
pub const HEADER_LEN: usize = 8;

/// Message types.
pub mod icmpv6_type {
    /// Destination unreachable.
    pub const DEST_UNREACHABLE: u8 = 1;
    /// Packet too big.
    pub const PACKET_TOO_BIG: u8 = 2;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 3;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 4;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 128;
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 129;
    /// Router solicitation.
    pub const ROUTER_SOLICIT: u8 = 133;
    /// Router advertisement.
    pub const ROUTER_ADVERT: u8 = 134;
    /// Neighbor solicitation.
    pub const NEIGHBOR_SOLICIT: u8 = 135;
    /// Neighbor advertisement.
    pub const NEIGHBOR_ADVERT: u8 = 136;
    /// Redirect.
    pub const REDIRECT: u8 = 137;
}

/// Codes of "destination unreachable".
pub mod unreachable_code {
    /// No route to destination.
    pub const NO_ROUTE: u8 = 0;
    /// Communication administratively prohibited.
    pub const ADMIN_PROHIBITED: u8 = 1;
    /// Address unreachable.
    pub const ADDRESS: u8 = 3;
    /// Port unreachable.
    pub const PORT: u8 = 4;
}

/// Whether a message of this type reports an error: the high bit tells (RFC 4443 section 2.1).
#[inline]
pub const fn is_error(icmp_type: u8) -> bool {
    icmp_type < 128
}

/// Whether a message of this type carries an identifier: echo request and reply.
#[inline]
pub const fn has_id(icmp_type: u8) -> bool {
    matches!(icmp_type, icmpv6_type::ECHO_REQUEST | icmpv6_type::ECHO_REPLY)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) icmp_type: u8,
    pub(crate) code: u8,
    pub(crate) checksum: U16,
    pub(crate) rest: U32,
}

/// A view of an ICMPv6 message.
#[derive(Clone, Copy)]
pub struct Icmpv6<'a> {
    head: &'a Header,
    payload: &'a [u8],
}

impl<'a> Icmpv6<'a> {
    /// Checks that the header is in `bytes`, the upper-layer packet. Errors: [`WireError::Truncated`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        Ok(Icmpv6 { head, payload })
    }

    /// Type, see [`icmpv6_type`].
    #[inline]
    pub fn icmp_type(&self) -> u8 {
        self.head.icmp_type
    }

    /// Code, which refines the type.
    #[inline]
    pub fn code(&self) -> u8 {
        self.head.code
    }

    /// The checksum field.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.head.checksum.get()
    }

    /// The four bytes after the checksum, whose meaning depends on the type, in host order.
    #[inline]
    pub fn rest_of_header(&self) -> u32 {
        self.head.rest.get()
    }

    /// Checks the checksum; `pseudo` must count this message. Errors: [`WireError::BadChecksum`].
    #[inline]
    pub fn verify_checksum(&self, pseudo: Sum) -> Result<(), WireError> {
        let sum = pseudo.bytes(self.head.as_bytes()).bytes(self.payload);
        if sum.is_valid() { Ok(()) } else { Err(WireError::BadChecksum) }
    }

    /// Whether this reports an error and quotes a packet.
    #[inline]
    pub fn is_error(&self) -> bool {
        is_error(self.head.icmp_type)
    }

    /// The identifier of an echo message; none for others.
    #[inline]
    pub fn id(&self) -> Option<u16> {
        has_id(self.head.icmp_type).then(|| (self.head.rest.get() >> 16) as u16)
    }

    /// The sequence number of an echo message; none for others.
    #[inline]
    pub fn seq(&self) -> Option<u16> {
        has_id(self.head.icmp_type).then(|| self.head.rest.get() as u16)
    }

    /// The next hop's MTU in bytes that "packet too big" tells; none for others.
    #[inline]
    pub fn next_hop_mtu_bytes(&self) -> Option<u32> {
        (self.head.icmp_type == icmpv6_type::PACKET_TOO_BIG).then(|| self.head.rest.get())
    }

    /// The packet that an error quotes, which may be cut short. Errors: [`WireError::WrongProtocol`] if this is none,
    /// else as [`Ipv6::parse_quoted`].
    #[inline]
    pub fn quoted(&self) -> Result<Ipv6<'a>, WireError> {
        if self.is_error() { Ipv6::parse_quoted(self.payload) } else { Err(WireError::WrongProtocol) }
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A view of an ICMPv6 message that may change it. Setters keep the checksum right incrementally.
pub struct Icmpv6Mut<'a> {
    head: &'a mut Header,
    payload: &'a mut [u8],
}

impl<'a> Icmpv6Mut<'a> {
    /// Checks as [`Icmpv6::parse`] does.
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        Ok(Icmpv6Mut { head, payload })
    }

    /// The same message, to read.
    #[inline]
    pub fn view(&self) -> Icmpv6<'_> {
        Icmpv6 { head: self.head, payload: self.payload }
    }

    /// Sets the identifier. Errors: [`WireError::Unsupported`] if the message has none.
    #[inline]
    pub fn set_id(&mut self, id: u16) -> Result<(), WireError> {
        if !has_id(self.head.icmp_type) {
            return Err(WireError::Unsupported);
        }
        let old = self.head.rest.get();
        let new = u32::from(id) << 16 | old & 0xffff;
        self.head.rest.set(new);
        self.apply(Delta::new().u32(old, new));
        Ok(())
    }

    /// Sets the type, as when an echo request becomes its reply.
    #[inline]
    pub fn set_type(&mut self, icmp_type: u8) {
        let code = u16::from(self.head.code);
        let delta = Delta::new().u16(u16::from(self.head.icmp_type) << 8 | code, u16::from(icmp_type) << 8 | code);
        self.head.icmp_type = icmp_type;
        self.apply(delta);
    }

    /// Updates the checksum for a change elsewhere that it covers: an address or the payload.
    #[inline]
    pub fn apply(&mut self, delta: Delta) {
        self.head.checksum.set(delta.apply(self.head.checksum.get()));
    }

    /// Computes the checksum anew; `pseudo` must count this message.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo: Sum) {
        self.head.checksum.set(0);
        let checksum = pseudo.bytes(self.head.as_bytes()).bytes(self.payload).checksum();
        self.head.checksum.set(checksum);
    }

    /// What follows the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }
}
