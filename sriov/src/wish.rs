//! What is asked for, and whether this host can give it. Pure: nothing is changed here.

use serde::{Deserialize, Serialize};
use std::net::IpAddr;

use crate::nic::is_for_user_space;
use crate::{Filter, Inventory, Mac, Nic, SriovError, VfSetting};

/// VFs wanted of a PF.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PfWish {
    /// Interface or PCI address of the PF.
    pub pf: String,
    /// How many VFs to make if there are none; more than are used leaves some to others.
    pub create: u16,
    /// Those to be used.
    pub vfs: Vec<VfWish>,
    /// Filters of the PF, that send packets to them.
    #[serde(default)]
    pub filters: Vec<Filter>,
}

/// A VF wanted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VfWish {
    /// Its name in the manifest.
    pub name: String,
    /// Its index at the PF.
    pub index: u16,
    /// Who drives it.
    pub driver: VfDriver,
    /// Link address; nothing leaves it as it is.
    pub mac: Option<Mac>,
    /// VLAN, put on and taken off by the NIC.
    pub vlan: Option<u16>,
    /// Whether it may change its own settings.
    pub trust: Option<bool>,
    /// Whether frames with another source address are dropped.
    pub spoof_check: Option<bool>,
    /// Highest rate of transmission in Mb/s, 0 for none.
    pub max_rate_mbps: Option<u32>,
    /// Addresses of its interface, with prefix length; for [`VfDriver::Kernel`].
    pub addresses: Vec<(IpAddr, u8)>,
}

/// Who drives a VF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VfDriver {
    /// DPDK, by way of vfio-pci; of NICs that split natively, beside the kernel's driver.
    Dpdk,
    /// The kernel: it is an interface.
    Kernel,
}

impl VfWish {
    /// The settings to be made, in an order that drivers accept: spoof checks follow the address.
    pub(crate) fn settings(&self, min_rate_mbps: u32) -> Vec<VfSetting> {
        let settings = [
            self.trust.map(VfSetting::Trust),
            self.mac.map(VfSetting::Mac),
            self.vlan.map(|vlan| VfSetting::Vlan(vlan, 0)),
            self.spoof_check.map(VfSetting::SpoofCheck),
            self.max_rate_mbps.map(|most| VfSetting::Rate(min_rate_mbps, most)),
        ];
        settings.into_iter().flatten().collect()
    }
}

/// Whether a host can give what is asked for; the PFs, in the order of the wishes.
///
/// # Errors
/// The first thing that cannot be had. Nothing has been touched.
pub fn check<'i>(inventory: &'i Inventory, wishes: &[PfWish]) -> Result<Vec<&'i Nic>, SriovError> {
    wishes.iter().map(|wish| check_pf(inventory, wish)).collect()
}

fn check_pf<'i>(inventory: &'i Inventory, wish: &PfWish) -> Result<&'i Nic, SriovError> {
    let Some(nic) = inventory.find(&wish.pf) else {
        let known = inventory.nics.iter().filter(|n| n.sriov.is_some()).map(Nic::name).collect();
        return Err(SriovError::NoSuchNic { name: wish.pf.clone(), known });
    };
    let name = nic.name();
    if let Some(driver) = nic.driver.as_ref().filter(|d| is_for_user_space(d)) {
        return Err(SriovError::PfInUserSpace { nic: name, driver: driver.clone() });
    }
    if let Some(pf) = nic.vf_of {
        return Err(SriovError::IsVf { nic: name, pf });
    }
    // Settings go through the PF's interface.
    let Some(sriov) = nic.sriov.as_ref().filter(|_| nic.interface.is_some()) else {
        return Err(SriovError::NoSriov { nic: name, driver: nic.driver.clone() });
    };
    let needed = wish.vfs.iter().map(|v| v.index.saturating_add(1)).max().unwrap_or(0);
    if needed.max(wish.create) > sriov.total {
        return Err(SriovError::TooMany { nic: name, total: sriov.total, wanted: needed.max(wish.create) });
    }
    if sriov.present > 0 && sriov.present < needed {
        return Err(SriovError::TooFew { nic: name, present: sriov.present, wanted: needed });
    }
    for (at, vf) in wish.vfs.iter().enumerate() {
        if wish.vfs[..at].iter().any(|other| other.index == vf.index) {
            return Err(SriovError::Twice { nic: name, index: vf.index });
        }
        let present = sriov.vfs.iter().find(|v| v.index == vf.index);
        if let Some((present, held)) = present.and_then(|v| Some((v, v.held.clone()?))) {
            return Err(SriovError::Held { nic: name, index: vf.index, pci: present.pci, held });
        }
        if vf.driver == VfDriver::Dpdk && !inventory.iommu {
            return Err(SriovError::NoIommu { vf: vf.name.clone() });
        }
        if vf.driver == VfDriver::Dpdk && !nic.splits_natively() && !inventory.vfio {
            return Err(SriovError::NoVfio { vf: vf.name.clone() });
        }
    }
    Ok(nic)
}
