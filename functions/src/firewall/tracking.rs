//! How packets make, keep and end connections.

use super::connection::{Connection, Segment, State, Step};
use super::{Decision, Firewall};
use crate::flow_table::{Icmp, Key, Probe};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::{FlowKey, Layers, Tcp, TcpFlags, protocol};

impl Firewall {
    /// The first packet of a connection, or one of none.
    #[allow(clippy::too_many_arguments, reason = "one caller; a struct would only rename them")]
    pub(super) fn first(
        &mut self,
        packet: &Packet<'_>,
        probe: &Probe,
        icmp: Icmp,
        key: Key,
        turned: bool,
        hash: u32,
        now_ns: u64,
    ) -> Decision {
        let ingress = packet.ingress().0;
        let connection = match key.protocol() {
            protocol::TCP => {
                let segment = match segment(probe, packet.data()) {
                    Some(segment) if segment.is_sane() => segment,
                    _ => return self.invalid(DropReason::MALFORMED),
                };
                let flags = TcpFlags(probe.tcp_flags);
                let begins = flags.opens() || (self.tcp_loose && !flags.rst() && !flags.syn());
                if !begins {
                    return self.invalid(self.reasons.no_connection);
                }
                Connection::tcp(&segment, turned, ingress)
            }
            protocol::UDP => Connection::new(State::UdpUnreplied, turned, ingress),
            _ if icmp == Icmp::Query => Connection::new(State::Icmp, turned, ingress),
            _ if icmp == Icmp::Answer => return self.invalid(self.reasons.no_connection),
            _ => Connection::new(State::Other, turned, ingress),
        };
        let decision = self.by_rules(packet, probe);
        if decision != Decision::Pass {
            return decision;
        }
        if self.connections.unanswered() >= self.half_open {
            self.connections.evict_unanswered();
        }
        let expires_ns = now_ns.saturating_add(self.lifetimes[connection.state as usize]);
        match self.connections.insert(hash, key, connection, expires_ns, now_ns, true) {
            Some(_) => Decision::Pass,
            None => Decision::Drop(DropReason::TABLE_FULL),
        }
    }

    /// A packet of a connection in the table.
    pub(super) fn known(
        &mut self,
        packet: &Packet<'_>,
        probe: &Probe,
        slot: u32,
        turned: bool,
        now_ns: u64,
    ) -> Decision {
        let Some(entry) = self.connections.get_mut(slot) else { return Decision::Drop(DropReason::UNSPECIFIED) };
        let side = usize::from(entry.value.turned != turned);
        let ingress = packet.ingress().0;
        if entry.value.ingress[side] != Some(ingress) {
            return self.other_ingress(packet, probe, slot, side, now_ns);
        }
        self.step(packet, probe, slot, side, now_ns)
    }

    fn step(&mut self, packet: &Packet<'_>, probe: &Probe, slot: u32, side: usize, now_ns: u64) -> Decision {
        let Some(entry) = self.connections.get_mut(slot) else { return Decision::Drop(DropReason::UNSPECIFIED) };
        let connection = &mut entry.value;
        let step = if probe.key.protocol() == protocol::TCP {
            match segment(probe, packet.data()) {
                Some(segment) if segment.is_sane() => connection.segment(side, &segment),
                _ => return self.invalid(DropReason::MALFORMED),
            }
        } else {
            connection.datagram(side);
            Step::Valid
        };
        let state = connection.state;
        match step {
            Step::Valid => {
                entry.expires_ns = now_ns.saturating_add(self.lifetimes[state as usize]);
                if entry.is_unanswered() {
                    let answered = match state {
                        State::Established | State::FinWait | State::TimeWait => true,
                        State::SynSent | State::SynReceived | State::Closed => false,
                        _ => side == 1,
                    };
                    if answered {
                        self.connections.answered(slot);
                    }
                }
                self.counters.established.inc();
                Decision::Pass
            }
            Step::Ignored => {
                self.counters.established.inc();
                Decision::Pass
            }
            Step::Invalid => self.invalid(self.reasons.invalid),
            Step::Restart => {
                self.connections.remove(slot);
                let (key, turned) = probe.key.canonical();
                let hash = self.connections.seed().hash(&key);
                self.first(packet, probe, Icmp::None, key, turned, hash, now_ns)
            }
        }
    }

    /// A packet that came by another port than its side's packets before. The first answer teaches the port; a later change
    /// must be allowed by the rules, or else anybody who knows the addresses could join from any port.
    fn other_ingress(&mut self, packet: &Packet<'_>, probe: &Probe, slot: u32, side: usize, now_ns: u64) -> Decision {
        let Some(entry) = self.connections.get(slot) else { return Decision::Drop(DropReason::UNSPECIFIED) };
        if entry.value.ingress[side].is_some() {
            let decision = self.by_rules(packet, probe);
            if decision != Decision::Pass {
                return decision;
            }
        }
        let decision = self.step(packet, probe, slot, side, now_ns);
        if decision == Decision::Pass
            && let Some(entry) = self.connections.get_mut(slot)
        {
            entry.value.ingress[side] = Some(packet.ingress().0);
        }
        decision
    }

    /// Whether an ICMP error quotes a packet of a tracked connection, and goes to that packet's sender.
    pub(super) fn is_related(&self, data: &[u8], probe: &Probe, now_ns: u64) -> bool {
        let Ok(layers) = Layers::parse(data) else { return false };
        let Ok(quoted) = FlowKey::of_quoted(&layers, data) else { return false };
        let quoted = Key::from(&quoted);
        let (key, _) = quoted.canonical();
        quoted.a == probe.key.b && self.connections.find(self.connections.seed().hash(&key), &key, now_ns).is_some()
    }
}

/// The numbers of a TCP segment; `None` when its header is malformed.
#[inline]
pub(super) fn segment(probe: &Probe, data: &[u8]) -> Option<Segment> {
    let l4 = data.get(usize::from(probe.l4_offset)..usize::from(probe.end))?;
    Tcp::parse(l4).ok().map(|tcp| Segment::of(&tcp))
}
