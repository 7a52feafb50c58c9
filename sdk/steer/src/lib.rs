//! Steering rules: which packets of an interface go to which chain, to the kernel's own stack, or nowhere.
//!
//! A list of [`Rule`]s is ordered, and the first that matches decides. One meaning, several who carry it out: an XDP program,
//! a NIC's filters, a VF's address. What a rule means is [`Match::matches`] on the [`Head`] of a packet; whoever carries
//! rules out does the same with the same packets, or says that it cannot.
#![forbid(unsafe_code)]

mod covers;
mod flow;
mod head;
pub mod nic;
mod prefix;
mod rule;
mod tables;
#[cfg(any(test, feature = "testkit"))]
pub mod testkit;

pub use covers::{Dead, dead_rules};
pub use flow::Flow;
pub use head::Head;
pub use prefix::{BadPrefix, Prefix};
pub use rule::{Action, Match, PortRange, Rule};
pub use tables::{
    Chain, CompileError, Image, MOST_CLASSES, MOST_MACS, MOST_PREFIXES, MOST_RULES, MacTable, PortTable, Prefixes,
    Tables,
};

/// Ethertypes that rules speak of (IEEE 802 numbers).
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// ARP.
    pub const ARP: u16 = 0x0806;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// A VLAN tag (IEEE 802.1Q).
    pub const VLAN: u16 = 0x8100;
    /// An outer VLAN tag (IEEE 802.1ad).
    pub const SERVICE_VLAN: u16 = 0x88a8;
}

/// Protocols that have source and destination ports in their first four bytes.
pub const WITH_PORTS: [u8; 3] = [6, 17, 132];
