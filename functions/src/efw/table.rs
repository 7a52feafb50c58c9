//! Rules in the form in which packets find them, in user space and in the fast path.

use super::nesting::{Nested, Ranges};
use crate::firewall::prefix::number;
use middlenet_sdk::wire::protocol;
use middlenet_steer::{Head, Prefix};
use std::net::IpAddr;

/// What a rule asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Matcher {
    /// Any of these source prefixes.
    Src(Vec<Prefix>),
    /// Any of these destination prefixes.
    Dst(Vec<Prefix>),
    /// Of these protocols any of these source ports, from first to last.
    SrcPorts(Vec<u8>, Vec<(u16, u16)>),
    /// The same of destination ports.
    DstPorts(Vec<u8>, Vec<(u16, u16)>),
}

/// Which rule decides about a packet: the first that matches, which is the one with the lowest number.
#[derive(Debug)]
pub(super) struct Table {
    src: ByVersion,
    dst: ByVersion,
    src_ports: Ports,
    dst_ports: Ports,
    /// The first rule that asks for a port.
    first_port_rule: Option<u32>,
    /// Prefixes as the fast path looks them up: the longest match names the rule that decides.
    pub(super) src_prefixes: Vec<Nested>,
    /// The same of destinations.
    pub(super) dst_prefixes: Vec<Nested>,
}

/// The rules of prefixes. Those of IPv4 say nothing about packets of IPv6, whatever form their addresses have, and the other way round.
#[derive(Debug)]
struct ByVersion {
    v4: Ranges,
    v6: Ranges,
}

impl ByVersion {
    fn nest(rules: Vec<(Prefix, u32)>) -> (Vec<Nested>, Self) {
        let (v4, v6): (Vec<_>, Vec<_>) = rules.into_iter().partition(|(prefix, _)| prefix.is_ipv4());
        let ((mut nested, v4), (of_v6, v6)) = (Ranges::nest(v4), Ranges::nest(v6));
        nested.extend(of_v6);
        (nested, Self { v4, v6 })
    }

    #[inline]
    fn find(&self, address: IpAddr) -> Option<u32> {
        if address.is_ipv4() { &self.v4 } else { &self.v6 }.find(number(address))
    }
}

impl Table {
    /// The table of these rules, in their order.
    pub(super) fn new(matchers: &[Matcher]) -> Self {
        let (mut src, mut dst) = (Vec::new(), Vec::new());
        let (mut src_ports, mut dst_ports) = (Ports::default(), Ports::default());
        for (rule, matcher) in (0_u32..).zip(matchers) {
            match matcher {
                Matcher::Src(prefixes) => src.extend(prefixes.iter().map(|&prefix| (prefix, rule))),
                Matcher::Dst(prefixes) => dst.extend(prefixes.iter().map(|&prefix| (prefix, rule))),
                Matcher::SrcPorts(protocols, ports) => src_ports.add(protocols, ports, rule),
                Matcher::DstPorts(protocols, ports) => dst_ports.add(protocols, ports, rule),
            }
        }
        let ((src_prefixes, src), (dst_prefixes, dst)) = (ByVersion::nest(src), ByVersion::nest(dst));
        let is_of_ports = |matcher: &Matcher| matches!(matcher, Matcher::SrcPorts(..) | Matcher::DstPorts(..));
        let first_port_rule = (0..).zip(matchers).find(|(_, matcher)| is_of_ports(matcher)).map(|(rule, _)| rule);
        Self { src, dst, src_ports, dst_ports, first_port_rule, src_prefixes, dst_prefixes }
    }

    /// The rule that decides about a packet with this head, if `drops` tells which rules do. Fragments have no ports here, the first
    /// included: so it is in the fast path. Where a rule of ports might have come first, one that allows a packet without them
    /// does not decide.
    #[inline]
    pub(super) fn decide(&self, head: &Head, drops: impl Fn(u32) -> bool) -> Option<u32> {
        let (Some(src), Some(dst), Some(protocol)) = (head.src, head.dst, head.protocol) else { return None };
        let mut rule = lowest(self.src.find(src), self.dst.find(dst));
        if let (Some(src_port), Some(dst_port), false) = (head.src_port, head.dst_port, head.fragment) {
            rule = lowest(rule, self.src_ports.find(protocol, src_port));
            rule = lowest(rule, self.dst_ports.find(protocol, dst_port));
        } else if head.hides_ports() {
            rule = rule.filter(|&rule| self.first_port_rule.is_none_or(|first| first > rule) || drops(rule));
        }
        rule
    }

    /// Protocol, source port and rule, of all ports that a rule asks for.
    pub(super) fn src_ports(&self) -> Vec<(u8, u16, u32)> {
        self.src_ports.all()
    }

    /// The same of destination ports.
    pub(super) fn dst_ports(&self) -> Vec<(u8, u16, u32)> {
        self.dst_ports.all()
    }
}

#[inline]
fn lowest(one: Option<u32>, other: Option<u32>) -> Option<u32> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

/// Rules by port of TCP and UDP: a rule's number and one, 0 for none. Empty until a rule asks for a port.
#[derive(Debug, Default)]
struct Ports {
    tcp: Vec<u32>,
    udp: Vec<u32>,
}

impl Ports {
    fn add(&mut self, protocols: &[u8], ports: &[(u16, u16)], rule: u32) {
        for protocol in protocols {
            let rules = if *protocol == protocol::TCP { &mut self.tcp } else { &mut self.udp };
            rules.resize(1 << 16, 0);
            for &(first, last) in ports {
                for place in &mut rules[usize::from(first)..=usize::from(last)] {
                    // Rules come in their order: the first stays.
                    if *place == 0 {
                        *place = rule + 1;
                    }
                }
            }
        }
    }

    #[inline]
    fn find(&self, protocol: u8, port: u16) -> Option<u32> {
        let rules = match protocol {
            protocol::TCP => &self.tcp,
            protocol::UDP => &self.udp,
            _ => return None,
        };
        rules.get(usize::from(port))?.checked_sub(1)
    }

    fn all(&self) -> Vec<(u8, u16, u32)> {
        let of = |protocol, rules: &[u32]| {
            let named = (0..=u16::MAX).zip(rules.iter().copied()).filter(|&(_, rule)| rule > 0);
            named.map(move |(port, rule)| (protocol, port, rule - 1)).collect::<Vec<_>>()
        };
        [of(protocol::TCP, &self.tcp), of(protocol::UDP, &self.udp)].concat()
    }
}
