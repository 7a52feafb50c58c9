//! ICMP errors: they are translated with the packet that they quote, so that its sender recognises it (RFC 5508 section 4).

use super::Elb;
use crate::firewall::prefix::address_of;
use crate::flow_table::{Key, Probe};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::rewrite::{self, Side};
use middlenet_sdk::wire::{FlowKey, Layers, WireError, protocol};
use std::net::IpAddr;

impl Elb {
    /// An ICMP error. One that concerns no connection goes on as it is.
    pub(super) fn translate_error(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> Verdict {
        let Ok(layers) = Layers::parse(packet.data()) else { return Verdict::Next };
        let Ok(quoted) = FlowKey::of_quoted(&layers, packet.data()) else { return Verdict::Next };
        if !matches!(quoted.protocol, protocol::TCP | protocol::UDP) {
            return Verdict::Next;
        }
        // The packet that is quoted went the other way; the error goes to who sent it, and to nobody else.
        let back = Key::from(&quoted).reverse();
        if back.b != probe.key.b {
            return Verdict::Next;
        }
        let is_ipv6 = probe.key.is_ipv6();
        let done = if let Some(service) = self.connection_answered(&back, now_ns) {
            // About what a client sent, as the server got it.
            self.to_asker(packet, probe, &layers, (back.a, service), is_ipv6)
        } else if let Some(server) = self.connection_asked(&back, now_ns) {
            // About what a server sent, as the client got it.
            to_answerer(packet, &layers, server, is_ipv6)
        } else {
            return Verdict::Next;
        };
        if done.is_err() {
            return self.untranslatable();
        }
        self.counters.icmp_errors.inc();
        Verdict::Next
    }

    fn to_asker(
        &self,
        packet: &mut Packet<'_>,
        probe: &Probe,
        layers: &Layers,
        (server, service): (u128, (u128, u16)),
        is_ipv6: bool,
    ) -> Result<(), WireError> {
        let address = address(service.0, is_ipv6);
        let data = packet.data_mut();
        rewrite::quoted_endpoint(data, layers, Side::Destination, address, Some(service.1))?;
        // The server speaks in the name of the service; a router on the way in its own.
        if probe.key.a == server {
            rewrite::endpoint(data, layers, Side::Source, address, None)?;
        }
        Ok(())
    }
}

fn to_answerer(packet: &mut Packet<'_>, layers: &Layers, server: (u128, u16), is_ipv6: bool) -> Result<(), WireError> {
    let address = address(server.0, is_ipv6);
    let data = packet.data_mut();
    rewrite::quoted_endpoint(data, layers, Side::Source, address, Some(server.1))?;
    rewrite::endpoint(data, layers, Side::Destination, address, None)
}

fn address(number: u128, is_ipv6: bool) -> IpAddr {
    if is_ipv6 { IpAddr::V6(number.into()) } else { address_of(number) }
}
