//! What a worker does when there is nothing to do.

use super::Worker;
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

    /// A turn without packets; true: sleep.
    #[inline]
    pub(super) fn idle(&mut self, now: u64) -> bool {
        if self.wait == Wait::Event {
            return true;
        }
        if self.shares_core {
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
        let blind = waited_for().any(|queue| !queue.wakes() && !queue.at_end());
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
