//! What is known of a network device.

use serde::Serialize;

use crate::{Mac, PciAddress};

/// A network device of the host: a PCI function, an interface of the kernel, or both.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Nic {
    /// The kernel's interface, if it is in this network namespace.
    pub interface: Option<String>,
    /// Its index.
    #[serde(skip)]
    pub index: u32,
    /// The PCI function; nothing for virtual interfaces.
    pub pci: Option<PciAddress>,
    /// Vendor and device, `8086:10c9`.
    pub id: Option<String>,
    /// The driver bound to the PCI function, else that of the interface; nothing for interfaces made by software.
    pub driver: Option<String>,
    /// Its link address.
    pub mac: Option<Mac>,
    /// Whether the interface is up (administratively).
    pub up: bool,
    /// Largest packet in bytes.
    pub mtu: u32,
    /// Receive queues.
    pub queues: usize,
    /// NUMA node; nothing where the host has one node only.
    pub numa_node: Option<u32>,
    /// IOMMU group; nothing when the IOMMU is off.
    pub iommu_group: Option<u32>,
    /// What SR-IOV gives; nothing if the device or its driver has none.
    pub sriov: Option<Sriov>,
    /// The PF of which it is a VF.
    pub vf_of: Option<PciAddress>,
    /// What its hardware can sort by itself.
    pub filters: Filters,
    /// Who uses it already.
    pub uses: Vec<Use>,
}

/// The SR-IOV side of a PF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Sriov {
    /// VFs it can have.
    pub total: u16,
    /// VFs it has.
    pub present: u16,
    /// Distance of the first VF's PCI address, and between VFs.
    #[serde(skip)]
    pub offset_stride: (u32, u32),
    /// Whether VFs are bound to drivers as they come.
    #[serde(skip)]
    pub autoprobe: bool,
    /// The VFs that are there, by index.
    pub vfs: Vec<Vf>,
}

/// A VF that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Vf {
    /// Its index at the PF.
    pub index: u16,
    /// Its PCI address.
    pub pci: PciAddress,
    /// The driver bound to it.
    pub driver: Option<String>,
    /// Its interface, if a kernel driver has it and it is in this network namespace.
    pub interface: Option<String>,
    /// Its link address as the PF has it.
    pub mac: Option<Mac>,
    /// Its IOMMU group.
    pub iommu_group: Option<u32>,
    /// Who holds it, if somebody does.
    pub held: Option<Held>,
}

/// Who holds a VF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Held {
    /// A process has it open through VFIO.
    Process {
        /// Its id, if it can be seen from here.
        pid: Option<u32>,
        /// Its name.
        name: Option<String>,
    },
    /// It is bound to a driver that neither is the kernel's own for it nor VFIO.
    Driver(String),
    /// Its interface is in another network namespace.
    Namespace,
    /// Its interface is in use here.
    Interface(String),
}

impl std::fmt::Display for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { pid: Some(pid), name: Some(name) } => write!(f, "process {pid} ({name})"),
            Self::Process { pid: Some(pid), .. } => write!(f, "process {pid}"),
            Self::Process { .. } => f.write_str("a process that cannot be seen from here"),
            Self::Driver(driver) => write!(f, "the driver {driver}"),
            Self::Namespace => f.write_str("another network namespace"),
            Self::Interface(interface) => write!(f, "the interface {interface}, which is in use"),
        }
    }
}

/// What a NIC's hardware can sort by itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Filters {
    /// Rules by 5-tuple through ethtool.
    pub ntuple: Feature,
    /// Rules of tc (flower).
    pub tc: Feature,
}

/// A feature of a device, as `ethtool -k` shows it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Feature {
    /// It is on.
    On,
    /// It can be turned on.
    Off,
    /// The driver does not have it.
    #[default]
    Absent,
}

/// A use of an interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Use {
    /// The host's default route leads through it.
    DefaultRoute,
    /// It has this address; those that every interface makes for itself (fe80::) do not count.
    Address(String),
    /// It belongs to a bridge, bond or the like.
    Member(String),
    /// An XDP program is attached.
    Xdp(u32),
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::DefaultRoute => f.write_str("carries the default route"),
            Self::Address(address) => write!(f, "has the address {address}"),
            Self::Member(master) => write!(f, "belongs to {master}"),
            Self::Xdp(id) => write!(f, "has the XDP program {id}"),
        }
    }
}

/// Drivers of NICs that give each program its own queues beside the kernel: DPDK drives them without taking them away (DPDK, "Flow
/// Bifurcation How-to Guide").
const BIFURCATED: [&str; 3] = ["mlx4_core", "mlx5_core", "mana"];

/// Whether a driver splits natively.
pub(crate) fn splits_natively(driver: &str) -> bool {
    BIFURCATED.contains(&driver)
}

/// Whether a driver hands the device to user space.
pub fn is_for_user_space(driver: &str) -> bool {
    driver.starts_with("vfio") || matches!(driver, "uio_pci_generic" | "igb_uio")
}

/// Drivers with XDP of their own in mainline Linux 6.1, by their names in sysfs.
const NATIVE_XDP: [&str; 30] = [
    "veth",
    "virtio_net",
    "tun",
    "bonding",
    "netdevsim",
    "i40e",
    "ice",
    "ixgbe",
    "ixgbevf",
    "igb",
    "igc",
    "mlx4_core",
    "mlx5_core",
    "bnxt_en",
    "nfp",
    "qede",
    "sfc",
    "ena",
    "mana",
    "hv_netvsc",
    "vmxnet3",
    "stmmac",
    "dwmac",
    "mvneta",
    "mvpp2",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "fsl_enetc_vf",
    "thunder-nicvf",
    "cpsw",
];

impl Nic {
    /// How messages call it: its interface, else its PCI address.
    pub fn name(&self) -> String {
        let pci = || self.pci.map_or_else(|| "?".into(), |p| p.to_string());
        self.interface.clone().unwrap_or_else(pci)
    }

    /// Whether programs get queues of their own beside the kernel.
    pub fn splits_natively(&self) -> bool {
        self.driver.as_deref().is_some_and(splits_natively)
    }

    /// Whether DPDK can ask such a NIC for some of its packets and leave the rest to the kernel (`rte_flow`, isolated).
    pub fn splits_by_flows(&self) -> bool {
        matches!(self.driver.as_deref(), Some("mlx4_core" | "mlx5_core"))
    }

    /// Whether the driver is known to run XDP programs itself; otherwise the stack does, slower.
    pub fn has_native_xdp(&self) -> bool {
        self.driver.as_deref().is_some_and(|d| NATIVE_XDP.contains(&d))
    }

    /// Whether it answers to this interface name or PCI address.
    pub fn is_called(&self, name: &str) -> bool {
        self.interface.as_deref() == Some(name) || self.pci.is_some() && self.pci == name.parse().ok()
    }

    /// PCI address of a VF, there or not.
    pub fn vf_address(&self, index: u16) -> Option<PciAddress> {
        let sriov = self.sriov.as_ref()?;
        if let Some(vf) = sriov.vfs.iter().find(|vf| vf.index == index) {
            return Some(vf.pci);
        }
        let (offset, stride) = sriov.offset_stride;
        // Without VFs some devices show neither.
        if offset == 0 || index >= sriov.total {
            return None;
        }
        self.pci?.further(offset + stride * u32::from(index))
    }
}
