//! What the runtime tells the data planes (nf-manager, message broker), and what they answer.
//!
//! The runtime turns a manifest into a [`ManagerPlan`] and a [`BrokerPlan`]; who executes one never sees a manifest. Afterwards
//! the two sides speak in [`Request`]s and [`Reply`]s over one socket ([`middlenet_sdk::Channel`]), one reply per request.

#![forbid(unsafe_code)]

mod broker;
mod fast_path;
mod stats;
mod steering;

pub use broker::{
    BrokerPlan, BrokerStats, BrokerWorkerStats, Declared, HealthSettings, MessageChainPlan, MessageChainStats,
    MessageHopPlan, MessageHopStats, MessageInstanceStats, MessageLimits, OnLoss, Protocol, Timeouts, Transport,
    UpstreamSettings, UpstreamStats,
};
pub use fast_path::{FastPathPlan, FastPathStats};
pub use middlenet_sdk::protocol::Wait;
pub use stats::{
    Conservation, FastPathConservation, HopStats, InstanceStats, Latency, PortStats, Stats, WorkerStats, drop_stage,
};
pub use steering::{Destination, SteerTargetPlan, SteeredFlow, SteeredStats, SteeringPlan, SteeringStats};

use middlenet_fast_path::MapKind;
use middlenet_sdk::PortInfo;
use middlenet_sdk::peer::PeerAddress;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Everything the manager needs to run. Valid by construction: indexes point where they should.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ManagerPlan {
    /// Name of the run; used in messages.
    pub name: String,
    /// Packet buffers in the region.
    pub buffers: u32,
    /// Bytes per buffer, 2048 or 4096.
    pub buffer_bytes: u32,
    /// One entry per worker thread: the core it is pinned to.
    pub workers: Vec<usize>,
    /// How workers wait.
    pub wait: Wait,
    /// Whether function processes run on a worker's core, so that an idle worker must not keep it.
    pub shares_core: bool,
    /// Slots per ring, a power of two.
    pub ring_slots: u32,
    /// Ports by id (= index).
    pub ports: Vec<PortPlan>,
    /// Hops by id (= index).
    pub hops: Vec<HopPlan>,
    /// Chains by id (= index).
    pub chains: Vec<ChainPlan>,
    /// Deterministic run over capture files: time is the packets' time, and a burst leaves the chain before the next enters.
    pub lockstep: bool,
    /// Run without hugepages and privileges.
    pub unprivileged: bool,
}

/// A port.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PortPlan {
    /// Name in the manifest.
    pub name: String,
    /// What it is.
    pub kind: PortKind,
    /// Receive queues wanted; queue `q` belongs to worker `q % workers`. 0: as many as the device offers, at most one per worker.
    pub queues: u16,
    /// Which of its packets go where; without, all go to its chain.
    #[serde(default)]
    pub steering: Option<SteeringPlan>,
    /// Its device splits its packets with the kernel: it takes in what the rules want for the data plane and leaves the rest
    /// (`rte_flow`, isolated).
    #[serde(default)]
    pub isolated: bool,
}

/// Kinds of ports.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// A DPDK device: PCI address or vdev string.
    Dpdk {
        /// `0000:01:00.0`, or `net_null0,size=64`.
        device: String,
    },
    /// A kernel interface through AF_XDP. A `kernel` port is one too: the runtime makes the veth and names its end here.
    Xdp {
        /// Interface name.
        interface: String,
        /// Native, generic, or whichever works.
        mode: XdpMode,
    },
    /// Capture files.
    Pcap {
        /// Packets come from here.
        read: Option<String>,
        /// Packets go there.
        write: Option<String>,
    },
}

/// How an XDP program is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// Native if the driver has it, else generic.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// A function in a chain.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct HopPlan {
    /// Name in the manifest, unique in the chain.
    pub name: String,
    /// Registered name of the function; for an external binary, its path.
    pub function: String,
    /// Its part of the manifest.
    pub config: Value,
    /// Where it runs.
    pub placement: Placement,
    /// Instances; flows are spread over them by hash.
    pub replicas: u16,
    /// What happens to packets while no instance is alive.
    pub on_failure: OnFailure,
    /// The chain it belongs to.
    pub chain: u16,
    /// Where packets go on, in the forward direction (from the chain's first port).
    pub next_forward: Target,
    /// Where packets go on, in the reverse direction.
    pub next_reverse: Target,
    /// Named outputs, in the order that the function knows them by.
    pub outputs: Vec<(String, Target)>,
    /// Where it may steer flows, in the order that the function knows them by.
    #[serde(default)]
    pub steering: Vec<SteerTargetPlan>,
    /// Its fast path in the kernel, on ports that can have one.
    #[serde(default)]
    pub fast_path: Option<FastPathPlan>,
    /// Hosts that it may dial, by its configuration.
    #[serde(default)]
    pub peers: Vec<PeerAddress>,
}

/// Where a function runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Called by the worker.
    Inline,
    /// A process of its own, over rings.
    #[default]
    Process,
}

/// What happens to packets for a function that is not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They are dropped and counted.
    #[default]
    Drop,
    /// They skip the hop.
    Bypass,
}

/// Where an edge leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Target {
    /// A hop by id.
    Hop(u16),
    /// A port by id.
    Port(u8),
    /// Out of the chain at the end the packet is heading for: the port a function chose, else the only one there.
    Egress,
    /// Dropped and counted as a choice of the manifest.
    Drop,
}

/// A chain. Its first port is its left side, all others its right side; packets from the left travel forward.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChainPlan {
    /// Name in the manifest.
    pub name: String,
    /// The left port.
    pub left: u8,
    /// The right ports; empty for a chain that answers on its only port.
    pub right: Vec<u8>,
    /// Where packets from the left enter.
    pub entry_forward: Target,
    /// Where packets from the right enter.
    pub entry_reverse: Target,
}

/// From the runtime to the manager.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "a handful of messages per run")]
pub enum Request {
    /// The first request: open ports and start the workers. Descriptors: the packets region. Answer: [`Reply::Started`].
    Start {
        /// What to run.
        plan: ManagerPlan,
    },
    /// To the broker, in place of `Start`. Descriptors: the messages region. Answer: [`Reply::Started`] without ports.
    StartBroker {
        /// What to run.
        plan: BrokerPlan,
    },
    /// An instance of a process hop is ready. Descriptors: its control region; to the broker, for a hop on `skmsg`, also
    /// a duplicate of the function's socket and the other end of that connection. It gets traffic from now on.
    Attach {
        /// Hop id.
        hop: u16,
        /// Replica number, below the hop's `replicas`. An instance there already is drained and let go first.
        replica: u16,
        /// To the broker: what the instance declared.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        declared: Option<Declared>,
    },
    /// An instance died or is to go: no more traffic to it; what it holds is reclaimed.
    Detach {
        /// Hop id.
        hop: u16,
        /// Replica number.
        replica: u16,
        /// Wait for what it still has in its rings (a replacement), or take everything back at once (a death).
        drain: bool,
    },
    /// Replace an inline function by one with this configuration.
    Reconfigure {
        /// Hop id.
        hop: u16,
        /// Its part of the manifest.
        config: Value,
    },
    /// Replace the steering rules of a port that has some. No packet is lost by it.
    Steer {
        /// Port id.
        port: u8,
        /// The new rules.
        steering: SteeringPlan,
    },
    /// A function of this hop steers flows. Those that it may not steer, or that find no room, are counted.
    SteerFlows {
        /// Hop id.
        hop: u16,
        /// The flows.
        flows: Vec<middlenet_sdk::SteeredFlow>,
        /// Wishes that were lost before these, since it steers faster than it is served.
        unheard: u64,
    },
    /// Counters now.
    Stats,
    /// Stop receiving, let packets in flight leave (at most `drain_ms`), stop. Answer: [`Reply::Stopped`]; then the manager exits.
    Stop {
        /// Milliseconds to wait for packets in flight.
        drain_ms: u64,
    },
}

/// From the manager to the runtime.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "a handful of messages per run")]
pub enum Reply {
    /// Ports are open, workers run. Descriptors: one eventfd per worker, for the functions' doorbells.
    Started {
        /// The ports as functions see them.
        ports: Vec<PortInfo>,
        /// What a person should know: fall-backs taken, with their cost.
        notes: Vec<String>,
    },
    /// The maps that a hop's function shares with its fast path, sent unasked before [`Reply::Started`]. Descriptors: the maps, in
    /// this order.
    FastPath {
        /// Hop id.
        hop: u16,
        /// Which.
        maps: Vec<MapKind>,
    },
    /// Done.
    Done,
    /// Counters.
    Stats(Box<Stats>),
    /// The data plane has stopped: the last counters, and where every buffer ended up.
    Stopped(Box<Stats>),
    /// The broker's counters.
    BrokerStats(Box<BrokerStats>),
    /// The broker has stopped: its last counters.
    BrokerStopped(Box<BrokerStats>),
    /// Every capture file has been read and every packet has left: sent once, unasked, in a lockstep run.
    Finished,
    /// A port is another than it was, such as an interface that came back with another address: sent unasked. Functions of chains
    /// with such a port are to be told, which takes a new instance of each; inline ones have been.
    PortsChanged {
        /// All ports as functions see them.
        ports: Vec<PortInfo>,
    },
    /// It did not work: one sentence and a remedy.
    Failed {
        /// The sentence.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
}
