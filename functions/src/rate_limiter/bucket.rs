//! The token bucket.

/// Token units per packet or bit: a rate of one per second earns one unit per nanosecond, so nothing is rounded.
pub(super) const UNITS: u64 = 1_000_000_000;

/// How fast buckets fill, and how much they hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    /// Tokens per second, and so units per nanosecond.
    per_second: u64,
    /// Units a full bucket holds.
    full: u64,
    /// Nanoseconds from empty to full, rounded up.
    fill_ns: u64,
}

impl Shape {
    /// `burst` tokens; `None` when the numbers are too large to count in units.
    pub(super) fn new(per_second: u64, burst: u64) -> Option<Self> {
        let full = burst.checked_mul(UNITS)?;
        let fill_ns = full.div_ceil(per_second.max(1));
        // The product in `earned` stays below this.
        full.checked_add(per_second.checked_mul(2)?)?;
        Some(Self { per_second, full, fill_ns })
    }
}

/// Tokens, as of a time.
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

    /// Takes tokens if there are so many.
    #[inline]
    pub(super) fn take(&mut self, shape: &Shape, tokens: u64, now_ns: u64) -> bool {
        let elapsed_ns = now_ns.saturating_sub(self.at_ns).min(shape.fill_ns);
        // At most `full + per_second`, which `Shape::new` has checked.
        let earned = elapsed_ns * shape.per_second;
        self.units = self.units.saturating_add(earned).min(shape.full);
        self.at_ns = self.at_ns.max(now_ns);
        match tokens.checked_mul(UNITS).and_then(|cost| self.units.checked_sub(cost)) {
            Some(left) => {
                self.units = left;
                true
            }
            None => false,
        }
    }

    /// A time by which the bucket is full again if nothing is taken: from then on it is as good as a new one. The exact time
    /// would take a division per packet.
    #[inline]
    pub(super) fn full_by_ns(&self, shape: &Shape) -> u64 {
        self.at_ns.saturating_add(shape.fill_ns)
    }
}
