//! A log-linear histogram with one writer and any number of readers. Recording costs a few cycles; quantiles are worked
//! out by the reader with an HDR histogram.

use crate::counters::Count;
use middlenet_plan::Latency;

/// Sub-buckets per power of two: values are exact to 1/16.
const SUB_BITS: u32 = 4;
const BUCKETS: usize = (64 - SUB_BITS as usize) << SUB_BITS;

/// Counts of values in TSC cycles.
#[derive(Debug)]
pub(crate) struct Histogram(Box<[Count]>);

impl Default for Histogram {
    fn default() -> Self {
        Self((0..BUCKETS).map(|_| Count::default()).collect())
    }
}

#[inline]
fn bucket(value: u64) -> usize {
    let power = 63 - (value | 1 << SUB_BITS).leading_zeros();
    let shift = power - SUB_BITS;
    ((shift as usize) << SUB_BITS) + (value >> shift) as usize
}

/// The middle of a bucket.
fn value(bucket: usize) -> u64 {
    let shift = (bucket >> SUB_BITS).saturating_sub(1) as u32;
    let base = (bucket as u64) - (u64::from(shift) << SUB_BITS);
    (base << shift) + ((1u64 << shift) >> 1)
}

impl Histogram {
    #[inline]
    pub(crate) fn record(&self, cycles: u64) {
        if let Some(count) = self.0.get(bucket(cycles)) {
            count.add(1);
        }
    }

    /// Sums histograms into one distribution in nanoseconds.
    pub(crate) fn summarise<'a>(histograms: impl Iterator<Item = &'a Self>, cycles_per_us: f64) -> Latency {
        let mut sums = vec![0u64; BUCKETS];
        for histogram in histograms {
            sums.iter_mut().zip(&histogram.0).for_each(|(sum, count)| *sum += count.get());
        }
        // Three digits: finer than the buckets. Auto-resizing never refuses a value.
        let mut hdr = hdrhistogram::Histogram::<u64>::new(3).expect("three digits are allowed");
        hdr.auto(true);
        let mut buckets = Vec::new();
        for (at, &n) in sums.iter().enumerate().filter(|(_, n)| **n > 0) {
            let ns = (value(at) as f64 * 1000.0 / cycles_per_us) as u64;
            if hdr.record_n(ns.max(1), n).is_ok() {
                buckets.push((ns, n));
            }
        }
        Latency {
            samples: hdr.len(),
            p50_ns: hdr.value_at_quantile(0.5),
            p99_ns: hdr.value_at_quantile(0.99),
            max_ns: hdr.max(),
            buckets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_and_hold_their_values() {
        let mut last = 0;
        for v in (0..4096).chain((12..63).flat_map(|p| [(1u64 << p) - 1, 1 << p, (1 << p) + (1 << (p - 1))])) {
            let b = bucket(v);
            assert!(b >= last && b < BUCKETS, "value {v} in bucket {b} after {last}");
            last = b;
            let middle = value(b);
            assert!(middle.abs_diff(v) <= v / 16 + 1, "value {v} is shown as {middle}");
        }
    }

    #[test]
    fn quantiles_of_a_known_distribution() {
        let histogram = Histogram::default();
        (0..99).for_each(|_| histogram.record(1000));
        histogram.record(100_000);
        let latency = Histogram::summarise([&histogram].into_iter(), 1000.0);
        assert_eq!(latency.samples, 100);
        assert!(latency.p50_ns.abs_diff(1000) < 70, "{latency:?}");
        assert!(latency.max_ns.abs_diff(100_000) < 7000, "{latency:?}");
    }
}
