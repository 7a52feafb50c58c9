//! Counts rounds and their time.

use std::time::{Duration, Instant};

use middlenet_sdk::shm::Descriptor;

use super::{HOPS, HopResult};
use crate::cpu::CpuTime;

/// The measurement of one run, which begins when everything has been around once.
pub(super) struct Laps {
    pids: Vec<u32>,
    time: Duration,
    /// Descriptors that have not been around yet.
    warming: usize,
    begin: Instant,
    busy_ns: u64,
    descriptors: usize,
    sent_at: Vec<Instant>,
    round_ns: Vec<u64>,
}

impl Laps {
    pub(super) fn new(in_flight: usize, seconds: f64, functions: impl IntoIterator<Item = u32>) -> Self {
        let mut pids = vec![std::process::id()];
        pids.extend(functions);
        let begin = Instant::now();
        Self {
            pids,
            time: Duration::from_secs_f64(seconds),
            warming: in_flight,
            begin,
            busy_ns: 0,
            descriptors: 0,
            sent_at: vec![begin; in_flight],
            round_ns: Vec::with_capacity(1 << 22),
        }
    }

    /// Notes what came back and is sent off again. `false`: the time is over.
    pub(super) fn came_back(&mut self, descriptors: &[Descriptor]) -> bool {
        let now = Instant::now();
        for descriptor in descriptors {
            let sent_at = &mut self.sent_at[descriptor.index as usize];
            if self.warming == 0 && self.round_ns.len() < self.round_ns.capacity() {
                self.round_ns.push((now - *sent_at).as_nanos() as u64);
            }
            *sent_at = now;
        }
        if self.warming > 0 {
            self.warming = self.warming.saturating_sub(descriptors.len());
            (self.begin, self.busy_ns) = (now, self.busy());
            return true;
        }
        self.descriptors += descriptors.len();
        now - self.begin < self.time
    }

    /// To be called while the functions still run.
    pub(super) fn result(mut self) -> HopResult {
        let seconds = self.begin.elapsed().as_secs_f64();
        let busy_ns = self.busy() - self.busy_ns;
        self.round_ns.sort_unstable();
        let hop_ns = |part: f64| {
            let at = (self.round_ns.len() as f64 * part) as usize;
            self.round_ns.get(at).map_or(0.0, |&ns| ns as f64 / HOPS as f64)
        };
        HopResult {
            hops_per_second: (self.descriptors * HOPS) as f64 / seconds,
            latency_p50_ns: hop_ns(0.50),
            latency_p99_ns: hop_ns(0.99),
            cpu: busy_ns as f64 / 1e9 / seconds,
        }
    }

    fn busy(&self) -> u64 {
        self.pids.iter().filter_map(|&pid| CpuTime::of(pid)).map(|time| time.busy_ns).sum()
    }
}
