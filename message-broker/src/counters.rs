//! Counters of one worker: written by it alone, read by the control thread at any time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Histogram;

/// A number with one writer.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    #[inline]
    pub(crate) fn add(&self, n: u64) {
        // One writer: a load and a store cost less than a locked add.
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub(crate) fn sub(&self, n: u64) {
        self.add(n.wrapping_neg());
    }

    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts by reason; for what goes wrong, so a lock, which nobody else holds for long, will do.
#[derive(Debug, Default)]
pub(crate) struct Reasons(Mutex<BTreeMap<&'static str, u64>>);

impl Reasons {
    pub(crate) fn inc(&self, reason: &'static str) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()).entry(reason).or_default() += 1;
    }

    /// Adds these to a sum over workers.
    pub(crate) fn add_to(&self, sum: &mut BTreeMap<String, u64>) {
        for (reason, n) in self.0.lock().unwrap_or_else(|e| e.into_inner()).iter() {
            *sum.entry((*reason).into()).or_default() += n;
        }
    }
}

/// One chain on one worker.
#[derive(Debug, Default)]
pub(crate) struct ChainCounters {
    pub(crate) connections: Count,
    pub(crate) open_connections: Count,
    pub(crate) received: Count,
    pub(crate) answered: Count,
    pub(crate) rejected: Reasons,
    pub(crate) failed: Reasons,
    pub(crate) aborted: Count,
    pub(crate) in_progress: Count,
    pub(crate) statuses: [Count; 5],
    pub(crate) received_bytes: Count,
    pub(crate) sent_bytes: Count,
    pub(crate) retries: Count,
    pub(crate) reruns: Count,
    pub(crate) upgrades: Count,
    pub(crate) latency: Histogram,
}

impl ChainCounters {
    /// Counts a response's status.
    #[inline]
    pub(crate) fn status(&self, status: u16) {
        if let Some(class) = self.statuses.get(usize::from(status / 100).wrapping_sub(1)) {
            class.inc();
        }
    }
}

/// One hop on one worker.
#[derive(Debug, Default)]
pub(crate) struct HopCounters {
    pub(crate) messages: Count,
    pub(crate) bypassed: Count,
    pub(crate) returned: Reasons,
    pub(crate) failed: Reasons,
    pub(crate) refused: Reasons,
}

/// One worker.
#[derive(Debug, Default)]
pub(crate) struct WorkerCounters {
    pub(crate) wakeups: Count,
    pub(crate) groups_sent: Count,
    pub(crate) descriptors_sent: Count,
    pub(crate) hop_wakeups: Count,
    pub(crate) descriptors_received: Count,
    pub(crate) lost_wakeups: Count,
    pub(crate) transport_changes: Count,
    pub(crate) buffers_free: Count,
    pub(crate) buffers_held: Count,
    pub(crate) chains: Vec<ChainCounters>,
    pub(crate) hops: Vec<HopCounters>,
}

impl WorkerCounters {
    /// For so many chains and hops.
    pub(crate) fn new(chains: usize, hops: usize) -> Self {
        Self {
            chains: (0..chains).map(|_| ChainCounters::default()).collect(),
            hops: (0..hops).map(|_| HopCounters::default()).collect(),
            ..Self::default()
        }
    }
}
