//! Statistics of flows, by both paths.
//!
//! **Purpose.** Counts packets and bytes of each flow, one direction of a conversation. The first packet of a flow comes here; the
//! fast path counts the others in the kernel, and what both counted is added up. Packets pass untouched.
//!
//! **Configuration** (see [`Config`] for all of it):
//!
//! ```yaml
//! flow-stats:
//!   mode: reactive                     # without it all packets come here
//!   config: { max_flows: 65536, idle_s: 60, top: 10, file: /var/log/middlenet/flows.log }
//! ```
//!
//! **Flows** are told apart by addresses, ports (the identifier of ICMP echo), protocol and the outermost VLAN tag. One ends after
//! `idle_s` without a packet, two seconds after its last packet once TCP has closed or reset it, or when the table is full and it is the
//! one not seen for longest. Fragments are never counted in the kernel; those after the first are a flow with ports 0.
//!
//! **The log** has a line, a JSON object, for each flow that ended:
//!
//! | field | what |
//! |---|---|
//! | `first`, `last` | when its first and its last packet came, UTC; `last` is at most a round of the table late |
//! | `src`, `dst`, `src_port`, `dst_port`, `protocol`, `vlan` | the flow |
//! | `packets`, `bytes` | whole frames, by both paths |
//! | `fast_packets`, `fast_bytes` | of these, the fast path's |
//! | `end` | `idle`, `closed`, `evicted`, `stopped` (the function) |
//!
//! It is written like that of [`access_log`](crate::access_log): the function never waits for it, and a file that was renamed is begun anew.
//!
//! **The report** has totals by protocol, exact at any time, and the `top` flows by bytes. The fast path is one for all replicas and workers:
//! what it counted is in the report of each.
//!
//! **Ageing.** A round of the table takes about a second, or 512 flows of the fast path a tick if those are more. A process that
//! stops takes its flows out of the fast path. What that still has of one that has died, or of flows that the table gave up, is counted
//! when it ends: by a FIN or RST, or by silence.
//!
//! **Counters.** Packets that came here, by kind: `tcp`, `udp`, `icmp`, `other-ip`, `not-ip`, `malformed`; `bytes` of all;
//! `new-flows`, `ended`, `evicted`; `log-dropped`, `write-errors`, `reopened`, `reopen-failed` of the log; gauge `flows`.
//!
//! **Limits.** 4,194,304 flows, of which 65,536 in the fast path at a time. What the kernel counts of a flow between the last look and
//! its giving the flow up for a newer one is in the totals, but not in the flow.

mod flow;
mod log;
#[cfg(test)]
mod tests;

use crate::flow_table::{Class, FlowTable, Key, Probe};
use crate::log_file::{self, Queue, WallClock};
use flow::{End, Flow};
use log::Log;
use middlenet_sdk::fast_path::{self, Action, Ends, FastPath, FlowRule, Mode, Shape, Then};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::{TcpFlags, protocol};
use serde_json::{Value, json};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// Largest table in flows.
const MAX_FLOWS: usize = 1 << 22;
/// Flows in the fast path at a time.
const FAST_FLOWS: u32 = 1 << 16;
/// Most flows a report shows.
const MAX_TOP: u16 = 256;
/// Flows of the fast path that one tick asks the kernel about.
const QUERIES: usize = 512;
/// Slots of the table, and entries of the fast path, that one tick looks at.
const VISITS: usize = 4096;
/// How long a closed flow is waited for.
const CLOSED: Duration = Duration::from_secs(2);
/// A packet that comes here so long after its flow was put into the fast path says that the flow is no longer there.
const SETTLED: Duration = Duration::from_secs(1);

/// Configuration of `flow-stats`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Most flows known at a time.
    pub max_flows: usize,
    /// After how many seconds without a packet a flow ends.
    pub idle_s: u32,
    /// Flows shown in the report.
    pub top: u16,
    /// The file to which a line is appended for each flow that ended; `stdout` and `stderr` are the process's own.
    #[schemars(extend("x-middlenet-file" = "write"))]
    pub file: Option<String>,
    /// KiB of lines that may wait for the writer.
    pub queue_kib: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_flows: 65_536, idle_s: 60, top: 10, file: None, queue_kib: 1024 }
    }
}

/// Names and meanings of the packet counters; the first four are classes of the fast path, too.
const KINDS: [(&str, &str); 6] = [
    ("tcp", "TCP packets that came here"),
    ("udp", "UDP packets that came here"),
    ("icmp", "ICMP and ICMPv6 packets that came here"),
    ("other-ip", "IP packets of other protocols that came here"),
    ("not-ip", "frames that carry no IP"),
    ("malformed", "frames whose headers contradict themselves"),
];
const CLASSES: usize = 4;
const NOT_IP: usize = 4;
const MALFORMED: usize = 5;

fn kind(protocol: u8) -> usize {
    match protocol {
        protocol::TCP => 0,
        protocol::UDP => 1,
        protocol::ICMPV4 | protocol::ICMPV6 => 2,
        _ => 3,
    }
}

/// The function; see the module's documentation.
pub struct FlowStats {
    table: FlowTable<Flow>,
    idle: Duration,
    top: usize,
    /// The time of the last burst.
    now: Duration,
    fast_path: FastPath,
    is_fast: bool,
    log: Option<Log>,
    /// Bytes of packets that came here, by class.
    slow_bytes: [u64; CLASSES],
    counters: Counters,
}

struct Counters {
    kinds: [Counter; KINDS.len()],
    bytes: Counter,
    new_flows: Counter,
    ended: Counter,
    evicted: Counter,
    log_dropped: Counter,
    write_errors: Counter,
    reopened: Counter,
    reopen_failed: Counter,
    flows: Counter,
}

impl NetworkFunction for FlowStats {
    type Config = Config;

    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(FAST_FLOWS).classes(CLASSES as u32);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if !(1..=MAX_FLOWS).contains(&config.max_flows) {
            return Err(ConfigError::new(format!("`max_flows` must be from 1 to {MAX_FLOWS}"))
                .with_hint("a flow takes about 200 bytes"));
        }
        if config.top > MAX_TOP {
            return Err(ConfigError::new(format!("`top` may be {MAX_TOP} at most"))
                .with_hint("a report is meant to be read; all flows are in the log (`file`)"));
        }
        if config.idle_s == 0 {
            return Err(ConfigError::new("`idle_s` is 0, so no flow would be remembered").with_hint("60 is usual"));
        }
        if !(64..=1 << 20).contains(&config.queue_kib) {
            return Err(ConfigError::new(format!(
                "`queue_kib` of {} is not between 64 and {}",
                config.queue_kib,
                1 << 20
            )));
        }
        let destination = config.file.as_deref().map(log_file::destination).transpose()?;
        let log = match destination.filter(|_| !init.is_trial()) {
            Some(destination) => {
                let queue = Queue::new("flow-stats", destination, config.queue_kib)?;
                Some(Log { queue, clock: WallClock::default() })
            }
            None => None,
        };
        let fast_path = init.fast_path();
        Ok(Self {
            table: FlowTable::new(if init.is_trial() { 1 } else { config.max_flows }),
            idle: Duration::from_secs(config.idle_s.into()),
            top: config.top.into(),
            now: Duration::ZERO,
            is_fast: fast_path.is_active(),
            fast_path,
            log,
            slow_bytes: [0; CLASSES],
            counters: Counters {
                kinds: KINDS.map(|(name, help)| init.counter(name, help)),
                bytes: init.counter("bytes", "bytes of all packets that came here, without FCS"),
                new_flows: init.counter("new-flows", "flows that entered the table"),
                ended: init.counter("ended", "flows that ended, for whatever reason"),
                evicted: init.counter("evicted", "flows that made room for newer ones"),
                log_dropped: init.counter("log-dropped", "lines dropped because too many waited for the writer"),
                write_errors: init.counter("write-errors", "lines that could not be written"),
                reopened: init.counter("reopened", "times the file was opened anew after a rotation"),
                reopen_failed: init.counter("reopen-failed", "times it could not be, so that the old one was kept"),
                flows: init.gauge("flows", "flows in the table"),
            },
        })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        self.now = burst.now();
        for packet in burst.iter_mut() {
            let probe = Probe::of(packet.data());
            self.count(&probe, packet.len() as u64);
        }
    }

    fn tick(&mut self, burst: &mut Burst<'_>) {
        self.now = burst.now();
        self.take_ended();
        self.look();
        self.counters.flows.set(self.table.len() as u64);
        if let Some(log) = &mut self.log {
            log.clock.set(self.now);
            log.queue.flush();
            let seen = log.queue.seen();
            self.counters.write_errors.add(seen.write_errors);
            self.counters.reopened.add(seen.reopened);
            self.counters.reopen_failed.add(seen.reopen_failed);
        }
    }

    fn inherit(&mut self, mut previous: Self) {
        let none = FlowTable::new(1);
        let flows = std::mem::replace(&mut previous.table, none);
        if flows.capacity() <= self.table.capacity() {
            self.table.take_over(flows, 0);
        } else {
            // What does not fit ends here, and is in the log.
            for (_, entry) in flows.entries() {
                self.make_room();
                self.insert(*entry.key(), entry.value);
            }
        }
        (self.now, self.slow_bytes) = (previous.now, previous.slow_bytes);
        if let (Some(log), Some(old)) = (&mut self.log, previous.log.take()) {
            log.queue.inherit(old.queue);
        }
    }

    fn report(&self) -> Value {
        let totals = (0..CLASSES).map(|class| {
            let fast = self.fast_path.class_counts(class as u16);
            let packets = self.counters.kinds[class].get() + fast.packets;
            let total = json!({
                "packets": packets, "bytes": self.slow_bytes[class] + fast.bytes, "fast_packets": fast.packets,
            });
            (KINDS[class].0.to_owned(), total)
        });
        json!({
            "flows": self.table.len(),
            "capacity": self.table.capacity(),
            "totals": totals.collect::<serde_json::Map<_, _>>(),
            "top_flows": self.top_flows(),
        })
    }
}

impl FlowStats {
    #[inline]
    fn count(&mut self, probe: &Probe, bytes: u64) {
        self.counters.bytes.add(bytes);
        let kind = match probe.class {
            Class::Flow | Class::LaterFragment => kind(probe.key.protocol()),
            Class::Arp | Class::NotIp => NOT_IP,
            Class::Malformed => MALFORMED,
        };
        self.counters.kinds[kind].inc();
        let Some(class_bytes) = self.slow_bytes.get_mut(kind) else { return };
        *class_bytes += bytes;
        let (key, now) = (probe.key, self.now);
        let hash = self.table.seed().hash(&key);
        let flags = TcpFlags(probe.tcp_flags);
        let mut slot = self.table.find(hash, &key, 0);
        // A SYN after the end begins another conversation.
        if flags.opens() && slot.and_then(|slot| self.table.get(slot)).is_some_and(|entry| entry.value.closed) {
            self.end(slot.take(), End::Closed);
        }
        let slot = match slot {
            Some(slot) => slot,
            None => {
                self.counters.new_flows.inc();
                self.make_room();
                match self.insert(key, Flow::begin(now)) {
                    Some(slot) => slot,
                    None => return,
                }
            }
        };
        self.table.renew(slot);
        let Some(entry) = self.table.get_mut(slot) else { return };
        let flow = &mut entry.value;
        flow.count(bytes, now);
        if flags.fin() || flags.rst() {
            flow.closed = true;
            if flow.slow.packets == 1 && self.is_fast {
                // It began in an earlier process, which may have left it in the fast path.
                flow.install(now);
            }
            self.leave_fast_path(slot);
        } else if probe.class == Class::Flow
            && !probe.first_fragment
            && !flow.closed
            && self.is_fast
            && flow.installed.is_none_or(|at| now.saturating_sub(at) >= SETTLED)
        {
            self.install(slot, kind);
        }
    }

    /// Has the fast path count a flow from here on, if it does not yet.
    #[cold]
    fn install(&mut self, slot: u32, class: usize) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        let key = fast_path::Flow::from(entry.key());
        let flow = &mut entry.value;
        if flow.installed.is_some()
            && let Some(entry) = self.fast_path.entry(&key)
        {
            flow.fold(&entry.state, self.now);
            if !entry.is_over {
                // Packets like this one never match there, or it was on its way.
                flow.installed = Some(self.now);
                return;
            }
        }
        let rule = FlowRule {
            action: Action { then: Then::Next, class: Some(class as u16), ..Action::default() },
            lifetime: Duration::MAX,
            idle: Some(self.idle),
            ends: if class == 0 { Ends::ToSlowPath } else { Ends::Ignored },
        };
        self.fast_path.install(&key, &rule);
        flow.install(self.now);
    }

    /// Takes a flow out of the fast path, and what that has counted with it.
    fn leave_fast_path(&mut self, slot: u32) {
        let Some(entry) = self.table.get_mut(slot) else { return };
        if entry.value.installed.take().is_none() {
            return;
        }
        let key = fast_path::Flow::from(entry.key());
        if let Some(fast) = self.fast_path.entry(&key) {
            entry.value.fold(&fast.state, self.now);
        } else if self.fast_path.has_successor() {
            entry.value.disown();
        }
        self.fast_path.remove(&key);
    }

    fn insert(&mut self, key: Key, flow: Flow) -> Option<u32> {
        let hash = self.table.seed().hash(&key);
        // The end is decided here, not by the table: all are in its list, the one not seen for longest first.
        self.table.insert(hash, key, flow, u64::MAX, 0, true)
    }

    fn make_room(&mut self) {
        if self.table.is_full() {
            self.end(self.table.oldest_unanswered(), End::Evicted);
        }
    }

    fn end(&mut self, slot: Option<u32>, end: End) {
        let Some(slot) = slot else { return };
        self.leave_fast_path(slot);
        let Some(key) = self.table.get(slot).map(|entry| *entry.key()) else { return };
        if let Some(flow) = self.table.remove(slot) {
            self.counters.evicted.add(u64::from(end == End::Evicted));
            self.ended(&key, &flow, end);
        }
    }

    fn ended(&mut self, key: &Key, flow: &Flow, end: End) {
        self.counters.ended.inc();
        if let Some(log) = &mut self.log
            && !log.write(key, flow, end)
        {
            self.counters.log_dropped.inc();
        }
    }

    /// Flows that the fast path has let go of.
    fn take_ended(&mut self) {
        let mut over = Vec::new();
        let fast_path = self.fast_path.clone();
        fast_path.sweep(VISITS, &mut |flow, state| over.push((Key::from(flow), *state)));
        for (key, state) in over {
            let slot = self.table.find(self.table.seed().hash(&key), &key, 0);
            if let Some(entry) = slot.and_then(|slot| self.table.get_mut(slot)) {
                let last = entry.value.last;
                entry.value.fold(&state, self.now);
                // It has been silent for long: this is not when its last packet came.
                (entry.value.last, entry.value.installed) = (last, None);
            } else {
                // Of an earlier process.
                let mut flow = Flow::begin(self.now);
                flow.fold(&state, self.now);
                self.ended(&key, &flow, End::Idle);
            }
        }
    }

    /// Looks at some more of the table: what the fast path has counted, and what is over.
    fn look(&mut self) {
        let (mut visits, mut queries) = (self.table.high_water().div_ceil(10).clamp(64, VISITS), 0);
        visits = visits.min(self.table.high_water());
        for _ in 0..visits {
            let slot = self.table.next_slot();
            let Some(entry) = self.table.get_mut(slot) else { continue };
            if entry.value.installed.is_some() {
                queries += 1;
                if let Some(fast) = self.fast_path.entry(&entry.key().into()) {
                    entry.value.fold(&fast.state, self.now);
                } else {
                    entry.value.installed = None;
                }
            }
            let over = entry.value.over(self.now, self.idle, CLOSED);
            if let Some(end) = over {
                self.end(Some(slot), end);
            }
            if queries >= QUERIES {
                break;
            }
        }
    }

    /// The flows with the most bytes, most first; what the fast path has counted since the last look included.
    fn top_flows(&self) -> Vec<Value> {
        let mut most = BinaryHeap::with_capacity(self.top + 1);
        for (slot, entry) in self.table.entries() {
            most.push(Reverse((entry.value.total().bytes, slot)));
            if most.len() > self.top {
                most.pop();
            }
        }
        let shown = most.into_sorted_vec().into_iter().filter_map(|Reverse((_, slot))| {
            let entry = self.table.get(slot)?;
            let mut flow = entry.value;
            let key = fast_path::Flow::from(entry.key());
            if flow.installed.is_some()
                && let Some(fast) = self.fast_path.entry(&key)
            {
                flow.fold(&fast.state, self.now);
            }
            let (total, ago) = (flow.total(), |then: Duration| self.now.saturating_sub(then).as_secs_f64());
            Some(json!({
                "src": key.src, "dst": key.dst, "src_port": key.src_port, "dst_port": key.dst_port,
                "protocol": key.protocol, "vlan": key.vlan,
                "packets": total.packets, "bytes": total.bytes,
                "fast_packets": flow.fast.packets, "fast_bytes": flow.fast.bytes,
                "first_seen_s_ago": ago(flow.first), "last_seen_s_ago": ago(flow.last),
            }))
        });
        shown.collect()
    }
}

impl Drop for FlowStats {
    fn drop(&mut self) {
        for slot in 0..self.table.high_water() as u32 {
            self.end(Some(slot), End::Stopped);
        }
        // Nobody else does it now. What stayed would be told of once more by the next process.
        self.fast_path.flush();
    }
}
