//! Upstreams as a manifest writes them.

use middlenet_sdk::middlebox::Upstream;
use middlenet_sdk::{ConfigError, Init};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The largest weight.
const MAX_WEIGHT: u32 = 256;

/// An upstream: an address, or an address with a weight.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Server {
    /// `10.0.0.1:80` or `[2001:db8::1]:80`.
    Address(String),
    /// With a weight.
    Weighted(Weighted),
}

/// An upstream with a weight.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Weighted {
    /// `10.0.0.1:80` or `[2001:db8::1]:80`.
    pub address: String,
    /// Its share beside the others', from 1 to 256.
    #[serde(default = "one")]
    pub weight: u32,
}

const fn one() -> u32 {
    1
}

/// How an upstream is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Balance {
    /// In turn, as often as the weights say, and evenly interleaved. `weighted` is another word for it.
    #[default]
    #[serde(alias = "weighted")]
    RoundRobin,
    /// The one with the fewest requests under way for its weight.
    LeastConnections,
    /// By a hash of the request, so that equal keys meet the same upstream, and few change theirs when the list changes.
    ConsistentHash,
    /// The less loaded of two that are drawn: nearly as even as `least-connections`, without its herds.
    RandomTwoChoices,
}

/// Declares the upstreams; their numbers and weights.
pub(super) fn declare(servers: &[Server], init: &mut Init) -> Result<(Vec<Upstream>, Vec<u32>), ConfigError> {
    if servers.is_empty() {
        return Err(ConfigError::new("there is no upstream").with_hint("name at least one: `upstreams: [10.0.0.1:80]`"));
    }
    let (mut upstreams, mut weights) = (Vec::new(), Vec::new());
    for server in servers {
        let (address, weight) = match server {
            Server::Address(address) => (address, 1),
            Server::Weighted(Weighted { address, weight }) => (address, *weight),
        };
        if !(1..=MAX_WEIGHT).contains(&weight) {
            return Err(ConfigError::new(format!("the weight of {address} is {weight}"))
                .with_hint(format!("use 1 to {MAX_WEIGHT}; leave an upstream out to send it nothing")));
        }
        let upstream = init.upstream(address)?;
        if upstreams.contains(&upstream) {
            return Err(ConfigError::new(format!("{address} is listed twice")).with_hint("give it a larger weight"));
        }
        upstreams.push(upstream);
        weights.push(weight);
    }
    Ok((upstreams, weights))
}
