//! Who holds which message buffer: the truth against which every descriptor that comes back is checked.
//!
//! One word per buffer, the holder's key and a generation. On SK_MSG hops the BPF program moves the words, in an array that it
//! shares with the broker; on ring hops, and where there is no SK_MSG, the broker does. Functions cannot reach it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use middlenet_bpf::{SharedLedger, entry, generation, holder};

/// The words.
#[derive(Debug, Clone)]
pub(crate) enum Custody {
    Shared(SharedLedger),
    Private(Arc<[AtomicU64]>),
}

impl Custody {
    /// For `count` buffers, with no BPF program beside.
    pub(crate) fn private(count: u32) -> Self {
        Self::Private((0..count).map(|_| AtomicU64::new(0)).collect())
    }

    #[inline]
    fn word(&self, index: u32) -> Option<&AtomicU64> {
        match self {
            Self::Shared(ledger) => ledger.words().get(index as usize),
            Self::Private(words) => words.get(index as usize),
        }
    }

    /// Holder and generation; nothing for an index out of range.
    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<(u16, u16)> {
        let word = self.word(index)?.load(Ordering::Acquire);
        Some((holder(word), generation(word)))
    }

    /// Hands a buffer to a holder; its generation stays.
    #[inline]
    pub(crate) fn hand(&self, index: u32, to: u8) {
        if let Some(word) = self.word(index) {
            word.store(entry(to.into(), generation(word.load(Ordering::Relaxed))), Ordering::Release);
        }
    }

    /// Takes a buffer back from who returns it; `false` if it is not its any more, for on SK_MSG it may pass it on meanwhile.
    #[inline]
    pub(crate) fn take_back(&self, index: u32, from: u8, of: u16, to: u8) -> bool {
        let (held, taken) = (entry(from.into(), of), entry(to.into(), of));
        let exchanged = self.word(index).map(|w| w.compare_exchange(held, taken, Ordering::AcqRel, Ordering::Relaxed));
        matches!(exchanged, Some(Ok(_)))
    }

    /// Takes a buffer back whoever holds it: descriptors of it that are still about are void from now on. The BPF program may
    /// move the word at the same time, and then moves it no more.
    pub(crate) fn seize(&self, index: u32, by: u8) {
        if let Some(word) = self.word(index) {
            let next = |old: u64| Some(entry(by.into(), generation(old).wrapping_add(1)));
            // The change is never refused.
            let _ = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next);
        }
    }
}
