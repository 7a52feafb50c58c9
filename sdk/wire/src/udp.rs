//! UDP (RFC 768).

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::WireError;
use crate::checksum::{Delta, Sum};

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub(crate) src_port: U16,
    pub(crate) dst_port: U16,
    pub(crate) length: U16,
    pub(crate) checksum: U16,
}

/// A view of a UDP datagram.
#[derive(Clone, Copy)]
pub struct Udp<'a> {
    head: &'a Header,
    payload: &'a [u8],
}

impl<'a> Udp<'a> {
    /// Checks the length field against `bytes`, the IP payload; bytes after the datagram are ignored.
    ///
    /// Errors: [`WireError::Truncated`] if `bytes` are fewer than the length field says, as in the first fragment of a
    /// datagram (see [`parse_header`](Udp::parse_header)); [`WireError::BadLength`] if that is below 8.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let length = usize::from(head.length.get()).checked_sub(HEADER_LEN).ok_or(WireError::BadLength)?;
        let payload = rest.get(..length).ok_or(WireError::Truncated)?;
        Ok(Udp { head, payload })
    }

    /// Checks only that the header is there, as in a first fragment or a packet that an ICMP error quotes.
    #[inline]
    pub fn parse_header(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        Ok(Udp { head, payload })
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        self.head.src_port.get()
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        self.head.dst_port.get()
    }

    /// Length of header and payload as the header states it, in bytes.
    #[inline]
    pub fn length(&self) -> usize {
        usize::from(self.head.length.get())
    }

    /// The checksum field; zero over IPv4 means that there is none.
    #[inline]
    pub fn checksum(&self) -> u16 {
        self.head.checksum.get()
    }

    /// What follows the header.
    #[inline]
    pub fn payload(&self) -> &'a [u8] {
        self.payload
    }

    /// Checks the checksum. `pseudo` must count this datagram's length; over IPv6 zero is wrong (RFC 8200 section 8.1).
    ///
    /// Errors: [`WireError::BadChecksum`].
    #[inline]
    pub fn verify_checksum(&self, pseudo: Sum, is_ipv6: bool) -> Result<(), WireError> {
        let valid = if self.checksum() == 0 {
            !is_ipv6
        } else {
            pseudo.bytes(self.head.as_bytes()).bytes(self.payload).is_valid()
        };
        if valid { Ok(()) } else { Err(WireError::BadChecksum) }
    }
}

/// A view of a UDP datagram that may change it. Port setters keep the checksum right incrementally; zero stays zero.
pub struct UdpMut<'a> {
    head: &'a mut Header,
    payload: &'a mut [u8],
}

impl<'a> UdpMut<'a> {
    /// Checks as [`Udp::parse`] does.
    #[inline]
    pub fn parse(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, rest) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        let length = usize::from(head.length.get()).checked_sub(HEADER_LEN).ok_or(WireError::BadLength)?;
        let payload = rest.get_mut(..length).ok_or(WireError::Truncated)?;
        Ok(UdpMut { head, payload })
    }

    /// Checks only that the header is there, as in a first fragment.
    #[inline]
    pub fn parse_header(bytes: &'a mut [u8]) -> Result<Self, WireError> {
        let (head, payload) = Header::mut_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        Ok(UdpMut { head, payload })
    }

    /// The same datagram, to read.
    #[inline]
    pub fn view(&self) -> Udp<'_> {
        Udp { head: self.head, payload: self.payload }
    }

    /// Sets the source port.
    #[inline]
    pub fn set_src_port(&mut self, port: u16) {
        let delta = Delta::new().u16(self.head.src_port.get(), port);
        self.head.src_port.set(port);
        self.apply(delta);
    }

    /// Sets the destination port.
    #[inline]
    pub fn set_dst_port(&mut self, port: u16) {
        let delta = Delta::new().u16(self.head.dst_port.get(), port);
        self.head.dst_port.set(port);
        self.apply(delta);
    }

    /// Updates the checksum for a change elsewhere that it covers, such as an address; zero stays zero.
    #[inline]
    pub fn apply(&mut self, delta: Delta) {
        self.head.checksum.set(delta.apply_udp(self.head.checksum.get()));
    }

    /// Computes the checksum anew. `pseudo` must count this datagram's length.
    #[inline]
    pub fn fill_checksum(&mut self, pseudo: Sum) {
        self.head.checksum.set(0);
        let checksum = pseudo.bytes(self.head.as_bytes()).bytes(self.payload).udp_checksum();
        self.head.checksum.set(checksum);
    }

    /// What follows the header. After a change, call [`fill_checksum`](UdpMut::fill_checksum).
    #[inline]
    pub fn payload_mut(&mut self) -> &mut [u8] {
        self.payload
    }
}
