//! MAC addresses: few among very many, so a hash.

use super::classes::{Bits, Classes};
use super::image::{MAC_BITS, MacTable, mac_number};
use super::{CompileError, base};
use std::collections::BTreeMap;

/// Slots of a bucket.
const SLOTS: usize = 4;
/// Factors tried before the table is doubled.
const TRIES: u64 = 16;
/// From the golden ratio; its odd multiples are the factors.
const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

pub(super) fn compile<'a>(
    wanted: impl Iterator<Item = &'a [[u8; 6]]>,
    classes: &mut Classes,
) -> Result<Option<MacTable>, CompileError> {
    let wanted: Vec<&[[u8; 6]]> = wanted.collect();
    if wanted.iter().all(|macs| macs.is_empty()) {
        return Ok(None);
    }
    let base = base(classes, wanted.iter().map(|macs| !macs.is_empty()));
    let none = classes.class(&base)?;
    let mut known: BTreeMap<u64, Bits> = BTreeMap::new();
    for (rule, macs) in wanted.iter().enumerate() {
        for &mac in *macs {
            classes.set(known.entry(mac_number(mac)).or_insert_with(|| base.clone()), rule);
        }
    }
    let mut slots = Vec::with_capacity(known.len());
    for (address, bits) in known {
        slots.push(address | u64::from(classes.class(&bits)?) << 48);
    }
    Ok(Some(place(&slots, none)))
}

fn place(addresses: &[u64], none: u16) -> MacTable {
    let mut bits = addresses.len().next_power_of_two().trailing_zeros().max(1);
    loop {
        let tables = (0..TRIES).map(|round| FACTOR.wrapping_mul(2 * round + 1));
        if let Some(table) = tables.into_iter().find_map(|factor| try_place(addresses, none, factor, bits)) {
            return table;
        }
        bits += 1;
    }
}

fn try_place(addresses: &[u64], none: u16, factor: u64, bits: u32) -> Option<MacTable> {
    let shift = 64 - bits;
    // An empty slot stands for the address zero, with the class of addresses that are not there. Where zero is there, it comes
    // before them: addresses are sorted, and the first slot that fits counts.
    let mut slots = vec![[u64::from(none) << 48; SLOTS]; 1 << bits];
    let mut used = vec![0_usize; slots.len()];
    for &address in addresses {
        let bucket = ((address & MAC_BITS).wrapping_mul(factor) >> shift) as usize;
        *slots[bucket].get_mut(used[bucket])? = address;
        used[bucket] += 1;
    }
    Some(MacTable { slots, factor, shift, none })
}
