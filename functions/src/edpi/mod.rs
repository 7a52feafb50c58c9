//! `edpi`: recognises what each flow carries, with nDPI, and spends no time on it afterwards (eVNF, section IV-B).
//!
//! ```yaml
//! - edpi:
//!     mode: reactive                                       # without it, all packets pass through the function itself
//!     signatures: protos.txt                               # beside nDPI's own
//!     elephants: [{ categories: [Streaming] }, { bytes: 1000000 }]
//!     actions:
//!       - { protocols: [BitTorrent], then: drop }
//!       - { categories: [Mining], then: { output: quarantine } }
//!       - { protocols: [NetFlix], then: { steer: video } }
//! ```
//!
//! **Inspection.** The first packets of a flow, both directions together, are shown to nDPI until it knows the protocol and can learn
//! no more, or `packets` have been shown; then it is given up, and with `guess` classified by its ports. A flow is addresses,
//! ports, protocol and VLAN.
//!
//! **Elephants** are the flows that meet a condition of `elephants` once they have been inspected: they go to the fast path in both
//! directions, and the function sees no more of them than their FIN and RST. By default that is every flow; with `[]` it is none. The
//! others, mice, stay with the function, uninspected.
//!
//! **Actions.** The first action that names the flow's protocol, the one that carries it (`TLS`) or its category decides: `pass`, `drop`,
//! `{ output: NAME }`, or `{ steer: NAME }` for `steer_s` at a time. Dropped and diverted flows go to the fast path whatever
//! `elephants` says; steered ones no longer come here at all. The packets by which a flow is recognised have passed by then.
//!
//! **Ageing.** FIN and RST of flows in the fast path come to the function, so that a connection is forgotten, here and there, when
//! it ends: another one between the same ports is inspected anew. An RST alone decides nothing, since its receiver may ignore it: what
//! follows one is inspected, and blocked, as before. UDP and whatever falls silent is forgotten after
//! `idle_s` or `tcp_idle_s`; of flows in the fast path, that is asked for there before they are forgotten here, also when a new flow
//! needs the room. A tick asks about a limited number of them, and no flow that is in use there is forgotten for that: the
//! others wait for the next one.
//!
//! **Statistics** count packets, bytes and flows by protocol, in both paths together; what a flow moved before its protocol was known is
//! added to its protocol. The report shows the `top` protocols. Replicas share one fast path: each one's report has what went by there of
//! all.
//!
//! **Trust.** nDPI parses hostile bytes in C (see the crate `middlenet-ndpi`), so the function runs in a process, which is confined; inline it
//! is refused.
//! nDPI allocates memory for each flow that it inspects, at most for `flows`; a flood of first packets pushes out flows that nobody
//! answered.
//!
//! **Change of configuration.** Flows stay known while the signatures are the same, and are decided about anew; with others, all starts afresh.
//! Steered flows that are to go elsewhere now are taken back, with other signatures all of them: as fast as the data plane hears of it,
//! some hundred flows at a time.
//! While the process is dead, and after it has been started again, flows in the fast path go on as they were decided about; but if the
//! configuration or the signatures are others by then, all come to the function once more, and are inspected from where they are. Those that it had
//! steered stay so until their time is over.
//!
//! Counters: `inspected`, `classified`, `unclassified`, `elephants`, `blocked`, `diverted`, `steered`, `taken-back`, `fragments`, `not-ip`,
//! `malformed`, `table-full`; gauge `flows`.
//!
//! Limits: fragments are not inspected and pass whatever they belong to; a flow first met in its middle is seldom recognised.

mod config;
#[cfg(test)]
mod fast_tests;
mod flow;
mod statistics;
#[cfg(test)]
mod steered_tests;
#[cfg(test)]
mod tests;
mod unwanted;

pub use config::{Act, ActThen, Config, Elephants};

use crate::flow_table::{Class, FlowTable, Key, Probe};
use config::Policy;
use flow::Tracked;
use middlenet_ndpi::Detector;
use middlenet_sdk::SteerTarget;
use middlenet_sdk::fast_path::{FastPath, Flow, FlowState, Mode, Shape};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::FlowKey;
use serde_json::{Value, json};
use statistics::{PROTOCOLS, Statistics};
use std::collections::VecDeque;
use std::time::Duration;

/// Entries of the fast path that a tick looks at.
const SWEPT: usize = 1024;
/// Flows in the fast path: both directions of the default number.
const FAST_FLOWS: u32 = 131_072;

/// See the module's documentation.
pub struct Edpi {
    policy: Policy,
    detector: Detector,
    /// The file of signatures, to tell whether it has changed.
    signatures: Option<Vec<u8>>,
    flows: FlowTable<Tracked>,
    /// The slot that was looked at last for room.
    room_at: u32,
    /// Flows that are to be steered no longer, and until when they are at most.
    unwanted: VecDeque<(Key, u64)>,
    statistics: Statistics,
    fast_path: FastPath,
    blocked: DropReason,
    counters: Counters,
}

struct Counters {
    inspected: Counter,
    classified: Counter,
    unclassified: Counter,
    elephants: Counter,
    blocked: Counter,
    diverted: Counter,
    steered: Counter,
    taken_back: Counter,
    fragments: Counter,
    not_ip: Counter,
    malformed: Counter,
    table_full: Counter,
    flows: Counter,
}

impl Counters {
    fn new(init: &mut Init) -> Self {
        Self {
            inspected: init.counter("inspected", "packets shown to nDPI"),
            classified: init.counter("classified", "flows whose protocol was found"),
            unclassified: init.counter("unclassified", "flows whose protocol was not found"),
            elephants: init.counter("elephants", "flows that went to the fast path to pass there"),
            blocked: init.counter("blocked", "packets dropped by an action, in the function itself"),
            diverted: init.counter("diverted", "packets sent to an output by an action, in the function itself"),
            steered: init.counter("steered", "flows steered by an action"),
            taken_back: init.counter("taken-back", "steered flows that were not to be steered any more"),
            fragments: init.counter("fragments", "fragments, which pass without being inspected"),
            not_ip: init.counter("not-ip", "frames that carry no IP"),
            malformed: init.counter("malformed", "frames whose headers contradict themselves"),
            table_full: init.counter("table-full", "packets of flows for which there was no room"),
            flows: init.gauge("flows", "flows known"),
        }
    }
}

impl NetworkFunction for Edpi {
    type Config = Config;
    const PROCESS_ONLY: Option<&'static str> =
        Some("nDPI parses packets in C, and what it does wrong is its process's loss alone");
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(FAST_FLOWS).classes(PROTOCOLS as u32);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let detector = config.detector()?;
        let policy = config.policy(&detector, init)?;
        let blocked = init.drop_reason("blocked-protocol", "an action drops the flow's protocol");
        // It could be read a moment ago; if not now, it counts as changed.
        let signatures = config.signatures.as_deref().map_or(Some(Vec::new()), |path| std::fs::read(path).ok());
        let fast_path = init.fast_path();
        // What an instance before this one has decided stays if this one would decide the same.
        match &signatures {
            Some(signatures) => fast_path.clear_unless(policy.number(&detector, signatures, blocked)),
            None => fast_path.clear(),
        }
        Ok(Self {
            policy,
            detector,
            signatures,
            flows: FlowTable::new(config.flows),
            room_at: 0,
            unwanted: VecDeque::new(),
            statistics: Statistics::new(),
            fast_path,
            blocked,
            counters: Counters::new(init),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst.now());
        for index in 0..burst.len() {
            let Some(packet) = burst.get_mut(index) else { break };
            if let Some((flow, to)) = self.packet(packet, now_ns) {
                let done =
                    burst.steer(&flow, to, self.policy.steer) && burst.steer(&flow.reverse(), to, self.policy.steer);
                self.counters.steered.add(done.into());
            }
        }
        self.take_back(burst, now_ns);
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst.now());
        self.take_back(burst, now_ns);
        self.sweep(now_ns);
        self.fast_path.sweep(SWEPT, &mut |_: &Flow, _: &FlowState| {});
        self.counters.flows.set(self.flows.len() as u64);
    }

    fn inherit(&mut self, mut previous: Self) {
        // Actions and conditions may be others now: every flow comes to the function once more, and is decided about anew.
        self.fast_path.clear();
        self.unwanted = std::mem::take(&mut previous.unwanted);
        let is_afresh = self.signatures.is_none() || previous.signatures != self.signatures;
        self.note_unwanted(&previous.flows, is_afresh);
        if is_afresh {
            self.statistics.begin_anew(&self.fast_path);
            return;
        }
        // Flows under inspection belong to the detector that has seen their packets.
        self.detector = previous.detector;
        self.flows.take_over(previous.flows, 0);
        self.statistics = previous.statistics;
        for slot in 0..self.flows.capacity() as u32 {
            if let Some(entry) = self.flows.get_mut(slot) {
                let tracked = &mut entry.value;
                let before = std::mem::replace(&mut tracked.decision, self.policy.decide(&tracked.found));
                (tracked.is_fast, tracked.left_ns) = (false, 0);
                if tracked.decision != before {
                    tracked.steered_ns = 0;
                }
            }
        }
    }

    fn report(&self) -> Value {
        json!({
            "flows": self.flows.len(),
            "capacity": self.flows.capacity(),
            "inspecting": self.flows.entries().filter(|(_, entry)| entry.value.inspected.is_some()).count(),
            "moved": self.statistics.report(&self.detector, &self.fast_path, self.policy.top),
        })
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Edpi {
    /// Decides about a packet; the flow to steer, if it is to be.
    fn packet(&mut self, mut packet: Packet<'_>, now_ns: u64) -> Option<(FlowKey, SteerTarget)> {
        let (probe, bytes) = (Probe::of(packet.data()), packet.len() as u64);
        let apart = match probe.class {
            Class::Arp | Class::NotIp => {
                self.counters.not_ip.inc();
                return None;
            }
            Class::Malformed => {
                self.counters.malformed.inc();
                return None;
            }
            Class::LaterFragment => Some(&self.counters.fragments),
            Class::Flow if probe.first_fragment => Some(&self.counters.fragments),
            Class::Flow => None,
        };
        if let Some(counter) = apart {
            counter.inc();
            self.statistics.count(0, bytes);
            return None;
        }
        let Some((slot, turned)) = self.slot(&probe, now_ns) else {
            self.counters.table_full.inc();
            self.statistics.count(0, bytes);
            return None;
        };
        self.track(slot, &probe, turned, packet.data(), now_ns);
        self.judge(slot, &mut packet, now_ns)
    }
}
