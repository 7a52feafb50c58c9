//! Packets of connections: which server they belong to, and what is written into them.

use super::Elb;
use super::connections::Connection;
use super::pool::client_of;
use crate::firewall::prefix::{address_of, number};
use crate::flow_table::{Class, Icmp, Key, Probe};
use crate::nat::translate;
use middlenet_sdk::fast_path::{Action, Ends, Flow, FlowRule};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::rewrite::{self, Side};
use middlenet_sdk::wire::{Layers, TcpFlags, protocol};
use std::net::IpAddr;
use std::time::Duration;

/// How long after a start answers of servers may be of connections that an earlier process knew.
const LEARNING_NS: u64 = 60_000_000_000;
/// How long what the fast path said of a connection is believed.
const RECENT_NS: u64 = 1_000_000_000;
/// Other servers that are tried for a client whose port is in use at the one its slot names.
const TRIES: usize = 4096;

/// Address and port as keys have them.
pub(super) fn endpoint(address: IpAddr, port: u16) -> (u128, u16) {
    (number(address), port)
}

/// The key of what a server answers to a packet with this key.
fn answer_key(asked: &Key, server: (u128, u16)) -> Key {
    Key::new(server.0, server.1, asked.a, asked.a_port(), asked.rest as u32)
}

/// The key of what a client sends to have such an answer.
fn asked_key(answered: &Key, service: (u128, u16)) -> Key {
    Key::new(answered.b, answered.b_port(), service.0, service.1, answered.rest as u32)
}

fn address(number: u128, is_ipv6: bool) -> IpAddr {
    if is_ipv6 { IpAddr::V6(number.into()) } else { address_of(number) }
}

impl Elb {
    /// The first packets of an instance that knows nothing may be of connections that another one knew.
    pub(super) fn begin_learning(&mut self, now_ns: u64) {
        if self.learns_until_ns.is_none() {
            let lasts = if self.is_successor { 0 } else { LEARNING_NS };
            self.learns_until_ns = Some(now_ns.saturating_add(lasts));
        }
    }

    #[inline]
    pub(super) fn translate_packet(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> Verdict {
        let key = probe.key;
        match (probe.class, key.protocol()) {
            (Class::Flow, protocol::TCP | protocol::UDP) => {}
            (Class::Flow, _) if Icmp::of(probe, packet.data()) == Icmp::Error => {
                return self.translate_error(packet, probe, now_ns);
            }
            (Class::LaterFragment, _) => return self.later_fragment(packet, probe, now_ns),
            _ => return Verdict::Next,
        }
        if let Some(slot) = self.connections.asked(&key, now_ns)
            && let Some(server) = self.known(slot, probe, now_ns)
        {
            return self.send_to_server(packet, probe, server, now_ns);
        }
        if let Some(service) = self.pool.service_of(&key) {
            return match self.begin(service, probe, now_ns) {
                Ok(server) => self.send_to_server(packet, probe, server, now_ns),
                Err(verdict) => verdict,
            };
        }
        if let Some(service) = self.answered(&key, probe, now_ns) {
            return self.send_to_client(packet, probe, service, now_ns);
        }
        Verdict::Next
    }

    /// The server of a connection in the table, for a packet of its client. Nothing if the packet begins another one.
    #[inline]
    fn known(&mut self, slot: u32, probe: &Probe, now_ns: u64) -> Option<(u128, u16)> {
        let connection = *self.connections.get(slot)?;
        let (server, opens) = (connection.server(), TcpFlags(probe.tcp_flags).opens());
        if opens && connection.progress.is_closed() {
            self.connections.remove(slot);
            return None;
        }
        if self.is_old(&connection, now_ns) {
            match self.fast_server(&connection.asked, opens) {
                Some(same) if same == server => {}
                // It has made room there.
                None if !opens => self.restore(&connection, probe),
                // The fast path has begun another one meanwhile, or is about to.
                _ => {
                    self.connections.remove(slot);
                    return None;
                }
            }
            self.connections.get_mut(slot)?.confirm(now_ns);
        }
        self.refresh(slot, probe, true, now_ns);
        Some(server)
    }

    /// Whether the fast path may know better by now.
    #[inline]
    fn is_old(&self, connection: &Connection, now_ns: u64) -> bool {
        self.is_fast && now_ns.saturating_sub(connection.checked_ns) > RECENT_NS
    }

    /// Puts a connection into the fast path once more, unless it ends with this packet.
    fn restore(&self, connection: &Connection, probe: &Probe) {
        let flags = TcpFlags(probe.tcp_flags);
        if !(flags.fin() || flags.rst() || connection.progress.is_closed())
            && let Some(service) = self.pool.service_of(&connection.asked)
        {
            self.install(service, &connection.asked, connection.server());
        }
    }

    fn refresh(&mut self, slot: u32, probe: &Probe, from_client: bool, now_ns: u64) {
        let Some(connection) = self.connections.get_mut(slot) else { return };
        let is_tcp = connection.asked.protocol() == protocol::TCP;
        if is_tcp {
            connection.progress.segment(probe.tcp_flags, from_client);
        } else {
            // An ACK stands for any packet: UDP that went both ways is answered.
            connection.progress.segment(TcpFlags::ACK.0, from_client);
        }
        let idle_ns = self.timeouts.idle_ns(connection.asked.protocol(), connection.progress.is_closed());
        self.connections.refresh(slot, idle_ns, now_ns);
    }

    /// The server for a packet to a service that is of no connection in the table.
    fn begin(&mut self, service: usize, probe: &Probe, now_ns: u64) -> Result<(u128, u16), Verdict> {
        let key = probe.key;
        let opens = TcpFlags(probe.tcp_flags).opens();
        if let Some(server) = self.fast_server(&key, opens) {
            self.remember(&key, server, probe, true, now_ns);
            return Ok(server);
        }
        if !opens && let Some(server) = self.answering(service, &key) {
            if let Some(slot) = self.remember(&key, server, probe, true, now_ns)
                && let Some(&connection) = self.connections.get(slot)
            {
                self.restore(&connection, probe);
            }
            return Ok(server);
        }
        let server = self.choose(service, &key, now_ns)?;
        let flags = TcpFlags(probe.tcp_flags);
        // As in the fast path: what ends a connection begins none.
        if !flags.fin() && !flags.rst() {
            if self.remember(&key, server, probe, true, now_ns).is_none() {
                self.counters.no_room.inc();
                return Err(Verdict::Drop(DropReason::TABLE_FULL));
            }
            self.counters.begun.inc();
            self.install(service, &key, server);
        }
        Ok(server)
    }

    /// The server that the fast path knows for what a client sends. A SYN on a connection that is closing begins another.
    fn fast_server(&self, asked: &Key, opens: bool) -> Option<(u128, u16)> {
        if !self.is_fast {
            return None;
        }
        let (action, _) = self.fast_path.query(&Flow::from(asked)).filter(|(_, state)| !(opens && state.is_closing))?;
        Some(endpoint(action.rewrite.dst?, action.rewrite.dst_port?))
    }

    /// The server whose answers the fast path knows for a connection of which it knows nothing else: the client's side made room.
    fn answering(&mut self, service: usize, asked: &Key) -> Option<(u128, u16)> {
        if !self.is_fast {
            return None;
        }
        let state = self.pool.services.get(service)?;
        let servers = state.servers.iter().take(self.asks);
        let (mut asks, mut found) = (0, None);
        for server in servers {
            let server = endpoint(server.identity.0, server.identity.1);
            asks += 1;
            let known = self.fast_path.query(&Flow::from(&answer_key(asked, server)));
            if let Some((action, _)) = known.filter(|(_, state)| !state.is_closing)
                && action.rewrite.src == Some(state.service.address)
                && action.rewrite.src_port == Some(state.service.port)
            {
                found = Some(server);
                break;
            }
        }
        self.asks -= asks;
        found
    }

    /// The server that the client's slot names, or the next one at which the client's port is free.
    fn choose(&mut self, service: usize, asked: &Key, now_ns: u64) -> Result<(u128, u16), Verdict> {
        let (mut any, mut last) = (false, None);
        for server in self.pool.choices(service, client_of(asked)).take(TRIES) {
            any = true;
            if last == Some(server.identity) {
                continue;
            }
            last = Some(server.identity);
            let server = endpoint(server.identity.0, server.identity.1);
            if !self.is_taken(&answer_key(asked, server), asked, now_ns) {
                return Ok(server);
            }
        }
        if any {
            self.counters.no_room.inc();
            return Err(Verdict::Drop(DropReason::TABLE_FULL));
        }
        self.counters.no_server.inc();
        Err(Verdict::Drop(self.reasons.no_server))
    }

    /// Whether answers with this key are of another connection.
    fn is_taken(&self, answered: &Key, asked: &Key, now_ns: u64) -> bool {
        let known = self.connections.answered(answered, now_ns).and_then(|slot| self.connections.get(slot));
        if let Some(known) = known.filter(|known| !known.progress.is_closed()) {
            return known.asked != *asked;
        }
        let fast = if self.is_fast { self.fast_path.query(&Flow::from(answered)) } else { None };
        fast.filter(|(_, state)| !state.is_closing).is_some_and(|(action, _)| {
            action.rewrite.src.map(number) != Some(asked.b) || action.rewrite.src_port != Some(asked.b_port())
        })
    }

    fn remember(
        &mut self,
        asked: &Key,
        server: (u128, u16),
        probe: &Probe,
        from_client: bool,
        now_ns: u64,
    ) -> Option<u32> {
        let slot = self.connections.insert(Connection::new(*asked, answer_key(asked, server), now_ns))?;
        self.refresh(slot, probe, from_client, now_ns);
        Some(slot)
    }

    /// Puts a connection that began here into the fast path, in both directions.
    fn install(&self, service: usize, asked: &Key, server: (u128, u16)) {
        if !self.is_fast {
            return;
        }
        let (Some(state), Some(to)) = (self.pool.services.get(service), self.pool.server(service, server)) else {
            return;
        };
        // How long both directions may be silent is for `aging.rs`.
        let ends = if asked.protocol() == protocol::TCP { Ends::Tracked } else { Ends::Ignored };
        let rule = |action: Action| FlowRule { action, lifetime: Duration::MAX, idle: None, ends };
        self.fast_path.install(&Flow::from(asked), &rule(to.to_server()));
        self.fast_path.install(&Flow::from(&answer_key(asked, server)), &rule(to.to_client(&state.service)));
    }

    /// The service that an answer of a server is in the name of.
    fn answered(&mut self, key: &Key, probe: &Probe, now_ns: u64) -> Option<(u128, u16)> {
        if let Some(slot) = self.connections.answered(key, now_ns) {
            let connection = *self.connections.get(slot)?;
            let known = if self.is_old(&connection, now_ns) { self.fast_service(key) } else { None };
            if known.is_none_or(|service| service == connection.service()) {
                if self.is_old(&connection, now_ns) {
                    if known.is_none() {
                        self.restore(&connection, probe);
                    }
                    self.connections.get_mut(slot)?.confirm(now_ns);
                }
                self.refresh(slot, probe, false, now_ns);
                return Some(connection.service());
            }
            // The fast path has begun one with another service meanwhile.
            self.connections.remove(slot);
        }
        if self.pool.services_of_server(key).is_empty() {
            return None;
        }
        if self.is_fast {
            let service = self.fast_service(key).or_else(|| self.half_known(key))?;
            self.remember(&asked_key(key, service), (key.a, key.a_port()), probe, false, now_ns);
            return Some(service);
        }
        self.learn(key, probe, now_ns)
    }

    /// The service in whose name the fast path sends an answer.
    fn fast_service(&self, answered: &Key) -> Option<(u128, u16)> {
        let (action, _) = self.is_fast.then(|| self.fast_path.query(&Flow::from(answered))).flatten()?;
        Some(endpoint(action.rewrite.src?, action.rewrite.src_port?))
    }

    /// The service of an answer of whose connection the fast path has only the client's side, since its entry made room for another.
    /// From now on it has both.
    fn half_known(&self, answered: &Key) -> Option<(u128, u16)> {
        let server = (answered.a, answered.a_port());
        self.pool.services_of_server(answered).iter().find_map(|&(at, _)| {
            let service = &self.pool.services.get(at)?.service;
            let service = endpoint(service.address, service.port);
            let asked = asked_key(answered, service);
            let (action, _) = self.fast_path.query(&Flow::from(&asked)).filter(|(_, state)| !state.is_closing)?;
            let goes_there = endpoint(action.rewrite.dst?, action.rewrite.dst_port?) == server;
            goes_there.then(|| {
                self.install(at, &asked, server);
                service
            })
        })
    }

    /// Takes an answer for one of a connection that an earlier process knew: in the middle of one, from the server that the client's
    /// slot names.
    fn learn(&mut self, key: &Key, probe: &Probe, now_ns: u64) -> Option<(u128, u16)> {
        let flags = TcpFlags(probe.tcp_flags);
        let in_the_middle = key.protocol() == protocol::TCP && !flags.syn() && !flags.rst() && flags.ack();
        if !in_the_middle || self.learns_until_ns.is_none_or(|until| now_ns >= until) {
            return None;
        }
        let server = (key.a, key.a_port());
        let client = client_of(&key.reverse());
        let service = self.pool.services_of_server(key).iter().map(|&(at, _)| at).find(|&service| {
            self.pool
                .choices(service, client)
                .next()
                .is_some_and(|first| endpoint(first.identity.0, first.identity.1) == server)
        })?;
        let state = self.pool.services.get(service)?;
        let service = endpoint(state.service.address, state.service.port);
        self.remember(&asked_key(key, service), server, probe, false, now_ns)?;
        Some(service)
    }

    fn send_to_server(&mut self, packet: &mut Packet<'_>, probe: &Probe, server: (u128, u16), now_ns: u64) -> Verdict {
        let bytes = packet.len() as u64;
        if !self.rewrite(packet, probe, Side::Destination, server, now_ns) {
            return self.untranslatable();
        }
        let service = (probe.key.b, probe.key.b_port(), probe.key.protocol());
        self.pool.count(service, server, bytes);
        self.counters.to_servers.inc();
        Verdict::Next
    }

    fn send_to_client(&mut self, packet: &mut Packet<'_>, probe: &Probe, service: (u128, u16), now_ns: u64) -> Verdict {
        let bytes = packet.len() as u64;
        if !self.rewrite(packet, probe, Side::Source, service, now_ns) {
            return self.untranslatable();
        }
        let server = (probe.key.a, probe.key.a_port());
        self.pool.count((service.0, service.1, probe.key.protocol()), server, bytes);
        self.counters.to_clients.inc();
        Verdict::Next
    }

    fn rewrite(&mut self, packet: &mut Packet<'_>, probe: &Probe, side: Side, to: (u128, u16), now_ns: u64) -> bool {
        if probe.first_fragment
            && let Ok(layers) = Layers::parse(packet.data())
        {
            self.fragments.remember(probe, &layers, (side == Side::Destination, to.0), now_ns);
        }
        translate(packet.data_mut(), probe, side, to.0, to.1)
    }

    pub(super) fn untranslatable(&self) -> Verdict {
        self.counters.untranslatable.inc();
        Verdict::Drop(DropReason::UNSUPPORTED)
    }

    /// A fragment without ports goes where its first one went.
    fn later_fragment(&mut self, packet: &mut Packet<'_>, probe: &Probe, now_ns: u64) -> Verdict {
        let key = probe.key;
        if !self.pool.has_address(key.b) && !self.pool.has_address(key.a) {
            return Verdict::Next;
        }
        let Ok(layers) = Layers::parse(packet.data()) else { return Verdict::Next };
        let Some((is_destination, to)) = self.fragments.recall(probe, &layers, now_ns) else {
            // Servers and services may have other traffic, which does not come by here in fragments unseen.
            let is_service = self.pool.services.iter().any(|state| number(state.service.address) == key.b);
            if !is_service {
                return Verdict::Next;
            }
            self.counters.fragment_unknown.inc();
            return Verdict::Drop(self.reasons.fragment);
        };
        let side = if is_destination { Side::Destination } else { Side::Source };
        if rewrite::endpoint(packet.data_mut(), &layers, side, address(to, key.is_ipv6()), None).is_err() {
            return self.untranslatable();
        }
        if is_destination { &self.counters.to_servers } else { &self.counters.to_clients }.inc();
        Verdict::Next
    }

    /// Both ends of the connection that a packet with this key is of, if there is one: as its client sends, the server; without
    /// taking the packet for one of its own.
    pub(super) fn connection_asked(&self, asked: &Key, now_ns: u64) -> Option<(u128, u16)> {
        let known = self.connections.asked(asked, now_ns).and_then(|slot| self.connections.get(slot));
        let is_recent = |known: &&Connection| !self.is_fast || now_ns.saturating_sub(known.checked_ns) <= RECENT_NS;
        known.filter(is_recent).map(Connection::server).or_else(|| self.fast_server(asked, false))
    }

    /// The same as the server answers: the service.
    pub(super) fn connection_answered(&self, answered: &Key, now_ns: u64) -> Option<(u128, u16)> {
        let known = self.connections.answered(answered, now_ns).and_then(|slot| self.connections.get(slot));
        if let Some(known) = known {
            return Some(known.service());
        }
        self.fast_service(answered)
    }
}
