//! Token-bucket rate limiter.
//!
//! **Purpose.** Drops what exceeds a rate: of all traffic, of each flow, or of each source or destination prefix.
//!
//! **Configuration** (see [`Config`]):
//!
//! ```yaml
//! rate-limiter: { per: source, prefix4: 24, prefix6: 56, rate: 10Mbps, burst: 64KB, direction: forward }
//! rate-limiter: { rate: 5kpps, burst: 50 }
//! ```
//!
//! Rates in bits count packets from the Ethernet header on, without FCS, preamble and gap. A burst size is what may pass at
//! once after a pause; by default what the rate gives in 100 ms, at least ten full-sized packets. Both directions of a
//! flow share its bucket; `per: source` looks at each packet's own source, whichever way it goes. Packets that are not IP
//! (ARP among them) share one bucket when buckets are per flow or prefix, as do packets that are malformed.
//!
//! **Exactness.** Tokens are counted in billionths, so that every nanosecond earns a whole number of them: over any span,
//! no more than burst + rate × time passes, and nothing is lost to rounding.
//!
//! **Counters.** `passed`, `limited`, `limited-bytes`, `shared`; gauge `buckets`. Dropped packets have the reason
//! `rate-exceeded`.
//!
//! **Limits.** At most `buckets` buckets; those full again are forgotten, for they are as good as new. When the table is full
//! of buckets in use, further flows share one bucket of the same size, so that a flood of new sources cannot get past the
//! limit. A packet larger than the burst size never passes.

mod bucket;
mod quantity;
#[cfg(test)]
mod tests;

use crate::flow_table::{Class, FlowTable, Key, Probe};
use bucket::{Bucket, Shape};
use middlenet_sdk::BURST;
use middlenet_sdk::prelude::*;
use quantity::Unit;
use serde_json::{Value, json};

/// The least default burst of a rate in bits: ten packets of 1514 bytes.
const LEAST_BURST_BITS: u64 = 10 * 1514 * 8;

/// The largest default burst, in bits or packets: well within what buckets can count.
const MOST_BURST: u64 = 8_000_000_000;

/// Configuration of the rate limiter.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rate: `10Mbps`, `1.5Gbps`, `5kpps`.
    pub rate: String,
    /// What may pass at once after a pause: `64KB` for rates in bits, a number of packets for rates in packets.
    #[serde(default)]
    pub burst: Option<Amount>,
    /// What has a bucket of its own.
    #[serde(default)]
    pub per: Per,
    /// Leading bits of IPv4 addresses that make a prefix.
    #[serde(default = "prefix4")]
    pub prefix4: u8,
    /// Leading bits of IPv6 addresses that make a prefix. 64, because one host commonly has a whole /64.
    #[serde(default = "prefix6")]
    pub prefix6: u8,
    /// Which packets are limited.
    #[serde(default)]
    pub direction: Direction,
    /// Buckets at most.
    #[serde(default = "buckets")]
    pub buckets: usize,
}

/// A number, or a number with a unit.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Amount {
    /// Packets.
    Number(u64),
    /// With a unit.
    Text(String),
}

/// What has a bucket of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Per {
    /// There is one bucket for all packets.
    #[default]
    All,
    /// Each flow, both directions together.
    Flow,
    /// Each source prefix.
    Source,
    /// Each destination prefix.
    Destination,
}

/// Which packets are limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// All.
    #[default]
    Both,
    /// Those that came in by the chain's first port.
    Forward,
    /// Those that came in by another port.
    Reverse,
}

const fn prefix4() -> u8 {
    32
}

const fn prefix6() -> u8 {
    64
}

const fn buckets() -> usize {
    65_536
}

/// What the first passes over a burst found.
#[derive(Clone, Copy, Default)]
struct Probed {
    key: Key,
    hash: u32,
    /// Where its bucket seems to be.
    slot: u32,
}

/// See the module's documentation.
pub struct RateLimiter {
    shape: Shape,
    unit: Unit,
    per: Per,
    mask4: u128,
    mask6: u128,
    /// The port on the left, and whether packets from there and from elsewhere are limited.
    left: Option<Port>,
    limits: (bool, bool),
    shared: Bucket,
    buckets: FlowTable<Bucket>,
    probed: Vec<Probed>,
    passed: Counter,
    limited: Counter,
    limited_bytes: Counter,
    shares: Counter,
    gauge: Counter,
}

impl NetworkFunction for RateLimiter {
    type Config = Config;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let (rate, unit) = quantity::rate(&config.rate)?;
        let burst = match &config.burst {
            Some(Amount::Text(text)) => quantity::burst(text, unit)?,
            Some(Amount::Number(number)) => quantity::burst(&number.to_string(), unit)?,
            None => (rate / 10).clamp(if unit == Unit::Bits { LEAST_BURST_BITS } else { 1 }, MOST_BURST),
        };
        let shape = Shape::new(rate, burst).ok_or_else(|| {
            ConfigError::new(format!("a burst of {burst} is too large to count exactly"))
                .with_hint("keep bursts below 2 GB or ten thousand million packets")
        })?;
        for (field, value, width) in [("prefix4", config.prefix4, 32), ("prefix6", config.prefix6, 128)] {
            if value > width {
                return Err(ConfigError::new(format!("`{field}` of {value} is longer than an address"))
                    .with_hint(format!("use 0 to {width}")));
            }
        }
        if !(1..=1 << 24).contains(&config.buckets) {
            return Err(ConfigError::new(format!("`buckets` of {} is not between 1 and {}", config.buckets, 1 << 24))
                .with_hint("a bucket takes about 120 bytes"));
        }
        Ok(Self {
            shape,
            unit,
            per: config.per,
            mask4: mask(96 + u32::from(config.prefix4)),
            mask6: mask(u32::from(config.prefix6)),
            left: init.ports().first().map(|port| Port(port.id)),
            limits: (config.direction != Direction::Reverse, config.direction != Direction::Forward),
            shared: Bucket::full(&shape, 0),
            buckets: FlowTable::new(if config.per == Per::All { 1 } else { config.buckets }),
            probed: vec![Probed::default(); BURST],
            passed: init.counter("passed", "packets within the rate, or not limited"),
            limited: init.counter("limited", "packets dropped for exceeding the rate"),
            limited_bytes: init.counter("limited-bytes", "bytes of these packets"),
            shares: init.counter("shared", "packets counted in the shared bucket for want of one of their own"),
            gauge: init.gauge("buckets", "buckets in use"),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let now_ns = u64::try_from(burst.now().as_nanos()).unwrap_or(u64::MAX / 2);
        let mut passed = 0;
        let mut probed = std::mem::take(&mut self.probed);
        for start in (0..burst.len()).step_by(BURST) {
            let count = (burst.len() - start).min(BURST);
            if self.per != Per::All {
                // Keys, then entries come into the cache side by side.
                for (i, probed) in probed.iter_mut().enumerate().take(count) {
                    if let Some(packet) = burst.get_mut(start + i) {
                        probed.key = self.key(&Probe::of(packet.data()));
                        probed.hash = self.buckets.seed().hash(&probed.key);
                    }
                }
                for probed in probed.iter_mut().take(count) {
                    probed.slot = self.buckets.seek(probed.hash, &probed.key);
                }
            }
            for (i, probed) in probed.iter().enumerate().take(count) {
                let Some(packet) = burst.get_mut(start + i) else { break };
                let from_left = Some(packet.ingress()) == self.left;
                let is_limited = if from_left { self.limits.0 } else { self.limits.1 };
                let tokens = if self.unit == Unit::Bits { packet.len() as u64 * 8 } else { 1 };
                if !is_limited || self.take(probed, tokens, now_ns) {
                    passed += 1;
                } else {
                    self.limited.inc();
                    self.limited_bytes.add(packet.len() as u64);
                    packet.drop(DropReason::RATE_EXCEEDED);
                }
            }
        }
        self.probed = probed;
        self.passed.add(passed);
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        let now_ns = u64::try_from(burst.now().as_nanos()).unwrap_or(u64::MAX / 2);
        self.buckets.sweep(now_ns, |_| {});
        self.gauge.set(self.buckets.len() as u64);
    }

    fn inherit(&mut self, previous: Self) {
        // Tokens mean the same only if the limits do.
        let same = previous.shape == self.shape && previous.unit == self.unit && previous.per == self.per;
        if same && (previous.mask4, previous.mask6) == (self.mask4, self.mask6) {
            self.shared = previous.shared;
            self.buckets.take_over(previous.buckets, 0);
        }
    }

    fn report(&self) -> Value {
        json!({"buckets": self.buckets.len(), "capacity": self.buckets.capacity()})
    }
}

impl RateLimiter {
    #[inline]
    fn take(&mut self, probed: &Probed, tokens: u64, now_ns: u64) -> bool {
        if self.per == Per::All {
            return self.shared.take(&self.shape, tokens, now_ns);
        }
        let Probed { key, hash, slot } = *probed;
        if let Some(entry) = self.buckets.at_mut(slot, &key, now_ns) {
            let passes = entry.value.take(&self.shape, tokens, now_ns);
            entry.expires_ns = entry.value.full_by_ns(&self.shape);
            return passes;
        }
        self.take_anew(key, hash, tokens, now_ns)
    }

    /// From a bucket that was not there when the burst began.
    #[inline(never)]
    fn take_anew(&mut self, key: Key, hash: u32, tokens: u64, now_ns: u64) -> bool {
        if let Some(slot) = self.buckets.find(hash, &key, now_ns)
            && let Some(entry) = self.buckets.get_mut(slot)
        {
            let passes = entry.value.take(&self.shape, tokens, now_ns);
            entry.expires_ns = entry.value.full_by_ns(&self.shape);
            return passes;
        }
        let mut bucket = Bucket::full(&self.shape, now_ns);
        let passes = bucket.take(&self.shape, tokens, now_ns);
        // A bucket that ends when it is full: then a new one would be no different.
        let expires_ns = bucket.full_by_ns(&self.shape);
        if self.buckets.insert(hash, key, bucket, expires_ns, now_ns, false).is_some() {
            return passes;
        }
        self.shares.inc();
        self.shared.take(&self.shape, tokens, now_ns)
    }

    /// What the bucket is found by; all zero for packets that are not IP.
    #[inline]
    fn key(&self, probe: &Probe) -> Key {
        if !matches!(probe.class, Class::Flow | Class::LaterFragment) {
            return Key::default();
        }
        let mask = if probe.key.is_ipv6() { self.mask6 } else { self.mask4 };
        let prefix = |address: u128| Key { a: address & mask, b: 0, rest: u64::from(probe.key.is_ipv6()) };
        match self.per {
            Per::All => Key::default(),
            Per::Flow => probe.key.canonical().0,
            Per::Source => prefix(probe.key.a),
            Per::Destination => prefix(probe.key.b),
        }
    }
}

/// A mask of leading bits.
fn mask(bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - bits).unwrap_or(0)
}
