//! The router with a fast path, against the router without.

use super::*;
use crate::applied::{flow, pass};
use middlenet_sdk::fast_path::{Mode, Then};
use middlenet_sdk::wire::build::NeighborAdvert;
use middlenet_sdk::wire::vlan::VlanTags;
use middlenet_sdk::wire::{Fragment, TcpFlags};
use proptest::prelude::*;

const STATION: MacAddr = MacAddr([2, 0, 0, 0, 2, 7]);
const MOVED: MacAddr = MacAddr([2, 0, 0, 0, 2, 8]);

fn fast(changes: Value) -> Kit {
    Kit::with_fast_path(changed(changes), Mode::Reactive).unwrap()
}

fn installed(kit: &Kit) -> usize {
    kit.fast_path().flows().len()
}

fn arp_reply(ip: &str, mac: MacAddr) -> Vec<u8> {
    PacketBuilder::new().arp_reply((mac, v4(ip)), (RIGHT, v4("10.2.0.1"))).build()
}

/// A flow to a neighbour on the right that answered.
fn to_station(kit: &mut Kit) -> Vec<u8> {
    let packet = udp4("10.1.0.9", "10.2.0.7").build();
    send(kit, "left", &packet);
    kit.run("right", &[arp_reply("10.2.0.7", STATION)]);
    send(kit, "left", &packet);
    packet
}

#[test]
fn from_its_second_packet_on_a_flow_is_sent_on_there() {
    for packet in [udp4("10.1.0.9", "10.9.0.1").build(), udp6("2001:db8:1::9", "2001:db8:9::1").build()] {
        let mut kit = fast(json!({}));
        let (first, _) = send(&mut kit, "left", &packet);
        assert_eq!(installed(&kit), 0);
        send(&mut kit, "left", &packet);
        let (bytes, action) = pass(&kit.fast_path(), &packet).unwrap();
        assert_eq!((bytes, action.then, action.mtu), (first.bytes, Then::Port(1), Some(1500)));
        send(&mut kit, "left", &packet);
        assert_eq!(kit.counter("fast_installed"), 1, "packets that were under way change nothing");
        // It comes here again after a while, and is there again.
        for again in 2..4 {
            kit.advance(Duration::from_secs(10));
            assert_eq!(pass(&kit.fast_path(), &packet), None);
            send(&mut kit, "left", &packet);
            assert_eq!((installed(&kit), kit.counter("fast_installed")), (1, again));
        }
    }
}

#[test]
fn a_neighbour_that_moves_or_is_lost_voids_flows() {
    let mut kit = fast(json!({"neighbour_refresh_s": 30}));
    let packet = to_station(&mut kit);
    send(&mut kit, "left", &packet);
    assert_eq!(pass(&kit.fast_path(), &packet).unwrap().0[..6], STATION.octets());
    kit.run("right", &[arp_reply("10.2.0.7", STATION)]);
    assert_eq!(installed(&kit), 1, "nothing new");
    kit.run("right", &[arp_reply("10.2.0.7", MOVED)]);
    assert_eq!(installed(&kit), 0);
    for _ in 0..2 {
        send(&mut kit, "left", &packet);
    }
    // One that goes to and fro does not empty it again and again.
    for mac in [STATION, MOVED, STATION] {
        kit.run("right", &[arp_reply("10.2.0.7", mac)]);
    }
    assert_eq!(pass(&kit.fast_path(), &packet).unwrap().0[..6], MOVED.octets());
    // It is asked three times and does not answer.
    for _ in 0..40 {
        kit.advance(Duration::from_secs(1));
        kit.tick();
        if pass(&kit.fast_path(), &packet).is_none() && kit.counter("neighbours") > 2 {
            for _ in 0..2 {
                send(&mut kit, "left", &packet);
            }
        }
    }
    assert_eq!((kit.counter("neighbours"), installed(&kit)), (2, 0));
}

#[test]
fn a_neighbour_that_is_found_voids_nothing() {
    let mut kit = fast(json!({}));
    let other = udp4("10.1.0.9", "10.9.0.1").build();
    for _ in 0..2 {
        send(&mut kit, "left", &other);
    }
    let packet = to_station(&mut kit);
    send(&mut kit, "left", &packet);
    assert_eq!(installed(&kit), 2);
}

#[test]
fn ipv6_neighbours_are_followed_as_well() {
    let mut kit = fast(json!({}));
    let packet = udp6("2001:db8:1::9", "2001:db8:2::7").build();
    let advert = |mac: MacAddr| {
        let (src, dst) = (v6("2001:db8:2::7"), v6("fe80::ff:fe00:2"));
        let (src_mac, dst_mac, tags) = (mac, RIGHT, VlanTags::EMPTY);
        let (is_router, is_solicited, overrides) = (false, true, true);
        let message =
            NeighborAdvert { src_mac, src, dst_mac, dst, target: src, is_router, is_solicited, overrides, tags };
        let mut room = [0; 128];
        let length = message.emit(&mut room).unwrap();
        room[..length].to_vec()
    };
    send(&mut kit, "left", &packet);
    kit.run("right", &[advert(STATION)]);
    for _ in 0..2 {
        send(&mut kit, "left", &packet);
    }
    assert_eq!(pass(&kit.fast_path(), &packet).unwrap().0[..6], STATION.octets());
    kit.run("right", &[advert(MOVED)]);
    assert_eq!(installed(&kit), 0);
}

#[test]
fn other_routes_void_flows() {
    let mut kit = fast(json!({}));
    let packet = udp4("10.1.0.9", "10.9.0.1").build();
    for _ in 0..2 {
        send(&mut kit, "left", &packet);
    }
    assert_eq!(installed(&kit), 1);
    kit.reconfigure(changed(json!({"routes": ["10.9.0.0/16 10.1.0.254"]}))).unwrap();
    assert_eq!(pass(&kit.fast_path(), &packet), None);
}

#[test]
fn what_may_need_an_answer_or_more_stays() {
    let mut kit = fast(json!({}));
    let ping = to_left().ipv4(v4("10.1.0.9"), v4("10.9.0.1")).echo_request(7, 1).build();
    let own_ping = to_left().ipv4(v4("10.1.0.9"), v4("10.1.0.1")).echo_request(7, 1).build();
    let piece = Fragment { offset_bytes: 0, more: true, id: 9 };
    let fragment = udp4("10.1.0.9", "10.9.0.2").fragment(piece).payload(&[0; 64]).build();
    let big = udp4("10.1.0.9", "10.9.0.3").payload(&[0; 1600]).build();
    let local = to_left().ipv4(v4("10.1.0.9"), v4("10.1.0.1")).udp(1000, 53).build();
    let dying = udp4("10.1.0.9", "10.9.0.4").ttl(1).build();
    let nowhere = udp4("10.1.0.9", "10.3.0.1").build();
    for _ in 0..3 {
        for packet in [&ping, &own_ping, &fragment, &big, &local, &dying, &nowhere] {
            send(&mut kit, "left", packet);
        }
    }
    assert_eq!(installed(&kit), 0);
    // Of a flow that is there: a packet that is too big, and one whose time is up.
    let plain = udp4("10.1.0.9", "10.9.0.4").build();
    for _ in 0..2 {
        send(&mut kit, "left", &plain);
    }
    assert!(pass(&kit.fast_path(), &plain).is_some());
    assert_eq!(pass(&kit.fast_path(), &dying), None);
    assert_eq!(pass(&kit.fast_path(), &udp4("10.1.0.9", "10.9.0.4").payload(&[0; 1600]).build()), None);
    assert_eq!(flow(&plain), flow(&dying));
}

#[test]
fn a_scan_of_single_packets_fills_nothing() {
    let mut kit = fast(json!({}));
    let packets: Vec<_> =
        (1..5000).map(|port| to_left().ipv4(v4("10.1.0.9"), v4("10.9.0.1")).udp(port, 9).build()).collect();
    kit.run("left", &packets);
    assert_eq!(kit.counter("fast_installed"), 0);
}

proptest! {
    // Each case fills two forwarding tables.
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn with_and_without_it_packets_fare_alike(
        steps in prop::collection::vec((0..3_u8, 0..3_u8, any::<bool>(), 1..4_u8, 0..1480_usize, 0..4000_u64), 1..60),
    ) {
        let (mut plain, mut fast) = (Kit::new(config()), fast(json!({})));
        for (dst, port, is_tcp, ttl, length, wait_ms) in steps {
            for kit in [&mut plain, &mut fast] {
                kit.advance(Duration::from_millis(wait_ms));
                kit.tick();
                // It answers whenever it is asked.
                kit.run("right", &[arp_reply("10.2.0.7", STATION)]);
            }
            let dst = ["10.9.0.1", "10.2.0.7", "10.1.0.1"][usize::from(dst)];
            let payload = vec![0; length];
            let builder = to_left().ipv4(v4("10.1.0.9"), v4(dst)).ttl(ttl).payload(&payload);
            let packet = if is_tcp {
                builder.tcp(port.into(), 80, TcpFlags::ACK).build()
            } else {
                builder.udp(port.into(), 53).build()
            };
            let (expected, sent) = send(&mut plain, "left", &packet);
            match pass(&fast.fast_path(), &packet) {
                Some((bytes, action)) => {
                    prop_assert_eq!(action.then, Then::Port(1));
                    prop_assert_eq!((expected.verdict, expected.bytes, sent), (Verdict::Port(Port(1)), bytes, Vec::new()));
                }
                None => prop_assert_eq!((expected, sent), send(&mut fast, "left", &packet)),
            }
        }
    }
}
