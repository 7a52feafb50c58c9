//! `reverse-proxy`: sends each request to one of several upstreams.

use crate::balance::{Balance, Balancer, Server};
use middlenet_sdk::middlebox::prelude::*;

/// Configuration of `reverse-proxy`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where requests go: addresses, or `{ address: "10.0.0.1:80", weight: 3 }`.
    pub upstreams: Vec<Server>,
    /// How one is chosen.
    #[serde(default)]
    pub balance: Balance,
}

/// The function; see the module's documentation.
pub struct ReverseProxy {
    balancer: Balancer,
    routed: Counter,
    failed_open: Counter,
}

impl MiddleboxFunction for ReverseProxy {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        Ok(Self {
            balancer: Balancer::new(&config.upstreams, config.balance, None, init)?,
            routed: init.counter("routed", "requests sent to an upstream"),
            failed_open: init.counter("failed-open", "requests sent to an upstream that is down, since all are"),
        })
    }

    fn request(&mut self, _request: &mut Request<'_>, context: &mut Context<'_>) -> Verdict {
        let pick = self.balancer.pick(context.upstreams(), || 0);
        self.routed.inc();
        if pick.is_down {
            self.failed_open.inc();
        }
        Verdict::Route(pick.upstream)
    }
}
