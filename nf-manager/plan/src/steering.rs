//! What becomes of a port's packets before they meet a function, and what was counted of it.

use middlenet_steer::{Action, Rule};
use serde::{Deserialize, Serialize};

/// Rules of a port, in order; the first that matches decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeringPlan {
    /// The rules. The number of an [`Action::Tag`] is that of a [`Destination`].
    pub rules: Vec<Rule>,
    /// What becomes of packets that no rule matches.
    pub default: Action,
    /// Where each rule leads, for people: a chain, a port, `kernel` or `drop`. The last one is where the default leads.
    pub to: Vec<String>,
}

/// Where the data plane of packets takes a packet that was steered to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destination {
    /// Into this chain, at the end that its port is at.
    Chain(u16),
    /// Into the chain of this hop, at the hop itself: the fast paths of those before it have dealt with the packet.
    Hop(u16),
    /// Out of this port, past all functions.
    Port(u8),
}

impl Destination {
    /// Above all numbers of chains.
    const HOP: u16 = 1 << 14;
    /// Above all numbers of hops.
    const PORT: u16 = 1 << 15;

    /// The number that stands for it in rules and on packets.
    pub fn tag(self) -> u16 {
        match self {
            Self::Chain(chain) => chain,
            Self::Hop(hop) => Self::HOP | hop,
            Self::Port(port) => Self::PORT | u16::from(port),
        }
    }

    /// What a number stands for.
    pub fn of(tag: u16) -> Self {
        match (tag & Self::PORT, tag & Self::HOP) {
            (0, 0) => Self::Chain(tag),
            (0, _) => Self::Hop(tag & !Self::HOP),
            _ => Self::Port(tag as u8),
        }
    }
}

/// Where a function may steer flows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteerTargetPlan {
    /// The name that the function knows it by.
    pub name: String,
    /// What becomes of the packets.
    pub action: Action,
    /// The same for people.
    pub to: String,
    /// Ports whose packets can go there.
    pub ports: Vec<u8>,
}

/// What a port's rules have done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SteeringStats {
    /// Who carries the rules out: `xdp`; `nic flows` where the device splits with the kernel; or `manager` where packets of the port
    /// are not to be had before.
    pub by: String,
    /// By rule, in order; the last one is the default.
    pub rules: Vec<SteeredStats>,
    /// Flows that functions have steered elsewhere.
    pub flows: Vec<SteeredFlow>,
    /// What did not go as the rules say, by reason.
    pub irregular: Vec<(String, u64)>,
}

/// What one rule has done.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SteeredStats {
    /// The rule's name.
    pub name: String,
    /// Where it leads.
    pub to: String,
    /// Packets that it decided about.
    pub pkts: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Its packets are dropped or left to the kernel by the device, which does not count them.
    #[serde(default)]
    pub uncounted: bool,
}

/// A flow that a function has steered.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SteeredFlow {
    /// The flow: `tcp 10.0.0.1:1000 -> 10.0.0.2:80`.
    pub flow: String,
    /// Where it leads.
    pub to: String,
    /// Chain and function that asked for it.
    pub by: String,
    /// Time that is left to it, in seconds.
    pub remaining_s: f64,
    /// Packets that it decided about.
    pub pkts: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_stands_for_one_destination() {
        let all = [Destination::Chain(0), Destination::Chain(40), Destination::Hop(0), Destination::Hop(77)];
        for destination in all.into_iter().chain([Destination::Port(0), Destination::Port(31)]) {
            assert_eq!(Destination::of(destination.tag()), destination);
        }
    }
}
