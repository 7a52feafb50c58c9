//! Rules, and what they mean.

use crate::{Head, Prefix, ethertype};
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// One rule of an ordered list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// What people call it.
    pub name: String,
    /// Which packets.
    pub matches: Match,
    /// What becomes of them.
    pub action: Action,
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is dropped.
    Drop,
    /// It goes to the kernel's own stack.
    Kernel,
    /// It goes to the data plane of packets, which is told this number: what the number means is its affair.
    Tag(u16),
}

/// Ports from the first to the last, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PortRange {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl PortRange {
    /// Whether it holds the port.
    pub fn contains(self, port: u16) -> bool {
        (self.first..=self.last).contains(&port)
    }
}

impl From<u16> for PortRange {
    fn from(port: u16) -> Self {
        Self { first: port, last: port }
    }
}

/// Which packets a rule is for: every field that is given must hold, and of a list any value will do. An empty list asks
/// for nothing, so that `Match::default()` matches every packet.
///
/// A field that a packet does not have never holds: rules with addresses are for IP alone, rules with ports for packets that
/// show theirs, which fragments after the first do not.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Match {
    /// VLAN identifiers of the outermost tag; 0 stands for untagged and for priority tags.
    pub vlans: Vec<u16>,
    /// Source MAC addresses.
    pub src_macs: Vec<[u8; 6]>,
    /// Destination MAC addresses.
    pub dst_macs: Vec<[u8; 6]>,
    /// Ethertypes behind the VLAN tags.
    pub ether_types: Vec<u16>,
    /// Source addresses of IP packets.
    pub src: Vec<Prefix>,
    /// Destination addresses of IP packets.
    pub dst: Vec<Prefix>,
    /// Addresses that ARP asks for (the target protocol address, RFC 826); for packets of ARP alone.
    pub arp_targets: Vec<Prefix>,
    /// Protocols of IP packets; for IPv6, what the extension headers lead to.
    pub protocols: Vec<u8>,
    /// Source ports (TCP, UDP, SCTP).
    pub src_ports: Vec<PortRange>,
    /// Destination ports (TCP, UDP, SCTP).
    pub dst_ports: Vec<PortRange>,
    /// IP fragments, the first included, or all else.
    pub fragments: Option<bool>,
}

impl Match {
    /// Whether the rule is for packets with this head.
    pub fn matches(&self, head: &Head) -> bool {
        let within = |prefixes: &[Prefix], address: Option<IpAddr>| {
            prefixes.is_empty() || address.is_some_and(|address| prefixes.iter().any(|p| p.contains(address)))
        };
        let ports = |ranges: &[PortRange], port: Option<u16>| {
            ranges.is_empty() || port.is_some_and(|port| ranges.iter().any(|r| r.contains(port)))
        };
        any(&self.vlans, &head.vlan)
            && any(&self.src_macs, &head.src_mac)
            && any(&self.dst_macs, &head.dst_mac)
            && any(&self.ether_types, &head.ether_type)
            && within(&self.src, head.src)
            && within(&self.dst, head.dst)
            && within(&self.arp_targets, head.arp_target.map(IpAddr::V4))
            && (self.protocols.is_empty() || head.protocol.is_some_and(|p| self.protocols.contains(&p)))
            && ports(&self.src_ports, head.src_port)
            && ports(&self.dst_ports, head.dst_port)
            && self.fragments.is_none_or(|wanted| head.protocol.is_some() && wanted == head.fragment)
    }

    /// Whether it asks for something that only IP packets have.
    pub fn needs_ip(&self) -> bool {
        !(self.src.is_empty() && self.dst.is_empty() && self.protocols.is_empty())
            || self.needs_ports()
            || self.fragments.is_some()
    }

    /// Whether it asks for ports.
    pub fn needs_ports(&self) -> bool {
        !(self.src_ports.is_empty() && self.dst_ports.is_empty())
    }

    /// The ethertypes it can match, as far as its other fields tell; empty for any.
    pub fn possible_ether_types(&self) -> Vec<u16> {
        let asked = |t: &u16| self.ether_types.is_empty() || self.ether_types.contains(t);
        let versions =
            |prefixes: &[Prefix], v4: bool| prefixes.is_empty() || prefixes.iter().any(|p| p.is_ipv4() == v4);
        if !self.arp_targets.is_empty() {
            return Some(ethertype::ARP).filter(asked).into_iter().collect();
        }
        if self.needs_ip() {
            let ip = [(ethertype::IPV4, true), (ethertype::IPV6, false)];
            let fits = ip.into_iter().filter(|&(_, v4)| versions(&self.src, v4) && versions(&self.dst, v4));
            return fits.map(|(t, _)| t).filter(asked).collect();
        }
        self.ether_types.clone()
    }
}

fn any<T: PartialEq>(wanted: &[T], found: &T) -> bool {
    wanted.is_empty() || wanted.contains(found)
}
