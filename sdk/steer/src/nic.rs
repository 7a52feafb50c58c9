//! Rules carried out by a NIC that takes in what is asked for and leaves all else to the kernel (`rte_flow`, isolated): the same
//! packets go the same way, or an error says why not.
//!
//! A NIC knows what it is to take in and what it is to drop; it has no way to keep a packet back from a flow that asks for it. What it
//! takes in is told apart by the data plane, by the same rules, so flows that take need no order among themselves.

mod pattern;

use crate::{Action, Rule};
use std::net::{Ipv4Addr, Ipv6Addr};

/// One request of a NIC: packets that every item matches, layer by layer from Ethernet upwards, meet the fate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// 0 comes first. NICs have few of them, so only flows that must not change places have different ones.
    pub priority: u32,
    /// The pattern, from the outermost layer inwards.
    pub pattern: Vec<Item>,
    /// What becomes of the packets.
    pub fate: Fate,
}

/// What becomes of packets that a NIC is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// The data plane gets them, on the queues of its port as that spreads flows.
    Take,
    /// They are dropped.
    Drop,
}

/// A header, and what is asked of its fields; `None` asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Item {
    /// Ethernet.
    Eth {
        /// Source address.
        src: Option<[u8; 6]>,
        /// Destination address.
        dst: Option<[u8; 6]>,
        /// What follows: an ethertype.
        ether_type: Option<u16>,
    },
    /// A VLAN tag.
    Vlan {
        /// VLAN identifier, 12 bits.
        id: u16,
    },
    /// IPv4.
    Ipv4 {
        /// Source: an address and the length of its prefix.
        src: Option<(Ipv4Addr, u8)>,
        /// Destination: an address and the length of its prefix.
        dst: Option<(Ipv4Addr, u8)>,
        /// Protocol number.
        protocol: Option<u8>,
        /// Fragments, the first included, or all else.
        fragment: Option<bool>,
    },
    /// IPv6.
    Ipv6 {
        /// Source: an address and the length of its prefix.
        src: Option<(Ipv6Addr, u8)>,
        /// Destination: an address and the length of its prefix.
        dst: Option<(Ipv6Addr, u8)>,
    },
    /// TCP.
    Tcp(Ports),
    /// UDP.
    Udp(Ports),
    /// SCTP.
    Sctp(Ports),
}

/// What is asked of ports: from the first to the last, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Ports {
    /// Source ports.
    pub src: Option<(u16, u16)>,
    /// Destination ports.
    pub dst: Option<(u16, u16)>,
}

/// Flows that one rule may become.
const MOST_FLOWS: usize = 256;

/// Why a rule cannot be carried out by a NIC for exactly its packets: a reason with its remedy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inexact {
    /// Untagged packets of any kind.
    #[error(
        "a NIC does not tell packets without a VLAN tag from others unless it knows their type: give an `ether_type`, or addresses"
    )]
    Untagged,
    /// What is behind VLAN tags, of which software sees two and a NIC one.
    #[error(
        "a NIC does not look behind two VLAN tags: say `vlan: untagged`, or match a VLAN with all that is in it, by nothing but its number and MAC addresses"
    )]
    BehindTags,
    /// A protocol of IPv6.
    #[error(
        "a NIC does not look for protocols and ports behind IPv6 extension headers: say `ether_type: ipv4`, or match IPv6 by addresses alone"
    )]
    Extensions,
    /// Ports of first fragments.
    #[error("a NIC does not see the ports of a packet's first fragment: say `fragment: false`")]
    Fragments,
    /// An address in ARP.
    #[error("a NIC does not look into ARP: match `ether_type: arp` as a whole")]
    Arp,
    /// A VLAN tag as an ethertype.
    #[error("a VLAN tag is no ethertype behind VLAN tags: match it by `vlan`")]
    TagAsType,
    /// Too many values.
    #[error("it would become more than {MOST_FLOWS} flows of the NIC: ask for fewer values, or split it")]
    TooMany,
    /// Packets of the kernel that a later rule asks for as well.
    #[error(
        "`{0}`, which comes after it, asks for some of its packets too, and a NIC keeps nothing back from what is asked for: narrow one of them"
    )]
    NotKept(String),
    /// Everything else.
    #[error(
        "the NIC leaves to the kernel what no rule asks for: ask by rules for what is not the kernel's, and end with `to: kernel`"
    )]
    Rest,
}

/// What a NIC is to be asked for, rule by rule; the last is for packets that no rule matches. The kernel's rules ask for nothing.
pub fn flows(rules: &[Rule], default: Action) -> Vec<Result<Vec<Flow>, Inexact>> {
    let mut priorities = Vec::new();
    let mut all = Vec::new();
    for (at, rule) in rules.iter().enumerate() {
        let fate = Fate::of(rule.action);
        let before = rules[..at].iter().zip(&priorities).filter(|(earlier, _)| {
            let other = Fate::of(earlier.action);
            other.is_some() && other != fate && !earlier.matches.is_disjoint(&rule.matches)
        });
        let priority = before.map(|(_, before)| before + 1).max().unwrap_or(0);
        priorities.push(priority);
        all.push(match fate {
            Some(fate) => pattern::patterns(&rule.matches)
                .map(|patterns| patterns.into_iter().map(|pattern| Flow { priority, pattern, fate }).collect()),
            None => kept(rule, &rules[at + 1..]),
        });
    }
    all.push(if default == Action::Kernel { Ok(Vec::new()) } else { Err(Inexact::Rest) });
    all
}

impl Fate {
    /// None for the kernel's packets, about which a NIC is asked nothing.
    fn of(action: Action) -> Option<Self> {
        match action {
            Action::Tag(_) => Some(Self::Take),
            Action::Drop => Some(Self::Drop),
            Action::Kernel => None,
        }
    }
}

/// The kernel keeps packets that no later rule asks for.
fn kept(rule: &Rule, later: &[Rule]) -> Result<Vec<Flow>, Inexact> {
    let asks = |later: &&Rule| Fate::of(later.action).is_some() && !rule.matches.is_disjoint(&later.matches);
    later.iter().find(asks).map_or(Ok(Vec::new()), |later| Err(Inexact::NotKept(later.name.clone())))
}

#[cfg(test)]
mod tests;
