//! Where a ring lies: the layout of `struct rte_ring` in a region.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use zerocopy::transmute;

use super::index::{End, Slots};
use super::{Consumer, Producer};
use crate::{Descriptor, Region, ShmError};

/// Offsets in `struct rte_ring`, x86-64 and every 64-byte-line target, DPDK 22.11 and 24.11.
mod layout {
    pub(super) const NAME_BYTES: usize = 29;
    pub(super) const FLAGS: usize = 32;
    pub(super) const SIZE: usize = 48;
    pub(super) const MASK: usize = 52;
    pub(super) const CAPACITY: usize = 56;
    pub(super) const PRODUCER: usize = 128;
    pub(super) const CONSUMER: usize = 256;
    /// Offset in `struct rte_ring_headtail`.
    pub(super) const TAIL: usize = 4;
    pub(super) const SYNC_TYPE: usize = 8;
    pub(super) const HEADER_BYTES: usize = 384;
    /// `RING_F_SP_ENQ | RING_F_SC_DEQ`.
    pub(super) const SP_SC: u32 = 3;
    /// `RTE_RING_SYNC_ST`.
    pub(super) const SINGLE: u32 = 1;
    pub(super) const ALIGN: usize = 64;
}

const DESCRIPTOR_BYTES: usize = size_of::<Descriptor>();

/// A place for a ring in a region.
#[derive(Clone, Debug)]
pub struct RingArea {
    region: Arc<Region>,
    base: *mut u8,
    slots: u32,
}

// SAFETY: the pointer is into `region`, which the Arc keeps alive; everything behind it is accessed atomically.
unsafe impl Send for RingArea {}
// SAFETY: as for Send.
unsafe impl Sync for RingArea {}

impl RingArea {
    /// Bytes that a ring of `slots` slots takes.
    pub const fn bytes(slots: u32) -> usize {
        layout::HEADER_BYTES + slots as usize * DESCRIPTOR_BYTES
    }

    /// The place at `offset` bytes in `region` for a ring of `slots` slots. It holds one descriptor less.
    ///
    /// # Errors
    /// [`ShmError::Slots`] unless `slots` is a power of two from 2 to 2^20; [`ShmError::Place`] when it does not fit or
    /// is not aligned to 64 bytes.
    pub fn new(region: Arc<Region>, offset: usize, slots: u32) -> Result<Self, ShmError> {
        if !slots.is_power_of_two() || !(2..=1 << 20).contains(&slots) {
            return Err(ShmError::Slots(slots));
        }
        let base = region.check(offset, Self::bytes(slots), layout::ALIGN)?;
        Ok(RingArea { region, base, slots })
    }

    /// Slots of the ring.
    pub fn slots(&self) -> u32 {
        self.slots
    }

    /// Writes the header of an empty ring, as `rte_ring_init` would with `RING_F_SP_ENQ | RING_F_SC_DEQ`.
    ///
    /// Both ends must be made after this. `name` is cut at 28 bytes.
    pub fn init(&self, name: &str) {
        let mut header = [0u8; layout::HEADER_BYTES];
        let name_bytes = name.len().min(layout::NAME_BYTES - 1);
        header[..name_bytes].copy_from_slice(&name.as_bytes()[..name_bytes]);
        let mut put = |at: usize, value: u32| header[at..at + 4].copy_from_slice(&value.to_le_bytes());
        put(layout::FLAGS, layout::SP_SC);
        put(layout::SIZE, self.slots);
        put(layout::MASK, self.slots - 1);
        put(layout::CAPACITY, self.slots - 1);
        put(layout::PRODUCER + layout::SYNC_TYPE, layout::SINGLE);
        put(layout::CONSUMER + layout::SYNC_TYPE, layout::SINGLE);
        let mapped = self.mapped();
        for (i, word) in header.chunks_exact(4).enumerate() {
            let value = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
            mapped.word(i * 4).store(value, Ordering::Release);
        }
    }

    /// The writing end of a ring that [`init`](Self::init) has emptied, and to which nobody has written.
    pub fn producer(&self) -> Producer {
        Producer::new(self, 0)
    }

    /// The reading end of a ring that [`init`](Self::init) has emptied, and from which nobody has read.
    pub fn consumer(&self) -> Consumer {
        Consumer::new(self, 0)
    }

    /// The writing end, going on where the last writer published that it was: for the side that trusts the ring's maker.
    pub fn producer_here(&self) -> Producer {
        Producer::new(self, self.mapped().tail(End::Producer).load(Ordering::Acquire))
    }

    /// The reading end, going on where the last reader published that it was: for the side that trusts the ring's maker.
    pub fn consumer_here(&self) -> Consumer {
        Consumer::new(self, self.mapped().tail(End::Consumer).load(Ordering::Acquire))
    }

    #[cfg(test)]
    pub(super) fn base(&self) -> *mut u8 {
        self.base
    }

    pub(super) fn mapped(&self) -> Mapped {
        Mapped { base: self.base, slots: self.slots as usize, _region: self.region.clone() }
    }
}

/// A ring in mapped memory.
#[derive(Debug)]
pub(super) struct Mapped {
    /// Start of `struct rte_ring`; checked to be aligned and to have `RingArea::bytes(slots)` bytes.
    base: *mut u8,
    slots: usize,
    _region: Arc<Region>,
}

// SAFETY: the pointer is into the region, which the Arc keeps alive; everything behind it is accessed atomically.
unsafe impl Send for Mapped {}

impl Mapped {
    #[inline(always)]
    fn word(&self, at: usize) -> &AtomicU32 {
        debug_assert!(at + 4 <= layout::HEADER_BYTES && at.is_multiple_of(4));
        // SAFETY: callers pass offsets inside the header, which RingArea::new found inside the region and aligned.
        unsafe { AtomicU32::from_ptr(self.base.add(at).cast()) }
    }

    /// `n` slots from `at` on, each as two words. A peer that breaks the protocol may write while we read; relaxed
    /// atomics make that a torn descriptor and nothing worse, and compile to plain moves.
    #[inline(always)]
    fn slots(&self, at: usize, n: usize) -> &[[AtomicU64; 2]] {
        debug_assert!(at + n <= self.slots);
        // SAFETY: callers keep `at + n` within the slots (debug-asserted here, computed from the private mask in
        // `index.rs`), which RingArea::new found inside the region; 16-byte slots after a 384-byte header that starts
        // at a multiple of 64 are aligned to 8.
        unsafe {
            let first = self.base.add(layout::HEADER_BYTES + at * DESCRIPTOR_BYTES);
            std::slice::from_raw_parts(first.cast(), n)
        }
    }

    #[inline(always)]
    fn headtail(end: End) -> usize {
        match end {
            End::Producer => layout::PRODUCER,
            End::Consumer => layout::CONSUMER,
        }
    }
}

impl Slots for Mapped {
    type Index = AtomicU32;

    #[inline(always)]
    fn tail(&self, end: End) -> &AtomicU32 {
        self.word(Self::headtail(end) + layout::TAIL)
    }

    #[inline(always)]
    fn head(&self, end: End) -> &AtomicU32 {
        self.word(Self::headtail(end))
    }

    #[inline(always)]
    fn write(&self, at: usize, from: &[Descriptor]) {
        for (slot, descriptor) in self.slots(at, from.len()).iter().zip(from) {
            let words: [u64; 2] = transmute!(*descriptor);
            slot[0].store(words[0], Ordering::Relaxed);
            slot[1].store(words[1], Ordering::Relaxed);
        }
    }

    #[inline(always)]
    fn read(&self, at: usize, to: &mut [Descriptor]) {
        for (slot, descriptor) in self.slots(at, to.len()).iter().zip(to) {
            *descriptor = transmute!([slot[0].load(Ordering::Relaxed), slot[1].load(Ordering::Relaxed)]);
        }
    }
}
