use super::*;
use middlenet_sdk::wire::{FlowKey, Layers, PacketBuilder, TcpFlags};
use proptest::prelude::*;
use std::collections::HashMap;

fn key(n: u64) -> Key {
    Key::new(u128::from(n), n as u16, 7, 80, Key::small(0, 6, false))
}

fn insert(table: &mut FlowTable<u64>, n: u64, expires_ns: u64, now_ns: u64, unanswered: bool) -> Option<u32> {
    let hash = table.seed().hash(&key(n));
    table.insert(hash, key(n), n, expires_ns, now_ns, unanswered)
}

fn find(table: &FlowTable<u64>, n: u64, now_ns: u64) -> Option<u64> {
    let slot = table.find(table.seed().hash(&key(n)), &key(n), now_ns)?;
    table.get(slot).map(|entry| entry.value)
}

#[test]
fn finds_what_was_inserted_until_its_time_is_up() {
    let mut table = FlowTable::new(8);
    insert(&mut table, 1, 100, 0, false).unwrap();
    assert_eq!(find(&table, 1, 99), Some(1));
    assert_eq!(find(&table, 1, 100), None);
    assert_eq!(find(&table, 2, 0), None);
    let mut ended = Vec::new();
    table.sweep(100, |value| ended.push(*value));
    assert_eq!((ended, table.len()), (vec![1], 0));
}

#[test]
fn a_full_table_gives_up_unanswered_flows_oldest_first_and_never_answered_ones() {
    let mut table = FlowTable::new(3);
    insert(&mut table, 1, 100, 0, false).unwrap();
    insert(&mut table, 2, 100, 0, true).unwrap();
    insert(&mut table, 3, 100, 0, true).unwrap();
    insert(&mut table, 4, 100, 0, false).unwrap();
    assert_eq!([1, 2, 3, 4].map(|n| find(&table, n, 0).is_some()), [true, false, true, true]);
    insert(&mut table, 5, 100, 0, false).unwrap();
    assert_eq!(insert(&mut table, 6, 100, 0, true), None, "full of answered flows");
    assert_eq!((table.evicted(), table.unanswered(), table.len()), (2, 0, 3));
    assert!(insert(&mut table, 6, 200, 100, true).is_some(), "expired flows make room");
}

#[cfg(feature = "ndpi")]
#[test]
fn a_walk_that_was_broken_off_goes_on_behind() {
    use std::ops::ControlFlow;
    let mut table = FlowTable::new(8);
    for n in 0..8 {
        insert(&mut table, n, 100, 0, false).unwrap();
    }
    let mut met = Vec::new();
    for _ in 0..4 {
        let mut left = 2;
        table.sweep_unless(100, |_, n| {
            met.push(*n);
            left -= 1;
            let end = (*n % 2 == 0).then_some(200);
            if left == 0 { ControlFlow::Break(end) } else { ControlFlow::Continue(end) }
        });
    }
    met.sort_unstable();
    assert_eq!(met, [0, 1, 2, 3, 4, 5, 6, 7]);
    assert_eq!((0..8).filter_map(|n| find(&table, n, 199)).collect::<Vec<_>>(), [0, 2, 4, 6]);
}

#[test]
fn an_answered_flow_leaves_the_list_from_any_place() {
    for answered in 0..3 {
        let mut table = FlowTable::new(3);
        let slots = [0, 1, 2].map(|n| insert(&mut table, n, 100, 0, true).unwrap());
        table.answered(slots[answered]);
        assert_eq!(table.unanswered(), 2);
        assert!(table.evict_unanswered() && table.evict_unanswered() && !table.evict_unanswered());
        assert_eq!(find(&table, answered as u64, 0), Some(answered as u64));
    }
}

#[test]
fn takes_over_the_flows_of_a_table_of_another_size() {
    let mut old = FlowTable::new(8);
    for n in 0..8 {
        insert(&mut old, n, 100, 0, n % 2 == 0).unwrap();
    }
    let mut table = FlowTable::new(100);
    table.take_over(old, 0);
    assert!((0..8).all(|n| find(&table, n, 0) == Some(n)));
    assert_eq!(table.unanswered(), 4);
}

#[test]
fn canonical_keys_and_hashes_agree_in_both_directions() {
    let there = Key::new(5, 1000, 9, 80, Key::small(3, 17, false));
    assert_eq!(there.canonical(), (there, false));
    assert_eq!(there.reverse().canonical(), (there, true));
    let (low, high) = (Key::new(5, 1, 5, 2, 0), Key::new(5, 2, 5, 1, 0));
    assert_eq!(low.canonical().0, high.canonical().0);
}

#[test]
fn hashes_of_neighbouring_keys_spread() {
    let seed = Seed::random();
    let mut buckets = [0u32; 64];
    for n in 0..6400 {
        buckets[seed.hash(&key(n)) as usize % 64] += 1;
    }
    assert!(buckets.iter().all(|&n| (40..200).contains(&n)), "{buckets:?}");
}

fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let v4 = (any::<u32>(), any::<u32>(), any::<bool>(), 0usize..40).prop_map(|(a, b, tcp, n)| {
        let builder = PacketBuilder::new().ipv4(a.into(), b.into());
        let payload = vec![7; n];
        if tcp {
            builder.tcp(a as u16, b as u16, TcpFlags(a as u8)).payload(&payload).build()
        } else {
            builder.udp(1, 2).payload(&payload).build()
        }
    });
    let v6 = (any::<u128>(), any::<u128>(), any::<bool>()).prop_map(|(a, b, tcp)| {
        let builder = PacketBuilder::new().ipv6(a.into(), b.into());
        if tcp { builder.tcp(a as u16, 80, TcpFlags::ACK).build() } else { builder.udp(1, 2).build() }
    });
    // A whole packet, a damaged one, a cut one.
    let whole = prop_oneof![v4, v6];
    (
        whole,
        proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        any::<prop::sample::Index>(),
        0..4u8,
    )
        .prop_map(|(mut packet, damage, cut, how)| {
            if how > 0 {
                for (at, byte) in damage {
                    let at = at.index(packet.len());
                    packet[at] = byte;
                }
            }
            if how == 3 {
                packet.truncate(cut.index(packet.len()));
            }
            packet
        })
}

proptest! {
    /// The fast way to read a packet and the walk over all layers find the same flow.
    #[test]
    fn the_fast_probe_agrees_with_the_walk(packet in any_packet()) {
        let probe = Probe::of(&packet);
        match (Layers::parse(&packet), FlowKey::parse(&packet)) {
            (Ok(layers), Some(flow)) if probe.class == Class::Flow => {
                prop_assert_eq!(probe.key, Key::from(&flow));
                prop_assert_eq!(usize::from(probe.l3_offset), layers.l3_offset);
                prop_assert_eq!(usize::from(probe.l4_offset), layers.l4_offset);
                prop_assert_eq!(usize::from(probe.end), layers.end);
                prop_assert_eq!(probe.first_fragment, layers.is_fragment());
            }
            (Ok(layers), Some(_)) => prop_assert!(!layers.has_l4() || probe.class == Class::Malformed),
            (Ok(layers), None) => prop_assert!(!layers.is_ip() || probe.class == Class::Malformed),
            (Err(_), _) => prop_assert_eq!(probe.class, Class::Malformed),
        }
    }

    /// The table does what a map with time-outs does.
    #[test]
    fn behaves_like_a_map(steps in proptest::collection::vec((0u64..40, 0u8..4, 1u64..50), 1..400)) {
        let (mut table, mut model, mut now) = (FlowTable::new(64), HashMap::new(), 0);
        for (n, step, ttl) in steps {
            now += 1;
            match step {
                0 | 1 => {
                    prop_assert!(insert(&mut table, n, now + ttl, now, step == 1).is_some());
                    model.insert(n, now + ttl);
                }
                2 => {
                    let slot = table.find(table.seed().hash(&key(n)), &key(n), now);
                    prop_assert_eq!(slot.and_then(|slot| table.remove(slot)), model.remove(&n).filter(|&e| e > now).map(|_| n));
                }
                _ => table.sweep(now, |_| {}),
            }
            for n in 0..40 {
                prop_assert_eq!(find(&table, n, now).is_some(), model.get(&n).is_some_and(|&e| e > now));
            }
        }
    }
}
