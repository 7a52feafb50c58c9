//! What was decided about the first fragment of a packet, for those that follow.

use super::{FlowTable, Key, Probe};
use middlenet_sdk::wire::Layers;

/// How long later fragments are expected: IPv4 hosts reassemble for 15 s and more (RFC 791), IPv6 hosts for 60 s (RFC 8200
/// section 4.5); beyond half a minute the packet is as good as lost.
const LIFETIME_NS: u64 = 30_000_000_000;

/// Decisions about first fragments. A fragment that overtakes its first one finds nothing.
#[derive(Debug)]
pub(crate) struct FragmentTable<V>(FlowTable<V>);

impl<V: Copy> FragmentTable<V> {
    /// For this many packets that are under way in fragments.
    pub(crate) fn new(capacity: usize) -> Self {
        Self(FlowTable::new(capacity))
    }

    /// Remembers the decision about a first fragment. When the table is full, the oldest decision makes room.
    pub(crate) fn remember(&mut self, probe: &Probe, layers: &Layers, decision: V, now_ns: u64) -> bool {
        let Some(key) = key(probe, layers) else { return false };
        self.0.insert(self.0.seed().hash(&key), key, decision, now_ns + LIFETIME_NS, now_ns, true).is_some()
    }

    /// The decision about the first fragment of this one's packet.
    pub(crate) fn recall(&self, probe: &Probe, layers: &Layers, now_ns: u64) -> Option<V> {
        let key = key(probe, layers)?;
        let slot = self.0.find(self.0.seed().hash(&key), &key, now_ns)?;
        self.0.get(slot).map(|entry| entry.value)
    }

    /// Reclaims what is past its time.
    pub(crate) fn sweep(&mut self, now_ns: u64) {
        self.0.sweep(now_ns, |_| {});
    }
}

/// Addresses, VLAN and identification; for IPv4 also the protocol (RFC 791; RFC 8200 section 4.5).
fn key(probe: &Probe, layers: &Layers) -> Option<Key> {
    let id = layers.fragment?.id;
    let is_ipv6 = probe.key.is_ipv6();
    let protocol = if is_ipv6 { 0 } else { layers.protocol };
    let small = Key::small(layers.vid().unwrap_or(0), protocol, is_ipv6);
    Some(Key::new(probe.key.a, (id >> 16) as u16, probe.key.b, id as u16, small))
}
