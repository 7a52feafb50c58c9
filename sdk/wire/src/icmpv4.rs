//! ICMP for IPv4 (RFC 792).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::WireError;
use crate::checksum::{Delta, Sum};
use crate::ipv4::Ipv4;

/// Length of the header, in bytes; its last four bytes depend on the type.
pub const HEADER_LEN: usize = 8;

/// Message types.
pub mod icmpv4_type {
    /// Echo reply.
    pub const ECHO_REPLY: u8 = 0;
    /// Destination unreachable.
    pub const DEST_UNREACHABLE: u8 = 3;
    /// Source quench, obsolete.
    pub const SOURCE_QUENCH: u8 = 4;
    /// Redirect.
    pub const REDIRECT: u8 = 5;
    /// Echo request.
    pub const ECHO_REQUEST: u8 = 8;
    /// Time exceeded.
    pub const TIME_EXCEEDED: u8 = 11;
    /// Parameter problem.
    pub const PARAMETER_PROBLEM: u8 = 12;
    /// Timestamp.
    pub const TIMESTAMP: u8 = 13;
    /// Timestamp reply.
    pub const TIMESTAMP_REPLY: u8 = 14;
}

/// Codes of "destination unreachable".
pub mod unreachable_code {
    /// Net unreachable.
    pub const NET: u8 = 0;
    /// Host unreachable.
    pub const HOST: u8 = 1;
    /// Protocol unreachable.
    pub const PROTOCOL: u8 = 2;
    /// Port unreachable.
    pub const PORT: u8 = 3;
    /// Fragmentation needed and DF set (RFC 1191).
    pub const FRAG_NEEDED: u8 = 4;
    /// Communication administratively prohibited (RFC 1812 section 5.2.7.1).
    pub const ADMIN_PROHIBITED: u8 = 13;
}

/// Whether a message of this type reports an error and quotes a packet.
#[inline]
pub const fn is_error(icmp_type: u8) -> bool {
    use icmpv4_type::{DEST_UNREACHABLE, PARAMETER_PROBLEM, REDIRECT, SOURCE_QUENCH, TIME_EXCEEDED};
    matches!(icmp_type, DEST_UNREACHABLE | SOURCE_QUENCH | REDIRECT | TIME_EXCEEDED | PARAMETER_PROBLEM)
}

/// Whether a message of this type carries an identifier: echo and timestamp, each with its reply.
#[inline]
pub const fn has_id(icmp_type: u8) -> bool {
    use icmpv4_type::{ECHO_REPLY, ECHO_REQUEST, TIMESTAMP, TIMESTAMP_REPLY};
    matches!(icmp_type, ECHO_REPLY | ECHO_REQUEST | TIMESTAMP | TIMESTAMP_REPLY)
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) icmp_type: u8,
    pub(crate) code: u8,
    pub(crate) checksum: U16,
    pub(crate) id: U16,
    pub(crate) seq: U16,
}

/// The checksum of an echo reply whose identifier, number and payload are zero.
///
/// It is the one message in all of IP whose every byte can be zero, for no pseudo header is added, and so the one for which
/// RFC 1624's equation 3 gives 0 where the sum gives this. For any other message 0 is right.
pub(crate) const ALL_ZEROS_CHECKSUM: u16 = 0xffff;

pub(crate) fn is_all_zeros(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

/// A view of an ICMP message.
#[derive(Clone, Copy)]
pub struct Icmpv4<'a> {
    head: &'a Header,
    payload: &'a [u8],
}

impl<'a> Icmpv4<'a> {
    /// Checks that the header is in `bytes`, the IP payload. Errors: [`WireError::Truncated`].
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        Ok(Icmpv4 { head, payload })
    }

    /// Type, see [`icmpv4_type`].
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

    /// Checks the checksum. Errors: [`WireError::BadChecksum`].
    #[inline]
    pub fn verify_checksum(&self) -> Result<(), WireError> {
        let sum = Sum::new().bytes(self.head.as_bytes()).bytes(self.payload);
        if sum.is_valid() { Ok(()) } else { Err(WireError::BadChecksum) }
    }

    /// Whether this reports an error and quotes a packet.
    #[inline]
    pub fn is_error(&self) -> bool {
        is_error(self.head.icmp_type)
    }

    /// The identifier of an echo or timestamp message; none for others.
    #[inline]
    pub fn id(&self) -> Option<u16> {
        has_id(self.head.icmp_type).then(|| self.head.id.get())
    }

    /// The sequence number of an echo or timestamp message; none for others.
    #[inline]
    pub fn seq(&self) -> Option<u16> {
        has_id(self.head.icmp_type).then(|| self.head.seq.get())
    }

    /// The next hop's MTU in bytes that "fragmentation needed" tells (RFC 1191 section 4); none for others.
    #[inline]
    pub fn next_hop_mtu_bytes(&self) -> Option<u16> {
        let is_it =
            self.head.icmp_type == icmpv4_type::DEST_UNREACHABLE && self.head.code == unreachable_code::FRAG_NEEDED;
        is_it.then(|| self.head.seq.get())
    }

    /// The packet that an error quotes, which may be cut short. Errors: [`WireError::WrongProtocol`] if this is none,
    /// else as [`Ipv4::parse_quoted`].
    #[inline]
    pub fn quoted(&self) -> Result<Ipv4<'a>, WireError> {
        if self.is_error() { Ipv4::parse_quoted(self.payload) } else { Err(WireError::WrongProtocol) }
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }
}

/// A view of an ICMP message that may change it. Setters keep the checksum right incrementally.
pub struct Icmpv4Mut<'a> {
    head: &'a mut Header,
    payload: &'a mut [u8],
}

impl<'a> Icmpv4Mut<'a> {
    /// Checks as [`Icmpv4::parse`] does.
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        Ok(Icmpv4Mut { head, payload })
    }

    /// The same message, to read.
    #[inline]
    pub fn view(&self) -> Icmpv4<'_> {
        Icmpv4 { head: self.head, payload: self.payload }
    }

    /// Sets the identifier. Errors: [`WireError::Unsupported`] if the message has none.
    #[inline]
    pub fn set_id(&mut self, id: u16) -> Result<(), WireError> {
        if !has_id(self.head.icmp_type) {
            return Err(WireError::Unsupported);
        }
        let delta = Delta::new().u16(self.head.id.get(), id);
        self.head.id.set(id);
        self.apply(delta);
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

    /// Updates the checksum for a change in the payload.
    #[inline]
    pub fn apply(&mut self, delta: Delta) {
        let checksum = delta.apply(self.head.checksum.get());
        self.head.checksum.set(0);
        let is_all_zeros = checksum == 0 && is_all_zeros(self.head.as_bytes()) && is_all_zeros(self.payload);
        self.head.checksum.set(if is_all_zeros { ALL_ZEROS_CHECKSUM } else { checksum });
    }

    /// Computes the checksum anew.
    #[inline]
    pub fn fill_checksum(&mut self) {
        self.head.checksum.set(0);
        let checksum = Sum::new().bytes(self.head.as_bytes()).bytes(self.payload).checksum();
        self.head.checksum.set(checksum);
    }

    /// What follows the header.
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }
}
