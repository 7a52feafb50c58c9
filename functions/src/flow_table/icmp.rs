//! What an ICMP packet is to a function that tracks flows.

use super::Probe;
use middlenet_sdk::wire::icmpv4::{self, icmpv4_type};
use middlenet_sdk::wire::icmpv6::{self, icmpv6_type};
use middlenet_sdk::wire::protocol;

/// Kind of an ICMP or ICMPv6 packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Icmp {
    /// It is none.
    None,
    /// Echo or timestamp request.
    Query,
    /// Its answer.
    Answer,
    /// An error about another packet, which it quotes.
    Error,
    /// Router and neighbour discovery that has not been routed (RFC 4861).
    NeighbourDiscovery,
    /// Any other. Also redirects, which change routes, and source quench, which is obsolete (RFC 6633).
    Other,
}

impl Icmp {
    /// The kind of a packet whose probe found its upper-layer header.
    pub(crate) fn of(probe: &Probe, packet: &[u8]) -> Self {
        let icmp_type = packet.get(usize::from(probe.l4_offset)).copied().unwrap_or(255);
        match (probe.key.protocol(), probe.key.is_ipv6()) {
            (protocol::ICMPV4, false) => match icmp_type {
                icmpv4_type::ECHO_REQUEST | icmpv4_type::TIMESTAMP => Self::Query,
                icmpv4_type::ECHO_REPLY | icmpv4_type::TIMESTAMP_REPLY => Self::Answer,
                icmpv4_type::REDIRECT | icmpv4_type::SOURCE_QUENCH => Self::Other,
                icmp_type if icmpv4::is_error(icmp_type) => Self::Error,
                _ => Self::Other,
            },
            (protocol::ICMPV6, true) => match icmp_type {
                icmpv6_type::ECHO_REQUEST => Self::Query,
                icmpv6_type::ECHO_REPLY => Self::Answer,
                icmpv6_type::ROUTER_SOLICIT..=icmpv6_type::NEIGHBOR_ADVERT => {
                    let hop_limit = packet.get(usize::from(probe.l3_offset) + 7);
                    if hop_limit == Some(&255) { Self::NeighbourDiscovery } else { Self::Other }
                }
                icmp_type if icmpv6::is_error(icmp_type) => Self::Error,
                _ => Self::Other,
            },
            _ => Self::None,
        }
    }
}
