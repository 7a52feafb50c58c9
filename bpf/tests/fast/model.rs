//! What a fast path is to do with a packet, written down as plainly as can be: rules are scanned, and checksums judged by their sums.

use std::collections::HashMap;
use std::net::IpAddr;

use middlenet_bpf::{SlowReason, StagePlan, Target};
use middlenet_fast_path::{Action, Rewrite, Then};
use middlenet_steer::{Flow, Head, Prefix};
use middlenet_wire::checksum::Sum;

use super::lab::{hop_tag, port_tag};

/// The rules of a hop.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    pub(crate) flows: HashMap<Flow, Action>,
    pub(crate) src: Vec<(Prefix, u32)>,
    pub(crate) dst: Vec<(Prefix, u32)>,
    pub(crate) src_ports: Vec<(u8, u16, u32)>,
    pub(crate) dst_ports: Vec<(u8, u16, u32)>,
    pub(crate) rules: Vec<Action>,
}

/// Where a packet is in a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) ingress: u8,
    pub(crate) egress: Option<u8>,
    pub(crate) reverse: bool,
}

/// What becomes of a packet at a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    /// On to a hop.
    Hop(u16),
    /// Out of a port.
    Port(u8),
    Drop,
    Kernel,
    /// To this hop's function.
    Slow(SlowReason),
}

/// What the program shows of a fate at the end of a packet's way: a tag, or none.
pub(crate) fn tag(hop: u16, fate: Fate) -> Option<u16> {
    match fate {
        Fate::Hop(next) => Some(hop_tag(next)),
        Fate::Port(port) => Some(port_tag(port)),
        Fate::Slow(_) => Some(hop_tag(hop)),
        Fate::Drop | Fate::Kernel => None,
    }
}

/// Deals with a packet; the rule that did, if one has.
pub(crate) fn deal_with(
    plan: &StagePlan,
    rules: &Rules,
    packet: &mut [u8],
    place: &mut Place,
) -> (Fate, Option<Action>) {
    let head = Head::parse(packet).expect("no packet is shorter");
    // Who cannot do as its rule says leaves that to the kernel, if it leaves anything to it.
    let cannot = |reason| (if plan.misses_to_kernel { Fate::Kernel } else { Fate::Slow(reason) }, None);
    let action = match find(rules, &head, packet) {
        Found::Action(action) => action,
        Found::NoRule => return cannot(SlowReason::Unfit),
        Found::Nothing => {
            return cannot(if head.fragment { SlowReason::Fragment } else { SlowReason::Miss });
        }
    };
    let before = *place;
    let Some(fate) = way(plan, action, place) else {
        *place = before;
        return cannot(SlowReason::Unfit);
    };
    if action.mtu.is_some_and(|mtu| packet.len() - offset(packet) > usize::from(mtu)) {
        *place = before;
        return cannot(SlowReason::Mtu);
    }
    if let Err(reason) = write(packet, &head, &action.rewrite) {
        *place = before;
        return cannot(reason);
    }
    // Where it would have gone is nothing to those that stay here.
    if matches!(fate, Fate::Slow(_) | Fate::Drop | Fate::Kernel) {
        *place = before;
    }
    (fate, Some(action))
}

enum Found {
    Action(Action),
    /// A matcher names a rule that there is not.
    NoRule,
    Nothing,
}

fn find(rules: &Rules, head: &Head, packet: &[u8]) -> Found {
    let (Some(src), Some(dst), Some(protocol)) = (head.src, head.dst, head.protocol) else { return Found::Nothing };
    let with_ports = matches!(protocol, 6 | 17 | 132);
    let shows_flow = !head.fragment && (!with_ports || head.dst_port.is_some());
    let has_other_tags = offset(packet) != if head.vlan == 0 { 14 } else { 18 };
    if let Some(mut flow) = Flow::of(head).filter(|_| shows_flow && !has_other_tags) {
        if let Some(id) = icmp_id(packet, protocol, src.is_ipv6()) {
            (flow.src_port, flow.dst_port) = (id, id);
        }
        if let Some(action) = rules.flows.get(&flow) {
            return Found::Action(*action);
        }
    }
    let longest = |prefixes: &[(Prefix, u32)], address: IpAddr| {
        let matching = prefixes.iter().filter(|(prefix, _)| prefix.contains(address));
        matching.max_by_key(|(prefix, _)| prefix.length()).map(|(_, rule)| *rule)
    };
    let port = |ports: &[(u8, u16, u32)], port: Option<u16>| {
        let port = port.filter(|_| !head.fragment)?;
        ports.iter().find(|(of, number, _)| (*of, *number) == (protocol, port)).map(|(_, _, rule)| *rule)
    };
    let found = [
        longest(&rules.src, src),
        longest(&rules.dst, dst),
        port(&rules.src_ports, head.src_port),
        port(&rules.dst_ports, head.dst_port),
    ];
    let Some(rule) = found.into_iter().flatten().min() else { return Found::Nothing };
    let Some(action) = rules.rules.get(rule as usize) else { return Found::NoRule };
    let before = first_port_rule(rules).is_some_and(|first| first < rule);
    match before && hides_ports(head) && !matches!(action.then, Then::Drop(_)) {
        true => Found::Nothing,
        false => Found::Action(*action),
    }
}

/// The lowest number that a port names.
pub(crate) fn first_port_rule(rules: &Rules) -> Option<u32> {
    rules.src_ports.iter().chain(&rules.dst_ports).map(|(.., rule)| *rule).min()
}

/// Whether there may be ports of TCP or UDP that are not to be seen.
fn hides_ports(head: &Head) -> bool {
    match head.protocol {
        Some(6 | 17) => head.fragment || head.dst_port.is_none(),
        Some(0 | 43 | 44 | 60) => true,
        _ => false,
    }
}

fn way(plan: &StagePlan, action: Action, place: &mut Place) -> Option<Fate> {
    let target = |place: &Place| if place.reverse { plan.next_reverse } else { plan.next_forward };
    let target = match action.then {
        Then::Next => target(place),
        Then::Drop(reason) => return (reason < 64).then_some(Fate::Drop),
        Then::Reply | Then::Port(_) => {
            let port = if let Then::Port(port) = action.then { port } else { place.ingress };
            if port != plan.left && !plan.right.contains(&port) {
                return None;
            }
            place.reverse = port == plan.left && !plan.right.is_empty();
            place.egress = Some(port);
            target(place)
        }
        Then::Output(output) => *plan.outputs.get(usize::from(output))?,
        Then::Kernel if plan.misses_to_kernel => return Some(Fate::Kernel),
        Then::SlowPath | Then::Kernel => return Some(Fate::Slow(SlowReason::Asked)),
    };
    Some(match target {
        Target::Hop(hop) => Fate::Hop(hop),
        Target::Port(port) => Fate::Port(port),
        Target::Drop => Fate::Drop,
        Target::Egress => Fate::Port(match (place.egress, place.reverse, plan.right.as_slice()) {
            (Some(port), ..) => port,
            (None, true, _) | (None, false, []) => plan.left,
            (None, false, [only]) => *only,
            (None, false, _) => return None,
        }),
    })
}

/// Where the bytes behind the Ethernet header and its tags begin.
pub(crate) fn offset(packet: &[u8]) -> usize {
    let is_tag = |at: usize| matches!(packet.get(at..at + 2), Some([0x81, 0] | [0x88, 0xa8]));
    let is_whole = |at: usize| packet.len() >= at + 4;
    match (is_tag(12) && is_whole(14), is_tag(16) && is_whole(18)) {
        (true, true) => 22,
        (true, false) => 18,
        (false, _) => 14,
    }
}

/// Whether a routing header of IPv6 is in front of what was read, or may be: then its destination is not for sure the one that the
/// checksum covers.
fn may_be_routed(packet: &[u8], protocol: u8) -> bool {
    let ip = offset(packet);
    let (mut next, mut at) = (packet[ip + 6], ip + 40);
    let mut routed = matches!(protocol, 0 | 43 | 44 | 60);
    for _ in 0..8 {
        let Some(header) = packet.get(at..at + 8).filter(|_| matches!(next, 0 | 43 | 44 | 60)) else { break };
        routed |= next == 43;
        at += if next == 44 { 8 } else { (usize::from(header[1]) + 1) * 8 };
        next = header[0];
    }
    routed
}

/// Where the transport header begins, of packets that have one.
fn transport(packet: &[u8]) -> Option<usize> {
    let ip = offset(packet);
    if packet[ip] >> 4 == 4 {
        let later = u16::from_be_bytes([packet[ip + 6], packet[ip + 7]]) & 0x1fff != 0;
        return (!later).then_some(ip + usize::from(packet[ip] & 15) * 4);
    }
    let (mut protocol, mut at) = (packet[ip + 6], ip + 40);
    for _ in 0..8 {
        if !matches!(protocol, 0 | 43 | 44 | 60) {
            break;
        }
        let header = packet.get(at..at + 8)?;
        if protocol == 44 && u16::from_be_bytes([header[2], header[3]]) & 0xfff8 != 0 {
            return None;
        }
        at += if protocol == 44 { 8 } else { (usize::from(header[1]) + 1) * 8 };
        protocol = header[0];
    }
    Some(at)
}

fn icmp_id(packet: &[u8], protocol: u8, is_ipv6: bool) -> Option<u16> {
    if protocol != if is_ipv6 { 58 } else { 1 } {
        return None;
    }
    let at = transport(packet)?;
    let message = packet.get(at..at + 8)?;
    let has_id = if is_ipv6 { matches!(message[0], 128 | 129) } else { matches!(message[0], 0 | 8 | 13 | 14) };
    has_id.then(|| u16::from_be_bytes([message[4], message[5]]))
}

/// Where the checksum is that covers the addresses.
pub(crate) fn checksum(packet: &[u8], protocol: u8) -> Option<usize> {
    let offset = match protocol {
        6 => 16,
        17 | 33 | 136 => 6,
        58 => 2,
        _ => return None,
    };
    Some(transport(packet)? + offset)
}

/// Writes all but the checksums, which [`compare`] looks at.
fn write(packet: &mut [u8], head: &Head, rewrite: &Rewrite) -> Result<(), SlowReason> {
    let Rewrite { ethernet, src, dst, src_port, dst_port, lower_ttl } = *rewrite;
    let writes_ports = src_port.is_some() || dst_port.is_some();
    let writes_address = src.is_some() || dst.is_some();
    if writes_ports || writes_address || lower_ttl {
        let (Some(from), Some(protocol)) = (head.src, head.protocol) else { return Err(SlowReason::Unfit) };
        if writes_ports && (head.src_port.is_none() || !matches!(protocol, 6 | 17)) {
            return Err(SlowReason::Unfit);
        }
        if [src, dst].into_iter().flatten().any(|address| address.is_ipv4() != from.is_ipv4()) {
            return Err(SlowReason::Unfit);
        }
        if (writes_ports || writes_address) && checksum(packet, protocol).is_some_and(|at| at + 2 > packet.len()) {
            return Err(SlowReason::Unfit);
        }
        if writes_address && from.is_ipv6() && may_be_routed(packet, protocol) {
            return Err(SlowReason::Unfit);
        }
        let ip = offset(packet);
        let (ttl, at, bytes) = if from.is_ipv4() { (ip + 8, ip + 12, 4) } else { (ip + 7, ip + 8, 16) };
        if lower_ttl {
            if from.is_ipv4() && packet[ip] & 0xf != 5 {
                return Err(SlowReason::Unfit);
            }
            if packet[ttl] <= 1 {
                return Err(SlowReason::Ttl);
            }
            packet[ttl] -= 1;
        }
        for (at, address) in [(at, src), (at + bytes, dst)] {
            match address {
                Some(IpAddr::V4(address)) => packet[at..at + 4].copy_from_slice(&address.octets()),
                Some(IpAddr::V6(address)) => packet[at..at + 16].copy_from_slice(&address.octets()),
                None => {}
            }
        }
        if let Some(at) = transport(packet).filter(|_| writes_ports) {
            for (at, port) in [(at, src_port), (at + 2, dst_port)] {
                if let Some(port) = port {
                    packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
                }
            }
        }
    }
    if let Some((to, from)) = ethernet {
        packet[..6].copy_from_slice(&to);
        packet[6..12].copy_from_slice(&from);
    }
    Ok(())
}

/// What the sums of a packet are off by: 0xffff where they are right. None where there is no checksum.
fn sums(packet: &[u8], head: &Head) -> [Option<u16>; 2] {
    let (Some(src), Some(dst), Some(protocol)) = (head.src, head.dst, head.protocol) else { return [None; 2] };
    let ip = offset(packet);
    let header = if src.is_ipv4() { Some(ip..ip + usize::from(packet[ip] & 15) * 4) } else { None };
    let of_header = header.map(|header| Sum::new().bytes(&packet[header]).folded());
    let of_transport = checksum(packet, protocol).and_then(|at| {
        let is_none = protocol == 17 && packet.get(at..at + 2)? == [0, 0];
        let bytes = packet.get(transport(packet)?..)?;
        let pseudo = match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => Sum::pseudo_ipv4(src, dst, protocol, bytes.len()),
            (IpAddr::V6(src), IpAddr::V6(dst)) => Sum::pseudo_ipv6(src, dst, protocol, bytes.len()),
            _ => return None,
        };
        (!is_none).then(|| pseudo.bytes(bytes).folded())
    });
    [of_header, of_transport]
}

/// Compares a packet that came out with what it was to be. Right checksums are right again; wrong ones are wrong by as much: who made
/// the packet is to blame, and nobody else.
pub(crate) fn compare(came: &[u8], before: &[u8], expected: &[u8], what: &str) {
    let mut expected = expected.to_vec();
    let (head, after) = (Head::parse(before).expect("it is"), Head::parse(came).expect("it is"));
    assert_eq!(came.len(), expected.len(), "{what}");
    if expected != before {
        let ip = offset(before);
        if head.src.is_some_and(|src| src.is_ipv4()) {
            expected[ip + 10..ip + 12].copy_from_slice(&came[ip + 10..ip + 12]);
        }
        let at = head.protocol.and_then(|protocol| checksum(before, protocol)).filter(|at| at + 2 <= came.len());
        if let Some(at) = at {
            expected[at..at + 2].copy_from_slice(&came[at..at + 2]);
        }
    }
    assert_eq!(came, expected, "{what}");
    assert_eq!(sums(came, &after), sums(before, &head), "{what}: sums");
}

/// The checksums of a packet are as right as they were.
pub(crate) fn assert_sums(came: &[u8], before: &[u8]) {
    let [came_head, head] = [came, before].map(|packet| Head::parse(packet).expect("it is"));
    assert_eq!(sums(came, &came_head), sums(before, &head));
}
