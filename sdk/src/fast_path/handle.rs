//! What an instance does with its fast path at the right time: at once, after a call, or when it takes over.

use std::sync::atomic::Ordering;

use super::core::Core;
use super::queue::Op;
use super::{DRAFT, FastPathError, Handle, REPLACED, lock};
use crate::Kind;

impl Handle {
    pub(super) fn is_draft(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == DRAFT
    }

    /// Does it now, or when the instance takes over.
    pub(super) fn act(&self, op: Op) -> Result<(), FastPathError> {
        if self.is_draft() {
            lock(&self.queue).ops.push(op);
            return Ok(());
        }
        self.want([op])
    }

    /// What the kernel refuses is no error: it is kept and tried again, and whoever asked is to go on with what belongs to it.
    pub(super) fn want(&self, ops: impl IntoIterator<Item = Op>) -> Result<(), FastPathError> {
        let mut core = lock(&self.core);
        let waits = core.pending() > 0;
        let result = core.want(ops);
        self.show(&core);
        match result {
            Err(e @ FastPathError::Map { .. }) => {
                if !waits {
                    eprintln!("fast path: {e}; this will be tried again");
                }
                Ok(())
            }
            result => result,
        }
    }

    #[cold]
    pub(super) fn flush(&self) {
        if self.is_draft() {
            return;
        }
        self.is_queued.store(false, Ordering::Relaxed);
        let mut queue = lock(&self.queue);
        let mut core = lock(&self.core);
        core.write_flows(queue.flows.iter().map(|(key, rule)| (*key, rule.as_ref())));
        queue.forget_flows();
        core.retry();
        self.show(&core);
    }

    pub(super) fn fail(&self) {
        let mut core = lock(&self.core);
        core.tally.failed += 1;
        self.show(&core);
    }

    /// Copies what was counted to where it is published, and sees to it that what failed is tried again. Who was replaced by another process
    /// has no say any more.
    pub(super) fn show(&self, core: &Core) {
        if core.is_superseded() {
            self.stage.store(REPLACED, Ordering::Relaxed);
        }
        let (tally, pending) = (core.tally, core.pending() as u64);
        if pending > 0 {
            self.is_queued.store(true, Ordering::Relaxed);
        }
        let values =
            [tally.entries, tally.installed, tally.removed, tally.expired, tally.evicted, tally.failed, pending];
        lock(&self.counters).iter().zip(values).for_each(|(counter, value)| counter.set(value));
    }
}

/// The counters of a hybrid function, in the order of [`Handle::show`].
pub(crate) const COUNTERS: [(&str, Kind, &str); 7] = [
    (
        "fast_entries",
        Kind::Gauge,
        "flows in the fast path that this instance installed, as of the last round of looking",
    ),
    ("fast_installed", Kind::Counter, "rules for flows that were written into the fast path"),
    ("fast_removed", Kind::Counter, "rules for flows that the function took out"),
    ("fast_expired", Kind::Counter, "rules for flows that had ended and were taken out"),
    ("fast_evicted", Kind::Counter, "rules for flows that made room for others"),
    ("fast_failed", Kind::Counter, "rules that could not be written or taken out at once"),
    (
        "fast_pending",
        Kind::Gauge,
        "changes that the kernel has refused and that are tried again: flows, tables, slots, services",
    ),
];
