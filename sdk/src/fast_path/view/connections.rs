//! Connections that a fast path in memory remembers by itself, and how it notes their ends: `connections.h`, on the bytes of the map, since
//! what is not written into packets counts there, too.

use std::ops::Range;
use std::time::Duration;

use middlenet_fast_path::{
    Action, Ends, FLOW_BYTES, FlowRule, FlowState, KEY_BYTES, MapKind, Service, ServiceRule, flow_key, read_flow_key,
};
use middlenet_steer::Flow;

use super::{edit, get, has};
use crate::fast_path::core::Core;
use crate::wire::TcpFlags;

/// How long connections that end are remembered if no service says so.
const CLOSING: Duration = Duration::from_secs(10);

/// `fast_flow.seen`.
const FIN: u8 = 1;
const PEER_FIN: u8 = 2;
const RST: u8 = 4;

/// Of `struct steer_key`.
const KEY_SRC: Range<usize> = 0..16;
const KEY_DST: Range<usize> = 16..32;
const KEY_SRC_PORT: Range<usize> = 32..34;
const KEY_DST_PORT: Range<usize> = 34..36;

/// Of `struct fast_flow`.
const THEN: usize = 0;
const REWRITE: usize = 2;
const SRC_PORT: Range<usize> = 20..22;
const DST_PORT: Range<usize> = 22..24;
const SRC: Range<usize> = 24..40;
const DST: Range<usize> = 40..56;
const MTU: Range<usize> = 56..58;
const IDLE: Range<usize> = 72..80;
const COUNTS: Range<usize> = 88..104;
const ENDS: usize = 108;
const SEEN: usize = 109;

/// `fast_action.then` of what is answered.
const REPLY: u8 = 2;

/// Bits of `fast_action.rewrite`, and what each becomes in the other direction.
const LOWER_TTL: u8 = 32;
const TURNED: [(u8, u8); 4] = [(2, 4), (4, 2), (8, 16), (16, 8)];

/// Where what is written lies in a key, by the same bits.
const WRITTEN: [(u8, Range<usize>, Range<usize>); 4] =
    [(2, KEY_SRC, SRC), (4, KEY_DST, DST), (8, KEY_SRC_PORT, SRC_PORT), (16, KEY_DST_PORT, DST_PORT)];

type Key = [u8; KEY_BYTES];
type Value = [u8; FLOW_BYTES];

/// A flow that is there and not over.
pub(super) fn counting(core: &mut Core, flow: &Flow) -> Option<Value> {
    let key = flow_key(flow).filter(|_| has(&core.shape, MapKind::Flows))?;
    counting_at(core, &key)
}

fn counting_at(core: &mut Core, key: &Key) -> Option<Value> {
    let value: Value = get(core, MapKind::Flows, key)?.try_into().ok()?;
    let (now_ns, generation) = (core.clock.now_ns(), core.generation());
    (!FlowState::decode(&value).is_over(now_ns, generation)).then_some(value)
}

/// What ends do to a flow.
pub(super) fn ends_of(value: &Value) -> Ends {
    match value[ENDS] {
        0 => Ends::Ignored,
        1 => Ends::ToSlowPath,
        _ => Ends::Tracked,
    }
}

fn reversed(key: &Key) -> Key {
    let mut back = *key;
    back[KEY_SRC].copy_from_slice(&key[KEY_DST]);
    back[KEY_DST].copy_from_slice(&key[KEY_SRC]);
    back[KEY_SRC_PORT].copy_from_slice(&key[KEY_DST_PORT]);
    back[KEY_DST_PORT].copy_from_slice(&key[KEY_SRC_PORT]);
    back
}

/// The key of a packet that an action has been carried out on.
fn rewritten(key: &Key, action: &Action) -> Key {
    let (mut after, action) = (*key, action.encode());
    for (bit, to, from) in WRITTEN {
        if action[REWRITE] & bit != 0 {
            after[to].copy_from_slice(&action[from]);
        }
    }
    after
}

/// Makes of a flow the one by which answers come back.
fn turn(value: &mut Value, key: &Key) {
    let back = TURNED.iter().filter(|(bit, _)| value[REWRITE] & bit != 0).fold(0, |back, (_, bit)| back | bit);
    value[REWRITE] = value[REWRITE] & LOWER_TTL | back;
    value[SRC].copy_from_slice(&key[KEY_DST]);
    value[DST].copy_from_slice(&key[KEY_SRC]);
    value[SRC_PORT].copy_from_slice(&key[KEY_DST_PORT]);
    value[DST_PORT].copy_from_slice(&key[KEY_SRC_PORT]);
    value[THEN] = if value[THEN] == REPLY { REPLY } else { 0 };
    value[MTU].fill(0);
    value[COUNTS].fill(0);
}

/// Whether the place of the answers to a connection is free, or that of answers to the same.
pub(super) fn has_place(core: &mut Core, flow: &Flow, action: &Action) -> bool {
    flow_key(flow).is_some_and(|key| !is_taken(core, &reversed(&rewritten(&key, action)), &key))
}

fn is_taken(core: &mut Core, at: &Key, key: &Key) -> bool {
    counting_at(core, at).is_some_and(|value| {
        let is_same = value[SRC] == key[KEY_DST] && value[SRC_PORT] == key[KEY_DST_PORT];
        !FlowState::decode(&value).is_closing && !is_same
    })
}

/// Remembers a connection to a service in both directions; `false` if that is not possible.
pub(super) fn learn(core: &mut Core, flow: &Flow, service: &ServiceRule, action: &Action, packet_bytes: u64) -> bool {
    let Some(key) = flow_key(flow) else { return false };
    let back = reversed(&rewritten(&key, action));
    if is_taken(core, &back, &key) {
        return false;
    }
    let ends = if flow.protocol == 6 { Ends::Tracked } else { Ends::Ignored };
    let rule = FlowRule { action: *action, lifetime: Duration::MAX, idle: Some(service.idle), ends };
    let mut value = rule.encode(core.clock.now_ns(), core.generation());
    value[88..96].copy_from_slice(&1_u64.to_ne_bytes());
    value[96..104].copy_from_slice(&packet_bytes.to_ne_bytes());
    core.store.put(MapKind::Flows, &key, &value).1.expect("a flow in memory");
    turn(&mut value, &key);
    core.store.put(MapKind::Flows, &back, &value).1.expect("a flow in memory");
    true
}

/// Notes FIN and RST of a packet in both directions of its connection, if it is tracked.
pub(super) fn note_ends(core: &mut Core, flow: &Flow, action: &Action, flags: TcpFlags) {
    let (fin, rst) = (flags.contains(TcpFlags::FIN), flags.contains(TcpFlags::RST));
    let is_tracked = |value: &Value| ends_of(value) == Ends::Tracked;
    let Some(key) = flow_key(flow).filter(|_| fin || rst) else { return };
    if !counting_at(core, &key).as_ref().is_some_and(is_tracked) {
        return;
    }
    let after = rewritten(&key, action);
    let closing = closing_of(core, &key[KEY_DST], &key[KEY_DST_PORT], flow.protocol)
        .or_else(|| closing_of(core, &after[KEY_SRC], &after[KEY_SRC_PORT], flow.protocol));
    let closing = closing.unwrap_or(CLOSING);
    let of = |own: u8| if fin { own } else { 0 } | if rst { RST } else { 0 };
    end(core, flow, of(FIN), closing);
    if let Some(back) = read_flow_key(&reversed(&after)) {
        end(core, &back, of(PEER_FIN), closing);
    }
}

/// How long the connections of a service are remembered when they are closing.
fn closing_of(core: &mut Core, address: &[u8], port: &[u8], protocol: u8) -> Option<Duration> {
    if !has(&core.shape, MapKind::Services) {
        return None;
    }
    let octets: [u8; 16] = address.try_into().ok()?;
    let address = std::net::Ipv6Addr::from(octets).to_canonical();
    let service = Service { address, port: u16::from_ne_bytes(port.try_into().ok()?), protocol };
    let value = get(core, MapKind::Services, &service.encode())?;
    Some(ServiceRule::decode(value.first_chunk()?).closing)
}

fn end(core: &mut Core, flow: &Flow, seen: u8, closing: Duration) {
    edit(core, flow, |value| {
        let Ok(now): Result<&mut Value, _> = value.try_into() else { return };
        if ends_of(now) != Ends::Tracked {
            return;
        }
        now[SEEN] |= seen;
        let state = FlowState::decode(now);
        // None would be for ever.
        let closing_ns = u64::try_from(closing.as_nanos()).unwrap_or(u64::MAX).max(1);
        if state.is_closing && (state.idle_ns == 0 || state.idle_ns > closing_ns) {
            now[IDLE].copy_from_slice(&closing_ns.to_ne_bytes());
        }
    });
}
