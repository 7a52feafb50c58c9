//! One walk over a frame that finds every header, so that a chain of functions parses a packet once.

use crate::arp::Arp;
use crate::checksum::Sum;
use crate::ethernet::ethertype;
use crate::fragment::Fragment;
use crate::icmpv4::{Icmpv4, Icmpv4Mut};
use crate::icmpv6::{Icmpv6, Icmpv6Mut};
use crate::ipv4::{Ipv4, Ipv4Mut};
use crate::ipv6::{self, Ipv6, Ipv6Mut};
use crate::tcp::{Tcp, TcpMut};
use crate::udp::{Udp, UdpMut};
use crate::vlan::{self, VlanTags};
use crate::{WireError, protocol};

/// What stands at L3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum L3 {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// ARP.
    Arp,
    /// Anything else; [`Layers::ethertype`] tells what.
    Other,
}

/// Where the headers of a frame are. Offsets count bytes from the start of the frame.
///
/// [`parse`](Layers::parse) promises that `l3_offset <= l4_offset <= end <= frame.len()`, that the IP header is whole and
/// consistent, and nothing about the upper layer. The views it hands out check again what they need, so `Layers` that went
/// stale, because the frame changed, lead to an error and never to a panic.
///
/// ```
/// use middlenet_wire::{Layers, PacketBuilder};
/// let frame = PacketBuilder::new()
///     .ipv4("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap())
///     .udp(1000, 53)
///     .build();
/// let layers = Layers::parse(&frame)?;
/// assert_eq!(layers.udp(&frame)?.dst_port(), 53);
/// # Ok::<(), middlenet_wire::WireError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layers {
    /// VLAN tags, outermost first.
    pub vlan: VlanTags,
    /// The ethertype after the tags.
    pub ethertype: u16,
    /// What stands at L3.
    pub l3: L3,
    /// The upper-layer protocol; 0 if L3 is not IP. For IPv6 it is what the extension headers lead to.
    pub protocol: u8,
    /// Where L3 begins.
    pub l3_offset: usize,
    /// Where L3's payload begins; for IPv6 after the extension headers. Equals `end` if L3 is not IP.
    pub l4_offset: usize,
    /// Where L3's packet ends; what is beyond it in the frame is Ethernet padding.
    pub end: usize,
    /// What part of a packet this is; none if it is whole.
    pub fragment: Option<Fragment>,
}

impl Layers {
    /// Walks a frame. Checksums are not checked: see [`verify_checksums`](Layers::verify_checksums).
    ///
    /// Errors: as [`vlan::walk`], [`Ipv4::parse`], [`Ipv6::parse`] and [`ipv6::walk_extensions`]. A frame whose L3 is not
    /// known is no error, nor is malformed ARP.
    #[inline]
    pub fn parse(frame: &[u8]) -> Result<Self, WireError> {
        let tagged = vlan::walk(frame)?;
        let mut layers = Layers {
            vlan: tagged.tags,
            ethertype: tagged.ethertype,
            l3: L3::Other,
            protocol: 0,
            l3_offset: tagged.l3_offset,
            l4_offset: frame.len(),
            end: frame.len(),
            fragment: None,
        };
        match tagged.ethertype {
            ethertype::IPV4 => layers.walk_ipv4(frame)?,
            ethertype::IPV6 => layers.walk_ipv6(frame)?,
            ethertype::ARP => layers.l3 = L3::Arp,
            _ => {}
        }
        Ok(layers)
    }

    /// Walks an IP packet that has no Ethernet header; its first four bits tell the version.
    ///
    /// Errors: as [`parse`](Layers::parse); [`WireError::BadVersion`] if it is neither 4 nor 6.
    #[inline]
    pub fn parse_ip(packet: &[u8]) -> Result<Self, WireError> {
        let mut layers = Layers {
            vlan: VlanTags::default(),
            ethertype: 0,
            l3: L3::Other,
            protocol: 0,
            l3_offset: 0,
            l4_offset: packet.len(),
            end: packet.len(),
            fragment: None,
        };
        match packet.first().map(|byte| byte >> 4) {
            Some(4) => {
                layers.ethertype = ethertype::IPV4;
                layers.walk_ipv4(packet)?;
            }
            Some(6) => {
                layers.ethertype = ethertype::IPV6;
                layers.walk_ipv6(packet)?;
            }
            Some(_) => return Err(WireError::BadVersion),
            None => return Err(WireError::Truncated),
        }
        Ok(layers)
    }

    #[inline]
    fn walk_ipv4(&mut self, frame: &[u8]) -> Result<(), WireError> {
        let ip = Ipv4::parse(tail(frame, self.l3_offset)?)?;
        self.l3 = L3::Ipv4;
        self.protocol = ip.protocol();
        self.l4_offset = self.l3_offset + ip.header_len();
        self.end = self.l4_offset + ip.payload().len();
        self.fragment = ip.fragment();
        Ok(())
    }

    #[inline]
    fn walk_ipv6(&mut self, frame: &[u8]) -> Result<(), WireError> {
        let ip = Ipv6::parse(tail(frame, self.l3_offset)?)?;
        let upper = ip.upper_layer()?;
        self.l3 = L3::Ipv6;
        self.protocol = upper.protocol;
        self.l4_offset = self.l3_offset + ipv6::HEADER_LEN + upper.offset;
        self.end = self.l3_offset + ipv6::HEADER_LEN + ip.payload().len();
        self.fragment = upper.fragment;
        Ok(())
    }

    /// Whether L3 is IPv4.
    #[inline]
    pub fn is_ipv4(&self) -> bool {
        self.l3 == L3::Ipv4
    }

    /// Whether L3 is IPv6.
    #[inline]
    pub fn is_ipv6(&self) -> bool {
        self.l3 == L3::Ipv6
    }

    /// Whether L3 is IPv4 or IPv6.
    #[inline]
    pub fn is_ip(&self) -> bool {
        matches!(self.l3, L3::Ipv4 | L3::Ipv6)
    }

    /// Whether this is a fragment, first or later.
    #[inline]
    pub fn is_fragment(&self) -> bool {
        self.fragment.is_some()
    }

    /// Whether `l4_offset` is where an upper-layer header should begin: L3 is IP and this is no later fragment.
    #[inline]
    pub fn has_l4(&self) -> bool {
        self.is_ip() && self.fragment.is_none_or(Fragment::is_first)
    }

    /// The VLAN identifier of the outermost tag; none if untagged or only priority-tagged.
    #[inline]
    pub fn vid(&self) -> Option<u16> {
        self.vlan.outer().map(|tag| tag.vid()).filter(|vid| *vid != 0)
    }

    /// The L3 packet without Ethernet padding. Errors: [`WireError::Truncated`].
    #[inline]
    pub fn l3_bytes<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8], WireError> {
        frame.get(self.l3_offset..self.end).ok_or(WireError::Truncated)
    }

    /// The upper-layer packet without Ethernet padding.
    ///
    /// Errors: [`WireError::WrongProtocol`] if there is none ([`has_l4`](Layers::has_l4)); [`WireError::Truncated`].
    #[inline]
    pub fn l4_bytes<'a>(&self, frame: &'a [u8]) -> Result<&'a [u8], WireError> {
        if !self.has_l4() {
            return Err(WireError::WrongProtocol);
        }
        frame.get(self.l4_offset..self.end).ok_or(WireError::Truncated)
    }

    /// As [`l4_bytes`](Layers::l4_bytes), to change.
    #[inline]
    pub fn l4_bytes_mut<'a>(&self, frame: &'a mut [u8]) -> Result<&'a mut [u8], WireError> {
        if !self.has_l4() {
            return Err(WireError::WrongProtocol);
        }
        frame.get_mut(self.l4_offset..self.end).ok_or(WireError::Truncated)
    }

    #[inline]
    fn l4_of<'a>(&self, frame: &'a [u8], protocol: u8) -> Result<&'a [u8], WireError> {
        if self.protocol == protocol { self.l4_bytes(frame) } else { Err(WireError::WrongProtocol) }
    }

    #[inline]
    fn l4_of_mut<'a>(&self, frame: &'a mut [u8], protocol: u8) -> Result<&'a mut [u8], WireError> {
        if self.protocol == protocol { self.l4_bytes_mut(frame) } else { Err(WireError::WrongProtocol) }
    }

    /// ARP. Errors: [`WireError::WrongProtocol`], else as [`Arp::parse`].
    #[inline]
    pub fn arp<'a>(&self, frame: &'a [u8]) -> Result<Arp<'a>, WireError> {
        if self.l3 != L3::Arp {
            return Err(WireError::WrongProtocol);
        }
        Arp::parse(tail(frame, self.l3_offset)?)
    }

    /// IPv4. Errors: [`WireError::WrongProtocol`], else as [`Ipv4::parse`].
    #[inline]
    pub fn ipv4<'a>(&self, frame: &'a [u8]) -> Result<Ipv4<'a>, WireError> {
        if !self.is_ipv4() {
            return Err(WireError::WrongProtocol);
        }
        Ipv4::parse(tail(frame, self.l3_offset)?)
    }

    /// IPv4, to change. Errors: as [`ipv4`](Layers::ipv4).
    #[inline]
    pub fn ipv4_mut<'a>(&self, frame: &'a mut [u8]) -> Result<Ipv4Mut<'a>, WireError> {
        if !self.is_ipv4() {
            return Err(WireError::WrongProtocol);
        }
        Ipv4Mut::parse(tail_mut(frame, self.l3_offset)?)
    }

    /// IPv6. Errors: [`WireError::WrongProtocol`], else as [`Ipv6::parse`].
    #[inline]
    pub fn ipv6<'a>(&self, frame: &'a [u8]) -> Result<Ipv6<'a>, WireError> {
        if !self.is_ipv6() {
            return Err(WireError::WrongProtocol);
        }
        Ipv6::parse(tail(frame, self.l3_offset)?)
    }

    /// IPv6, to change. Errors: as [`ipv6`](Layers::ipv6).
    #[inline]
    pub fn ipv6_mut<'a>(&self, frame: &'a mut [u8]) -> Result<Ipv6Mut<'a>, WireError> {
        if !self.is_ipv6() {
            return Err(WireError::WrongProtocol);
        }
        Ipv6Mut::parse(tail_mut(frame, self.l3_offset)?)
    }

    /// TCP. Errors: [`WireError::WrongProtocol`], else as [`Tcp::parse`].
    #[inline]
    pub fn tcp<'a>(&self, frame: &'a [u8]) -> Result<Tcp<'a>, WireError> {
        Tcp::parse(self.l4_of(frame, protocol::TCP)?)
    }

    /// TCP, to change. Errors: as [`tcp`](Layers::tcp).
    #[inline]
    pub fn tcp_mut<'a>(&self, frame: &'a mut [u8]) -> Result<TcpMut<'a>, WireError> {
        TcpMut::parse(self.l4_of_mut(frame, protocol::TCP)?)
    }

    /// UDP; of a first fragment only the header is checked, for the datagram ends in another one.
    ///
    /// Errors: [`WireError::WrongProtocol`], else as [`Udp::parse`].
    #[inline]
    pub fn udp<'a>(&self, frame: &'a [u8]) -> Result<Udp<'a>, WireError> {
        let bytes = self.l4_of(frame, protocol::UDP)?;
        if self.is_fragment() { Udp::parse_header(bytes) } else { Udp::parse(bytes) }
    }

    /// UDP, to change. Errors: as [`udp`](Layers::udp).
    #[inline]
    pub fn udp_mut<'a>(&self, frame: &'a mut [u8]) -> Result<UdpMut<'a>, WireError> {
        let bytes = self.l4_of_mut(frame, protocol::UDP)?;
        if self.is_fragment() { UdpMut::parse_header(bytes) } else { UdpMut::parse(bytes) }
    }

    /// ICMP over IPv4. Errors: [`WireError::WrongProtocol`], else as [`Icmpv4::parse`].
    #[inline]
    pub fn icmpv4<'a>(&self, frame: &'a [u8]) -> Result<Icmpv4<'a>, WireError> {
        if !self.is_ipv4() {
            return Err(WireError::WrongProtocol);
        }
        Icmpv4::parse(self.l4_of(frame, protocol::ICMPV4)?)
    }

    /// ICMP over IPv4, to change. Errors: as [`icmpv4`](Layers::icmpv4).
    #[inline]
    pub fn icmpv4_mut<'a>(&self, frame: &'a mut [u8]) -> Result<Icmpv4Mut<'a>, WireError> {
        if !self.is_ipv4() {
            return Err(WireError::WrongProtocol);
        }
        Icmpv4Mut::parse(self.l4_of_mut(frame, protocol::ICMPV4)?)
    }

    /// ICMPv6. Errors: [`WireError::WrongProtocol`], else as [`Icmpv6::parse`].
    #[inline]
    pub fn icmpv6<'a>(&self, frame: &'a [u8]) -> Result<Icmpv6<'a>, WireError> {
        if !self.is_ipv6() {
            return Err(WireError::WrongProtocol);
        }
        Icmpv6::parse(self.l4_of(frame, protocol::ICMPV6)?)
    }

    /// ICMPv6, to change. Errors: as [`icmpv6`](Layers::icmpv6).
    #[inline]
    pub fn icmpv6_mut<'a>(&self, frame: &'a mut [u8]) -> Result<Icmpv6Mut<'a>, WireError> {
        if !self.is_ipv6() {
            return Err(WireError::WrongProtocol);
        }
        Icmpv6Mut::parse(self.l4_of_mut(frame, protocol::ICMPV6)?)
    }

    /// The pseudo header of the upper layer, whose length is that of [`l4_bytes`](Layers::l4_bytes).
    ///
    /// Errors: [`WireError::WrongProtocol`] if L3 is not IP.
    #[inline]
    pub fn pseudo_header(&self, frame: &[u8]) -> Result<Sum, WireError> {
        let length = self.end.saturating_sub(self.l4_offset);
        match self.l3 {
            L3::Ipv4 => {
                let ip = self.ipv4(frame)?;
                Ok(Sum::pseudo_ipv4(ip.src(), ip.dst(), self.protocol, length))
            }
            L3::Ipv6 => Ok(self.ipv6(frame)?.pseudo_header(self.protocol, length)),
            _ => Err(WireError::WrongProtocol),
        }
    }

    /// Checks the IPv4 header checksum and that of TCP, UDP or ICMP. That of a fragment's upper layer cannot be checked,
    /// since it covers the other fragments too; it passes. Frames that are not IP pass.
    ///
    /// Errors: [`WireError::BadChecksum`], and those of the views.
    pub fn verify_checksums(&self, frame: &[u8]) -> Result<(), WireError> {
        if self.is_ipv4() {
            self.ipv4(frame)?.verify_checksum()?;
        }
        self.verify_l4_checksum(frame)
    }

    /// Checks the checksum of TCP, UDP or ICMP alone; see [`verify_checksums`](Layers::verify_checksums).
    pub fn verify_l4_checksum(&self, frame: &[u8]) -> Result<(), WireError> {
        if !self.has_l4() || self.is_fragment() {
            return Ok(());
        }
        match (self.protocol, self.l3) {
            (protocol::TCP, _) => self.tcp(frame)?.verify_checksum(self.pseudo_header(frame)?),
            (protocol::UDP, _) => {
                let udp = self.udp(frame)?;
                // The pseudo header counts the length in the UDP header, which may leave out bytes of the IP payload.
                let mut layers = *self;
                layers.end = self.l4_offset + udp.length();
                udp.verify_checksum(layers.pseudo_header(frame)?, self.is_ipv6())
            }
            (protocol::ICMPV4, L3::Ipv4) => self.icmpv4(frame)?.verify_checksum(),
            (protocol::ICMPV6, L3::Ipv6) => self.icmpv6(frame)?.verify_checksum(self.pseudo_header(frame)?),
            _ => Ok(()),
        }
    }
}

#[inline]
fn tail(frame: &[u8], offset: usize) -> Result<&[u8], WireError> {
    frame.get(offset..).ok_or(WireError::Truncated)
}

#[inline]
fn tail_mut(frame: &mut [u8], offset: usize) -> Result<&mut [u8], WireError> {
    frame.get_mut(offset..).ok_or(WireError::Truncated)
}
