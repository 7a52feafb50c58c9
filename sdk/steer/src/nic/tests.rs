//! A NIC that reads patterns as `rte_flow.h` describes them decides as the rules do.

use super::pattern::patterns;
use super::*;
use crate::testkit::Draw;
use crate::{Head, Match, Prefix, ethertype};
use std::net::IpAddr;

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
fn matches(pattern: &[Item], frame: &[u8]) -> Option<bool> {
    let mut at = 0;
    let mut holds = true;
    for item in pattern {
        match *item {
            Item::Eth { src, dst, ether_type } => {
                holds &= is(dst, frame.get(0..6)?.try_into().ok()?) && is(src, frame.get(6..12)?.try_into().ok()?);
                holds &= is(ether_type, word(frame, 12)?);
                at = 14;
            }
            Item::Vlan { id } => {
                holds &= id == word(frame.get(at..at + 4)?, 0)? & 0xfff;
                at += 4;
            }
            Item::Ipv4 { src, dst, protocol, fragment } => {
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
            Item::Ipv6 { src, dst } => {
                let ip = frame.get(at..at + 40)?;
                if ip[0] >> 4 != 6 {
                    return None;
                }
                let address = |at| IpAddr::from(<[u8; 16]>::try_from(&ip[at..at + 16]).unwrap());
                let v6 = |asked: Option<(Ipv6Addr, u8)>| asked.map(|(a, l)| (IpAddr::from(a), l));
                holds &= within(v6(src), address(8)) && within(v6(dst), address(24));
                at += 40;
            }
            Item::Tcp(ports) | Item::Udp(ports) | Item::Sctp(ports) => {
                let inside = |asked: Option<(u16, u16)>, port| asked.is_none_or(|(a, b)| (a..=b).contains(&port));
                holds &= inside(ports.src, word(frame, at)?) && inside(ports.dst, word(frame, at + 2)?);
            }
        }
    }
    Some(holds)
}

/// Whether the outer tag has number 0.
fn has_priority_tag(frame: &[u8]) -> bool {
    let is_tag = matches!(word(frame, 12), Some(ethertype::VLAN | ethertype::SERVICE_VLAN));
    is_tag && word(frame, 14).is_some_and(|tag| tag & 0xfff == 0)
}

#[test]
fn the_same_packets_as_in_software() {
    let (mut converted, mut matched) = (0, 0);
    for seed in 0..20_000 {
        let mut draw = Draw::from_seed(seed);
        let asked = draw.rule().matches;
        let Ok(patterns) = patterns(&asked) else { continue };
        converted += 1;
        for _ in 0..20 {
            let frame = draw.frame();
            let Some(head) = Head::parse(&frame).filter(|_| !has_priority_tag(&frame)) else { continue };
            let nic = patterns.iter().any(|pattern| matches(pattern, &frame) == Some(true));
            assert_eq!(nic, asked.matches(&head), "seed {seed}: {asked:#?}\n{patterns:#?}\n{frame:02x?}\n{head:?}");
            matched += u32::from(nic);
        }
    }
    assert!(converted > 800 && matched > 800, "{converted} rules converted, {matched} packets matched");
}

fn rule(name: &str, action: Action, matches: &str) -> Rule {
    Rule { name: name.into(), matches: serde_json::from_str(matches).unwrap(), action }
}

fn refusals(rules: &[Rule], default: Action) -> Vec<Option<Inexact>> {
    flows(rules, default).into_iter().map(Result::err).collect()
}

#[test]
fn lists_are_multiplied() {
    let asked = Match {
        ether_types: vec![ethertype::IPV4],
        vlans: vec![0],
        dst: vec!["10.1.0.0/16".parse().unwrap(), "10.2.0.0/16".parse().unwrap(), "fd00::/8".parse().unwrap()],
        protocols: vec![6],
        dst_ports: vec![80.into(), 443.into()],
        fragments: Some(false),
        ..Match::default()
    };
    // Two prefixes, two ports.
    assert_eq!(patterns(&asked).unwrap().len(), 2 * 2);
    // With a tag of either mark.
    assert_eq!(patterns(&Match { vlans: vec![7, 8], ..Match::default() }).unwrap().len(), 2 * 2);
}

#[test]
fn the_exact_request() {
    let transit = rule("transit", Action::Tag(0), r#"{"vlans": [0], "dst": ["10.2.0.0/16"], "protocols": [17]}"#);
    let all = flows(&[transit], Action::Kernel);
    let dst = Some(("10.2.0.0".parse().unwrap(), 16));
    let ip = Item::Ipv4 { src: None, dst, protocol: Some(17), fragment: None };
    let eth = |ether_type| Item::Eth { src: None, dst: None, ether_type: Some(ether_type) };
    let flow = Flow { priority: 0, pattern: vec![eth(ethertype::IPV4), ip], fate: Fate::Take };
    assert_eq!(all, [Ok(vec![flow]), Ok(Vec::new())]);
}

#[test]
fn only_flows_that_must_not_change_places_have_an_order() {
    let rules = [
        rule("a", Action::Tag(0), r#"{"src_macs": [[2,0,0,0,0,1]]}"#),
        rule("b", Action::Tag(1), r#"{"dst_macs": [[2,0,0,0,0,2]]}"#),
        rule("c", Action::Drop, r#"{"src_macs": [[2,0,0,0,0,3]], "dst_macs": [[2,0,0,0,0,3]]}"#),
        rule("d", Action::Drop, r#"{"dst_macs": [[2,0,0,0,0,2]]}"#),
        rule("e", Action::Tag(0), r#"{"src_macs": [[2,0,0,0,0,3]]}"#),
        rule("f", Action::Tag(0), r#"{"vlans": [3]}"#),
    ];
    let all: Vec<_> = flows(&rules, Action::Kernel).into_iter().map(Result::unwrap).collect();
    let priorities: Vec<_> = all.iter().map(|flows| flows.first().map(|flow| flow.priority)).collect();
    // `c` is of others than `a` and `b`; `d` comes after both, and before `e` and `f`.
    assert_eq!(priorities, [Some(0), Some(0), Some(0), Some(1), Some(2), Some(2), None]);
    assert_eq!(all[3][0].fate, Fate::Drop);
}

#[test]
fn the_kernel_keeps_what_no_later_rule_asks_for() {
    let kernel = rule("own", Action::Kernel, r#"{"dst": ["10.1.0.1"]}"#);
    let apart = rule("transit", Action::Tag(0), r#"{"vlans": [0], "dst": ["10.2.0.0/16"]}"#);
    let wide = rule("wide", Action::Tag(0), r#"{"vlans": [0], "dst": ["10.0.0.0/8"]}"#);
    assert_eq!(refusals(&[kernel.clone(), apart.clone()], Action::Kernel), [None, None, None]);
    let taken = Some(Inexact::NotKept("wide".into()));
    assert_eq!(refusals(&[kernel.clone(), wide.clone()], Action::Kernel), [taken, None, None]);
    // What comes before it was asked for first.
    assert_eq!(refusals(&[wide, kernel.clone()], Action::Kernel), [None, None, None]);
    assert_eq!(refusals(&[kernel, apart], Action::Drop)[2], Some(Inexact::Rest));
}

#[test]
fn what_a_nic_sees_otherwise_is_refused() {
    let of = |matches: &str| patterns(&serde_json::from_str(matches).unwrap());
    assert_eq!(of(r#"{"vlans": [0]}"#), Err(Inexact::Untagged));
    assert_eq!(of(r#"{"dst": ["10.0.0.1"]}"#), Err(Inexact::BehindTags));
    assert_eq!(of(r#"{"vlans": [7], "ether_types": [2054]}"#), Err(Inexact::BehindTags));
    assert_eq!(of(r#"{"vlans": [0], "protocols": [6]}"#), Err(Inexact::Extensions));
    assert!(of(r#"{"vlans": [0], "protocols": [6], "ether_types": [2048]}"#).is_ok());
    let ports = |more: &str| {
        of(&format!(r#"{{"vlans": [0], "ether_types": [2048], "dst_ports": [{{"first": 1, "last": 2}}]{more}}}"#))
    };
    assert_eq!(ports(""), Err(Inexact::Fragments));
    assert!(ports(r#", "fragments": false"#).is_ok());
    assert_eq!(of(r#"{"arp_targets": ["10.0.0.1"]}"#), Err(Inexact::Arp));
    assert_eq!(of(r#"{"vlans": [0], "ether_types": [33024]}"#), Err(Inexact::TagAsType));
    let many = Match { src_macs: vec![[2; 6]; 20], dst_macs: vec![[4; 6]; 20], ..Match::default() };
    assert_eq!(patterns(&many), Err(Inexact::TooMany));
    // IPv6 addresses in IPv4 packets: nothing matches, so there is nothing to ask for.
    assert_eq!(of(r#"{"ether_types": [2048], "src": ["fd00::/8"]}"#), Ok(Vec::new()));
}
