//! Bounded tables of flows, as the stateful functions keep them.
//!
//! A [`FlowTable`] takes all its memory when it is made and never again. It finds an entry through an open-addressing
//! [`Index`] under a secret seed, forgets entries when their time is up (a look-up ignores an expired entry at once, and
//! [`FlowTable::sweep`] reclaims it later, some slots per call), and, when it is full, gives up the oldest *unanswered*
//! flow before it refuses a new one: answered flows are never pushed out, so a flood of first packets cannot end
//! conversations.

mod fragments;
mod icmp;
mod index;
mod key;
mod probe;
mod progress;
mod slab;
#[cfg(test)]
mod tests;

pub(crate) use fragments::FragmentTable;
pub(crate) use icmp::Icmp;
pub(crate) use index::Index;
pub(crate) use key::{Key, Seed};
pub(crate) use probe::{Class, Probe};
pub(crate) use progress::Progress;
pub(crate) use slab::Slab;

#[cfg(feature = "ndpi")]
use std::ops::ControlFlow;

/// No slot: the end of a list.
const NONE: u32 = u32::MAX;
/// Slots that an insertion into a full table looks at for an expired entry.
const FULL_SCAN: usize = 16;
/// Slots that one call of [`FlowTable::sweep`] looks at, so that a tick of a large table stays within tens of microseconds.
pub(crate) const SWEEP_SLOTS: usize = 4096;

/// One flow: its key, when it ends, and what the function keeps of it.
#[derive(Debug)]
pub(crate) struct Entry<V> {
    key: Key,
    /// When the entry ends, in nanoseconds of the burst's clock.
    pub(crate) expires_ns: u64,
    /// Neighbours in the list of unanswered flows, oldest first.
    older: u32,
    newer: u32,
    unanswered: bool,
    /// What the function keeps.
    pub(crate) value: V,
}

/// Flows by key, with an end for each. See the module's documentation.
#[derive(Debug)]
pub(crate) struct FlowTable<V> {
    index: Index,
    slab: Slab<Entry<V>>,
    oldest: u32,
    newest: u32,
    unanswered: usize,
    evicted: u64,
}

impl<V> Entry<V> {
    /// What it is found by.
    #[inline]
    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    /// Whether the flow may be given up for a newer one.
    #[inline]
    pub(crate) fn is_unanswered(&self) -> bool {
        self.unanswered
    }
}

impl<V> FlowTable<V> {
    /// A table for `capacity` flows.
    pub(crate) fn new(capacity: usize) -> Self {
        let (index, slab) = (Index::new(capacity), Slab::new(capacity));
        Self { index, slab, oldest: NONE, newest: NONE, unanswered: 0, evicted: 0 }
    }

    /// Flows now, those included whose time is up but that no sweep has met yet.
    pub(crate) fn len(&self) -> usize {
        self.slab.len()
    }

    /// Flows that fit.
    pub(crate) fn capacity(&self) -> usize {
        self.slab.capacity()
    }

    /// Flows marked unanswered.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Unanswered flows given up so far to make room.
    pub(crate) fn evicted(&self) -> u64 {
        self.evicted
    }

    /// The slot of a flow that has not ended.
    #[inline]
    pub(crate) fn find(&self, hash: u32, key: &Key, now_ns: u64) -> Option<u32> {
        let slot = self.index.find(hash, |slot| self.slab.get(slot).is_some_and(|entry| entry.key == *key))?;
        self.slab.get(slot).filter(|entry| entry.expires_ns > now_ns).map(|_| slot)
    }

    /// The slot where a flow seems to be: for passes that bring entries into the cache for [`FlowTable::at_mut`].
    #[inline]
    pub(crate) fn seek(&self, hash: u32, key: &Key) -> u32 {
        let is = |slot| self.slab.get(slot).is_some_and(|entry: &Entry<V>| entry.key == *key);
        self.index.find(hash, is).unwrap_or(NONE)
    }

    /// The entry in a slot that [`FlowTable::seek`] found, if the flow is still there and has not ended.
    #[inline]
    pub(crate) fn at_mut(&mut self, slot: u32, key: &Key, now_ns: u64) -> Option<&mut Entry<V>> {
        self.slab.get_mut(slot).filter(|entry| entry.expires_ns > now_ns && entry.key == *key)
    }

    /// The entry in a slot.
    #[inline]
    pub(crate) fn get(&self, slot: u32) -> Option<&Entry<V>> {
        self.slab.get(slot)
    }

    /// The entry in a slot, to change.
    #[inline]
    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry<V>> {
        self.slab.get_mut(slot)
    }

    /// Adds a flow in place of one with the same key. `unanswered`: it may be given up for a newer one.
    /// `None` when the table is full of answered flows.
    pub(crate) fn insert(
        &mut self,
        hash: u32,
        key: Key,
        value: V,
        expires_ns: u64,
        now_ns: u64,
        unanswered: bool,
    ) -> Option<u32> {
        let same = self.index.find(hash, |slot| self.slab.get(slot).is_some_and(|entry| entry.key == key));
        if let Some(slot) = same {
            self.remove(slot);
        }
        if self.slab.is_full() {
            self.reclaim(FULL_SCAN, now_ns, |_| {});
        }
        if self.slab.is_full() {
            self.evict_unanswered();
        }
        let slot = self.slab.insert(Entry { key, expires_ns, older: NONE, newer: NONE, unanswered: false, value })?;
        if !self.index.insert(hash, slot) {
            self.slab.remove(slot);
            return None;
        }
        if unanswered {
            self.link(slot);
        }
        Some(slot)
    }

    /// Removes the flow in a slot.
    pub(crate) fn remove(&mut self, slot: u32) -> Option<V> {
        let hash = self.index.seed().hash(&self.slab.get(slot)?.key);
        self.answered(slot);
        self.index.remove(hash, slot);
        self.slab.remove(slot).map(|entry| entry.value)
    }

    /// Marks a flow answered: from here on it is kept until its time is up.
    #[inline]
    pub(crate) fn answered(&mut self, slot: u32) {
        let Some(entry) = self.slab.get_mut(slot).filter(|entry| entry.unanswered) else { return };
        let (older, newer) = (entry.older, entry.newer);
        (entry.unanswered, entry.older, entry.newer) = (false, NONE, NONE);
        match self.slab.get_mut(older) {
            Some(entry) => entry.newer = newer,
            None => self.oldest = newer,
        }
        match self.slab.get_mut(newer) {
            Some(entry) => entry.older = older,
            None => self.newest = older,
        }
        self.unanswered -= 1;
    }

    /// Makes an unanswered flow the newest of them: where each use does this, the least recently used goes first.
    #[inline]
    pub(crate) fn renew(&mut self, slot: u32) {
        if slot != self.newest && self.slab.get(slot).is_some_and(|entry| entry.unanswered) {
            self.answered(slot);
            self.link(slot);
        }
    }

    /// The oldest unanswered flow, which is the next to be given up.
    pub(crate) fn oldest_unanswered(&self) -> Option<u32> {
        self.slab.get(self.oldest).map(|_| self.oldest)
    }

    /// Whether the next flow needs the room of another.
    pub(crate) fn is_full(&self) -> bool {
        self.slab.is_full()
    }

    /// Slots that have ever been taken.
    pub(crate) fn high_water(&self) -> usize {
        self.slab.high_water()
    }

    /// The next slot of an endless walk over those that have ever been taken.
    pub(crate) fn next_slot(&mut self) -> u32 {
        self.slab.next_slot()
    }

    /// All flows and their slots.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (u32, &Entry<V>)> {
        (0..self.slab.high_water() as u32).filter_map(|slot| Some((slot, self.slab.get(slot)?)))
    }

    /// Gives up the oldest unanswered flow; whether there was one.
    pub(crate) fn evict_unanswered(&mut self) -> bool {
        let slot = self.oldest;
        let evicted = self.remove(slot).is_some();
        self.evicted += u64::from(evicted);
        evicted
    }

    /// Reclaims flows whose time is up among the next [`SWEEP_SLOTS`] slots. `ended` is told each one.
    pub(crate) fn sweep(&mut self, now_ns: u64, ended: impl FnMut(&V)) {
        self.reclaim(SWEEP_SLOTS, now_ns, ended);
    }

    /// The same, but a flow for which `keep` names a later end stays until then. After a break the next call goes on behind that flow.
    #[cfg(feature = "ndpi")]
    pub(crate) fn sweep_unless(
        &mut self,
        now_ns: u64,
        mut keep: impl FnMut(&Key, &mut V) -> ControlFlow<Option<u64>, Option<u64>>,
    ) {
        for _ in 0..SWEEP_SLOTS.min(self.slab.high_water()) {
            let slot = self.slab.next_slot();
            let Some(entry) = self.slab.get_mut(slot).filter(|entry| entry.expires_ns <= now_ns) else { continue };
            let fate = keep(&entry.key, &mut entry.value);
            let (ControlFlow::Break(end) | ControlFlow::Continue(end)) = fate;
            match end {
                Some(later_ns) => entry.expires_ns = later_ns,
                None => drop(self.remove(slot)),
            }
            if fate.is_break() {
                return;
            }
        }
    }

    fn reclaim(&mut self, slots: usize, now_ns: u64, mut ended: impl FnMut(&V)) {
        for _ in 0..slots.min(self.slab.high_water()) {
            let slot = self.slab.next_slot();
            if self.slab.get(slot).is_some_and(|entry| entry.expires_ns <= now_ns)
                && let Some(value) = self.remove(slot)
            {
                ended(&value);
            }
        }
    }

    /// Takes over the flows of another table: all of them when the sizes agree, else as many as fit. Not for the hot path.
    pub(crate) fn take_over(&mut self, mut other: Self, now_ns: u64) {
        if other.capacity() == self.capacity() {
            *self = other;
            return;
        }
        let hasher = self.index.seed().clone();
        for slot in 0..other.slab.high_water() as u32 {
            if let Some(entry) = other.slab.remove(slot) {
                let hash = hasher.hash(&entry.key);
                let Entry { key, value, expires_ns, unanswered, .. } = entry;
                self.insert(hash, key, value, expires_ns, now_ns, unanswered);
            }
        }
    }

    /// The secret hash of this table.
    #[inline]
    pub(crate) fn seed(&self) -> &Seed {
        self.index.seed()
    }

    fn link(&mut self, slot: u32) {
        let older = self.newest;
        let Some(entry) = self.slab.get_mut(slot) else { return };
        (entry.unanswered, entry.older, entry.newer) = (true, older, NONE);
        match self.slab.get_mut(older) {
            Some(entry) => entry.newer = slot,
            None => self.oldest = slot,
        }
        self.newest = slot;
        self.unanswered += 1;
    }
}
