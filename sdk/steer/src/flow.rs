//! One flow, for rules that are made while packets pass.

use crate::Head;
use std::net::IpAddr;

/// Packets of one direction of one conversation: what the flow key of `middlenet-wire` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Flow {
    /// VLAN identifier of the outermost tag; 0 if untagged.
    pub vlan: u16,
    /// Source address.
    pub src: IpAddr,
    /// Destination address, of the same version.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: u8,
    /// Source port, or the identifier of ICMP echo and timestamp messages; 0 for others and for later fragments.
    pub src_port: u16,
    /// Destination port, or the same identifier; 0 likewise.
    pub dst_port: u16,
}

impl Flow {
    /// The flow of an IP packet with this head, as far as the head tells: an ICMP identifier is not in it.
    pub fn of(head: &Head) -> Option<Self> {
        Some(Self {
            vlan: head.vlan,
            src: head.src?,
            dst: head.dst?,
            protocol: head.protocol?,
            src_port: head.src_port.unwrap_or(0),
            dst_port: head.dst_port.unwrap_or(0),
        })
    }
}
