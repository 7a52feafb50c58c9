//! Consistent hashing: a table of slots, each owned by the upstream that draws the best score for it.
//!
//! This is weighted rendezvous hashing (Thaler and Ravishankar 1998; Schindelhauer and Schomaker 2005), worked out for a fixed
//! number of slots beforehand: a pick is one look-up. Whoever leaves the list gives up its own slots and no other changes hands,
//! which neither a modulus nor Maglev's table promises.

use super::random::{hash, mix};

/// Slots. The number never changes: if it did, every key could move. With 10 upstreams, shares differ by 2 % or so.
const SLOTS: usize = 1 << 15;

/// Owners of slots.
pub(super) struct Slots(Box<[u8]>);

impl Slots {
    /// For upstreams of these names and weights, at most 256; their order does not matter.
    pub(super) fn new(names: &[&str], weights: &[u32]) -> Self {
        let seeds: Vec<u64> = names.iter().map(|name| hash(name.as_bytes())).collect();
        let equal = weights.windows(2).all(|pair| pair[0] == pair[1]);
        let owner = |slot: u64| {
            let draw = |at: usize| mix(seeds[at] ^ mix(slot + 1));
            let owner = if equal {
                (0..seeds.len()).max_by_key(|&at| draw(at))
            } else {
                // The smallest of exponential variables, each with its weight for a rate.
                let score = |at: usize| {
                    let uniform = ((draw(at) >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
                    -uniform.ln() / f64::from(weights[at])
                };
                (0..seeds.len()).min_by(|&a, &b| score(a).total_cmp(&score(b)))
            };
            owner.unwrap_or(0) as u8
        };
        Self((0..SLOTS as u64).map(owner).collect())
    }

    /// The owner of a key; with `step` above zero, who takes it when the earlier ones may not.
    #[inline]
    pub(super) fn pick(&self, key: u64, step: u64) -> usize {
        let place = if step == 0 { key } else { mix(key.wrapping_add(step)) };
        usize::from(self.0[place as usize % SLOTS])
    }
}
