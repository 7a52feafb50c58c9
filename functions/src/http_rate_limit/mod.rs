//! `http-rate-limit`: answers 429 to clients that ask for more than their share.
//!
//! ```yaml
//! - http-rate-limit:
//!     rate: 100
//!     per: second                    # minute, hour
//!     burst: 20                      # at once after a pause; default: the rate
//!     key: [client, header X-Api-Key]
//!     prefix4: 32                    # leading bits of the address that make a client
//!     prefix6: 64
//!     allow: [10.0.0.0/8]
//!     headers: true                  # RateLimit-* in every response
//! ```
//!
//! Each key has a token bucket: `client` (the default; addresses of one prefix are one client), `path`, `host`, `header NAME`,
//! `cookie NAME`, or a list of these, which is the combination. A request without the header or cookie counts for its client's
//! address instead. Keys other than `client` are what the sender says: who may choose his `X-Api-Key` freely has as many
//! buckets as he likes.
//!
//! **Exactness.** Tokens are counted in units of which every nanosecond earns a whole number: over any span, no more than burst +
//! rate × time passes.
//!
//! **Answers.** 429 with `Retry-After` in seconds, rounded up. `headers: true` adds `RateLimit-Limit`, `RateLimit-Remaining` and
//! `RateLimit-Reset` (seconds until the bucket is full) to these and to all responses, which then visit this function.
//!
//! **Counters.** `passed`, `limited`, `allowed` (by the list), `evicted`; gauge `buckets`.
//!
//! **Limits.** At most `buckets` buckets (65,536; about 130 bytes each). Full ones are forgotten; when all are in use, the least
//! recently used makes room, and its client begins anew with a full bucket: who commands more addresses than there are buckets is
//! not limited by address. Replicas and workers count on their own. Keys are told apart by a 128-bit hash under a secret.

mod meter;
#[cfg(test)]
mod tests;

use crate::firewall::prefix::{AddressRange, number};
use crate::flow_table::{FlowTable, Key};
use crate::request_key::RequestKey;
use meter::{Bucket, Reading, Shape};
use middlenet_sdk::middlebox::prelude::*;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};

/// The largest rate and burst.
const MAX_RATE: u64 = 1_000_000;
/// Responses that wait for their headers, at most.
const PENDING: usize = 65_536;
const SECOND_NS: u64 = 1_000_000_000;

/// Configuration of `http-rate-limit`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Requests per period.
    pub rate: u64,
    /// The period.
    #[serde(default)]
    pub per: Period,
    /// Requests at once after a pause; by default as many as the rate.
    pub burst: Option<u64>,
    /// What has a bucket of its own: `client`, `path`, `host`, `header NAME`, `cookie NAME`, or a list of these.
    #[serde(default)]
    pub key: Keys,
    /// Leading bits of IPv4 addresses that make a client.
    #[serde(default = "prefix4")]
    pub prefix4: u8,
    /// Leading bits of IPv6 addresses that make a client. 64, because one host commonly has a whole /64.
    #[serde(default = "prefix6")]
    pub prefix6: u8,
    /// Clients that are not limited: addresses, prefixes, or ranges.
    #[serde(default)]
    pub allow: Vec<String>,
    /// Whether responses tell the client what is left.
    #[serde(default)]
    pub headers: bool,
    /// Buckets at most.
    #[serde(default = "buckets")]
    pub buckets: usize,
}

/// A period.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Period {
    /// A second.
    #[default]
    Second,
    /// A minute.
    Minute,
    /// An hour.
    Hour,
}

/// What has a bucket of its own.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged, expecting = "`key` is `client`, `path`, `host`, `header NAME`, `cookie NAME`, or a list of these")]
pub enum Keys {
    /// One part of the request.
    One(RequestKey),
    /// Several parts together.
    All(Vec<RequestKey>),
}

impl Default for Keys {
    fn default() -> Self {
        Self::One(RequestKey::Client)
    }
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

/// The function; see the module's documentation.
pub struct HttpRateLimit {
    shape: Shape,
    rate: u64,
    keys: Vec<RequestKey>,
    masks: (u128, u128),
    allow: Vec<AddressRange>,
    headers: bool,
    buckets: FlowTable<Bucket>,
    /// Evictions that the counter has.
    evicted_before: u64,
    secrets: [RandomState; 2],
    pending: States<Reading>,
    room: Vec<u8>,
    passed: Counter,
    limited: Counter,
    allowed: Counter,
    evicted: Counter,
    gauge: Counter,
}

impl MiddleboxFunction for HttpRateLimit {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD.with(Interests::RESPONSE_HEAD);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let burst = config.burst.unwrap_or(config.rate);
        for (field, value) in [("rate", config.rate), ("burst", burst)] {
            if !(1..=MAX_RATE).contains(&value) {
                return Err(ConfigError::new(format!("`{field}` of {value} is not between 1 and {MAX_RATE}")));
            }
        }
        let period_ns = SECOND_NS
            * match config.per {
                Period::Second => 1,
                Period::Minute => 60,
                Period::Hour => 3600,
            };
        let shape = Shape::new(config.rate, period_ns, burst)
            .ok_or_else(|| ConfigError::new(format!("a burst of {burst} is too large to count exactly")))?;
        for (field, value, width) in [("prefix4", config.prefix4, 32), ("prefix6", config.prefix6, 128)] {
            if value > width {
                return Err(ConfigError::new(format!("`{field}` of {value} is longer than an address"))
                    .with_hint(format!("use 0 to {width}")));
            }
        }
        if !(1..=1 << 24).contains(&config.buckets) {
            return Err(ConfigError::new(format!("`buckets` of {} is not between 1 and {}", config.buckets, 1 << 24)));
        }
        let keys = match config.key {
            Keys::One(key) => vec![key],
            Keys::All(keys) if keys.is_empty() => return Err("`key` is an empty list".into()),
            Keys::All(keys) => keys,
        };
        let allow: Result<Vec<_>, _> = config.allow.iter().map(|text| AddressRange::parse(text, "`allow`")).collect();
        Ok(Self {
            shape,
            rate: config.rate,
            keys,
            masks: (mask(96 + u32::from(config.prefix4)), mask(config.prefix6.into())),
            allow: allow?.concat(),
            headers: config.headers,
            buckets: FlowTable::new(config.buckets),
            evicted_before: 0,
            secrets: [RandomState::new(), RandomState::new()],
            pending: States::new(PENDING),
            room: Vec::new(),
            passed: init.counter("passed", "requests within the rate"),
            limited: init.counter("limited", "requests answered with 429"),
            allowed: init.counter("allowed", "requests of clients on the list, which are not limited"),
            evicted: init.counter("evicted", "buckets in use that made room for others"),
            gauge: init.gauge("buckets", "buckets in use"),
        })
    }

    fn interests(&self) -> Interests {
        if self.headers { Self::INTERESTS } else { Interests::REQUEST_HEAD }
    }

    fn request(&mut self, request: &mut Request<'_>, context: &mut Context<'_>) -> Verdict {
        let address = number(context.client().ip());
        if self.allow.iter().any(|range| range.contains(address)) {
            self.allowed.inc();
            return Verdict::Next;
        }
        let now_ns = u64::try_from(context.now().as_nanos()).unwrap_or(u64::MAX / 2);
        let key = self.key(request, context);
        let (bucket, passes) = self.take(&key, now_ns);
        if passes {
            self.passed.inc();
            if self.headers {
                self.pending.insert(context.request_id(), bucket.read(&self.shape, true));
            }
            return Verdict::Next;
        }
        self.limited.inc();
        let reading = bucket.read(&self.shape, false);
        let mut answer = Answer::new(429).header("retry-after", seconds(reading.wait_ns).max(1).to_string());
        if self.headers {
            for (name, value) in self.told(&reading) {
                answer = answer.header(name, value.to_string());
            }
        }
        Verdict::Respond(answer.with_text("too many requests\n"))
    }

    fn response(&mut self, response: &mut Response<'_>, context: &mut Context<'_>) -> Verdict {
        if let Some(reading) = self.pending.take(context.request_id()) {
            for (name, value) in self.told(&reading) {
                response.set_header(name, value.to_string());
            }
        }
        Verdict::Next
    }

    fn tick(&mut self, context: &mut Context<'_>) {
        let now_ns = u64::try_from(context.now().as_nanos()).unwrap_or(u64::MAX / 2);
        self.buckets.sweep(now_ns, |_| {});
        self.gauge.set(self.buckets.len() as u64);
        self.evicted.add(self.buckets.evicted() - self.evicted_before);
        self.evicted_before = self.buckets.evicted();
    }

    fn inherit(&mut self, previous: Self) {
        self.pending = previous.pending;
        // Tokens mean the same only if the limits do.
        if previous.shape == self.shape && previous.keys == self.keys && previous.masks == self.masks {
            self.secrets = previous.secrets;
            // A table of the same size is taken over as it is, with its count.
            if previous.buckets.capacity() == self.buckets.capacity() {
                self.evicted_before = previous.evicted_before;
            }
            self.buckets.take_over(previous.buckets, 0);
        }
    }

    fn report(&self) -> Value {
        json!({"buckets": self.buckets.len(), "capacity": self.buckets.capacity()})
    }
}

impl HttpRateLimit {
    /// What the request counts for.
    #[inline]
    fn key(&mut self, request: &Request<'_>, context: &Context<'_>) -> Key {
        let client = {
            let address = context.client().ip();
            number(address) & if address.is_ipv4() { self.masks.0 } else { self.masks.1 }
        };
        let mut key = Key::default();
        if let [RequestKey::Client] = self.keys[..] {
            key.a = client;
            return key;
        }
        let mut hashers = [self.secrets[0].build_hasher(), self.secrets[1].build_hasher()];
        for part in &self.keys {
            match part.bytes(request, &mut self.room) {
                Some(bytes) => {
                    for hasher in &mut hashers {
                        hasher.write_usize(bytes.len());
                        hasher.write(bytes);
                    }
                }
                None => {
                    key.a = client;
                    // An absent part is another than an empty one.
                    hashers.iter_mut().for_each(|hasher| hasher.write_usize(usize::MAX));
                }
            }
        }
        key.b = u128::from(hashers[0].finish()) << 64 | u128::from(hashers[1].finish());
        key
    }

    /// Takes a token; the bucket after it, and whether there was one.
    #[inline]
    fn take(&mut self, key: &Key, now_ns: u64) -> (Bucket, bool) {
        let hash = self.buckets.seed().hash(key);
        if let Some(slot) = self.buckets.find(hash, key, now_ns) {
            self.buckets.renew(slot);
            if let Some(entry) = self.buckets.get_mut(slot) {
                let passes = entry.value.take(&self.shape, now_ns);
                entry.expires_ns = entry.value.full_by_ns(&self.shape);
                return (entry.value, passes);
            }
        }
        let mut bucket = Bucket::full(&self.shape, now_ns);
        let passes = bucket.take(&self.shape, now_ns);
        // It fails only where hashes collide beyond chance; the request passes uncounted.
        self.buckets.insert(hash, *key, bucket, bucket.full_by_ns(&self.shape), now_ns, true);
        (bucket, passes)
    }

    /// Headers that tell the client.
    fn told(&self, reading: &Reading) -> [(&'static str, u64); 3] {
        [
            ("ratelimit-limit", self.rate),
            ("ratelimit-remaining", reading.remaining),
            ("ratelimit-reset", seconds(reading.reset_ns)),
        ]
    }
}

/// Seconds, rounded up.
fn seconds(ns: u64) -> u64 {
    ns.div_ceil(SECOND_NS)
}

/// The leading bits of an address.
fn mask(length: u32) -> u128 {
    if length == 0 { 0 } else { u128::MAX << (128 - length.min(128)) }
}
