//! What a rule says, before it has DPDK's form.

use std::net::{Ipv4Addr, Ipv6Addr};

/// One rule: packets that every item matches, layer by layer from Ethernet upwards, meet the actions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowRule {
    /// Rules of group 0 come first; others are reached by [`FlowAction::Jump`].
    pub group: u32,
    /// Within a group, 0 comes first.
    pub priority: u32,
    /// The rule is for the NIC's own switch, all its functions included, and not for what reaches this port.
    pub transfer: bool,
    /// The pattern, from the outermost layer inwards. Empty: every packet.
    pub pattern: Vec<FlowItem>,
    /// What becomes of the packets.
    pub actions: Vec<FlowAction>,
}

/// A header, and what is asked of its fields; `None` asks for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowItem {
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
        id: Option<u16>,
        /// What follows: an ethertype.
        ether_type: Option<u16>,
    },
    /// IPv4.
    Ipv4(Ip<Ipv4Addr>),
    /// IPv6. Its protocol is the next header of the fixed header alone.
    Ipv6(Ip<Ipv6Addr>),
    /// TCP.
    Tcp(Ports),
    /// UDP.
    Udp(Ports),
    /// SCTP.
    Sctp(Ports),
}

/// What is asked of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip<A> {
    /// Source: an address and the length of its prefix.
    pub src: Option<(A, u8)>,
    /// Destination: an address and the length of its prefix.
    pub dst: Option<(A, u8)>,
    /// Protocol number.
    pub protocol: Option<u8>,
    /// Fragments, the first included, or all else.
    pub fragment: Option<bool>,
}

impl<A> Default for Ip<A> {
    fn default() -> Self {
        Self { src: None, dst: None, protocol: None, fragment: None }
    }
}

/// What is asked of ports: from the first to the last, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ports {
    /// Source ports.
    pub src: Option<(u16, u16)>,
    /// Destination ports.
    pub dst: Option<(u16, u16)>,
}

/// What becomes of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlowAction {
    /// To this receive queue of the port.
    Queue(u16),
    /// Dropped.
    Drop,
    /// To this virtual function.
    Vf(u32),
    /// They carry this number.
    Mark(u32),
    /// On to the next rule, as if this one had not matched.
    PassThrough,
    /// On to the rules of this group.
    Jump(u32),
}
