//! What a client may still ask for.

/// How fast buckets fill, and how much they hold, in units of which one request costs as many as a period has nanoseconds: each
/// nanosecond earns `rate` units, so nothing is rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    rate: u64,
    cost: u64,
    full: u64,
    /// Nanoseconds from empty to full, rounded up.
    fill_ns: u64,
}

/// The state of a bucket after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reading {
    /// Whether the request may pass.
    pub(super) passes: bool,
    /// Requests that may follow at once.
    pub(super) remaining: u64,
    /// Until the next request may pass; zero if one may now.
    pub(super) wait_ns: u64,
    /// Until the bucket is full.
    pub(super) reset_ns: u64,
}

impl Shape {
    /// `rate` requests per `period_ns`, and `burst` at once; `None` when the numbers are too large to count in units.
    pub(super) fn new(rate: u64, period_ns: u64, burst: u64) -> Option<Self> {
        let full = burst.checked_mul(period_ns)?;
        // What `take` adds up to stays below this.
        full.checked_add(rate.checked_mul(2)?)?.checked_add(full)?;
        Some(Self { rate, cost: period_ns, full, fill_ns: full.div_ceil(rate.max(1)) })
    }

    fn time_ns(&self, units: u64) -> u64 {
        units.div_ceil(self.rate.max(1))
    }
}

/// Units, as of a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    units: u64,
    at_ns: u64,
}

impl Bucket {
    /// A full bucket.
    pub(super) fn full(shape: &Shape, now_ns: u64) -> Self {
        Self { units: shape.full, at_ns: now_ns }
    }

    /// Takes what a request costs, if it is there.
    #[inline]
    pub(super) fn take(&mut self, shape: &Shape, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns).min(shape.fill_ns);
        self.units = (self.units + elapsed_ns * shape.rate).min(shape.full);
        self.at_ns = self.at_ns.max(now_ns);
        let passes = self.units >= shape.cost;
        if passes {
            self.units -= shape.cost;
        }
        passes
    }

    /// What to tell the client after [`take`](Self::take).
    pub(super) fn read(&self, shape: &Shape, passes: bool) -> Reading {
        Reading {
            passes,
            remaining: self.units / shape.cost,
            wait_ns: shape.time_ns(shape.cost.saturating_sub(self.units)),
            reset_ns: shape.time_ns(shape.full - self.units),
        }
    }

    /// A time by which the bucket is full again if nothing is taken: from then on it is as good as a new one.
    #[inline]
    pub(super) fn full_by_ns(&self, shape: &Shape) -> u64 {
        self.at_ns.saturating_add(shape.fill_ns)
    }
}
