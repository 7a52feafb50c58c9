//! Flows that functions send elsewhere than the rules say.

use middlenet_sdk::SteeredFlow;
use middlenet_steer::{Action, Flow};
use middlenet_wire::{FlowKey, protocol};
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Flows of one port that workers steer; beyond, they are refused and counted.
pub(super) const FLOWS: usize = 65_536;

/// A flow that a worker sends elsewhere.
#[derive(Clone, Debug)]
pub(crate) struct Diversion {
    /// What becomes of its packets.
    pub(crate) action: Action,
    /// Until when.
    pub(crate) expires: Instant,
    /// Packets that it decided about, of all workers.
    pub(crate) pkts: Arc<AtomicU64>,
}

/// What a worker is told of a flow: nothing to leave it to the rules again.
pub(crate) type Diverted = (Flow, Option<Diversion>);

/// The key of a flow that a function named; none if its addresses are of two versions.
pub(super) fn key(flow: &SteeredFlow) -> Option<FlowKey> {
    let key = FlowKey::new(flow.src, flow.src_port, flow.dst, flow.dst_port, flow.protocol).ok()?;
    Some(FlowKey { vid: flow.vlan, ..key })
}

/// `tcp 10.0.0.1:1000 -> 10.0.0.2:80`.
pub(super) struct Shown<'k>(pub(super) &'k FlowKey);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.0;
        match key.protocol {
            protocol::TCP => f.write_str("tcp ")?,
            protocol::UDP => f.write_str("udp ")?,
            other => write!(f, "protocol {other} ")?,
        }
        let end = |ip: std::net::IpAddr, port: u16| match key.protocol {
            protocol::TCP | protocol::UDP | protocol::SCTP => std::net::SocketAddr::new(ip, port).to_string(),
            _ => ip.to_string(),
        };
        write!(f, "{} -> {}", end(key.src_ip(), key.src_port), end(key.dst_ip(), key.dst_port))?;
        if key.vid != 0 { write!(f, " vlan {}", key.vid) } else { Ok(()) }
    }
}

/// What the control thread knows of a port's flows.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    flows: HashMap<FlowKey, Entry>,
    /// Asked for by a function that may not, or of two IP versions.
    pub(super) refused: u64,
    /// Found no room.
    pub(super) full: u64,
    /// Wishes of function processes that steer faster than they are served.
    pub(super) unheard: u64,
}

/// A flow, for people.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) to: String,
    pub(super) by: String,
    pub(super) expires: Instant,
    /// Where workers count.
    pub(super) pkts: Arc<AtomicU64>,
}

impl Ledger {
    /// Whether there is room for it, or it is there. Room is made by sweeps, not here: a function that fills the table must
    /// not make each request cost a look at all of it.
    pub(super) fn has_room(&self, key: &FlowKey, most: usize) -> bool {
        self.flows.len() < most || self.flows.contains_key(key)
    }

    /// Notes a flow; one that is there goes on counting.
    pub(super) fn note(&mut self, key: FlowKey, to: &str, by: &str, lifetime: Duration) -> Arc<AtomicU64> {
        let expires = Instant::now() + lifetime;
        let fresh = || Entry { to: String::new(), by: String::new(), expires, pkts: Arc::default() };
        let entry = self.flows.entry(key).or_insert_with(fresh);
        (entry.to, entry.by, entry.expires) = (to.into(), by.into(), expires);
        Arc::clone(&entry.pkts)
    }

    /// Whether another function steers it, which is that one's affair for as long as it lives.
    pub(super) fn is_of_another(&self, key: &FlowKey, by: &str) -> bool {
        self.flows.get(key).is_some_and(|entry| entry.by != by && entry.expires > Instant::now())
    }

    pub(super) fn forget(&mut self, key: &FlowKey) {
        self.flows.remove(key);
    }

    pub(super) fn clear(&mut self) {
        self.flows.clear();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.flows.is_empty()
    }

    /// Forgets those whose time is over.
    pub(super) fn sweep(&mut self) {
        let now = Instant::now();
        self.flows.retain(|_, entry| entry.expires > now);
    }

    /// Those whose time is not over.
    pub(super) fn alive(&self) -> impl Iterator<Item = (&FlowKey, &Entry)> {
        let now = Instant::now();
        self.flows.iter().filter(move |(_, entry)| entry.expires > now)
    }
}

impl Entry {
    pub(super) fn pkts(&self) -> u64 {
        self.pkts.load(Ordering::Relaxed)
    }
}
