//! A rule's packets as patterns of a NIC.
//!
//! A steering rule asks for lists of values, a NIC's pattern for one value of each field: one becomes several, of which any that
//! matches will do. Fields that a NIC finds otherwise than [`Head`](crate::Head) does are refused. One thing is otherwise: a priority tag,
//! of number 0, counts as none in software and is one to a NIC, so that packets which have one are left to the kernel: not every
//! driver can be asked for that number.

use super::{Inexact, Item, MOST_FLOWS, Ports};
use crate::{Match, Prefix, WITH_PORTS, ethertype};
use std::net::IpAddr;

/// What announces a VLAN tag.
const TAGS: [u16; 2] = [ethertype::VLAN, ethertype::SERVICE_VLAN];

/// The patterns that together match the packets of a rule; none if it matches no packet.
pub(super) fn patterns(asked: &Match) -> Result<Vec<Vec<Item>>, Inexact> {
    if asked.matches_nothing() {
        return Ok(Vec::new());
    }
    if !asked.arp_targets.is_empty() {
        return Err(Inexact::Arp);
    }
    if asked.needs_ports() && asked.fragments != Some(false) {
        return Err(Inexact::Fragments);
    }
    let types = asked.possible_ether_types();
    if types.iter().any(|t| TAGS.contains(t)) {
        return Err(Inexact::TagAsType);
    }
    let mut patterns = Vec::new();
    for ether_type in options(&types) {
        // Without a type, nothing is asked above Ethernet.
        let above = ether_type.map_or(Ok(vec![Vec::new()]), |ether_type| layers(ether_type, asked))?;
        for link in links(asked, ether_type)? {
            patterns.extend(above.iter().map(|above| link.iter().chain(above).copied().collect()));
            if patterns.len() > MOST_FLOWS {
                return Err(Inexact::TooMany);
            }
        }
    }
    Ok(patterns)
}

/// Each of a list, or nothing asked.
fn options<T: Copy>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
}

/// Ethernet, and a tag if one is asked for.
fn links(asked: &Match, ether_type: Option<u16>) -> Result<Vec<Vec<Item>>, Inexact> {
    let numbers: Vec<u16> = asked.vlans.iter().copied().filter(|id| *id != 0).collect();
    let untagged = asked.vlans.contains(&0);
    match ether_type {
        None if untagged => return Err(Inexact::Untagged),
        Some(_) if !untagged || !numbers.is_empty() => return Err(Inexact::BehindTags),
        _ => {}
    }
    let mut links = Vec::new();
    for src in options(&asked.src_macs) {
        for dst in options(&asked.dst_macs) {
            let eth = |ether_type| Item::Eth { src, dst, ether_type };
            let tagged = |id, outer| vec![eth(Some(outer)), Item::Vlan { id }];
            if numbers.is_empty() {
                links.push(vec![eth(ether_type)]);
            }
            links.extend(numbers.iter().flat_map(|&id| TAGS.map(|outer| tagged(id, outer))));
        }
    }
    Ok(links)
}

/// What is asked above Ethernet of packets of this type.
fn layers(ether_type: u16, asked: &Match) -> Result<Vec<Vec<Item>>, Inexact> {
    if !asked.needs_ip() {
        return Ok(vec![Vec::new()]);
    }
    if ether_type == ethertype::IPV6 {
        if asked.needs_ports() || !asked.protocols.is_empty() || asked.fragments.is_some() {
            return Err(Inexact::Extensions);
        }
        let pairs = pairs(asked, |address| match address {
            IpAddr::V6(address) => Some(address),
            IpAddr::V4(_) => None,
        });
        let item = |(src, dst)| vec![Item::Ipv6 { src, dst }];
        return Ok(pairs.into_iter().map(item).collect());
    }
    let pairs = pairs(asked, |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let mut all = Vec::new();
    for (src, dst) in pairs {
        for (protocol, ports) in protocols(asked) {
            let ip = Item::Ipv4 { src, dst, protocol, fragment: asked.fragments };
            all.push([ip].into_iter().chain(ports).collect());
        }
    }
    Ok(all)
}

/// A prefix, if one is asked for.
type Asked<A> = Option<(A, u8)>;

/// Each pair of source and destination of one address family.
fn pairs<A: Copy>(asked: &Match, family: impl Fn(IpAddr) -> Option<A>) -> Vec<(Asked<A>, Asked<A>)> {
    let of = |prefixes: &[Prefix]| -> Vec<Asked<A>> {
        if prefixes.is_empty() {
            return vec![None];
        }
        prefixes.iter().filter_map(|p| Some(Some((family(p.address())?, p.length())))).collect()
    };
    let destinations = of(&asked.dst);
    of(&asked.src).into_iter().flat_map(|src| destinations.iter().map(move |dst| (src, *dst))).collect()
}

/// Each protocol, with each pair of ports.
fn protocols(asked: &Match) -> Vec<(Option<u8>, Option<Item>)> {
    if !asked.needs_ports() {
        return options(&asked.protocols).into_iter().map(|protocol| (protocol, None)).collect();
    }
    let wanted = |protocol: &u8| asked.protocols.is_empty() || asked.protocols.contains(protocol);
    let mut all = Vec::new();
    for protocol in WITH_PORTS.into_iter().filter(wanted) {
        for src in options(&asked.src_ports) {
            for dst in options(&asked.dst_ports) {
                let ports = Ports { src: src.map(|r| (r.first, r.last)), dst: dst.map(|r| (r.first, r.last)) };
                let item = match protocol {
                    6 => Item::Tcp(ports),
                    17 => Item::Udp(ports),
                    _ => Item::Sctp(ports),
                };
                all.push((Some(protocol), Some(item)));
            }
        }
    }
    all
}
