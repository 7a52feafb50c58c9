//! What can be wrong, for whoever asked for virtual functions.

use std::io;
use std::path::PathBuf;

use crate::{Held, PciAddress};

/// Why virtual functions cannot be had. Whatever was begun has been undone.
#[derive(Debug, thiserror::Error)]
pub enum SriovError {
    /// No such device.
    #[error("this host has no network interface `{name}`")]
    NoSuchNic {
        /// What was asked for.
        name: String,
        /// Those with SR-IOV.
        known: Vec<String>,
    },
    /// It is there, but has no VFs to give.
    #[error("`{nic}` has no SR-IOV{}", driver.as_ref().map(|d| format!(" (driver {d})")).unwrap_or_default())]
    NoSriov {
        /// The device.
        nic: String,
        /// Its driver.
        driver: Option<String>,
    },
    /// It is a VF.
    #[error("`{nic}` is a virtual function itself, of {pf}")]
    IsVf {
        /// The device.
        nic: String,
        /// Its PF.
        pf: PciAddress,
    },
    /// The PF is out of the kernel's hands.
    #[error("`{nic}` is not the kernel's: the driver {driver} has given it to a program, such as DPDK")]
    PfInUserSpace {
        /// The device.
        nic: String,
        /// The driver.
        driver: String,
    },
    /// More than the NIC has.
    #[error("`{nic}` has at most {total} virtual functions, but {wanted} are asked for")]
    TooMany {
        /// The PF.
        nic: String,
        /// What it can have.
        total: u16,
        /// What is asked for.
        wanted: u16,
    },
    /// Somebody else made VFs, and not enough.
    #[error("`{nic}` has {present} virtual functions already, made by somebody else, but {wanted} are needed")]
    TooFew {
        /// The PF.
        nic: String,
        /// What it has.
        present: u16,
        /// What is needed.
        wanted: u16,
    },
    /// Two wishes for one.
    #[error("the virtual function {index} of `{nic}` is asked for twice")]
    Twice {
        /// The PF.
        nic: String,
        /// The VF.
        index: u16,
    },
    /// A VF is in use.
    #[error("the virtual function {index} of `{nic}` ({pci}) is held by {held}")]
    Held {
        /// The PF.
        nic: String,
        /// The VF.
        index: u16,
        /// Its address.
        pci: PciAddress,
        /// Who holds it.
        held: Held,
    },
    /// No IOMMU.
    #[error("the IOMMU is off: the virtual function `{vf}` cannot be given to DPDK")]
    NoIommu {
        /// The VF's name.
        vf: String,
    },
    /// No vfio-pci.
    #[error("the driver vfio-pci is not loaded: the virtual function `{vf}` cannot be given to DPDK")]
    NoVfio {
        /// The VF's name.
        vf: String,
    },
    /// The kernel has no driver for it.
    #[error("the kernel has loaded no driver for the virtual function `{vf}` (that of its PF is {pf_driver})")]
    NoKernelDriver {
        /// The VF's name.
        vf: String,
        /// The PF's driver.
        pf_driver: String,
    },
    /// The driver took it, but there is no interface.
    #[error("the driver {driver} made no interface for the virtual function `{vf}`")]
    NoInterface {
        /// The VF's name.
        vf: String,
        /// The driver.
        driver: String,
    },
    /// Others share its isolation.
    #[error("the virtual function `{vf}` shares IOMMU group {group} with {other}, which is the kernel's")]
    SharedGroup {
        /// The VF's name.
        vf: String,
        /// The group.
        group: u32,
        /// The other device.
        other: PciAddress,
    },
    /// A setting was taken without a word and did not last.
    #[error("the driver of `{nic}` did not take {what} of the virtual function `{vf}`")]
    NotTaken {
        /// The PF.
        nic: String,
        /// The VF's name.
        vf: String,
        /// What.
        what: &'static str,
    },
    /// It vanished meanwhile.
    #[error("`{device}` vanished while its virtual functions were set up")]
    Vanished {
        /// The device.
        device: String,
    },
    /// The kernel or a driver refused.
    #[error("cannot {what}: {source}")]
    Refused {
        /// What was tried.
        what: String,
        /// What it said.
        source: io::Error,
    },
    /// It failed, and so did a part of undoing it.
    #[error("{cause}; and not all could be undone: {problems}")]
    Left {
        /// Why it failed.
        cause: Box<SriovError>,
        /// What is left.
        problems: String,
    },
    /// Another run is at it, and does not come to an end.
    #[error("another run changes virtual functions of the same NIC: {0}")]
    NoTurn(String),
    /// The host could not be looked at.
    #[error("cannot look at the network devices: {0}")]
    Look(io::Error),
    /// The record of what was changed cannot be read or written.
    #[error("cannot keep a record in {path}: {source}")]
    Record {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Kernel drivers of VFs by the PF's driver, for hints.
const VF_DRIVERS: [(&str, &str); 6] = [
    ("igb", "igbvf"),
    ("ixgbe", "ixgbevf"),
    ("i40e", "iavf"),
    ("ice", "iavf"),
    ("bnxt_en", "bnxt_en"),
    ("qede", "qede"),
];

impl SriovError {
    /// What to do about it, if that is known.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NoSuchNic { known, .. } if known.is_empty() => "no interface of this host has SR-IOV: see `middlenet ports`".into(),
            Self::NoSuchNic { known, .. } => format!("those with SR-IOV are {}", known.join(", ")),
            Self::NoSriov { .. } => {
                "use it as an `xdp` port; if the NIC should have SR-IOV, turn it on in the firmware set-up, and check its driver".into()
            }
            Self::IsVf { .. } => "name the PF".into(),
            Self::PfInUserSpace { nic, .. } => {
                format!("end that program and give `{nic}` back to its kernel driver (`dpdk-devbind.py`), or use it whole as a `dpdk` port")
            }
            Self::TooMany { total, .. } => format!("ask for at most {total}"),
            Self::TooFew { nic, wanted, .. } => format!(
                "if nobody uses them, remove them: `echo 0 > /sys/class/net/{nic}/device/sriov_numvfs`, and the run makes its own; else make {wanted}"
            ),
            Self::Twice { .. } => "give each its own `index`".into(),
            Self::Held { .. } => "end who holds it, or choose another with `index`".into(),
            Self::NoIommu { .. } => {
                "turn it on in the firmware set-up, and boot with `intel_iommu=on` or `amd_iommu=on`; or use the VF by `use: kernel`".into()
            }
            Self::NoVfio { .. } => "modprobe vfio-pci".into(),
            Self::NoKernelDriver { pf_driver, .. } => {
                let vf = VF_DRIVERS.iter().find(|(pf, _)| pf == pf_driver).map(|(_, vf)| vf)?;
                format!("modprobe {vf}")
            }
            Self::SharedGroup { .. } => "use a slot whose upstream port has ACS, or bind the other device to vfio-pci too".into(),
            Self::Refused { source, .. } if source.raw_os_error() == Some(nix::errno::Errno::EOPNOTSUPP as i32) => {
                "this NIC or its driver cannot do that: leave the setting out".into()
            }
            Self::Refused { source, .. } if source.kind() == io::ErrorKind::Unsupported => {
                "turn filters on (`ethtool -K DEV ntuple on`), or match by `dst_mac`, which needs none".into()
            }
            Self::Refused { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => "run it as root".into(),
            Self::Left { cause, .. } => return cause.hint(),
            _ => return None,
        })
    }
}
