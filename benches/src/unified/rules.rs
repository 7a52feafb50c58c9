//! Rules as an operator might write them, and packets that meet them. Always the same, so that figures compare.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use middlenet_steer::{Action, Head, Match, PortRange, Prefix, Rule, Tables};

use crate::BenchError;
use crate::input::{Random, checksum};

/// Bytes of a packet without its FCS: a little more than the least, as headers fit and one line of a cache holds it.
pub(super) const PACKET_BYTES: usize = 64;
/// Packets of a mix: a power of two.
const MIX: usize = 1024;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// A packet from its Ethernet header on.
pub(super) type Packet = [u8; PACKET_BYTES];

/// Everything goes to AF_XDP, so that all that is sent is delivered whatever rule it meets.
const ACTION: Action = Action::Tag(0);

/// Tables of so many rules of eight kinds: a connection; a network; a network's datagrams to a range of ports; a server;
/// two networks; a VLAN; a network of IPv6; a service within a network.
pub(super) fn tables(count: usize) -> Result<Tables, BenchError> {
    let mut random = Random::seeded(7);
    let rule = |at: usize| Rule { name: format!("#{}", at + 1), matches: matches(at, &mut random), action: ACTION };
    let rules: Vec<Rule> = (0..count).map(rule).collect();
    Tables::compile(&rules, ACTION).map_err(|e| BenchError::Failed(format!("{count} rules cannot be compiled: {e}")))
}

fn matches(at: usize, random: &mut Random) -> Match {
    // 10/8 and 172.16/12 upward, away from the networks of packets that no rule is for.
    let mut net = |length: u8| {
        let address = Ipv4Addr::from(0x0a00_0000 | random.bits32() & 0x00ff_ffff);
        Prefix::new(IpAddr::V4(address), length).into_iter().collect::<Vec<_>>()
    };
    let port = |of: u64| PortRange::from(1024 + (of * 7919 % 40_000) as u16);
    let number = at as u64;
    match at % 8 {
        0 => Match {
            src: net(32),
            dst: net(32),
            protocols: vec![TCP],
            dst_ports: vec![port(number)],
            ..Match::default()
        },
        1 => Match { dst: net(24), ..Match::default() },
        2 => {
            let first = 20_000 + (number * 13 % 20_000) as u16;
            let dst_ports = vec![PortRange { first, last: first + 99 }];
            Match { src: net(24), protocols: vec![UDP], dst_ports, ..Match::default() }
        }
        3 => Match { dst: net(32), protocols: vec![TCP], dst_ports: vec![PortRange::from(443)], ..Match::default() },
        4 => Match { src: net(22), dst: net(22), ..Match::default() },
        5 => Match { vlans: vec![(at % 4000) as u16 + 2], ..Match::default() },
        6 => {
            let address = Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(random.bits32()) << 64);
            Match { dst: Prefix::new(IpAddr::V6(address), 64).into_iter().collect(), ..Match::default() }
        }
        _ => Match { dst: net(20), protocols: vec![UDP], dst_ports: vec![port(number)], ..Match::default() },
    }
}

/// Which packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meets {
    /// The first rule.
    First,
    /// The last rule.
    Last,
    /// Any rule.
    Any,
    /// No rule.
    None,
}

impl Meets {
    /// Name in a case.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Last => "last",
            Self::Any => "random",
            Self::None => "none",
        }
    }

    pub(super) const ALL: [Self; 4] = [Self::First, Self::Last, Self::Any, Self::None];
}

/// So many packets of a kind, each made sure to meet what it should.
pub(super) fn packets(tables: &Tables, meets: Meets, count: usize) -> Vec<Packet> {
    let mut random = Random::seeded(11);
    let rules = tables.rules();
    let mut packets = Vec::with_capacity(count);
    // Some rules hide others, and some are for packets that are not made here: so there are more tries than packets.
    for _ in 0..100 * count {
        if packets.len() == count {
            break;
        }
        let rule = match meets {
            Meets::First => Some(0),
            Meets::Last => rules.len().checked_sub(1),
            Meets::Any => Some(random.next() as usize % rules.len().max(1)),
            Meets::None => None,
        };
        let packet = match rule.and_then(|at| rules.get(at)) {
            Some(rule) => example(&rule.matches, &mut random),
            // Networks for benchmarks (RFC 2544).
            None => Some(packet(0xc612_0000 | random.bits32() & 0x1_ffff, random.bits32() | 0xe000_0000, UDP, [9; 2])),
        };
        let Some(packet) = packet else { continue };
        if Head::parse(&packet).is_some_and(|head| tables.first_match(&head) == rule) {
            packets.push(packet);
        }
    }
    packets
}

/// An eighth each meets the first and the last rule, half any rule, a quarter none.
pub(super) fn mix(tables: &Tables) -> Vec<Packet> {
    let shares = [(Meets::First, 1), (Meets::Last, 1), (Meets::Any, 4), (Meets::None, 2)];
    let mut mixed: Vec<Packet> =
        shares.into_iter().flat_map(|(meets, eighths)| packets(tables, meets, MIX / 8 * eighths)).collect();
    let mut random = Random::seeded(13);
    for at in (1..mixed.len()).rev() {
        mixed.swap(at, random.next() as usize % (at + 1));
    }
    // The sender wants a power of two; it is one unless a kind could not be made.
    mixed.truncate(mixed.len().checked_ilog2().map_or(0, |bits| 1 << bits));
    mixed
}

/// A packet of IPv4 that such a rule is for, without a VLAN; nothing for rules that ask for something else.
fn example(matches: &Match, random: &mut Random) -> Option<Packet> {
    if !matches.vlans.is_empty() {
        return None;
    }
    let mut address = |prefixes: &[Prefix]| match prefixes.first() {
        None => Some(0x0a00_0000 | random.bits32() & 0x00ff_ffff),
        Some(prefix) => match prefix.address() {
            IpAddr::V4(net) => {
                Some(net.to_bits() | random.bits32() & u32::MAX.checked_shr(prefix.length().into()).unwrap_or(0))
            }
            IpAddr::V6(_) => None,
        },
    };
    let (src, dst) = (address(&matches.src)?, address(&matches.dst)?);
    let protocol = matches.protocols.first().copied().unwrap_or(UDP);
    let dst_port = matches.dst_ports.first().map_or(53, |range| range.first);
    Some(packet(src, dst, protocol, [4000, dst_port]))
}

fn packet(src: u32, dst: u32, protocol: u8, ports: [u16; 2]) -> Packet {
    let mut packet = [0; PACKET_BYTES];
    packet[..14].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
    let ip = &mut packet[14..34];
    (ip[0], ip[3], ip[8], ip[9]) = (0x45, PACKET_BYTES as u8 - 14, 64, protocol);
    ip[12..16].copy_from_slice(&src.to_be_bytes());
    ip[16..20].copy_from_slice(&dst.to_be_bytes());
    let sum = checksum(ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    for (at, port) in [34, 36].into_iter().zip(ports) {
        packet[at..at + 2].copy_from_slice(&port.to_be_bytes());
    }
    packet
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_meet_what_they_should() {
        for count in [1, 10, 100, 1000, 4000] {
            let tables = tables(count).unwrap();
            assert_eq!(tables.rules().len(), count);
            for meets in Meets::ALL {
                let packets = packets(&tables, meets, 64);
                assert_eq!(packets.len(), 64, "{count} rules, {}", meets.name());
                for packet in packets {
                    let met = tables.first_match(&Head::parse(&packet).unwrap());
                    match meets {
                        Meets::First => assert_eq!(met, Some(0)),
                        Meets::Last => assert_eq!(met, Some(count - 1)),
                        Meets::Any => assert!(met.is_some()),
                        Meets::None => assert_eq!(met, None),
                    }
                }
            }
            assert_eq!(mix(&tables).len(), MIX);
        }
    }

    #[test]
    fn a_mix_of_a_thousand_rules_meets_hundreds() {
        let tables = tables(1000).unwrap();
        let met: std::collections::BTreeSet<_> =
            mix(&tables).iter().map(|p| tables.first_match(&Head::parse(p).unwrap())).collect();
        assert!(met.len() > 200, "{} rules were met", met.len());
        assert!(met.contains(&None) && met.contains(&Some(0)) && met.contains(&Some(999)));
    }
}
