//! What a test sees of a fast path in memory, and how packets meet it there.

use std::sync::{Arc, Mutex};

use middlenet_fast_path::{
    Action, COUNT_BYTES, Counted, Ends, FLOW_BYTES, FlowRule, FlowState, MapKind, NO_RULE, Service, ServiceRule, Shape,
    Then, flow_key, port_slot, prefix_key, read_flow_key, slot_of,
};
use middlenet_steer::{Flow, Prefix};
use std::time::Duration;

use super::core::Core;
use super::difference::{MOST_BITS, shortened};
use super::lock;
use super::store::{Page, read_all};

/// The fast path of a [`Testkit`](crate::testkit::Testkit): what is installed, and what it does with packets.
#[derive(Debug)]
pub struct View(pub(super) Arc<Mutex<Core>>);

impl View {
    /// The flows that count now, with what is done and how they stand, in no particular order.
    pub fn flows(&self) -> Vec<(Flow, Action, FlowState)> {
        let mut core = lock(&self.0);
        let page = if core.shape.flows > 0 { all(&mut core, MapKind::Flows) } else { Page::default() };
        let flows: Vec<Flow> = page.keys.as_chunks().0.iter().filter_map(read_flow_key).collect();
        flows.into_iter().filter_map(|flow| core.query(&flow).map(|(action, state)| (flow, action, state))).collect()
    }

    /// What happens to packets of a flow; nothing: they go to the slow path, or to the kernel when offloading. Changes nothing.
    pub fn decide(&self, flow: &Flow) -> Option<Action> {
        let mut core = lock(&self.0);
        if let Some((action, _)) = core.query(flow) {
            return Some(action);
        }
        match service(&mut core, flow) {
            Some(server) => server.map(|(_, _, action)| action),
            None => rule(&mut core, flow).map(|(_, action)| action),
        }
    }

    /// Lets a packet of a flow through, as [`decide`](Self::decide) says: it is counted, and a connection to a service is
    /// remembered.
    pub fn pass(&self, flow: &Flow, packet_bytes: u64) -> Option<Action> {
        let mut core = lock(&self.0);
        let one = Counted { packets: 1, bytes: packet_bytes };
        if let Some((action, _)) = core.query(flow) {
            let now_ns = core.clock.now_ns();
            edit(&mut core, flow, |value| {
                add(&mut value[88..88 + COUNT_BYTES], one);
                value[80..88].copy_from_slice(&now_ns.to_ne_bytes());
            });
            count(&mut core, MapKind::Classes, action.class.map(u32::from), one);
            return Some(action);
        }
        let action = match service(&mut core, flow) {
            Some(server) => {
                let (service, idle, action) = server?;
                remember(&mut core, flow, &service, idle, action);
                action
            }
            None => {
                let (number, action) = rule(&mut core, flow)?;
                count(&mut core, MapKind::RuleCounts, Some(number), one);
                action
            }
        };
        count(&mut core, MapKind::Classes, action.class.map(u32::from), one);
        Some(action)
    }

    /// Closes the connection of a flow, as FIN in both directions or RST do to one that is tracked.
    pub fn close(&self, flow: &Flow) {
        edit(&mut lock(&self.0), flow, |value| value[109] |= 4);
    }
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

/// The service that a packet is for, how long a connection to it may be idle, and what is done. Inside: nothing if it has no slots.
type Served = (Service, Duration, Action);

fn service(core: &mut Core, flow: &Flow) -> Option<Option<Served>> {
    let service = Service { address: flow.dst, port: flow.dst_port, protocol: flow.protocol };
    if !has(&core.shape, MapKind::Services) || port_slot(flow.protocol, flow.dst_port).is_none() {
        return None;
    }
    let value = get(core, MapKind::Services, &service.encode())?;
    let rule = ServiceRule::decode(value[..].try_into().ok()?);
    if rule.count == 0 {
        return Some(None);
    }
    let slot = rule.first + slot_of(flow.src, flow.src_port, rule.count);
    let number = get(core, MapKind::Slots, &slot.to_ne_bytes()).map(|value| word(&value));
    Some(number.and_then(|number| action(core, number)).map(|action| (service, rule.idle, action)))
}

/// Installs a connection to a service in both directions.
fn remember(core: &mut Core, flow: &Flow, service: &Service, idle: Duration, there: Action) {
    let rule = |action| FlowRule { action, lifetime: Duration::MAX, idle: Some(idle), ends: Ends::Tracked };
    let mut back = Action { then: Then::Next, ..Action::default() };
    (back.rewrite.src, back.rewrite.src_port) = (Some(service.address), Some(service.port));
    let reply = Flow {
        src: there.rewrite.dst.unwrap_or(flow.dst),
        src_port: there.rewrite.dst_port.unwrap_or(flow.dst_port),
        dst: flow.src,
        dst_port: flow.src_port,
        ..*flow
    };
    let now_ns = core.clock.now_ns();
    for (flow, action) in [(flow, there), (&reply, back)] {
        let value: [u8; FLOW_BYTES] = rule(action).encode(now_ns, 0);
        if let Some(key) = flow_key(flow) {
            core.store.put(MapKind::Flows, &key, &value).1.expect("a flow in memory");
        }
    }
}

/// The lowest rule that matches, with its number in the map.
fn rule(core: &mut Core, flow: &Flow) -> Option<(u32, Action)> {
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
        let slot = port_slot(flow.protocol, port).filter(|_| has(&shape, kind));
        let found = slot.and_then(|slot| get(core, kind, &slot.to_ne_bytes()));
        let number = found.and_then(|value| word(&value).checked_sub(1));
        lowest = number.map_or(lowest, |number| lowest.min(number));
    }
    let found = if has(&shape, MapKind::Rules) { action(core, lowest) } else { None };
    found.map(|action| (lowest, action))
}

fn word(value: &[u8]) -> u32 {
    value.first_chunk().map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
