//! Prefixes within prefixes.
//!
//! A look-up by the longest prefix finds one prefix of those that hold an address, but the rule that decides is the first of all
//! of theirs. So each prefix names the lowest rule among its own and those of the prefixes around it; then the longest match is
//! enough.

use crate::firewall::prefix::number;
use middlenet_steer::Prefix;

/// A prefix, and the rule that decides about an address whose longest prefix it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nested {
    pub(super) prefix: Prefix,
    pub(super) rule: u32,
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
    rule: u32,
}

impl Ranges {
    /// What prefixes of one version of IP, with the numbers of their rules, come to: for look-ups by the longest prefix, and as ranges.
    pub(super) fn nest(mut own: Vec<(Prefix, u32)>) -> (Vec<Nested>, Self) {
        // Outer ones first; of one prefix the first rule first.
        own.sort_by_key(|(prefix, rule)| {
            let (first, last) = bounds(prefix);
            (first, std::cmp::Reverse(last), *rule)
        });
        own.dedup_by_key(|(prefix, _)| *prefix);
        let (mut nested, mut ranges, mut open) = (Vec::with_capacity(own.len()), Self::default(), Vec::<Open>::new());
        for (prefix, rule) in own {
            let (first, last) = bounds(&prefix);
            ranges.close(&mut open, first);
            let rule = open.last().map_or(rule, |outer| rule.min(outer.rule));
            nested.push(Nested { prefix, rule });
            ranges.push(first, Some(rule));
            open.push(Open { last, rule });
        }
        ranges.close(&mut open, u128::MAX);
        (nested, ranges)
    }

    /// Goes back to the outer prefixes that hold `up_to`.
    fn close(&mut self, open: &mut Vec<Open>, up_to: u128) {
        while let Some(inner) = open.pop_if(|inner| inner.last < up_to) {
            // What ends with the last address of all is followed by nothing: `last` is below `up_to`.
            self.push(inner.last + 1, open.last().map(|outer| outer.rule));
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
