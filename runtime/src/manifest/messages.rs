//! The form of chains of layer L4/L7. Time-outs, limits and the care for upstreams are read straight into the plan's types.

use middlenet_plan::{MessageLimits, Protocol, Timeouts, Transport, UpstreamSettings};
use middlenet_sdk::protocol::Wait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Layer, Placement};

/// A chain of layer L4/L7.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct MessageChainForm {
    /// `l4l7`.
    pub layer: Layer,
    /// Where clients connect: an address with its port (`10.1.0.1:80`, `"[::]:80"`), or a list of them.
    pub listen: Listen,
    /// What is spoken on the connections.
    #[serde(default)]
    pub protocol: Protocol,
    /// The functions. Requests meet them from first to last, responses from last to first; each function is shown what it
    /// asks for. An entry is written as in chains of layer `l2l3`.
    #[serde(default)]
    #[schemars(schema_with = "crate::schema::function_entries")]
    pub functions: Vec<serde_json::Value>,
    /// How messages reach functions that are processes, unless a function says otherwise.
    #[serde(default)]
    pub hop: HopForm,
    /// Where requests go that no function routes, in turn: addresses with their ports.
    #[serde(default)]
    pub upstreams: Vec<String>,
    /// Time-outs.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Limits on what clients may ask for.
    #[serde(default)]
    pub limits: MessageLimits,
    /// How upstream connections are kept and watched.
    #[serde(default)]
    pub upstream: UpstreamSettings,
    /// Prefixes (`10.0.0.0/8`) of proxies whose `X-Forwarded-*` headers are believed; those of other clients are replaced.
    #[serde(default)]
    pub trusted_proxies: Vec<String>,
    /// As at the top level, for this chain's functions on rings.
    pub wait: Option<Wait>,
    /// As at the top level, for this chain's functions.
    pub placement: Option<Placement>,
}

/// One address or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Listen {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

/// How messages reach a function that is a process.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum HopForm {
    /// Through an eBPF SK_MSG program, from function to function; rings where the kernel cannot do it.
    #[default]
    Skmsg,
    /// Through rings, by way of the broker.
    Ring,
}

impl From<HopForm> for Transport {
    fn from(hop: HopForm) -> Self {
        match hop {
            HopForm::Skmsg => Self::Skmsg,
            HopForm::Ring => Self::Ring,
        }
    }
}
