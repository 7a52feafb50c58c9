//! The manifest: what an operator writes. The types here are its form and, through their doc comments, its reference.

mod entry;
mod messages;
mod read;
mod sriov;
mod steering;

pub use entry::{FunctionEntry, FunctionOptions};
pub use messages::{HopForm, Listen, MessageChainForm};
pub use read::{Chain, ChainOptions, Manifest, Pf, Port, SteeredPort};
pub use sriov::{PfForm, VfForm, VfPortForm, VfPortOptions, VfUse};
pub use steering::SteeringRule;

pub use middlenet_plan::{OnFailure as PlanOnFailure, OnLoss, Placement as PlanPlacement, XdpMode as PlanXdpMode};
use middlenet_sdk::protocol::Wait;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Top level of a manifest. `chains` and `ports` are read one by one, so that an error in one hides none in another.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "MiddleNet manifest")]
pub struct Form {
    /// Name of the run, used by `middlenet status NAME` and in the names of interfaces; lower-case letters, digits and `-`,
    /// at most 32.
    pub name: String,
    /// The ports by name. At most 32. Chains of layer `l2l3` need them, others have none.
    #[serde(default)]
    pub ports: BTreeMap<String, PortForm>,
    /// The chains by name.
    pub chains: BTreeMap<String, ChainForms>,
    /// For ports by name: rules that say which of a port's packets go where; the first that matches decides. Without rules all
    /// go to the port's chain.
    #[serde(default)]
    pub steering: BTreeMap<String, Vec<SteeringRule>>,
    /// Virtual functions of NICs with SR-IOV, by the PF's interface or PCI address.
    #[serde(default)]
    pub sriov: BTreeMap<String, PfForm>,
    /// Which cores do what. Default: manager and broker on the first core, functions on the others; on one core they share it.
    #[serde(default)]
    pub cores: Cores,
    /// The packet and message buffers.
    #[serde(default)]
    pub memory: Memory,
    /// Descriptors that fit a ring between the manager and a function: a power of two from 64 to 65536.
    #[serde(default = "ring_slots")]
    pub ring_slots: u32,
    /// The user that function processes run under when root starts the run: a name or a number, not root. No other run may have it.
    /// Default: a number of the run's own, from 1879048193 on, that stays the same for the same `name`.
    pub user: Option<UserForm>,
    /// How threads wait for packets: `poll` spins, `auto` spins for a short time and then sleeps, `event` sleeps at once.
    #[serde(default)]
    pub wait: Wait,
    /// Where functions run unless they or their chain say otherwise.
    #[serde(default)]
    pub placement: Placement,
    /// A function that has packets waiting and shows no sign of life for this long is killed and started anew, in
    /// milliseconds.
    #[serde(default = "heartbeat_ms")]
    #[schemars(range(min = 50, max = 600_000))]
    pub heartbeat_ms: u64,
    /// On exit, packets in flight get this long to leave, in milliseconds.
    #[serde(default = "drain_ms")]
    #[schemars(range(max = 60_000))]
    pub drain_ms: u64,
}

fn ring_slots() -> u32 {
    2048
}

fn heartbeat_ms() -> u64 {
    1000
}

fn drain_ms() -> u64 {
    500
}

/// A user.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum UserForm {
    /// By number; it needs no entry in `/etc/passwd`.
    Number(u32),
    /// By name.
    Name(String),
}

impl std::fmt::Display for UserForm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

/// A port: exactly one of `dpdk`, `vf`, `xdp`, `kernel` and `pcap`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PortForm {
    /// A device that DPDK drives: a PCI address (`0000:01:00.0`) or a virtual device (`net_null0,size=64`).
    pub dpdk: Option<DpdkForm>,
    /// A virtual function of a NIC, by its name under `sriov:`; DPDK drives it.
    pub vf: Option<VfPortForm>,
    /// A kernel interface through AF_XDP; its packets no longer reach the kernel's stack.
    pub xdp: Option<XdpForm>,
    /// A new interface of the host, through which packets reach the host's own stack.
    pub kernel: Option<KernelForm>,
    /// Capture files, for runs without a network.
    pub pcap: Option<PcapForm>,
}

/// A DPDK device, or a mapping with its options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum DpdkForm {
    /// PCI address or virtual device.
    Device(String),
    /// With options.
    Options(DpdkOptions),
}

impl DpdkForm {
    /// PCI address or virtual device.
    pub fn device(&self) -> &str {
        match self {
            Self::Device(device) => device,
            Self::Options(options) => &options.device,
        }
    }
}

/// A DPDK device with options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DpdkOptions {
    /// PCI address or virtual device.
    pub device: String,
    /// Receive queues; default: one per worker, as far as the device has them.
    #[serde(default)]
    pub queues: u16,
}

/// An interface's name, or a mapping with its options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum XdpForm {
    /// The interface.
    Interface(String),
    /// With options.
    Options(XdpOptions),
}

/// An AF_XDP port with options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct XdpOptions {
    /// The interface.
    pub interface: String,
    /// Where the XDP program runs: `native` in the driver, `generic` in the stack (slower, any driver), `auto` tries native
    /// first.
    #[serde(default)]
    pub mode: XdpMode,
    /// Receive queues; default: as many as the interface has, at most one per worker.
    #[serde(default)]
    pub queues: u16,
}

/// How an XDP program is attached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
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

/// An interface that the runtime makes and removes.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KernelForm {
    /// Name of the host's end, at most 15 characters.
    pub interface: String,
    /// Addresses of the host's end: one or a list, each `10.0.0.1/24`.
    #[serde(default)]
    pub address: Addresses,
}

/// One address or several.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Addresses {
    /// One, with its prefix length.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl Default for Addresses {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl Addresses {
    /// All of them.
    pub fn as_slice(&self) -> &[String] {
        match self {
            Self::One(address) => std::slice::from_ref(address),
            Self::Many(addresses) => addresses,
        }
    }
}

/// Capture files; paths are relative to the manifest.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PcapForm {
    /// Packets come from here.
    pub read: Option<PathBuf>,
    /// Packets go there.
    pub write: Option<PathBuf>,
}

/// A chain of either layer.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
#[allow(clippy::large_enum_variant, reason = "stands for the schema; chains are read one by one")]
pub enum ChainForms {
    /// Of packets.
    Packets(ChainForm),
    /// Of messages.
    Messages(MessageChainForm),
}

/// A chain of layer L2/L3.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChainForm {
    /// What the chain handles.
    #[serde(default)]
    pub layer: Layer,
    /// Names of its ports. The first is its left side, all others its right side; with one port it answers on it.
    pub ports: Vec<String>,
    /// The functions, from left to right. Packets from the right meet them in reverse order. Each is a name (`monitor`), a name
    /// with its configuration (`firewall: { ... }`), or a name of your own with options
    /// (`edge: { use: firewall, config: { ... }, replicas: 2 }`).
    #[schemars(schema_with = "crate::schema::function_entries")]
    pub functions: Vec<serde_json::Value>,
    /// As at the top level, for this chain's functions.
    pub wait: Option<Wait>,
    /// As at the top level, for this chain's functions.
    pub placement: Option<Placement>,
}

/// What a chain handles.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// Packets.
    #[default]
    L2l3,
    /// Connections and requests.
    L4l7,
}

/// Where a function runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// Called by a worker of the data plane: fastest; shares its fate.
    Inline,
    /// A process of its own over shared memory: its death costs nobody else.
    #[default]
    Process,
}

/// What happens to packets or messages while no instance of a function is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// They are dropped and counted; requests are answered with 502 or 503.
    Drop,
    /// They skip the function.
    Bypass,
    /// In chains of layer `l4l7`: they wait for the next instance, and what was lost with one is tried once more.
    Retry,
}

/// Which cores do what.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Cores {
    /// One worker thread of the manager per core.
    pub manager: Vec<usize>,
    /// One worker thread of the message broker per core. Default: the manager's cores.
    pub broker: Vec<usize>,
    /// Cores for function processes, given out in turn.
    pub functions: Vec<usize>,
}

/// The packet and message buffers.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// How many packet buffers, for chains of layer `l2l3`.
    pub buffers: u32,
    /// Bytes in each: 2048, or 4096 for an MTU above 1500.
    pub buffer_bytes: u32,
    /// How many message buffers of 16 KiB, for chains of layer `l4l7`.
    pub messages: u32,
    /// Whether they lie in 2 MiB pages: `auto` where the host has them, `require` or an error, `never`.
    pub hugepages: Hugepages,
}

impl Default for Memory {
    fn default() -> Self {
        Self { buffers: 16384, buffer_bytes: 2048, messages: 4096, hugepages: Hugepages::Auto }
    }
}

/// Whether to use 2 MiB pages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Hugepages {
    /// Where the host has them.
    #[default]
    Auto,
    /// Or the run does not start.
    Require,
    /// 4 KiB pages.
    Never,
}

impl From<Placement> for PlanPlacement {
    fn from(placement: Placement) -> Self {
        match placement {
            Placement::Inline => Self::Inline,
            Placement::Process => Self::Process,
        }
    }
}

impl OnFailure {
    /// In a chain of packets; nothing for what only messages can do.
    pub fn for_packets(self) -> Option<PlanOnFailure> {
        match self {
            Self::Drop => Some(PlanOnFailure::Drop),
            Self::Bypass => Some(PlanOnFailure::Bypass),
            Self::Retry => None,
        }
    }
}

impl From<OnFailure> for OnLoss {
    fn from(on_failure: OnFailure) -> Self {
        match on_failure {
            OnFailure::Drop => Self::Drop,
            OnFailure::Bypass => Self::Bypass,
            OnFailure::Retry => Self::Retry,
        }
    }
}

impl From<XdpMode> for PlanXdpMode {
    fn from(mode: XdpMode) -> Self {
        match mode {
            XdpMode::Auto => Self::Auto,
            XdpMode::Native => Self::Native,
            XdpMode::Generic => Self::Generic,
        }
    }
}
