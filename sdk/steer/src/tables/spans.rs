//! Fields whose values are few enough for a table with an entry for each.

use super::classes::{Bits, Classes};
use super::image::{ETHER_TYPES_AT, KINDS, PortTable, VLANS, ip_kind};
use super::{CompileError, base};
use crate::{Match, PortRange, Rule, ethertype};

/// Values from the first to the last that a rule asks for.
type Span = (usize, usize);

/// The class of each value, where `wanted` has the spans of each rule and `base` the rules that ask for nothing.
fn table(size: usize, wanted: &[Vec<Span>], base: Bits, classes: &mut Classes) -> Result<Vec<u16>, CompileError> {
    let mut edges = Vec::new();
    for (rule, spans) in wanted.iter().enumerate() {
        for (first, last) in merged(spans) {
            edges.push((first, true, rule));
            edges.push((last + 1, false, rule));
        }
    }
    edges.sort_unstable();
    let mut table = vec![classes.class(&base)?; size];
    let (mut bits, mut at) = (base, 0);
    for same in edges.chunk_by(|a, b| a.0 == b.0) {
        let next = same[0].0;
        if at < next {
            table[at..next].fill(classes.class(&bits)?);
        }
        for &(_, begins, rule) in same {
            if begins { classes.set(&mut bits, rule) } else { classes.clear(&mut bits, rule) }
        }
        at = next;
    }
    Ok(table)
}

/// The same values in spans that neither overlap nor touch.
fn merged(spans: &[Span]) -> Vec<Span> {
    let mut sorted: Vec<Span> = spans.iter().copied().filter(|&(first, last)| first <= last).collect();
    sorted.sort_unstable();
    let mut merged: Vec<Span> = Vec::with_capacity(sorted.len());
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(before) if first <= before.1 + 1 => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}

pub(super) fn ports<'a>(
    wanted: impl Iterator<Item = &'a [PortRange]>,
    classes: &mut Classes,
) -> Result<Option<PortTable>, CompileError> {
    let wanted: Vec<&[PortRange]> = wanted.collect();
    if wanted.iter().all(|ranges| ranges.is_empty()) {
        return Ok(None);
    }
    let base = base(classes, wanted.iter().map(|ranges| !ranges.is_empty()));
    let span = |range: &PortRange| (range.first.into(), range.last.into());
    let spans: Vec<Vec<Span>> = wanted.iter().map(|ranges| ranges.iter().map(span).collect()).collect();
    let none = classes.class(&base)?;
    Ok(Some(PortTable { classes: table(1 << 16, &spans, base, classes)?, none }))
}

pub(super) fn vlans(rules: &[Rule], classes: &mut Classes) -> Result<Option<Vec<u16>>, CompileError> {
    if rules.iter().all(|rule| rule.matches.vlans.is_empty()) {
        return Ok(None);
    }
    let base = base(classes, rules.iter().map(|rule| !rule.matches.vlans.is_empty()));
    let mut spans: Vec<Vec<Span>> = Vec::with_capacity(rules.len());
    for rule in rules {
        let there = rule.matches.vlans.iter().map(|&vlan| usize::from(vlan)).filter(|&vlan| vlan < VLANS);
        spans.push(there.map(|vlan| (vlan, vlan)).collect());
    }
    table(VLANS, &spans, base, classes).map(Some)
}

/// Ethertype, protocol and fragmentation in one: see [`super::image::kind`].
pub(super) fn kinds(rules: &[Rule], classes: &mut Classes) -> Result<Option<Vec<u16>>, CompileError> {
    let asks = |m: &Match| !m.ether_types.is_empty() || !m.protocols.is_empty() || m.fragments.is_some();
    if !rules.iter().any(|rule| asks(&rule.matches)) {
        return Ok(None);
    }
    let base = base(classes, rules.iter().map(|rule| asks(&rule.matches)));
    let spans = |m: &Match| if asks(m) { kinds_of(m) } else { Vec::new() };
    let spans: Vec<Vec<Span>> = rules.iter().map(|rule| spans(&rule.matches)).collect();
    table(KINDS, &spans, base, classes).map(Some)
}

fn kinds_of(m: &Match) -> Vec<Span> {
    let asked = |t: u16| m.ether_types.is_empty() || m.ether_types.contains(&t);
    let mut spans = Vec::new();
    for (ether_type, is_ipv6) in [(ethertype::IPV4, false), (ethertype::IPV6, true)] {
        for fragment in [false, true] {
            if !asked(ether_type) || m.fragments.is_some_and(|wanted| wanted != fragment) {
                continue;
            }
            let kind = |protocol| ip_kind(is_ipv6, fragment, protocol);
            if m.protocols.is_empty() {
                spans.push((kind(0), kind(u8::MAX)));
            }
            spans.extend(m.protocols.iter().map(|&protocol| (kind(protocol), kind(protocol))));
        }
    }
    // What is no IP, or is malformed, has neither protocol nor fragments.
    if m.protocols.is_empty() && m.fragments.is_none() {
        spans.extend(m.ether_types.iter().map(|&t| ETHER_TYPES_AT + usize::from(t)).map(|kind| (kind, kind)));
    }
    spans
}
