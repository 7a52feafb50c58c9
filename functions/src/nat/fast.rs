//! Sessions in the fast path: both directions of a conversation are rewritten in the kernel, and the table here is kept true to it.
//!
//! A session goes there when it is open: TCP after its handshake, UDP with its second packet. Its FIN and RST come here, and when
//! the connection is closed it leaves the fast path at once. What is left there without packets for half its time-out is void, so
//! that the next one comes here.
//!
//! **A session in use never ends.** The fast path knows when the last packet of each direction passed. When a session's time is up
//! here, whoever meets it asks for that first (a packet, a tick, another session that needs room), and it lives on until its
//! time-out after that packet; when a flow is swept out of the fast path, its last packet is noted here. A tick asks
//! about [`ASKED_PER_TICK`] sessions at most; the others keep their places until another asks. So a session ends no sooner than without a fast path,
//! and later only by the ticks that it takes until one comes to it. The exception is a session whose flow has made room for
//! another's in the fast path: of its packets there since it was last asked about, nothing is known then.

use super::Lifetimes;
use super::bindings::{Bindings, Session};
use crate::firewall::prefix::address_of;
use crate::flow_table::{Key, Probe, SWEEP_SLOTS};
use middlenet_sdk::fast_path::{Action, Counted, Ends, FastPath, Flow, FlowRule, FlowState, Rewrite};
use middlenet_sdk::wire::{TcpFlags, protocol};
use serde_json::{Value, json};
use std::time::Duration;

/// Classes of the fast path.
const OUTBOUND: u16 = 0;
const INBOUND: u16 = 1;
pub(super) const CLASSES: u32 = 2;
/// Flows that fit into the fast path, two for each conversation. The one that was silent for longest makes room.
pub(super) const FLOWS: u32 = 131_072;
/// Shortest time-out with which sessions go to the fast path: below it too much time would go into asking. As many as fit there are then
/// asked about in 51 seconds at most, with ten ticks a second.
const LEAST_NS: u64 = 20_000_000_000;
/// Sessions about which a tick asks the fast path at most: two look-ups each, a system call both of them.
pub(super) const ASKED_PER_TICK: usize = 128;
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
}

impl Fast {
    pub(super) fn new(path: FastPath, timeouts: Lifetimes) -> Self {
        // What an instance before this one left there belongs to sessions that this one does not know.
        path.clear();
        Self { is_active: path.is_active(), path, timeouts }
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
        if is_there || !is_plain || !is_untagged || session.hairpin || self.lifetime_ns(session) < LEAST_NS {
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
        [(inside.into(), rule(OUTBOUND, src)), (outside.into(), rule(INBOUND, dst))]
    }

    /// When a session of whose packets the fast path knows ends, if that is later than now.
    pub(super) fn end_ns(&self, session: &Session, now_ns: u64) -> Option<u64> {
        if session.progress.is_closed() {
            return None;
        }
        let end_ns = |key| self.path.entry(&Flow::from(key)).map(|entry| self.end_after(session, &entry.state, now_ns));
        // One direction that was used lately is enough; the exact end is asked for when that is over.
        [&session.inside, &session.outside].into_iter().filter_map(end_ns).find(|&end_ns| end_ns > now_ns)
    }

    /// When a session ends by its last packet in one direction. The fast path has a clock of its own.
    fn end_after(&self, session: &Session, state: &FlowState, now_ns: u64) -> u64 {
        let there_ns = u64::try_from(self.path.now().as_nanos()).unwrap_or(u64::MAX);
        let silent_ns = there_ns.saturating_sub(state.last_ns);
        now_ns.saturating_add(self.lifetime_ns(session)).saturating_sub(silent_ns)
    }

    pub(super) fn remove(&self, inside: &Key, outside: &Key) {
        self.path.remove(&inside.into());
        self.path.remove(&outside.into());
    }

    /// Voids all flows.
    pub(super) fn clear(&self) {
        self.path.clear();
    }

    /// Removes some flows whose time is up, and lets their sessions live by the last packets there.
    pub(super) fn sweep(&self, bindings: &mut Bindings, now_ns: u64) {
        self.path.sweep(SWEEP_SLOTS / 4, &mut |flow, state| {
            if let Some(session) = bindings.fast_session(&flow.into()).filter(|session| !session.progress.is_closed()) {
                session.expires_ns = session.expires_ns.max(self.end_after(session, state, now_ns));
            }
        });
    }

    pub(super) fn report(&self) -> Value {
        let show = |counted: Counted| json!({ "packets": counted.packets, "bytes": counted.bytes });
        json!({
            "outbound": show(self.path.class_counts(OUTBOUND)),
            "inbound": show(self.path.class_counts(INBOUND)),
        })
    }
}
