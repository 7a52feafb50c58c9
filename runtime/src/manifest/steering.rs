//! The form of steering rules.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

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
    pub vlan: Option<OneOrMany>,
    /// Source MAC addresses: `02:00:00:00:00:01`.
    pub src_mac: Option<OneOrMany>,
    /// Destination MAC addresses.
    pub dst_mac: Option<OneOrMany>,
    /// `ipv4`, `ipv6`, `arp`, or numbers such as `0x88b5`; behind VLAN tags.
    pub ether_type: Option<OneOrMany>,
    /// Source addresses of IP packets: addresses and prefixes of either version.
    pub src: Option<OneOrMany>,
    /// Destination addresses of IP packets.
    pub dst: Option<OneOrMany>,
    /// Packets of ARP that ask for these addresses.
    pub arp: Option<OneOrMany>,
    /// `tcp`, `udp`, `icmp`, `icmpv6`, `sctp`, `gre`, `esp`, or a protocol number.
    pub proto: Option<OneOrMany>,
    /// Source ports: numbers or ranges like `1000-2000`. Fragments after the first show no ports.
    pub src_port: Option<OneOrMany>,
    /// Destination ports.
    pub dst_port: Option<OneOrMany>,
    /// `true`: fragments alone, the first included. `false`: whole packets alone.
    pub fragment: Option<bool>,
}

/// A value or a list of them.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(Term),
    /// Several, of which any will do.
    Many(Vec<Term>),
}

impl OneOrMany {
    /// All of them.
    pub fn as_slice(&self) -> &[Term] {
        match self {
            Self::One(term) => std::slice::from_ref(term),
            Self::Many(terms) => terms,
        }
    }
}

/// A number or a word.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Term {
    /// A number.
    Number(u64),
    /// A name, an address, or a range.
    Text(String),
}

impl std::fmt::Display for Term {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}
