//! A NIC that reads patterns as `rte_flow.h` describes them decides as the rules do.

use super::*;
use middlenet_steer::testkit::Draw;
use middlenet_steer::{Action, Head};

fn rule(matches: Match) -> Rule {
    Rule { name: "r".into(), matches, action: Action::Drop }
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

fn is<T: PartialEq>(asked: Option<T>, found: T) -> bool {
    asked.is_none_or(|asked| asked == found)
}

fn within(asked: Option<(IpAddr, u8)>, found: IpAddr) -> bool {
    asked.is_none_or(|(address, length)| Prefix::new(mask(address, length), length).unwrap().contains(found))
}

fn mask(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(a) => {
            Ipv4Addr::from(u32::from(a) & u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)).into()
        }
        IpAddr::V6(a) => {
            Ipv6Addr::from(u128::from(a) & u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)).into()
        }
    }
}

/// Whether a frame matches a pattern: each item at the place where the one before it ends. `None`: it is too short.
fn matches(pattern: &[FlowItem], frame: &[u8]) -> Option<bool> {
    let mut at = 0;
    let mut holds = true;
    for item in pattern {
        match *item {
            FlowItem::Eth { src, dst, ether_type } => {
                holds &= is(dst, frame.get(0..6)?.try_into().ok()?) && is(src, frame.get(6..12)?.try_into().ok()?);
                holds &= is(ether_type, word(frame, 12)?);
                at = 14;
            }
            FlowItem::Vlan { id, ether_type } => {
                holds &= is(id, word(frame, at)? & 0xfff) && is(ether_type, word(frame, at + 2)?);
                at += 4;
            }
            FlowItem::Ipv4(Ip { src, dst, protocol, fragment }) => {
                let ip = frame.get(at..)?;
                let length = usize::from(ip.first()? & 15) * 4;
                if ip[0] >> 4 != 4 || length < 20 || ip.len() < length {
                    return None;
                }
                let address = |at| IpAddr::from(<[u8; 4]>::try_from(&ip[at..at + 4]).unwrap());
                let v4 = |asked: Option<(Ipv4Addr, u8)>| asked.map(|(a, l)| (IpAddr::from(a), l));
                holds &= within(v4(src), address(12)) && within(v4(dst), address(16)) && is(protocol, ip[9]);
                holds &= is(fragment, word(ip, 6)? & 0x3fff != 0);
                // Behind the first fragment there is no header of the next layer.
                at += if word(ip, 6)? & 0x1fff == 0 { length } else { frame.len() };
            }
            FlowItem::Ipv6(Ip { src, dst, .. }) => {
                let ip = frame.get(at..at + 40)?;
                if ip[0] >> 4 != 6 {
                    return None;
                }
                let address = |at| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
                let v6 = |asked: Option<(Ipv6Addr, u8)>| asked.map(|(a, l)| (IpAddr::from(a), l));
                holds &= within(v6(src), address(8)) && within(v6(dst), address(24));
                at += 40;
            }
            FlowItem::Tcp(ports) | FlowItem::Udp(ports) | FlowItem::Sctp(ports) => {
                let inside = |asked: Option<(u16, u16)>, port| asked.is_none_or(|(a, b)| (a..=b).contains(&port));
                holds &= inside(ports.src, word(frame, at)?) && inside(ports.dst, word(frame, at + 2)?);
            }
        }
    }
    Some(holds)
}

#[test]
fn the_same_packets_as_in_software() {
    let (mut converted, mut matched) = (0, 0);
    for seed in 0..4000 {
        let mut draw = Draw::from_seed(seed);
        let rule = draw.rule();
        let Ok(rules) = nic_rules(&rule, 0, FlowAction::Drop) else { continue };
        converted += 1;
        for _ in 0..20 {
            let frame = draw.frame();
            let Some(head) = Head::parse(&frame) else { continue };
            let nic = rules.iter().any(|rule| matches(&rule.pattern, &frame) == Some(true));
            assert_eq!(nic, rule.matches.matches(&head), "seed {seed}: {rule:#?}\n{rules:#?}\n{frame:02x?}\n{head:?}");
            matched += u32::from(nic);
        }
    }
    assert!(converted > 800 && matched > 800, "{converted} rules converted, {matched} packets matched");
}

#[test]
fn lists_are_multiplied_and_the_order_is_the_priority() {
    let asked = Match {
        ether_types: vec![ethertype::IPV4],
        vlans: vec![7],
        dst: vec!["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        protocols: vec![6],
        dst_ports: vec![80.into(), 443.into()],
        ..Match::default()
    };
    let types = Match { ether_types: vec![0x88cc, 0x8863], vlans: vec![0, 7], ..Match::default() };
    assert_eq!(nic_rules(&rule(types), 0, FlowAction::Drop).unwrap().len(), 2 * (1 + 2 * (2 + 4)));
    let rules = nic_rules(&rule(asked), 3, FlowAction::Vf(1)).unwrap();
    // Two prefixes, two ports; one tag, or that and one of two more behind it, after either of two marks of a tag.
    assert_eq!(rules.len(), 2 * 2 * (2 + 4));
    assert!(rules.iter().all(|rule| rule.priority == 3 && rule.actions == [FlowAction::Vf(1)]));
}

#[test]
fn what_a_nic_sees_otherwise_is_refused() {
    let of = |asked: Match| nic_rules(&rule(asked), 0, FlowAction::Drop);
    let untagged = Match { vlans: vec![0], ..Match::default() };
    assert_eq!(of(untagged), Err(Inexact::Untagged));
    let tcp = Match { protocols: vec![6], ..Match::default() };
    assert_eq!(of(tcp.clone()), Err(Inexact::Extensions));
    assert!(of(Match { ether_types: vec![ethertype::IPV4], ..tcp }).is_ok());
    let arp = Match { arp_targets: vec!["10.0.0.1/32".parse().unwrap()], ..Match::default() };
    assert_eq!(of(arp), Err(Inexact::Arp));
    assert_eq!(of(Match { ether_types: vec![ethertype::VLAN], ..Match::default() }), Err(Inexact::TagAsType));
    let many = Match { src_macs: vec![[2; 6]; 20], dst_macs: vec![[4; 6]; 20], ..Match::default() };
    assert_eq!(of(many), Err(Inexact::TooMany));
    // IPv6 addresses in IPv4 packets: nothing matches, so there is nothing to ask for.
    let never =
        Match { ether_types: vec![ethertype::IPV4], src: vec!["fd00::/8".parse().unwrap()], ..Match::default() };
    assert_eq!(of(never), Ok(Vec::new()));
}
