//! `monitor`: counts packets and bytes per flow and passes everything on untouched.
//!
//! A flow is one direction of a conversation: addresses, ports, protocol and outermost VLAN (see
//! [`FlowKey`]). The report shows the flows that moved the most bytes, with their rates.
//!
//! ```yaml
//! - monitor: { max_flows: 65536, idle_s: 60, top: 10 }
//! ```
//!
//! **Bounds.** The table's memory is fixed at start. A new flow whose places are all taken displaces the one among them that
//! was silent longest (counted as `evicted`), so a flood of short flows costs old ones their history, never memory. Rates are
//! measured between two visits of a sweep that passes the table about once a second.
//!
//! Counters: `bytes` (whole frames, without FCS), and packets by kind: `tcp`, `udp`, `icmp`, `other-ip`, `not-ip` (ARP and
//! anything else that is no IP), `malformed` (passed on too: judging is a firewall's task); `new-flows`, `expired`,
//! `evicted`; gauge `flows`.
//!
//! Limits: fragments after the first count under a flow with ports 0; what tunnels carry is not looked into.

mod flows;

use flows::{Flow, Flows, Found};
use middlenet_sdk::BURST;
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::{FlowKey, Layers, protocol};
use serde_json::{Value, json};
use std::time::Duration;

/// Largest table in flows, 128 bytes each.
const MAX_FLOWS: u32 = 1 << 22;
/// Most flows a report shows.
const MAX_TOP: u16 = 1000;

/// Configuration of `monitor`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most flows known at a time; rounded up to a power of two.
    pub max_flows: u32,
    /// After how many seconds without a packet a flow is forgotten.
    pub idle_s: u32,
    /// Flows shown in the report.
    pub top: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_flows: 65536, idle_s: 60, top: 10 }
    }
}

/// The function; see the module's documentation.
pub struct Monitor {
    flows: Flows,
    top: usize,
    last: Duration,
    bytes: Counter,
    by_kind: [Counter; KINDS.len()],
    new_flows: Counter,
    expired: Counter,
    evicted: Counter,
    size: Counter,
}

/// Names and meanings of the packet counters, in the order of [`kind`].
const KINDS: [(&str, &str); 6] = [
    ("tcp", "TCP packets"),
    ("udp", "UDP packets"),
    ("icmp", "ICMP and ICMPv6 packets"),
    ("other-ip", "IP packets of other protocols"),
    ("not-ip", "frames that carry no IP"),
    ("malformed", "frames whose headers contradict themselves"),
];
const NOT_IP: usize = 4;
const MALFORMED: usize = 5;

/// What a place for a key holds before it holds one.
const NO_KEY: FlowKey =
    FlowKey { src: [0; 16], dst: [0; 16], src_port: 0, dst_port: 0, vid: 0, protocol: 0, is_ipv6: false };

fn kind(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 0,
        protocol::UDP => 1,
        protocol::ICMPV4 | protocol::ICMPV6 => 2,
        _ => 3,
    }
}

impl NetworkFunction for Monitor {
    type Config = Config;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if !(1..=MAX_FLOWS).contains(&config.max_flows) {
            return Err(ConfigError::new(format!("`max_flows` must be from 1 to {MAX_FLOWS}")));
        }
        if config.top > MAX_TOP {
            return Err(ConfigError::new(format!("`top` may be {MAX_TOP} at most"))
                .with_hint("a report is meant to be read; capture flows with another tool"));
        }
        if config.idle_s == 0 {
            return Err(ConfigError::new("`idle_s` is 0, so no flow would be remembered").with_hint("60 is usual"));
        }
        Ok(Self {
            flows: Flows::new(config.max_flows as usize, Duration::from_secs(config.idle_s.into())),
            top: config.top.into(),
            last: Duration::ZERO,
            bytes: init.counter("bytes", "bytes of all packets, without FCS"),
            by_kind: KINDS.map(|(name, help)| init.counter(name, help)),
            new_flows: init.counter("new-flows", "flows that entered the table"),
            expired: init.counter("expired", "flows forgotten after silence"),
            evicted: init.counter("evicted", "flows displaced by new ones before they were silent for long"),
            size: init.gauge("flows", "flows in the table"),
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        self.last = burst.now();
        let mut start = 0;
        while start < burst.len() {
            start += self.process_some(burst, start);
        }
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        self.last = burst.now();
        self.expired.add(self.flows.sweep(self.flows.capacity().div_ceil(10), self.last));
        self.size.set(self.flows.len() as u64);
    }

    fn inherit(&mut self, previous: Self) {
        self.last = previous.last;
        for flow in previous.flows.iter() {
            self.flows.adopt(flow);
        }
        self.size.set(self.flows.len() as u64);
    }

    fn report(&self) -> Value {
        let top: Vec<Value> = self.flows.top(self.top).into_iter().map(|flow| self.show(flow)).collect();
        json!({ "flows": self.flows.len(), "capacity": self.flows.capacity(), "top_talkers": top })
    }
}

impl Monitor {
    /// Up to [`BURST`] packets from `start` on: first all keys, then all places in the table, then the counts, so that the
    /// memory accesses of one packet overlap with those of the others. Returns how many packets that were.
    fn process_some(&mut self, burst: &mut Burst<'_>, start: usize) -> usize {
        let mut keys = [NO_KEY; BURST];
        let mut found = [Found::default(); BURST];
        let mut kinds = [0u64; KINDS.len()];
        let (mut bytes, mut count, mut keyed) = (0, 0, 0);
        for packet in burst.iter_mut().skip(start).take(BURST) {
            let frame = packet.data();
            count += 1;
            bytes += frame.len() as u64;
            let kind = match FlowKey::parse(frame) {
                Some(key) => {
                    let hash = self.flows.hash(&key);
                    self.flows.touch(hash);
                    keys[keyed] = key;
                    found[keyed] = Found { hash, bytes: frame.len() as u32, place: 0 };
                    keyed += 1;
                    kind(key.protocol)
                }
                None if Layers::parse(frame).is_ok_and(|layers| !layers.is_ip()) => NOT_IP,
                None => MALFORMED,
            };
            kinds[kind] += 1;
        }
        for found in &mut found[..keyed] {
            found.place = self.flows.locate(found.hash);
        }
        for (key, found) in keys[..keyed].iter().zip(&found[..keyed]) {
            if let Some(displaced) = self.flows.add(key, *found, self.last) {
                self.new_flows.inc();
                match displaced {
                    flows::Displaced::Nothing => {}
                    flows::Displaced::Idle => self.expired.inc(),
                    flows::Displaced::Live => self.evicted.inc(),
                }
            }
        }
        self.bytes.add(bytes);
        for (counter, packets) in self.by_kind.iter().zip(kinds) {
            if packets > 0 {
                counter.add(packets);
            }
        }
        count
    }

    fn show(&self, flow: &Flow) -> Value {
        let ago = |then: Duration| self.last.saturating_sub(then).as_secs_f64();
        json!({
            "src": flow.key.src_ip(), "dst": flow.key.dst_ip(),
            "src_port": flow.key.src_port, "dst_port": flow.key.dst_port,
            "protocol": flow.key.protocol, "vlan": flow.key.vid,
            "packets": flow.packets, "bytes": flow.bytes,
            "rate_pps": flow.rate_pps, "rate_bps": flow.rate_bps,
            "first_seen_s_ago": ago(flow.first), "last_seen_s_ago": ago(flow.last),
        })
    }
}

#[cfg(test)]
mod tests;
