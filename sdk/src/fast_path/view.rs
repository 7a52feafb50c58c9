//! What a test sees of a fast path in memory, and how packets meet it there: as in `lookup.h` and `connections.h` in the kernel.

mod connections;

use std::sync::{Arc, Mutex};

use middlenet_fast_path::{
    Action, COUNT_BYTES, Counted, Ends, FlowState, MapKind, NO_RULE, Service, ServiceRule, SettingsOf, Shape, Then,
    flow_key, port_slot, prefix_key, read_flow_key, slot_of,
};
use middlenet_steer::{Flow, Prefix};

use super::core::Core;
use super::difference::{MOST_BITS, shortened};
use super::lock;
use super::rules::settings;
use super::store::{Page, read_all};
use crate::wire::TcpFlags;

/// Bytes of an Ethernet header, and of a VLAN tag.
const ETHERNET_BYTES: u64 = 14;
const VLAN_BYTES: u64 = 4;

/// The fast path of a [`Testkit`](crate::testkit::Testkit): what is installed, and what it does with packets.
///
/// It looks packets up, remembers connections and notes their ends as the program in the kernel does. What is in packets it does
/// not know: TTLs, checksums, and whether a rule fits. Nor does it know the chain: any port and output is there.
#[derive(Debug)]
pub struct View(pub(super) Arc<Mutex<Core>>);

/// What a packet shows, beside its flow.
#[derive(Debug, Clone, Copy)]
struct Shown {
    /// None: as many as fit.
    bytes: Option<u64>,
    flags: TcpFlags,
    /// Its flow, and ports of TCP and UDP.
    flow: bool,
}

/// What it is when nothing is said of it.
const PLAIN: Shown = Shown { bytes: None, flags: TcpFlags(0), flow: true };

/// What a packet was found by.
enum By {
    Flow,
    Service(ServiceRule, u32),
    Rule(u32),
}

impl View {
    /// The flows that count now, with what is done and how they stand, in no particular order.
    pub fn flows(&self) -> Vec<(Flow, Action, FlowState)> {
        let mut core = lock(&self.0);
        let page = if core.shape.flows > 0 { all(&mut core, MapKind::Flows) } else { Page::default() };
        let flows: Vec<Flow> = page.keys.as_chunks().0.iter().filter_map(read_flow_key).collect();
        flows.into_iter().filter_map(|flow| core.query(&flow).map(|(action, state)| (flow, action, state))).collect()
    }

    /// What happens to packets of a flow that begin and end no connection; nothing: they go to the slow path, or to the kernel when
    /// offloading. Changes nothing.
    pub fn decide(&self, flow: &Flow) -> Option<Action> {
        let mut core = lock(&self.0);
        let (by, action) = find(&mut core, flow, PLAIN)?;
        let is_known = !matches!(by, By::Service(..)) || connections::has_place(&mut core, flow, &action);
        is_known.then_some(action)
    }

    /// The same of packets of a flow of TCP or UDP that do not show their ports, as fragments.
    pub fn decide_hidden(&self, flow: &Flow) -> Option<Action> {
        find(&mut lock(&self.0), flow, Shown { flow: false, ..PLAIN }).map(|(_, action)| action)
    }

    /// Lets a packet of a flow through, as [`decide`](Self::decide) says: it is counted, and a connection to a service is
    /// remembered. One of TCP has no flags that begin or end a connection.
    pub fn pass(&self, flow: &Flow, packet_bytes: u64) -> Option<Action> {
        self.pass_tcp(flow, packet_bytes, TcpFlags::ACK)
    }

    /// The same with these flags of TCP: the end of a connection that is tracked is noted in both directions. Of other protocols, they
    /// are nothing.
    pub fn pass_tcp(&self, flow: &Flow, packet_bytes: u64, flags: TcpFlags) -> Option<Action> {
        let mut core = lock(&self.0);
        let flags = if flow.protocol == 6 { flags } else { TcpFlags(0) };
        let (by, action) = find(&mut core, flow, Shown { bytes: Some(packet_bytes), flags, flow: true })?;
        let one = Counted { packets: 1, bytes: packet_bytes };
        match by {
            By::Flow => {
                connections::note_ends(&mut core, flow, &action, flags);
                let now_ns = core.clock.now_ns();
                edit(&mut core, flow, |value| {
                    add(&mut value[88..88 + COUNT_BYTES], one);
                    value[80..88].copy_from_slice(&now_ns.to_ne_bytes());
                });
            }
            By::Service(service, number) => {
                let ends = flags.0 & (TcpFlags::FIN.0 | TcpFlags::RST.0) != 0;
                let goes_on = !matches!(action.then, Then::Drop(_) | Then::SlowPath | Then::Kernel);
                if !ends && goes_on && !connections::learn(&mut core, flow, &service, &action, packet_bytes) {
                    return None;
                }
                count(&mut core, MapKind::RuleCounts, Some(number), one);
            }
            By::Rule(number) => count(&mut core, MapKind::RuleCounts, Some(number), one),
        }
        count(&mut core, MapKind::Classes, action.class.map(u32::from), one);
        Some(action)
    }
}

/// What became of a look-up.
enum Found {
    /// It is known what is done.
    Action(By, Action),
    /// It goes to the slow path, whatever the next matchers say.
    Slow,
    /// The next matcher has its turn.
    Nothing,
}

/// What a packet is found by, and what is done with it.
fn find(core: &mut Core, flow: &Flow, shown: Shown) -> Option<(By, Action)> {
    let mut found = if shown.flow { by_flow(core, flow, shown.flags) } else { Found::Nothing };
    if shown.flow && matches!(found, Found::Nothing) {
        found = by_service(core, flow);
    }
    let (by, action) = match found {
        Found::Action(by, action) => (by, action),
        Found::Slow => return None,
        Found::Nothing => by_rules(core, flow, shown.flow).map(|(number, action)| (By::Rule(number), action))?,
    };
    let headers = ETHERNET_BYTES + if flow.vlan == 0 { 0 } else { VLAN_BYTES };
    let is_larger = action.mtu.zip(shown.bytes).is_some_and(|(mtu, bytes)| bytes > headers + u64::from(mtu));
    let leads_nowhere = matches!(action.then, Then::Drop(64..));
    (!is_larger && !leads_nowhere).then_some((by, action))
}

fn by_flow(core: &mut Core, flow: &Flow, flags: TcpFlags) -> Found {
    let Some(value) = connections::counting(core, flow) else { return Found::Nothing };
    let begins = flags.contains(TcpFlags::SYN) && !flags.contains(TcpFlags::ACK);
    let ends = flags.contains(TcpFlags::FIN) || flags.contains(TcpFlags::RST);
    match connections::ends_of(&value) {
        Ends::ToSlowPath if begins || ends => return Found::Slow,
        // Another connection from the same port.
        Ends::Tracked if begins && FlowState::decode(&value).is_closing => return Found::Nothing,
        _ => {}
    }
    FlowState::action(&value).map_or(Found::Slow, |action| Found::Action(By::Flow, action))
}

fn by_service(core: &mut Core, flow: &Flow) -> Found {
    let service = Service { address: flow.dst, port: flow.dst_port, protocol: flow.protocol };
    // A mapped address in a packet of IPv6 is none of IPv4.
    let is_mapped = flow.dst.is_ipv6() && flow.dst.to_canonical().is_ipv4();
    if !has(&core.shape, MapKind::Services) || port_slot(flow.protocol, flow.dst_port).is_none() || is_mapped {
        return Found::Nothing;
    }
    let value = get(core, MapKind::Services, &service.encode());
    let Some(rule) = value.and_then(|value| Some(ServiceRule::decode(value.first_chunk()?))) else {
        return Found::Nothing;
    };
    if rule.count == 0 {
        return Found::Slow;
    }
    let slot = rule.first + slot_of(flow.src, flow.src_port, rule.count);
    let number = get(core, MapKind::Slots, &slot.to_ne_bytes()).map(|value| word(&value));
    let found = number.and_then(|number| Some((number, action(core, number)?)));
    found.map_or(Found::Slow, |(number, action)| Found::Action(By::Service(rule, number), action))
}

/// The lowest rule that matches, with its number in the map.
fn by_rules(core: &mut Core, flow: &Flow, shows_ports: bool) -> Option<(u32, Action)> {
    let shape = core.shape;
    let mut lowest = NO_RULE;
    for (kind, address) in [(MapKind::SrcPrefixes, flow.src), (MapKind::DstPrefixes, flow.dst)] {
        if has(&shape, kind) {
            let key = prefix_key(&Prefix::from(address));
            let found = (0..=MOST_BITS).rev().find_map(|bits| get(core, kind, &shortened(&key, bits)));
            lowest = found.map_or(lowest, |value| lowest.min(word(&value)));
        }
    }
    for (kind, port) in [(MapKind::SrcPorts, flow.src_port), (MapKind::DstPorts, flow.dst_port)] {
        let slot = port_slot(flow.protocol, port).filter(|_| shows_ports && has(&shape, kind));
        let found = slot.and_then(|slot| get(core, kind, &slot.to_ne_bytes()));
        let number = found.and_then(|value| word(&value).checked_sub(1));
        lowest = number.map_or(lowest, |number| lowest.min(number));
    }
    let found = if has(&shape, MapKind::Rules) { action(core, lowest) } else { None };
    let first = settings(&mut *core.store, SettingsOf::Rules).expect("settings in memory").first_port_rule;
    let might = |action: &Action| shows_ports || first == 0 || first > lowest || matches!(action.then, Then::Drop(_));
    found.filter(might).map(|action| (lowest, action))
}

fn all(core: &mut Core, kind: MapKind) -> Page {
    read_all(&mut *core.store, kind).expect("a map in memory")
}

fn get(core: &mut Core, kind: MapKind, key: &[u8]) -> Option<Vec<u8>> {
    core.store.get(kind, key).expect("a map in memory")
}

fn edit(core: &mut Core, flow: &Flow, change: impl FnOnce(&mut [u8])) {
    let Some(key) = flow_key(flow) else { return };
    if let Some(mut value) = get(core, MapKind::Flows, &key) {
        change(&mut value);
        core.store.put(MapKind::Flows, &key, &value).1.expect("a flow in memory");
    }
}

fn add(words: &mut [u8], more: Counted) {
    let sum = Counted::sum(words);
    words[..8].copy_from_slice(&(sum.packets + more.packets).to_ne_bytes());
    words[8..16].copy_from_slice(&(sum.bytes + more.bytes).to_ne_bytes());
}

fn count(core: &mut Core, kind: MapKind, at: Option<u32>, more: Counted) {
    let Some(key) = at.map(u32::to_ne_bytes).filter(|_| has(&core.shape, kind)) else { return };
    if let Some(mut value) = get(core, kind, &key) {
        add(&mut value, more);
        core.store.put(kind, &key, &value).1.expect("a count in memory");
    }
}

fn has(shape: &Shape, kind: MapKind) -> bool {
    shape.maps().any(|map| map == kind)
}

fn action(core: &mut Core, number: u32) -> Option<Action> {
    let value: [u8; Action::BYTES] = get(core, MapKind::Rules, &number.to_ne_bytes())?.try_into().ok()?;
    Action::decode(&value)
}

fn word(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}

#[cfg(test)]
mod tests;
