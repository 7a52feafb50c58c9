//! What happened between two readings of the data plane's counters.

use middlenet_plan::{HopStats, Stats};

/// The time between two readings.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Interval {
    /// Its length by the data plane's clock.
    pub seconds: f64,
    /// Packets that left by ports.
    pub sent_pkts: u64,
    /// Packets dropped.
    pub dropped_pkts: u64,
    /// Cycles that workers spent in turns that found packets.
    pub busy_cycles: u64,
    /// How long one hop kept a packet, all hops taken together; nothing where none was sampled.
    pub hop_latency: Option<Percentiles>,
}

/// Of a distribution of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Percentiles {
    /// Median in nanoseconds.
    pub p50_ns: u64,
    /// 99th percentile in nanoseconds.
    pub p99_ns: u64,
}

impl Interval {
    /// From two readings of the same run.
    pub fn between(before: &Stats, after: &Stats) -> Self {
        let cycles = |stats: &Stats| stats.workers.iter().map(|w| w.busy_cycles).sum::<u64>();
        let (old, new) = (&before.conservation, &after.conservation);
        Self {
            seconds: after.uptime_s - before.uptime_s,
            sent_pkts: new.sent_pkts.saturating_sub(old.sent_pkts),
            dropped_pkts: new.dropped_pkts.saturating_sub(old.dropped_pkts),
            busy_cycles: cycles(after).saturating_sub(cycles(before)),
            hop_latency: percentiles(&buckets_between(&before.hops, &after.hops)),
        }
    }

    /// Millions of packets sent per second.
    pub fn mpps(&self) -> f64 {
        self.sent_pkts as f64 / self.seconds / 1e6
    }

    /// Cycles of the workers per packet sent. What function processes spend is not in it.
    pub fn cycles_per_packet(&self) -> f64 {
        self.busy_cycles as f64 / self.sent_pkts as f64
    }
}

/// Samples by upper bound, ascending, that the second reading has and the first has not.
fn buckets_between(before: &[HopStats], after: &[HopStats]) -> Vec<(u64, u64)> {
    let mut sums = std::collections::BTreeMap::new();
    for (bound, samples) in after.iter().flat_map(|hop| &hop.latency.buckets) {
        *sums.entry(*bound).or_insert(0u64) += samples;
    }
    for (bound, samples) in before.iter().flat_map(|hop| &hop.latency.buckets) {
        let sum = sums.entry(*bound).or_insert(0);
        *sum = sum.saturating_sub(*samples);
    }
    sums.into_iter().filter(|(_, samples)| *samples > 0).collect()
}

/// From buckets in ascending order.
fn percentiles(buckets: &[(u64, u64)]) -> Option<Percentiles> {
    let total: u64 = buckets.iter().map(|(_, samples)| samples).sum();
    let at = |share: f64| {
        let rank = (total as f64 * share).ceil() as u64;
        let mut seen = 0;
        buckets.iter().find(|(_, samples)| {
            seen += samples;
            seen >= rank
        })
    };
    Some(Percentiles { p50_ns: at(0.5)?.0, p99_ns: at(0.99)?.0 })
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_plan::{Conservation, Latency, WorkerStats};

    fn reading(uptime_s: f64, sent: u64, cycles: u64, hops: &[&[(u64, u64)]]) -> Stats {
        let hop = |buckets: &&[(u64, u64)]| HopStats {
            latency: Latency { buckets: buckets.to_vec(), ..Latency::default() },
            ..HopStats::default()
        };
        Stats {
            uptime_s,
            hops: hops.iter().map(hop).collect(),
            workers: vec![WorkerStats { busy_cycles: cycles, ..WorkerStats::default() }],
            conservation: Conservation { sent_pkts: sent, dropped_pkts: sent / 10, ..Conservation::default() },
            ..Stats::default()
        }
    }

    #[test]
    fn rates_are_differences_over_the_data_planes_own_time() {
        let before = reading(1.0, 1_000_000, 500_000_000, &[]);
        let after = reading(1.5, 6_000_000, 1_500_000_000, &[]);
        let interval = Interval::between(&before, &after);
        assert_eq!(interval.mpps(), 10.0);
        assert_eq!(interval.cycles_per_packet(), 200.0);
        assert_eq!(interval.dropped_pkts, 500_000);
        assert_eq!(interval.hop_latency, None);
    }

    #[test]
    fn latency_is_that_of_the_interval_and_of_all_hops() {
        let before = reading(0.0, 0, 0, &[&[(10, 1000)], &[]]);
        let after = reading(1.0, 1, 1, &[&[(10, 1010), (20, 40)], &[(20, 48), (500, 2)]]);
        let latency = Interval::between(&before, &after).hop_latency;
        assert_eq!(latency, Some(Percentiles { p50_ns: 20, p99_ns: 500 }));
    }

    #[test]
    fn percentiles_of_one_sample_are_that_sample() {
        assert_eq!(percentiles(&[(7, 1)]), Some(Percentiles { p50_ns: 7, p99_ns: 7 }));
        assert_eq!(percentiles(&[]), None);
        assert_eq!(percentiles(&[(1, 99), (9, 1)]), Some(Percentiles { p50_ns: 1, p99_ns: 1 }));
    }
}
