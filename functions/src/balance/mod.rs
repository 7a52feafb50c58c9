//! Which of several upstreams: what `reverse-proxy`, `router` and `tcp-proxy` share.
//!
//! A `Balancer` picks one upstream per request or connection. Those that the broker's health checks have found down are
//! passed over; when all are down, all are used (fail-open: health checks may be wrong, and an error is no worse than a refusal).
//! A pick allocates nothing. It takes constant time, but for `least-connections`, which looks at each upstream, and for
//! picks that meet an upstream that is down.

mod config;
mod random;
mod slots;
mod smooth;
#[cfg(test)]
mod tests;

pub use config::{Balance, Server};
pub(crate) use random::hash;

use middlenet_sdk::middlebox::{Upstream, Upstreams};
use middlenet_sdk::{ConfigError, Init};
use random::Random;
use slots::Slots;
use smooth::{Sequence, Smooth};

/// Picks by consistent hash that meet one upstream after another that may not be used, before any other is taken.
const MAX_HASH_STEPS: u64 = 16;

/// Upstreams, and the way to choose among them.
pub(crate) struct Balancer {
    upstreams: Vec<Upstream>,
    weights: Vec<u32>,
    /// Spreads what was meant for upstreams that are down.
    smooth: Smooth,
    method: Method,
    /// Requests that an upstream may have more than its share, as a factor.
    max_load: Option<f64>,
}

enum Method {
    RoundRobin(Sequence),
    LeastConnections { turn: usize },
    ConsistentHash(Slots),
    TwoChoices(Random),
}

/// What was picked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pick {
    /// Its place in the list.
    pub(crate) at: usize,
    /// Its number.
    pub(crate) upstream: Upstream,
    /// Whether all are down, and so is this one.
    pub(crate) is_down: bool,
}

impl Balancer {
    /// Declares the upstreams, in the order of the list.
    pub(crate) fn new(
        servers: &[Server],
        balance: Balance,
        max_load: Option<f64>,
        init: &mut Init,
    ) -> Result<Self, ConfigError> {
        let (upstreams, weights) = config::declare(servers, init)?;
        if max_load.is_some() && balance != Balance::ConsistentHash {
            return Err("`max_load` is for `balance: consistent-hash`".into());
        }
        if max_load.is_some_and(|factor| !(1.01..=100.0).contains(&factor)) {
            return Err(ConfigError::new("`max_load` is not between 1.01 and 100")
                .with_hint("1.25 lets an upstream have a quarter more than its share"));
        }
        let smooth = Smooth::new(weights.len());
        let method = match balance {
            Balance::RoundRobin => Method::RoundRobin(Sequence::new(&weights)),
            Balance::LeastConnections => Method::LeastConnections { turn: 0 },
            Balance::ConsistentHash => {
                let names: Vec<&str> = upstreams.iter().map(|u| init.upstreams()[usize::from(u.0)].as_str()).collect();
                Method::ConsistentHash(Slots::new(&names, &weights))
            }
            Balance::RandomTwoChoices => Method::TwoChoices(Random::new()),
        };
        Ok(Self { upstreams, weights, smooth, method, max_load })
    }

    /// Their addresses, in the same order.
    pub(crate) fn addresses(&self, init: &Init) -> Vec<String> {
        self.upstreams.iter().filter_map(|u| init.upstreams().get(usize::from(u.0)).cloned()).collect()
    }

    /// Whether the one at that place is up, or all are down.
    pub(crate) fn may_use(&self, at: usize, board: Upstreams<'_>) -> bool {
        board.may_use(self.upstreams[at], &self.upstreams)
    }

    /// The one at that place.
    pub(crate) fn at(&self, at: usize, board: Upstreams<'_>) -> Pick {
        self.chosen(at, !board.is_up(self.upstreams[at]))
    }

    /// Picks one. `key` is the hash that consistent hashing goes by; it is not asked for otherwise.
    #[inline]
    pub(crate) fn pick(&mut self, board: Upstreams<'_>, key: impl FnOnce() -> u64) -> Pick {
        let at = match &mut self.method {
            Method::RoundRobin(sequence) => {
                let at = sequence.next();
                if board.is_up(self.upstreams[at]) {
                    return Pick { at, upstream: self.upstreams[at], is_down: false };
                }
                at
            }
            Method::LeastConnections { turn } => {
                *turn = if *turn + 1 < self.upstreams.len() { *turn + 1 } else { 0 };
                let start = *turn;
                return self.least_connections(start, board);
            }
            Method::ConsistentHash(_) => return self.by_hash(key(), board),
            Method::TwoChoices(_) => return self.two_choices(board),
        };
        self.instead(at, board)
    }

    /// Another than `at`, which is down; `at` if all are.
    #[cold]
    fn instead(&mut self, at: usize, board: Upstreams<'_>) -> Pick {
        let Self { upstreams, weights, smooth, .. } = self;
        let up = smooth.next(weights, |i| board.is_up(upstreams[i]));
        self.chosen(up.unwrap_or(at), up.is_none())
    }

    #[inline]
    fn chosen(&self, at: usize, is_down: bool) -> Pick {
        Pick { at, upstream: self.upstreams[at], is_down }
    }

    /// The one with the fewest requests under way for its weight, from `start` on.
    fn least_connections(&self, start: usize, board: Upstreams<'_>) -> Pick {
        let count = self.upstreams.len();
        let mut best: Option<(bool, u64, usize)> = None;
        for at in (start..count).chain(0..start) {
            let (is_down, load) = (!board.is_up(self.upstreams[at]), self.load(at, board));
            if best.is_none_or(|(down, least, _)| (is_down, load) < (down, least)) {
                best = Some((is_down, load, at));
            }
        }
        let (is_down, _, at) = best.unwrap_or((true, 0, 0));
        self.chosen(at, is_down)
    }

    /// Requests under way over the weight, so that loads compare.
    #[inline]
    fn load(&self, at: usize, board: Upstreams<'_>) -> u64 {
        // 2^32 requests times this stays within 64 bits.
        (u64::from(board.active(self.upstreams[at])) << 24) / u64::from(self.weights[at])
    }

    fn by_hash(&mut self, key: u64, board: Upstreams<'_>) -> Pick {
        let Method::ConsistentHash(slots) = &self.method else { return self.chosen(0, false) };
        let most = self.max_load.map(|factor| self.most_load(factor, board));
        let mut first_up = None;
        for step in 0..MAX_HASH_STEPS {
            let at = slots.pick(key, step);
            if !board.is_up(self.upstreams[at]) {
                continue;
            }
            if most.is_none_or(|most| self.load(at, board) < most) {
                return self.chosen(at, false);
            }
            first_up.get_or_insert(at);
        }
        match first_up {
            Some(at) => self.chosen(at, false),
            None => {
                let at = slots.pick(key, 0);
                self.instead(at, board)
            }
        }
    }

    /// The load that no upstream may reach: the mean of those that are up, this request included, times the factor.
    fn most_load(&self, factor: f64, board: Upstreams<'_>) -> u64 {
        let (mut active, mut weight) = (1u64, 0u64);
        for (&upstream, &w) in self.upstreams.iter().zip(&self.weights) {
            if board.is_up(upstream) {
                active += u64::from(board.active(upstream));
                weight += u64::from(w);
            }
        }
        let mean = active as f64 / weight.max(1) as f64;
        (mean * factor * f64::from(1u32 << 24)).ceil() as u64
    }

    /// The less loaded of two that chance picks (Mitzenmacher 2001).
    fn two_choices(&mut self, board: Upstreams<'_>) -> Pick {
        let count = self.upstreams.len();
        let Method::TwoChoices(random) = &mut self.method else { return self.chosen(0, false) };
        let one = random.below(count);
        let mut other = random.below(count.max(2) - 1);
        other = if other >= one && count > 1 { other + 1 } else { other };
        match (board.is_up(self.upstreams[one]), board.is_up(self.upstreams[other])) {
            (true, true) => {
                let at = if self.load(one, board) <= self.load(other, board) { one } else { other };
                self.chosen(at, false)
            }
            (true, false) => self.chosen(one, false),
            (false, true) => self.chosen(other, false),
            (false, false) => self.instead(one, board),
        }
    }
}
