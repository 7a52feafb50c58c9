//! How long to wait before a process is started anew.

use std::time::{Duration, Instant};

/// First wait after the free attempt.
const FIRST: Duration = Duration::from_millis(100);
/// Longest wait.
const LONGEST: Duration = Duration::from_secs(5);
/// A process that lived this long is healthy again.
const HEALTHY: Duration = Duration::from_secs(10);

/// At once the first time, then 100 ms, 200 ms and so on to 5 s; from the start again after 10 healthy seconds.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// When to start again a process that started at `started`, the last time it ran, and ended at `now`.
    pub(super) fn next(&mut self, started: Instant, now: Instant) -> Instant {
        if now.saturating_duration_since(started) >= HEALTHY {
            self.failures = 0;
        }
        let wait = match self.failures {
            0 => Duration::ZERO,
            n => FIRST.saturating_mul(1 << (n - 1).min(16)).min(LONGEST),
        };
        self.failures += 1;
        now + wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_start_over_after_health() {
        let start = Instant::now();
        let mut backoff = Backoff::default();
        let mut waits = |lived: u64| {
            let end = start + Duration::from_secs(lived);
            backoff.next(start, end).duration_since(end).as_millis()
        };
        let grown: Vec<_> = (0..9).map(|_| waits(1)).collect();
        assert_eq!(grown, [0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!([waits(10), waits(1)], [0, 100]);
    }
}
