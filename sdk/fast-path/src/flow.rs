//! Rules for one flow.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use middlenet_steer::Flow;

use crate::{Action, octets};

/// Bytes of a flow's key: `struct steer_key`.
pub const KEY_BYTES: usize = 40;

/// Bytes of `struct fast_flow`.
pub const FLOW_BYTES: usize = 112;

/// What FIN and RST of a TCP flow do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Ends {
    /// Nothing.
    #[default]
    Ignored,
    /// They go to the slow path, which keeps track of connections.
    ToSlowPath,
    /// The fast path notes them: a connection that was closed by both sides, or reset, ends soon after
    /// ([`FlowState::is_closing`]).
    Tracked,
}

/// What becomes of the packets of a flow, and for how long.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowRule {
    /// What it does.
    pub action: Action,
    /// After this time the flow's packets go to the slow path again, whether it is in use or not.
    pub lifetime: Duration,
    /// The same after so much time without a packet.
    pub idle: Option<Duration>,
    /// What FIN and RST do.
    pub ends: Ends,
}

/// How a flow stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FlowState {
    /// Packets that the rule decided about.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When the last one came, by CLOCK_MONOTONIC, in ns; when it was installed if none has.
    pub last_ns: u64,
    /// When it expires, by the same clock.
    pub expires_ns: u64,
    /// How long it may be without a packet, in ns; 0: for any time.
    pub idle_ns: u64,
    /// Which generation it is of: void if it is not that of [`MapKind::Settings`](crate::MapKind::Settings).
    pub generation: u32,
    /// Both sides have closed the connection, or one has reset it.
    pub is_closing: bool,
}

impl FlowState {
    /// Whether the rule counts no more.
    pub fn is_over(&self, now_ns: u64, generation: u32) -> bool {
        let idle = self.idle_ns != 0 && now_ns.saturating_sub(self.last_ns) > self.idle_ns;
        self.generation != generation || self.expires_ns <= now_ns || idle
    }
}

impl FlowRule {
    /// `struct fast_flow` of a rule that begins now.
    pub fn encode(&self, now_ns: u64, generation: u32) -> [u8; FLOW_BYTES] {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        let mut bytes = [0; FLOW_BYTES];
        bytes[..64].copy_from_slice(&self.action.encode());
        bytes[64..72].copy_from_slice(&now_ns.saturating_add(ns(self.lifetime)).to_ne_bytes());
        bytes[72..80].copy_from_slice(&self.idle.map_or(0, ns).to_ne_bytes());
        bytes[80..88].copy_from_slice(&now_ns.to_ne_bytes());
        bytes[104..108].copy_from_slice(&generation.to_ne_bytes());
        bytes[108] = match self.ends {
            Ends::Ignored => 0,
            Ends::ToSlowPath => 1,
            Ends::Tracked => 2,
        };
        bytes
    }
}

impl FlowState {
    /// The state in a `struct fast_flow`.
    pub fn decode(bytes: &[u8; FLOW_BYTES]) -> Self {
        let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|i| bytes[at + i]));
        let seen = bytes[109];
        Self {
            expires_ns: word(64),
            idle_ns: word(72),
            last_ns: word(80),
            packets: word(88),
            bytes: word(96),
            generation: word(104) as u32,
            is_closing: seen & 4 != 0 || seen & 3 == 3,
        }
    }

    /// The action beside it.
    pub fn action(bytes: &[u8; FLOW_BYTES]) -> Option<Action> {
        bytes.first_chunk().and_then(Action::decode)
    }
}

/// The key of a flow; nothing if its addresses are of different versions.
pub fn flow_key(flow: &Flow) -> Option<[u8; KEY_BYTES]> {
    let is_ipv6 = match (flow.src, flow.dst) {
        (IpAddr::V4(_), IpAddr::V4(_)) => false,
        (IpAddr::V6(_), IpAddr::V6(_)) => true,
        _ => return None,
    };
    let mut bytes = [0; KEY_BYTES];
    bytes[..16].copy_from_slice(&octets(flow.src));
    bytes[16..32].copy_from_slice(&octets(flow.dst));
    bytes[32..34].copy_from_slice(&flow.src_port.to_ne_bytes());
    bytes[34..36].copy_from_slice(&flow.dst_port.to_ne_bytes());
    bytes[36..38].copy_from_slice(&flow.vlan.to_ne_bytes());
    bytes[38] = flow.protocol;
    bytes[39] = is_ipv6.into();
    Some(bytes)
}

/// The flow of a key; nothing for bytes that are none.
pub fn read_flow_key(bytes: &[u8; KEY_BYTES]) -> Option<Flow> {
    let address = |at: usize| -> Option<IpAddr> {
        let address = Ipv6Addr::from(std::array::from_fn(|i| bytes[at + i]));
        if bytes[39] != 0 { Some(address.into()) } else { address.to_ipv4_mapped().map(IpAddr::V4) }
    };
    let word = |at: usize| u16::from_ne_bytes([bytes[at], bytes[at + 1]]);
    Some(Flow {
        vlan: word(36),
        src: address(0)?,
        dst: address(16)?,
        protocol: bytes[38],
        src_port: word(32),
        dst_port: word(34),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stands_for_its_flow() {
        let flow = |src: &str, dst: &str| Flow {
            vlan: 7,
            src: src.parse().unwrap(),
            dst: dst.parse().unwrap(),
            protocol: 6,
            src_port: 1000,
            dst_port: 80,
        };
        for flow in [flow("10.0.0.1", "10.0.0.2"), flow("2001:db8::1", "::ffff:10.0.0.2"), flow("::1", "::2")] {
            assert_eq!(read_flow_key(&flow_key(&flow).unwrap()), Some(flow));
        }
        assert_eq!(flow_key(&flow("10.0.0.1", "::2")), None);
    }

    #[test]
    fn a_rule_is_over_by_lifetime_idleness_or_generation() {
        let rule = FlowRule {
            action: Action::default(),
            lifetime: Duration::from_secs(10),
            idle: Some(Duration::from_secs(2)),
            ends: Ends::Tracked,
        };
        let second = 1_000_000_000;
        let state = FlowState::decode(&rule.encode(100 * second, 3));
        assert!(!state.is_over(101 * second, 3));
        assert!(state.is_over(101 * second, 4));
        assert!(state.is_over(103 * second, 3));
        assert!(FlowState { last_ns: 109 * second, ..state }.is_over(110 * second, 3));
        assert!(!FlowState { last_ns: 109 * second, ..state }.is_over(109 * second, 3));
    }
}
