//! Rules that no packet reaches.

use crate::{Match, PortRange, Prefix, Rule, WITH_PORTS, ethertype};

/// Why no packet reaches a rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dead {
    /// What it asks for contradicts itself.
    MatchesNothing,
    /// The rule with this index comes before it and matches all that it matches.
    CoveredBy(usize),
}

/// The rules that no packet reaches, by index, each with the reason. A rule that several earlier ones cover only together
/// is not found.
pub fn dead_rules(rules: &[Rule]) -> Vec<(usize, Dead)> {
    let mut dead = Vec::new();
    let mut alive: Vec<(usize, Match)> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let Some(explicit) = explicit(&rule.matches) else {
            dead.push((index, Dead::MatchesNothing));
            continue;
        };
        match alive.iter().find(|(_, earlier)| asks_no_more(earlier, &explicit)) {
            Some(&(by, _)) => dead.push((index, Dead::CoveredBy(by))),
            None => alive.push((index, explicit)),
        }
    }
    dead
}

impl Match {
    /// Whether no packet can match it.
    pub fn matches_nothing(&self) -> bool {
        explicit(self).is_none()
    }

    /// Whether it surely matches every packet that the other one matches. Values are compared one by one: two prefixes that
    /// only together hold a third one do not cover it.
    pub fn covers(&self, other: &Self) -> bool {
        match (explicit(self), explicit(other)) {
            (_, None) => true,
            (None, Some(_)) => false,
            (Some(mine), Some(others)) => asks_no_more(&mine, &others),
        }
    }

    /// Whether surely no packet matches both.
    pub fn is_disjoint(&self, other: &Self) -> bool {
        fn apart<T>(a: &[T], b: &[T], meet: impl Fn(&T, &T) -> bool) -> bool {
            !a.is_empty() && !b.is_empty() && !a.iter().any(|x| b.iter().any(|y| meet(x, y)))
        }
        let prefixes = |x: &Prefix, y: &Prefix| x.covers(y) || y.covers(x);
        let ports = |x: &PortRange, y: &PortRange| x.first <= y.last && y.first <= x.last;
        self.matches_nothing()
            || other.matches_nothing()
            || apart(&self.vlans, &other.vlans, PartialEq::eq)
            || apart(&self.src_macs, &other.src_macs, PartialEq::eq)
            || apart(&self.dst_macs, &other.dst_macs, PartialEq::eq)
            || apart(&self.possible_ether_types(), &other.possible_ether_types(), PartialEq::eq)
            || apart(&self.src, &other.src, prefixes)
            || apart(&self.dst, &other.dst, prefixes)
            || apart(&self.arp_targets, &other.arp_targets, prefixes)
            || apart(&self.protocols, &other.protocols, PartialEq::eq)
            || apart(&self.src_ports, &other.src_ports, ports)
            || apart(&self.dst_ports, &other.dst_ports, ports)
            || self.fragments.zip(other.fragments).is_some_and(|(a, b)| a != b)
    }
}

/// The same packets, with what some fields imply for others said in those, and values that no packet has left out. None if
/// no packet is left.
fn explicit(matches: &Match) -> Option<Match> {
    let mut m = matches.clone();
    let asks_for_ip = m.needs_ip();
    m.ether_types = m.possible_ether_types();
    if (asks_for_ip || !m.arp_targets.is_empty()) && m.ether_types.is_empty() {
        return None;
    }
    if asks_for_ip && !m.arp_targets.is_empty() {
        return None;
    }
    let version =
        |prefix: &Prefix| m.ether_types.contains(&if prefix.is_ipv4() { ethertype::IPV4 } else { ethertype::IPV6 });
    if !(keep(&mut m.src, version) && keep(&mut m.dst, version)) {
        return None;
    }
    if m.needs_ports() {
        if m.protocols.is_empty() {
            m.protocols = WITH_PORTS.to_vec();
        }
        if !keep(&mut m.protocols, |protocol| WITH_PORTS.contains(protocol)) {
            return None;
        }
    }
    let there = keep(&mut m.vlans, |&vlan| vlan < 1 << 12)
        && keep(&mut m.arp_targets, Prefix::is_ipv4)
        && keep(&mut m.src_ports, |range| range.first <= range.last)
        && keep(&mut m.dst_ports, |range| range.first <= range.last);
    if !there {
        return None;
    }
    for ranges in [&mut m.src_ports, &mut m.dst_ports] {
        *ranges = joined(ranges);
    }
    Some(m)
}

/// Leaves the values that pass, and says whether any are left, if any were asked for.
fn keep<T>(values: &mut Vec<T>, passes: impl FnMut(&T) -> bool) -> bool {
    let asked = !values.is_empty();
    values.retain(passes);
    !asked || !values.is_empty()
}

/// The same ports in ranges that neither overlap nor touch.
fn joined(ranges: &[PortRange]) -> Vec<PortRange> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable_by_key(|range| range.first);
    let mut joined: Vec<PortRange> = Vec::with_capacity(sorted.len());
    for range in sorted {
        match joined.last_mut() {
            Some(before) if range.first <= before.last.saturating_add(1) => before.last = before.last.max(range.last),
            _ => joined.push(range),
        }
    }
    joined
}

/// Whether each field of `earlier` asks for no more than that of `later`, both explicit.
fn asks_no_more(earlier: &Match, later: &Match) -> bool {
    fn all<T>(earlier: &[T], later: &[T], holds: impl Fn(&T, &T) -> bool) -> bool {
        earlier.is_empty() || !later.is_empty() && later.iter().all(|l| earlier.iter().any(|e| holds(e, l)))
    }
    let ports = |e: &PortRange, l: &PortRange| e.first <= l.first && l.last <= e.last;
    all(&earlier.ether_types, &later.ether_types, PartialEq::eq)
        && all(&earlier.dst, &later.dst, Prefix::covers)
        && all(&earlier.src, &later.src, Prefix::covers)
        && all(&earlier.protocols, &later.protocols, PartialEq::eq)
        && all(&earlier.dst_ports, &later.dst_ports, ports)
        && all(&earlier.src_ports, &later.src_ports, ports)
        && all(&earlier.vlans, &later.vlans, PartialEq::eq)
        && all(&earlier.src_macs, &later.src_macs, PartialEq::eq)
        && all(&earlier.dst_macs, &later.dst_macs, PartialEq::eq)
        && all(&earlier.arp_targets, &later.arp_targets, Prefix::covers)
        && (earlier.fragments.is_none() || earlier.fragments == later.fragments)
        && (!asks_for_sound_ip(earlier) || asks_for_sound_ip(later))
}

/// An ethertype alone also matches packets whose IP header is malformed.
fn asks_for_sound_ip(m: &Match) -> bool {
    m.needs_ip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Action;

    fn of(json: &str) -> Match {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn what_contradicts_itself_matches_nothing() {
        for json in [
            r#"{"src": ["10.0.0.0/8"], "dst": ["2001:db8::/32"]}"#,
            r#"{"src": ["10.0.0.0/8"], "ether_types": [34525]}"#,
            r#"{"arp_targets": ["10.0.0.1"], "protocols": [6]}"#,
            r#"{"arp_targets": ["2001:db8::1"]}"#,
            r#"{"arp_targets": ["10.0.0.1"], "ether_types": [2048]}"#,
            r#"{"protocols": [1, 58], "dst_ports": [{"first": 1, "last": 2}]}"#,
            r#"{"dst_ports": [{"first": 2, "last": 1}]}"#,
            r#"{"vlans": [4096]}"#,
            r#"{"fragments": false, "ether_types": [2054]}"#,
        ] {
            assert!(of(json).matches_nothing(), "{json}");
        }
        for json in [
            "{}",
            r#"{"src": ["10.0.0.0/8", "::/0"], "dst": ["2001:db8::/32"]}"#,
            r#"{"protocols": [1, 6], "dst_ports": [{"first": 1, "last": 2}]}"#,
            r#"{"vlans": [4096, 0]}"#,
            r#"{"arp_targets": ["10.0.0.1"]}"#,
        ] {
            assert!(!of(json).matches_nothing(), "{json}");
        }
    }

    #[test]
    fn a_wider_rule_covers_a_narrower_one() {
        for (wide, narrow) in [
            ("{}", r#"{"src": ["10.0.0.0/8"]}"#),
            (r#"{"src": ["10.0.0.0/8"]}"#, r#"{"src": ["10.1.0.0/16", "10.2.0.1"], "protocols": [6]}"#),
            (r#"{"ether_types": [2048]}"#, r#"{"dst": ["10.1.0.0/16"]}"#),
            (r#"{"protocols": [6, 17, 132]}"#, r#"{"dst_ports": [{"first": 80, "last": 80}]}"#),
            (
                r#"{"dst_ports": [{"first": 1, "last": 9}, {"first": 10, "last": 20}]}"#,
                r#"{"dst_ports": [{"first": 5, "last": 15}]}"#,
            ),
            (r#"{"src": ["10.0.0.0/8"]}"#, r#"{"src": ["10.0.0.0/9", "2001:db8::/32"], "dst": ["10.0.0.0/8"]}"#),
        ] {
            assert!(of(wide).covers(&of(narrow)), "{wide} {narrow}");
            assert!(!of(narrow).covers(&of(wide)), "{narrow} {wide}");
        }
    }

    #[test]
    fn an_ethertype_covers_malformed_packets_and_addresses_do_not() {
        let (all, addresses) = (of(r#"{"ether_types": [2048]}"#), of(r#"{"src": ["0.0.0.0/0"]}"#));
        assert!(all.covers(&addresses) && !addresses.covers(&all));
    }

    #[test]
    fn the_first_that_covers_is_named() {
        let rules: Vec<Rule> = [
            r#"{"src": ["10.0.0.0/8"]}"#,
            r#"{"src": ["10.0.0.0/16"]}"#,
            r#"{"vlans": [5000]}"#,
            r#"{"src": ["10.0.0.0/24"], "protocols": [6]}"#,
            r#"{"src": ["11.0.0.0/24"]}"#,
        ]
        .iter()
        .map(|json| Rule { name: String::new(), matches: of(json), action: Action::Drop })
        .collect();
        assert_eq!(dead_rules(&rules), [(1, Dead::CoveredBy(0)), (2, Dead::MatchesNothing), (3, Dead::CoveredBy(0))]);
    }
}
