//! The tables as numbers. The XDP program (`bpf/src/bpf/steer_rules.bpf.c`) reads them as they are laid out here.

use crate::Head;
use std::net::{IpAddr, Ipv4Addr};

use super::addresses::Found;

/// VLAN identifiers.
pub(super) const VLANS: usize = 1 << 12;
/// Where the ethertypes of packets that are no IP begin in [`Image::kinds`].
pub(super) const ETHER_TYPES_AT: usize = 1 << 10;
/// Entries of [`Image::kinds`].
pub(super) const KINDS: usize = ETHER_TYPES_AT + (1 << 16);

/// Set in an entry of a trie that leads on; without it, the entry is a class.
pub(super) const ENTRY_NODE: u32 = 1 << 31;
/// Set in an entry that leads to a [`Chain`]; without it, to a block.
pub(super) const ENTRY_CHAIN: u32 = 1 << 30;
/// Where the position of the byte that a block looks at begins in an entry: four bits.
pub(super) const ENTRY_BYTE_SHIFT: u32 = 26;
/// The bits of an entry that number a block or chain.
pub(super) const ENTRY_NUMBER: u32 = (1 << ENTRY_BYTE_SHIFT) - 1;

/// The tables of a rule set. A field that no rule asks for has none.
#[derive(Clone, Debug)]
pub struct Image {
    /// Words of a vector, without its summary; at least one.
    pub words: usize,
    /// The vectors by class, each led by its summary: bit i of the summary is set if word i has a bit set.
    pub vectors: Vec<u64>,
    /// The rule of each bit of a vector, if that is not the bit's own number. In one word, a lower bit is an earlier rule.
    pub order: Option<Vec<u32>>,
    /// Classes by ethertype, protocol and fragmentation: `version << 9 | fragment << 8 | protocol` for IP packets, where
    /// version is 1 for IPv6; 1024 + ethertype for others, and for those that say they are IP and are not.
    pub kinds: Option<Vec<u16>>,
    /// Classes by VLAN identifier.
    pub vlans: Option<Vec<u16>>,
    /// Classes of source MAC addresses.
    pub src_macs: Option<MacTable>,
    /// Classes of destination MAC addresses.
    pub dst_macs: Option<MacTable>,
    /// Classes of source addresses.
    pub src: Option<Prefixes>,
    /// Classes of destination addresses, and of the addresses that ARP asks for.
    pub dst: Option<Prefixes>,
    /// The blocks of all tries: an entry for each value of one byte of the address.
    pub blocks: Vec<[u32; 256]>,
    /// The chains of all tries.
    pub chains: Vec<Chain>,
    /// Classes of source ports.
    pub src_ports: Option<PortTable>,
    /// Classes of destination ports.
    pub dst_ports: Option<PortTable>,
}

/// Classes of ports.
#[derive(Clone, Debug)]
pub struct PortTable {
    /// The class of each port.
    pub classes: Vec<u16>,
    /// The class of packets that show none.
    pub none: u16,
}

impl PortTable {
    pub(super) fn class(&self, port: Option<u16>) -> u16 {
        port.map_or(self.none, |port| self.classes[usize::from(port)])
    }
}

/// Classes of MAC addresses: a table of buckets of four slots, with a hash under which no bucket overflows.
#[derive(Clone, Debug)]
pub struct MacTable {
    /// The slots: an address as a number (the first byte highest) in bits 0 to 47, its class in bits 48 to 63; the class
    /// [`none`](Self::none) in a slot without an address.
    pub slots: Vec<[u64; 4]>,
    /// The bucket of an address is `(address * factor) >> shift`, as 64-bit numbers.
    pub factor: u64,
    /// See [`factor`](Self::factor).
    pub shift: u32,
    /// The class of addresses that are not in the table.
    pub none: u16,
}

impl MacTable {
    pub(super) fn class(&self, mac: [u8; 6]) -> u16 {
        let address = mac_number(mac);
        let bucket = self.slots[(address.wrapping_mul(self.factor) >> self.shift) as usize];
        bucket.iter().find(|&&slot| slot & MAC_BITS == address).map_or(self.none, |slot| (slot >> 48) as u16)
    }
}

pub(super) const MAC_BITS: u64 = (1 << 48) - 1;

pub(super) fn mac_number(mac: [u8; 6]) -> u64 {
    mac.iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// The tries of a field with addresses: the entry that each begins with. IPv4 addresses are looked up as IPv4-mapped ones,
/// in a trie of their own.
#[derive(Clone, Copy, Debug)]
pub struct Prefixes {
    /// For IPv4 addresses.
    pub v4: u32,
    /// For IPv6 addresses.
    pub v6: u32,
    /// For the addresses that ARP asks for.
    pub arp: u32,
    /// The class of packets without such an address.
    pub none: u16,
}

/// A way on in a trie that only addresses take which begin in one way. Words are in memory order, as the address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// What is left of the address when the mask is put on it.
    pub value: [u64; 2],
    /// Which bits of it count.
    pub mask: [u64; 2],
    /// The entry for addresses that begin so.
    pub hit: u32,
    /// The entry for all others.
    pub miss: u32,
}

impl Image {
    pub(super) fn vector(&self, class: u16) -> &[u64] {
        let stride = 1 + self.words;
        &self.vectors[usize::from(class) * stride..][..stride]
    }

    pub(super) fn address_class(&self, prefixes: &Prefixes, found: Found) -> u16 {
        match found {
            Found::Nothing => prefixes.none,
            Found::Ip(IpAddr::V4(address)) => self.walk(prefixes.v4, mapped(address)),
            Found::Ip(IpAddr::V6(address)) => self.walk(prefixes.v6, address.octets()),
            Found::Arp(address) => self.walk(prefixes.arp, mapped(address)),
        }
    }

    fn walk(&self, mut entry: u32, address: [u8; 16]) -> u16 {
        let words = address_words(address);
        while entry & ENTRY_NODE != 0 {
            let number = (entry & ENTRY_NUMBER) as usize;
            entry = if entry & ENTRY_CHAIN != 0 {
                let chain = &self.chains[number];
                let same = (0..2).all(|word| words[word] & chain.mask[word] == chain.value[word]);
                if same { chain.hit } else { chain.miss }
            } else {
                let byte = address[(entry >> ENTRY_BYTE_SHIFT & 15) as usize];
                self.blocks[number][usize::from(byte)]
            };
        }
        entry as u16
    }
}

pub(super) fn address_words(address: [u8; 16]) -> [u64; 2] {
    let bits = u128::from_be_bytes(address);
    [(bits >> 64) as u64, bits as u64].map(u64::to_be)
}

fn mapped(address: Ipv4Addr) -> [u8; 16] {
    address.to_ipv6_mapped().octets()
}

pub(super) fn ip_kind(is_ipv6: bool, fragment: bool, protocol: u8) -> usize {
    usize::from(is_ipv6) << 9 | usize::from(fragment) << 8 | usize::from(protocol)
}

/// The entry of [`Image::kinds`] for a packet.
pub(super) fn kind(head: &Head) -> usize {
    match (head.protocol, head.src) {
        (Some(protocol), Some(src)) => ip_kind(src.is_ipv6(), head.fragment, protocol),
        _ => ETHER_TYPES_AT + usize::from(head.ether_type),
    }
}
