//! `tcp-proxy`: sends each connection of a TCP chain to one of several upstreams.
//!
//! ```yaml
//! - tcp-proxy:
//!     upstreams: [ "10.2.0.10:5432", { address: "10.2.0.11:5432", weight: 3 } ]
//!     balance: consistent-hash       # by the client's address; or round-robin (default), least-connections, random-two-choices
//! ```
//!
//! Upstreams that the broker's checks have found down are passed over; when all are down, all are used. The connection is
//! chosen for once, when it is made, and its bytes never visit this function.
//!
//! **Counters.** `routed`, `failed-open`.
//!
//! **Limits.** At most 128 upstreams, given as addresses; weights from 1 to 256.

use crate::balance::{self, Balance, Balancer, Server};
use crate::request_key::address_bytes;
use middlenet_sdk::middlebox::prelude::*;

/// Configuration of `tcp-proxy`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where connections go: addresses, or `{ address: "10.0.0.1:5432", weight: 3 }`.
    pub upstreams: Vec<Server>,
    /// How one is chosen; `consistent-hash` goes by the client's address.
    #[serde(default)]
    pub balance: Balance,
    /// With `consistent-hash`: how many times its share an upstream gets at most, such as 1.25.
    pub max_load: Option<f64>,
}

/// The function; see the module's documentation.
pub struct TcpProxy {
    balancer: Balancer,
    routed: Counter,
    failed_open: Counter,
}

impl MiddleboxFunction for TcpProxy {
    type Config = Config;
    const INTERESTS: Interests = Interests::CONNECTION;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        init.upstreams_are_alike();
        Ok(Self {
            balancer: Balancer::new(&config.upstreams, config.balance, config.max_load, init)?,
            routed: init.counter("routed", "connections sent to an upstream"),
            failed_open: init.counter("failed-open", "connections sent to an upstream that is down, since all are"),
        })
    }

    fn connection(&mut self, _: &mut Connection<'_>, context: &mut Context<'_>) -> Verdict {
        let client = || balance::hash(&address_bytes(context.client().ip()));
        let pick = self.balancer.pick(context.upstreams(), client);
        self.routed.inc();
        if pick.is_down {
            self.failed_open.inc();
        }
        Verdict::Route(pick.upstream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_sdk::middlebox::testkit::Testkit;
    use serde_json::json;

    fn upstreams(kit: &mut Testkit<TcpProxy>, count: usize) -> Vec<u16> {
        let number = |verdict| match verdict {
            Verdict::Route(Upstream(number)) => number,
            other => panic!("{other:?}"),
        };
        (0..count).map(|_| number(kit.connection().verdict)).collect()
    }

    #[test]
    fn connections_take_turns_among_those_that_are_up() {
        let mut kit = Testkit::new(json!({"upstreams": ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1"]}));
        assert_eq!(upstreams(&mut kit, 6), [0, 1, 2, 0, 1, 2]);
        kit.set_upstream(1, false, 0);
        assert!(!upstreams(&mut kit, 9).contains(&1));
        (0..3).for_each(|at| kit.set_upstream(at, false, 0));
        upstreams(&mut kit, 3);
        assert_eq!((kit.counter("routed"), kit.counter("failed-open")), (18, 3));
    }

    #[test]
    fn a_client_keeps_its_upstream() {
        let list: Vec<String> = (1..=8).map(|n| format!("10.0.0.{n}:1")).collect();
        let mut kit = Testkit::new(json!({"upstreams": list, "balance": "consistent-hash"}));
        let mut seen = std::collections::BTreeSet::new();
        for client in 0..40 {
            kit.set_client(([192, 0, 2, client], u16::from(client) + 1).into());
            let chosen = upstreams(&mut kit, 3);
            assert!(chosen.windows(2).all(|pair| pair[0] == pair[1]));
            seen.insert(chosen[0]);
        }
        assert!(seen.len() > 4, "{seen:?}");
    }

    #[test]
    fn the_least_loaded_is_chosen() {
        let mut kit = Testkit::new(json!({"upstreams": ["10.0.0.1:1", "10.0.0.2:1"], "balance": "least-connections"}));
        kit.set_upstream(0, true, 5);
        assert_eq!(upstreams(&mut kit, 3), [1, 1, 1]);
    }
}
