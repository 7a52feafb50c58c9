//! ICMP errors: they are translated with the packet that they quote (RFC 5508 section 4).

use super::Nat;
use crate::firewall::prefix::address_of;
use crate::flow_table::{Key, Probe};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::rewrite::{self, Side};
use middlenet_sdk::wire::{FlowKey, Layers};

impl Nat {
    /// An ICMP error from inside about a packet that came in: it quotes an inside destination.
    pub(super) fn outbound_error(&mut self, packet: &mut Packet<'_>, probe: &Probe) -> Verdict {
        let Ok(layers) = Layers::parse(packet.data()) else { return self.untranslatable(DropReason::MALFORMED) };
        let Ok(quoted) = FlowKey::of_quoted(&layers, packet.data()) else {
            return self.untranslatable(DropReason::MALFORMED);
        };
        let quoted = Key::from(&quoted);
        let Some(mapping) = self.bindings.mapping_of(quoted.protocol(), (quoted.b, quoted.b_port())).copied() else {
            return self.no_session();
        };
        // The error goes to the packet's sender, and to nobody else.
        if quoted.a != probe.key.b {
            return self.no_session();
        }
        let (address, port) = (address_of(mapping.outside.0), Some(mapping.outside.1));
        let data = packet.data_mut();
        let done = rewrite::quoted_endpoint(data, &layers, Side::Destination, address, port).is_ok()
            && rewrite::endpoint(data, &layers, Side::Source, address, None).is_ok();
        self.error_done(done)
    }

    /// An ICMP error from outside about a packet that went out: it quotes an outside source.
    pub(super) fn inbound_error(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> Verdict {
        let Ok(layers) = Layers::parse(packet.data()) else { return self.untranslatable(DropReason::MALFORMED) };
        let Ok(quoted) = FlowKey::of_quoted(&layers, packet.data()) else {
            return self.untranslatable(DropReason::MALFORMED);
        };
        let mut seen = Key::from(&quoted).reverse();
        seen.rest &= !(0xffff << 16);
        let hash = self.bindings.hash(&seen, false);
        // Only about a session there is (RFC 5508 REQ-4), and only to the sender of what it quotes.
        let session = self.bindings.find(&self.fast, hash, &seen, false, now_ns);
        let Some(session) = session.filter(|_| seen.b == probe.key.b) else {
            return self.stray();
        };
        let (address, port) = (address_of(session.inside.a), Some(session.inside.a_port()));
        let data = packet.data_mut();
        let done = rewrite::quoted_endpoint(data, &layers, Side::Source, address, port).is_ok()
            && rewrite::endpoint(data, &layers, Side::Destination, address, None).is_ok();
        self.error_done(done)
    }

    fn error_done(&self, done: bool) -> Verdict {
        if !done {
            return self.untranslatable(DropReason::UNSUPPORTED);
        }
        self.counters.icmp_errors.inc();
        Verdict::Next
    }
}
