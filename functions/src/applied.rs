//! What a fast path makes of a packet, for tests that compare it with what the function makes of it.

use middlenet_sdk::fast_path::{Action, Flow, View, flow_of};
use middlenet_sdk::wire::rewrite::{self, Side};
use middlenet_sdk::wire::{FlowKey, Ipv4Mut, Ipv6Mut, Layers};

/// The flow of a packet.
pub(crate) fn flow(packet: &[u8]) -> Flow {
    flow_of(&FlowKey::parse(packet).expect("an IP packet"))
}

/// Lets a packet through the fast path: the packet afterwards, and the action. Nothing if it goes to the function.
pub(crate) fn pass(fast_path: &View, packet: &[u8]) -> Option<(Vec<u8>, Action)> {
    let layers = Layers::parse(packet).ok()?;
    let key = FlowKey::parse(packet)?;
    // As flows with `Ends::ToSlowPath`, and fragments.
    let flags = if layers.protocol == 6 { layers.l4_bytes(packet).ok()?.get(13).copied()? } else { 0 };
    if layers.fragment.is_some() || flags & 0b101 != 0 {
        return None;
    }
    let action = fast_path.decide(&flow_of(&key))?;
    if action.mtu.is_some_and(|mtu| layers.end - layers.l3_offset > usize::from(mtu)) {
        return None;
    }
    let mut bytes = packet.to_vec();
    if action.rewrite.lower_ttl {
        let l3 = &mut bytes[layers.l3_offset..];
        if layers.is_ipv4() {
            (l3.get(8)? > &1).then(|| Ipv4Mut::parse(l3).map(|mut ip| ip.dec_ttl()))?.ok()?;
        } else {
            (l3.get(7)? > &1).then(|| Ipv6Mut::parse(l3).map(|mut ip| ip.dec_hop_limit()))?.ok()?;
        }
    }
    if let Some((dst, src)) = action.rewrite.ethernet {
        bytes[..6].copy_from_slice(&dst);
        bytes[6..12].copy_from_slice(&src);
    }
    let sides = [
        (Side::Source, action.rewrite.src, action.rewrite.src_port),
        (Side::Destination, action.rewrite.dst, action.rewrite.dst_port),
    ];
    for (side, address, port) in sides {
        if let Some(address) = address {
            rewrite::endpoint(&mut bytes, &layers, side, address, port).expect("a packet that can be rewritten");
        }
    }
    fast_path.pass(&flow_of(&key), packet.len() as u64);
    Some((bytes, action))
}
