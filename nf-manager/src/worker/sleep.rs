//! What a worker does when there is nothing to do.

use super::Worker;
use crate::port::Queue;
use middlenet_plan::Wait;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use std::os::fd::AsFd;
use std::time::Duration;

/// How long `auto` looks for more before it sleeps.
const SPIN_US: u64 = 50;
/// The longest sleep while a port that cannot wake its reader is polled: the price is its first packet's latency.
const BLIND_SLEEP_MAX: Duration = Duration::from_millis(1);
/// Less is not worth a system call.
const SLEEP_MIN: Duration = Duration::from_micros(50);

/// How long there has been nothing, and what follows.
pub(super) struct Idleness {
    wait: Wait,
    shares_core: bool,
    spin_cycles: u64,
    since: Option<u64>,
}

impl Idleness {
    pub(super) fn new(wait: Wait, shares_core: bool, tsc_hz: u64) -> Self {
        Self { wait, shares_core, spin_cycles: tsc_hz / 1_000_000 * SPIN_US, since: None }
    }

    #[inline]
    pub(super) fn busy(&mut self) {
        self.since = None;
    }

    /// A turn without packets; true: sleep. `blind` says whether a port cannot end a sleep.
    ///
    /// Where all can, `auto` yields a shared core once: who has something for us may be waiting for it. A yield gives up what is left
    /// of our time on it (Linux 6.18), while a sleeper that is woken has its turn soon.
    #[inline]
    pub(super) fn idle(&mut self, now: u64, blind: impl FnOnce() -> bool) -> bool {
        if self.wait == Wait::Event {
            return true;
        }
        if self.shares_core {
            if self.wait == Wait::Auto && self.since.is_some() && !blind() {
                return true;
            }
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        let since = *self.since.get_or_insert(now);
        self.wait == Wait::Auto && now.saturating_sub(since) > self.spin_cycles
    }
}

impl Worker<'_> {
    /// Sleeps until a port or a function has something, a command comes, or the next tick is due.
    pub(super) fn sleep(&mut self, cycles_to_tick: u64) {
        let to_tick =
            Duration::from_nanos(cycles_to_tick.saturating_mul(1000) / (self.shared.tsc_hz / 1_000_000).max(1));
        // A port whose chain is full is not looked at before a function gives packets back, and that rings our bell. To
        // sleep on the port would be no sleep: it has packets.
        let (sources, queues, in_flight) = (&self.sources, &self.queues, &self.in_flight);
        let (receiving, budget) = (self.receiving, self.shared.budget);
        let waited_for = || {
            let open = sources.iter().filter(|s| receiving && !s.is_full(in_flight, budget));
            open.filter_map(|source| queues[usize::from(source.port)].as_ref())
        };
        let blind = waited_for().any(Queue::is_blind);
        let limit = if blind { BLIND_SLEEP_MAX.min(to_tick) } else { to_tick }.max(SLEEP_MIN);
        let mut fds = vec![PollFd::new(self.event.as_fd(), PollFlags::POLLIN)];
        fds.extend(waited_for().flat_map(|queue| queue.events()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        for lane in &self.lanes {
            lane.own_bell.announce();
        }
        let work = self.lanes.iter_mut().any(|lane| !lane.from.is_empty())
            || self.called.load(std::sync::atomic::Ordering::Acquire);
        if !work {
            self.counters.parks.add(1);
            // An interrupted or failed poll is a short sleep.
            let _ = ppoll(&mut fds, Some(TimeSpec::from(limit)), None);
        }
        for lane in &self.lanes {
            lane.own_bell.retract();
        }
        middlenet_shm::drain_event(&self.event);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns without packets, a microsecond each, until it sleeps; at most 1000.
    fn turns(pace: &mut Idleness, blind: bool) -> u64 {
        pace.busy();
        (1..1000).find(|&turn| pace.idle(turn, || blind)).unwrap_or(1000)
    }

    #[test]
    fn a_shared_core_is_left_at_once_unless_a_port_is_blind() {
        let new = |wait, shares_core| Idleness::new(wait, shares_core, 1_000_000);
        for (wait, shares_core, blind, expected) in [
            (Wait::Auto, true, false, 2),
            (Wait::Auto, true, true, SPIN_US + 2),
            (Wait::Auto, false, false, SPIN_US + 2),
            (Wait::Poll, true, false, 1000),
            (Wait::Poll, false, true, 1000),
            (Wait::Event, false, true, 1),
        ] {
            let mut pace = new(wait, shares_core);
            let case = format!("{wait:?}, shared {shares_core}, blind {blind}");
            assert_eq!(turns(&mut pace, blind), expected, "{case}");
            assert_eq!(turns(&mut pace, blind), expected, "{case}, after packets");
        }
    }
}
