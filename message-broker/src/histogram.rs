//! A latency distribution that one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering};

use middlenet_plan::Latency;

/// Buckets per power of two.
const STEPS: usize = 8;
const BUCKETS: usize = 48 * STEPS;

/// Counts in buckets whose bounds grow by an eighth of a power of two: a value is known to within 12 %.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]), max_ns: AtomicU64::new(0) }
    }
}

impl Histogram {
    /// Notes one value; the caller is the only writer.
    #[inline]
    pub(crate) fn note(&self, ns: u64) {
        let bucket = &self.buckets[bucket_of(ns)];
        bucket.store(bucket.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.store(ns, Ordering::Relaxed);
        }
    }

    /// The sum of several.
    pub(crate) fn sum<'a>(histograms: impl Iterator<Item = &'a Self>) -> Latency {
        let mut counts = [0u64; BUCKETS];
        let mut max_ns = 0;
        for histogram in histograms {
            for (count, bucket) in counts.iter_mut().zip(histogram.buckets.iter()) {
                *count += bucket.load(Ordering::Relaxed);
            }
            max_ns = max_ns.max(histogram.max_ns.load(Ordering::Relaxed));
        }
        let samples: u64 = counts.iter().sum();
        let quantile = |hundredths: u64| {
            let wanted = (samples * hundredths).div_ceil(100);
            let mut seen = 0;
            for (at, count) in counts.iter().enumerate() {
                seen += count;
                if seen >= wanted && wanted > 0 {
                    return upper_bound(at).min(max_ns);
                }
            }
            0
        };
        let used = counts.iter().enumerate().filter(|(_, count)| **count > 0);
        Latency {
            samples,
            p50_ns: quantile(50),
            p99_ns: quantile(99),
            max_ns,
            buckets: used.map(|(at, count)| (upper_bound(at), *count)).collect(),
        }
    }
}

#[inline]
fn bucket_of(ns: u64) -> usize {
    if ns < STEPS as u64 {
        return ns as usize;
    }
    let power = ns.ilog2() as usize;
    let step = (ns >> (power - 3)) as usize & (STEPS - 1);
    ((power - 2) * STEPS + step).min(BUCKETS - 1)
}

fn upper_bound(bucket: usize) -> u64 {
    if bucket < STEPS {
        return bucket as u64;
    }
    let (power, step) = (bucket / STEPS + 2, bucket % STEPS);
    (((STEPS + step + 1) as u64) << (power - 3)) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_below_its_bound_and_above_the_one_before() {
        for ns in
            (0..64).map(|shift| 1u64 << shift >> 1).flat_map(|n| [n, n + 1, n * 3 / 2]).take_while(|&n| n < 1 << 45)
        {
            let bucket = bucket_of(ns);
            assert!(ns <= upper_bound(bucket), "{ns}");
            assert!(bucket == 0 || ns > upper_bound(bucket - 1), "{ns}");
        }
    }

    #[test]
    fn quantiles_are_within_an_eighth() {
        let histogram = Histogram::default();
        (1..=1000).for_each(|n| histogram.note(n * 1000));
        let latency = Histogram::sum([&histogram].into_iter());
        assert_eq!(latency.samples, 1000);
        assert!((500_000..=565_000).contains(&latency.p50_ns), "{latency:?}");
        assert!((990_000..=1_000_000).contains(&latency.p99_ns), "{latency:?}");
    }
}
