//! The protocol between a sleeping reader and its writers, over any word: the mapped one in use, loom's in the model test.

use std::time::Duration;

use super::Wake;

/// The reader is awake.
pub(super) const AWAKE: u32 = 0;
/// The reader sleeps, or is about to, on the word itself.
pub(super) const ON_FUTEX: u32 = 1;
/// The reader sleeps, or is about to, on an eventfd.
pub(super) const ON_EVENT: u32 = 2;

/// The shared word, and the way to sleep on it.
pub(super) trait Word {
    /// Relaxed load.
    fn load(&self) -> u32;
    /// Relaxed store.
    fn store(&self, value: u32);
    /// Relaxed exchange.
    fn swap(&self, value: u32) -> u32;
    /// Sequentially consistent fence.
    fn fence(&self);
    /// Sleeps while the word is `expected`, until [`wake`](Self::wake). False: the time was over first.
    fn sleep(&self, expected: u32, timeout: Option<Duration>) -> bool;
    /// Wakes the reader that sleeps in the way `on`. False: none did.
    fn wake(&self, on: u32) -> bool;
}

#[inline]
pub(super) fn announce(word: &impl Word, on: u32) {
    word.store(on);
    // Between our announcement and our look for work: pairs with the fence in `ring`.
    word.fence();
}

#[inline]
pub(super) fn retract(word: &impl Word) {
    word.store(AWAKE);
}

pub(super) fn park(word: &impl Word, timeout: Option<Duration>, mut has_work: impl FnMut() -> bool) -> Wake {
    announce(word, ON_FUTEX);
    let wake = if has_work() {
        Wake::Work
    } else if word.sleep(ON_FUTEX, timeout) {
        Wake::Rung
    } else {
        Wake::TimedOut
    };
    retract(word);
    wake
}

#[inline(always)]
pub(super) fn ring(word: &impl Word) -> bool {
    // Between our work and our look at the announcement: pairs with the fence in `announce`.
    word.fence();
    if word.load() == AWAKE { false } else { wake(word) }
}

#[cold]
fn wake(word: &impl Word) -> bool {
    match word.swap(AWAKE) {
        AWAKE => false, // another writer was faster
        on => word.wake(on),
    }
}
