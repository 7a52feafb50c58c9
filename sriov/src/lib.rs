//! SR-IOV: what network devices a host has, and virtual functions made, set up, and taken away again.

#![forbid(unsafe_code)]

mod address;
mod discover;
#[cfg(test)]
mod fake;
mod host;
mod linux;
mod netlink;
mod nic;

pub use address::{Mac, NoAddress, PciAddress};
pub use discover::{Inventory, discover};
pub use host::{Host, Link, VfSetting, VfSettings};
pub use linux::Linux;
pub use nic::{Feature, Filters, Held, Nic, Sriov, Use, Vf, is_for_user_space};
