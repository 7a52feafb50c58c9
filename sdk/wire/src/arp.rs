//! ARP for IPv4 over Ethernet (RFC 826).

use std::net::Ipv4Addr;

use zerocopy::byteorder::network_endian::U16;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::ethernet::ethertype;
use crate::{MacAddr, WireError};

/// Length of an ARP packet for IPv4 over Ethernet, in bytes.
pub const PACKET_LEN: usize = 28;

/// What an ARP packet asks or says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ArpOperation {
    /// Who has the target address?
    Request,
    /// The sender has it.
    Reply,
    /// Any other code.
    Other(u16),
}

impl ArpOperation {
    /// The code on the wire.
    #[inline]
    pub const fn code(self) -> u16 {
        match self {
            ArpOperation::Request => 1,
            ArpOperation::Reply => 2,
            ArpOperation::Other(code) => code,
        }
    }
}

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Packet {
    pub(crate) hardware: U16,
    pub(crate) protocol: U16,
    pub(crate) hardware_len: u8,
    pub(crate) protocol_len: u8,
    pub(crate) operation: U16,
    pub(crate) sender_mac: MacAddr,
    pub(crate) sender_ip: [u8; 4],
    pub(crate) target_mac: MacAddr,
    pub(crate) target_ip: [u8; 4],
}

/// A view of an ARP packet.
#[derive(Clone, Copy)]
pub struct Arp<'a> {
    packet: &'a Packet,
}

impl<'a> Arp<'a> {
    /// Checks length and address types; bytes after the packet are padding.
    ///
    /// Errors: [`WireError::Truncated`], [`WireError::BadVersion`] (not Ethernet or not IPv4),
    /// [`WireError::BadLength`] (address lengths).
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        let (packet, _padding) = Packet::ref_from_prefix(bytes).map_err(|_| WireError::Truncated)?;
        if packet.hardware.get() != 1 || packet.protocol.get() != ethertype::IPV4 {
            return Err(WireError::BadVersion);
        }
        if packet.hardware_len != 6 || packet.protocol_len != 4 {
            return Err(WireError::BadLength);
        }
        Ok(Arp { packet })
    }

    /// What the packet asks or says.
    #[inline]
    pub fn operation(&self) -> ArpOperation {
        match self.packet.operation.get() {
            1 => ArpOperation::Request,
            2 => ArpOperation::Reply,
            code => ArpOperation::Other(code),
        }
    }

    /// The sender's hardware address.
    #[inline]
    pub fn sender_mac(&self) -> MacAddr {
        self.packet.sender_mac
    }

    /// The sender's protocol address; 0.0.0.0 in a probe (RFC 5227).
    #[inline]
    pub fn sender_ip(&self) -> Ipv4Addr {
        self.packet.sender_ip.into()
    }

    /// The target's hardware address; without meaning in a request.
    #[inline]
    pub fn target_mac(&self) -> MacAddr {
        self.packet.target_mac
    }

    /// The target's protocol address.
    #[inline]
    pub fn target_ip(&self) -> Ipv4Addr {
        self.packet.target_ip.into()
    }

    /// Whether the sender announces its own address (gratuitous ARP).
    #[inline]
    pub fn is_gratuitous(&self) -> bool {
        self.packet.sender_ip == self.packet.target_ip
    }
}
