//! What will run: the plans of the data planes, the processes, and what the host has to provide.

mod difference;
mod hops;
mod lines;

pub use difference::{Change, Difference, Piece};
pub use hops::Hop;
pub use lines::DrawnChain;

use middlenet_plan::{BrokerPlan, ManagerPlan};
use middlenet_sdk::protocol::Wait;
use middlenet_sriov::PfWish;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Duration;

use crate::confine::Files;
use crate::domain::Ids;
use crate::manifest::Hugepages;

/// Everything `run` does, decided. Only [`crate::check::plan`] makes one, so it is valid by construction.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Name of the run.
    pub name: String,
    /// For the nf-manager, if there are chains of packets.
    pub manager: Option<ManagerPlan>,
    /// For the message broker, if there are chains of messages.
    pub broker: Option<BrokerPlan>,
    /// For the supervisor.
    pub runtime: RuntimePlan,
}

/// The supervisor's part.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimePlan {
    /// One per replica of every process hop, in the order of hops; those of packets first.
    pub processes: Vec<ProcessPlan>,
    /// Interfaces to make.
    pub kernel_ports: Vec<KernelPort>,
    /// Virtual functions to make, by PF.
    pub vfs: Vec<PfWish>,
    /// Ports whose device is one of them.
    pub vf_ports: Vec<VfPort>,
    /// Ports whose rules the NIC carries out in part.
    pub placed: Vec<PlacedPort>,
    /// Pages behind the regions of buffers.
    pub hugepages: Hugepages,
    /// Who the functions run as.
    pub user: DomainUser,
    /// A function silent for this long while attached is killed.
    pub heartbeat: Duration,
    /// Time for packets in flight at the end.
    pub drain: Duration,
    /// What a person should know, though nothing is wrong.
    pub notes: Vec<String>,
    /// What would keep a run from starting on this host as it was when the plan was made.
    pub obstacles: Vec<String>,
}

/// A data plane: the process that moves packets or messages, and its chains.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Plane {
    /// The nf-manager.
    Packets,
    /// The message broker.
    Messages,
}

impl Plane {
    /// Both, in the order in which they start.
    pub const ALL: [Self; 2] = [Self::Packets, Self::Messages];

    /// Its process, for people.
    pub const fn process(self) -> &'static str {
        match self {
            Self::Packets => "nf-manager",
            Self::Messages => "message broker",
        }
    }

    /// The layer of its chains.
    pub const fn layer(self) -> middlenet_sdk::Layer {
        match self {
            Self::Packets => middlenet_sdk::Layer::L2l3,
            Self::Messages => middlenet_sdk::Layer::L4l7,
        }
    }
}

/// A hop of a run. Each data plane numbers its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct HopId {
    /// The data plane it belongs to.
    pub plane: Plane,
    /// Its number there.
    pub hop: u16,
}

impl HopId {
    /// By index.
    pub fn new(plane: Plane, index: usize) -> Self {
        Self { plane, hop: u16::try_from(index).unwrap_or(u16::MAX) }
    }
}

/// A function process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessPlan {
    /// Its hop.
    pub hop: HopId,
    /// Replica number.
    pub replica: u16,
    /// `chain/function`, with `#replica` where there are several: for messages.
    pub label: String,
    /// What is started.
    pub program: Program,
    /// Ids of the chain's ports.
    pub ports: Vec<u8>,
    /// How it waits.
    pub wait: Wait,
    /// Cores it may use.
    pub cores: Vec<usize>,
    /// Whether others poll on these cores.
    pub shares_core: bool,
    /// The files it may open.
    pub files: Files,
}

/// The user that functions run under, when root starts the run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DomainUser {
    /// One that no other run has, made of the run's name.
    #[default]
    Own,
    /// The manifest's.
    Given(Ids),
}

/// What a function process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `middlenet fn NAME`.
    BuiltIn(String),
    /// A binary of the operator's.
    External(PathBuf),
}

/// A veth pair: the host's end for the host's stack, the other for the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelPort {
    /// Port id.
    pub port: u8,
    /// The manager's end.
    pub inner: String,
    /// The host's end.
    pub interface: String,
    /// Addresses of the host's end, with prefix length.
    pub addresses: Vec<String>,
}

/// A port whose device is a virtual function; its PCI address is known when that has been made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VfPort {
    /// Port id.
    pub port: u8,
    /// Name of the virtual function.
    pub vf: String,
}

/// Who carries out the rules of a port that shares its NIC with the kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlacedPort {
    /// Port id.
    pub port: u8,
    /// For each rule, and last for all other packets: `nic`, `nic filters`, `nic flows`, `manager`.
    pub by: Vec<String>,
}
