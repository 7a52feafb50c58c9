//! Flow keys and their hashes.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use middlenet_wire::{FlowKey, Layers, PacketBuilder, VlanTag, WireError, protocol};
use proptest::prelude::*;

use crate::frames::*;

fn key(src: &str, src_port: u16, dst: &str, dst_port: u16, protocol: u8) -> FlowKey {
    FlowKey::new(src.parse().unwrap(), src_port, dst.parse().unwrap(), dst_port, protocol).unwrap()
}

#[test]
fn fits_forty_bytes() {
    assert_eq!(size_of::<FlowKey>(), 40);
}

#[test]
fn of_linux_frames() {
    let parse = |text| FlowKey::parse(&hex(text));
    assert_eq!(parse(UDP4), Some(key("10.1.0.1", 50245, "10.1.0.2", 9, protocol::UDP)));
    assert_eq!(parse(SYN4), Some(key("10.1.0.1", 37770, "10.1.0.2", 80, protocol::TCP)));
    assert_eq!(parse(SYN6), Some(key("fd00::1", 43056, "fd00::2", 80, protocol::TCP)));
    assert_eq!(parse(ECHO4), Some(key("10.1.0.1", 0x1234, "10.1.0.2", 0x1234, protocol::ICMPV4)));
    assert_eq!(parse(UNREACHABLE4), Some(key("10.1.0.2", 0, "10.1.0.1", 0, protocol::ICMPV4)));
    assert_eq!(parse(NEIGHBOR_ADVERT), Some(key("fd00::2", 0, "fd00::1", 0, protocol::ICMPV6)));
    assert_eq!(parse(ARP_REQUEST), None);
    assert_eq!(format!("{}", parse(SYN6).unwrap()), "proto 6 [fd00::1]:43056 > [fd00::2]:80");
}

#[test]
fn a_reply_has_the_reverse_key() {
    for (there, back) in [(SYN4, RST4), (ECHO4, ECHO_REPLY4), (ECHO6, ECHO_REPLY6)] {
        let (there, back) = (FlowKey::parse(&hex(there)).unwrap(), FlowKey::parse(&hex(back)).unwrap());
        assert_ne!(there, back);
        assert_eq!(there.reverse(), back);
        assert_eq!(there.canonical().0, back.canonical().0);
        assert_ne!(there.canonical().1, back.canonical().1);
        assert_eq!(there.symmetric_hash(), back.symmetric_hash());
        assert_ne!(there.directional_hash(), back.directional_hash());
    }
}

#[test]
fn an_error_leads_to_the_flow_it_is_about() {
    for (error, flow) in [(UNREACHABLE4, UDP4), (UNREACHABLE6, UDP6)] {
        let (error, flow) = (hex(error), hex(flow));
        let quoted = FlowKey::of_quoted(&Layers::parse(&error).unwrap(), &error);
        assert_eq!(quoted, FlowKey::of(&Layers::parse(&flow).unwrap(), &flow));
    }
    let echo = hex(ECHO4);
    assert_eq!(FlowKey::of_quoted(&Layers::parse(&echo).unwrap(), &echo), Err(WireError::WrongProtocol));
}

#[test]
fn later_fragments_have_no_ports() {
    let first = FlowKey::parse(&filled(FRAGMENT4_FIRST_HEAD, 1514)).unwrap();
    let last = FlowKey::parse(&filled(FRAGMENT4_LAST_HEAD, 562)).unwrap();
    assert_eq!((first.src_port, first.dst_port), (0x9620, 9));
    assert_eq!(last, FlowKey { src_port: 0, dst_port: 0, ..first });
}

#[test]
fn the_vlan_tells_flows_apart() {
    let udp = |tag: Option<VlanTag>| {
        let builder = PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).udp(1, 2);
        FlowKey::parse(&tag.map_or(builder, |tag| builder.vlan(tag)).build()).unwrap()
    };
    let (plain, tagged) = (udp(None), udp(Some(VlanTag::customer(5))));
    assert_eq!((plain.vid, tagged.vid), (0, 5));
    assert_ne!(plain.symmetric_hash(), tagged.symmetric_hash());
    assert_eq!(udp(Some(VlanTag::customer(0))), plain);
}

#[test]
fn ports_cut_off_give_no_key() {
    let frame = PacketBuilder::new()
        .ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into())
        .protocol(protocol::TCP)
        .payload(&[0, 1, 0])
        .build();
    assert_eq!(FlowKey::parse(&frame), None);
}

#[test]
fn a_mapped_ipv6_address_is_not_the_ipv4_one() {
    let v4 = key("10.0.0.1", 1, "10.0.0.2", 2, protocol::UDP);
    let v6 = key("::ffff:10.0.0.1", 1, "::ffff:10.0.0.2", 2, protocol::UDP);
    assert_ne!(v4, v6);
    assert_eq!(v4.src_ip().to_string(), "10.0.0.1");
    assert_eq!(v6.src_ip().to_string(), "::ffff:10.0.0.1");
    let mixed = FlowKey::new("10.0.0.1".parse().unwrap(), 1, "fd00::1".parse().unwrap(), 2, protocol::UDP);
    assert_eq!(mixed, Err(WireError::BadVersion));
}

/// Chi-square of `hashes` over `buckets`, divided by its degrees of freedom: about 1 for an even spread.
fn unevenness(hashes: &[u32], buckets: usize) -> f64 {
    let mut counts = vec![0f64; buckets];
    for hash in hashes {
        counts[*hash as usize % buckets] += 1.0;
    }
    let expected = hashes.len() as f64 / buckets as f64;
    counts.iter().map(|count| (count - expected).powi(2) / expected).sum::<f64>() / (buckets - 1) as f64
}

#[test]
fn hashes_spread_the_flows_that_tests_and_networks_make() {
    // One client with consecutive ports; consecutive clients with one port; consecutive IPv6 clients in one /64.
    let ports: Vec<FlowKey> = (1024..33792).map(|port| key("10.0.0.1", port, "10.0.0.2", 80, protocol::TCP)).collect();
    let clients: Vec<FlowKey> = (0..32768u32)
        .map(|n| {
            FlowKey::new(IpAddr::from((0x0a00_0000 + n).to_be_bytes()), 5000, [10, 1, 0, 1].into(), 80, 6).unwrap()
        })
        .collect();
    let v6: Vec<FlowKey> = (0..32768u16)
        .map(|n| {
            FlowKey::new([0xfd00, 0, 0, 0, 0, 0, 0, n].into(), 1, [0xfd00, 0, 0, 1, 0, 0, 0, 1].into(), 2, 17).unwrap()
        })
        .collect();
    // Ports of both sides move together, as a load generator does it.
    let both: Vec<FlowKey> = (0..32768).map(|n| key("10.0.0.1", n, "10.0.0.2", n, protocol::UDP)).collect();
    for keys in [ports, clients, v6, both] {
        for seed in [0, 1, 0xdead_beef_0000_0000] {
            let symmetric: Vec<u32> = keys.iter().map(|key| key.symmetric_hash_with(seed)).collect();
            let directional: Vec<u32> = keys.iter().map(|key| key.directional_hash_with(seed)).collect();
            for hashes in [symmetric, directional] {
                // Few buckets stand for workers, many for a table; low bits and high bits both must be good.
                for buckets in [2, 3, 8, 1024] {
                    let spread = unevenness(&hashes, buckets);
                    assert!(
                        spread < 8.0 / (buckets - 1) as f64 + 1.3,
                        "{} seed {seed:x} buckets {buckets}: {spread}",
                        keys[1]
                    );
                    let high: Vec<u32> = hashes.iter().map(|hash| hash >> 16).collect();
                    let spread = unevenness(&high, buckets.next_power_of_two());
                    assert!(
                        spread < 8.0 / (buckets - 1) as f64 + 1.3,
                        "{} high bits, buckets {buckets}: {spread}",
                        keys[1]
                    );
                }
                // 32768 draws of 2^32 are expected to collide 0.125 times.
                let distinct: HashSet<_> = hashes.iter().collect();
                assert!(hashes.len() - distinct.len() <= 4, "{} collisions", hashes.len() - distinct.len());
            }
        }
    }
}

#[test]
fn each_input_bit_flips_about_half_of_the_output() {
    let base = key("10.20.30.40", 12345, "192.168.7.9", 443, protocol::TCP);
    let flips = |change: &dyn Fn(&mut FlowKey)| {
        let mut changed = base;
        change(&mut changed);
        (base.symmetric_hash() ^ changed.symmetric_hash()).count_ones()
    };
    let mut total = 0;
    let mut count = 0;
    for bit in 0..128 {
        for flipped in [
            flips(&|key| key.src[bit / 8] ^= 1 << (bit % 8)),
            flips(&|key| key.dst[bit / 8] ^= 1 << (bit % 8)),
            flips(&|key| key.src_port ^= 1 << (bit % 16)),
            flips(&|key| key.dst_port ^= 1 << (bit % 16)),
            flips(&|key| key.vid ^= 1 << (bit % 12)),
            flips(&|key| key.protocol ^= 1 << (bit % 8)),
        ] {
            assert!(flipped >= 3, "bit {bit} flips {flipped} bits only");
            total += flipped;
            count += 1;
        }
    }
    let mean = f64::from(total) / f64::from(count);
    assert!((14.0..18.0).contains(&mean), "mean {mean}");
}

proptest! {
    #[test]
    fn both_directions_hash_alike(src: [u8; 16], dst: [u8; 16], src_port: u16, dst_port: u16, protocol: u8, seed: u64) {
        let key = FlowKey::new(IpAddr::from(src), src_port, IpAddr::from(dst), dst_port, protocol).unwrap();
        prop_assert_eq!(key.reverse().reverse(), key);
        prop_assert_eq!(key.symmetric_hash_with(seed), key.reverse().symmetric_hash_with(seed));
        prop_assert_eq!(key.canonical().0, key.reverse().canonical().0);
        let table = HashMap::from([(key, 1)]);
        prop_assert_eq!(table.get(&key), Some(&1));
    }

    #[test]
    fn what_is_built_is_found(src: [u8; 4], dst: [u8; 4], src_port: u16, dst_port: u16, vid in 0u16..4096, tcp: bool) {
        let builder = PacketBuilder::new().vlan(VlanTag::customer(vid)).ipv4(src.into(), dst.into());
        let builder =
            if tcp { builder.tcp(src_port, dst_port, Default::default()) } else { builder.udp(src_port, dst_port) };
        let protocol = if tcp { protocol::TCP } else { protocol::UDP };
        let mut expected = FlowKey::new(src.into(), src_port, dst.into(), dst_port, protocol).unwrap();
        expected.vid = vid;
        prop_assert_eq!(FlowKey::parse(&builder.build()), Some(expected));
    }
}
