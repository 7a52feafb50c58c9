//! The form of virtual functions.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Addresses;

/// Virtual functions of a PF. They are made when the run begins, and gone when it ends.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PfForm {
    /// How many to make; more than are listed leaves some to others. Default: as many as are listed. If the PF has some already,
    /// those are used, and their number stays as it is.
    pub create: Option<u16>,
    /// Those that are used.
    pub vfs: Vec<VfForm>,
}

/// A virtual function.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VfForm {
    /// Its name: `ports: { wan: { vf: NAME } }`.
    pub name: String,
    /// `dpdk`: it is the device of a port. `kernel`: it is an interface of the host, for the kernel's stack and chains of layer
    /// `l4l7`.
    #[serde(rename = "use")]
    pub driver: VfUse,
    /// Its index at the PF; default: its place in the list.
    pub index: Option<u16>,
    /// Its MAC address, by which the NIC sends packets to it; without one the driver makes one up.
    pub mac: Option<String>,
    /// Its VLAN: the NIC puts the tag on what it sends, gives it what has the tag, and takes the tag off.
    #[schemars(range(min = 1, max = 4094))]
    pub vlan: Option<u16>,
    /// Whether it may change its MAC address and receive what is for others.
    pub trust: Option<bool>,
    /// Whether the NIC drops what it sends with another source address than its own.
    pub spoof_check: Option<bool>,
    /// The highest rate at which it sends, in Mb/s; 0 for no limit.
    pub max_rate_mbps: Option<u32>,
    /// With `use: kernel`: addresses of its interface, one or a list, each `10.0.0.11/24`.
    #[serde(default)]
    pub address: Addresses,
}

/// Who drives a virtual function.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum VfUse {
    /// DPDK.
    Dpdk,
    /// The kernel.
    Kernel,
}

/// A virtual function's name, or a mapping with options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum VfPortForm {
    /// Its name.
    Name(String),
    /// With options.
    Options(VfPortOptions),
}

/// A virtual function as a port, with options.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VfPortOptions {
    /// Its name.
    pub name: String,
    /// Receive queues; default: one per worker, as far as it has them.
    #[serde(default)]
    pub queues: u16,
}

impl VfPortForm {
    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Name(name) => name,
            Self::Options(options) => &options.name,
        }
    }

    /// Receive queues wanted; 0 for as many as are useful.
    pub fn queues(&self) -> u16 {
        match self {
            Self::Name(_) => 0,
            Self::Options(options) => options.queues,
        }
    }
}
