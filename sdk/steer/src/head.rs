//! What rules look at in a packet.

use crate::{WITH_PORTS, ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// VLAN tags that are walked over; what is behind further ones is not looked at.
const TAGS: usize = 2;
/// IPv6 extension headers that are walked over; the protocol is then that of the next one.
const EXTENSIONS: usize = 8;

/// Protocol numbers: extension headers of IPv6 that are walked over (RFC 8200), and those that end a walk.
const HOP_OPTIONS: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const OPTIONS: u8 = 60;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// Protocol numbers, and their messages with an identifier: echo and timestamp, and the replies (RFC 792, RFC 4443).
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const ICMP_WITH_ID: [u8; 4] = [0, 8, 13, 14];
const ICMPV6_WITH_ID: [u8; 2] = [128, 129];

/// The fields of a packet that rules and flows speak of.
///
/// A packet that ends within a header, or whose header contradicts itself, has the fields before it and none behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Source MAC address.
    pub src_mac: [u8; 6],
    /// Destination MAC address.
    pub dst_mac: [u8; 6],
    /// VLAN identifier of the outermost tag; 0 without.
    pub vlan: u16,
    /// Ethertype behind the VLAN tags.
    pub ether_type: u16,
    /// Source address of an IP packet.
    pub src: Option<IpAddr>,
    /// Destination address of an IP packet.
    pub dst: Option<IpAddr>,
    /// The address that ARP asks for.
    pub arp_target: Option<Ipv4Addr>,
    /// Protocol of an IP packet. There whenever the addresses are.
    pub protocol: Option<u8>,
    /// Whether it is an IP fragment, the first included.
    pub fragment: bool,
    /// Source port.
    pub src_port: Option<u16>,
    /// Destination port.
    pub dst_port: Option<u16>,
    /// Identifier of an ICMP or ICMPv6 echo or timestamp message.
    pub icmp_id: Option<u16>,
}

impl Head {
    /// Reads the head of a frame; none if it is shorter than an Ethernet header.
    pub fn parse(frame: &[u8]) -> Option<Self> {
        let mut head = Self {
            dst_mac: array(frame, 0)?,
            src_mac: array(frame, 6)?,
            ether_type: word(frame, 12)?,
            ..Self::default()
        };
        let mut at = ETHERNET;
        for tag in 0..TAGS {
            if !matches!(head.ether_type, ethertype::VLAN | ethertype::SERVICE_VLAN) {
                break;
            }
            let (Some(control), Some(next)) = (word(frame, at), word(frame, at + 2)) else { return Some(head) };
            if tag == 0 {
                head.vlan = control & 0xfff;
            }
            head.ether_type = next;
            at += 4;
        }
        let rest = frame.get(at..).unwrap_or_default();
        // What is missing stays as it is.
        let _ = match head.ether_type {
            ethertype::IPV4 => head.read_ipv4(rest),
            ethertype::IPV6 => head.read_ipv6(rest),
            ethertype::ARP => head.read_arp(rest),
            _ => None,
        };
        Some(head)
    }

    /// Whether the packet may have ports of TCP or UDP that are not to be seen, or not to be relied on: it is a fragment, the first
    /// included, it ends before them, or it has more headers than are read.
    pub fn hides_ports(&self) -> bool {
        match self.protocol {
            Some(TCP | UDP) => self.fragment || self.dst_port.is_none(),
            Some(HOP_OPTIONS | ROUTING | FRAGMENT | OPTIONS) => true,
            _ => false,
        }
    }

    fn read_ipv4(&mut self, packet: &[u8]) -> Option<()> {
        let first = *packet.first()?;
        let length = usize::from(first & 0xf) * 4;
        if first >> 4 != 4 || length < 20 || packet.len() < length {
            return None;
        }
        let fragment = word(packet, 6)? & 0x3fff;
        self.protocol = Some(packet[9]);
        self.src = Some(Ipv4Addr::from(array::<4>(packet, 12)?).into());
        self.dst = Some(Ipv4Addr::from(array::<4>(packet, 16)?).into());
        self.fragment = fragment != 0;
        self.read_transport(packet, length, fragment & 0x1fff == 0)
    }

    fn read_ipv6(&mut self, packet: &[u8]) -> Option<()> {
        let fixed: [u8; 40] = array(packet, 0)?;
        if fixed[0] >> 4 != 6 {
            return None;
        }
        self.src = Some(Ipv6Addr::from(array::<16>(packet, 8)?).into());
        self.dst = Some(Ipv6Addr::from(array::<16>(packet, 24)?).into());
        self.protocol = Some(fixed[6]);
        let (mut at, mut is_first) = (fixed.len(), true);
        for _ in 0..EXTENSIONS {
            let header: [u8; 8] = match self.protocol {
                Some(HOP_OPTIONS | ROUTING | FRAGMENT | OPTIONS) if is_first => array(packet, at)?,
                _ => break,
            };
            if self.protocol == Some(FRAGMENT) {
                let fragment = u16::from_be_bytes([header[2], header[3]]);
                self.fragment = true;
                is_first = fragment & 0xfff8 == 0;
                at += 8;
            } else {
                at += (usize::from(header[1]) + 1) * 8;
            }
            self.protocol = Some(header[0]);
        }
        self.read_transport(packet, at, is_first)
    }

    fn read_transport(&mut self, packet: &[u8], at: usize, is_first: bool) -> Option<()> {
        if !is_first {
            return None;
        }
        let protocol = self.protocol?;
        if WITH_PORTS.contains(&protocol) {
            let (src, dst) = (word(packet, at)?, word(packet, at + 2)?);
            (self.src_port, self.dst_port) = (Some(src), Some(dst));
        } else if protocol == if self.src?.is_ipv4() { ICMP } else { ICMPV6 } {
            let header: [u8; 8] = array(packet, at)?;
            let kinds: &[u8] = if protocol == ICMP { &ICMP_WITH_ID } else { &ICMPV6_WITH_ID };
            self.icmp_id = kinds.contains(&header[0]).then(|| u16::from_be_bytes([header[4], header[5]]));
        }
        Some(())
    }

    /// IPv4 over Ethernet alone.
    fn read_arp(&mut self, packet: &[u8]) -> Option<()> {
        let fixed: [u8; 6] = array(packet, 0)?;
        let target: [u8; 4] = array(packet, 24)?;
        if fixed != [0, 1, 8, 0, 6, 4] {
            return None;
        }
        self.arp_target = Some(target.into());
        Some(())
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_wire::{PacketBuilder, TcpFlags};

    #[test]
    fn the_fields_of_a_plain_packet() {
        let frame =
            PacketBuilder::new().ipv4("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()).udp(1000, 53).build();
        let head = Head::parse(&frame).unwrap();
        assert_eq!((head.ether_type, head.protocol, head.fragment), (ethertype::IPV4, Some(17), false));
        assert_eq!((head.src_port, head.dst_port), (Some(1000), Some(53)));
        assert_eq!(head.dst, Some("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn a_packet_cut_short_has_what_is_before_the_cut() {
        let frame = PacketBuilder::new()
            .ipv6("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap())
            .tcp(1000, 80, TcpFlags::SYN)
            .build();
        for length in 0..frame.len() {
            let head = Head::parse(&frame[..length]);
            assert_eq!(head.is_some(), length >= ETHERNET);
            let Some(head) = head else { continue };
            assert_eq!(head.src.is_some(), length >= ETHERNET + 40);
            assert_eq!(head.dst_port.is_some(), length >= ETHERNET + 40 + 4);
        }
    }
}
