//! Mappings, sessions and hosts.
//!
//! A **mapping** binds an inside endpoint to an outside one, whomever the inside host talks to (RFC 4787 REQ-1). A
//! **session** is one conversation over a mapping; packets are translated by it with one look-up. A mapping lives as long as
//! it has sessions; those of static forwards live for ever. A **host** is an inside address, its limits and its pool
//! address (RFC 4787 REQ-2, "paired").

use super::config::Scheme;
use super::fast::{ASKED_PER_TICK, Fast, Pace};
use super::ports::Ports;
use crate::firewall::prefix::is_mapped;
use crate::flow_table::{Index, Key, Progress, SWEEP_SLOTS, Slab};
use middlenet_sdk::wire::protocol;

/// Sessions that an insertion into a full table looks at for an expired one.
const FULL_SCAN: usize = 16;
/// Those among them about which it asks the fast path.
const FULL_ASKED: usize = 2;

/// An inside endpoint and its outside one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mapping {
    pub(super) protocol: u8,
    pub(super) inside: (u128, u16),
    pub(super) outside: (u128, u16),
    sessions: u32,
    /// Place of the outside address in the pool.
    pool: usize,
    /// The inside host; none for static forwards.
    host: Option<u32>,
    pub(super) is_static: bool,
}

/// One conversation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Session {
    /// As the inside host sends: source inside.
    pub(super) inside: Key,
    /// As the outside host sends: destination outside.
    pub(super) outside: Key,
    /// When it ends.
    pub(super) expires_ns: u64,
    mapping: u32,
    pub(super) progress: Progress,
    /// Whether the other end is an inside host, too.
    pub(super) hairpin: bool,
    pub(super) pace: Pace,
}

/// An inside address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    address: u128,
    pool: usize,
    mappings: u32,
    sessions: u32,
    /// The link address its packets last came from when a session began.
    pub(super) mac: [u8; 6],
}

/// Why there is no binding for a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The host has its share of ports or sessions.
    HostLimit,
    /// No port is free at the host's pool address, or the pool has no address of this IP version.
    Exhausted,
    /// No room for another session, mapping or host.
    TableFull,
}

/// All state of the translator.
#[derive(Debug)]
pub(super) struct Bindings {
    sessions: Slab<Session>,
    /// The slot that was looked at last for room.
    room_at: u32,
    by_inside: Index,
    by_outside: Index,
    mappings: Slab<Mapping>,
    mapping_by_inside: Index,
    mapping_by_outside: Index,
    hosts: Slab<Host>,
    host_by_address: Index,
    /// Per pool address: TCP, UDP, ICMP.
    ports: Vec<[Ports; 3]>,
    pool: Vec<u128>,
    /// Places in the pool of its IPv4 and its IPv6 addresses.
    v4: Vec<usize>,
    v6: Vec<usize>,
    ports_per_host: u32,
    sessions_per_host: u32,
    choices: u64,
    /// Keys of sessions that have ended and may still be in the fast path.
    ended: Vec<(Key, Key)>,
}

fn endpoint_key(protocol: u8, endpoint: (u128, u16)) -> Key {
    Key::new(endpoint.0, endpoint.1, 0, 0, Key::small(0, protocol, false))
}

fn host_key(address: u128) -> Key {
    Key { a: address, b: 0, rest: 0 }
}

fn port_set(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 0,
        protocol::UDP => 1,
        _ => 2,
    }
}

impl Bindings {
    pub(super) fn new(scheme: &Scheme) -> Self {
        let (first, last) = scheme.ports;
        let mappings = scheme.sessions + scheme.forwards.len();
        let of_version = |v4: bool| (0..scheme.pool.len()).filter(|&i| is_mapped(scheme.pool[i]) == v4).collect();
        let mut bindings = Self {
            sessions: Slab::new(scheme.sessions),
            room_at: 0,
            by_inside: Index::new(scheme.sessions),
            by_outside: Index::new(scheme.sessions),
            mappings: Slab::new(mappings),
            mapping_by_inside: Index::new(mappings),
            mapping_by_outside: Index::new(mappings),
            hosts: Slab::new(scheme.sessions),
            host_by_address: Index::new(scheme.sessions),
            ports: vec![[Ports::new(first, last), Ports::new(first, last), Ports::new(0, u16::MAX)]; scheme.pool.len()],
            pool: scheme.pool.clone(),
            v4: of_version(true),
            v6: of_version(false),
            ports_per_host: scheme.ports_per_host,
            sessions_per_host: scheme.sessions_per_host,
            choices: 0,
            ended: Vec::new(),
        };
        for &(protocol, outside, outside_port, inside, inside_port) in &scheme.forwards {
            let Ok(pool) = scheme.pool.binary_search(&outside) else { continue };
            bindings.ports[pool][port_set(protocol)].mark(outside_port);
            bindings.add_mapping(Mapping {
                protocol,
                inside: (inside, inside_port),
                outside: (outside, outside_port),
                sessions: 0,
                pool,
                host: None,
                is_static: true,
            });
        }
        bindings
    }

    pub(super) fn sessions(&self) -> usize {
        self.sessions.len()
    }

    pub(super) fn mappings(&self) -> usize {
        self.mappings.len()
    }

    pub(super) fn hosts(&self) -> usize {
        self.hosts.len()
    }

    /// Whether the address is one that is translated to.
    pub(super) fn in_pool(&self, address: u128) -> bool {
        self.pool.binary_search(&address).is_ok()
    }

    /// Whether packets of this IP version are translated.
    pub(super) fn translates(&self, is_ipv6: bool) -> bool {
        !if is_ipv6 { &self.v6 } else { &self.v4 }.is_empty()
    }

    /// Hash for [`Bindings::find`].
    #[inline]
    pub(super) fn hash(&self, key: &Key, from_inside: bool) -> u32 {
        if from_inside { self.by_inside.seed().hash(key) } else { self.by_outside.seed().hash(key) }
    }

    /// The session of a packet.
    #[inline]
    pub(super) fn find(
        &mut self,
        fast: &Fast,
        hash: u32,
        key: &Key,
        from_inside: bool,
        now_ns: u64,
    ) -> Option<&mut Session> {
        let slot = self.seek(hash, key, from_inside);
        self.at_mut(fast, slot, key, from_inside, now_ns)
    }

    /// Where the session of a packet seems to be: for passes that bring sessions into the cache.
    #[inline]
    pub(super) fn seek(&self, hash: u32, key: &Key, from_inside: bool) -> u32 {
        let session = |slot| self.sessions.get(slot);
        let found = if from_inside {
            self.by_inside.find(hash, |slot| session(slot).is_some_and(|s| s.inside == *key))
        } else {
            self.by_outside.find(hash, |slot| session(slot).is_some_and(|s| s.outside == *key))
        };
        found.unwrap_or(u32::MAX)
    }

    /// The session that [`Bindings::seek`] found, if it is still there and has not ended.
    #[inline]
    pub(super) fn at_mut(
        &mut self,
        fast: &Fast,
        slot: u32,
        key: &Key,
        from_inside: bool,
        now_ns: u64,
    ) -> Option<&mut Session> {
        let session = self.sessions.get(slot)?;
        let own = if from_inside { &session.inside } else { &session.outside };
        let is_there =
            own == key && (session.expires_ns > now_ns || session.pace.is_fast && self.outlives(fast, slot, now_ns));
        if is_there { self.sessions.get_mut(slot) } else { None }
    }

    /// Asks the fast path about a session whose time is up here, and ends it if it is up there, too. Whether it lives on.
    #[cold]
    fn outlives(&mut self, fast: &Fast, slot: u32, now_ns: u64) -> bool {
        let Some(session) = self.sessions.get_mut(slot) else { return false };
        if let Some(end_ns) = fast.end_ns(session, now_ns) {
            session.expires_ns = end_ns;
            return true;
        }
        self.end(slot);
        // Now: another session between the same ends may come with the same burst.
        self.tell_ended(fast);
        false
    }

    /// The session of a flow in the fast path.
    pub(super) fn fast_session(&mut self, key: &Key) -> Option<&mut Session> {
        let find = |from_inside| self.seek(self.hash(key, from_inside), key, from_inside);
        let slot = [find(true), find(false)].into_iter().find(|&slot| slot != u32::MAX)?;
        self.sessions.get_mut(slot).filter(|session| session.pace.is_fast)
    }

    #[inline]
    pub(super) fn session_mut(&mut self, slot: u32) -> Option<&mut Session> {
        self.sessions.get_mut(slot)
    }

    /// The mapping of an outside endpoint.
    pub(super) fn mapping_at(&self, protocol: u8, outside: (u128, u16)) -> Option<&Mapping> {
        let hash = self.mapping_by_outside.seed().hash(&endpoint_key(protocol, outside));
        let is =
            |slot| self.mappings.get(slot).is_some_and(|m: &Mapping| m.protocol == protocol && m.outside == outside);
        self.mappings.get(self.mapping_by_outside.find(hash, is)?)
    }

    /// The mapping of an inside endpoint.
    pub(super) fn mapping_of(&self, protocol: u8, inside: (u128, u16)) -> Option<&Mapping> {
        self.mappings.get(self.mapping_slot(protocol, inside)?)
    }

    fn mapping_slot(&self, protocol: u8, inside: (u128, u16)) -> Option<u32> {
        let hash = self.mapping_by_inside.seed().hash(&endpoint_key(protocol, inside));
        let is = |slot| self.mappings.get(slot).is_some_and(|m: &Mapping| m.protocol == protocol && m.inside == inside);
        self.mapping_by_inside.find(hash, is)
    }

    /// The link address of an inside host.
    pub(super) fn mac_of(&self, address: u128) -> Option<[u8; 6]> {
        self.hosts.get(self.host_slot(address)?).map(|host| host.mac)
    }

    fn host_slot(&self, address: u128) -> Option<u32> {
        let hash = self.host_by_address.seed().hash(&host_key(address));
        self.host_by_address.find(hash, |slot| self.hosts.get(slot).is_some_and(|host| host.address == address))
    }

    /// Begins a session for a packet from inside, with a mapping if its endpoint has none. The key must be free.
    pub(super) fn begin(
        &mut self,
        fast: &Fast,
        key: Key,
        mac: [u8; 6],
        expires_ns: u64,
        now_ns: u64,
    ) -> Result<u32, Refusal> {
        if self.sessions.is_full() {
            self.make_room(fast, now_ns);
        }
        if self.sessions.is_full() {
            return Err(Refusal::TableFull);
        }
        let host = self.host(key.a, key.is_ipv6(), mac)?;
        let begun = self.begin_at(key, host, expires_ns);
        if begun.is_err() {
            self.forget_idle_host(host);
        }
        begun
    }

    fn begin_at(&mut self, key: Key, host: u32, expires_ns: u64) -> Result<u32, Refusal> {
        let record = *self.hosts.get(host).ok_or(Refusal::TableFull)?;
        if record.sessions >= self.sessions_per_host {
            return Err(Refusal::HostLimit);
        }
        let (protocol, inside) = (key.protocol(), (key.a, key.a_port()));
        let mapping = match self.mapping_slot(protocol, inside) {
            Some(slot) => slot,
            None => self.map(protocol, inside, host, &record)?,
        };
        let outside = self.mappings.get(mapping).ok_or(Refusal::TableFull)?.outside;
        // ICMP queries have one identifier, which stands for both ports.
        let is_icmp = !matches!(protocol, protocol::TCP | protocol::UDP);
        let remote_port = if is_icmp { outside.1 } else { key.b_port() };
        let from_outside = Key::new(key.b, remote_port, outside.0, outside.1, key.rest as u32);
        let session = Session {
            inside: key,
            outside: from_outside,
            expires_ns,
            mapping,
            progress: Progress::default(),
            hairpin: self.in_pool(key.b),
            pace: Pace::default(),
        };
        let Some(slot) = self.sessions.insert(session) else {
            self.unmap_if_idle(mapping);
            return Err(Refusal::TableFull);
        };
        let hashes = (self.by_inside.seed().hash(&key), self.by_outside.seed().hash(&from_outside));
        let indexed = self.by_inside.insert(hashes.0, slot) && self.by_outside.insert(hashes.1, slot);
        if let Some(mapping) = self.mappings.get_mut(mapping) {
            mapping.sessions += 1;
        }
        if let Some(host) = self.hosts.get_mut(host) {
            host.sessions += 1;
        }
        if !indexed {
            self.end(slot);
            return Err(Refusal::TableFull);
        }
        Ok(slot)
    }

    /// Ends the session of a packet from inside that [`Bindings::find`] found no more, but which no sweep has met yet.
    pub(super) fn end_stale(&mut self, key: &Key) {
        let hash = self.by_inside.seed().hash(key);
        let stale = self.by_inside.find(hash, |slot| self.sessions.get(slot).is_some_and(|s| s.inside == *key));
        if let Some(slot) = stale {
            self.end(slot);
        }
    }

    fn map(&mut self, protocol: u8, inside: (u128, u16), host: u32, record: &Host) -> Result<u32, Refusal> {
        if record.mappings >= self.ports_per_host {
            return Err(Refusal::HostLimit);
        }
        if self.mappings.is_full() {
            return Err(Refusal::TableFull);
        }
        self.choices = self.choices.wrapping_add(1);
        let random = self.by_inside.seed().mix(self.choices);
        let ports = &mut self.ports[record.pool][port_set(protocol)];
        let port = ports.take(inside.1, random).ok_or(Refusal::Exhausted)?;
        let outside = (self.pool[record.pool], port);
        let mapping =
            Mapping { protocol, inside, outside, sessions: 0, pool: record.pool, host: Some(host), is_static: false };
        let Some(slot) = self.add_mapping(mapping) else {
            self.ports[record.pool][port_set(protocol)].release(port);
            return Err(Refusal::TableFull);
        };
        if let Some(host) = self.hosts.get_mut(host) {
            host.mappings += 1;
        }
        Ok(slot)
    }

    fn add_mapping(&mut self, mapping: Mapping) -> Option<u32> {
        let slot = self.mappings.insert(mapping)?;
        let inside = self.mapping_by_inside.seed().hash(&endpoint_key(mapping.protocol, mapping.inside));
        let outside = self.mapping_by_outside.seed().hash(&endpoint_key(mapping.protocol, mapping.outside));
        if self.mapping_by_inside.insert(inside, slot) && self.mapping_by_outside.insert(outside, slot) {
            return Some(slot);
        }
        self.mapping_by_inside.remove(inside, slot);
        self.mappings.remove(slot);
        None
    }

    fn host(&mut self, address: u128, is_ipv6: bool, mac: [u8; 6]) -> Result<u32, Refusal> {
        if let Some(slot) = self.host_slot(address) {
            if let Some(host) = self.hosts.get_mut(slot) {
                host.mac = mac;
            }
            return Ok(slot);
        }
        let pool = if is_ipv6 { &self.v6 } else { &self.v4 };
        let hash = self.host_by_address.seed().hash(&host_key(address));
        // Hosts spread over the pool by the address alone, so that they come back to the same outside address.
        let spread = (address ^ address >> 64) as usize;
        let pool = *pool.get(spread % pool.len().max(1)).ok_or(Refusal::Exhausted)?;
        let host = Host { address, pool, mappings: 0, sessions: 0, mac };
        let slot = self.hosts.insert(host).ok_or(Refusal::TableFull)?;
        if !self.host_by_address.insert(hash, slot) {
            self.hosts.remove(slot);
            return Err(Refusal::TableFull);
        }
        Ok(slot)
    }

    /// Ends a session, and its mapping if it was the last one.
    fn end(&mut self, slot: u32) {
        let Some(session) = self.sessions.remove(slot) else { return };
        if session.pace.is_fast {
            self.ended.push((session.inside, session.outside));
        }
        self.by_inside.remove(self.by_inside.seed().hash(&session.inside), slot);
        self.by_outside.remove(self.by_outside.seed().hash(&session.outside), slot);
        if let Some(mapping) = self.mappings.get_mut(session.mapping) {
            mapping.sessions = mapping.sessions.saturating_sub(1);
        }
        self.unmap_if_idle(session.mapping);
        if let Some(slot) = self.host_slot(session.inside.a) {
            if let Some(host) = self.hosts.get_mut(slot) {
                host.sessions = host.sessions.saturating_sub(1);
            }
            self.forget_idle_host(slot);
        }
    }

    fn unmap_if_idle(&mut self, slot: u32) {
        let Some(mapping) = self.mappings.get(slot).filter(|m| m.sessions == 0 && !m.is_static).copied() else {
            return;
        };
        self.mappings.remove(slot);
        let inside = self.mapping_by_inside.seed().hash(&endpoint_key(mapping.protocol, mapping.inside));
        self.mapping_by_inside.remove(inside, slot);
        let outside = self.mapping_by_outside.seed().hash(&endpoint_key(mapping.protocol, mapping.outside));
        self.mapping_by_outside.remove(outside, slot);
        self.ports[mapping.pool][port_set(mapping.protocol)].release(mapping.outside.1);
        if let Some(host) = mapping.host.and_then(|host| self.hosts.get_mut(host)) {
            host.mappings = host.mappings.saturating_sub(1);
        }
    }

    fn forget_idle_host(&mut self, slot: u32) {
        let Some(host) = self.hosts.get(slot).filter(|host| host.mappings == 0 && host.sessions == 0) else { return };
        let hash = self.host_by_address.seed().hash(&host_key(host.address));
        self.host_by_address.remove(hash, slot);
        self.hosts.remove(slot);
    }

    /// Ends sessions whose time is up, here and in the fast path, among the next slots; whom it cannot ask about stays.
    pub(super) fn tick(&mut self, fast: &Fast, now_ns: u64) {
        let mut asked = 0;
        for _ in 0..SWEEP_SLOTS.min(self.sessions.high_water()) {
            let slot = self.sessions.next_slot();
            let Some(session) = self.sessions.get(slot).filter(|session| session.expires_ns <= now_ns) else {
                continue;
            };
            if !session.pace.is_fast {
                self.end(slot);
                continue;
            }
            self.outlives(fast, slot, now_ns);
            asked += 1;
            if asked == ASKED_PER_TICK {
                break;
            }
        }
    }

    /// Ends a session whose time is up, if there is one among the next slots. The walk of [`tick`](Self::tick) stays where it is.
    fn make_room(&mut self, fast: &Fast, now_ns: u64) {
        let mut asked = 0;
        for _ in 0..FULL_SCAN.min(self.sessions.high_water()) {
            self.room_at = (self.room_at + 1) % self.sessions.high_water() as u32;
            let slot = self.room_at;
            let Some(session) = self.sessions.get(slot).filter(|session| session.expires_ns <= now_ns) else {
                continue;
            };
            if !session.pace.is_fast {
                return self.end(slot);
            }
            asked += 1;
            if !self.outlives(fast, slot, now_ns) || asked == FULL_ASKED {
                return;
            }
        }
    }

    /// Tells the fast path which sessions have ended since the last call.
    #[inline]
    pub(super) fn tell_ended(&mut self, fast: &Fast) {
        for (inside, outside) in self.ended.drain(..) {
            fast.remove(&inside, &outside);
        }
    }
}
