//! The protocol between a sleeping reader and its writers, over any word: the mapped one in use, loom's in the model test.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::Wake;
use crate::atomic::Atomic32;

/// The reader is awake.
pub(super) const AWAKE: u32 = 0;
/// The reader sleeps, or is about to, on the word itself.
pub(super) const ON_FUTEX: u32 = 1;
/// The reader sleeps, or is about to, on an eventfd.
pub(super) const ON_EVENT: u32 = 2;

/// The shared word, and the way to sleep on it.
pub(super) trait Word {
    type Atomic: Atomic32;
    fn word(&self) -> &Self::Atomic;
    /// Sleeps while the word is `expected`, until [`wake`](Self::wake). False: the time was over first.
    fn sleep(&self, expected: u32, timeout: Option<Duration>) -> bool;
    /// Wakes the reader that sleeps in the way `on`. False: none did.
    fn wake(&self, on: u32) -> bool;
}

#[inline]
pub(super) fn announce<W: Word>(word: &W, on: u32) {
    word.word().store(on, Ordering::Relaxed);
    // Between our announcement and our look for work: pairs with the fence in `ring`.
    W::Atomic::fence(Ordering::SeqCst);
}

#[inline]
pub(super) fn retract(word: &impl Word) {
    word.word().store(AWAKE, Ordering::Relaxed);
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
pub(super) fn ring<W: Word>(word: &W) -> bool {
    // Between our work and our look at the announcement: pairs with the fence in `announce`.
    W::Atomic::fence(Ordering::SeqCst);
    if word.word().load(Ordering::Relaxed) == AWAKE { false } else { wake(word) }
}

#[cold]
fn wake(word: &impl Word) -> bool {
    match word.word().swap(AWAKE, Ordering::Relaxed) {
        AWAKE => false, // another writer was faster
        on => word.wake(on),
    }
}
