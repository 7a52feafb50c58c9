//! Writes the packet that a [`PacketBuilder`] describes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::packet::{Network, PacketBuilder, Transport};
use super::writer::Writer;
use crate::checksum::Sum;
use crate::fragment::Fragment;
use crate::icmpv4::{self, Icmpv4Mut, icmpv4_type};
use crate::icmpv6::{self, Icmpv6Mut, icmpv6_type};
use crate::ipv4::{self, Ipv4Mut};
use crate::tcp::{self, TcpMut};
use crate::udp::{self, UdpMut};
use crate::{WireError, arp, ethernet, ethertype, ipv6, protocol};

/// Shortest Ethernet frame without its check sequence, in bytes.
const MIN_FRAME_LEN: usize = 60;

impl PacketBuilder<'_> {
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
            (Transport::Echo { .. } | Transport::Icmp { .. }, Network::V6 { .. }) => protocol::ICMPV6,
            (Transport::Echo { .. } | Transport::Icmp { .. }, _) => protocol::ICMPV4,
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
            Transport::Echo { .. } | Transport::Icmp { .. } => icmpv4::HEADER_LEN,
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
            Transport::Echo { .. } | Transport::Icmp { .. } => self.put_icmp(writer, src, dst)?,
        }
        Ok(())
    }

    fn put_icmp(&self, writer: &mut Writer<'_>, src: IpAddr, dst: IpAddr) -> Result<(), WireError> {
        let start = writer.len();
        let (icmp_type, code, rest) = match (self.transport, src) {
            (Transport::Echo { is_reply, id, seq }, _) => {
                let icmp_type = match (is_reply, src.is_ipv6()) {
                    (false, false) => icmpv4_type::ECHO_REQUEST,
                    (true, false) => icmpv4_type::ECHO_REPLY,
                    (false, true) => icmpv6_type::ECHO_REQUEST,
                    (true, true) => icmpv6_type::ECHO_REPLY,
                };
                (icmp_type, 0, (u32::from(id) << 16) | u32::from(seq))
            }
            (Transport::Icmp { icmp_type, code, rest_of_header }, _) => (icmp_type, code, rest_of_header),
            _ => return Ok(()),
        };
        // The headers of both versions are alike on the wire.
        writer.header(&icmpv6::Header { icmp_type, code, checksum: 0.into(), rest: rest.into() })?;
        writer.put(self.payload)?;
        if src.is_ipv6() {
            let pseudo = self.pseudo(src, dst);
            Icmpv6Mut::parse(writer.since(start))?.fill_checksum(pseudo);
        } else {
            Icmpv4Mut::parse(writer.since(start))?.fill_checksum();
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
