//! What network devices a host has, virtual functions made and taken away again, and what a NIC can sort by itself.
//!
//! ```text
//!   sysfs, rtnetlink --discover--> Inventory --check--> PFs --Vfs::apply--> VFs, ready
//!                                                          (journal first, then the change; undone in reverse)
//! ```
//!
//! **Architecture invariant:** the host is changed by steps of the journal alone, and each is in the record before it is made. What is not
//! named in a wish is never touched. Steps are made and undone by one run at a time for each PF ([`Runs`]).

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
mod ntuple;
mod place;
mod runs;
mod wish;

pub use ability::{Abilities, Ability, abilities};
pub use address::{Mac, NoAddress, PciAddress};
pub use apply::{ReadyVf, Vfs, recorded, recover};
pub use discover::{Inventory, discover, pci_of};
pub use error::SriovError;
pub use host::{Host, Link, VfSetting, VfSettings};
pub use linux::Linux;
pub use nic::{Feature, Filters, Held, Nic, Sriov, Use, Vf, is_for_user_space};
pub use ntuple::{Filter, FilterTarget, filters_for, listed};
pub use place::{Capabilities, Ntuple, Place, Side, VfAddress, place};
pub use runs::Runs;
pub use wish::{PfWish, VfDriver, VfWish, check};
