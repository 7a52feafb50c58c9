//! Which slot of a service a client's connection gets.

use std::net::IpAddr;

use crate::octets;

/// The slot, from 0 to below `count`, by a hash of the source; `fast_slot` in `fast_path.h` selects the same.
pub fn slot_of(src: IpAddr, src_port: u16, count: u32) -> u32 {
    let octets = octets(src);
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| octets[at + i]));
    let mut hash = word(0).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ word(8);
    hash = mix(hash);
    hash = mix(hash ^ u64::from(src_port).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    (((hash >> 32) * u64::from(count)) >> 32) as u32
}

/// The finish of MurmurHash3: each bit of the result depends on each of the argument.
fn mix(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ hash >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_spread_evenly() {
        let mut slots = [0_u32; 10];
        for client in 0..100 {
            for port in 1000..1100 {
                slots[slot_of(IpAddr::V4((0x0a00_0000 + client).into()), port, 10) as usize] += 1;
            }
        }
        assert!(slots.iter().all(|&n| (850..1150).contains(&n)), "{slots:?}");
    }
}
