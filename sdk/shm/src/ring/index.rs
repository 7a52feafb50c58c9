//! The algorithm of the ring, over any memory: the mapped region in use, loom's in the model test.

use std::sync::atomic::Ordering;

use crate::Descriptor;
use crate::atomic::Atomic32;

/// An end of the ring, which publishes one index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Producer,
    Consumer,
}

/// The shared memory of one ring as the algorithm sees it.
pub(super) trait Slots {
    type Index: Atomic32;
    /// The index that `end` publishes for its peer (`tail` of `rte_ring_headtail`).
    fn tail(&self, end: End) -> &Self::Index;
    /// Where `rte_ring` keeps the index of `end` for itself (`head`).
    fn head(&self, end: End) -> &Self::Index;
    /// Copies `from` to the slots from `at` on; `at + from.len()` does not exceed the number of slots.
    fn write(&self, at: usize, from: &[Descriptor]);
    /// Copies the slots from `at` on to `to`; `at + to.len()` does not exceed the number of slots.
    fn read(&self, at: usize, to: &mut [Descriptor]);
}

/// What an end knows by itself. Indexes run over all of u32 and are masked on use, as in `rte_ring`.
#[derive(Debug)]
struct Known {
    /// Slots minus one; also the capacity.
    mask: u32,
    /// Our index.
    own: u32,
    /// The peer's index when we last looked and it made sense.
    peer: u32,
    garbled: u64,
}

impl Known {
    fn new(slots: u32, own: u32, peer: u32) -> Self {
        debug_assert!(slots.is_power_of_two() && slots >= 2);
        Known { mask: slots - 1, own, peer, garbled: 0 }
    }

    /// Slot of our index, and how many of `n` fit before the end of the slots.
    #[inline(always)]
    fn split(&self, n: usize) -> (usize, usize) {
        let at = (self.own & self.mask) as usize;
        (at, n.min(self.mask as usize + 1 - at))
    }

    /// Moves our index on by `n` slots, and shows the peer.
    #[inline(always)]
    fn advance(&mut self, n: usize, slots: &impl Slots, end: End) {
        self.own = self.own.wrapping_add(n as u32);
        // Of no use to us: a C program that takes this end over goes on from here.
        slots.head(end).store(self.own, Ordering::Relaxed);
        // Release: what we did to the slots comes first. Pairs with the acquire of the other end.
        slots.tail(end).store(self.own, Ordering::Release);
    }
}

/// The producer's half of the algorithm.
#[derive(Debug)]
pub(super) struct Writer<S> {
    slots: S,
    known: Known,
}

impl<S: Slots> Writer<S> {
    pub(super) fn new(slots: S, count: u32, own: u32) -> Self {
        // Until the reader's index is read, the ring counts as full.
        let known = Known::new(count, own, own.wrapping_sub(count - 1));
        Writer { slots, known }
    }

    #[inline(always)]
    pub(super) fn enqueue(&mut self, from: &[Descriptor]) -> usize {
        let mut free = self.free_as_known();
        if free < from.len() {
            free = self.free();
        }
        let n = from.len().min(free);
        if n == 0 {
            return 0;
        }
        let (at, first) = self.known.split(n);
        self.slots.write(at, &from[..first]);
        if first < n {
            self.slots.write(0, &from[first..n]);
        }
        self.known.advance(n, &self.slots, End::Producer);
        n
    }

    /// Reads the reader's index, and returns the free slots; none when the index is out of range.
    #[inline(always)]
    pub(super) fn free(&mut self) -> usize {
        let peer = self.slots.tail(End::Consumer).load(Ordering::Acquire);
        if self.known.own.wrapping_sub(peer) > self.known.mask {
            self.known.garbled += 1;
            return 0;
        }
        self.known.peer = peer;
        self.free_as_known()
    }

    #[inline(always)]
    fn free_as_known(&self) -> usize {
        (self.known.mask - self.known.own.wrapping_sub(self.known.peer)) as usize
    }

    #[inline(always)]
    pub(super) fn capacity(&self) -> usize {
        self.known.mask as usize
    }

    pub(super) fn garbled(&self) -> u64 {
        self.known.garbled
    }
}

/// The consumer's half of the algorithm.
#[derive(Debug)]
pub(super) struct Reader<S> {
    slots: S,
    known: Known,
}

impl<S: Slots> Reader<S> {
    pub(super) fn new(slots: S, count: u32, own: u32) -> Self {
        // Until the writer's index is read, the ring counts as empty.
        Reader { slots, known: Known::new(count, own, own) }
    }

    #[inline(always)]
    pub(super) fn dequeue(&mut self, to: &mut [Descriptor]) -> usize {
        let mut available = self.available_as_known();
        if available < to.len() {
            available = self.available();
        }
        let n = to.len().min(available);
        if n == 0 {
            return 0;
        }
        let (at, first) = self.known.split(n);
        self.slots.read(at, &mut to[..first]);
        if first < n {
            self.slots.read(0, &mut to[first..n]);
        }
        self.known.advance(n, &self.slots, End::Consumer);
        n
    }

    /// Reads the writer's index, and returns the descriptors waiting; none when the index is out of range.
    #[inline(always)]
    pub(super) fn available(&mut self) -> usize {
        let peer = self.slots.tail(End::Producer).load(Ordering::Acquire);
        if peer.wrapping_sub(self.known.own) > self.known.mask {
            self.known.garbled += 1;
            return 0;
        }
        self.known.peer = peer;
        self.available_as_known()
    }

    #[inline(always)]
    fn available_as_known(&self) -> usize {
        self.known.peer.wrapping_sub(self.known.own) as usize
    }

    #[inline(always)]
    pub(super) fn capacity(&self) -> usize {
        self.known.mask as usize
    }

    pub(super) fn garbled(&self) -> u64 {
        self.known.garbled
    }
}
