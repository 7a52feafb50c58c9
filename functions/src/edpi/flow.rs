//! A flow, from its first packet to the fast path and its end.

use super::config::{Decision, Policy};
use super::statistics::{Moved, PROTOCOLS, Statistics};
use super::{Counters, Edpi};
use crate::firewall::prefix::address_of;
use crate::flow_table::{Key, Probe};
use middlenet_ndpi::Classification;
use middlenet_sdk::fast_path::{Action, Ends, FastPath, Flow, FlowRule, Then};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::{FlowKey, TcpFlags, protocol};
use middlenet_sdk::{Packet, SteerTarget};
use std::ops::ControlFlow;
use std::time::Duration;

/// How long an ended connection is remembered, for its last packets.
const LINGER_NS: u64 = 5_000_000_000;
/// Packets may be under way to the function when their flow is installed; only those that come later mean that it is there no more.
const REINSTALL_NS: u64 = 1_000_000_000;
/// Flows about which a tick asks the fast path at most: two look-ups each, system calls all of them.
pub(super) const ASKED_PER_TICK: usize = 128;
/// Slots that a new flow looks at for one whose time is up, when there is no room.
const ROOM_SLOTS: usize = 16;
/// Flows among them about which it asks the fast path.
const ROOM_ASKED: usize = 2;

/// What is known of a flow.
pub(super) struct Tracked {
    /// While it is being inspected.
    pub(super) inspected: Option<middlenet_ndpi::Flow>,
    /// Packets shown to nDPI.
    shown: u32,
    /// What came by the function.
    moved: Moved,
    pub(super) found: Classification,
    pub(super) decision: Decision,
    /// When it went to the fast path, or was steered, last; 0 if it has not, or not since the configuration changed.
    pub(super) left_ns: u64,
    /// Until when it is steered, to where the decision says; 0 if it is not.
    pub(super) steered_ns: u64,
    pub(super) is_fast: bool,
    /// First met in its middle: an instance before this one may have put it into the fast path.
    is_from_before: bool,
    /// Whether its first packet went the other way than the key says.
    begun_turned: bool,
    /// FINs seen, by direction, and RST.
    ends: u8,
}

const RESET: u8 = 4;

impl Tracked {
    fn new(turned: bool, is_from_before: bool) -> Self {
        Self {
            inspected: middlenet_ndpi::Flow::new(),
            shown: 0,
            moved: Moved::default(),
            found: Classification::default(),
            decision: Decision::Pass,
            left_ns: 0,
            steered_ns: 0,
            is_fast: false,
            is_from_before,
            begun_turned: turned,
            ends: 0,
        }
    }

    /// What its packets are counted under.
    fn class(&self) -> u16 {
        self.found.protocol().min(PROTOCOLS as u16 - 1)
    }

    /// Whether both sides closed the connection.
    fn is_closed(&self) -> bool {
        self.ends & 3 == 3
    }

    /// Whether they did, or one seems to have reset it. Anybody can send an RST that the other side takes no notice of, so no decision
    /// depends on one.
    fn has_ended(&self) -> bool {
        self.ends & RESET != 0 || self.is_closed()
    }

    /// Whether it will be forgotten soon. What is blocked or goes elsewhere does so after a reset, too.
    fn lingers(&self) -> bool {
        self.is_closed() || self.has_ended() && self.decision == Decision::Pass
    }

    /// Nothing more is to be learned.
    fn conclude(&mut self, found: Classification, policy: &Policy, statistics: &mut Statistics, counters: &Counters) {
        self.inspected = None;
        (self.found, self.decision) = (found, policy.decide(&found));
        statistics.classify(self.class(), self.moved);
        if found.is_known() { &counters.classified } else { &counters.unclassified }.inc();
    }

    /// For how long it is remembered without a packet.
    fn idle(&self, key: &Key, policy: &Policy) -> Duration {
        if key.protocol() == protocol::TCP { policy.tcp_idle } else { policy.idle }
    }

    fn idle_ns(&self, key: &Key, policy: &Policy) -> u64 {
        u64::try_from(self.idle(key, policy).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Both directions of a flow, as the fast path knows them.
fn directions(key: &Key) -> [Flow; 2] {
    [*key, key.reverse()].map(|key| Flow {
        vlan: key.vid(),
        src: address(&key, key.a),
        dst: address(&key, key.b),
        protocol: key.protocol(),
        src_port: key.a_port(),
        dst_port: key.b_port(),
    })
}

fn address(key: &Key, number: u128) -> std::net::IpAddr {
    if key.is_ipv6() { std::net::Ipv6Addr::from_bits(number).into() } else { address_of(number) }
}

fn is_alive(fast_path: &FastPath, key: &Key) -> bool {
    directions(key).iter().any(|flow| fast_path.query(flow).is_some())
}

fn remove(fast_path: &FastPath, key: &Key) {
    for flow in directions(key) {
        fast_path.remove(&flow);
    }
}

impl Edpi {
    /// Where a packet's flow is, and whether the packet goes the other way than its key says; nothing if there is no room for it.
    pub(super) fn slot(&mut self, probe: &Probe, now_ns: u64) -> Option<(u32, bool)> {
        let (key, turned) = probe.key.canonical();
        let hash = self.flows.seed().hash(&key);
        let slot = self.flows.seek(hash, &key);
        if let Some(entry) = self.flows.get_mut(slot) {
            let tracked = &entry.value;
            let opens = key.protocol() == protocol::TCP && TcpFlags(probe.tcp_flags).opens();
            // The same ports once more: another connection.
            let is_another = opens && (tracked.inspected.is_none() || tracked.has_ended());
            // Its packets go by in the fast path, which this clock knows nothing of.
            let lives = entry.expires_ns > now_ns || tracked.is_fast && is_alive(&self.fast_path, &key);
            if lives && !is_another {
                return Some((slot, turned));
            }
            self.forget(slot, &key);
        }
        if self.flows.is_full() {
            self.make_room(now_ns)?;
        }
        let is_tcp = key.protocol() == protocol::TCP;
        let is_from_before = self.fast_path.is_active() && is_tcp && !TcpFlags(probe.tcp_flags).syn();
        let slot = self.flows.insert(hash, key, Tracked::new(turned, is_from_before), now_ns, now_ns, true)?;
        Some((slot, turned))
    }

    /// Forgets a flow for another: one whose time is up and which is not in use in the fast path, if there is one among the next slots; else
    /// the one that has waited longest for an answer.
    fn make_room(&mut self, now_ns: u64) -> Option<()> {
        let mut asked = 0;
        for _ in 0..ROOM_SLOTS.min(self.flows.high_water()) {
            self.room_at = (self.room_at + 1) % self.flows.high_water() as u32;
            let Some(entry) = self.flows.get_mut(self.room_at).filter(|entry| entry.expires_ns <= now_ns) else {
                continue;
            };
            let key = *entry.key();
            if entry.value.is_fast {
                asked += 1;
                if asked > ROOM_ASKED {
                    break;
                }
                if is_alive(&self.fast_path, &key) {
                    entry.expires_ns = now_ns.saturating_add(entry.value.idle_ns(&key, &self.policy));
                    continue;
                }
            }
            self.forget(self.room_at, &key);
            return Some(());
        }
        let oldest = self.flows.oldest_unanswered()?;
        let key = *self.flows.get(oldest)?.key();
        self.forget(oldest, &key);
        Some(())
    }

    fn forget(&mut self, slot: u32, key: &Key) {
        let Some(mut tracked) = self.flows.remove(slot) else { return };
        if tracked.is_fast {
            remove(&self.fast_path, key);
        }
        if tracked.steered_ns != 0 {
            self.unwanted.push_back((*key, tracked.steered_ns));
        }
        if let Some(mut flow) = tracked.inspected.take() {
            let found = self.detector.give_up(&mut flow, self.policy.guess);
            tracked.conclude(found, &self.policy, &mut self.statistics, &self.counters);
        }
    }

    /// Counts a packet, and shows it to nDPI if that is still to be.
    pub(super) fn track(&mut self, slot: u32, probe: &Probe, turned: bool, frame: &[u8], now_ns: u64) {
        let Some(entry) = self.flows.get_mut(slot) else { return };
        let tracked = &mut entry.value;
        let bytes = frame.len() as u64;
        tracked.moved.packets += 1;
        tracked.moved.bytes += bytes;
        self.statistics.count(tracked.class(), bytes);
        if probe.key.protocol() == protocol::TCP {
            let flags = TcpFlags(probe.tcp_flags);
            let fin = if flags.fin() { 1 << u8::from(turned) } else { 0 };
            tracked.ends |= fin | if flags.rst() { RESET } else { 0 };
        }
        let is_closed = tracked.is_closed();
        if let Some(flow) = &mut tracked.inspected {
            let l3 = frame.get(probe.l3_offset.into()..probe.end.into()).unwrap_or_default();
            let mut found = self.detector.packet(flow, l3, now_ns / 1_000_000);
            tracked.shown += 1;
            self.counters.inspected.inc();
            // What is not to pass is not waited for.
            let is_clear = found.is_known() && (!found.may_refine || self.policy.decide(&found) != Decision::Pass);
            if is_clear || is_closed || tracked.shown >= self.policy.inspect_packets {
                if !found.is_known() {
                    found = self.detector.give_up(flow, self.policy.guess);
                }
                tracked.conclude(found, &self.policy, &mut self.statistics, &self.counters);
            }
        }
        // Who is steered is remembered until that ends, though no packet comes.
        let idle_ns = if tracked.lingers() { LINGER_NS } else { tracked.idle_ns(&probe.key, &self.policy) };
        let end_ns = now_ns.saturating_add(idle_ns);
        entry.expires_ns = end_ns.max(entry.value.steered_ns);
        if entry.value.begun_turned != turned {
            self.flows.answered(slot);
        }
    }

    /// Sets a packet's verdict, and sees to it that those after it take the fast path; the flow to steer, if it is to be.
    pub(super) fn judge(&mut self, slot: u32, packet: &mut Packet<'_>, now_ns: u64) -> Option<(FlowKey, SteerTarget)> {
        let entry = self.flows.get_mut(slot)?;
        let tracked = &mut entry.value;
        if tracked.inspected.is_some() {
            return None;
        }
        let (then, verdict) = match tracked.decision {
            Decision::Pass => (Then::Next, Verdict::Next),
            Decision::Drop => (Then::Drop(self.blocked.0), Verdict::Drop(self.blocked)),
            Decision::Output(output) => (Then::Output(output.0), Verdict::Output(output)),
            Decision::Steer(to) => {
                let steer_ns = u64::try_from(self.policy.steer.as_nanos()).unwrap_or(u64::MAX);
                let is_due = tracked.left_ns == 0 || now_ns >= tracked.left_ns.saturating_add(steer_ns / 2);
                let flow = packet.flow_key().filter(|_| is_due && !tracked.is_closed())?;
                (tracked.left_ns, tracked.steered_ns) = (now_ns.max(1), now_ns.saturating_add(steer_ns));
                entry.expires_ns = entry.expires_ns.max(tracked.steered_ns);
                return Some((flow, to));
            }
        };
        match verdict {
            Verdict::Drop(_) => self.counters.blocked.inc(),
            Verdict::Output(_) => self.counters.diverted.inc(),
            _ => {}
        }
        packet.set_verdict(verdict);
        self.speed_up(slot, packet, then, now_ns);
        None
    }

    fn speed_up(&mut self, slot: u32, packet: &Packet<'_>, then: Then, now_ns: u64) {
        if !self.fast_path.is_active() {
            return;
        }
        let (Some(flow), Some(entry)) = (packet.flow_key(), self.flows.get_mut(slot)) else { return };
        let (key, tracked) = (Key::from(&flow).canonical().0, &mut entry.value);
        if tracked.has_ended() {
            if tracked.is_fast || tracked.is_from_before {
                remove(&self.fast_path, &key);
                (tracked.is_fast, tracked.is_from_before) = (false, false);
            }
            return;
        }
        let is_there = tracked.is_fast && now_ns < tracked.left_ns.saturating_add(REINSTALL_NS);
        let Moved { packets, bytes } = tracked.moved;
        let is_wanted = then != Then::Next || self.policy.is_elephant(&tracked.found, packets, bytes);
        // FIN comes here also when the flow is there.
        if is_there || !is_wanted || tracked.ends != 0 {
            return;
        }
        let rule = FlowRule {
            action: Action { then, class: Some(tracked.class()), ..Action::default() },
            lifetime: Duration::MAX,
            idle: Some(tracked.idle(&key, &self.policy)),
            ends: Ends::ToSlowPath,
        };
        if then == Then::Next && !tracked.is_fast {
            self.counters.elephants.inc();
        }
        (tracked.is_fast, tracked.left_ns) = (true, now_ns);
        // Flows in the fast path are never pushed out by new ones.
        self.flows.answered(slot);
        for flow in directions(&key) {
            self.fast_path.install(&flow, &rule);
        }
    }

    /// Forgets what has been silent for too long, unless it goes by in the fast path. What there is no time to ask about stays until
    /// the next call.
    pub(super) fn sweep(&mut self, now_ns: u64) {
        let Self { policy, detector, flows, statistics, fast_path, counters, .. } = self;
        let mut asked = 0;
        flows.sweep_unless(now_ns, |key, tracked| {
            asked += usize::from(tracked.is_fast);
            let end = if tracked.is_fast && is_alive(fast_path, key) {
                Some(now_ns.saturating_add(tracked.idle_ns(key, policy)))
            } else {
                if tracked.is_fast {
                    remove(fast_path, key);
                }
                if let Some(flow) = &mut tracked.inspected {
                    let found = detector.give_up(flow, policy.guess);
                    tracked.conclude(found, policy, statistics, counters);
                }
                None
            };
            if asked == ASKED_PER_TICK { ControlFlow::Break(end) } else { ControlFlow::Continue(end) }
        });
    }
}
