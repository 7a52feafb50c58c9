//! What a packet is to be.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::arp::ArpOperation;
use crate::fragment::Fragment;
use crate::tcp::TcpFlags;
use crate::vlan::{VlanTag, VlanTags};
use crate::{MacAddr, protocol};

/// Describes one packet; [`emit`](PacketBuilder::emit) writes it into a buffer without allocating and
/// [`build`](PacketBuilder::build) into a new `Vec`. All lengths and checksums are filled in.
///
/// ```
/// use middlenet_wire::{Layers, MacAddr, PacketBuilder, TcpFlags, VlanTag};
/// let frame = PacketBuilder::new()
///     .mac(MacAddr::new(2, 0, 0, 0, 0, 1), MacAddr::new(2, 0, 0, 0, 0, 2))
///     .vlan(VlanTag::customer(7))
///     .ipv6("fd00::1".parse().unwrap(), "fd00::2".parse().unwrap())
///     .tcp(40000, 80, TcpFlags::SYN)
///     .build();
/// assert_eq!(frame.len(), 14 + 4 + 40 + 20);
/// Layers::parse(&frame)?.verify_checksums(&frame)?;
/// # Ok::<(), middlenet_wire::WireError>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct PacketBuilder<'a> {
    pub(super) link: Option<(MacAddr, MacAddr)>,
    pub(super) tags: VlanTags,
    pub(super) too_many_tags: bool,
    pub(super) network: Network,
    pub(super) tos: u8,
    pub(super) ttl: u8,
    pub(super) ip_id: u16,
    pub(super) dont_fragment: bool,
    pub(super) fragment: Option<Fragment>,
    pub(super) ip_options: &'a [u8],
    pub(super) extensions: Option<(u8, &'a [u8])>,
    pub(super) transport: Transport<'a>,
    pub(super) payload: &'a [u8],
    pub(super) pad: bool,
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Network {
    Raw { ethertype: u16 },
    Arp { operation: ArpOperation, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr) },
    V4 { src: Ipv4Addr, dst: Ipv4Addr },
    V6 { src: Ipv6Addr, dst: Ipv6Addr },
}

#[derive(Debug, Clone, Copy)]
pub(super) enum Transport<'a> {
    Raw { protocol: u8 },
    Udp { src_port: u16, dst_port: u16, with_checksum: bool },
    Tcp { src_port: u16, dst_port: u16, flags: TcpFlags, seq: u32, ack: u32, window: u16, options: &'a [u8] },
    Echo { is_reply: bool, id: u16, seq: u16 },
    Icmp { icmp_type: u8, code: u8, rest_of_header: u32 },
}

impl Default for PacketBuilder<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl<'a> PacketBuilder<'a> {
    /// An Ethernet frame between two locally administered addresses, of ethertype 0x88b5 (for experiments), empty.
    pub const fn new() -> Self {
        PacketBuilder {
            link: Some((MacAddr::new(2, 0, 0, 0, 0, 1), MacAddr::new(2, 0, 0, 0, 0, 2))),
            tags: VlanTags::EMPTY,
            too_many_tags: false,
            network: Network::Raw { ethertype: 0x88b5 },
            tos: 0,
            ttl: 64,
            ip_id: 0,
            dont_fragment: false,
            fragment: None,
            ip_options: &[],
            extensions: None,
            transport: Transport::Raw { protocol: protocol::NO_NEXT_HEADER },
            payload: &[],
            pad: false,
        }
    }

    /// Ethernet source and destination.
    pub const fn mac(mut self, src: MacAddr, dst: MacAddr) -> Self {
        self.link = Some((src, dst));
        self
    }

    /// No Ethernet header: the packet begins at L3.
    pub const fn without_ethernet(mut self) -> Self {
        self.link = None;
        self
    }

    /// Adds a VLAN tag inside those already there.
    pub fn vlan(mut self, tag: VlanTag) -> Self {
        self.too_many_tags |= self.tags.push(tag).is_err();
        self
    }

    /// All VLAN tags at once, in place of those already there.
    pub const fn vlans(mut self, tags: VlanTags) -> Self {
        self.tags = tags;
        self.too_many_tags = false;
        self
    }

    /// Any ethertype; the payload follows it.
    pub const fn ethertype(mut self, ethertype: u16) -> Self {
        self.network = Network::Raw { ethertype };
        self
    }

    /// An ARP request from `sender`, to the broadcast address.
    pub const fn arp_request(mut self, sender_mac: MacAddr, sender_ip: Ipv4Addr, target_ip: Ipv4Addr) -> Self {
        self.link = Some((sender_mac, MacAddr::BROADCAST));
        let (sender, target) = ((sender_mac, sender_ip), (MacAddr::ZERO, target_ip));
        self.network = Network::Arp { operation: ArpOperation::Request, sender, target };
        self
    }

    /// An ARP reply from `sender` to `target`.
    pub const fn arp_reply(mut self, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr)) -> Self {
        self.link = Some((sender.0, target.0));
        self.network = Network::Arp { operation: ArpOperation::Reply, sender, target };
        self
    }

    /// IPv4 source and destination.
    pub const fn ipv4(mut self, src: Ipv4Addr, dst: Ipv4Addr) -> Self {
        self.network = Network::V4 { src, dst };
        self
    }

    /// IPv6 source and destination.
    pub const fn ipv6(mut self, src: Ipv6Addr, dst: Ipv6Addr) -> Self {
        self.network = Network::V6 { src, dst };
        self
    }

    /// Time to live, or hop limit; 64 if not set.
    pub const fn ttl(mut self, ttl: u8) -> Self {
        self.ttl = ttl;
        self
    }

    /// Type of service, or traffic class.
    pub const fn tos(mut self, tos: u8) -> Self {
        self.tos = tos;
        self
    }

    /// IPv4 identification.
    pub const fn ip_id(mut self, id: u16) -> Self {
        self.ip_id = id;
        self
    }

    /// IPv4 "don't fragment".
    pub const fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// Makes the packet a fragment; for IPv6 a fragment header comes after the extension headers. A later fragment has no
    /// upper-layer header, so that its payload follows at once. The upper layer's checksum covers this fragment alone.
    pub const fn fragment(mut self, fragment: Fragment) -> Self {
        self.fragment = Some(fragment);
        self
    }

    /// IPv4 options, padded with zeros to a multiple of four bytes.
    pub const fn ip_options(mut self, options: &'a [u8]) -> Self {
        self.ip_options = options;
        self
    }

    /// IPv6 extension headers as on the wire, of which `first` is the first one's type. The last one's "next header" must
    /// already name what follows it.
    pub const fn extensions(mut self, first: u8, headers: &'a [u8]) -> Self {
        self.extensions = Some((first, headers));
        self
    }

    /// Any upper-layer protocol; the payload follows the IP header.
    pub const fn protocol(mut self, protocol: u8) -> Self {
        self.transport = Transport::Raw { protocol };
        self
    }

    /// UDP ports.
    pub const fn udp(mut self, src_port: u16, dst_port: u16) -> Self {
        self.transport = Transport::Udp { src_port, dst_port, with_checksum: true };
        self
    }

    /// UDP ports, with a checksum of zero: over IPv4 that means none, over IPv6 it is wrong.
    pub const fn udp_without_checksum(mut self, src_port: u16, dst_port: u16) -> Self {
        self.transport = Transport::Udp { src_port, dst_port, with_checksum: false };
        self
    }

    /// TCP ports and flags; numbers 0 and window 65535 if not set.
    pub const fn tcp(mut self, src_port: u16, dst_port: u16, flags: TcpFlags) -> Self {
        self.transport = Transport::Tcp { src_port, dst_port, flags, seq: 0, ack: 0, window: 0xffff, options: &[] };
        self
    }

    /// TCP sequence and acknowledgement number; call it after [`tcp`](PacketBuilder::tcp).
    pub const fn tcp_numbers(mut self, new_seq: u32, new_ack: u32) -> Self {
        if let Transport::Tcp { ref mut seq, ref mut ack, .. } = self.transport {
            *seq = new_seq;
            *ack = new_ack;
        }
        self
    }

    /// TCP window; call it after [`tcp`](PacketBuilder::tcp).
    pub const fn tcp_window(mut self, new: u16) -> Self {
        if let Transport::Tcp { ref mut window, .. } = self.transport {
            *window = new;
        }
        self
    }

    /// TCP options, padded with zeros to a multiple of four bytes; call it after [`tcp`](PacketBuilder::tcp).
    pub const fn tcp_options(mut self, new: &'a [u8]) -> Self {
        if let Transport::Tcp { ref mut options, .. } = self.transport {
            *options = new;
        }
        self
    }

    /// An ICMP or ICMPv6 echo request, as the IP version demands.
    pub const fn echo_request(mut self, id: u16, seq: u16) -> Self {
        self.transport = Transport::Echo { is_reply: false, id, seq };
        self
    }

    /// An ICMP or ICMPv6 echo reply, as the IP version demands.
    pub const fn echo_reply(mut self, id: u16, seq: u16) -> Self {
        self.transport = Transport::Echo { is_reply: true, id, seq };
        self
    }

    /// Any ICMP or ICMPv6 message: its type, code and the four bytes after the checksum, in host order.
    pub const fn icmp(mut self, icmp_type: u8, code: u8, rest_of_header: u32) -> Self {
        self.transport = Transport::Icmp { icmp_type, code, rest_of_header };
        self
    }

    /// What follows the last header.
    pub const fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// Pads the frame with zeros to 60 bytes, as a network card does.
    pub const fn padded(mut self) -> Self {
        self.pad = true;
        self
    }
}
