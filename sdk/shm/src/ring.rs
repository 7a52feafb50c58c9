//! The single-producer, single-consumer ring of descriptors.
//!
//! Memory layout and algorithm are those of DPDK's `rte_ring` in SP/SC mode with 16-byte elements
//! (`rte_ring_core.h`, `rte_ring_elem.h`; the same in 22.11 and 24.11), so the other side may be a C program that uses
//! `rte_ring_sp_enqueue_burst_elem` and `rte_ring_sc_dequeue_burst_elem`.

mod index;
mod place;
#[cfg(test)]
mod tests;

use crate::Descriptor;
use index::{Reader, Writer};
use place::Mapped;
pub use place::RingArea;

/// The writing end of a ring. There is one per ring.
#[derive(Debug)]
pub struct Producer(Writer<Mapped>);

impl Producer {
    pub(crate) fn new(area: &RingArea, own: u32) -> Self {
        Producer(Writer::new(area.mapped(), area.slots(), own))
    }

    /// Puts as many of `descriptors` as fit, in order, and returns how many.
    #[inline]
    pub fn enqueue(&mut self, descriptors: &[Descriptor]) -> usize {
        self.0.enqueue(descriptors)
    }

    /// Free slots, from the reader's index as it is now.
    #[inline]
    pub fn free(&mut self) -> usize {
        self.0.free()
    }

    /// Used slots, from the reader's index as it is now.
    #[inline]
    pub fn used(&mut self) -> usize {
        self.capacity() - self.free()
    }

    /// Descriptors that fit an empty ring: one less than its slots.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// How often the reader's index was out of range. Only a reader that breaks the protocol causes it.
    pub fn garbled(&self) -> u64 {
        self.0.garbled()
    }
}

/// The reading end of a ring. There is one per ring.
#[derive(Debug)]
pub struct Consumer(Reader<Mapped>);

impl Consumer {
    pub(crate) fn new(area: &RingArea, own: u32) -> Self {
        Consumer(Reader::new(area.mapped(), area.slots(), own))
    }

    /// Fills `out` from the front with as many descriptors as there are, in order, and returns how many.
    #[inline]
    pub fn dequeue(&mut self, out: &mut [Descriptor]) -> usize {
        self.0.dequeue(out)
    }

    /// Descriptors waiting, from the writer's index as it is now.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "is_empty takes &mut self as well")]
    pub fn len(&mut self) -> usize {
        self.0.available()
    }

    /// Whether nothing waits, from the writer's index as it is now.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.len() == 0
    }

    /// Descriptors that fit an empty ring: one less than its slots.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// How often the writer's index was out of range. Only a writer that breaks the protocol causes it.
    pub fn garbled(&self) -> u64 {
        self.0.garbled()
    }
}
