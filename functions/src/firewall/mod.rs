//! Stateful packet filter.
//!
//! **Purpose.** Decides by ordered rules which packets pass, and tracks connections, so that rules speak of who may *begin* a
//! conversation and its answers pass by themselves.
//!
//! **Configuration** (see [`Config`] for all of it):
//!
//! ```yaml
//! firewall:
//!   default: drop                      # allow | drop | reject
//!   rules:                             # the first that matches decides
//!     - { proto: tcp, dst_port: [80, 443], allow: true }
//!     - { proto: udp, dst: 10.0.0.53, dst_port: 53, direction: forward, allow: true }
//!     - { src: [192.0.2.0/24, "2001:db8::/32"], reject: true }
//! ```
//!
//! **What passes.** In this order: ARP and IPv6 neighbour discovery (`arp`), non-IP packets (`non_ip`), packets of tracked
//! connections, ICMP errors about tracked connections, then what the rules allow. A TCP connection begins with a SYN
//! unless `tcp_loose`. A TCP reset must fit the sequence numbers seen (RFC 5961): one outside the window is dropped, one
//! inside passes, and only an exact one ends the connection. A packet of a tracked connection that comes in by another port
//! than before must be allowed by the rules again. Fragments after the first follow the first one's fate (`fragments`).
//!
//! **Steering.** A rule with `steer: NAME` decides about a flow's first packet; later ones, and answers, go where the manifest
//! says under that name, past this function, for `steer_s`: a suspicious flow through a chain that looks closer, a wanted one
//! straight out of a port, an unwanted one nowhere at all. What still comes by here meanwhile belongs to a tracked connection, as
//! always. When its time is over and the connection forgotten, its next packet is judged as a first one, so that a TCP
//! connection needs `tcp_loose` to go on.
//!
//! **Change of configuration.** Tracked connections stay, also those that the new rules would not let begin: they end by
//! themselves or by their time-out. To cut them, restart the function.
//!
//! **Counters.** `established`, `related`, `allowed`, `denied`, `rejected`, `invalid`, `evicted`; gauges `connections`,
//! `half-open`. Hits per rule are in the report.
//!
//! **Limits.** 8192 rules, whose cost per new connection hardly grows with their number (the cost of a tracked packet does
//! not depend on them); a bounded number of connections, of which unanswered ones make room for new ones, oldest first; 4096
//! packets under way in fragments. VLANs are told apart by the outermost tag. IPv6 packets from or to IPv4-mapped addresses
//! are malformed.

mod classifier;
mod config;
mod connection;
pub(crate) mod prefix;
mod reject;
mod rule;
#[cfg(test)]
mod tests;
mod tracking;

pub use config::{Config, Direction, Fragments, Permission, Policy, RuleConfig, Timeouts};

use crate::flow_table::{Class, FlowTable, FragmentTable, Icmp, Key, Probe};
use classifier::Classifier;
use connection::{Connection, Lifetimes};
use middlenet_sdk::BURST;
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::{FlowKey, Layers, protocol};
use reject::Rejecter;
use rule::{Action, Subject};
use serde_json::{Value, json};
use std::time::Duration;
use tracking::segment;

/// Packets that may be under way in fragments at once.
const FRAGMENTED_PACKETS: usize = 4096;
/// Rules shown in the report.
const REPORTED_RULES: usize = 256;

/// See the module's documentation.
pub struct Firewall {
    rules: Rules,
    stateful: bool,
    arp: Permission,
    non_ip: Permission,
    fragment_policy: Fragments,
    tcp_loose: bool,
    half_open: usize,
    lifetimes: Lifetimes,
    connections: FlowTable<Connection>,
    fragments: FragmentTable<bool>,
    rejecter: Rejecter,
    steer_for: Duration,
    /// The flow of the packet at hand is to go elsewhere.
    steered: Option<(FlowKey, SteerTarget)>,
    /// What the first passes over a burst found.
    probed: Vec<Probed>,
    counters: Counters,
    reasons: Reasons,
}

/// What the first passes found out about a packet.
#[derive(Clone, Copy, Default)]
struct Probed {
    probe: Probe,
    /// The key of both directions, and whether the packet's own was turned round for it.
    key: Key,
    turned: bool,
    hash: u32,
    /// Where its connection seems to be.
    slot: u32,
}

/// Rules and how often each decided.
struct Rules {
    classifier: Classifier,
    actions: Vec<Action>,
    names: Vec<Option<String>>,
    /// Where flows go on that a rule decided about.
    steering: Vec<Option<SteerTarget>>,
    hits: Vec<u64>,
    default: Action,
    default_hits: u64,
}

impl Rules {
    fn decide(&mut self, subject: &Subject) -> (Action, Option<SteerTarget>) {
        let Some(place) = self.classifier.first_match(subject) else {
            self.default_hits += 1;
            return (self.default, None);
        };
        if let Some(hits) = self.hits.get_mut(place) {
            *hits += 1;
        }
        let action = self.actions.get(place).copied().unwrap_or(Action::Drop);
        (action, self.steering.get(place).copied().flatten())
    }
}

struct Counters {
    established: Counter,
    related: Counter,
    allowed: Counter,
    denied: Counter,
    rejected: Counter,
    invalid: Counter,
    evicted: Counter,
    steered: Counter,
    connections: Counter,
    half_open: Counter,
}

struct Reasons {
    no_connection: DropReason,
    invalid: DropReason,
    fragment: DropReason,
}

/// What to do with one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Pass,
    Drop(DropReason),
    Reject,
}

impl NetworkFunction for Firewall {
    type Config = Config;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if config.rules.len() > config::MAX_RULES {
            return Err(ConfigError::new(format!("{} rules are more than {}", config.rules.len(), config::MAX_RULES))
                .with_hint("join rules that differ in one field into one rule with a list"));
        }
        for (field, value) in [("connections", config.connections), ("half_open", config.half_open)] {
            if !(1..=1 << 24).contains(&value) {
                return Err(ConfigError::new(format!("`{field}` of {value} is not between 1 and {}", 1 << 24))
                    .with_hint("a connection takes about 150 bytes"));
            }
        }
        let compiled: Vec<_> =
            config.rules.iter().enumerate().map(|(i, rule)| rule.compile(i + 1, init)).collect::<Result<_, _>>()?;
        let rules = Rules {
            actions: compiled.iter().map(|rule| rule.action).collect(),
            names: config.rules.iter().map(|rule| rule.name.clone()).collect(),
            steering: config
                .rules
                .iter()
                .map(|rule| rule.steer.as_deref().map(|name| init.steering(name)).transpose())
                .collect::<Result<_, _>>()?,
            hits: vec![0; compiled.len()],
            classifier: Classifier::new(compiled),
            default: match config.default {
                Policy::Allow => Action::Allow,
                Policy::Drop => Action::Drop,
                Policy::Reject => Action::Reject,
            },
            default_hits: 0,
        };
        let counters = Counters {
            established: init.counter("established", "packets of tracked connections"),
            related: init.counter("related", "ICMP errors about tracked connections"),
            allowed: init.counter("allowed", "packets that a rule or the default let pass"),
            denied: init.counter("denied", "packets dropped by a rule or a policy"),
            rejected: init.counter("rejected", "packets answered with a reset or an ICMP error"),
            invalid: init.counter("invalid", "malformed packets, and those that fit no connection"),
            evicted: init.counter("evicted", "unanswered connections given up to make room"),
            steered: init.counter("steered", "flows sent elsewhere for a time, by a rule"),
            connections: init.gauge("connections", "connections tracked"),
            half_open: init.gauge("half-open", "connections not answered yet"),
        };
        let reasons = Reasons {
            no_connection: init.drop_reason("no-connection", "neither begins nor belongs to a connection"),
            invalid: init.drop_reason("invalid-segment", "TCP segment that cannot be of its connection"),
            fragment: init.drop_reason("fragment-unknown", "fragment whose first fragment did not pass before it"),
        };
        Ok(Self {
            rules,
            stateful: config.stateful,
            arp: config.arp,
            non_ip: config.non_ip,
            fragment_policy: config.fragments,
            tcp_loose: config.tcp_loose,
            half_open: config.half_open,
            lifetimes: connection::lifetimes(&config.timeouts),
            connections: FlowTable::new(if config.stateful { config.connections } else { 1 }),
            fragments: FragmentTable::new(FRAGMENTED_PACKETS),
            rejecter: Rejecter::new(),
            steer_for: Duration::from_secs(config.steer_s),
            steered: None,
            probed: vec![Probed::default(); BURST],
            counters,
            reasons,
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst);
        let mut probed = std::mem::take(&mut self.probed);
        for start in (0..burst.len()).step_by(BURST) {
            let count = (burst.len() - start).min(BURST);
            // First pass: packets come into the cache side by side. Second: entries do. Third: decide.
            for (i, probed) in probed.iter_mut().enumerate().take(count) {
                if let Some(packet) = burst.get_mut(start + i) {
                    probed.probe = Probe::of(packet.data());
                    (probed.key, probed.turned) = probed.probe.key.canonical();
                    probed.hash = self.connections.seed().hash(&probed.key);
                }
            }
            for probed in probed.iter_mut().take(if self.stateful { count } else { 0 }) {
                probed.slot = self.connections.seek(probed.hash, &probed.key);
            }
            for (i, probed) in probed.iter().enumerate().take(count) {
                let Some(mut packet) = burst.get_mut(start + i) else { break };
                match self.decide(&packet, probed, now_ns) {
                    Decision::Pass => {}
                    Decision::Drop(reason) => packet.drop(reason),
                    Decision::Reject => {
                        if self.rejecter.answer(&mut packet, &probed.probe, now_ns) {
                            self.counters.rejected.inc();
                            packet.reply();
                        } else {
                            self.counters.denied.inc();
                            packet.drop(DropReason::DENIED);
                        }
                    }
                }
                if let Some((flow, target)) = self.steered.take() {
                    self.counters.steered.inc();
                    burst.steer(&flow, target, self.steer_for);
                    burst.steer(&flow.reverse(), target, self.steer_for);
                }
            }
        }
        self.probed = probed;
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst);
        self.connections.sweep(now_ns, |_| {});
        self.fragments.sweep(now_ns);
        self.counters.connections.set(self.connections.len() as u64);
        self.counters.half_open.set(self.connections.unanswered() as u64);
        self.counters.evicted.set(self.connections.evicted());
    }

    fn inherit(&mut self, previous: Self) {
        if self.stateful && previous.stateful {
            // Entries keep their ends; later packets give them the new time-outs.
            self.connections.take_over(previous.connections, 0);
            self.fragments = previous.fragments;
        }
    }

    fn report(&self) -> Value {
        let rules = &self.rules;
        let shown = rules.hits.iter().zip(&rules.names).enumerate().take(REPORTED_RULES);
        json!({
            "connections": self.connections.len(),
            "capacity": self.connections.capacity(),
            "half_open": self.connections.unanswered(),
            "default_hits": rules.default_hits,
            "rules": shown.map(|(i, (hits, name))| json!({"rule": i + 1, "name": name, "hits": hits})).collect::<Vec<_>>(),
        })
    }
}

fn nanoseconds(burst: &mut Burst<'_>) -> u64 {
    u64::try_from(burst.now().as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Firewall {
    #[inline]
    fn decide(&mut self, packet: &Packet<'_>, probed: &Probed, now_ns: u64) -> Decision {
        let Probed { probe, key, turned, hash, slot } = probed;
        // The common case first: data of TCP and UDP connections that are known, by the ports they were known by. ICMP
        // and fragments are never of this kind: their tables' keys look like others'.
        if self.stateful
            && probe.class == Class::Flow
            && !probe.first_fragment
            && let Some(entry) = self.connections.at_mut(*slot, key, now_ns)
            && !entry.is_unanswered()
        {
            let side = usize::from(entry.value.turned != *turned);
            let passes = entry.value.ingress[side] == Some(packet.ingress().0)
                && match key.protocol() {
                    protocol::TCP => {
                        segment(probe, packet.data()).is_some_and(|segment| entry.value.plain_segment(side, &segment))
                    }
                    protocol::UDP => true,
                    _ => false,
                };
            if passes {
                entry.expires_ns = now_ns.saturating_add(self.lifetimes[entry.value.state as usize]);
                self.counters.established.inc();
                return Decision::Pass;
            }
        }
        self.decide_slowly(packet, probe, *key, *turned, *hash, now_ns)
    }

    #[inline(never)]
    fn decide_slowly(
        &mut self,
        packet: &Packet<'_>,
        probe: &Probe,
        key: Key,
        turned: bool,
        hash: u32,
        now_ns: u64,
    ) -> Decision {
        match probe.class {
            Class::Malformed => {
                self.counters.invalid.inc();
                return Decision::Drop(DropReason::MALFORMED);
            }
            Class::Arp => return self.permit(self.arp),
            Class::NotIp => return self.permit(self.non_ip),
            Class::Flow | Class::LaterFragment => {}
        }
        if key.is_ipv6() && (prefix::is_mapped(key.a) || prefix::is_mapped(key.b)) {
            self.counters.invalid.inc();
            return Decision::Drop(DropReason::MALFORMED);
        }
        if probe.class == Class::LaterFragment {
            return self.later_fragment(packet, probe, now_ns);
        }
        if probe.first_fragment && self.fragment_policy == Fragments::Drop {
            return self.deny();
        }
        let decision = self.whole(packet, probe, key, turned, hash, now_ns);
        if probe.first_fragment
            && self.fragment_policy == Fragments::Track
            && let Ok(layers) = Layers::parse(packet.data())
        {
            self.fragments.remember(probe, &layers, decision == Decision::Pass, now_ns);
        }
        decision
    }

    /// A packet with its upper-layer header.
    fn whole(
        &mut self,
        packet: &Packet<'_>,
        probe: &Probe,
        key: Key,
        turned: bool,
        hash: u32,
        now_ns: u64,
    ) -> Decision {
        let data = packet.data();
        let icmp = Icmp::of(probe, data);
        if icmp == Icmp::NeighbourDiscovery {
            return self.permit(self.arp);
        }
        if !self.stateful {
            return self.by_rules(packet, probe);
        }
        match icmp {
            Icmp::Error if self.is_related(data, probe, now_ns) => {
                self.counters.related.inc();
                return Decision::Pass;
            }
            Icmp::Error | Icmp::Other => return self.by_rules(packet, probe),
            _ => {}
        }
        if let Some(slot) = self.connections.find(hash, &key, now_ns) {
            let origin = self.connections.get(slot).is_some_and(|entry| entry.value.turned == turned);
            if icmp == Icmp::None || (icmp == Icmp::Query) == origin {
                return self.known(packet, probe, slot, turned, now_ns);
            }
            // A query in the direction of answers: it begins something of its own, which the table has no place for.
            return self.by_rules(packet, probe);
        }
        self.first(packet, probe, icmp, key, turned, hash, now_ns)
    }

    fn later_fragment(&mut self, packet: &Packet<'_>, probe: &Probe, now_ns: u64) -> Decision {
        match self.fragment_policy {
            Fragments::Allow => Decision::Pass,
            Fragments::Drop => self.deny(),
            Fragments::Track => {
                let Ok(layers) = Layers::parse(packet.data()) else { return self.invalid(DropReason::MALFORMED) };
                // Would overwrite the TCP flags that the rules saw (RFC 1858 section 3.2).
                let overlaps = layers.fragment.is_some_and(|f| f.offset_bytes < 20) && layers.protocol == protocol::TCP;
                match self.fragments.recall(probe, &layers, now_ns) {
                    Some(true) if !overlaps => Decision::Pass,
                    _ => self.invalid(self.reasons.fragment),
                }
            }
        }
    }

    fn by_rules(&mut self, packet: &Packet<'_>, probe: &Probe) -> Decision {
        let subject = Subject::of(probe, packet.data(), packet.ingress().0);
        let (action, target) = self.rules.decide(&subject);
        self.steered = target.and_then(|target| Some((FlowKey::parse(packet.data())?, target)));
        match action {
            Action::Allow => {
                self.counters.allowed.inc();
                Decision::Pass
            }
            Action::Drop => self.deny(),
            Action::Reject => Decision::Reject,
        }
    }

    fn permit(&self, permission: Permission) -> Decision {
        if permission == Permission::Allow { Decision::Pass } else { self.deny() }
    }

    fn deny(&self) -> Decision {
        self.counters.denied.inc();
        Decision::Drop(DropReason::DENIED)
    }

    #[cold]
    fn invalid(&self, reason: DropReason) -> Decision {
        self.counters.invalid.inc();
        Decision::Drop(reason)
    }
}
