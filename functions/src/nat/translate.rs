//! New addresses and ports in packets.

use crate::firewall::prefix::address_of;
use crate::flow_table::Probe;
use middlenet_sdk::wire::checksum::Delta;
use middlenet_sdk::wire::rewrite::{self, Side};
use middlenet_sdk::wire::{Layers, protocol};

/// Sets address and port of one side, and every checksum that covers them. False when it cannot be done.
#[inline]
pub(crate) fn translate(data: &mut [u8], probe: &Probe, side: Side, address: u128, port: u16) -> bool {
    let is_plain = probe.l3_offset == 14 && probe.l4_offset == 34 && !probe.key.is_ipv6() && !probe.first_fragment;
    match probe.key.protocol() {
        protocol::TCP if is_plain => translate_plain::<50>(data, side, address as u32, port, false).is_some(),
        protocol::UDP if is_plain => translate_plain::<40>(data, side, address as u32, port, true).is_some(),
        _ => Layers::parse(data)
            .and_then(|layers| rewrite::endpoint(data, &layers, side, address_of(address), Some(port)))
            .is_ok(),
    }
}

/// [`translate`] for untagged IPv4 without options, whose L4 checksum stands at byte `CHECKSUM`.
#[inline]
fn translate_plain<const CHECKSUM: usize>(
    data: &mut [u8],
    side: Side,
    address: u32,
    port: u16,
    udp: bool,
) -> Option<()> {
    const IPV4_CHECKSUM: usize = 24;
    let head = data.get_mut(..CHECKSUM + 2)?;
    let (address_at, port_at) = if side == Side::Source { (26, 34) } else { (30, 36) };
    let addresses = head.get_mut(address_at..)?.first_chunk_mut::<4>()?;
    let delta = Delta::new().u32(u32::from_be_bytes(*addresses), address);
    *addresses = address.to_be_bytes();
    let checksum = head.get_mut(IPV4_CHECKSUM..)?.first_chunk_mut::<2>()?;
    *checksum = delta.apply(u16::from_be_bytes(*checksum)).to_be_bytes();
    let ports = head.get_mut(port_at..)?.first_chunk_mut::<2>()?;
    let delta = delta.u16(u16::from_be_bytes(*ports), port);
    *ports = port.to_be_bytes();
    let checksum = head.get_mut(CHECKSUM..)?.first_chunk_mut::<2>()?;
    let old = u16::from_be_bytes(*checksum);
    *checksum = if udp { delta.apply_udp(old) } else { delta.apply(old) }.to_be_bytes();
    Some(())
}
