//! Prefixes within prefixes.
//!
//! A look-up by the longest prefix finds one prefix of those that hold an address, but the rule that decides is the first of all
//! of theirs. So each prefix names the lowest rule among its own and those of the prefixes around it; then the longest match is
//! enough.

use crate::firewall::prefix::number;
use middlenet_steer::Prefix;
use std::net::{IpAddr, Ipv4Addr};

/// A prefix, and the rule that decides about an address whose longest prefix it is. None: no rule does, though prefixes around
/// it have rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nested {
    pub(super) prefix: Prefix,
    pub(super) rule: Option<u32>,
}

/// Rules by address: each range of addresses goes on to where the next begins.
#[derive(Debug, Default)]
pub(super) struct Ranges {
    firsts: Vec<u128>,
    rules: Vec<Option<u32>>,
}

/// A prefix on the way from the outermost to the innermost.
struct Open {
    last: u128,
    rule: Option<u32>,
}

impl Ranges {
    /// What prefixes with the numbers of their rules come to: for look-ups by the longest prefix, and as ranges.
    ///
    /// IPv4 lies within IPv6 here as it does in the fast path's maps, but a prefix of IPv6 says nothing about packets of IPv4.
    pub(super) fn nest(rules: Vec<(Prefix, u32)>) -> (Vec<Nested>, Self) {
        let all_v4 = Prefix::new(Ipv4Addr::UNSPECIFIED.into(), 0).unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED).into());
        let around_v4 = bounds(&all_v4);
        let is_around =
            |prefix: &Prefix| !prefix.is_ipv4() && bounds(prefix).0 <= around_v4.0 && bounds(prefix).1 >= around_v4.1;
        let mut own: Vec<(Prefix, Option<u32>)> = rules.iter().map(|&(prefix, rule)| (prefix, Some(rule))).collect();
        if rules.iter().any(|(prefix, _)| is_around(prefix)) {
            own.push((all_v4, None));
        }
        // Outer ones first; of one prefix the first rule first, and no rule last.
        own.sort_by_key(|(prefix, rule)| {
            let (first, last) = bounds(prefix);
            (first, std::cmp::Reverse(last), rule.is_none(), *rule)
        });
        own.dedup_by_key(|(prefix, _)| *prefix);
        let (mut nested, mut ranges, mut open) = (Vec::with_capacity(own.len()), Self::default(), Vec::<Open>::new());
        for (prefix, rule) in own {
            let (first, last) = bounds(&prefix);
            ranges.close(&mut open, first);
            let around = open.last().filter(|_| prefix != all_v4).and_then(|outer| outer.rule);
            let rule = match (rule, around) {
                (Some(own), Some(around)) => Some(own.min(around)),
                (own, around) => own.or(around),
            };
            nested.push(Nested { prefix, rule });
            ranges.push(first, rule);
            open.push(Open { last, rule });
        }
        ranges.close(&mut open, u128::MAX);
        (nested, ranges)
    }

    /// Goes back to the outer prefixes that hold `up_to`.
    fn close(&mut self, open: &mut Vec<Open>, up_to: u128) {
        while let Some(inner) = open.pop_if(|inner| inner.last < up_to) {
            // What ends with the last address of all is followed by nothing: `last` is below `up_to`.
            self.push(inner.last + 1, open.last().and_then(|outer| outer.rule));
        }
    }

    fn push(&mut self, first: u128, rule: Option<u32>) {
        if self.firsts.last() == Some(&first) {
            self.firsts.pop();
            self.rules.pop();
        }
        self.firsts.push(first);
        self.rules.push(rule);
    }

    /// The rule that decides about an address.
    #[inline]
    pub(super) fn find(&self, address: u128) -> Option<u32> {
        let range = self.firsts.partition_point(|&first| first <= address).checked_sub(1)?;
        self.rules.get(range).copied().flatten()
    }
}

/// The first and the last address.
fn bounds(prefix: &Prefix) -> (u128, u128) {
    let first = number(prefix.address());
    let length = u32::from(prefix.length()) + if prefix.is_ipv4() { 96 } else { 0 };
    (first, first | u128::MAX.checked_shr(length).unwrap_or(0))
}
