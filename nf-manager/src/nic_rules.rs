//! Steering rules as rules of a NIC (`rte_flow`): the same packets, or an error.
//!
//! A steering rule asks for lists of values, a NIC's rule for one value of each field: one becomes several, of which any that
//! matches will do. Fields that a NIC finds otherwise than [`Head`](middlenet_steer::Head) does are refused rather than
//! carried out for other packets.

use middlenet_dpdk::{FlowAction, FlowItem, FlowRule, Ip, Ports};
use middlenet_steer::{Match, Prefix, Rule, WITH_PORTS, ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Rules of a NIC that one steering rule may become.
const MOST_RULES: usize = 256;
/// What announces a VLAN tag.
const TAGS: [u16; 2] = [ethertype::VLAN, ethertype::SERVICE_VLAN];

/// Why a rule cannot be carried out by a NIC for exactly its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inexact {
    /// Untagged packets of any kind.
    #[error("a NIC's rule cannot ask that there be no VLAN tag, unless it asks for an ethertype")]
    Untagged,
    /// A protocol of IPv6.
    #[error(
        "a NIC does not look for protocols and ports behind IPv6 extension headers; ask for `ether_type: ipv4`, or for addresses alone"
    )]
    Extensions,
    /// An address in ARP.
    #[error("a NIC's rule does not look into ARP")]
    Arp,
    /// A VLAN tag as an ethertype.
    #[error("a VLAN tag is no ethertype behind VLAN tags")]
    TagAsType,
    /// Too many values.
    #[error("the rule would become more than {MOST_RULES} rules of a NIC")]
    TooMany,
}

/// The rules of a NIC that together match the packets of a steering rule. Those of the first rule of a list have priority 0,
/// those of the next 1, and so on: the order decides as it does in software. None, if the rule matches no packet.
///
/// # Errors
/// [`Inexact`] when they would match other packets.
pub fn nic_rules(rule: &Rule, priority: u32, action: FlowAction) -> Result<Vec<FlowRule>, Inexact> {
    let asked = &rule.matches;
    if !asked.arp_targets.is_empty() {
        return Err(Inexact::Arp);
    }
    let types = asked.possible_ether_types();
    if types.iter().any(|t| TAGS.contains(t)) {
        return Err(Inexact::TagAsType);
    }
    if types.is_empty() && (asked.needs_ip() || !asked.ether_types.is_empty()) {
        return Ok(Vec::new());
    }
    let mut rules = Vec::new();
    for ether_type in options(&types) {
        // Without a type, nothing is asked above Ethernet.
        let above = ether_type.map_or(Ok(vec![Vec::new()]), |ether_type| layers(ether_type, asked))?;
        for link in links(asked, ether_type)? {
            for above in &above {
                let pattern = link.iter().chain(above).copied().collect();
                let actions = vec![action];
                rules.push(FlowRule { group: 0, priority, transfer: false, pattern, actions });
                if rules.len() > MOST_RULES {
                    return Err(Inexact::TooMany);
                }
            }
        }
    }
    Ok(rules)
}

/// Each of a list, or nothing asked.
fn options<T: Copy>(list: &[T]) -> Vec<Option<T>> {
    if list.is_empty() { vec![None] } else { list.iter().copied().map(Some).collect() }
}

/// Ethernet and up to two tags.
fn links(asked: &Match, ether_type: Option<u16>) -> Result<Vec<Vec<FlowItem>>, Inexact> {
    let mut links = Vec::new();
    for src in options(&asked.src_macs) {
        for dst in options(&asked.dst_macs) {
            let eth = |ether_type| FlowItem::Eth { src, dst, ether_type };
            if asked.vlans.is_empty() && ether_type.is_none() {
                links.push(vec![eth(None)]);
                continue;
            }
            if asked.vlans.is_empty() || asked.vlans.contains(&0) {
                // Without a type nothing tells an untagged packet from a tagged one.
                links.push(vec![eth(Some(ether_type.ok_or(Inexact::Untagged)?))]);
            }
            for id in options(&asked.vlans) {
                for outer in TAGS {
                    let tag = |id, ether_type| FlowItem::Vlan { id, ether_type };
                    links.push(vec![eth(Some(outer)), tag(id, ether_type)]);
                    if ether_type.is_some() {
                        let twice = |inner| vec![eth(Some(outer)), tag(id, Some(inner)), tag(None, ether_type)];
                        links.extend(TAGS.map(twice));
                    }
                }
            }
        }
    }
    Ok(links)
}

/// What is asked above Ethernet of packets of this type.
fn layers(ether_type: u16, asked: &Match) -> Result<Vec<Vec<FlowItem>>, Inexact> {
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
        let item = |(src, dst)| vec![FlowItem::Ipv6(Ip::<Ipv6Addr> { src, dst, ..Ip::default() })];
        return Ok(pairs.into_iter().map(item).collect());
    }
    let pairs = pairs(asked, |address| match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    });
    let mut all = Vec::new();
    for (src, dst) in pairs {
        for (protocol, ports) in protocols(asked) {
            let ip = Ip::<Ipv4Addr> { src, dst, protocol, fragment: asked.fragments };
            all.push([FlowItem::Ipv4(ip)].into_iter().chain(ports).collect());
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
fn protocols(asked: &Match) -> Vec<(Option<u8>, Option<FlowItem>)> {
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
                    6 => FlowItem::Tcp(ports),
                    17 => FlowItem::Udp(ports),
                    _ => FlowItem::Sctp(ports),
                };
                all.push((Some(protocol), Some(item)));
            }
        }
    }
    all
}

#[cfg(test)]
mod tests;
