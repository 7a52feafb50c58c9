//! Resolution: asking, waiting, failing, refreshing, and who may teach.

use super::*;
use middlenet_sdk::wire::build::NeighborAdvert;
use middlenet_sdk::wire::vlan::VlanTags;
use middlenet_sdk::wire::{ArpOperation, NdMessage};

const STATION: MacAddr = MacAddr([2, 0, 0, 0, 2, 7]);

fn arp_reply(ip: &str, mac: MacAddr) -> Vec<u8> {
    PacketBuilder::new().arp_reply((mac, v4(ip)), (RIGHT, v4("10.2.0.1"))).build()
}

fn advert(ip: &str, mac: MacAddr, overrides: bool) -> Vec<u8> {
    let message = NeighborAdvert {
        src_mac: mac,
        src: v6(ip),
        dst_mac: RIGHT,
        dst: v6("fe80::ff:fe00:2"),
        target: v6(ip),
        is_router: false,
        is_solicited: true,
        overrides,
        tags: VlanTags::EMPTY,
    };
    let mut room = [0; 128];
    let length = message.emit(&mut room).unwrap();
    room[..length].to_vec()
}

/// The address an ARP request or a solicitation asks for, and the frame's destination.
#[track_caller]
fn asked(outcome: &Outcome) -> (IpAddr, MacAddr) {
    assert_eq!(outcome.verdict, Verdict::Port(Port(1)));
    let bytes = &outcome.bytes;
    let to = MacAddr(bytes[..6].try_into().unwrap());
    assert_eq!(bytes[6..12], RIGHT.octets());
    let layers = Layers::parse(bytes).unwrap();
    if let Ok(arp) = layers.arp(bytes) {
        assert_eq!(
            (arp.operation(), arp.sender_ip(), arp.sender_mac()),
            (ArpOperation::Request, v4("10.2.0.1"), RIGHT)
        );
        return (arp.target_ip().into(), to);
    }
    match NdMessage::of(&layers, bytes).unwrap() {
        NdMessage::NeighborSolicit { target, options } => {
            assert_eq!(options.source_mac(), Some(RIGHT));
            (target.into(), to)
        }
        other => panic!("{other:?}"),
    }
}

fn tick_after(kit: &mut Kit, ms: u64) -> Vec<Outcome> {
    kit.advance(Duration::from_millis(ms));
    kit.tick()
}

#[test]
fn packets_wait_for_arp_and_go_out_in_order() {
    let mut kit = Kit::new(config());
    // To a station on the link, and over a gateway that is not static.
    for (dst, neighbour) in [("10.2.0.7", "10.2.0.7"), ("10.3.1.1", "10.2.0.253")] {
        let packets: Vec<_> = (0..3).map(|id| udp4("10.1.0.5", dst).ip_id(id).build()).collect();
        let outcomes = kit.run("left", &packets);
        assert!(outcomes[..3].iter().all(|outcome| outcome.verdict == Verdict::Hold));
        assert_eq!(outcomes.len(), 4, "one request for three packets");
        assert_eq!(asked(&outcomes[3]), (v4(neighbour).into(), MacAddr::BROADCAST));
        assert_eq!(kit.held(), 3);
        let (reply, resumed) = send(&mut kit, "right", &arp_reply(neighbour, STATION));
        assert_eq!(dropped(&kit, &reply), "consumed");
        assert_eq!(resumed.len(), 3);
        for (outcome, packet) in resumed.iter().zip(&packets) {
            assert_forwarded(outcome, packet, 1, RIGHT, STATION);
        }
        let (outcome, emitted) = send(&mut kit, "left", &packets[0]);
        assert_forwarded(&outcome, &packets[0], 1, RIGHT, STATION);
        assert!(emitted.is_empty());
        assert_eq!(kit.held(), 0);
    }
    kit.tick();
    assert_eq!([kit.counter("neighbours"), kit.counter("forwarded"), kit.counter("held")], [4, 8, 0]);
}

#[test]
fn packets_wait_for_neighbour_discovery() {
    let mut kit = Kit::new(config());
    let packet = udp6("2001:db8:1::5", "2001:db8:2::7").build();
    let (outcome, emitted) = send(&mut kit, "left", &packet);
    assert_eq!(outcome.verdict, Verdict::Hold);
    assert_eq!(asked(&emitted[0]), (v6("2001:db8:2::7").into(), MacAddr([0x33, 0x33, 0xff, 0, 0, 7])));
    let (_, resumed) = send(&mut kit, "right", &advert("2001:db8:2::7", STATION, true));
    assert_forwarded(&resumed[0], &packet, 1, RIGHT, STATION);
    let (outcome, _) = send(&mut kit, "left", &packet);
    assert_forwarded(&outcome, &packet, 1, RIGHT, STATION);
    // Without the override flag a known address stays (RFC 4861 section 7.2.5).
    send(&mut kit, "right", &advert("2001:db8:2::7", HOST, false));
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, STATION);
    send(&mut kit, "right", &advert("2001:db8:2::7", HOST, true));
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, HOST);
}

#[test]
fn silence_ends_in_host_unreachable_and_a_new_try_later() {
    let mut kit = Kit::new(config());
    for (packet, ip, error) in [
        (udp4("10.1.0.5", "10.2.0.7").build(), IpAddr::V4(v4("10.2.0.7")), (3, 1, 0)),
        (udp6("2001:db8:1::5", "2001:db8:2::7").build(), IpAddr::V6(v6("2001:db8:2::7")), (1, 3, 0)),
    ] {
        let src = if ip.is_ipv4() { IpAddr::V4(v4("10.1.0.1")) } else { IpAddr::V6(v6("2001:db8:1::1")) };
        let (outcome, emitted) = send(&mut kit, "left", &packet);
        assert_eq!((outcome.verdict, asked(&emitted[0]).0), (Verdict::Hold, ip));
        assert!(tick_after(&mut kit, 400).is_empty());
        assert_eq!(asked(&tick_after(&mut kit, 100)[0]).0, ip, "asked again after 0.5 s");
        assert!(tick_after(&mut kit, 900).is_empty());
        assert_eq!(asked(&tick_after(&mut kit, 100)[0]).0, ip, "and after 1 s more");
        assert!(tick_after(&mut kit, 1900).is_empty());
        let outcomes = tick_after(&mut kit, 100);
        assert_eq!(outcomes.len(), 2, "the packet, and the error");
        assert_eq!(dropped(&kit, &outcomes[0]), "no-neighbour");
        let mut quoted = packet.clone();
        quoted[..].copy_from_slice(&outcomes[0].bytes);
        assert_eq!(assert_error(&outcomes[1], src, &quoted), error);
        assert_eq!(refused(&mut kit, &packet, "no-neighbour"), error, "at once while it rests");
        tick_after(&mut kit, 5000);
        let (outcome, emitted) = send(&mut kit, "left", &packet);
        assert_eq!((outcome.verdict, asked(&emitted[0]).0), (Verdict::Hold, ip), "then it is asked again");
        for _ in 0..100 {
            tick_after(&mut kit, 100);
        }
    }
    assert_eq!([kit.held(), kit.counter("neighbour-failures") as usize], [0, 4]);
}

#[test]
fn a_late_answer_is_welcome() {
    let mut kit = Kit::new(config());
    let packet = udp4("10.1.0.5", "10.2.0.7").build();
    send(&mut kit, "left", &packet);
    for _ in 0..40 {
        tick_after(&mut kit, 100);
    }
    send(&mut kit, "right", &arp_reply("10.2.0.7", STATION));
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, STATION);
}

#[test]
fn known_neighbours_are_asked_again_and_forgotten_when_silent() {
    let mut kit = Kit::new(changed(json!({ "neighbour_refresh_s": 30 })));
    let packet = udp4("10.1.0.5", "10.2.0.7").build();
    send(&mut kit, "left", &packet);
    send(&mut kit, "right", &arp_reply("10.2.0.7", STATION));
    let outcomes = tick_after(&mut kit, 30_000);
    assert_eq!(asked(&outcomes[0]), (v4("10.2.0.7").into(), STATION), "by unicast");
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, STATION);
    send(&mut kit, "right", &arp_reply("10.2.0.7", STATION));
    assert!(tick_after(&mut kit, 29_900).is_empty(), "confirmed for another 30 s");
    for _ in 0..40 {
        tick_after(&mut kit, 100);
    }
    assert_eq!(refused(&mut kit, &packet, "no-neighbour"), (3, 1, 0));
    for _ in 0..60 {
        tick_after(&mut kit, 100);
    }
    assert_eq!(kit.report()["neighbours_known"], 2, "the two static ones");
    let (outcome, emitted) = send(&mut kit, "left", &packet);
    assert_eq!((outcome.verdict, asked(&emitted[0]).0), (Verdict::Hold, v4("10.2.0.7").into()));
}

#[test]
fn a_station_that_moves_its_address_is_followed() {
    let mut kit = Kit::new(config());
    let packet = udp4("10.1.0.5", "10.2.0.7").build();
    send(&mut kit, "left", &packet);
    send(&mut kit, "right", &arp_reply("10.2.0.7", STATION));
    let gratuitous = PacketBuilder::new().arp_request(HOST, v4("10.2.0.7"), v4("10.2.0.7")).build();
    send(&mut kit, "right", &gratuitous);
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, HOST);
    // From the wrong port, and for a static neighbour, it counts for nothing.
    send(&mut kit, "left", &arp_reply("10.2.0.7", STATION));
    send(&mut kit, "right", &arp_reply("10.2.0.254", STATION));
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, HOST);
    let over_gateway = udp4("10.1.0.5", "192.0.2.1").build();
    assert_forwarded(&send(&mut kit, "left", &over_gateway).0, &over_gateway, 1, RIGHT, GATEWAY);
}

/// Another address counts at once, but no third within a second. The neighbour is asked for then, should it have moved on.
#[test]
fn a_neighbour_moves_once_a_second_at_most() {
    type Tells = fn(MacAddr) -> Vec<u8>;
    let tells: [(Vec<u8>, Tells); 2] = [
        (udp4("10.1.0.9", "10.2.0.7").build(), |mac| arp_reply("10.2.0.7", mac)),
        (udp6("2001:db8:1::9", "2001:db8:2::7").build(), |mac| advert("2001:db8:2::7", mac, true)),
    ];
    let moved = MacAddr([2, 0, 0, 0, 2, 8]);
    for (packet, told) in tells {
        let mut kit = Kit::new(config());
        let goes_to = |kit: &mut Kit| MacAddr(send(kit, "left", &packet).0.bytes[..6].try_into().unwrap());
        send(&mut kit, "left", &packet);
        kit.run("right", &[told(STATION)]);
        assert_eq!(goes_to(&mut kit), STATION);
        kit.run("right", &[told(moved)]);
        assert_eq!(goes_to(&mut kit), moved, "where it was found first is no move");
        for _ in 0..9 {
            kit.run("right", &[told(STATION), told(moved), told(STATION)]);
            assert_eq!(goes_to(&mut kit), moved);
            assert!(tick_after(&mut kit, 100).is_empty());
        }
        assert_eq!(asked(&tick_after(&mut kit, 100)[0]).1, moved);
        let (_, to) = asked(&tick_after(&mut kit, 500)[0]);
        assert!(!to.is_unicast(), "everybody is asked if it does not answer: {to}");
        kit.run("right", &[told(STATION)]);
        assert_eq!(goes_to(&mut kit), STATION);
        assert!(tick_after(&mut kit, 2000).is_empty());
    }
}

#[test]
fn stations_nobody_asked_for_teach_nothing() {
    let mut kit = Kit::new(config());
    for n in 2..250 {
        send(&mut kit, "right", &arp_reply(&format!("10.2.0.{n}"), STATION));
        send(
            &mut kit,
            "right",
            &PacketBuilder::new().arp_request(STATION, v4(&format!("10.2.0.{n}")), v4("10.2.0.1")).build(),
        );
        send(&mut kit, "right", &advert(&format!("2001:db8:2::{n}"), STATION, true));
    }
    assert_eq!(kit.report()["neighbours_known"], 2, "the two static ones");
    let (outcome, _) = send(&mut kit, "left", &udp4("10.1.0.5", "10.2.0.7").build());
    assert_eq!(outcome.verdict, Verdict::Hold);
}

#[test]
fn a_scan_of_the_link_is_bounded() {
    let mut kit = Kit::new(changed(json!({ "max_neighbours": 64, "max_held": 10 })));
    let one = vec![udp4("10.1.0.5", "10.2.0.2").build(); 20];
    let held = kit.run("left", &one).iter().filter(|outcome| outcome.verdict == Verdict::Hold).count();
    assert_eq!(held, 8, "per neighbour");
    let scan: Vec<_> = (3..200).map(|n| udp4("10.1.0.5", &format!("10.2.0.{n}")).build()).collect();
    let outcomes = kit.run("left", &scan);
    let reasons: Vec<_> = outcomes.iter().map(|outcome| dropped(&kit, outcome)).collect();
    assert_eq!(kit.held(), 10, "in all");
    assert_eq!(
        outcomes.iter().filter(|outcome| outcome.emitted).count(),
        15,
        "a quarter of the table may be unanswered"
    );
    assert_eq!(reasons.iter().filter(|reason| *reason == "table-full").count(), scan.len() - 15);
    for _ in 0..120 {
        tick_after(&mut kit, 100);
    }
    assert_eq!(
        [kit.held(), kit.report()["neighbours_unknown"].as_u64().unwrap() as usize],
        [0, 1],
        "the idle gateway is left"
    );
    let (outcome, _) = send(&mut kit, "left", &udp4("10.1.0.5", "10.2.0.100").build());
    assert_eq!(outcome.verdict, Verdict::Hold, "there is room again");
}

#[test]
fn a_change_of_configuration_keeps_neighbours_and_waiting_packets() {
    let mut kit = Kit::new(config());
    let (known, waiting) = (udp4("10.1.0.5", "10.2.0.7").build(), udp4("10.1.0.5", "10.3.0.1").build());
    send(&mut kit, "left", &known);
    send(&mut kit, "right", &arp_reply("10.2.0.7", STATION));
    send(&mut kit, "left", &waiting);
    kit.reconfigure(changed(json!({ "max_held": 100 }))).unwrap();
    assert_forwarded(&send(&mut kit, "left", &known).0, &known, 1, RIGHT, STATION);
    let (_, resumed) = send(&mut kit, "right", &arp_reply("10.2.0.253", STATION));
    assert_forwarded(&resumed[0], &waiting, 1, RIGHT, STATION);
}

#[test]
fn packets_whose_network_went_away_are_dropped() {
    let mut kit = Kit::new(config());
    send(&mut kit, "left", &udp4("10.1.0.5", "10.2.0.7").build());
    assert_eq!(kit.held(), 1);
    kit.reconfigure(json!({ "addresses": [{ "port": "left", "address": "10.1.0.1/24" }] })).unwrap();
    let outcomes = kit.tick();
    assert_eq!(dropped(&kit, &outcomes[0]), "no-neighbour");
    assert_eq!(kit.held(), 0);
}

#[test]
fn a_neighbour_in_the_default_route_gets_a_hop_of_its_own() {
    // Everything is on the link: the default route has a port and no `via`.
    let mut kit = Kit::new(
        json!({ "addresses": [{ "port": "right", "address": "10.2.0.1/24" }], "routes": ["0.0.0.0/0 right"] }),
    );
    let packet = udp4("10.1.0.5", "192.0.2.7").build();
    assert_eq!(asked(&send(&mut kit, "left", &packet).1[0]).0, IpAddr::V4(v4("192.0.2.7")));
    send(&mut kit, "right", &arp_reply("192.0.2.7", STATION));
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, STATION);
    let other = udp4("10.1.0.5", "192.0.2.8").build();
    assert_eq!(send(&mut kit, "left", &other).0.verdict, Verdict::Hold);
}
