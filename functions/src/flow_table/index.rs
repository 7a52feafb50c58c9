//! From hash to slot.

use super::Seed;

/// Cells that a search visits at most. At half load a run this long does not happen by chance.
const MAX_PROBES: usize = 128;

/// Open addressing with linear probing. A cell holds the hash and the slot, so a search reads the entry itself only when all
/// 32 bits of the hash agree; eight cells share a cache line.
#[derive(Debug)]
pub(crate) struct Index {
    /// Hash in the upper half, slot + 1 in the lower; 0 is empty. Twice as many cells as slots at least.
    cells: Vec<u64>,
    seed: Seed,
}

impl Index {
    /// For `capacity` slots.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { cells: vec![0; (capacity.max(8) * 2).next_power_of_two()], seed: Seed::random() }
    }

    /// The secret hash.
    #[inline]
    pub(crate) fn seed(&self) -> &Seed {
        &self.seed
    }

    /// The slot under this hash that `is` accepts.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is: impl FnMut(u32) -> bool) -> Option<u32> {
        let mask = self.cells.len() - 1;
        for i in 0..MAX_PROBES {
            let cell = *self.cells.get((hash as usize + i) & mask)?;
            if cell == 0 {
                return None;
            }
            if (cell >> 32) as u32 == hash && is(cell as u32 - 1) {
                return Some(cell as u32 - 1);
            }
        }
        None
    }

    /// Adds a slot; false when too many hashes share the place (only by a collision attack, or when overfull).
    pub(crate) fn insert(&mut self, hash: u32, slot: u32) -> bool {
        let mask = self.cells.len() - 1;
        for i in 0..MAX_PROBES {
            let cell = &mut self.cells[(hash as usize + i) & mask];
            if *cell == 0 {
                *cell = u64::from(hash) << 32 | (u64::from(slot) + 1);
                return true;
            }
        }
        false
    }

    /// Removes a slot, and moves later cells up so that no search meets a gap.
    pub(crate) fn remove(&mut self, hash: u32, slot: u32) {
        let mask = self.cells.len() - 1;
        let wanted = u64::from(hash) << 32 | (u64::from(slot) + 1);
        let Some(i) = (0..MAX_PROBES).find(|i| self.cells[(hash as usize + i) & mask] == wanted) else { return };
        let mut gap = (hash as usize + i) & mask;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let cell = self.cells[at];
            if cell == 0 {
                break;
            }
            let home = (cell >> 32) as usize & mask;
            // The cell may fill the gap unless its home lies between gap (excluded) and its place.
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(gap) & mask {
                self.cells[gap] = cell;
                gap = at;
            }
        }
        self.cells[gap] = 0;
    }
}
