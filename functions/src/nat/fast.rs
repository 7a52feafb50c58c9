//! Sessions in the fast path: both directions of a conversation are rewritten in the kernel, and the table here is kept true to it.
//!
//! A session goes there when it is open: TCP after its handshake, UDP with its second packet. Its FIN and RST come here, and when
//! the connection is closed it leaves the fast path at once. What is left there without packets for half its time-out is void, so
//! that the next one comes here. A session here is asked for there once half its time-out has passed, and lives on if it is in use. So
//! it ends no sooner after its last packet than without a fast path, and at most half a time-out later; unless its flow there has made
//! room for another, or all flows there were voided: what it did there since it was last asked for is not known then, and it may end
//! as though that had not been.

use super::Lifetimes;
use super::bindings::Session;
use crate::firewall::prefix::address_of;
use crate::flow_table::{Key, Probe, SWEEP_SLOTS};
use middlenet_sdk::fast_path::{Action, Counted, Ends, FastPath, Flow, FlowRule, Rewrite};
use middlenet_sdk::wire::{TcpFlags, protocol};
use serde_json::{Value, json};
use std::time::Duration;

/// Classes of the fast path.
const OUTBOUND: u16 = 0;
const INBOUND: u16 = 1;
pub(super) const CLASSES: u32 = 2;
/// Conversations that fit into the fast path, each with two flows. The one that was silent for longest makes room.
pub(super) const FLOWS: u32 = 131_072;
/// Shortest time-out with which sessions go to the fast path.
const LEAST_NS: u64 = 20_000_000_000;
/// Time between two ticks, and more.
const TICK_NS: u64 = 200_000_000;
/// Where a session's packets still come here after so long, it is in the fast path no more. In units of 2^28 ns, about a quarter of a
/// second.
const REINSTALL: u8 = 4;
const UNIT: u32 = 28;

/// Whether a session is in the fast path, and since when.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    pub(super) is_fast: bool,
    since: u8,
}

/// The fast path as the translator uses it.
#[derive(Debug)]
pub(super) struct Fast {
    path: FastPath,
    is_active: bool,
    timeouts: Lifetimes,
    /// Sessions with shorter time-outs could end between two visits of the walk over the table.
    least_ns: u64,
}

impl Fast {
    pub(super) fn new(path: FastPath, timeouts: Lifetimes, sessions: usize) -> Self {
        let walk_ns = (sessions as u64).div_ceil(SWEEP_SLOTS as u64) * TICK_NS;
        // What an instance before this one left there belongs to sessions that this one does not know.
        path.clear();
        Self { is_active: path.is_active(), path, timeouts, least_ns: LEAST_NS.max(4 * walk_ns) }
    }

    /// A packet of a session in the table came here, and the session knows it.
    #[inline]
    pub(super) fn seen(&self, session: &mut Session, probe: &Probe, now_ns: u64) {
        if self.is_active {
            self.consider(session, probe, now_ns);
        }
    }

    #[cold]
    fn consider(&self, session: &mut Session, probe: &Probe, now_ns: u64) {
        if session.progress.is_closed() {
            if session.pace.is_fast {
                session.pace = Pace::default();
                self.remove(&session.inside, &session.outside);
            }
            return;
        }
        let now = (now_ns >> UNIT) as u8;
        let is_there = session.pace.is_fast && now.wrapping_sub(session.pace.since) < REINSTALL;
        let is_tcp = probe.key.protocol() == protocol::TCP;
        // FIN comes here although the flow is there; and of VLANs there may be one on each side.
        let is_plain = !is_tcp || session.progress.is_open() && !TcpFlags(probe.tcp_flags).fin();
        let is_untagged = probe.l3_offset == 14;
        if is_there || !is_plain || !is_untagged || session.hairpin || self.lifetime_ns(session) < self.least_ns {
            return;
        }
        session.pace = Pace { is_fast: true, since: now };
        for (flow, rule) in self.rules(session) {
            self.path.install(&flow, &rule);
        }
    }

    /// How long an open session lives without a packet.
    fn lifetime_ns(&self, session: &Session) -> u64 {
        if session.inside.protocol() == protocol::TCP { self.timeouts.established_ns } else { self.timeouts.udp_ns }
    }

    fn rules(&self, session: &Session) -> [(Flow, FlowRule); 2] {
        let (inside, outside) = (&session.inside, &session.outside);
        let rule = |class, rewrite| FlowRule {
            action: Action { rewrite, class: Some(class), ..Action::default() },
            lifetime: Duration::MAX,
            idle: Some(Duration::from_nanos(self.lifetime_ns(session) / 2)),
            ends: Ends::ToSlowPath,
        };
        let src = Rewrite { src: Some(address_of(outside.b)), src_port: Some(outside.b_port()), ..Rewrite::default() };
        let dst = Rewrite { dst: Some(address_of(inside.a)), dst_port: Some(inside.a_port()), ..Rewrite::default() };
        [(flow(inside), rule(OUTBOUND, src)), (flow(outside), rule(INBOUND, dst))]
    }

    /// Whether a session's packets go by in the fast path.
    pub(super) fn is_in_use(&self, session: &Session) -> bool {
        [&session.inside, &session.outside].into_iter().any(|key| self.path.query(&flow(key)).is_some())
    }

    /// The new end of a session that is in use in the fast path, if it is time to ask.
    pub(super) fn renewed(&self, session: &Session, now_ns: u64) -> Option<u64> {
        let lifetime_ns = self.lifetime_ns(session);
        let is_due = session.pace.is_fast && session.expires_ns.saturating_sub(now_ns) < lifetime_ns / 2;
        (is_due && self.is_in_use(session)).then(|| now_ns.saturating_add(lifetime_ns))
    }

    pub(super) fn remove(&self, inside: &Key, outside: &Key) {
        self.path.remove(&flow(inside));
        self.path.remove(&flow(outside));
    }

    /// Voids all flows.
    pub(super) fn clear(&self) {
        self.path.clear();
    }

    /// Removes some flows whose time is up.
    pub(super) fn sweep(&self) {
        self.path.sweep(SWEEP_SLOTS / 4, &mut |_, _| {});
    }

    pub(super) fn report(&self) -> Value {
        let show = |counted: Counted| json!({ "packets": counted.packets, "bytes": counted.bytes });
        json!({
            "outbound": show(self.path.class_counts(OUTBOUND)),
            "inbound": show(self.path.class_counts(INBOUND)),
        })
    }
}

/// An untagged flow.
fn flow(key: &Key) -> Flow {
    Flow {
        vlan: 0,
        src: address_of(key.a),
        dst: address_of(key.b),
        protocol: key.protocol(),
        src_port: key.a_port(),
        dst_port: key.b_port(),
    }
}
