//! One flow and what both paths counted of it.

use middlenet_sdk::fast_path::{Counted, FlowState};
use std::time::Duration;

/// One direction of a conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Flow {
    /// When its first packet came.
    pub(super) first: Duration,
    /// When its last one did, or when the fast path was seen to have counted more.
    pub(super) last: Duration,
    /// Counted here.
    pub(super) slow: Counted,
    /// Counted by the fast path, as far as is known.
    pub(super) fast: Counted,
    /// What of that is in the fast path's entry as it stands.
    seen: Counted,
    /// When it was put into the fast path, if it is there.
    pub(super) installed: Option<Duration>,
    /// A FIN or RST was seen.
    pub(super) closed: bool,
}

/// Why a flow ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum End {
    /// No packet for a time.
    Idle,
    /// TCP closed it, or reset it.
    Closed,
    /// It made room for a newer one.
    Evicted,
    /// The function stopped.
    Stopped,
}

impl Flow {
    /// A flow that begins now.
    pub(super) fn begin(now: Duration) -> Self {
        let none = Counted::default();
        Self { first: now, last: now, slow: none, fast: none, seen: none, installed: None, closed: false }
    }

    /// A packet that came here.
    #[inline]
    pub(super) fn count(&mut self, bytes: u64, now: Duration) {
        self.slow.packets += 1;
        self.slow.bytes += bytes;
        self.last = now;
    }

    /// It is in the fast path from now on, in an entry that has counted nothing.
    pub(super) fn install(&mut self, now: Duration) {
        (self.installed, self.seen) = (Some(now), Counted::default());
    }

    /// What the fast path's entry says now.
    pub(super) fn fold(&mut self, state: &FlowState, now: Duration) {
        let more = self.unseen(state);
        if more.packets > 0 {
            self.fast.packets += more.packets;
            self.fast.bytes += more.bytes;
            self.last = now;
        }
        self.seen = Counted { packets: state.packets, bytes: state.bytes };
    }

    /// Leaves what the fast path's entry has counted to who has it now.
    pub(super) fn disown(&mut self) {
        self.fast.packets -= self.seen.packets.min(self.fast.packets);
        self.fast.bytes -= self.seen.bytes.min(self.fast.bytes);
        self.seen = Counted::default();
    }

    /// What the entry has counted since it was last looked at.
    pub(super) fn unseen(&self, state: &FlowState) -> Counted {
        // An entry that has counted less than before is another one.
        let seen = if state.packets < self.seen.packets { Counted::default() } else { self.seen };
        Counted { packets: state.packets - seen.packets, bytes: state.bytes.saturating_sub(seen.bytes) }
    }

    /// Both paths together.
    pub(super) fn total(&self) -> Counted {
        Counted { packets: self.slow.packets + self.fast.packets, bytes: self.slow.bytes + self.fast.bytes }
    }

    /// Why it is over, if it is.
    pub(super) fn over(&self, now: Duration, idle: Duration, closed: Duration) -> Option<End> {
        let silent = now.saturating_sub(self.last);
        match self.closed {
            true if silent >= closed => Some(End::Closed),
            _ if silent >= idle => Some(End::Idle),
            _ => None,
        }
    }
}
