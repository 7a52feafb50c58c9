//! The slow path: one packet at a time, with every check and every answer.

use super::config::Interface;
use super::fib::{Hop, Kind, Who};
use super::neighbours::{Due, Want};
use super::{GROUP, L3Router, is_ordinary, u64_of};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::build::{NeighborSolicit, icmp_error};
use middlenet_sdk::wire::ndp::solicited_node;
use middlenet_sdk::wire::vlan::VlanTags;
use middlenet_sdk::wire::{Ethernet, IcmpError, Ipv4Mut, Ipv6, Ipv6Mut, Layers, MacAddr, PacketBuilder, ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

const ETHERNET: usize = 14;

/// What is to be done with a packet.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Drop(DropReason),
    /// Dropped, and its sender told.
    Refuse(IcmpError, DropReason),
    /// Addressed to the router.
    Local,
    /// To be sent on.
    Forward {
        dst: IpAddr,
        number: u16,
        hop: Hop,
        length: usize,
    },
}

impl L3Router {
    #[cold]
    #[inline(never)]
    pub(super) fn slow(&mut self, burst: &mut Burst<'_>, index: usize) {
        let now = burst.now();
        let Some(packet) = burst.get_mut(index) else { return };
        let port = packet.ingress().0;
        let fate = match Ethernet::parse(packet.data()) {
            Ok(ethernet) if self.interface(port).is_some() => {
                let dst = u64_of(&ethernet.dst().octets());
                let station = &self.stations[usize::from(port)];
                let group = dst & GROUP != 0;
                if !group && (dst ^ station.want) & station.mask != 0 {
                    Fate::Drop(self.reasons.other_host)
                } else {
                    match ethernet.ethertype() {
                        ethertype::IPV4 => self.judge_ipv4(packet.data(), group),
                        ethertype::IPV6 => self.judge_ipv6(packet.data(), group, port),
                        ethertype::ARP => return self.arp(burst, index, now),
                        _ => Fate::Drop(DropReason::UNSUPPORTED),
                    }
                }
            }
            Ok(_) => Fate::Drop(DropReason::UNSUPPORTED),
            Err(_) => Fate::Drop(DropReason::MALFORMED),
        };
        match fate {
            Fate::Drop(reason) => packet.drop(reason),
            Fate::Refuse(complaint, reason) => self.refuse(burst, index, complaint, reason, now),
            Fate::Local => self.local(burst, index, now),
            Fate::Forward { dst, number, hop, length } => self.forward(burst, index, dst, (number, hop), length, now),
        }
    }

    fn judge_ipv4(&self, frame: &[u8], group: bool) -> Fate {
        let Ok(layers) = Layers::parse(frame) else { return Fate::Drop(DropReason::MALFORMED) };
        let Ok(ip) = layers.ipv4(frame) else { return Fate::Drop(DropReason::MALFORMED) };
        if ip.verify_checksum().is_err() {
            return Fate::Drop(DropReason::BAD_CHECKSUM);
        }
        let (src, dst) = (ip.src(), ip.dst());
        if !is_ordinary(src.octets()[0]) {
            return Fate::Drop(self.reasons.martian);
        }
        if group || dst.is_multicast() || dst.is_broadcast() {
            return Fate::Drop(self.reasons.group);
        }
        if !is_ordinary(dst.octets()[0]) {
            return Fate::Drop(self.reasons.martian);
        }
        if names_route(ip.options()) {
            return Fate::Drop(self.reasons.source_route);
        }
        let (number, hop) = self.fib.lookup(IpAddr::V4(dst));
        let length = ip.total_len();
        self.judge(IpAddr::V4(dst), number, hop, length, ip.ttl(), !ip.dont_fragment())
    }

    fn judge_ipv6(&self, frame: &[u8], group: bool, port: u8) -> Fate {
        let Ok(ip) = Ipv6::parse(frame.get(ETHERNET..).unwrap_or_default()) else {
            return Fate::Drop(DropReason::MALFORMED);
        };
        let (src, dst) = (ip.src(), ip.dst());
        if src.is_multicast() || src.is_loopback() || dst.is_loopback() || dst.is_unspecified() {
            return Fate::Drop(self.reasons.martian);
        }
        if dst.is_multicast() {
            // Of all groups the router listens to those of neighbour discovery alone.
            let ours = self.interface(port).is_some_and(|interface| is_group_of(dst, interface));
            return if ours { Fate::Local } else { Fate::Drop(self.reasons.group) };
        }
        if group {
            return Fate::Drop(self.reasons.group);
        }
        if dst.is_unicast_link_local() {
            let ours = self.interface(port).is_some_and(|interface| interface.link_local == Some(dst));
            return if ours { Fate::Local } else { Fate::Drop(self.reasons.martian) };
        }
        let (number, hop) = self.fib.lookup(IpAddr::V6(dst));
        if hop.kind != Kind::Local && (src.is_unicast_link_local() || src.is_unspecified()) {
            return Fate::Drop(self.reasons.martian);
        }
        self.judge(IpAddr::V6(dst), number, hop, 40 + ip.payload_len(), ip.hop_limit(), false)
    }

    fn judge(&self, dst: IpAddr, number: u16, hop: Hop, length: usize, ttl: u8, may_fragment: bool) -> Fate {
        match hop.kind {
            Kind::Local => return Fate::Local,
            Kind::Broadcast => return Fate::Drop(self.reasons.group),
            _ if ttl <= 1 => return Fate::Refuse(IcmpError::TimeExceeded, DropReason::TTL_EXPIRED),
            Kind::Missing => return Fate::Refuse(IcmpError::NoRoute, DropReason::NO_ROUTE),
            Kind::OnLink | Kind::Neighbour | Kind::Keep => {}
        }
        let mtu = self.interface(hop.port).map_or(u16::MAX, |interface| interface.mtu);
        if length > usize::from(mtu) && !may_fragment {
            return Fate::Refuse(IcmpError::TooBig { mtu_bytes: mtu.into() }, DropReason::TOO_BIG);
        }
        Fate::Forward { dst, number, hop, length }
    }

    fn forward(
        &mut self,
        burst: &mut Burst<'_>,
        index: usize,
        dst: IpAddr,
        (number, hop): (u16, Hop),
        length: usize,
        now: Duration,
    ) {
        let mut hop = hop;
        let mut ask = None;
        if hop.kind == Kind::OnLink || hop.kind == Kind::Neighbour && hop.ready_mtu == 0 {
            let who = if hop.kind == Kind::OnLink { Some((hop.port, dst)) } else { self.fib.who(number) };
            let Some(who) = who else { return self.drop(burst, index, DropReason::NO_ROUTE) };
            match self.neighbours.want(who, &mut self.fib, now) {
                Want::Ready(number) => hop = self.fib.hops.get(usize::from(number)).copied().unwrap_or(hop),
                want @ (Want::Ask | Want::Wait) => ask = Some((who, want == Want::Ask)),
                Want::Failed => {
                    return self.refuse(burst, index, IcmpError::HostUnreachable, DropReason::NO_NEIGHBOUR, now);
                }
                Want::Full => return self.drop(burst, index, DropReason::TABLE_FULL),
            }
        } else if hop.kind == Kind::Keep
            && let Some(packet) = burst.get_mut(index)
            && let Some(dst) = packet.data().first_chunk::<6>()
        {
            hop.macs[..6].copy_from_slice(dst);
        }
        let mtu = self.interface(hop.port).map_or(u16::MAX, |interface| interface.mtu);
        if let Some((who, first)) = ask {
            self.wait(burst, index, who, length > usize::from(mtu));
            if first {
                self.send_request(burst, who, None);
            }
            return;
        }
        let Some(mut packet) = burst.get_mut(index) else { return };
        lower(packet.data_mut());
        if length > usize::from(mtu) {
            return self.fragment(burst, index, hop, mtu);
        }
        set_link(packet.data_mut(), &hop.macs);
        packet.to_port(Port(hop.port));
        self.counters.forwarded.inc();
    }

    /// Lets a packet wait for its neighbour, if there is room and nothing but the link address is missing.
    fn wait(&mut self, burst: &mut Burst<'_>, index: usize, who: Who, too_big: bool) {
        let Some(mut packet) = burst.get_mut(index) else { return };
        if too_big || !self.neighbours.may_hold(who) {
            return packet.drop(DropReason::NO_NEIGHBOUR);
        }
        lower(packet.data_mut());
        if let Some(refused) = self.neighbours.hold(who, packet.hold()) {
            burst.resume(refused).drop(DropReason::NO_NEIGHBOUR);
        }
    }

    /// A neighbour told its link address: what waited for it goes out.
    pub(super) fn learned(&mut self, burst: &mut Burst<'_>, who: Who, mac: MacAddr, overwrite: bool, now: Duration) {
        let Some(interface) = self.interfaces.iter().find(|interface| interface.port == who.0) else { return };
        let (mac, fib) = (mac.octets(), &mut self.fib);
        let Some((hop, held)) = self.neighbours.learn(who, mac, overwrite, fib, interface, now) else { return };
        let Some(hop) = self.fib.hops.get(usize::from(hop)).copied() else { return };
        for packet in held {
            let mut packet = burst.resume(packet);
            set_link(packet.data_mut(), &hop.macs);
            packet.to_port(Port(hop.port));
            self.counters.forwarded.inc();
        }
    }

    /// Requests, failures and time-outs that are due.
    pub(super) fn advance_neighbours(&mut self, burst: &mut Burst<'_>, now: Duration) {
        for due in self.neighbours.advance(now, &mut self.fib) {
            match due {
                Due::Ask(who, mac) => self.send_request(burst, who, mac),
                Due::Fail(held) => {
                    self.counters.failures.inc();
                    for packet in held {
                        let packet = burst.resume(packet);
                        let port = packet.ingress();
                        let drafted = self.complain(&packet, IcmpError::HostUnreachable, now);
                        packet.drop(DropReason::NO_NEIGHBOUR);
                        self.send_draft_if(drafted, burst, port);
                    }
                }
            }
        }
    }

    /// Asks for a neighbour's link address: all, or the station it is supposed to be.
    fn send_request(&mut self, burst: &mut Burst<'_>, (port, target): Who, known: Option<[u8; 6]>) {
        let Some(interface) = self.interfaces.iter().find(|interface| interface.port == port) else { return };
        let (src_mac, to) = (MacAddr(interface.mac), known.map(MacAddr));
        let written = match target {
            IpAddr::V4(target) => {
                let near = interface.addresses.iter().find(|own| own.contains(target.into())).map(|own| own.address);
                let own = if let Some(IpAddr::V4(own)) = near { Some(own) } else { interface.ipv4() };
                let own = own.or_else(|| self.interfaces.iter().find_map(|interface| interface.ipv4()));
                let request = PacketBuilder::new().arp_request(src_mac, own.unwrap_or(Ipv4Addr::UNSPECIFIED), target);
                self.draft.write(|room| request.mac(src_mac, to.unwrap_or(MacAddr::BROADCAST)).emit(room))
            }
            IpAddr::V6(target) => {
                let src = interface.link_local.unwrap_or_else(|| super::config::link_local(interface.mac));
                let request = NeighborSolicit { src_mac, src, target, to, tags: VlanTags::EMPTY };
                self.draft.write(|room| request.emit(room))
            }
        };
        if written && self.send_draft(burst, Port(port)) {
            self.counters.requests.inc();
        }
    }

    /// Drops a packet and tells its sender why.
    pub(super) fn refuse(
        &mut self,
        burst: &mut Burst<'_>,
        index: usize,
        complaint: IcmpError,
        reason: DropReason,
        now: Duration,
    ) {
        let Some(packet) = burst.get_mut(index) else { return };
        let port = packet.ingress();
        let drafted = self.complain(&packet, complaint, now);
        packet.drop(reason);
        self.send_draft_if(drafted, burst, port);
    }

    /// Writes an error about the packet into the draft, if it may be sent.
    fn complain(&mut self, packet: &Packet<'_>, complaint: IcmpError, now: Duration) -> bool {
        let Some(interface) = self.interfaces.iter().find(|interface| interface.port == packet.ingress().0) else {
            return false;
        };
        let frame = packet.data();
        let Ok(layers) = Layers::parse(frame) else { return false };
        let own = |interface: &Interface| match layers.is_ipv4() {
            true => interface.ipv4().map(IpAddr::V4),
            false => interface.ipv6().map(IpAddr::V6),
        };
        let Some(src) = own(interface).or_else(|| self.interfaces.iter().find_map(own)) else { return false };
        let mac = MacAddr(interface.mac);
        self.draft.write(|room| icmp_error::emit(complaint, frame, &layers, mac, src, room)) && self.allowance.take(now)
    }

    fn send_draft_if(&mut self, drafted: bool, burst: &mut Burst<'_>, port: Port) {
        let sent = drafted && self.send_draft(burst, port);
        if sent { self.counters.icmp_errors.inc() } else { self.counters.icmp_withheld.inc() }
    }

    /// Sends the draft by a port; `false` when there is no buffer for it.
    pub(super) fn send_draft(&mut self, burst: &mut Burst<'_>, port: Port) -> bool {
        let Some(mut packet) = burst.allocate() else { return false };
        if !packet.fill(self.draft.frame()) {
            packet.drop(DropReason::NO_BUFFER);
            return false;
        }
        packet.to_port(port);
        true
    }

    fn drop(&self, burst: &mut Burst<'_>, index: usize, reason: DropReason) {
        if let Some(packet) = burst.get_mut(index) {
            packet.drop(reason);
        }
    }
}

/// Destination and source link address.
pub(super) fn set_link(frame: &mut [u8], macs: &[u8; 12]) {
    if let Some(start) = frame.first_chunk_mut::<12>() {
        *start = *macs;
    }
}

/// TTL or hop limit one lower, in a packet that was found to be IP and to have some left.
fn lower(frame: &mut [u8]) {
    let ethertype = frame.get(12..14).map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]]));
    let packet = frame.get_mut(ETHERNET..).unwrap_or_default();
    if ethertype == Some(ethertype::IPV4) {
        let _ = Ipv4Mut::parse(packet).map(|mut ip| ip.dec_ttl());
    } else {
        let _ = Ipv6Mut::parse(packet).map(|mut ip| ip.dec_hop_limit());
    }
}

/// Whether the options hold a loose or strict source route, which routers drop these days (RFC 7126 sections 4.3 and 4.4).
fn names_route(options: &[u8]) -> bool {
    let mut rest = options;
    while let Some((&kind, after)) = rest.split_first() {
        match kind {
            0 => return false,
            1 => rest = after,
            131 | 137 => return true,
            _ => {
                let length = after.first().map_or(0, |length| usize::from(*length));
                // A length under 2 is malformed; what follows cannot be read.
                rest = if length < 2 { &[] } else { rest.get(length..).unwrap_or_default() };
            }
        }
    }
    false
}

/// All nodes, all routers, and the solicited-node groups of the interface's addresses.
fn is_group_of(group: Ipv6Addr, interface: &Interface) -> bool {
    let own = interface.addresses.iter().filter_map(|own| match own.address {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    });
    let listens = interface.link_local.is_some();
    let everyone = matches!(group.segments(), [0xff02, 0, 0, 0, 0, 0, 0, 1 | 2]);
    listens && everyone || own.chain(interface.link_local).any(|own| solicited_node(own) == group)
}
