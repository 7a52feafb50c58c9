//! What the runtime tells the message broker: the chains of layer L4/L7.
//!
//! The broker takes the same [`Request`](crate::Request)s as the nf-manager and answers with the same
//! [`Reply`](crate::Reply)s; only its plan and its counters are of another kind.

use middlenet_sdk::protocol::Wait;
use middlenet_sdk::{CounterInfo, Interests};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::net::SocketAddr;

use crate::Latency;

/// Everything the broker needs to run. Valid by construction: indexes point where they should.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BrokerPlan {
    /// Name of the run; used in messages.
    pub name: String,
    /// Message buffers in the region, 16 KiB each.
    pub buffers: u32,
    /// One entry per worker thread: the core it is pinned to.
    pub workers: Vec<usize>,
    /// How function processes on rings wait; the broker itself always sleeps in the kernel.
    pub wait: Wait,
    /// Slots per ring, a power of two.
    pub ring_slots: u32,
    /// Chains by id (= index).
    pub chains: Vec<MessageChainPlan>,
    /// Hops by id (= index); those of a chain stand in its order.
    pub hops: Vec<MessageHopPlan>,
}

/// A chain of layer L4/L7.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageChainPlan {
    /// Name in the manifest.
    pub name: String,
    /// What is spoken on its connections.
    pub protocol: Protocol,
    /// Where it listens.
    pub listen: Vec<SocketAddr>,
    /// Where requests go that no function routes; spread in turn. Addresses, `host:port` with a numeric host.
    pub upstreams: Vec<String>,
    /// Time-outs.
    pub timeouts: Timeouts,
    /// Limits on what clients may ask for.
    pub limits: MessageLimits,
    /// How upstream connections are kept and watched.
    pub upstream: UpstreamSettings,
    /// Prefixes (`10.0.0.0/8`) whose `X-Forwarded-*` headers are believed and added to; those of others are replaced.
    pub trusted_proxies: Vec<String>,
}

/// What is spoken on a chain's connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// HTTP/1.1 and HTTP/1.0.
    #[default]
    Http,
    /// Bytes.
    Tcp,
}

/// Time-outs of a chain in milliseconds; 0 means none. Manifests are read into this type, and into those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// To reach an upstream. Past it another upstream is tried, then 504.
    #[schemars(range(max = 86_400_000))]
    pub connect_ms: u64,
    /// For a client to send a whole request head, from its first byte (from the accept for the first one): 408.
    #[schemars(range(max = 86_400_000))]
    pub head_ms: u64,
    /// For an upstream to send a whole response head, from the end of the request: 504.
    #[schemars(range(max = 86_400_000))]
    pub first_byte_ms: u64,
    /// Between two reads or writes that move bytes of a body, either side.
    #[schemars(range(max = 86_400_000))]
    pub body_ms: u64,
    /// A client connection that waits for its next request; and a tunnel or TCP connection in which nothing moves.
    #[schemars(range(max = 86_400_000))]
    pub idle_ms: u64,
    /// For a request and its response as a whole.
    #[schemars(range(max = 86_400_000))]
    pub total_ms: u64,
    /// For a message to come back from its functions, and for a function that is being started anew: 503.
    #[schemars(range(max = 86_400_000))]
    pub function_ms: u64,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_ms: 2_000,
            head_ms: 10_000,
            first_byte_ms: 60_000,
            body_ms: 30_000,
            idle_ms: 60_000,
            total_ms: 0,
            function_ms: 5_000,
        }
    }
}

/// Limits of a chain; 0 means none, except where the protocol needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MessageLimits {
    /// Bytes of a request or response head, at most 8192.
    #[schemars(range(min = 256, max = 8192))]
    pub head_bytes: u32,
    /// Headers of a head, at most 128.
    #[schemars(range(min = 1, max = 128))]
    pub headers: u32,
    /// Bytes of a request body: 413 beyond.
    pub body_bytes: u64,
    /// Client connections of this chain open at once; more are not accepted meanwhile.
    pub connections: u32,
    /// Requests on one client connection.
    pub requests: u32,
}

impl Default for MessageLimits {
    fn default() -> Self {
        Self { head_bytes: 8192, headers: 100, body_bytes: 0, connections: 16_384, requests: 0 }
    }
}

/// How a chain keeps and watches upstream connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct UpstreamSettings {
    /// Idle connections kept per upstream and worker.
    #[schemars(range(max = 65_536))]
    pub idle_connections: u32,
    /// How long an idle connection is kept, in ms; below the upstream's own time-out.
    #[schemars(range(max = 86_400_000))]
    pub idle_ms: u64,
    /// How often a request is tried at another upstream or connection when it is safe: it has not been sent, or it is
    /// idempotent and nothing of the response has come.
    #[schemars(range(max = 16))]
    pub retries: u32,
    /// Active checks.
    pub health: HealthSettings,
}

impl Default for UpstreamSettings {
    fn default() -> Self {
        Self { idle_connections: 1024, idle_ms: 30_000, retries: 2, health: HealthSettings::default() }
    }
}

/// How upstreams are found fit or unfit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HealthSettings {
    /// Time between two active checks in ms; 0: none.
    #[schemars(range(max = 86_400_000))]
    pub interval_ms: u64,
    /// For one check to succeed.
    #[schemars(range(min = 1, max = 86_400_000))]
    pub timeout_ms: u64,
    /// The path of an HTTP check, which succeeds on 2xx and 3xx; without one, a TCP connection suffices.
    pub path: Option<String>,
    /// Successes in a row that bring an upstream back.
    #[schemars(range(min = 1, max = 1000))]
    pub rise: u32,
    /// Failures in a row, active or passive (a request that could not be sent or got no response head), that take it out.
    #[schemars(range(min = 1, max = 1000))]
    pub fall: u32,
    /// Without active checks: how long an upstream stays out, in ms.
    #[schemars(range(max = 86_400_000))]
    pub eject_ms: u64,
}

impl Default for HealthSettings {
    fn default() -> Self {
        Self { interval_ms: 0, timeout_ms: 1_000, path: None, rise: 2, fall: 3, eject_ms: 5_000 }
    }
}

/// A function in a chain of layer L4/L7.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MessageHopPlan {
    /// Name in the manifest, unique in the chain.
    pub name: String,
    /// Registered name of the function; for an external binary, its path.
    pub function: String,
    /// Its part of the manifest.
    pub config: Value,
    /// The chain it belongs to.
    pub chain: u16,
    /// How messages reach it.
    pub transport: Transport,
    /// Instances; connections are spread over them.
    pub replicas: u16,
    /// What happens to messages while no instance is alive, and to those an instance held when it died.
    pub on_failure: OnLoss,
    /// Named outputs, in the order that the function knows them by: hops further down the chain.
    pub outputs: Vec<(String, u16)>,
}

/// What happens to messages for a function that is not there, and to those it held when it died.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnLoss {
    /// Their requests are answered with 502 or 503.
    Drop,
    /// They skip the function.
    Bypass,
    /// They wait for the next instance; a request whose message was lost runs the chain once more, once, if nothing of it has
    /// been sent to an upstream.
    #[default]
    Retry,
}

/// How messages reach a function.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// A call in the broker.
    Inline,
    /// Descriptors through an eBPF SK_MSG program, from function to function.
    #[default]
    Skmsg,
    /// Descriptors through rings, by way of the broker.
    Ring,
}

/// What an instance of a function process declared when it was made; travels with [`crate::Request::Attach`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Declared {
    /// Which messages it wants.
    pub interests: Interests,
    /// The upstreams it may route to, `host:port` with a numeric host, in its own numbering.
    pub upstreams: Vec<String>,
    /// Whether those are servers of one service: a request that one cannot take may go to another.
    #[serde(default)]
    pub alike: bool,
}

/// Everything the broker counts, since its start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BrokerStats {
    /// Seconds since the workers started.
    pub uptime_s: f64,
    /// By chain id.
    pub chains: Vec<MessageChainStats>,
    /// By hop id.
    pub hops: Vec<MessageHopStats>,
    /// All upstreams, in the order they were declared.
    pub upstreams: Vec<UpstreamStats>,
    /// By worker.
    pub workers: Vec<BrokerWorkerStats>,
    /// `works`, or why SK_MSG is not used.
    pub skmsg: String,
    /// Message buffers there are.
    pub buffers: u64,
    /// Message buffers free.
    pub buffers_free: u64,
    /// Message buffers that functions hold.
    pub buffers_held: u64,
}

/// One chain. received = answered + rejected + failed + aborted + in_progress, in requests (TCP: in connections).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MessageChainStats {
    /// Name in the manifest.
    pub name: String,
    /// `http` or `tcp`.
    pub protocol: String,
    /// Where it listens, the ports resolved.
    pub listen: Vec<String>,
    /// Client connections accepted.
    pub connections: u64,
    /// Client connections open now.
    pub open_connections: u64,
    /// Requests whose first byte arrived; in TCP mode: connections.
    pub received: u64,
    /// Requests answered in full by an upstream or a function.
    pub answered: u64,
    /// Answered by the broker with an error of the client's, or closed for it, by reason.
    pub rejected: Vec<(String, u64)>,
    /// Answered by the broker with 5xx, or cut off, by reason.
    pub failed: Vec<(String, u64)>,
    /// Ended by the client before the response was complete.
    pub aborted: u64,
    /// Under way.
    pub in_progress: u64,
    /// Responses by hundreds of their status: 1xx, 2xx, 3xx, 4xx, 5xx.
    pub statuses: [u64; 5],
    /// Bytes from clients.
    pub received_bytes: u64,
    /// Bytes to clients.
    pub sent_bytes: u64,
    /// Requests sent again to another upstream or connection.
    pub retries: u64,
    /// Requests given to functions again after a function died.
    pub reruns: u64,
    /// Connections that became tunnels (101, or CONNECT-less Upgrade).
    pub upgrades: u64,
    /// From the end of the request head to the end of the response.
    pub latency: Latency,
}

/// One hop.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MessageHopStats {
    /// Name in the manifest.
    pub name: String,
    /// Chain it belongs to.
    pub chain: String,
    /// `inline`, `skmsg` or `ring`, as it is now.
    pub transport: String,
    /// Messages that were to visit it.
    pub messages: u64,
    /// Messages that skipped it while it was dead.
    pub bypassed: u64,
    /// Messages that could not be delivered to it and came back to the broker, by reason.
    pub returned: Vec<(String, u64)>,
    /// Messages that were lost to their requests because it died or did not answer, by reason.
    pub failed: Vec<(String, u64)>,
    /// Descriptors that the filter refused, by what was wrong.
    pub refused: Vec<(String, u64)>,
    /// Its instances: by replica, or of an inline function by worker.
    pub instances: Vec<MessageInstanceStats>,
}

/// One instance of a hop.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct MessageInstanceStats {
    /// Whether it gets messages.
    pub attached: bool,
    /// Buffers it holds now.
    pub held: u64,
    /// Its counters (inline only; the runtime reads those of processes itself).
    pub counters: Vec<(CounterInfo, u64)>,
    /// Its report (inline only).
    pub report: Value,
}

/// One upstream.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct UpstreamStats {
    /// Its chain.
    pub chain: String,
    /// Its address.
    pub address: String,
    /// Whether requests are sent to it.
    pub healthy: bool,
    /// Requests under way.
    pub active: u64,
    /// Requests sent to it.
    pub requests: u64,
    /// Requests that failed there.
    pub failures: u64,
    /// Connections opened.
    pub connects: u64,
    /// Requests sent on a connection that was open already.
    pub reuses: u64,
    /// Active checks that succeeded and failed.
    pub checks: [u64; 2],
    /// How often it was taken out.
    pub ejections: u64,
}

/// One worker thread.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct BrokerWorkerStats {
    /// Core it is pinned to.
    pub core: usize,
    /// Times it was woken.
    pub wakeups: u64,
    /// Groups of descriptors sent.
    pub groups_sent: u64,
    /// Descriptors sent.
    pub descriptors_sent: u64,
    /// Wake-ups that brought descriptors.
    pub hop_wakeups: u64,
    /// Descriptors that came back.
    pub descriptors_received: u64,
    /// Wake-ups that the watchdog found lost.
    pub lost_wakeups: u64,
    /// Changes from `skmsg` to `ring` while running.
    pub transport_changes: u64,
}
