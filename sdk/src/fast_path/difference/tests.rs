use super::*;
use middlenet_fast_path::prefix_key;
use proptest::prelude::*;

/// Bits of the shortest prefix here.
const SHORTEST: u32 = MOST_BITS - 8;

/// What a packet's four look-ups give: the lowest number.
fn lowest(table: &Table, packet: &Packet) -> u32 {
    let prefix = |kind, address: &[u8]| {
        (SHORTEST..=MOST_BITS)
            .rev()
            .find_map(|bits| table.get(&(kind, shortened(address, bits))).copied())
            .unwrap_or(NO_RULE)
    };
    let port = |kind, port: &[u8]| table.get(&(kind, port.to_vec())).copied().unwrap_or(NO_RULE);
    let numbers = [
        prefix(MatcherKind::SrcPrefix, &packet.src),
        prefix(MatcherKind::DstPrefix, &packet.dst),
        port(MatcherKind::SrcPort, &packet.src_port),
        port(MatcherKind::DstPort, &packet.dst_port),
    ];
    numbers.into_iter().min().unwrap_or(NO_RULE)
}

/// The same of the packet if it does not show its ports, and whether a prefix names that number.
fn lowest_of_hidden(table: &Table, packet: &Packet) -> (u32, bool) {
    let no_ports = Packet { src_port: Vec::new(), dst_port: Vec::new(), ..packet.clone() };
    let by_prefix = lowest(table, &no_ports);
    let first = table.get(&first_port()).copied().unwrap_or(NO_RULE);
    (by_prefix.min(first), by_prefix <= first)
}

fn first_port() -> (MatcherKind, Vec<u8>) {
    (MatcherKind::FirstPort, vec![1, 0, 0, 0])
}

#[derive(Debug, Clone)]
struct Packet {
    src: Vec<u8>,
    dst: Vec<u8>,
    src_port: Vec<u8>,
    dst_port: Vec<u8>,
}

fn address(number: u8) -> Vec<u8> {
    prefix_key(&format!("10.0.0.{number}").parse().unwrap()).to_vec()
}

fn packets() -> impl Strategy<Value = Packet> {
    let port = || (0_u32..6).prop_map(|port| port.to_ne_bytes().to_vec());
    (any::<u8>(), any::<u8>(), port(), port()).prop_map(|(src, dst, src_port, dst_port)| Packet {
        src: address(src),
        dst: address(dst),
        src_port,
        dst_port,
    })
}

/// Tables whose prefixes lie in one another, with numbers below `most`.
fn tables(most: u32) -> impl Strategy<Value = Table> {
    let key = prop_oneof![
        (any::<bool>(), any::<u8>(), SHORTEST..=MOST_BITS).prop_map(|(src, of, bits)| {
            let kind = if src { MatcherKind::SrcPrefix } else { MatcherKind::DstPrefix };
            (kind, shortened(&address(of), bits))
        }),
        (any::<bool>(), 0_u32..6).prop_map(|(src, port)| {
            let kind = if src { MatcherKind::SrcPort } else { MatcherKind::DstPort };
            (kind, port.to_ne_bytes().to_vec())
        }),
    ];
    prop::collection::btree_map(key, 0..most, 0..24).prop_map(|mut table| {
        let ports = table.iter().filter(|((kind, _), _)| !kind.is_prefix());
        let first = ports.map(|(_, number)| *number).min();
        table.extend(first.map(|number| (first_port(), number)));
        table
    })
}

fn apply(table: &mut Table, step: Step) {
    match step {
        // A port that names nothing is as good as none.
        Step::Put(kind, key, NO_RULE) if !kind.is_prefix() => table.remove(&(kind, key)),
        Step::Put(kind, key, number) => table.insert((kind, key), number),
        Step::Delete(kind, key) => table.remove(&(kind, key)),
    };
}

proptest! {
    #[test]
    fn each_write_leaves_every_packet_with_its_old_rule_or_its_new_one(
        old in tables(10),
        new in tables(10),
        packets in prop::collection::vec(packets(), 12),
    ) {
        let mut table = old.clone();
        let fate = |table: &Table, packet| (lowest(table, packet), lowest_of_hidden(table, packet));
        let fates: Vec<_> = packets.iter().map(|packet| (packet, fate(&old, packet), fate(&new, packet))).collect();
        for step in steps(&old, &new) {
            apply(&mut table, step.clone());
            for &(packet, before, after) in &fates {
                let now = fate(&table, packet);
                let is_either = (now.0 == before.0 || now.0 == after.0) && (now.1 == before.1 || now.1 == after.1);
                prop_assert!(is_either, "{step:?}: {before:?} -> {now:?} -> {after:?} of {packet:?}");
            }
        }
        prop_assert_eq!(table, new);
    }

    #[test]
    fn what_is_alike_is_not_written(table in tables(10), extra in tables(10)) {
        prop_assert!(steps(&table, &table).is_empty());
        let mut more = table.clone();
        more.extend(extra.clone());
        let touched = steps(&table, &more);
        // A new prefix may be written with what it hides before.
        prop_assert!(touched.len() <= 2 * extra.len() + 1);
    }

    #[test]
    fn numbers_ascend_and_none_is_taken(
        given in prop::collection::vec(any::<bool>(), 0..40),
        spread in prop::collection::vec(1_u32..6, 40),
        taken in prop::collection::btree_set(0_u32..300, 0..80),
    ) {
        let limit = 300;
        let mut number = 0;
        let given: Vec<Option<u32>> = given
            .iter()
            .zip(&spread)
            .map(|(&is_given, by)| {
                number += by;
                is_given.then_some(number)
            })
            .collect();
        if let Some(numbers) = super::number(&given, &taken, limit) {
            prop_assert!(numbers.is_sorted_by(|a, b| a < b) && numbers.len() == given.len());
            for (number, given) in numbers.iter().zip(&given) {
                match given {
                    Some(given) => prop_assert_eq!(number, given),
                    None => prop_assert!(*number > 0 && *number < limit && !taken.contains(number)),
                }
            }
        } else {
            prop_assert!(given.iter().any(Option::is_none));
        }
    }

    #[test]
    fn common_elements_are_equal_and_in_order(
        old in prop::collection::vec((0_u8..8, 0_u8..3), 0..20),
        new in prop::collection::vec((0_u8..8, 0_u8..3), 0..20),
    ) {
        let pairs = common(&old, &new, |element| *element, |(all, _)| *all);
        for &(o, n) in &pairs {
            prop_assert_eq!(old[o].0, new[n].0);
        }
        prop_assert!(pairs.is_sorted_by(|a, b| a.0 < b.0 && a.1 < b.1), "{pairs:?}");
    }
}

#[test]
fn half_of_the_numbers_are_enough_for_other_rules() {
    let taken: BTreeSet<u32> = (1..=100).map(|number| 2 * number).collect();
    assert_eq!(number(&[None; 100], &taken, 201).unwrap(), (0..100).map(|at| 2 * at + 1).collect::<Vec<_>>());
    assert_eq!(number(&[None; 101], &taken, 201), None);
    // What is new between two others has room there, if there is any.
    let given = [Some(10), None, None, Some(20)];
    assert_eq!(number(&given, &BTreeSet::from([10, 20]), 201).unwrap(), [10, 13, 17, 20]);
    assert_eq!(number(&[Some(10), None, Some(11)], &BTreeSet::from([10, 11]), 201), None);
}

#[test]
fn elements_that_stay_are_found() {
    let element = |&(all, part): &(u32, u32)| (all, part);
    let part = |&(_, part): &(u32, u32)| part;
    // One goes, one comes, one changes in a part.
    let (old, new) = ([(1, 1), (2, 2), (3, 3), (4, 4)], [(1, 1), (9, 9), (33, 3), (4, 4)]);
    assert_eq!(common(&old, &new, element, part), [(0, 0), (2, 2), (3, 3)]);
    // Those in another order are not the same, but for the longest part that is in order.
    let (old, new) = ([(1, 1), (2, 2), (3, 3)], [(3, 3), (1, 1), (2, 2)]);
    assert_eq!(common(&old, &new, element, part), [(0, 1), (1, 2)]);
    assert_eq!(common(&[], &new, element, part), []);
}
