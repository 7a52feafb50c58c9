//! The servers behind a chain, as its functions see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use middlenet_shm::{BOARD, ControlRegion};

/// An upstream that the function declared, from [`crate::Init::upstream`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Upstream(pub u16);

/// A word of the board: requests under way, and whether the upstream is out.
pub(super) const DOWN: u64 = 1 << 63;
const ACTIVE: u64 = 0xffff_ffff;

/// What the broker tells a function of its upstreams. The broker keeps it up to date; a word per upstream, so readers never wait.
#[derive(Debug, Clone)]
pub enum Board {
    /// In this process.
    Local(Arc<[AtomicU64; BOARD]>),
    /// In the control region of a function process.
    Shared(Arc<ControlRegion>),
}

impl Default for Board {
    fn default() -> Self {
        Self::Local(Arc::new([const { AtomicU64::new(0) }; BOARD]))
    }
}

impl Board {
    fn words(&self) -> &[AtomicU64] {
        match self {
            Self::Local(words) => &words[..],
            Self::Shared(control) => control.board(),
        }
    }

    /// Broker: publishes the state of upstream number `at`; beyond the board nothing happens.
    #[inline]
    pub fn publish(&self, at: usize, up: bool, active: u32) {
        if let Some(word) = self.words().get(at) {
            word.store(u64::from(active) | if up { 0 } else { DOWN }, Ordering::Relaxed);
        }
    }

    /// The function's view.
    #[inline]
    pub fn upstreams(&self) -> Upstreams<'_> {
        Upstreams { words: self.words() }
    }
}

/// The state of a function's upstreams now.
#[derive(Debug, Clone, Copy)]
pub struct Upstreams<'a> {
    words: &'a [AtomicU64],
}

impl Upstreams<'_> {
    #[inline]
    fn word(&self, upstream: Upstream) -> u64 {
        self.words.get(usize::from(upstream.0)).map_or(0, |w| w.load(Ordering::Relaxed))
    }

    /// Whether health checks and recent requests speak for it.
    #[inline]
    pub fn is_up(&self, upstream: Upstream) -> bool {
        self.word(upstream) & DOWN == 0
    }

    /// Requests under way to it, over all functions and workers.
    #[inline]
    pub fn active(&self, upstream: Upstream) -> u32 {
        (self.word(upstream) & ACTIVE) as u32
    }

    /// Whether one may be chosen among these: it is up, or all of them are down (fail-open: a wrong guess by the health
    /// checks must not take a whole service away).
    pub fn may_use(&self, upstream: Upstream, among: &[Upstream]) -> bool {
        self.is_up(upstream) || among.iter().all(|&u| !self.is_up(u))
    }
}
