//! One rule, and what it looks at.

use super::prefix::AddressRange;
use crate::flow_table::{Class, Probe};
use middlenet_sdk::wire::protocol;

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// It passes.
    Allow,
    /// It is dropped.
    Drop,
    /// It is dropped and its sender is told.
    Reject,
}

/// TCP flags under `mask` must equal `value`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TcpFlagTest {
    pub(super) mask: u8,
    pub(super) value: u8,
}

/// A rule as packets are compared with it. An empty list matches everything.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) action: Action,
    pub(super) protocols: Vec<u8>,
    pub(super) src: Vec<AddressRange>,
    pub(super) dst: Vec<AddressRange>,
    pub(super) src_ports: Vec<(u16, u16)>,
    pub(super) dst_ports: Vec<(u16, u16)>,
    pub(super) ingress: Vec<u8>,
    pub(super) icmp_types: Vec<u8>,
    pub(super) tcp_flags: Option<TcpFlagTest>,
}

/// What rules look at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) src: u128,
    pub(super) dst: u128,
    pub(super) protocol: u8,
    /// None for protocols without ports and for later fragments.
    pub(super) ports: Option<(u16, u16)>,
    pub(super) icmp_type: Option<u8>,
    pub(super) tcp_flags: Option<u8>,
    pub(super) ingress: u8,
}

impl Subject {
    /// The parts of a packet that rules look at.
    pub(super) fn of(probe: &Probe, packet: &[u8], ingress: u8) -> Self {
        let (key, whole) = (&probe.key, probe.class == Class::Flow);
        let protocol = key.protocol();
        let is_icmp = protocol == if key.is_ipv6() { protocol::ICMPV6 } else { protocol::ICMPV4 };
        Self {
            src: key.a,
            dst: key.b,
            protocol,
            ports: (whole && protocol::has_ports(protocol)).then(|| (key.a_port(), key.b_port())),
            icmp_type: (whole && is_icmp).then(|| packet.get(usize::from(probe.l4_offset)).copied().unwrap_or(255)),
            tcp_flags: (whole && protocol == protocol::TCP).then_some(probe.tcp_flags),
            ingress,
        }
    }
}

impl Rule {
    /// Whether the packet fits.
    pub(super) fn matches(&self, subject: &Subject) -> bool {
        let any_range = |ranges: &[AddressRange], a| ranges.is_empty() || ranges.iter().any(|range| range.contains(a));
        let any_port = |ranges: &[(u16, u16)], port: Option<u16>| {
            ranges.is_empty()
                || port.is_some_and(|port| ranges.iter().any(|&(first, last)| (first..=last).contains(&port)))
        };
        (self.protocols.is_empty() || self.protocols.contains(&subject.protocol))
            && (self.ingress.is_empty() || self.ingress.contains(&subject.ingress))
            && any_range(&self.src, subject.src)
            && any_range(&self.dst, subject.dst)
            && any_port(&self.src_ports, subject.ports.map(|(src, _)| src))
            && any_port(&self.dst_ports, subject.ports.map(|(_, dst)| dst))
            && (self.icmp_types.is_empty() || subject.icmp_type.is_some_and(|t| self.icmp_types.contains(&t)))
            && self.tcp_flags.is_none_or(|test| subject.tcp_flags.is_some_and(|f| f & test.mask == test.value))
    }
}
