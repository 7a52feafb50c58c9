//! Which bit of the vectors each rule has.
//!
//! A rule that asks for nothing in a field has its bit set in each vector of that field. If rules that ask for different fields
//! stood side by side, hardly a word would be zero, and the summaries would say nothing. So rules that ask for the same
//! fields stand together, in words of their own where there are enough of them, and in their order.

use crate::{Match, Rule};
use std::cmp::Reverse;
use std::collections::BTreeMap;

/// Bits of a word.
const WORD: usize = 64;
/// Words of a vector, as many as its summary has bits.
const MOST_WORDS: usize = 64;

/// Which bit each rule has, and how many words that takes.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) bit_of: Vec<usize>,
    pub(super) words: usize,
    /// Whether a rule's bit is another number than the rule's own.
    pub(super) is_changed: bool,
}

impl Order {
    pub(super) fn of(rules: &[Rule]) -> Self {
        let mut groups: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (index, rule) in rules.iter().enumerate() {
            groups.entry(asked(&rule.matches)).or_default().push(index);
        }
        let mut groups: Vec<Vec<usize>> = groups.into_values().collect();
        groups.sort_by_key(|group| Reverse(group.len()));
        let mut rest: Vec<usize> = Vec::new();
        let mut apart: Vec<Vec<usize>> = Vec::new();
        let (mut words, mut left) = (0, rules.len());
        for group in groups {
            let with = words + group.len().div_ceil(WORD);
            if group.len() >= WORD && with + (left - group.len()).div_ceil(WORD) <= MOST_WORDS {
                (words, left) = (with, left - group.len());
                apart.push(group);
            } else {
                rest.extend(group);
            }
        }
        rest.sort_unstable();
        let mut bit_of = vec![0; rules.len()];
        let mut next = 0_usize;
        for group in apart.iter().chain([&rest]) {
            next = next.next_multiple_of(WORD);
            for &rule in group {
                bit_of[rule] = next;
                next += 1;
            }
        }
        let is_changed = bit_of.iter().enumerate().any(|(rule, &bit)| rule != bit);
        Self { bit_of, words: next.div_ceil(WORD).max(1), is_changed }
    }

    /// The rule of each bit, if that is another number than the bit's own; 0 where there is none, for such a bit is never set.
    pub(super) fn rules(&self) -> Option<Vec<u32>> {
        let mut rules = vec![0; self.words * WORD];
        for (rule, &bit) in self.bit_of.iter().enumerate() {
            rules[bit] = rule as u32;
        }
        self.is_changed.then_some(rules)
    }
}

/// A bit for each field that is asked for. Those that are looked up as one are one.
fn asked(m: &Match) -> u16 {
    let fields = [
        !(m.ether_types.is_empty() && m.protocols.is_empty() && m.fragments.is_none()),
        !m.vlans.is_empty(),
        !m.src_macs.is_empty(),
        !m.dst_macs.is_empty(),
        !m.src.is_empty(),
        !(m.dst.is_empty() && m.arp_targets.is_empty()),
        !m.src_ports.is_empty(),
        !m.dst_ports.is_empty(),
    ];
    fields.into_iter().fold(0, |bits, asked| bits << 1 | u16::from(asked))
}
