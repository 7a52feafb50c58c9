//! From one table of rules to another while packets pass.
//!
//! A packet has up to four keys (its source and destination prefix, its source and destination port), each names a number, and the
//! lowest number decides. A number means the same action from before the first write until after the last: what is new got
//! numbers that nobody names. So it is enough that, after every single write, the lowest of a packet's numbers is the lowest
//! that it had before or the lowest that it has after.
//!
//! First all keys whose number becomes lower are written, the lowest new number first. Let a packet's lowest number then be c. If c
//! was written, every key with a lower new number has been written before or is written no more, so c is the lowest of the new
//! numbers. If c was there before, the keys written so far had higher numbers before, so c is the lowest of the old ones.
//! Then all keys whose number becomes higher, the highest old number first: that is the same read backwards.
//!
//! The lowest number that a port names is written as well: it is one more key of packets that may have ports and do not show them, which have
//! no other keys of ports. Of keys with the same number it comes last where numbers become lower, and first where they become
//! higher, since a prefix that names this number decides.
//!
//! Prefixes hide shorter ones. A prefix that is in one table alone has in the other the number of the next shorter one
//! there. It is written with that number before anything else where the shorter one is about to change, and deleted at the
//! end; so every packet has the same keys all the time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hash;

use middlenet_fast_path::{MapKind, NO_RULE, PREFIX_BYTES};

/// Prefixes or ports, by kind and key; ports that name nothing are not there.
pub(super) type Table = BTreeMap<(MatcherKind, Vec<u8>), u32>;

/// The maps whose keys name rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum MatcherKind {
    SrcPrefix,
    DstPrefix,
    SrcPort,
    DstPort,
    /// The lowest number that a port names, among the settings: the one key of it is where.
    FirstPort,
}

impl MatcherKind {
    pub(super) const ALL: [Self; 5] = [Self::SrcPrefix, Self::DstPrefix, Self::SrcPort, Self::DstPort, Self::FirstPort];

    pub(super) fn map(self) -> MapKind {
        match self {
            Self::SrcPrefix => MapKind::SrcPrefixes,
            Self::DstPrefix => MapKind::DstPrefixes,
            Self::SrcPort => MapKind::SrcPorts,
            Self::DstPort => MapKind::DstPorts,
            Self::FirstPort => MapKind::Settings,
        }
    }

    pub(super) fn is_prefix(self) -> bool {
        matches!(self, Self::SrcPrefix | Self::DstPrefix)
    }
}

/// One write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    Put(MatcherKind, Vec<u8>, u32),
    Delete(MatcherKind, Vec<u8>),
}

impl Step {
    pub(super) fn kind(&self) -> MatcherKind {
        match self {
            Self::Put(kind, ..) | Self::Delete(kind, _) => *kind,
        }
    }
}

/// The writes that make one table of another, in order.
pub(super) fn steps(old: &Table, new: &Table) -> Vec<Step> {
    let (old_lengths, new_lengths) = (lengths(old), lengths(new));
    let union: BTreeSet<&(MatcherKind, Vec<u8>)> = old.keys().chain(new.keys()).collect();
    // Keys that change, and what they name before and after.
    let mut moves = Vec::new();
    let mut changes: HashMap<&(MatcherKind, Vec<u8>), (u32, u32)> = HashMap::new();
    for &key in &union {
        let (in_old, in_new) = (old.get(key), new.get(key));
        if in_old == in_new {
            continue;
        }
        let before = in_old.copied().unwrap_or_else(|| hidden(old, &old_lengths, key));
        let after = in_new.copied().unwrap_or_else(|| hidden(new, &new_lengths, key));
        changes.insert(key, (before, after));
    }
    let mut steps = Vec::new();
    let mut deletes = Vec::new();
    let union_lengths = lengths_of(union.iter().copied());
    for &key in &union {
        let Some(&(before, after)) = changes.get(key) else { continue };
        // Whether what this key would hide stands still, so that the key can come or go when its number changes.
        let rests = || match nearest(key, &union_lengths, |shorter| union.contains(shorter)) {
            None => true,
            Some(shorter) => changes.get(&shorter).is_none_or(|(before, after)| before == after),
        };
        let (is_old, is_new) = (old.contains_key(key), new.contains_key(key));
        let is_prefix = key.0.is_prefix();
        if is_prefix && !is_old && before != after && !rests() {
            steps.push(Step::Put(key.0, key.1.clone(), before));
        }
        let goes = is_prefix && !is_new && (before == after || rests());
        if is_prefix && !is_new && !goes {
            deletes.push(Step::Delete(key.0, key.1.clone()));
        }
        if before == after {
            match (is_prefix, is_new) {
                (true, true) => steps.push(Step::Put(key.0, key.1.clone(), after)),
                (true, false) => deletes.push(Step::Delete(key.0, key.1.clone())),
                (false, _) => {}
            }
            continue;
        }
        let step = if goes { Step::Delete(key.0, key.1.clone()) } else { Step::Put(key.0, key.1.clone(), after) };
        moves.push((before, after, step));
    }
    let (mut lower, mut higher): (Vec<_>, Vec<_>) = moves.into_iter().partition(|(before, after, _)| after < before);
    lower.sort_by_key(|&(_, after, ref step)| (after, step.kind()));
    higher.sort_by_key(|&(before, _, ref step)| std::cmp::Reverse((before, step.kind())));
    steps.extend(lower.into_iter().chain(higher).map(|(.., step)| step));
    steps.extend(deletes);
    steps
}

/// The lengths of the prefixes of each kind, ascending.
type Lengths = BTreeSet<(MatcherKind, u32)>;

fn lengths(table: &Table) -> Lengths {
    lengths_of(table.keys())
}

fn lengths_of<'a>(keys: impl Iterator<Item = &'a (MatcherKind, Vec<u8>)>) -> Lengths {
    keys.filter(|(kind, _)| kind.is_prefix()).map(|(kind, key)| (*kind, length(key))).collect()
}

fn length(key: &[u8]) -> u32 {
    key.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

/// What a key names that is not in the table: the number of the next shorter prefix that is.
fn hidden(table: &Table, lengths: &Lengths, key: &(MatcherKind, Vec<u8>)) -> u32 {
    nearest(key, lengths, |shorter| table.contains_key(shorter))
        .and_then(|key| table.get(&key).copied())
        .unwrap_or(NO_RULE)
}

/// The next shorter prefix among those that are there.
fn nearest(
    key: &(MatcherKind, Vec<u8>),
    lengths: &Lengths,
    is_there: impl Fn(&(MatcherKind, Vec<u8>)) -> bool,
) -> Option<(MatcherKind, Vec<u8>)> {
    if !key.0.is_prefix() {
        return None;
    }
    let shorter = lengths.range((key.0, 0)..(key.0, length(&key.1))).rev();
    shorter.map(|&(kind, bits)| (kind, shortened(&key.1, bits))).find(is_there)
}

/// Bits of a prefix's key that is one address.
#[cfg(any(test, feature = "testkit"))]
pub(super) const MOST_BITS: u32 = (PREFIX_BYTES as u32 - 4) * 8;

/// The prefix of that many bits which holds this one.
pub(super) fn shortened(key: &[u8], bits: u32) -> Vec<u8> {
    let mut shorter = vec![0; PREFIX_BYTES];
    shorter[..4].copy_from_slice(&bits.to_ne_bytes());
    for (at, (to, from)) in shorter[4..].iter_mut().zip(&key[4..]).enumerate() {
        let kept = bits.saturating_sub(at as u32 * 8).min(8);
        *to = from & (0xff_u16 << (8 - kept)) as u8;
    }
    shorter
}

/// Which places of a list are those of another: pairs of equal elements in the same order in both. Elements that are there once
/// count, first by all of what they are, then, between those found, by part of it.
pub(super) fn common<T, A: Eq + Hash, B: Eq + Hash>(
    old: &[T],
    new: &[T],
    all: impl Fn(&T) -> A,
    part: impl Fn(&T) -> B,
) -> Vec<(usize, usize)> {
    let anchors = unique_pairs(old, new, &all);
    let mut pairs = Vec::new();
    let (mut old_from, mut new_from) = (0, 0);
    for (old_to, new_to) in anchors.iter().copied().chain([(old.len(), new.len())]) {
        let between = unique_pairs(&old[old_from..old_to], &new[new_from..new_to], &part);
        pairs.extend(between.into_iter().map(|(o, n)| (o + old_from, n + new_from)));
        if old_to < old.len() {
            pairs.push((old_to, new_to));
        }
        (old_from, new_from) = (old_to + 1, new_to + 1);
        if old_from > old.len() || new_from > new.len() {
            break;
        }
    }
    pairs
}

/// Elements that are once in each list, as many as are in the same order.
fn unique_pairs<T, K: Eq + Hash>(old: &[T], new: &[T], key: &impl Fn(&T) -> K) -> Vec<(usize, usize)> {
    let mut places: HashMap<K, (Vec<usize>, Vec<usize>)> = HashMap::new();
    for (at, element) in old.iter().enumerate() {
        places.entry(key(element)).or_default().0.push(at);
    }
    for (at, element) in new.iter().enumerate() {
        places.entry(key(element)).or_default().1.push(at);
    }
    let mut pairs: Vec<(usize, usize)> = places
        .into_values()
        .filter_map(|places| match (&places.0[..], &places.1[..]) {
            (&[old], &[new]) => Some((old, new)),
            _ => None,
        })
        .collect();
    pairs.sort_unstable_by_key(|&(_, new)| new);
    longest_ascent(&pairs)
}

/// The longest part of the pairs, which ascend by their second element, that ascends by the first as well.
fn longest_ascent(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // For each length, the place of the least last element of an ascent of that length; and what was before each place.
    let mut ends: Vec<usize> = Vec::new();
    let mut before = vec![usize::MAX; pairs.len()];
    for (at, &(old, _)) in pairs.iter().enumerate() {
        let length = ends.partition_point(|&end| pairs[end].0 < old);
        if length > 0 {
            before[at] = ends[length - 1];
        }
        match ends.get_mut(length) {
            Some(end) => *end = at,
            None => ends.push(at),
        }
    }
    let mut ascent = Vec::with_capacity(ends.len());
    let mut at = ends.last().copied().unwrap_or(usize::MAX);
    while let Some(&pair) = pairs.get(at) {
        ascent.push(pair);
        at = before[at];
    }
    ascent.reverse();
    ascent
}

/// Gives each element of a list a number, in ascending order: some have one already, the others get numbers from 1 to below
/// `limit` that are not taken. Nothing if there are too few between those that are given.
pub(super) fn number(given: &[Option<u32>], taken: &BTreeSet<u32>, limit: u32) -> Option<Vec<u32>> {
    let mut numbers = Vec::with_capacity(given.len());
    let mut rest = given;
    let mut low = 0;
    while !rest.is_empty() {
        let run = rest.iter().take_while(|number| number.is_none()).count();
        let high = rest.get(run).copied().flatten().unwrap_or(limit);
        if run > 0 {
            let free: Vec<u32> = (low + 1..high).filter(|number| !taken.contains(number)).collect();
            if free.len() < run {
                return None;
            }
            // In the middle of equal parts, so that there is room for more between any two.
            numbers.extend((0..run).map(|at| free[(2 * at + 1) * free.len() / (2 * run)]));
        }
        if run < rest.len() {
            numbers.push(high);
            low = high;
        }
        rest = &rest[(run + 1).min(rest.len())..];
    }
    Some(numbers)
}

#[cfg(test)]
mod tests;
