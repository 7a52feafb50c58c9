//! The first look at a packet: which flow it belongs to, and where its headers are.

use super::Key;
use middlenet_sdk::wire::{FlowKey, L3, Layers, WireError, ethertype, protocol};

/// What kind of packet a probe found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Class {
    /// IP with its upper-layer header: a whole packet or a first fragment.
    Flow,
    /// IP without its upper-layer header.
    LaterFragment,
    /// ARP.
    Arp,
    /// Neither IP nor ARP.
    NotIp,
    /// No consistent packet.
    #[default]
    Malformed,
}

/// Where a packet belongs. Small, so that a burst of probes stays in the first-level cache between passes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Probe {
    /// Source first. All zero unless the packet is IP.
    pub(crate) key: Key,
    /// Where L3 begins, in bytes.
    pub(crate) l3_offset: u16,
    /// Where the upper layer begins, in bytes.
    pub(crate) l4_offset: u16,
    /// Where the L3 packet ends, in bytes.
    pub(crate) end: u16,
    /// What it is.
    pub(crate) class: Class,
    /// Whether it is a first fragment.
    pub(crate) first_fragment: bool,
    /// TCP flags; 0 for others.
    pub(crate) tcp_flags: u8,
}

const MAPPED: u128 = 0xffff_0000_0000;
const ETHERNET: usize = 14;
const IPV4_L4: usize = ETHERNET + 20;
const IPV6_L4: usize = ETHERNET + 40;

impl Probe {
    /// Looks at a packet.
    ///
    /// Untagged TCP and UDP without IP options or fragmentation, which is nearly all traffic, is read from fixed places; all
    /// else takes the walk of [`Layers`]. Both agree, as a test over random packets shows.
    #[inline]
    pub(crate) fn of(packet: &[u8]) -> Self {
        Self::plain_ipv4(packet).or_else(|| Self::plain_ipv6(packet)).unwrap_or_else(|| Self::walk(packet))
    }

    #[inline]
    fn plain_ipv4(packet: &[u8]) -> Option<Self> {
        // Through the TCP header; a UDP packet is padded to 60 bytes on Ethernet, and if not, it takes the walk.
        let head = packet.first_chunk::<{ IPV4_L4 + 20 }>()?;
        let be16 = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let be32 = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (total, protocol) = (usize::from(be16(ETHERNET + 2)), head[ETHERNET + 9]);
        let least = 20 + least_l4(protocol)?;
        let plain = be16(12) == ethertype::IPV4
            && head[ETHERNET] == 0x45
            && be16(ETHERNET + 6) & 0x3fff == 0
            && total >= least
            && total + ETHERNET <= packet.len();
        if !plain {
            return None;
        }
        let (src, dst) = (MAPPED | u128::from(be32(ETHERNET + 12)), MAPPED | u128::from(be32(ETHERNET + 16)));
        let small = Key::small(0, protocol, false);
        Some(Self {
            key: Key::new(src, be16(IPV4_L4), dst, be16(IPV4_L4 + 2), small),
            l3_offset: ETHERNET as u16,
            l4_offset: IPV4_L4 as u16,
            end: (total + ETHERNET) as u16,
            class: Class::Flow,
            first_fragment: false,
            tcp_flags: if protocol == protocol::TCP { head[IPV4_L4 + 13] } else { 0 },
        })
    }

    #[inline]
    fn plain_ipv6(packet: &[u8]) -> Option<Self> {
        let head = packet.first_chunk::<{ IPV6_L4 + 8 }>()?;
        let be16 = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let (length, protocol) = (usize::from(be16(ETHERNET + 4)), head[ETHERNET + 6]);
        let least = least_l4(protocol)?;
        let plain = be16(12) == ethertype::IPV6
            && head[ETHERNET] >> 4 == 6
            && length >= least
            && length + IPV6_L4 <= packet.len();
        if !plain {
            return None;
        }
        let address = |at: usize| {
            let bytes: [u8; 16] = std::array::from_fn(|i| head[at + i]);
            u128::from_be_bytes(bytes)
        };
        let small = Key::small(0, protocol, true);
        let tcp_flags = if protocol == protocol::TCP { *packet.get(IPV6_L4 + 13)? } else { 0 };
        Some(Self {
            key: Key::new(address(ETHERNET + 8), be16(IPV6_L4), address(ETHERNET + 24), be16(IPV6_L4 + 2), small),
            l3_offset: ETHERNET as u16,
            l4_offset: IPV6_L4 as u16,
            end: (length + IPV6_L4) as u16,
            class: Class::Flow,
            first_fragment: false,
            tcp_flags,
        })
    }

    fn walk(packet: &[u8]) -> Self {
        let Ok(layers) = Layers::parse(packet) else { return Self::default() };
        Self::of_layers(&layers, packet).unwrap_or_default()
    }

    fn of_layers(layers: &Layers, packet: &[u8]) -> Result<Self, WireError> {
        let offset = |at: usize| u16::try_from(at).map_err(|_| WireError::BadLength);
        let mut probe = Self {
            l3_offset: offset(layers.l3_offset)?,
            l4_offset: offset(layers.l4_offset)?,
            end: offset(layers.end)?,
            ..Self::default()
        };
        probe.class = match layers.l3 {
            L3::Arp => Class::Arp,
            L3::Other => Class::NotIp,
            L3::Ipv4 | L3::Ipv6 => {
                probe.key = Key::from(&FlowKey::of(layers, packet)?);
                probe.first_fragment = layers.fragment.is_some_and(|fragment| fragment.is_first());
                if layers.has_l4() { Class::Flow } else { Class::LaterFragment }
            }
        };
        if probe.class == Class::Flow {
            let l4 = layers.l4_bytes(packet)?;
            // The least header must be whole also in a first fragment (RFC 1858 section 3.1, RFC 7112).
            if least_l4(layers.protocol).is_some_and(|least| l4.len() < least) {
                return Err(WireError::Truncated);
            }
            if layers.protocol == protocol::TCP {
                probe.tcp_flags = l4.get(13).copied().unwrap_or(0);
            }
        }
        Ok(probe)
    }
}

/// Length of the least header of the protocols that have a fast path.
#[inline]
fn least_l4(protocol: u8) -> Option<usize> {
    match protocol {
        protocol::TCP => Some(20),
        protocol::UDP => Some(8),
        _ => None,
    }
}
