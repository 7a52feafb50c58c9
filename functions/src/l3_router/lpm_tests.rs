//! Both tables against the plainest model: look at every prefix, keep the longest.

use super::lpm4::Lpm4;
use super::lpm6::Lpm6;
use super::prefix::{mask32, mask128};
use proptest::prelude::*;

/// Addresses that differ in few places, so that prefixes nest and meet.
fn clustered32() -> impl Strategy<Value = u32> {
    (0u32..4, 0u32..4, 0u32..4, 0u32..256).prop_map(|(a, b, c, d)| (10 + a) << 24 | b << 16 | c << 8 | d)
}

fn clustered128() -> impl Strategy<Value = u128> {
    prop::collection::vec(0u8..3, 16).prop_map(|bytes| {
        let mut address = u128::from_be_bytes(bytes.try_into().unwrap());
        address |= 0x2001_0db8 << 96;
        address
    })
}

/// Networks by (length, network), the last of equal ones winning.
fn distinct<T: Ord + Copy>(mut prefixes: Vec<(u8, T)>) -> Vec<(u8, T)> {
    prefixes.sort();
    prefixes.dedup();
    prefixes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn ipv4_agrees_with_the_model(
        prefixes in prop::collection::vec((6u8..=32, clustered32()), 0..80),
        probes in prop::collection::vec(prop_oneof![clustered32(), any::<u32>()], 200),
    ) {
        let prefixes = distinct(prefixes.into_iter().map(|(l, a)| (l, a & mask32(l))).collect());
        let mut table = Lpm4::new().unwrap();
        for (value, (length, network)) in (1u16..).zip(&prefixes) {
            table.insert(*network, *length, value).unwrap();
        }
        let edges = prefixes.iter().flat_map(|(l, n)| [*n, n | !mask32(*l), n.wrapping_sub(1), (n | !mask32(*l)).wrapping_add(1)]);
        for address in probes.into_iter().chain(edges) {
            let model = (1u16..).zip(&prefixes).filter(|(_, (l, n))| address & mask32(*l) == *n).max_by_key(|(_, (l, _))| *l);
            prop_assert_eq!(table.lookup(address), model.map_or(0, |(value, _)| value));
        }
    }

    #[test]
    fn ipv6_agrees_with_the_model(
        prefixes in prop::collection::vec((0u8..=128, prop_oneof![clustered128(), any::<u128>()]), 0..80),
        probes in prop::collection::vec(prop_oneof![clustered128(), any::<u128>()], 200),
    ) {
        let prefixes = distinct(prefixes.into_iter().map(|(l, a)| (l, a & mask128(l))).collect());
        let mut table = Lpm6::new(0);
        for (value, (length, network)) in (1u16..).zip(&prefixes) {
            table.insert(*network, *length, value).unwrap();
        }
        let edges = prefixes.iter().flat_map(|(l, n)| [*n, n | !mask128(*l), n.wrapping_sub(1), (n | !mask128(*l)).wrapping_add(1)]);
        for address in probes.into_iter().chain(edges) {
            let model = (1u16..).zip(&prefixes).filter(|(_, (l, n))| address & mask128(*l) == *n).max_by_key(|(_, (l, _))| *l);
            prop_assert_eq!(table.lookup(address), model.map_or(0, |(value, _)| value));
        }
    }
}

#[test]
fn a_host_set_later_leaves_its_neighbours_alone() {
    let mut table = Lpm4::new().unwrap();
    table.insert(0x0a000000, 8, 7).unwrap();
    table.set_host(0x0a010203, 9).unwrap();
    assert_eq!([0x0a010202, 0x0a010203, 0x0a010204].map(|a| table.lookup(a)), [7, 9, 7]);
    table.set_host(0x0a010203, 7).unwrap();
    assert_eq!(table.lookup(0x0a010203), 7);
}

#[test]
fn groups_run_out_with_an_error() {
    let mut table = Lpm4::new().unwrap();
    for n in 0..0x8000u32 {
        table.insert(n << 8, 32, 1).unwrap();
    }
    assert!(table.insert(0x8000 << 8, 32, 1).is_err());
    assert_eq!(table.lookup(0x8000 << 8), 0);
}
