//! `cpu-burner`: spends processor time on each request, to measure chains of functions that do.
//!
//! ```yaml
//! - cpu-burner: { limit: 10000 }
//! ```
//!
//! Each request counts the primes up to `limit` with the sieve of Atkin (Atkin and Bernstein 2004), the load of the paper's
//! experiment, and carries the count on in the header `x-primes`.
//!
//! **Counters.** `requests`.
//!
//! **Limits.** `limit` is at most 10,000,000, which takes tens of milliseconds a request.

mod sieve;

use middlenet_sdk::middlebox::prelude::*;
use sieve::Sieve;
use std::io::Write as _;

/// The largest limit.
const MAX_LIMIT: u32 = 10_000_000;

/// Configuration of `cpu-burner`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Primes up to this number are counted.
    #[serde(default = "limit")]
    pub limit: u32,
}

const fn limit() -> u32 {
    10_000
}

/// The function; see the module's documentation.
pub struct CpuBurner {
    limit: u32,
    sieve: Sieve,
    text: Vec<u8>,
    requests: Counter,
}

impl MiddleboxFunction for CpuBurner {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if config.limit > MAX_LIMIT {
            return Err(ConfigError::new(format!("a limit of {} is above {MAX_LIMIT}", config.limit)));
        }
        Ok(Self {
            limit: config.limit,
            sieve: Sieve::default(),
            text: Vec::new(),
            requests: init.counter("requests", "requests that time was spent on"),
        })
    }

    fn request(&mut self, request: &mut Request<'_>, _: &mut Context<'_>) -> Verdict {
        // The optimiser must not see that every request counts the same.
        let primes = self.sieve.count(std::hint::black_box(self.limit));
        self.text.clear();
        // Writing to memory does not fail.
        drop(write!(self.text, "{primes}"));
        request.set_header("x-primes", &self.text);
        self.requests.inc();
        Verdict::Next
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_sdk::middlebox::testkit::Testkit;
    use serde_json::json;

    #[test]
    fn requests_carry_the_count() {
        let mut kit = Testkit::<CpuBurner>::new(json!({}));
        for _ in 0..2 {
            let seen = kit.request("GET / HTTP/1.1\r\nHost: a\r\nx-primes: 7\r\n\r\n");
            assert_eq!((seen.verdict.clone(), seen.header("x-primes")), (Verdict::Next, Some("1229")));
        }
        assert_eq!(kit.counter("requests"), 2);
        assert!(Testkit::<CpuBurner>::try_new(json!({"limit": 10_000_001})).is_err());
    }
}
