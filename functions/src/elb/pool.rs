//! Services and servers: what each server's part is now, and what that makes of the slots.

use super::config::{MAX_SERVERS, MAX_SLOTS, ServicePlan};
use super::feedback::{Adjustment, next_weight};
use super::slots::{Identity, Share, assign};
use crate::firewall::prefix::{address_of, number};
use crate::flow_table::Key;
use middlenet_sdk::fast_path::{
    Action, Counted, FastPath, FastPathError, Rewrite, RuleTable, Service, ServiceRule, Then, slot_of,
};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// So many servers are looked through faster than one is found by its hash.
const FEW: usize = 16;

/// A server of a service.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) identity: Identity,
    pub(super) configured: f64,
    pub(super) drain: bool,
    /// Where its load is asked for.
    agent: IpAddr,
    /// What its load has made of the configured weight.
    pub(super) weight: f64,
    /// It answers, as far as is known.
    pub(super) is_up: bool,
    /// It has been silent for so long that its last weight says nothing.
    pub(super) is_stale: bool,
    pub(super) load: Option<f64>,
    /// Its class in the fast path, which is also the number of its rule.
    pub(super) class: u16,
    /// What its class had counted before it was this server's.
    before: Counted,
    /// Packets and bytes that passed here, in both directions.
    pub(super) packets: u64,
    pub(super) bytes: u64,
    /// Its connections that are not closed, as of the last whole round, if there was one since it is here.
    pub(super) connections: Option<u64>,
    /// Those that were met in this round.
    met: u64,
}

/// A service.
#[derive(Clone, Debug)]
pub(super) struct ServiceState {
    pub(super) name: Option<String>,
    pub(super) service: Service,
    pub(super) servers: Vec<Server>,
    /// Its first slot in the fast path.
    first: u32,
    /// Which server each slot names.
    slots: Vec<Option<Identity>>,
    /// The same, by place in `servers`.
    chosen: Vec<Option<u16>>,
}

/// What still counts of that which was known of servers' hosts under another configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    /// Their loads, and that they have been silent for long.
    pub(super) loads: bool,
    /// That those which do not answer are down.
    pub(super) silence: bool,
}

/// All services.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) services: Vec<ServiceState>,
    by_service: HashMap<(u128, u16, u8), usize>,
    /// Services of each server, and its place there.
    by_server: HashMap<(u128, u16, u8), Vec<(usize, usize)>>,
    addresses: HashSet<u128>,
    closing: Duration,
    /// Slots that named another server after a change.
    moved: u64,
    /// The class that a new server gets, if it is free.
    next_class: u16,
}

impl Pool {
    /// The services of a configuration, whose servers have their configured weights.
    pub(super) fn new(plans: Vec<ServicePlan>, slots: u32, closing: Duration) -> Self {
        let mut class = 0;
        let services = (0..).zip(plans).map(|(place, plan): (u32, ServicePlan)| ServiceState {
            name: plan.name,
            service: plan.service,
            servers: plan
                .servers
                .iter()
                .map(|server| {
                    class += 1;
                    Server {
                        identity: (server.address, server.port),
                        configured: server.weight,
                        drain: server.drain,
                        agent: server.agent,
                        weight: server.weight,
                        is_up: true,
                        is_stale: false,
                        load: None,
                        class: class - 1,
                        before: Counted::default(),
                        packets: 0,
                        bytes: 0,
                        connections: None,
                        met: 0,
                    }
                })
                .collect(),
            first: place * slots,
            slots: vec![None; slots as usize],
            chosen: vec![None; slots as usize],
        });
        let services = services.collect();
        let mut pool = Self {
            services,
            by_service: HashMap::new(),
            by_server: HashMap::new(),
            addresses: HashSet::new(),
            closing,
            moved: 0,
            next_class: class,
        };
        for (at, state) in pool.services.iter_mut().enumerate() {
            let Service { address, port, protocol } = state.service;
            pool.by_service.insert((number(address), port, protocol), at);
            pool.addresses.insert(number(address));
            for (place, server) in state.servers.iter().enumerate() {
                let (address, port) = (number(server.identity.0), server.identity.1);
                pool.by_server.entry((address, port, protocol)).or_default().push((at, place));
                pool.addresses.insert(address);
            }
            state.reassign();
        }
        pool
    }

    /// Goes on where another pool was: slots, and numbers of servers and slots that are in both; and what is `known` of hosts.
    pub(super) fn inherit(&mut self, old: &Self, known: Known, fast_path: &FastPath) {
        (self.moved, self.next_class) = (old.moved, old.next_class);
        let former = |service: &Service| old.services.iter().find(|state| state.service == *service);
        let mut classes: HashSet<u16> = HashSet::new();
        let taken: HashSet<u16> = old.services.iter().flat_map(|state| &state.servers).map(|s| s.class).collect();
        for state in &mut self.services {
            let Some(before) = former(&state.service) else { continue };
            for server in &mut state.servers {
                let Some(same) = before.servers.iter().find(|same| same.identity == server.identity) else { continue };
                let (configured, drain, agent) = (server.configured, server.drain, server.agent);
                *server = Server { configured, drain, agent, weight: configured, ..same.clone() };
                if !known.loads {
                    (server.load, server.is_stale) = (None, false);
                } else if same.configured > 0.0 {
                    // The load's part stays.
                    server.weight *= same.weight / same.configured;
                }
                server.is_up |= !known.silence;
                server.met = 0;
                classes.insert(server.class);
            }
            if before.slots.len() == state.slots.len() {
                state.slots.clone_from(&before.slots);
                state.first = before.first;
            }
        }
        // New servers get numbers that nobody has had for long, since connections keep those of their server.
        let is_new = |state: &Service, server: &Server| {
            former(state).is_none_or(|before| before.servers.iter().all(|same| same.identity != server.identity))
        };
        for state in &mut self.services {
            for server in state.servers.iter_mut().filter(|server| is_new(&state.service, server)) {
                let all = MAX_SERVERS as u16;
                let in_turn = || (0..all).map(|n| (self.next_class + n) % all).filter(|n| !classes.contains(n));
                server.class =
                    in_turn().find(|n| !taken.contains(n)).or_else(|| in_turn().next()).unwrap_or(server.class);
                server.before = fast_path.class_counts(server.class);
                self.next_class = (server.class + 1) % all;
                classes.insert(server.class);
            }
        }
        self.place_slots(old);
        self.moved += self.services.iter_mut().map(|state| state.reassign() as u64).sum::<u64>();
    }

    /// From here on the fast path's classes are of these servers.
    pub(super) fn begin_classes(&mut self, fast_path: &FastPath) {
        for server in self.services.iter_mut().flat_map(|state| &mut state.servers) {
            server.before = fast_path.class_counts(server.class);
        }
    }

    /// Finds slots for services that had none before, beside those that others have or had, as long as there are any. All services have
    /// the same number, and begin at multiples of it, so that none are left between that are too few for one.
    fn place_slots(&mut self, old: &Self) {
        let range = |state: &ServiceState| (state.first, state.first + state.slots.len() as u32);
        let stays = |state: &ServiceState| {
            old.services.iter().any(|before| before.service == state.service && range(before) == range(state))
        };
        let kept: HashSet<u32> = self.services.iter().filter(|state| stays(state)).map(|state| state.first).collect();
        let former: Vec<(u32, u32)> = old.services.iter().map(range).collect();
        let count = self.services.first().map_or(1, |state| state.slots.len() as u32);
        let places = (0..MAX_SLOTS as u32 / count).map(|n| n * count).filter(|first| !kept.contains(first));
        let was_of_others = |first: &u32| former.iter().any(|(from, to)| first < to && *from < first + count);
        let (over, beside): (Vec<u32>, Vec<u32>) = places.partition(was_of_others);
        let new = self.services.iter_mut().filter(|state| !stays(state));
        for (state, first) in new.zip(beside.into_iter().chain(over)) {
            state.first = first;
        }
    }

    /// The service that a packet with this key is for.
    #[inline]
    pub(super) fn service_of(&self, key: &Key) -> Option<usize> {
        self.by_service.get(&(key.b, key.b_port(), key.protocol())).copied()
    }

    /// The services whose server a packet with this key comes from, and its place in each.
    #[inline]
    pub(super) fn services_of_server(&self, key: &Key) -> &[(usize, usize)] {
        self.by_server.get(&(key.a, key.a_port(), key.protocol())).map_or(&[], Vec::as_slice)
    }

    /// The server of a service with this address and port.
    pub(super) fn server(&self, service: usize, server: (u128, u16)) -> Option<&Server> {
        let state = self.services.get(service)?;
        let places = self.by_server.get(&(server.0, server.1, state.service.protocol))?;
        let (_, place) = places.iter().find(|(of, _)| *of == service)?;
        state.servers.get(*place)
    }

    fn server_mut(&mut self, service: (u128, u16, u8), server: (u128, u16)) -> Option<&mut Server> {
        let at = self.by_service.get(&service)?;
        let servers = &mut self.services.get_mut(*at)?.servers;
        if servers.len() <= FEW {
            return servers.iter_mut().find(|known| (number(known.identity.0), known.identity.1) == server);
        }
        let (_, place) = self.by_server.get(&(server.0, server.1, service.2))?.iter().find(|(of, _)| of == at)?;
        servers.get_mut(*place)
    }

    /// Whether an address is one of a service or server.
    #[inline]
    pub(super) fn has_address(&self, address: u128) -> bool {
        self.addresses.contains(&address)
    }

    /// The servers that a client may be given, the one its slot names first: all that slots name, from there on.
    pub(super) fn choices(&self, service: usize, client: (IpAddr, u16)) -> impl Iterator<Item = &Server> {
        let state = self.services.get(service);
        let count = state.map_or(0, |state| state.chosen.len());
        let from = slot_of(client.0, client.1, count as u32) as usize;
        let slots = (from..count).chain(0..from);
        slots.filter_map(move |slot| state.and_then(|state| state.servers.get(usize::from(state.chosen[slot]?))))
    }

    /// Counts a packet of a server.
    #[inline]
    pub(super) fn count(&mut self, service: (u128, u16, u8), server: (u128, u16), bytes: u64) {
        if let Some(server) = self.server_mut(service, server) {
            server.packets += 1;
            server.bytes += bytes;
        }
    }

    /// A round over all connections has met one that is not closed.
    pub(super) fn meet(&mut self, service: (u128, u16, u8), server: (u128, u16)) {
        if let Some(server) = self.server_mut(service, server) {
            server.met += 1;
        }
    }

    /// Those met so far say nothing about all.
    pub(super) fn begin_round(&mut self) {
        self.services.iter_mut().flat_map(|state| &mut state.servers).for_each(|server| server.met = 0);
    }

    /// A round has met all connections.
    pub(super) fn end_round(&mut self) {
        for server in self.services.iter_mut().flat_map(|state| &mut state.servers) {
            server.connections = Some(std::mem::take(&mut server.met));
        }
    }

    /// Slots that named another server after changes of weights.
    pub(super) fn moved(&self) -> u64 {
        self.moved
    }

    /// The servers whose load a host tells.
    fn on_host(&mut self, host: IpAddr) -> impl Iterator<Item = &mut Server> {
        self.services.iter_mut().flat_map(|state| &mut state.servers).filter(move |server| server.agent == host)
    }

    /// A host has told its load.
    pub(super) fn host_answered(&mut self, host: IpAddr, load: f64, by: &Adjustment) {
        for server in self.on_host(host) {
            server.weight = next_weight(server.weight, server.configured, load, by);
            (server.load, server.is_up, server.is_stale) = (Some(load), true, false);
        }
    }

    /// A host is silent: so far that it is taken to be down, or that its load is not known any more.
    pub(super) fn host_silent(&mut self, host: IpAddr, is_down: bool, is_stale: bool) {
        for server in self.on_host(host) {
            server.is_up &= !is_down;
            server.is_stale |= is_stale;
            if is_stale {
                (server.weight, server.load) = (server.configured, None);
            }
        }
    }

    /// Gives slots to servers by what is known now, and tells the fast path where something moved.
    pub(super) fn reassign(&mut self, fast_path: &FastPath) -> Result<(), FastPathError> {
        for state in &mut self.services {
            let before = state.chosen.clone();
            self.moved += state.reassign() as u64;
            if state.chosen != before {
                state.publish_slots(fast_path)?;
                state.publish(fast_path, self.closing)?;
            }
        }
        Ok(())
    }

    /// Writes everything into the fast path: rules, then the slots that name them, then the services that have the slots.
    pub(super) fn publish(&self, fast_path: &FastPath) -> Result<(), FastPathError> {
        let ours: HashSet<Service> = self.services.iter().map(|state| state.service).collect();
        for service in fast_path.services() {
            if !ours.contains(&service) {
                fast_path.remove_service(&service);
            }
        }
        fast_path.set_rules(&RuleTable { rules: self.rules(), ..RuleTable::default() })?;
        for state in &self.services {
            state.publish_slots(fast_path)?;
            state.publish(fast_path, self.closing)?;
        }
        Ok(())
    }

    /// The rules in the order of their numbers. A number that no server has any more keeps its place.
    fn rules(&self) -> Vec<Action> {
        let servers = || self.services.iter().flat_map(|state| &state.servers);
        let count = servers().map(|server| usize::from(server.class) + 1).max().unwrap_or(0);
        let mut rules = vec![Action { then: Then::SlowPath, ..Action::default() }; count];
        for server in servers() {
            rules[usize::from(server.class)] = server.to_server();
        }
        rules
    }
}

impl Server {
    /// What is done with packets to it.
    pub(super) fn to_server(&self) -> Action {
        let (address, port) = self.identity;
        let rewrite = Rewrite { dst: Some(address), dst_port: Some(port), ..Rewrite::default() };
        Action { then: Then::Next, rewrite, class: Some(self.class), mtu: None }
    }

    /// What is done with packets from it.
    pub(super) fn to_client(&self, service: &Service) -> Action {
        let rewrite = Rewrite { src: Some(service.address), src_port: Some(service.port), ..Rewrite::default() };
        Action { then: Then::Next, rewrite, class: Some(self.class), mtu: None }
    }

    /// What the fast path has counted for it.
    pub(super) fn fast_counts(&self, fast_path: &FastPath) -> Counted {
        let counted = fast_path.class_counts(self.class);
        Counted {
            packets: counted.packets.saturating_sub(self.before.packets),
            bytes: counted.bytes.saturating_sub(self.before.bytes),
        }
    }

    fn may(&self) -> bool {
        !self.drain && self.configured > 0.0
    }
}

impl ServiceState {
    /// Gives slots to servers. How many moved. If all servers that may have some are down, they are taken to be up, with their last
    /// weights: rather a few failures than no service.
    fn reassign(&mut self) -> usize {
        let any_up = self.servers.iter().any(|server| server.may() && server.is_up);
        let share = |server: &Server| {
            let weight = if server.is_stale { server.configured } else { server.weight };
            let counts = server.may() && (server.is_up || !any_up);
            Share { server: server.identity, weight: if counts { weight } else { 0.0 } }
        };
        let shares: Vec<Share> = self.servers.iter().map(share).collect();
        let (places, moved) = assign(&mut self.slots, &shares);
        self.chosen = places.into_iter().map(|place| place.map(|at| at as u16)).collect();
        moved
    }

    fn publish_slots(&self, fast_path: &FastPath) -> Result<(), FastPathError> {
        let rule = |at: &Option<u16>| self.servers.get(usize::from((*at)?)).map(|server| u32::from(server.class));
        // All name a server, or none does.
        let rules: Option<Vec<u32>> = self.chosen.iter().map(rule).collect();
        rules.map_or(Ok(()), |rules| fast_path.set_slots(self.first, &rules))
    }

    fn publish(&self, fast_path: &FastPath, closing: Duration) -> Result<(), FastPathError> {
        let has_servers = self.chosen.iter().all(Option::is_some);
        let count = if has_servers { self.chosen.len() as u32 } else { 0 };
        // Which connections have been silent for too long is seen in both of their directions: `aging.rs`.
        let idle = Duration::MAX;
        fast_path.set_service(&self.service, &ServiceRule { first: self.first, count, idle, closing })
    }

    /// Its servers, and how many slots name each.
    pub(super) fn servers_and_slots(&self) -> impl Iterator<Item = (&Server, usize)> {
        let mut counts = vec![0; self.servers.len()];
        self.chosen.iter().flatten().for_each(|&at| counts[usize::from(at)] += 1);
        self.servers.iter().zip(counts)
    }
}

/// A client as slots see it.
pub(super) fn client_of(key: &Key) -> (IpAddr, u16) {
    let address = if key.is_ipv6() { IpAddr::V6(key.a.into()) } else { address_of(key.a) };
    (address, key.a_port())
}
