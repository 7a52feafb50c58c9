//! SR-IOV: what network devices a host has, and virtual functions made, set up, and taken away again.

#![forbid(unsafe_code)]

mod ability;
mod address;
mod apply;
mod device;
mod discover;
mod error;
#[cfg(test)]
mod fake;
mod host;
mod journal;
mod linux;
mod netlink;
mod nic;
mod wish;

pub use ability::{Abilities, Ability, abilities};
pub use address::{Mac, NoAddress, PciAddress};
pub use apply::{ReadyVf, Vfs, recorded, recover};
pub use discover::{Inventory, discover, pci_of};
pub use error::SriovError;
pub use host::{Host, Link, VfSetting, VfSettings};
pub use linux::Linux;
pub use nic::{Feature, Filters, Held, Nic, Sriov, Use, Vf, is_for_user_space};
pub use wish::{PfWish, VfDriver, VfWish, check};
