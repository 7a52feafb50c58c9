//! Load balancer at layer 4 (eVNF, section IV-C).
//!
//! **Purpose.** Spreads the connections of clients over servers by rewriting the destination (DNAT), and the source of what comes back.
//! A connection stays with its server; weights follow the servers' load.
//!
//! **Configuration** (see [`Config`] for all of it):
//!
//! ```yaml
//! elb:
//!   mode: proactive                    # or offloading
//!   config:
//!     services:
//!       - address: 192.0.2.80
//!         port: 80
//!         servers:
//!           - { address: 10.0.0.1, port: 8080, weight: 100 }
//!           - { address: 10.0.0.2, port: 8080, weight: 50 }
//!           - { address: 10.0.0.3, port: 8080, drain: true }
//!     feedback: { snmp: { community: public, metric: ss-cpu-idle } }
//! ```
//!
//! **Where it stands.** Between clients and servers, on the way of both: the service's address is routed here, or is an address of the
//! `l3-router` (or the kernel) behind; servers send their answers back this way. Packets that concern no service pass untouched.
//!
//! **Which server.** A hash of the client's address and port selects one of the service's slots, and the slot names a server. Slots are
//! given out by weight; when weights change, as few slots move as must. A connection that is known goes to its server whatever the slots
//! say. A packet in the middle of a connection that is not known is taken to begin one.
//!
//! **Connections** are remembered in both directions, until they are silent for `timeouts`, or closed for `closing_s`. When the table is full,
//! one that was never answered makes room, or else the one not used for longest among some. ICMP errors reach who sent the
//! packet that they quote, translated; fragments follow their first one.
//!
//! **Fast path.** The kernel knows services, slots and connections, and begins connections by itself; what it cannot do (fragments, ICMP errors)
//! comes here, where the kernel is asked about connections that are not known. While this function is restarted, the kernel goes on.
//! There each direction of a connection is an entry of its own; this function removes both when both have been silent for `timeouts`, and neither
//! before. A full table gives up what was not used for long, answered or not, and maybe one direction alone. An answer of which the kernel
//! knows the client's direction alone is translated all the same, and so is what a client sends if it comes here; but to a client
//! whose direction made room, the kernel itself may give another server after a change of weights.
//!
//! **A server that is to go** gets `drain: true`: no new connections, and those it has go on; the report says how many are left. One that
//! is taken out of the configuration keeps its connections too, but is no longer reported. Connections are counted in rounds over all of
//! them, a part in each tick: of a full table in the kernel it takes 13 s, or up to 16 times that while most are silent; here 1.6 s for each 65,536. `connections` of a server is null until a
//! round is over that began with it there. Where one direction passes in the kernel and the other comes here (a hop without a fast path lies before
//! this one), neither sees both sides close: such a connection counts until it is silent for `timeouts`.
//!
//! **Feedback.** Each host is asked for its load every `interval_ms`, by SNMP or HTTP, at its own address or at `agent`, which the kernel
//! of this host must reach past the chain's ports; its servers' weights become
//! `w + A * cbrt(0.95 - load)`, within bounds ("Dynamic Feedback Load Balancing Scheduling", Linux Virtual Server project). A host
//! that does not answer `fails` times in a row gets no new connections. A poll for which the runtime makes no socket says nothing, and
//! is left out. If that leaves a service without a server, all of its
//! servers are taken to be up. A host that is silent for `silent_s` has its configured weights again.
//!
//! **Counters.** `to-servers`, `to-clients`, `begun` (connections that began here), `icmp-errors`, `fragment-unknown`, `no-server`, `no-room`,
//! `not-routed`, `untranslatable`, `evicted`; `polls`, `poll-failures`, `polls-refused`, `moved-slots`, `refused`; gauges `connections` (known here), `servers-down`. What the fast path
//! does by itself is in the report, from the start of the process on. It counts by numbers that connections keep: those that began under another process
//! count for another server where servers came or went before that ended.
//!
//! **Limits.** 256 services, 1024 servers, 65,536 slots; TCP and UDP. A client that uses one port for two services with a server in common
//! gets another server for the second. Client and server in the same VLAN, or none. In mode `offloading` fragments and ICMP errors
//! go to the kernel, which does not translate them, and what comes here all the same (for want of room there) is dropped once it is known
//! which connection it is of: nobody behind would route it. Without a fast path, the connections die with the process: those whose slot still
//! names their server go on. One instance: several workers or replicas would each know a part of the connections, and ask for loads by
//! themselves.

mod aging;
mod config;
mod connections;
mod errors;
mod feedback;
mod load;
mod poller;
mod pool;
mod slots;
#[cfg(test)]
mod tests;
mod translating;

pub use config::{Config, Feedback, ServerConfig, ServiceConfig, Timeouts, Transport};
pub use feedback::Adjustment;
pub use load::{HttpLoad, Metric, SnmpLoad};

use crate::flow_table::{FragmentTable, Probe};
use config::{MAX_SERVERS, MAX_SERVICES, MAX_SLOTS};
use connections::Connections;
use middlenet_sdk::fast_path::{FastPath, Flow, Mode, Shape, Survey};
use middlenet_sdk::prelude::*;
use poller::{Outcome, Poller};
use pool::{Known, Pool};
use serde_json::{Value, json};
use std::time::Duration;

/// Directions of connections in the fast path.
const FAST_FLOWS: u32 = 1 << 18;
/// Packets that may be under way in fragments at once.
const FRAGMENTED_PACKETS: usize = 4096;

/// See the module's documentation.
pub struct Elb {
    pool: Pool,
    connections: Connections,
    /// Whether the destination is what changes, and to which address.
    fragments: FragmentTable<(bool, u128)>,
    timeouts: Timeouts,
    /// Flows that the fast path may still be asked about in this burst, beyond one or two for each packet.
    asks: usize,
    fast_path: FastPath,
    is_fast: bool,
    survey: Survey,
    /// Flows of the fast path that were silent when the survey met them.
    silent: Vec<Flow>,
    /// The survey has met all flows; some of them may still be among those.
    is_round_over: bool,
    poller: Option<Poller>,
    feedback: Option<Feedback>,
    /// Until when answers of servers may be of connections that an earlier process knew.
    learns_until_ns: Option<u64>,
    is_successor: bool,
    counters: Counters,
    reasons: Reasons,
}

struct Counters {
    to_servers: Counter,
    to_clients: Counter,
    begun: Counter,
    icmp_errors: Counter,
    fragment_unknown: Counter,
    no_server: Counter,
    no_room: Counter,
    not_routed: Counter,
    untranslatable: Counter,
    evicted: Counter,
    polls: Counter,
    poll_failures: Counter,
    polls_refused: Counter,
    moved_slots: Counter,
    refused: Counter,
    connections: Counter,
    servers_down: Counter,
}

struct Reasons {
    no_server: DropReason,
    fragment: DropReason,
    not_routed: DropReason,
}

impl NetworkFunction for Elb {
    type Config = Config;

    const FAST_PATH: Shape = Shape::of(&[Mode::Proactive, Mode::Offloading])
        .flows(FAST_FLOWS)
        .services(MAX_SERVICES as u32, MAX_SLOTS as u32)
        .rules(MAX_SERVERS as u32)
        .classes(MAX_SERVERS as u32);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let plans = config.services()?;
        let hosts = plans.iter().flat_map(|plan| &plan.servers).map(|server| server.agent).collect();
        let poller = config.feedback.as_ref().map(|feedback| Poller::new(feedback, hosts, init)).transpose()?;
        let closing = Duration::from_secs(config.timeouts.closing_s.into());
        let mut pool = Pool::new(plans, config.slots, closing);
        let fast_path = init.fast_path();
        // One that replaces another has that one's numbers first.
        if !init.is_successor() {
            pool.begin_classes(&fast_path);
            pool.publish(&fast_path)?;
        }
        let counters = Counters {
            to_servers: init.counter("to-servers", "packets of clients translated here"),
            to_clients: init.counter("to-clients", "packets of servers translated here"),
            begun: init.counter("begun", "connections that began here"),
            icmp_errors: init.counter("icmp-errors", "ICMP errors translated with what they quote"),
            fragment_unknown: init.counter("fragment-unknown", "fragments whose first one did not come before"),
            no_server: init.counter("no-server", "packets to a service without a server for new connections"),
            no_room: init.counter("no-room", "packets of connections that could not be remembered"),
            not_routed: init.counter("not-routed", "packets that came here and not to the kernel, which routes them"),
            untranslatable: init.counter("untranslatable", "packets whose headers could not be rewritten"),
            evicted: init.counter("evicted", "connections given up to make room"),
            polls: init.counter("polls", "loads that servers told"),
            poll_failures: init.counter("poll-failures", "polls without an answer that tells a load"),
            polls_refused: init.counter("polls-refused", "polls for which there was no socket"),
            moved_slots: init.counter("moved-slots", "slots that changed from one server to another"),
            refused: init.counter("refused", "changes of slots or servers that the fast path did not take"),
            connections: init.gauge("connections", "connections known here"),
            servers_down: init.gauge("servers-down", "servers that do not answer polls"),
        };
        let reasons = Reasons {
            no_server: init.drop_reason("no-server", "the service has no server for new connections"),
            fragment: init.drop_reason("fragment-unknown", "fragment whose first fragment did not come before it"),
            not_routed: init.drop_reason(
                "not-routed",
                "in mode `offloading`: the kernel routes, and was out of reach for this packet",
            ),
        };
        Ok(Self {
            connections: Connections::new(if init.is_trial() { 1 } else { config.connections }),
            fragments: FragmentTable::new(FRAGMENTED_PACKETS),
            timeouts: config.timeouts,
            asks: 0,
            is_fast: fast_path.is_active(),
            fast_path,
            survey: Survey::default(),
            silent: Vec::new(),
            is_round_over: false,
            poller,
            feedback: config.feedback,
            learns_until_ns: None,
            is_successor: init.is_successor(),
            pool,
            counters,
            reasons,
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst);
        self.begin_learning(now_ns);
        self.asks = MAX_SERVERS;
        let is_offloading = self.fast_path.mode() == Some(Mode::Offloading);
        for mut packet in burst.iter_mut() {
            let probe = Probe::of(packet.data());
            let mut verdict = self.translate_packet(&mut packet, &probe, now_ns);
            if verdict == Verdict::Next && is_offloading {
                // Its link addresses are those that it came with, and nobody behind would change them.
                self.counters.not_routed.inc();
                verdict = Verdict::Drop(self.reasons.not_routed);
            }
            if verdict != Verdict::Next {
                packet.set_verdict(verdict);
            }
        }
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst);
        self.begin_learning(now_ns);
        self.look_at_connections(now_ns);
        self.fragments.sweep(now_ns);
        self.poll(burst.now());
        self.counters.connections.set(self.connections.len() as u64);
        self.counters.evicted.set(self.connections.evicted());
        self.counters.moved_slots.set(self.pool.moved());
        let servers = self.pool.services.iter().flat_map(|state| &state.servers);
        self.counters.servers_down.set(servers.filter(|server| !server.is_up).count() as u64);
    }

    fn inherit(&mut self, previous: Self) {
        self.connections.take_over(previous.connections);
        self.fragments = previous.fragments;
        // Where nobody asks any more, or nobody did, what was known of loads says nothing.
        let mut known = Known { loads: false, silence: false };
        if let (Some(poller), Some(old)) = (&mut self.poller, &previous.poller) {
            poller.inherit(old);
            known = Known { loads: true, silence: self.feedback.as_ref().is_some_and(|feedback| feedback.fails > 0) };
        }
        self.pool.inherit(&previous.pool, known, &self.fast_path);
        // It is too late to refuse the configuration: connections that begin in the fast path go to servers that were there.
        self.counters.refused.add(u64::from(self.pool.publish(&self.fast_path).is_err()));
    }

    fn report(&self) -> Value {
        let services = self.pool.services.iter().map(|state| {
            let servers = state.servers_and_slots().map(|(server, slots)| {
                let fast = server.fast_counts(&self.fast_path);
                json!({
                    "address": server.identity.0, "port": server.identity.1,
                    "weight": server.configured, "weight_now": server.weight, "slots": slots,
                    "up": server.is_up, "drain": server.drain, "load": server.load,
                    "connections": server.connections,
                    "packets": server.packets + fast.packets, "bytes": server.bytes + fast.bytes,
                    "fast_packets": fast.packets,
                })
            });
            json!({
                "name": state.name, "address": state.service.address, "port": state.service.port,
                "protocol": if state.service.protocol == 6 { "tcp" } else { "udp" },
                "servers": servers.collect::<Vec<_>>(),
            })
        });
        json!({
            "services": services.collect::<Vec<_>>(),
            "connections": self.connections.len(), "capacity": self.connections.capacity(),
        })
    }
}

fn nanoseconds(burst: &mut Burst<'_>) -> u64 {
    u64::try_from(burst.now().as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Elb {
    fn poll(&mut self, now: Duration) {
        let (Some(poller), Some(feedback)) = (&mut self.poller, &self.feedback) else { return };
        let mut has_changed = false;
        poller.drive(now, |outcome| match outcome {
            Outcome::Load(host, load) => {
                self.counters.polls.inc();
                self.pool.host_answered(host, load, &feedback.adjustment);
                has_changed = true;
            }
            Outcome::Silent(host, failures, silent) => {
                self.counters.poll_failures.inc();
                let is_down = feedback.fails > 0 && failures >= feedback.fails;
                let is_stale = silent >= Duration::from_secs(feedback.silent_s.into());
                self.pool.host_silent(host, is_down, is_stale);
                has_changed |= is_down || is_stale;
            }
            Outcome::NotAsked => self.counters.polls_refused.inc(),
        });
        if has_changed {
            self.counters.refused.add(u64::from(self.pool.reassign(&self.fast_path).is_err()));
        }
    }
}
