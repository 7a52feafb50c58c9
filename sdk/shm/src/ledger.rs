use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Buffers, Descriptor};

/// What the manager remembers of a packet while a function holds it, out of the function's reach.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// Port on which the packet entered the chain.
    pub ingress: u8,
    /// Port to which the packet is bound; 0xff when none is chosen.
    pub egress: u8,
    /// Whether the packet runs the chain backwards.
    pub reverse: bool,
    /// Whether the packet's latency is measured.
    pub sampled: bool,
    /// Hops the packet has visited, up to [`Meta::MAX_HOPS`]: what ends a packet that functions send to and fro.
    pub hops: u8,
}

impl Meta {
    /// The largest number of hops that the ledger remembers.
    pub const MAX_HOPS: u8 = 63;
}

/// Why a descriptor was not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reject {
    /// The index names no buffer.
    #[error("the index names no buffer")]
    Index,
    /// The buffer is not held by that function on that worker: it returned it before, or never had it.
    #[error("the buffer is not held by this function on this worker")]
    Holder,
    /// The buffer was handed over anew since; the descriptor is old.
    #[error("the descriptor is of an earlier handing-over of the buffer")]
    Generation,
    /// The packet does not lie inside its buffer. **The buffer has been given back**: the caller has it again and must
    /// free it.
    #[error("the packet does not lie inside its buffer")]
    Bounds,
}

/// Who holds which buffer: the manager's private truth, against which everything a function returns is checked.
///
/// One word per buffer holds the generation, the holder, the worker and [`Meta`]. Holder 0 is the manager itself (or
/// the pool, or a port: whatever is not a function).
///
/// All accesses are relaxed. An entry has one writer at a time: while a function holds the buffer, the worker that gave
/// it and nobody else ([`take`](Self::take) on another worker only reads, finds a foreign worker and rejects); while the
/// holder is 0, the worker that has the buffer from the pool, and the pool orders the passing of a buffer between
/// workers. The packet's bytes are ordered by the rings, not by the ledger.
#[derive(Debug)]
pub struct Ledger {
    entries: Box<[AtomicU64]>,
}

/// The fields of an entry: generation 0..16, holder 16..32, worker 32..40, flags 40..42, hops 42..48, ingress 48..56,
/// egress 56..64.
mod entry {
    use super::Meta;

    const REVERSE: u64 = 1 << 40;
    const SAMPLED: u64 = 1 << 41;
    const HOPS_SHIFT: u32 = 42;
    /// The bits that name who holds the buffer.
    pub(super) const WHO: u64 = 0xff_ffff_0000;

    #[inline(always)]
    pub(super) fn who(holder: u16, worker: u8) -> u64 {
        (u64::from(holder) << 16) | (u64::from(worker) << 32)
    }

    #[inline(always)]
    pub(super) fn generation(entry: u64) -> u16 {
        entry as u16
    }

    #[inline(always)]
    pub(super) fn pack(generation: u16, who: u64, meta: Meta) -> u64 {
        u64::from(generation)
            | who
            | if meta.reverse { REVERSE } else { 0 }
            | if meta.sampled { SAMPLED } else { 0 }
            | (u64::from(meta.hops.min(Meta::MAX_HOPS)) << HOPS_SHIFT)
            | (u64::from(meta.ingress) << 48)
            | (u64::from(meta.egress) << 56)
    }

    #[inline(always)]
    pub(super) fn meta(entry: u64) -> Meta {
        Meta {
            ingress: (entry >> 48) as u8,
            egress: (entry >> 56) as u8,
            reverse: entry & REVERSE != 0,
            sampled: entry & SAMPLED != 0,
            hops: (entry >> HOPS_SHIFT) as u8 & Meta::MAX_HOPS,
        }
    }
}

impl Ledger {
    /// A ledger of `count` buffers, none of them held.
    pub fn new(count: u32) -> Self {
        Ledger { entries: (0..count).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Buffers in the ledger.
    pub fn count(&self) -> u32 {
        self.entries.len() as u32
    }

    /// Hands buffer `index` to `holder` (not 0) on `worker`, and returns the generation to put in its descriptor.
    ///
    /// The caller has the buffer. An index out of range changes nothing, and the descriptor will be rejected.
    #[inline]
    pub fn give(&self, index: u32, holder: u16, worker: u8, meta: Meta) -> u16 {
        debug_assert!(holder != 0, "0 is the manager");
        let Some(entry) = self.entries.get(index as usize) else { return 0 };
        let old = entry.load(Ordering::Relaxed);
        debug_assert!(old & entry::who(u16::MAX, 0) == 0, "buffer {index} is held already");
        let generation = entry::generation(old).wrapping_add(1);
        entry.store(entry::pack(generation, entry::who(holder, worker), meta), Ordering::Relaxed);
        generation
    }

    /// Takes back the buffer that `d` names from `holder` on `worker`; after `Ok` nobody holds it.
    ///
    /// # Errors
    /// [`Reject`]. After [`Reject::Bounds`] the buffer is the caller's as after `Ok`, only the packet is unusable. After any
    /// other the ledger is unchanged, and the buffer is wherever it was.
    #[inline]
    pub fn take(&self, d: &Descriptor, holder: u16, worker: u8, buffers: &Buffers) -> Result<Meta, Reject> {
        let Some(entry) = self.entries.get(d.index as usize) else { return Err(Reject::Index) };
        let found = entry.load(Ordering::Relaxed);
        if found & entry::WHO != entry::who(holder, worker) || holder == 0 {
            return Err(Reject::Holder);
        }
        if entry::generation(found) != d.generation {
            return Err(Reject::Generation);
        }
        entry.store(u64::from(entry::generation(found)), Ordering::Relaxed);
        if !buffers.fits(d) {
            return Err(Reject::Bounds);
        }
        Ok(entry::meta(found))
    }

    /// Buffers that `holder` holds on `worker`, by a scan of the ledger.
    pub fn held_by(&self, holder: u16, worker: u8) -> u32 {
        let who = entry::who(holder, worker);
        self.entries.iter().filter(|e| e.load(Ordering::Relaxed) & entry::WHO == who).count() as u32
    }

    /// Takes back all that `holder` (not 0) held on `worker`, and calls `f` with each buffer's index.
    ///
    /// For a function that has died; call it on that worker, which is the entries' only writer.
    pub fn reclaim(&self, holder: u16, worker: u8, mut f: impl FnMut(u32)) {
        if holder == 0 {
            return;
        }
        let who = entry::who(holder, worker);
        for (index, entry) in self.entries.iter().enumerate() {
            let found = entry.load(Ordering::Relaxed);
            if found & entry::WHO == who {
                entry.store(u64::from(entry::generation(found)), Ordering::Relaxed);
                f(index as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests;
