//! Finds the first rule that matches, at a cost that hardly grows with their number.
//!
//! Lucent bit vectors (Lakshman and Stiliadis, SIGCOMM 1998) with the aggregation of Baboescu and Varghese (SIGCOMM 2001).
//! Per field, the rules' ranges cut the field's values into intervals; each interval has a bitmap of the rules that accept
//! it. A packet's interval is found by binary search or a table, and the first bit set in all bitmaps is the rule. A summary
//! bit per 64 rules says whether a word is worth reading.

use super::prefix::AddressRange;
use super::rule::{Rule, Subject};
use std::collections::HashMap;

/// Up to this many rules are compared one by one, which is faster than searching.
const LINEAR_RULES: usize = 8;
const FIELDS: usize = 8;

/// Ordered rules in the form of a search structure.
#[derive(Debug)]
pub(super) enum Classifier {
    /// Few rules, one by one.
    Linear(Vec<Rule>),
    /// Many.
    BitVectors(Box<BitVectors>),
}

impl Classifier {
    /// Prepares rules, in their order.
    pub(super) fn new(rules: Vec<Rule>) -> Self {
        if rules.len() <= LINEAR_RULES {
            Self::Linear(rules)
        } else {
            Self::BitVectors(Box::new(BitVectors::new(&rules)))
        }
    }

    /// The place of the first rule that matches.
    pub(super) fn first_match(&self, subject: &Subject) -> Option<usize> {
        match self {
            Self::Linear(rules) => rules.iter().position(|rule| rule.matches(subject)),
            Self::BitVectors(vectors) => vectors.first_match(subject),
        }
    }
}

/// Bitmaps of the intervals of each field.
#[derive(Debug)]
pub(super) struct BitVectors {
    bitmaps: Bitmaps,
    src: Intervals<u128>,
    dst: Intervals<u128>,
    src_ports: Intervals<u32>,
    dst_ports: Intervals<u32>,
    protocols: Vec<u32>,
    ingress: Vec<u32>,
    icmp_types: Vec<u32>,
    tcp_flags: Vec<u32>,
}

/// What stands for "has no such field" after the values 0 to 255, and after the ports.
const NO_BYTE: usize = 256;
const NO_PORT: u32 = 65_536;

impl BitVectors {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut bitmaps = Bitmaps::new(rules.len());
        let addresses = |rules: &[Rule], ranges: fn(&Rule) -> &[AddressRange]| -> Vec<Vec<(u128, u128)>> {
            rules.iter().map(|rule| or_all(ranges(rule).iter().map(|r| (r.first, r.last)), u128::MAX)).collect()
        };
        let ports = |rules: &[Rule], ranges: fn(&Rule) -> &[(u16, u16)]| -> Vec<Vec<(u32, u32)>> {
            let wide = |&(first, last): &(u16, u16)| (u32::from(first), u32::from(last));
            rules.iter().map(|rule| or_all(ranges(rule).iter().map(wide), NO_PORT)).collect()
        };
        let src = Intervals::new(&addresses(rules, |rule| &rule.src), &mut bitmaps);
        let dst = Intervals::new(&addresses(rules, |rule| &rule.dst), &mut bitmaps);
        let src_ports = Intervals::new(&ports(rules, |rule| &rule.src_ports), &mut bitmaps);
        let dst_ports = Intervals::new(&ports(rules, |rule| &rule.dst_ports), &mut bitmaps);
        let mut bytes = |accepts: fn(&Rule, Option<u8>) -> bool| -> Vec<u32> {
            let value = |v: usize| u8::try_from(v).ok();
            (0..=NO_BYTE).map(|v| bitmaps.add(rules.iter().map(|rule| accepts(rule, value(v))))).collect()
        };
        Self {
            protocols: bytes(|rule, v| rule.protocols.is_empty() || v.is_some_and(|v| rule.protocols.contains(&v))),
            ingress: bytes(|rule, v| rule.ingress.is_empty() || v.is_some_and(|v| rule.ingress.contains(&v))),
            icmp_types: bytes(|rule, v| rule.icmp_types.is_empty() || v.is_some_and(|v| rule.icmp_types.contains(&v))),
            tcp_flags: bytes(|rule, v| {
                rule.tcp_flags.is_none_or(|test| v.is_some_and(|v| v & test.mask == test.value))
            }),
            bitmaps: bitmaps.finish(),
            src,
            dst,
            src_ports,
            dst_ports,
        }
    }

    fn first_match(&self, subject: &Subject) -> Option<usize> {
        let byte = |table: &[u32], v: Option<u8>| table.get(v.map_or(NO_BYTE, usize::from)).copied();
        let (src_port, dst_port) = subject.ports.map_or((NO_PORT, NO_PORT), |(src, dst)| (src.into(), dst.into()));
        let found: [u32; FIELDS] = [
            self.src.find(subject.src)?,
            self.dst.find(subject.dst)?,
            self.src_ports.find(src_port)?,
            self.dst_ports.find(dst_port)?,
            byte(&self.protocols, Some(subject.protocol))?,
            byte(&self.ingress, Some(subject.ingress))?,
            byte(&self.icmp_types, subject.icmp_type)?,
            byte(&self.tcp_flags, subject.tcp_flags)?,
        ];
        self.bitmaps.first_common(&found)
    }
}

/// The ranges of one rule; none means all values up to `last`.
fn or_all<T: Copy + Default>(ranges: impl Iterator<Item = (T, T)>, last: T) -> Vec<(T, T)> {
    let ranges: Vec<_> = ranges.collect();
    if ranges.is_empty() { vec![(T::default(), last)] } else { ranges }
}

/// Where intervals begin, and the bitmap of each.
#[derive(Debug)]
struct Intervals<T> {
    starts: Vec<T>,
    bitmaps: Vec<u32>,
}

/// A value of a field that is searched.
trait Point: Copy + Ord + Default {
    /// The next value; none after the last.
    fn next(self) -> Option<Self>;
}

impl Point for u32 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl Point for u128 {
    fn next(self) -> Option<Self> {
        self.checked_add(1)
    }
}

impl<T: Point> Intervals<T> {
    /// `ranges[i]` are the inclusive ranges of rule `i`, in any order, overlapping or not.
    fn new(ranges: &[Vec<(T, T)>], bitmaps: &mut Bitmaps) -> Self {
        // Per place where something changes: which rules gain a range, which lose one.
        let mut events: Vec<(T, usize, i32)> = Vec::new();
        for (rule, ranges) in ranges.iter().enumerate() {
            for &(first, last) in ranges {
                events.push((first, rule, 1));
                events.extend(last.next().map(|end| (end, rule, -1)));
            }
        }
        events.sort_unstable();
        let mut depth = vec![0i32; ranges.len()];
        let mut current = vec![0u64; bitmaps.words];
        let (mut starts, mut found) = (vec![T::default()], Vec::new());
        let mut at = 0;
        while at < events.len() {
            let place = events[at].0;
            if starts.last() != Some(&place) {
                found.push(bitmaps.intern(&current));
                starts.push(place);
            }
            while let Some(&(_, rule, change)) = events.get(at).filter(|event| event.0 == place) {
                depth[rule] += change;
                let bit = 1 << (rule % 64);
                if depth[rule] > 0 {
                    current[rule / 64] |= bit
                } else {
                    current[rule / 64] &= !bit
                }
                at += 1;
            }
        }
        found.push(bitmaps.intern(&current));
        Self { starts, bitmaps: found }
    }

    /// The bitmap of the interval that holds the value.
    #[inline]
    fn find(&self, value: T) -> Option<u32> {
        let after = self.starts.partition_point(|start| *start <= value);
        self.bitmaps.get(after.checked_sub(1)?).copied()
    }
}

/// Bitmaps with one bit per rule, each stored once, and their summaries with one bit per word.
#[derive(Debug)]
struct Bitmaps {
    words: usize,
    summary_words: usize,
    bits: Vec<u64>,
    summaries: Vec<u64>,
    known: HashMap<Box<[u64]>, u32>,
}

impl Bitmaps {
    fn new(rules: usize) -> Self {
        let words = rules.div_ceil(64).max(1);
        let summary_words = words.div_ceil(64);
        Self { words, summary_words, bits: Vec::new(), summaries: Vec::new(), known: HashMap::new() }
    }

    /// Forgets what only building needs.
    fn finish(mut self) -> Self {
        self.known = HashMap::new();
        self
    }

    fn add(&mut self, accepted: impl Iterator<Item = bool>) -> u32 {
        let mut bitmap = vec![0u64; self.words];
        for (rule, _) in accepted.enumerate().filter(|(_, accepted)| *accepted) {
            bitmap[rule / 64] |= 1 << (rule % 64);
        }
        self.intern(&bitmap)
    }

    fn intern(&mut self, bitmap: &[u64]) -> u32 {
        if let Some(&id) = self.known.get(bitmap) {
            return id;
        }
        let id = self.known.len() as u32;
        self.known.insert(bitmap.into(), id);
        self.bits.extend_from_slice(bitmap);
        let start = self.summaries.len();
        self.summaries.resize(start + self.summary_words, 0);
        for (word, _) in bitmap.iter().enumerate().filter(|(_, bits)| **bits != 0) {
            self.summaries[start + word / 64] |= 1 << (word % 64);
        }
        id
    }

    /// The first bit that is set in all of these bitmaps.
    fn first_common(&self, ids: &[u32; FIELDS]) -> Option<usize> {
        let common = |from: &[u64], stride: usize, word: usize| {
            ids.iter().fold(u64::MAX, |all, &id| all & from.get(id as usize * stride + word).copied().unwrap_or(0))
        };
        for summary in 0..self.summary_words {
            let mut candidates = common(&self.summaries, self.summary_words, summary);
            while candidates != 0 {
                let word = summary * 64 + candidates.trailing_zeros() as usize;
                let bits = common(&self.bits, self.words, word);
                if bits != 0 {
                    return Some(word * 64 + bits.trailing_zeros() as usize);
                }
                candidates &= candidates - 1;
            }
        }
        None
    }
}
