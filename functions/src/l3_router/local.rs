//! Packets to the router itself: ARP, neighbour discovery, echo; TCP and UDP are told that nobody listens.

use super::L3Router;
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::build::NeighborAdvert;
use middlenet_sdk::wire::icmpv4::icmpv4_type;
use middlenet_sdk::wire::icmpv6::icmpv6_type;
use middlenet_sdk::wire::{
    ArpOperation, EthernetMut, IcmpError, L3, Layers, MacAddr, NdMessage, PacketBuilder, WireError, protocol,
    vlan::VlanTags,
};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

const ETHERNET: usize = 14;
/// Of answers.
const TTL: u8 = 64;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// What a station said about itself or another.
struct Learned {
    neighbour: Ipv6Addr,
    mac: MacAddr,
    overwrite: bool,
}

impl L3Router {
    pub(super) fn local(&mut self, burst: &mut Burst<'_>, index: usize, now: Duration) {
        self.counters.local.inc();
        let Some(packet) = burst.get_mut(index) else { return };
        let Ok(layers) = Layers::parse(packet.data()) else { return packet.drop(DropReason::MALFORMED) };
        if layers.is_fragment() {
            return packet.drop(DropReason::UNSUPPORTED);
        }
        match (layers.l3, layers.protocol) {
            (L3::Ipv4, protocol::ICMPV4) => self.icmpv4(packet, &layers),
            (L3::Ipv6, protocol::ICMPV6) => self.icmpv6(burst, index, &layers, now),
            (_, protocol::TCP | protocol::UDP) => {
                self.refuse(burst, index, IcmpError::PortUnreachable, DropReason::CONSUMED, now);
            }
            _ => packet.drop(DropReason::CONSUMED),
        }
    }

    /// An echo request turns round as its reply; other ICMP ends here.
    fn icmpv4(&self, mut packet: Packet<'_>, layers: &Layers) {
        let frame = packet.data_mut();
        let Ok(icmp) = layers.icmpv4(frame) else { return packet.drop(DropReason::MALFORMED) };
        if icmp.verify_checksum().is_err() {
            return packet.drop(DropReason::BAD_CHECKSUM);
        }
        if icmp.icmp_type() != icmpv4_type::ECHO_REQUEST {
            return packet.drop(DropReason::CONSUMED);
        }
        if let Ok(mut icmp) = layers.icmpv4_mut(frame) {
            icmp.set_type(icmpv4_type::ECHO_REPLY);
        }
        if let Ok(mut ip) = layers.ipv4_mut(frame) {
            let (src, dst) = (ip.view().src(), ip.view().dst());
            ip.set_src(dst);
            ip.set_dst(src);
            ip.set_ttl(TTL);
        }
        self.reply(packet);
    }

    fn icmpv6(&mut self, burst: &mut Burst<'_>, index: usize, layers: &Layers, now: Duration) {
        let Some(packet) = burst.get_mut(index) else { return };
        let frame = packet.data();
        let (Ok(icmp), Ok(pseudo)) = (layers.icmpv6(frame), layers.pseudo_header(frame)) else {
            return packet.drop(DropReason::MALFORMED);
        };
        if icmp.verify_checksum(pseudo).is_err() {
            return packet.drop(DropReason::BAD_CHECKSUM);
        }
        match icmp.icmp_type() {
            icmpv6_type::ECHO_REQUEST => self.echo_ipv6(packet, layers),
            icmpv6_type::NEIGHBOR_SOLICIT | icmpv6_type::NEIGHBOR_ADVERT => self.discovery(burst, index, layers, now),
            _ => packet.drop(DropReason::CONSUMED),
        }
    }

    fn echo_ipv6(&self, mut packet: Packet<'_>, layers: &Layers) {
        let frame = packet.data_mut();
        // Extension headers are not turned round.
        if layers.l4_offset == ETHERNET + 40
            && let Ok(mut ip) = layers.ipv6_mut(frame)
        {
            let (src, dst) = (ip.view().src(), ip.view().dst());
            // To a group we would have to choose an address to answer from.
            if !dst.is_multicast() {
                ip.set_src(dst);
                ip.set_dst(src);
                ip.set_hop_limit(TTL);
                if let Ok(mut icmp) = layers.icmpv6_mut(frame) {
                    icmp.set_type(icmpv6_type::ECHO_REPLY);
                }
                return self.reply(packet);
            }
        }
        packet.drop(DropReason::CONSUMED);
    }

    /// The frame goes back to the station it came from.
    fn reply(&self, mut packet: Packet<'_>) {
        if let Ok(mut ethernet) = EthernetMut::parse(packet.data_mut()) {
            ethernet.swap_addresses();
        }
        self.counters.echo_replies.inc();
        packet.reply();
    }

    /// Neighbour solicitations and advertisements (RFC 4861 section 7.2), with checksums already found right.
    fn discovery(&mut self, burst: &mut Burst<'_>, index: usize, layers: &Layers, now: Duration) {
        let Some(packet) = burst.get_mut(index) else { return };
        let port = packet.ingress().0;
        let told = self.read_discovery(packet.data(), layers, port);
        packet.drop(if told.is_ok() { DropReason::CONSUMED } else { DropReason::MALFORMED });
        let (learned, answer) = told.unwrap_or_default();
        if let Some(Learned { neighbour, mac, overwrite }) = learned {
            self.learned(burst, (port, IpAddr::V6(neighbour)), mac, overwrite, now);
        }
        if let Some(answer) = answer
            && self.draft.write(|room| answer.emit(room))
            && self.send_draft(burst, Port(port))
        {
            self.counters.nd_replies.inc();
        }
    }

    fn read_discovery(
        &self,
        frame: &[u8],
        layers: &Layers,
        port: u8,
    ) -> Result<(Option<Learned>, Option<NeighborAdvert>), WireError> {
        let message = NdMessage::of(layers, frame)?;
        let src = layers.ipv6(frame)?.src();
        let Some(interface) = self.interface(port) else { return Ok((None, None)) };
        match message {
            NdMessage::NeighborSolicit { target, options } => {
                let (mine, probing) = (interface.owns(IpAddr::V6(target)), src.is_unspecified());
                let claimed = interface.owns(IpAddr::V6(src));
                // Who probes for an address of ours wants to have it.
                if claimed || mine && probing {
                    self.counters.conflicts.inc();
                }
                if claimed {
                    return Ok((None, None));
                }
                let option = options.source_mac().filter(|mac| mac.is_unicast());
                let sender = middlenet_sdk::wire::Ethernet::parse(frame)?.src();
                let (dst_mac, dst) = match probing {
                    true => (MacAddr::of_ipv6_multicast(ALL_NODES), ALL_NODES),
                    false => (option.unwrap_or(sender), src),
                };
                let answer = NeighborAdvert {
                    src_mac: MacAddr(interface.mac),
                    src: target,
                    dst_mac,
                    dst,
                    target,
                    is_router: true,
                    is_solicited: !probing,
                    overrides: true,
                    tags: VlanTags::EMPTY,
                };
                let learned = option.filter(|_| !probing).map(|mac| Learned { neighbour: src, mac, overwrite: true });
                Ok((learned, mine.then_some(answer)))
            }
            NdMessage::NeighborAdvert { target, overrides, options, .. } => {
                if interface.owns(IpAddr::V6(target)) {
                    self.counters.conflicts.inc();
                    return Ok((None, None));
                }
                let mac = options.target_mac().filter(|mac| mac.is_unicast());
                Ok((mac.map(|mac| Learned { neighbour: target, mac, overwrite: overrides }), None))
            }
            _ => Ok((None, None)),
        }
    }

    /// ARP (RFC 826), except that nobody is entered who was not asked for.
    pub(super) fn arp(&mut self, burst: &mut Burst<'_>, index: usize, now: Duration) {
        let Some(mut packet) = burst.get_mut(index) else { return };
        let port = packet.ingress().0;
        let Some(interface) = self.interfaces.iter().find(|interface| interface.port == port) else {
            return packet.drop(DropReason::UNSUPPORTED);
        };
        let frame = packet.data();
        let arp = Layers::parse(frame).and_then(|layers| layers.arp(frame));
        let Ok(arp) = arp else { return packet.drop(DropReason::MALFORMED) };
        let (sender, target) = ((arp.sender_mac(), arp.sender_ip()), arp.target_ip());
        let (operation, is_station) = (arp.operation(), sender.0.is_unicast());
        if !is_station || matches!(operation, ArpOperation::Other(_)) {
            return packet.drop(DropReason::MALFORMED);
        }
        let claimed = interface.owns(IpAddr::V4(sender.1)) && sender.0.octets() != interface.mac;
        if operation == ArpOperation::Request && interface.owns(IpAddr::V4(target)) && !claimed {
            let own = (MacAddr(interface.mac), target);
            let written = self.draft.write(|room| PacketBuilder::new().arp_reply(own, sender).emit(room));
            if !written || !packet.fill(self.draft.frame()) {
                return packet.drop(DropReason::NO_BUFFER);
            }
            self.counters.arp_replies.inc();
            packet.reply();
        } else {
            packet.drop(DropReason::CONSUMED);
        }
        if claimed {
            self.counters.conflicts.inc();
        } else {
            self.learned(burst, (port, IpAddr::V4(sender.1)), sender.0, true, now);
        }
    }
}
