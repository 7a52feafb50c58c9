//! Answers to ARP requests and neighbour solicitations for pool addresses.

use super::Nat;
use crate::firewall::prefix::number;
use crate::flow_table::{Class, Probe};
use middlenet_sdk::Packet;
use middlenet_sdk::wire::checksum::Sum;
use middlenet_sdk::wire::icmpv6::icmpv6_type;
use middlenet_sdk::wire::{ArpOperation, Layers, MacAddr, PacketBuilder, protocol};
use std::net::Ipv6Addr;

impl Nat {
    /// Turns a question for the link address of a pool address into its answer.
    pub(super) fn answer_neighbour(&self, packet: &mut Packet<'_>, probe: &Probe) -> bool {
        let ingress = packet.ingress().0;
        let mac = self.macs.iter().find(|port| port.id == ingress).map(|port| MacAddr(port.mac));
        let Some(mac) = mac.filter(|mac| mac.is_unicast()) else { return false };
        let mut answer = [0; 128];
        let written = match probe.class {
            Class::Arp => self.arp_answer(packet.data(), mac, &mut answer),
            Class::Flow if probe.key.is_ipv6() && probe.key.protocol() == protocol::ICMPV6 => {
                self.advertisement(packet.data(), mac, &mut answer)
            }
            _ => None,
        };
        written.and_then(|length| answer.get(..length)).is_some_and(|answer| packet.fill(answer))
    }

    fn arp_answer(&self, data: &[u8], mac: MacAddr, answer: &mut [u8]) -> Option<usize> {
        let layers = Layers::parse(data).ok()?;
        let arp = layers.arp(data).ok()?;
        let wanted = arp.target_ip();
        // Not for announcements of the address by somebody else.
        let asks = arp.operation() == ArpOperation::Request && !arp.is_gratuitous();
        if !asks || !self.bindings.in_pool(number(wanted.into())) {
            return None;
        }
        let builder = tagged(&layers).arp_reply((mac, wanted), (arp.sender_mac(), arp.sender_ip()));
        builder.padded().emit(answer).ok()
    }

    /// RFC 4861 section 7.2.4.
    fn advertisement(&self, data: &[u8], mac: MacAddr, answer: &mut [u8]) -> Option<usize> {
        let layers = Layers::parse(data).ok()?;
        let (ip, l4) = (layers.ipv6(data).ok()?, layers.l4_bytes(data).ok()?);
        let target = l4.get(8..24)?.first_chunk::<16>()?;
        let asks = l4.first() == Some(&icmpv6_type::NEIGHBOR_SOLICIT) && ip.hop_limit() == 255;
        // A solicitation from nowhere asks whether the address is free (RFC 4862): that is answered to all nodes.
        let solicited = ip.src() != Ipv6Addr::UNSPECIFIED;
        let target_ip = Ipv6Addr::from(*target);
        if !asks || !self.bindings.in_pool(target_ip.to_bits()) {
            return None;
        }
        layers.verify_l4_checksum(data).ok()?;
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let to = if solicited { ip.src() } else { all_nodes };
        let asker = MacAddr(*data.get(6..12)?.first_chunk::<6>()?);
        let to_mac = if solicited { asker } else { MacAddr::of_ipv6_multicast(all_nodes) };
        let mut message = [0; 32];
        // Solicited and override flags; the option with the target's link address.
        (message[0], message[4]) = (icmpv6_type::NEIGHBOR_ADVERT, if solicited { 0x60 } else { 0x20 });
        message[8..24].copy_from_slice(target);
        (message[24], message[25]) = (2, 1);
        message[26..].copy_from_slice(&mac.octets());
        let pseudo = Sum::pseudo_ipv6(target_ip, to, protocol::ICMPV6, message.len());
        let checksum = pseudo.bytes(&message).checksum();
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        let builder = tagged(&layers).mac(mac, to_mac).ipv6(target_ip, to).ttl(255);
        builder.protocol(protocol::ICMPV6).payload(&message).emit(answer).ok()
    }
}

/// A builder with the VLAN tags of the question.
fn tagged<'a>(layers: &Layers) -> PacketBuilder<'a> {
    layers.vlan.as_slice().iter().fold(PacketBuilder::new(), |builder, tag| builder.vlan(*tag))
}
