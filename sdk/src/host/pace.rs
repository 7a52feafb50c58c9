//! Spin, yield, or sleep: what a loop does when a turn found nothing.

use crate::protocol::Wait;
use std::time::{Duration, Instant};

/// How long `auto` looks for more before it sleeps. Longer than a wake-up costs, shorter than anybody's idle budget.
const SPIN: Duration = Duration::from_micros(50);
/// How often `auto` yields a shared core before it sleeps.
const YIELDS: u32 = 16;
/// Turns between looks at the clock.
const TURNS_PER_CLOCK: u32 = 32;

/// Counts idle turns and says when to sleep.
#[derive(Debug)]
pub(super) struct Pace {
    wait: Wait,
    shares_core: bool,
    idle_turns: u32,
    idle_since: Option<Instant>,
}

impl Pace {
    pub(super) fn new(wait: Wait, shares_core: bool) -> Self {
        Self { wait, shares_core, idle_turns: 0, idle_since: None }
    }

    /// A turn that found packets.
    #[inline]
    pub(super) fn busy(&mut self) {
        self.idle_turns = 0;
    }

    /// A turn that found none. Spins or yields for a moment and returns false, or returns true: sleep now.
    #[inline]
    pub(super) fn idle(&mut self) -> bool {
        if self.wait == Wait::Event {
            return true;
        }
        self.idle_turns += 1;
        if self.shares_core {
            // Whoever fills our ring may be waiting for this core. A sleeper that is woken gets a busy core sooner than
            // one that has yielded it again and again.
            if self.wait == Wait::Auto && self.idle_turns > YIELDS {
                return true;
            }
            std::thread::yield_now();
        } else {
            std::hint::spin_loop();
        }
        if self.wait == Wait::Poll {
            return false;
        }
        if self.idle_turns == 1 {
            self.idle_since = None;
        }
        if !self.idle_turns.is_multiple_of(TURNS_PER_CLOCK) {
            return false;
        }
        let now = Instant::now();
        now.duration_since(*self.idle_since.get_or_insert(now)) >= SPIN
    }
}
