//! What the crate asks of the host and does to it: the real one, and in tests a small kernel over a temporary folder.

use std::io;
use std::net::IpAddr;
use std::path::Path;

use crate::{Filters, Mac};

/// A host: its files, and what has to be asked of its kernel.
///
/// Reading of sysfs and procfs goes by [`root`](Self::root) directly; every change is a call.
pub trait Host {
    /// Folder in which `sys`, `proc` and `dev` are: `/`, but for tests.
    fn root(&self) -> &Path;

    /// The interfaces of this network namespace.
    ///
    /// # Errors
    /// What the kernel said.
    fn links(&self) -> io::Result<Vec<Link>>;

    /// What the NIC behind an interface can sort by itself.
    fn filters(&self, interface: &str) -> Filters;

    /// Whether somebody has this file below `dev/vfio` open, so that nobody else can.
    fn is_open(&self, device: &Path) -> bool;

    /// Writes an attribute; the path begins at the root.
    ///
    /// # Errors
    /// What the kernel said.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;

    /// Sets one thing about a VF.
    ///
    /// # Errors
    /// What the PF's driver said.
    fn set_vf(&self, pf_index: u32, vf: u16, setting: VfSetting) -> io::Result<()>;

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// What the kernel said.
    fn set_up(&self, index: u32, up: bool) -> io::Result<()>;

    /// Gives an interface an address, or takes it away.
    ///
    /// # Errors
    /// What the kernel said.
    fn set_address(&self, index: u32, address: IpAddr, prefix: u8, present: bool) -> io::Result<()>;

    /// Runs the program ethtool; returns all that it printed. It may have failed and not say so.
    ///
    /// # Errors
    /// When it cannot be run.
    fn ethtool(&self, arguments: &[String]) -> io::Result<String>;

    /// Waits a moment for the kernel or another process to get somewhere.
    fn pause(&self);
}

impl<H: Host + ?Sized> Host for &H {
    fn root(&self) -> &Path {
        (**self).root()
    }

    fn links(&self) -> io::Result<Vec<Link>> {
        (**self).links()
    }

    fn filters(&self, interface: &str) -> Filters {
        (**self).filters(interface)
    }

    fn is_open(&self, device: &Path) -> bool {
        (**self).is_open(device)
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        (**self).write(path, text)
    }

    fn set_vf(&self, pf_index: u32, vf: u16, setting: VfSetting) -> io::Result<()> {
        (**self).set_vf(pf_index, vf, setting)
    }

    fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        (**self).set_up(index, up)
    }

    fn set_address(&self, index: u32, address: IpAddr, prefix: u8, present: bool) -> io::Result<()> {
        (**self).set_address(index, address, prefix, present)
    }

    fn ethtool(&self, arguments: &[String]) -> io::Result<String> {
        (**self).ethtool(arguments)
    }

    fn pause(&self) {
        (**self).pause();
    }
}

/// An interface as the kernel tells of it by rtnetlink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Its index.
    pub index: u32,
    /// Its name.
    pub name: String,
    /// Its link address.
    pub mac: Option<Mac>,
    /// Whether it is up (administratively).
    pub up: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// What it is, for interfaces made by software: `veth`, `bridge`.
    pub kind: Option<String>,
    /// Index of the bridge or the like that it belongs to.
    pub member_of: Option<u32>,
    /// Id of the XDP program attached.
    pub xdp: Option<u32>,
    /// Its addresses with prefix lengths.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Whether a default route of the main table leads through it.
    pub default_route: bool,
    /// Its VFs as the driver of the PF has them.
    pub vfs: Vec<VfSettings>,
}

/// Settings of a VF as the PF's driver reports them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VfSettings {
    /// Index at the PF.
    pub vf: u16,
    /// Link address.
    pub mac: Option<Mac>,
    /// VLAN, 0 for none.
    pub vlan: u16,
    /// Priority in that VLAN.
    pub qos: u8,
    /// Whether it may change its own settings.
    pub trust: bool,
    /// Whether frames with another source address are dropped.
    pub spoof_check: bool,
    /// Highest rate of transmission in Mb/s, 0 for none.
    pub max_rate_mbps: u32,
    /// Lowest rate of transmission in Mb/s.
    pub min_rate_mbps: u32,
}

/// One setting of a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VfSetting {
    /// Its link address.
    Mac(Mac),
    /// Its VLAN, 0 for none, and the priority in it.
    Vlan(u16, u8),
    /// Whether it may change its own settings, go promiscuous, and so on.
    Trust(bool),
    /// Whether frames with another source address than its own are dropped.
    SpoofCheck(bool),
    /// Lowest and highest rate of transmission in Mb/s, 0 for none.
    Rate(u32, u32),
}

impl VfSetting {
    /// What it is, for messages: `the VLAN`.
    pub const fn what(self) -> &'static str {
        match self {
            Self::Mac(_) => "the MAC address",
            Self::Vlan(..) => "the VLAN",
            Self::Trust(_) => "trust",
            Self::SpoofCheck(_) => "the spoof check",
            Self::Rate(..) => "the rate limit",
        }
    }

    /// The value of the same setting in a report.
    pub(crate) fn of(self, report: &VfSettings) -> Self {
        match self {
            Self::Mac(_) => Self::Mac(report.mac.unwrap_or(Mac::ZERO)),
            Self::Vlan(..) => Self::Vlan(report.vlan, report.qos),
            Self::Trust(_) => Self::Trust(report.trust),
            Self::SpoofCheck(_) => Self::SpoofCheck(report.spoof_check),
            Self::Rate(..) => Self::Rate(report.min_rate_mbps, report.max_rate_mbps),
        }
    }
}
