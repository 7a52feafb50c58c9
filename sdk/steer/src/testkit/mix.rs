//! A mix of rules as operators write them, of any length, and packets that each of them is for.

use crate::{Action, Match, PortRange, Prefix, Rule, ethertype};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const TCP: u8 = 6;
const UDP: u8 = 17;

/// What a packet of [`Mix`] is made of.
struct Packet {
    vlan: u16,
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    dst_port: u16,
}

/// Rules with prefixes of both IP versions, ports, protocols and VLANs, none of which is for the packets of another.
#[derive(Clone, Debug)]
pub struct Mix {
    rules: Vec<Rule>,
}

impl Mix {
    /// So many rules; every one is for the data plane, under its own number as the tag.
    pub fn new(rules: usize) -> Self {
        let rule = |number: usize| Rule {
            name: format!("rule {number}"),
            matches: Self::matches(number),
            action: Action::Tag(number as u16),
        };
        Self { rules: (0..rules).map(rule).collect() }
    }

    /// The rules.
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }

    fn matches(number: usize) -> Match {
        let Packet { vlan, src, dst, protocol, dst_port } = Self::packet(number, 0);
        let prefix = |address, length| vec![Prefix::new(address, length).unwrap_or(Prefix::from(address))];
        let none = Match::default();
        match number % 8 {
            0 => Match { dst: prefix(dst, 24), protocols: vec![protocol], dst_ports: vec![dst_port.into()], ..none },
            1 => Match { src: prefix(src, 16), dst: prefix(dst, 24), ..none },
            2 => {
                let dst_ports = vec![PortRange { first: dst_port, last: dst_port + 7 }];
                Match { dst: prefix(dst, 64), protocols: vec![protocol], dst_ports, ..none }
            }
            3 => Match { src: prefix(src, 48), ..none },
            4 => Match { vlans: vec![vlan], dst: prefix(dst, 20), ..none },
            5 => {
                let dst_ports = vec![PortRange { first: dst_port, last: dst_port + 3 }];
                Match { dst: prefix(dst, 16), protocols: vec![protocol], dst_ports, ..none }
            }
            6 => Match { dst: prefix(dst, 32), protocols: vec![TCP, UDP], dst_ports: vec![dst_port.into()], ..none },
            _ => Match { src: prefix(src, 20), protocols: vec![protocol], dst_ports: vec![dst_port.into()], ..none },
        }
    }

    fn packet(number: usize, host: u8) -> Packet {
        // Each eight rules have a network of their own.
        let net = (number / 8) as u16;
        let [high, low] = net.to_be_bytes();
        let v4 = |first: u8, third: u8, host: u8| IpAddr::V4(Ipv4Addr::new(first + high, low, third, host));
        let v6 = |site: u16, subnet: u16| IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, site, subnet, 0, 0, 0, host.into()));
        let other = v4(100, 1, host);
        let ports = 1024 + net * 8;
        let packet = |src, dst, protocol, dst_port| Packet { vlan: 0, src, dst, protocol, dst_port };
        match number % 8 {
            0 => packet(other, v4(10, 0, host), TCP, 443),
            1 => packet(v4(20, host, 1), v4(30, 1, host), UDP, 5000),
            2 => packet(v6(0xffff, 1), v6(1, net), UDP, ports),
            3 => packet(v6(0x1000 + net, host.into()), v6(0xffff, 2), TCP, 80),
            4 => Packet { vlan: 1 + net % 4000, ..packet(other, v4(40, 16, host), TCP, 22) },
            5 => packet(other, v4(50, host, 1), UDP, ports),
            6 => packet(other, v4(60, 3, 7), TCP, 8000 + net % 16),
            _ => packet(v4(70, 32, host), v4(80, 1, host), UDP, 53),
        }
    }

    /// A packet of 64 bytes at least that the rule with this number is for; `host` makes a difference that no rule sees.
    pub fn frame(number: usize, host: u8) -> Vec<u8> {
        let Packet { vlan, src, dst, protocol, dst_port } = Self::packet(number, host);
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if vlan != 0 {
            frame.extend(ethertype::VLAN.to_be_bytes());
            frame.extend(vlan.to_be_bytes());
        }
        match (src, dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => {
                frame.extend(ethertype::IPV4.to_be_bytes());
                frame.extend([0x45, 0, 0, 46, 0, 0, 0, 0, 64, protocol, 0, 0]);
                frame.extend(src.octets());
                frame.extend(dst.octets());
            }
            (src, dst) => {
                frame.extend(ethertype::IPV6.to_be_bytes());
                frame.extend([0x60, 0, 0, 0, 0, 20, protocol, 64]);
                for address in [src, dst] {
                    frame.extend(match address {
                        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                        IpAddr::V6(v6) => v6.octets(),
                    });
                }
            }
        }
        frame.extend((40_000 + u16::from(host)).to_be_bytes());
        frame.extend(dst_port.to_be_bytes());
        frame.resize(frame.len().max(60) + 4, 0);
        frame
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Head, Tables, dead_rules};

    #[test]
    fn each_packet_is_for_its_rule() {
        let mix = Mix::new(4000);
        assert!(dead_rules(mix.rules()).is_empty());
        let tables = Tables::compile(mix.rules(), Action::Drop).unwrap();
        for number in 0..4000 {
            let head = Head::parse(&Mix::frame(number, number as u8 | 1)).unwrap();
            assert_eq!(tables.first_match(&head), Some(number), "{head:?}");
        }
    }
}
