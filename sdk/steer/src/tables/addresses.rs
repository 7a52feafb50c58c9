//! Address prefixes as a trie of one byte per step, which skips what is the same in all of them.

use super::classes::Classes;
use super::image::{Chain, ENTRY_BYTE_SHIFT, ENTRY_CHAIN, ENTRY_NODE, Prefixes, address_words};
use super::{CompileError, base};
use crate::{Prefix, Rule};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Bits before the IPv4 address in an IPv4-mapped one.
const MAPPED_BITS: u8 = 96;

/// The address that a packet has in a field.
#[derive(Clone, Copy)]
pub(super) enum Found {
    /// None.
    Nothing,
    /// An IP packet's.
    Ip(IpAddr),
    /// That which ARP asks for.
    Arp(Ipv4Addr),
}

/// The blocks and chains of all tries so far.
#[derive(Default)]
pub(super) struct Trie {
    pub(super) blocks: Vec<[u32; 256]>,
    pub(super) chains: Vec<Chain>,
}

/// A prefix, as bits of an IPv6 address, and the rules that ask for it.
#[derive(Debug)]
struct Item {
    bits: u128,
    length: u8,
    rules: Vec<usize>,
}

pub(super) fn src(rules: &[Rule], trie: &mut Trie, classes: &mut Classes) -> Result<Option<Prefixes>, CompileError> {
    if rules.iter().all(|rule| rule.matches.src.is_empty()) {
        return Ok(None);
    }
    let none = classes.class(&base(classes, rules.iter().map(|rule| !rule.matches.src.is_empty())))?;
    let wanted = || rules.iter().map(|rule| rule.matches.src.as_slice()).enumerate();
    let v4 = trie.add(&items(wanted(), true), none, classes)?;
    let v6 = trie.add(&items(wanted(), false), none, classes)?;
    Ok(Some(Prefixes { v4, v6, arp: none.into(), none }))
}

/// A packet has a destination or an address that it asks for, never both: they are one field.
pub(super) fn dst(rules: &[Rule], trie: &mut Trie, classes: &mut Classes) -> Result<Option<Prefixes>, CompileError> {
    if rules.iter().all(|rule| rule.matches.dst.is_empty() && rule.matches.arp_targets.is_empty()) {
        return Ok(None);
    }
    let asks = |rule: &Rule| !(rule.matches.dst.is_empty() && rule.matches.arp_targets.is_empty());
    let none = classes.class(&base(classes, rules.iter().map(asks)))?;
    // Who asks for both gets neither.
    let of_ip = rules.iter().map(|rule| rule.matches.dst.as_slice()).enumerate();
    let of_ip = of_ip.filter(|&(rule, _)| rules[rule].matches.arp_targets.is_empty());
    let of_arp = rules.iter().map(|rule| rule.matches.arp_targets.as_slice()).enumerate();
    let of_arp = of_arp.filter(|&(rule, _)| rules[rule].matches.dst.is_empty());
    let v4 = trie.add(&items(of_ip.clone(), true), none, classes)?;
    let v6 = trie.add(&items(of_ip, false), none, classes)?;
    let arp = trie.add(&items(of_arp, true), none, classes)?;
    Ok(Some(Prefixes { v4, v6, arp, none }))
}

/// Each prefix once, in order of address.
fn items<'a>(wanted: impl Iterator<Item = (usize, &'a [Prefix])>, v4: bool) -> Vec<Item> {
    let mut known: BTreeMap<(u128, u8), Vec<usize>> = BTreeMap::new();
    for (rule, prefixes) in wanted {
        for prefix in prefixes.iter().filter(|prefix| prefix.is_ipv4() == v4) {
            known.entry(position(prefix)).or_default().push(rule);
        }
    }
    known.into_iter().map(|((bits, length), rules)| Item { bits, length, rules }).collect()
}

fn position(prefix: &Prefix) -> (u128, u8) {
    match prefix.address() {
        IpAddr::V4(address) => (address.to_ipv6_mapped().to_bits(), MAPPED_BITS + prefix.length()),
        IpAddr::V6(address) => (address.to_bits(), prefix.length()),
    }
}

impl Trie {
    /// Adds a trie of these prefixes, and says with which entry it begins; `class` is that of all other addresses.
    fn add(&mut self, items: &[Item], class: u16, classes: &mut Classes) -> Result<u32, CompileError> {
        let items: Vec<&Item> = items.iter().collect();
        let whole = items.partition_point(|item| item.length == 0);
        let class = with(class, &items[..whole], classes)?;
        self.node(&items[whole..], 0, class, classes)
    }

    /// The entry for addresses whose first `at` bytes are those of all items, each longer than that.
    fn node(&mut self, items: &[&Item], at: u8, class: u16, classes: &mut Classes) -> Result<u32, CompileError> {
        let [first, .., last] = items else {
            let Some(only) = items.first() else { return Ok(class.into()) };
            let hit = with(class, items, classes)?.into();
            return Ok(self.chain(only.bits, only.length, hit, class));
        };
        let shortest = items.iter().map(|item| item.length).min().unwrap_or(0);
        let byte = ((first.bits ^ last.bits).leading_zeros() as u8).min(shortest) / 8;
        let block = self.block(items, byte, class, classes)?;
        Ok(if byte > at { self.chain(first.bits, byte * 8, block, class) } else { block })
    }

    fn chain(&mut self, bits: u128, length: u8, hit: u32, miss: u16) -> u32 {
        let mask = u128::MAX << (128 - length);
        let words = |bits: u128| address_words(bits.to_be_bytes());
        self.chains.push(Chain { value: words(bits & mask), mask: words(mask), hit, miss: miss.into() });
        ENTRY_NODE | ENTRY_CHAIN | (self.chains.len() - 1) as u32
    }

    fn block(&mut self, items: &[&Item], byte: u8, class: u16, classes: &mut Classes) -> Result<u32, CompileError> {
        let number = self.blocks.len();
        self.blocks.push([class.into(); 256]);
        self.fill(items, Part { block: number, bit: byte * 8, first: 0, count: 256 }, class, classes)?;
        Ok(ENTRY_NODE | u32::from(byte) << ENTRY_BYTE_SHIFT | number as u32)
    }

    /// Fills entries of a block that these items share, by halves.
    fn fill(&mut self, items: &[&Item], part: Part, class: u16, classes: &mut Classes) -> Result<(), CompileError> {
        let (ending, longer): (Vec<&Item>, Vec<&Item>) = items.iter().partition(|item| item.length == part.bit);
        let class = with(class, &ending, classes)?;
        if longer.is_empty() {
            self.blocks[part.block][part.first..][..part.count].fill(class.into());
        } else if part.count == 1 {
            let entry = self.node(&longer, part.bit / 8, class, classes)?;
            self.blocks[part.block][part.first] = entry;
        } else {
            let ones = longer.partition_point(|item| item.bits >> (127 - part.bit) & 1 == 0);
            let half = Part { bit: part.bit + 1, count: part.count / 2, ..part };
            self.fill(&longer[..ones], half, class, classes)?;
            self.fill(&longer[ones..], Part { first: half.first + half.count, ..half }, class, classes)?;
        }
        Ok(())
    }
}

/// A part of a block: the entries whose byte begins alike, up to bit `bit` of the address.
#[derive(Clone, Copy)]
struct Part {
    block: usize,
    bit: u8,
    first: usize,
    count: usize,
}

/// The class with the rules of these items added.
fn with(class: u16, items: &[&Item], classes: &mut Classes) -> Result<u16, CompileError> {
    if items.is_empty() {
        return Ok(class);
    }
    let mut bits = classes.bits(class).clone();
    items.iter().flat_map(|item| &item.rules).for_each(|&rule| classes.set(&mut bits, rule));
    classes.class(&bits)
}
