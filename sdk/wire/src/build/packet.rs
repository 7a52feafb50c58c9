//! A builder of one packet, from Ethernet to payload.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::arp::{self, ArpOperation};
use crate::build::Writer;
use crate::checksum::Sum;
use crate::fragment::Fragment;
use crate::icmpv4::{self, Icmpv4Mut, icmpv4_type};
use crate::icmpv6::{self, Icmpv6Mut, icmpv6_type};
use crate::ipv4::{self, Ipv4Mut};
use crate::tcp::{self, TcpFlags, TcpMut};
use crate::udp::{self, UdpMut};
use crate::vlan::{VlanTag, VlanTags};
use crate::{MacAddr, WireError, ethernet, ethertype, ipv6, protocol};

/// Shortest Ethernet frame without its check sequence, in bytes.
const MIN_FRAME_LEN: usize = 60;

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
    link: Option<(MacAddr, MacAddr)>,
    tags: VlanTags,
    too_many_tags: bool,
    network: Network,
    tos: u8,
    ttl: u8,
    ip_id: u16,
    dont_fragment: bool,
    fragment: Option<Fragment>,
    ip_options: &'a [u8],
    extensions: Option<(u8, &'a [u8])>,
    transport: Transport<'a>,
    payload: &'a [u8],
    pad: bool,
}

#[derive(Debug, Clone, Copy)]
enum Network {
    Raw { ethertype: u16 },
    Arp { operation: ArpOperation, sender: (MacAddr, Ipv4Addr), target: (MacAddr, Ipv4Addr) },
    V4 { src: Ipv4Addr, dst: Ipv4Addr },
    V6 { src: Ipv6Addr, dst: Ipv6Addr },
}

#[derive(Debug, Clone, Copy)]
enum Transport<'a> {
    Raw { protocol: u8 },
    Udp { src_port: u16, dst_port: u16, with_checksum: bool },
    Tcp { src_port: u16, dst_port: u16, flags: TcpFlags, seq: u32, ack: u32, window: u16, options: &'a [u8] },
    Echo { is_reply: bool, id: u16, seq: u16 },
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

    /// How many bytes the packet takes.
    pub fn len(&self) -> usize {
        let link = match self.link {
            Some(_) => ethernet::HEADER_LEN + self.tags.len() * crate::vlan::TAG_LEN,
            None => 0,
        };
        let len = link
            + match self.network {
                Network::Raw { .. } => self.payload.len(),
                Network::Arp { .. } => arp::PACKET_LEN,
                Network::V4 { .. } | Network::V6 { .. } => self.ip_len(),
            };
        if self.pad && self.link.is_some() { len.max(MIN_FRAME_LEN) } else { len }
    }

    /// Whether the packet takes no bytes at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes the packet to the start of `buffer` and returns its length in bytes.
    ///
    /// Errors: [`WireError::NoSpace`] if `buffer` is shorter than [`len`](PacketBuilder::len);
    /// [`WireError::TooManyTags`]; [`WireError::BadLength`] if a length does not fit its field.
    pub fn emit(&self, buffer: &mut [u8]) -> Result<usize, WireError> {
        if self.too_many_tags {
            return Err(WireError::TooManyTags);
        }
        let len = self.len();
        let mut writer = Writer::new(buffer.get_mut(..len).ok_or(WireError::NoSpace)?);
        self.put_link(&mut writer)?;
        match self.network {
            Network::Raw { .. } => writer.put(self.payload)?,
            Network::Arp { operation, sender, target } => writer.header(&arp::Packet {
                hardware: 1.into(),
                protocol: ethertype::IPV4.into(),
                hardware_len: 6,
                protocol_len: 4,
                operation: operation.code().into(),
                sender_mac: sender.0,
                sender_ip: sender.1.octets(),
                target_mac: target.0,
                target_ip: target.1.octets(),
            })?,
            Network::V4 { src, dst } => {
                self.put_ipv4(&mut writer, src, dst)?;
                self.put_transport(&mut writer, src.into(), dst.into())?;
            }
            Network::V6 { src, dst } => {
                self.put_ipv6(&mut writer, src, dst)?;
                self.put_transport(&mut writer, src.into(), dst.into())?;
            }
        }
        let padding = len - writer.len();
        writer.zeros(padding)?;
        Ok(len)
    }

    /// The packet in a new `Vec`, for tests.
    ///
    /// # Panics
    ///
    /// If the description cannot be a packet: more than two VLAN tags, or a length that does not fit its field. Where that
    /// can happen use [`emit`](PacketBuilder::emit).
    pub fn build(&self) -> Vec<u8> {
        let mut packet = vec![0; self.len()];
        match self.emit(&mut packet) {
            Ok(_) => packet,
            Err(error) => panic!("not a packet: {error}"),
        }
    }

    fn is_first(&self) -> bool {
        self.fragment.is_none_or(Fragment::is_first)
    }

    fn protocol_number(&self) -> u8 {
        match (self.transport, self.network) {
            (Transport::Raw { protocol }, _) => protocol,
            (Transport::Udp { .. }, _) => protocol::UDP,
            (Transport::Tcp { .. }, _) => protocol::TCP,
            (Transport::Echo { .. }, Network::V6 { .. }) => protocol::ICMPV6,
            (Transport::Echo { .. }, _) => protocol::ICMPV4,
        }
    }

    fn ip_len(&self) -> usize {
        match self.network {
            Network::V4 { .. } => ipv4::HEADER_LEN + self.ip_options.len().next_multiple_of(4) + self.l4_len(),
            _ => ipv6::HEADER_LEN + self.extensions_len() + self.l4_len(),
        }
    }

    fn extensions_len(&self) -> usize {
        let fragment = if self.fragment.is_some() { ipv6::FRAGMENT_HEADER_LEN } else { 0 };
        self.extensions.map_or(0, |(_, headers)| headers.len()) + fragment
    }

    fn l4_len(&self) -> usize {
        let header = match self.transport {
            _ if !self.is_first() => 0,
            Transport::Raw { .. } => 0,
            Transport::Udp { .. } => udp::HEADER_LEN,
            Transport::Tcp { options, .. } => tcp::HEADER_LEN + options.len().next_multiple_of(4),
            Transport::Echo { .. } => icmpv4::HEADER_LEN,
        };
        header + self.payload.len()
    }

    fn put_link(&self, writer: &mut Writer<'_>) -> Result<(), WireError> {
        let Some((src, dst)) = self.link else { return Ok(()) };
        writer.put(&dst.octets())?;
        writer.put(&src.octets())?;
        for tag in self.tags.as_slice() {
            writer.put(&tag.tpid.to_be_bytes())?;
            writer.put(&tag.tci.to_be_bytes())?;
        }
        let ethertype = match self.network {
            Network::Raw { ethertype } => ethertype,
            Network::Arp { .. } => ethertype::ARP,
            Network::V4 { .. } => ethertype::IPV4,
            Network::V6 { .. } => ethertype::IPV6,
        };
        writer.put(&ethertype.to_be_bytes())
    }

    fn put_ipv4(&self, writer: &mut Writer<'_>, src: Ipv4Addr, dst: Ipv4Addr) -> Result<(), WireError> {
        let header_len = ipv4::HEADER_LEN + self.ip_options.len().next_multiple_of(4);
        if header_len > 60 {
            return Err(WireError::BadLength);
        }
        let total = u16::try_from(self.ip_len()).map_err(|_| WireError::BadLength)?;
        let (id, fragment_bits) = match self.fragment {
            None => (self.ip_id, 0),
            Some(fragment) => (fragment.id as u16, (u16::from(fragment.more) << 13) | (fragment.offset_bytes / 8)),
        };
        let start = writer.len();
        writer.header(&ipv4::Header {
            version_ihl: 0x40 | (header_len / 4) as u8,
            tos: self.tos,
            total_len: total.into(),
            id: id.into(),
            flags_offset: (fragment_bits | if self.dont_fragment { ipv4::FLAG_DF } else { 0 }).into(),
            ttl: self.ttl,
            protocol: self.protocol_number(),
            checksum: 0.into(),
            src: src.octets(),
            dst: dst.octets(),
        })?;
        writer.put(self.ip_options)?;
        writer.zeros(header_len - ipv4::HEADER_LEN - self.ip_options.len())?;
        // The payload is not written yet, so the view reads the packet as one that was cut short.
        Ipv4Mut::parse_quoted(writer.since(start))?.fill_checksum();
        Ok(())
    }

    fn put_ipv6(&self, writer: &mut Writer<'_>, src: Ipv6Addr, dst: Ipv6Addr) -> Result<(), WireError> {
        let payload_len = self.ip_len() - ipv6::HEADER_LEN;
        let upper = self.protocol_number();
        let after_extensions = if self.fragment.is_some() { protocol::FRAGMENT } else { upper };
        writer.header(&ipv6::Header {
            version_class_label: (6 << 28 | u32::from(self.tos) << 20).into(),
            payload_len: u16::try_from(payload_len).map_err(|_| WireError::BadLength)?.into(),
            next_header: self.extensions.map_or(after_extensions, |(first, _)| first),
            hop_limit: self.ttl,
            src: src.octets(),
            dst: dst.octets(),
        })?;
        if let Some((_, headers)) = self.extensions {
            writer.put(headers)?;
        }
        if let Some(fragment) = self.fragment {
            writer.put(&[upper, 0])?;
            writer.put(&(fragment.offset_bytes & 0xfff8 | u16::from(fragment.more)).to_be_bytes())?;
            writer.put(&fragment.id.to_be_bytes())?;
        }
        Ok(())
    }

    fn put_transport(&self, writer: &mut Writer<'_>, src: IpAddr, dst: IpAddr) -> Result<(), WireError> {
        let start = writer.len();
        if !self.is_first() {
            return writer.put(self.payload);
        }
        match self.transport {
            Transport::Raw { .. } => writer.put(self.payload)?,
            Transport::Udp { src_port, dst_port, with_checksum } => {
                writer.header(&udp::Header {
                    src_port: src_port.into(),
                    dst_port: dst_port.into(),
                    length: u16::try_from(self.l4_len()).map_err(|_| WireError::BadLength)?.into(),
                    checksum: 0.into(),
                })?;
                writer.put(self.payload)?;
                if with_checksum {
                    let pseudo = self.pseudo(src, dst);
                    UdpMut::parse(writer.since(start))?.fill_checksum(pseudo);
                }
            }
            Transport::Tcp { src_port, dst_port, flags, seq, ack, window, options } => {
                let header_len = tcp::HEADER_LEN + options.len().next_multiple_of(4);
                if header_len > 60 {
                    return Err(WireError::BadLength);
                }
                writer.header(&tcp::Header {
                    src_port: src_port.into(),
                    dst_port: dst_port.into(),
                    seq: seq.into(),
                    ack: ack.into(),
                    data_offset: ((header_len / 4) << 4) as u8,
                    flags: flags.0,
                    window: window.into(),
                    checksum: 0.into(),
                    urgent: 0.into(),
                })?;
                writer.put(options)?;
                writer.zeros(header_len - tcp::HEADER_LEN - options.len())?;
                writer.put(self.payload)?;
                let pseudo = self.pseudo(src, dst);
                TcpMut::parse(writer.since(start))?.fill_checksum(pseudo);
            }
            Transport::Echo { is_reply, id, seq } if src.is_ipv6() => {
                writer.header(&icmpv6::Header {
                    icmp_type: if is_reply { icmpv6_type::ECHO_REPLY } else { icmpv6_type::ECHO_REQUEST },
                    code: 0,
                    checksum: 0.into(),
                    rest: (u32::from(id) << 16 | u32::from(seq)).into(),
                })?;
                writer.put(self.payload)?;
                let pseudo = self.pseudo(src, dst);
                Icmpv6Mut::parse(writer.since(start))?.fill_checksum(pseudo);
            }
            Transport::Echo { is_reply, id, seq } => {
                writer.header(&icmpv4::Header {
                    icmp_type: if is_reply { icmpv4_type::ECHO_REPLY } else { icmpv4_type::ECHO_REQUEST },
                    code: 0,
                    checksum: 0.into(),
                    id: id.into(),
                    seq: seq.into(),
                })?;
                writer.put(self.payload)?;
                Icmpv4Mut::parse(writer.since(start))?.fill_checksum();
            }
        }
        Ok(())
    }

    fn pseudo(&self, src: IpAddr, dst: IpAddr) -> Sum {
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::pseudo_ipv4(src, dst, self.protocol_number(), self.l4_len()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::pseudo_ipv6(src, dst, self.protocol_number(), self.l4_len()),
            // `Network` holds addresses of one version.
            _ => Sum::new(),
        }
    }
}
