//! The servers behind the chains: what all workers know of one, and a connection to one.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use middlenet_plan::{HealthSettings, UpstreamStats};

use crate::slab::Key;

/// One upstream, shared by the workers and the health checks.
#[derive(Debug)]
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    pub(crate) chain: u16,
    pub(crate) settings: HealthSettings,
    active: AtomicU32,
    down: AtomicBool,
    /// When one that is out without active checks comes back, in ms of the broker's clock.
    back_at_ms: AtomicU64,
    successes: AtomicU32,
    failures_in_a_row: AtomicU32,
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) reuses: AtomicU64,
    checks: [AtomicU64; 2],
    ejections: AtomicU64,
}

impl Upstream {
    pub(crate) fn new(address: SocketAddr, chain: u16, settings: HealthSettings) -> Self {
        Self {
            address,
            chain,
            settings,
            active: AtomicU32::new(0),
            down: AtomicBool::new(false),
            back_at_ms: AtomicU64::new(0),
            successes: AtomicU32::new(0),
            failures_in_a_row: AtomicU32::new(0),
            requests: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            connects: AtomicU64::new(0),
            reuses: AtomicU64::new(0),
            checks: [AtomicU64::new(0), AtomicU64::new(0)],
            ejections: AtomicU64::new(0),
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        !self.down.load(Ordering::Relaxed)
    }

    pub(crate) fn active(&self) -> u32 {
        self.active.load(Ordering::Relaxed)
    }

    /// A request goes there.
    pub(crate) fn begin(&self) {
        self.active.fetch_add(1, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
    }

    /// A request there is over.
    pub(crate) fn end(&self) {
        self.active.fetch_sub(1, Ordering::Relaxed);
    }

    /// A response head came, or a check succeeded.
    pub(crate) fn succeeded(&self, check: bool) {
        // Written only when it changes: this is once per request.
        if self.failures_in_a_row.load(Ordering::Relaxed) != 0 {
            self.failures_in_a_row.store(0, Ordering::Relaxed);
        }
        if !check {
            return;
        }
        self.checks[0].fetch_add(1, Ordering::Relaxed);
        if self.down.load(Ordering::Relaxed)
            && self.successes.fetch_add(1, Ordering::Relaxed) + 1 >= self.settings.rise.max(1)
        {
            self.down.store(false, Ordering::Relaxed);
        }
    }

    /// A request could not be sent or got no response head, or a check failed. Whether it is taken out by that.
    pub(crate) fn failed(&self, check: bool, now_ms: u64) -> bool {
        if check {
            self.checks[1].fetch_add(1, Ordering::Relaxed);
        } else {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        self.successes.store(0, Ordering::Relaxed);
        let failures = self.failures_in_a_row.fetch_add(1, Ordering::Relaxed) + 1;
        if failures < self.settings.fall.max(1) {
            return false;
        }
        self.back_at_ms.store(now_ms + self.settings.eject_ms, Ordering::Relaxed);
        let ejected = !self.down.swap(true, Ordering::Relaxed);
        if ejected {
            self.ejections.fetch_add(1, Ordering::Relaxed);
        }
        ejected
    }

    /// Without active checks: brings it back after its time, on probation, for the next failure takes it out again.
    pub(crate) fn look(&self, now_ms: u64) {
        let passive = self.settings.interval_ms == 0;
        if passive && self.down.load(Ordering::Relaxed) && now_ms >= self.back_at_ms.load(Ordering::Relaxed) {
            self.failures_in_a_row.store(self.settings.fall.max(1) - 1, Ordering::Relaxed);
            self.down.store(false, Ordering::Relaxed);
        }
    }

    pub(crate) fn stats(&self, chain: &str) -> UpstreamStats {
        let get = |n: &AtomicU64| n.load(Ordering::Relaxed);
        UpstreamStats {
            chain: chain.into(),
            address: self.address.to_string(),
            healthy: self.is_up(),
            active: self.active().into(),
            requests: get(&self.requests),
            failures: get(&self.failures),
            connects: get(&self.connects),
            reuses: get(&self.reuses),
            checks: [get(&self.checks[0]), get(&self.checks[1])],
            ejections: get(&self.ejections),
        }
    }
}

/// A connection to an upstream; it belongs to a session, or waits for one.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) key: Key,
    pub(crate) socket: OwnedFd,
    pub(crate) upstream: usize,
    pub(crate) session: Option<Key>,
    pub(crate) readable: bool,
    /// As in a session.
    pub(crate) hung_up: bool,
    pub(crate) writable: bool,
    /// Requests sent on it before this one.
    pub(crate) used: u32,
    /// When it was put aside, in ms.
    pub(crate) idle_since: u64,
    /// Bytes read that make no whole head yet.
    pub(crate) partial: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(interval_ms: u64) -> Upstream {
        let settings = HealthSettings { interval_ms, rise: 2, fall: 3, eject_ms: 100, ..HealthSettings::default() };
        Upstream::new(([127, 0, 0, 1], 80).into(), 0, settings)
    }

    #[test]
    fn it_goes_out_after_failures_in_a_row_only() {
        let upstream = upstream(0);
        assert!(!upstream.failed(false, 0) && !upstream.failed(false, 0));
        upstream.succeeded(false);
        assert!(!upstream.failed(false, 0) && !upstream.failed(false, 0));
        assert!(upstream.is_up());
        assert!(upstream.failed(false, 0), "the third in a row");
        assert!(!upstream.is_up());
    }

    #[test]
    fn without_checks_it_comes_back_on_probation() {
        let upstream = upstream(0);
        (0..3).for_each(|_| _ = upstream.failed(false, 1000));
        upstream.look(1099);
        assert!(!upstream.is_up());
        upstream.look(1100);
        assert!(upstream.is_up());
        assert!(upstream.failed(false, 1200), "one failure suffices now");
    }

    #[test]
    fn with_checks_it_takes_several_successes_to_come_back() {
        let upstream = upstream(500);
        (0..3).for_each(|_| _ = upstream.failed(true, 0));
        upstream.look(1_000_000);
        assert!(!upstream.is_up(), "time does not bring it back");
        upstream.succeeded(true);
        assert!(!upstream.is_up());
        upstream.failed(true, 0);
        upstream.succeeded(true);
        assert!(!upstream.is_up(), "not in a row");
        upstream.succeeded(true);
        assert!(upstream.is_up());
    }
}
