//! The atomic word over which the algorithms are written, so that the model tests run the very code that ships.

use std::sync::atomic::{AtomicU32, Ordering, fence};

/// A 32-bit atomic: the standard library's, or loom's in the model tests.
pub(crate) trait Atomic32 {
    fn load(&self, ordering: Ordering) -> u32;
    fn store(&self, value: u32, ordering: Ordering);
    fn swap(&self, value: u32, ordering: Ordering) -> u32;
    fn fence(ordering: Ordering);
}

impl Atomic32 for AtomicU32 {
    #[inline(always)]
    fn load(&self, ordering: Ordering) -> u32 {
        self.load(ordering)
    }

    #[inline(always)]
    fn store(&self, value: u32, ordering: Ordering) {
        self.store(value, ordering);
    }

    #[inline(always)]
    fn swap(&self, value: u32, ordering: Ordering) -> u32 {
        self.swap(value, ordering)
    }

    #[inline(always)]
    fn fence(ordering: Ordering) {
        fence(ordering);
    }
}

#[cfg(test)]
impl Atomic32 for loom::sync::atomic::AtomicU32 {
    fn load(&self, ordering: Ordering) -> u32 {
        self.load(ordering)
    }

    fn store(&self, value: u32, ordering: Ordering) {
        self.store(value, ordering);
    }

    fn swap(&self, value: u32, ordering: Ordering) -> u32 {
        self.swap(value, ordering)
    }

    fn fence(ordering: Ordering) {
        loom::sync::atomic::fence(ordering);
    }
}
