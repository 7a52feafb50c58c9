//! Network address and port translation.
//!
//! **Purpose.** Lets inside hosts share a few outside addresses (source NAPT), and leads chosen outside ports to inside hosts
//! (port forwarding). Follows RFC 4787 (UDP), RFC 5382 (TCP) and RFC 5508 (ICMP).
//!
//! **Configuration** (see [`Config`]):
//!
//! ```yaml
//! nat:
//!   inside: lan
//!   pool: [203.0.113.1, 203.0.113.8/30]
//!   forwards: [{ proto: tcp, outside: "203.0.113.1:8080", inside: "10.0.0.5:80" }]
//! ```
//!
//! **Outbound.** Packets from an inside port with a source in `sources` get an outside address and port; those to inside
//! addresses, groups and broadcast go on untouched. A mapping does not depend on whom the host talks to (REQ-1); a host keeps
//! one pool address (REQ-2); its own port is kept if free. A TCP mapping begins with a SYN.
//!
//! **Inbound.** Packets to a pool address are translated back if a session, or under endpoint-independent filtering a
//! mapping, wants them; others are dropped (`unsolicited`). Packets from outside straight to `sources` are dropped. All
//! others go on untouched, so routing protocols and a router's own traffic pass.
//!
//! **Also.** ICMP echo by its identifier; ICMP errors in both directions, with the packet they quote; first fragments, and later
//! ones that come after them; inside hosts that reach each other by outside addresses (`hairpin`: the packet returns by the
//! port it came from, to the link address the other host used last); ARP and neighbour solicitations for the pool
//! (`proxy_arp`). Link addresses are otherwise left alone: an `l3-router` beside it sets them. IPv6 passes untouched unless the
//! pool has IPv6 addresses.
//!
//! **Fast path** (`mode: reactive`). Open TCP sessions and UDP sessions with a second packet are translated in the kernel, in both
//! directions, as long as they are in use and their time-out is 20 seconds or more; their FIN and RST come here. ICMP,
//! fragments, hairpinned and VLAN-tagged packets always come here. Sessions live as long as without it (`nat/fast.rs` has the details).
//! In the kernel a packet is told by addresses and ports, not by the port it came in by: hosts that forge both ends' must be
//! stopped before.
//!
//! **Counters** of packets that came here; the report has those of the fast path, which replicas share. `outbound`, `inbound`, `hairpinned`, `icmp-errors`, `unsolicited`, `exhausted`, `host-limited`, `no-session`,
//! `untranslatable`; gauges `sessions`, `mappings`, `hosts`.
//!
//! **Change of configuration.** State stays if pool, ports, sources, forwards and limits stay the same; else it starts afresh.
//!
//! **Limits.** TCP, UDP and ICMP echo; other protocols from translated sources are dropped. No application gateways (FTP,
//! SIP). VLANs are not told apart: their inside addresses must not overlap. Hairpinned fragments and pings are dropped. UDP port parity
//! is not kept. No log of mappings. Limits per host count addresses: hosts that forge theirs must be stopped before (`firewall`).

mod bindings;
mod config;
mod counters;
mod errors;
mod fast;
#[cfg(test)]
mod fast_tests;
mod neighbours;
mod ports;
#[cfg(test)]
mod tests;
mod translate;

pub use config::{Config, Filtering, Forward, Names, Timeouts, Transport, Unsolicited};

use crate::firewall::prefix::{address_of, is_mapped};
use crate::flow_table::{Class, FragmentTable, Icmp, Key, Probe};
use bindings::{Bindings, Refusal};
use config::Scheme;
use counters::{Counters, Reasons};
use fast::Fast;
use middlenet_sdk::BURST;
use middlenet_sdk::fast_path::{Mode, Shape};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::rewrite::{self, Side};
use middlenet_sdk::wire::{Layers, TcpFlags, protocol};
use serde_json::{Value, json};
use std::net::IpAddr;
pub(crate) use translate::translate;

/// Packets that may be under way in fragments at once.
const FRAGMENTED_PACKETS: usize = 4096;

/// See the module's documentation.
pub struct Nat {
    scheme: Scheme,
    /// By port number: whether it is inside.
    is_inside: [bool; 256],
    macs: Vec<PortInfo>,
    filtering: Filtering,
    hairpin: bool,
    proxy_arp: bool,
    unsolicited: Unsolicited,
    timeouts: Lifetimes,
    bindings: Bindings,
    fast: Fast,
    /// Which side of a fragmented packet changes, and to what address.
    fragments: FragmentTable<(bool, u128)>,
    /// What the first passes over a burst found.
    probed: Vec<Probed>,
    counters: Counters,
    reasons: Reasons,
}

/// What the first passes found out about a packet.
#[derive(Clone, Copy, Default)]
struct Probed {
    probe: Probe,
    from_inside: bool,
    hash: u32,
    /// Where its session seems to be.
    slot: u32,
}

#[derive(Clone, Copy, Debug)]
struct Lifetimes {
    established_ns: u64,
    transitory_ns: u64,
    udp_ns: u64,
    icmp_ns: u64,
}

impl NetworkFunction for Nat {
    type Config = Config;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(fast::FLOWS).classes(fast::CLASSES);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let scheme = config.scheme(init)?;
        let mut is_inside = [false; 256];
        for port in &scheme.inside {
            is_inside[usize::from(port.0)] = true;
        }
        let seconds = |s: u64| s.saturating_mul(1_000_000_000);
        let timeouts = Lifetimes {
            established_ns: seconds(config.timeouts.tcp_established_s),
            transitory_ns: seconds(config.timeouts.tcp_transitory_s),
            udp_ns: seconds(config.timeouts.udp_s),
            icmp_ns: seconds(config.timeouts.icmp_s),
        };
        Ok(Self {
            bindings: Bindings::new(&scheme),
            fast: Fast::new(init.fast_path(), timeouts),
            is_inside,
            macs: init.ports().to_vec(),
            filtering: config.filtering,
            hairpin: config.hairpin,
            proxy_arp: config.proxy_arp,
            unsolicited: config.unsolicited,
            timeouts,
            fragments: FragmentTable::new(FRAGMENTED_PACKETS),
            probed: vec![Probed::default(); BURST],
            scheme,
            counters: Counters::new(init),
            reasons: Reasons::new(init),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst);
        let mut probed = std::mem::take(&mut self.probed);
        for start in (0..burst.len()).step_by(BURST) {
            let count = (burst.len() - start).min(BURST);
            // First pass: packets come into the cache side by side. Second: sessions do. Third: translate.
            for (i, probed) in probed.iter_mut().enumerate().take(count) {
                if let Some(packet) = burst.get_mut(start + i) {
                    probed.probe = Probe::of(packet.data());
                    probed.probe.key.rest &= !(0xffff << 16);
                    probed.from_inside = self.is_inside[usize::from(packet.ingress().0)];
                    probed.hash = self.bindings.hash(&probed.probe.key, probed.from_inside);
                }
            }
            for probed in probed.iter_mut().take(count) {
                probed.slot = self.bindings.seek(probed.hash, &probed.probe.key, probed.from_inside);
            }
            for (i, probed) in probed.iter().enumerate().take(count) {
                let Some(mut packet) = burst.get_mut(start + i) else { break };
                let (probe, from_inside) = (&probed.probe, probed.from_inside);
                let verdict = match self.known(&mut packet, probed, now_ns) {
                    Some(verdict) => verdict,
                    None if from_inside => self.outbound(&mut packet, probe, now_ns),
                    None => self.inbound(&mut packet, probe, now_ns),
                };
                if verdict != Verdict::Next {
                    packet.set_verdict(verdict);
                }
            }
        }
        self.probed = probed;
        self.bindings.tell_ended(&self.fast);
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        let now_ns = nanoseconds(burst);
        self.bindings.tick(&self.fast, now_ns);
        self.bindings.tell_ended(&self.fast);
        self.fast.sweep(&mut self.bindings, now_ns);
        self.fragments.sweep(now_ns);
        self.counters.sessions.set(self.bindings.sessions() as u64);
        self.counters.mappings.set(self.bindings.mappings() as u64);
        self.counters.hosts.set(self.bindings.hosts() as u64);
    }

    fn inherit(&mut self, previous: Self) {
        // It went on with its work after this one was made.
        self.fast.clear();
        if previous.scheme == self.scheme {
            self.bindings = previous.bindings;
            self.fragments = previous.fragments;
        }
    }

    fn report(&self) -> Value {
        json!({
            "sessions": self.bindings.sessions(),
            "capacity": self.scheme.sessions,
            "mappings": self.bindings.mappings(),
            "hosts": self.bindings.hosts(),
            "pool_addresses": self.scheme.pool.len(),
            "fast_path": self.fast.report(),
        })
    }
}

fn nanoseconds(burst: &mut Burst<'_>) -> u64 {
    u64::try_from(burst.now().as_nanos()).unwrap_or(u64::MAX / 2)
}

impl Nat {
    /// A TCP or UDP packet of a session in the table; `None` for all others.
    #[inline]
    fn known(&mut self, packet: &mut Packet<'_>, probed: &Probed, now_ns: u64) -> Option<Verdict> {
        let Self { bindings, fast, timeouts, .. } = self;
        let Probed { probe, from_inside, slot, .. } = probed;
        if probe.class != Class::Flow || probe.first_fragment || !is_transport(&probe.key) {
            return None;
        }
        let session = bindings.at_mut(fast, *slot, &probe.key, *from_inside, now_ns)?;
        let (side, address, port) = Self::by_session(session, probe, *from_inside, timeouts, now_ns)?;
        fast.seen(session, probe, now_ns);
        if !translate(packet.data_mut(), probe, side, address, port) {
            return Some(self.untranslatable(DropReason::UNSUPPORTED));
        }
        if *from_inside { &self.counters.outbound } else { &self.counters.inbound }.inc();
        Some(Verdict::Next)
    }

    /// What a session makes of a packet. `None` for hairpinned ones.
    #[inline]
    fn by_session(
        session: &mut bindings::Session,
        probe: &Probe,
        from_inside: bool,
        timeouts: &Lifetimes,
        now_ns: u64,
    ) -> Option<(Side, u128, u16)> {
        if session.hairpin {
            return None;
        }
        refresh(session, probe, from_inside, timeouts, now_ns);
        Some(if from_inside {
            (Side::Source, session.outside.b, session.outside.b_port())
        } else {
            (Side::Destination, session.inside.a, session.inside.a_port())
        })
    }

    fn translated(
        &mut self,
        packet: &mut Packet<'_>,
        probe: &Probe,
        side: Side,
        address: u128,
        port: u16,
        now_ns: u64,
    ) -> Verdict {
        if probe.first_fragment
            && let Ok(layers) = Layers::parse(packet.data())
        {
            self.fragments.remember(probe, &layers, (side == Side::Source, address), now_ns);
        }
        if !translate(packet.data_mut(), probe, side, address, port) {
            return self.untranslatable(DropReason::UNSUPPORTED);
        }
        if side == Side::Source { &self.counters.outbound } else { &self.counters.inbound }.inc();
        Verdict::Next
    }

    /// A packet from inside without a session that the fast path takes.
    fn outbound(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> Verdict {
        match probe.class {
            Class::Arp | Class::NotIp => return Verdict::Next,
            Class::Malformed => return self.untranslatable(DropReason::MALFORMED),
            Class::Flow | Class::LaterFragment if is_mixed(probe) => return self.untranslatable(DropReason::MALFORMED),
            Class::Flow | Class::LaterFragment => {}
        }
        let key = probe.key;
        let is_source = |address: u128| self.scheme.sources.iter().any(|range| range.contains(address));
        if !self.bindings.translates(key.is_ipv6()) || !is_source(key.a) || is_source(key.b) || is_group(key.b) {
            return Verdict::Next;
        }
        if probe.class == Class::LaterFragment {
            return self.later_fragment(packet, probe, now_ns);
        }
        match Icmp::of(probe, packet.data()) {
            Icmp::Error => return self.outbound_error(packet, probe),
            Icmp::None if is_transport(&key) => {}
            Icmp::Query => {}
            // An answer to a query from outside, which is never let in.
            Icmp::Answer => return self.no_session(),
            Icmp::NeighbourDiscovery => return Verdict::Next,
            Icmp::Other | Icmp::None => return self.untranslatable(DropReason::UNSUPPORTED),
        }
        let hash = self.bindings.hash(&key, true);
        let slot = match self.bindings.find(&self.fast, hash, &key, true, now_ns) {
            Some(_) => self.bindings.seek(hash, &key, true),
            None => match self.begin(packet.data(), probe, now_ns) {
                Ok(slot) => slot,
                Err(verdict) => return verdict,
            },
        };
        let timeouts = self.timeouts;
        let session = self.bindings.session_mut(slot);
        match session.and_then(|session| Self::by_session(session, probe, true, &timeouts, now_ns)) {
            Some((side, address, port)) => self.translated(packet, probe, side, address, port, now_ns),
            None => self.hairpin(packet, probe, slot, now_ns),
        }
    }

    fn begin(&mut self, data: &[u8], probe: &Probe, now_ns: u64) -> Result<u32, Verdict> {
        let key = probe.key;
        self.bindings.end_stale(&key);
        let mapped = self.bindings.mapping_of(key.protocol(), (key.a, key.a_port())).is_some();
        // Without a mapping, only a SYN begins: what comes in the middle has lost its session. With one, the packet may
        // answer somebody who came in by it.
        let begins = key.protocol() != protocol::TCP || TcpFlags(probe.tcp_flags).opens();
        if !begins && (!mapped || TcpFlags(probe.tcp_flags).rst()) {
            return Err(self.no_session());
        }
        if !self.hairpin && self.bindings.in_pool(key.b) {
            self.counters.unsolicited.inc();
            return Err(Verdict::Drop(self.reasons.unsolicited));
        }
        let mac = data.get(6..12).and_then(|mac| mac.try_into().ok()).unwrap_or_default();
        let expires_ns = now_ns.saturating_add(match key.protocol() {
            protocol::TCP => self.timeouts.transitory_ns,
            protocol::UDP => self.timeouts.udp_ns,
            _ => self.timeouts.icmp_ns,
        });
        self.bindings.begin(&self.fast, key, mac, expires_ns, now_ns).map_err(|refusal| {
            let (counter, reason) = match refusal {
                Refusal::HostLimit => (&self.counters.host_limited, self.reasons.host_limit),
                Refusal::Exhausted => (&self.counters.exhausted, self.reasons.exhausted),
                Refusal::TableFull => (&self.counters.exhausted, DropReason::TABLE_FULL),
            };
            counter.inc();
            Verdict::Drop(reason)
        })
    }

    /// A packet from inside to a pool address: out and in at once (RFC 4787 REQ-9: its source is seen as the outside one).
    fn hairpin(&mut self, packet: &mut Packet<'_>, probe: &Probe, slot: u32, now_ns: u64) -> Verdict {
        let timeouts = self.timeouts;
        let Some(session) = self.bindings.session_mut(slot) else { return Verdict::Drop(DropReason::UNSPECIFIED) };
        refresh(session, probe, true, &timeouts, now_ns);
        let source = (session.outside.b, session.outside.b_port());
        if probe.first_fragment || !is_transport(&probe.key) {
            return self.untranslatable(DropReason::UNSUPPORTED);
        }
        let seen = Key::new(source.0, source.1, probe.key.b, probe.key.b_port(), probe.key.rest as u32);
        let Some((address, port)) = self.wanted(&seen, probe, now_ns) else {
            self.counters.unsolicited.inc();
            return Verdict::Drop(self.reasons.unsolicited);
        };
        let Some(mac) = self.bindings.mac_of(address) else {
            return Verdict::Drop(DropReason::NO_NEIGHBOUR);
        };
        let done = translate(packet.data_mut(), probe, Side::Source, source.0, source.1)
            && translate(packet.data_mut(), probe, Side::Destination, address, port);
        if !done {
            return self.untranslatable(DropReason::UNSUPPORTED);
        }
        if let Some(link) = packet.data_mut().first_chunk_mut::<12>() {
            // It comes from whom it was sent to: the gateway.
            link.copy_within(0..6, 6);
            link[..6].copy_from_slice(&mac);
        }
        self.counters.hairpinned.inc();
        Verdict::Reply
    }

    /// The inside endpoint that a packet to the pool leads to, if it is wanted.
    fn wanted(&mut self, key: &Key, probe: &Probe, now_ns: u64) -> Option<(u128, u16)> {
        let timeouts = self.timeouts;
        let hash = self.bindings.hash(key, false);
        if let Some(session) = self.bindings.find(&self.fast, hash, key, false, now_ns) {
            refresh(session, probe, false, &timeouts, now_ns);
            return Some((session.inside.a, session.inside.a_port()));
        }
        let open = self.filtering == Filtering::EndpointIndependent;
        let mapping = self.bindings.mapping_at(key.protocol(), (key.b, key.b_port()))?;
        // It keeps nothing alive: strangers must not hold mappings open (RFC 4787 REQ-6).
        (mapping.is_static || open).then_some(mapping.inside)
    }

    /// A packet from outside without a session that the fast path takes.
    fn inbound(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> Verdict {
        if self.proxy_arp && self.answer_neighbour(packet, probe) {
            return Verdict::Reply;
        }
        match probe.class {
            Class::Arp | Class::NotIp => return Verdict::Next,
            Class::Malformed => return self.untranslatable(DropReason::MALFORMED),
            Class::Flow | Class::LaterFragment if is_mixed(probe) => return self.untranslatable(DropReason::MALFORMED),
            Class::Flow | Class::LaterFragment => {}
        }
        let key = probe.key;
        if !self.bindings.translates(key.is_ipv6()) {
            return Verdict::Next;
        }
        if !self.bindings.in_pool(key.b) {
            if self.scheme.sources.iter().any(|range| range.contains(key.b)) && !is_group(key.b) {
                return self.unwanted();
            }
            return Verdict::Next;
        }
        if probe.class == Class::LaterFragment {
            return self.later_fragment(packet, probe, now_ns);
        }
        match Icmp::of(probe, packet.data()) {
            Icmp::Error => return self.inbound_error(packet, probe, now_ns),
            Icmp::None if is_transport(&key) => {}
            Icmp::Answer => {}
            Icmp::NeighbourDiscovery => return Verdict::Next,
            // Never to inside hosts; the owner of the address may want it.
            Icmp::Query | Icmp::Other | Icmp::None => return self.stray(),
        }
        match self.wanted(&key, probe, now_ns) {
            Some((address, port)) => self.translated(packet, probe, Side::Destination, address, port, now_ns),
            None => self.stray(),
        }
    }

    fn later_fragment(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> Verdict {
        let Ok(layers) = Layers::parse(packet.data()) else { return self.untranslatable(DropReason::MALFORMED) };
        let Some((is_source, address)) = self.fragments.recall(probe, &layers, now_ns) else {
            return self.untranslatable(self.reasons.fragment);
        };
        let side = if is_source { Side::Source } else { Side::Destination };
        if rewrite::endpoint(packet.data_mut(), &layers, side, address_of(address), None).is_err() {
            return self.untranslatable(DropReason::UNSUPPORTED);
        }
        if is_source { &self.counters.outbound } else { &self.counters.inbound }.inc();
        Verdict::Next
    }

    /// A packet to the pool that nobody inside wants.
    fn stray(&self) -> Verdict {
        if self.unsolicited == Unsolicited::Pass { Verdict::Next } else { self.unwanted() }
    }

    fn unwanted(&self) -> Verdict {
        self.counters.unsolicited.inc();
        Verdict::Drop(self.reasons.unsolicited)
    }

    fn no_session(&self) -> Verdict {
        self.counters.no_session.inc();
        Verdict::Drop(self.reasons.no_session)
    }

    fn untranslatable(&self, reason: DropReason) -> Verdict {
        self.counters.untranslatable.inc();
        Verdict::Drop(reason)
    }
}

/// Keeps a session alive.
#[inline]
fn refresh(session: &mut bindings::Session, probe: &Probe, from_inside: bool, timeouts: &Lifetimes, now_ns: u64) {
    let lifetime_ns = match probe.key.protocol() {
        protocol::TCP => {
            session.progress.segment(probe.tcp_flags, from_inside);
            if session.progress.is_closed() {
                // A closed session ends in its time, whatever is still sent (RFC 7857 section 2).
                let end = now_ns.saturating_add(timeouts.transitory_ns);
                session.expires_ns = session.expires_ns.min(end);
                return;
            }
            if session.progress.is_open() { timeouts.established_ns } else { timeouts.transitory_ns }
        }
        protocol::UDP => timeouts.udp_ns,
        _ => timeouts.icmp_ns,
    };
    session.expires_ns = now_ns.saturating_add(lifetime_ns);
}

/// Whether it is TCP or UDP.
#[inline]
fn is_transport(key: &Key) -> bool {
    matches!(key.protocol(), protocol::TCP | protocol::UDP)
}

/// Whether it is an IPv6 packet with an IPv4-mapped address, which must not be seen on a wire and would pass for IPv4 here.
fn is_mixed(probe: &Probe) -> bool {
    probe.key.is_ipv6() && (is_mapped(probe.key.a) || is_mapped(probe.key.b))
}

/// Whether an address is of a group or all hosts.
fn is_group(address: u128) -> bool {
    match address_of(address) {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}
