//! The form of steering rules.

use middlenet_sdk::{OneOrMany, Term};
use schemars::JsonSchema;
use serde::Deserialize;

/// One steering rule. What is left out matches everything; of a list any value will do; all that is given must match.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SteeringRule {
    /// What `status` calls it; default: `#1` for the first.
    pub name: Option<String>,
    /// Where the packets go: a chain of layer `l2l3` that has this port; a chain of layer `l4l7`, to which they come through
    /// the kernel's stack; a port, to leave there at once; `kernel`; or `drop`. A chain of layer `l4l7` without anything
    /// else stands for what comes to its listeners.
    pub to: String,
    /// VLAN identifiers of the outermost tag, or `untagged`.
    pub vlan: Option<OneOrMany<Term>>,
    /// Source MAC addresses: `02:00:00:00:00:01`.
    pub src_mac: Option<OneOrMany<Term>>,
    /// Destination MAC addresses.
    pub dst_mac: Option<OneOrMany<Term>>,
    /// `ipv4`, `ipv6`, `arp`, or numbers such as `0x88b5`; behind VLAN tags.
    pub ether_type: Option<OneOrMany<Term>>,
    /// Source addresses of IP packets: addresses and prefixes of either version.
    pub src: Option<OneOrMany<Term>>,
    /// Destination addresses of IP packets.
    pub dst: Option<OneOrMany<Term>>,
    /// Packets of ARP that ask for these addresses.
    pub arp: Option<OneOrMany<Term>>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `gre`, `esp`, or a protocol number.
    pub proto: Option<OneOrMany<Term>>,
    /// Source ports: numbers or ranges like `1000-2000`. Fragments after the first show no ports.
    pub src_port: Option<OneOrMany<Term>>,
    /// Destination ports.
    pub dst_port: Option<OneOrMany<Term>>,
    /// `true`: fragments alone, the first included. `false`: whole packets alone.
    pub fragment: Option<bool>,
}
