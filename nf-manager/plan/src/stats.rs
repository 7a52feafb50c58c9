//! Counters of the data plane, as the manager reports them.

use crate::{FastPathStats, SteeringStats};
use middlenet_sdk::CounterInfo;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Where in the data plane packets are dropped: the first half of a drop counter's name.
pub mod drop_stage {
    /// Between a port and its chain.
    pub const INGRESS: &str = "ingress";
    /// By a function's verdict.
    pub const FUNCTION: &str = "function";
    /// Between hops: rings, filter, missing functions, edges.
    pub const HOP: &str = "hop";
    /// Between a chain and a port.
    pub const EGRESS: &str = "egress";
}

/// Everything the data plane counts, since its start.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Seconds since the workers started.
    pub uptime_s: f64,
    /// By port id.
    pub ports: Vec<PortStats>,
    /// By hop id.
    pub hops: Vec<HopStats>,
    /// By worker.
    pub workers: Vec<WorkerStats>,
    /// Where every packet and every buffer is.
    pub conservation: Conservation,
}

/// One port.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct PortStats {
    /// Name in the manifest.
    pub name: String,
    /// `dpdk`, `xdp native`, `xdp generic`, `pcap`.
    pub kind: String,
    /// Packets received into chains.
    pub received_pkts: u64,
    /// Bytes received.
    pub received_bytes: u64,
    /// Packets handed to the device.
    pub sent_pkts: u64,
    /// Bytes sent.
    pub sent_bytes: u64,
    /// Lost by the device or the kernel before they reached a chain (no buffer posted, queue full), by reason.
    pub missed: Vec<(String, u64)>,
    /// Dropped here after they were received, as `(stage, reason, packets)`.
    pub drops: Vec<(String, String, u64)>,
    /// Bursts not taken because a chain was full (back-pressure).
    pub held_back_polls: u64,
    /// Whether its link is up; nothing where the device does not know, or knows no link.
    #[serde(default)]
    pub link_up: Option<bool>,
    /// How often it was stopped and started because it had gone deaf.
    #[serde(default)]
    pub restarts: u64,
    /// Why it was restarted last, or cannot be.
    #[serde(default)]
    pub trouble: Option<String>,
    /// Whether its interface takes the packets that fast paths send by it, without a worker; nothing where no function has one.
    #[serde(default)]
    pub takes_redirects: Option<bool>,
    /// What its steering rules did.
    #[serde(default)]
    pub steering: Option<SteeringStats>,
}

/// One hop.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct HopStats {
    /// Name in the manifest.
    pub name: String,
    /// Chain it belongs to.
    pub chain: String,
    /// `inline` or `process`.
    pub placement: String,
    /// Packets handed to the function.
    pub in_pkts: u64,
    /// Packets that came back with a verdict other than drop.
    pub out_pkts: u64,
    /// Packets it made itself.
    pub originated_pkts: u64,
    /// Packets that skipped it while it was dead.
    pub bypassed_pkts: u64,
    /// Drops as `(stage, reason, packets)`. A reason `#N` is the function's own, number N - 32 of those it declared.
    pub drops: Vec<(String, String, u64)>,
    /// Descriptors that the filter refused, by what was wrong: forged, given back twice, or garbage. They named no buffer that
    /// the function held, so they are not packets.
    pub refused_descriptors: Vec<(String, u64)>,
    /// From hand-over to return, sampled.
    pub latency: Latency,
    /// Its instances: by replica, or of an inline function by worker.
    pub instances: Vec<InstanceStats>,
    /// What its fast path did; nothing without one, and where it could not be loaded.
    #[serde(default)]
    pub fast_path: Option<FastPathStats>,
}

/// One instance of a hop.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct InstanceStats {
    /// Whether it gets traffic.
    pub attached: bool,
    /// Buffers it holds now.
    pub held_pkts: u64,
    /// Its counters (inline only; the runtime reads those of processes itself).
    pub counters: Vec<(CounterInfo, u64)>,
    /// Its report (inline only).
    pub report: Value,
}

/// A latency distribution in nanoseconds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Samples.
    pub samples: u64,
    /// Median.
    pub p50_ns: u64,
    /// 99th percentile.
    pub p99_ns: u64,
    /// Largest.
    pub max_ns: u64,
    /// Buckets `(upper bound in ns, samples)`, the empty ones left out.
    pub buckets: Vec<(u64, u64)>,
}

/// One worker thread.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct WorkerStats {
    /// Core it is pinned to.
    pub core: usize,
    /// Turns of its loop that found packets.
    pub busy_turns: u64,
    /// Turns that found none.
    pub idle_turns: u64,
    /// Times it slept.
    pub parks: u64,
    /// TSC cycles spent in busy turns.
    pub busy_cycles: u64,
}

/// received + originated = sent + dropped + held, in packets; and where the buffers are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conservation {
    /// From ports.
    pub received_pkts: u64,
    /// Made by functions, copies for flooding included.
    pub originated_pkts: u64,
    /// Out of ports.
    pub sent_pkts: u64,
    /// Dropped, for any reason.
    pub dropped_pkts: u64,
    /// In rings or with functions.
    pub held_pkts: u64,
    /// Buffers there are.
    pub buffers: u64,
    /// Buffers free in the pool.
    pub buffers_free: u64,
    /// Buffers in ports: posted for receiving, or on their way out.
    pub buffers_in_ports: u64,
    /// Empty buffers lent to functions for packets of their own.
    pub buffers_lent: u64,
    /// What the fast paths of all hops did.
    #[serde(default)]
    pub fast_paths: FastPathConservation,
}

/// entered = sent + dropped + slow path + kernel, in packets that entered chains with fast paths in the kernel. Those on the slow
/// path were handed to the workers, where they count as received.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPathConservation {
    /// Into chains.
    pub entered_pkts: u64,
    /// Out of ports, by the kernel.
    pub sent_pkts: u64,
    /// Dropped, for any reason.
    pub dropped_pkts: u64,
    /// To the workers.
    pub slow_pkts: u64,
    /// To the kernel's own stack.
    pub kernel_pkts: u64,
}

impl FastPathConservation {
    /// Whether every packet is accounted for. Exact while no packet comes.
    pub fn balances(&self) -> bool {
        self.entered_pkts == self.sent_pkts + self.dropped_pkts + self.slow_pkts + self.kernel_pkts
    }
}

impl Conservation {
    /// Whether every packet is accounted for. Exact once the data plane stands still.
    pub fn packets_balance(&self) -> bool {
        self.received_pkts + self.originated_pkts == self.sent_pkts + self.dropped_pkts + self.held_pkts
    }
}
