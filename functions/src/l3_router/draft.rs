//! Frames that the router itself sends, and how many errors may be among them.

use middlenet_sdk::wire::build::icmp_error::MAX_FRAME_LEN;
use std::time::Duration;

/// Room for one outgoing frame.
pub(super) struct Draft {
    bytes: Box<[u8; MAX_FRAME_LEN]>,
    length: usize,
}

impl Default for Draft {
    fn default() -> Self {
        Self { bytes: Box::new([0; MAX_FRAME_LEN]), length: 0 }
    }
}

impl Draft {
    /// The frame written last; empty if that failed.
    pub(super) fn frame(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Lets a builder write the frame; whether it did.
    pub(super) fn write<E>(&mut self, emit: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> bool {
        self.length = emit(self.bytes.as_mut_slice()).unwrap_or(0);
        self.length > 0
    }
}

/// A token bucket that holds one second's worth.
pub(super) struct Allowance {
    cost_ns: u64,
    credit_ns: u64,
    updated: Duration,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Allowance {
    pub(super) fn new(per_second: u32) -> Self {
        Self {
            cost_ns: SECOND_NS.checked_div(per_second.into()).map_or(u64::MAX, |ns| ns.max(1)),
            credit_ns: SECOND_NS,
            updated: Duration::ZERO,
        }
    }

    /// Starts with what another has left, so that a change of configuration grants nothing.
    pub(super) fn continue_from(&mut self, previous: &Self) {
        (self.credit_ns, self.updated) = (previous.credit_ns, previous.updated);
    }

    /// Whether one more may go out now.
    pub(super) fn take(&mut self, now: Duration) -> bool {
        let elapsed_ns = u64::try_from(now.saturating_sub(self.updated).as_nanos()).unwrap_or(u64::MAX);
        self.credit_ns = self.credit_ns.saturating_add(elapsed_ns).min(SECOND_NS);
        self.updated = now;
        match self.credit_ns.checked_sub(self.cost_ns) {
            Some(left) => {
                self.credit_ns = left;
                true
            }
            None => false,
        }
    }
}
