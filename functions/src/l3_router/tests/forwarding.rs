//! Routes, TTL, MTU.

use super::*;
use middlenet_sdk::wire::{Fragment, protocol};

#[test]
fn follows_the_longest_prefix_in_both_versions() {
    let mut kit = Kit::new(changed(json!({
        "routes": [
            { "to": "default", "via": "10.2.0.254" }, { "to": "::/0", "via": "2001:db8:2::fe" },
            { "to": "10.9.0.0/16", "via": "10.1.0.9" }, { "to": "10.9.1.128/25", "via": "10.2.0.254" },
            { "to": "2001:db8:9::/48", "via": "2001:db8:1::9" },
        ],
        "neighbours": [
            { "ip": "10.2.0.254", "mac": GATEWAY.to_string() }, { "ip": "2001:db8:2::fe", "mac": GATEWAY.to_string() },
            { "ip": "10.1.0.9", "mac": "02:00:00:00:01:09" }, { "ip": "2001:db8:1::9", "mac": "02:00:00:00:01:09" },
        ],
    })));
    let back = MacAddr([2, 0, 0, 0, 1, 9]);
    for (packet, port, src, dst) in [
        (udp4("10.1.0.5", "192.0.2.1").build(), 1, RIGHT, GATEWAY),
        (udp4("10.1.0.5", "10.9.1.127").build(), 0, LEFT, back),
        (udp4("10.1.0.5", "10.9.1.128").build(), 1, RIGHT, GATEWAY),
        (udp6("2001:db8:1::5", "2001:db8:77::1").build(), 1, RIGHT, GATEWAY),
        (udp6("2001:db8:1::5", "2001:db8:9:1::1").build(), 0, LEFT, back),
    ] {
        let (outcome, emitted) = send(&mut kit, "left", &packet);
        assert_forwarded(&outcome, &packet, port, src, dst);
        assert!(emitted.is_empty());
    }
    assert_eq!(kit.counter("forwarded"), 5);
}

#[test]
fn every_ttl_keeps_the_checksum_right() {
    let mut kit = Kit::new(config());
    let packets: Vec<_> = (2..=255)
        .flat_map(|ttl| (0..8).map(move |id| udp4("10.1.0.5", "192.0.2.1").ttl(ttl).ip_id(id * 8191).build()))
        .collect();
    for (outcome, packet) in kit.run("left", &packets).iter().zip(&packets) {
        assert_forwarded(outcome, packet, 1, RIGHT, GATEWAY);
    }
}

#[test]
fn a_full_burst_with_everything_in_it_keeps_its_order() {
    let mut kit = Kit::new(config());
    let packets: Vec<_> = (0..200u32)
        .map(|n| match n % 3 {
            0 => udp4("10.1.0.5", "192.0.2.1").ip_id(n as u16).build(),
            1 => udp6("2001:db8:1::5", "2001:db8:77::1").build(),
            _ => udp4("127.0.0.1", "192.0.2.1").build(),
        })
        .collect();
    let outcomes = kit.run("left", &packets);
    assert_eq!(outcomes.len(), packets.len());
    for (n, (outcome, packet)) in outcomes.iter().zip(&packets).enumerate() {
        match n % 3 {
            2 => assert_eq!(dropped(&kit, outcome), "martian"),
            _ => assert_forwarded(outcome, packet, 1, RIGHT, GATEWAY),
        }
    }
    assert_eq!(kit.counter("forwarded"), 134);
}

#[test]
fn used_up_hops_are_reported() {
    let mut kit = Kit::new(config());
    for ttl in [0, 1] {
        assert_eq!(refused(&mut kit, &udp4("10.1.0.5", "192.0.2.1").ttl(ttl).build(), "ttl-expired"), (11, 0, 0));
        assert_eq!(
            refused(&mut kit, &udp6("2001:db8:1::5", "2001:db8:7::1").ttl(ttl).build(), "ttl-expired"),
            (3, 0, 0)
        );
    }
    assert_eq!(kit.counter("icmp-errors"), 4);
}

#[test]
fn destinations_without_route_are_reported() {
    let mut kit = Kit::new(changed(json!({ "routes": [] })));
    assert_eq!(refused(&mut kit, &udp4("10.1.0.5", "192.0.2.1").build(), "no-route"), (3, 0, 0));
    assert_eq!(refused(&mut kit, &udp6("2001:db8:1::5", "2001:db8:7::1").build(), "no-route"), (1, 0, 0));
}

fn narrow_right() -> Kit {
    let mut ports = Kit::two_ports();
    ports[1].mtu = 1280;
    Kit::with_ports(config(), &ports).unwrap()
}

#[test]
fn packets_over_the_mtu_are_reported_where_they_must_stay_whole() {
    let mut kit = narrow_right();
    let payload = [7; 1281 - 28];
    let df = udp4("10.1.0.5", "192.0.2.1").payload(&payload).dont_fragment().build();
    assert_eq!(refused(&mut kit, &df, "too-big"), (3, 4, 1280));
    let v6 = udp6("2001:db8:1::5", "2001:db8:7::1").payload(&[7; 1281 - 48]).build();
    assert_eq!(refused(&mut kit, &v6, "too-big"), (2, 0, 1280));
    let fits = udp4("10.1.0.5", "192.0.2.1").payload(&payload[1..]).dont_fragment().build();
    assert_forwarded(&send(&mut kit, "left", &fits).0, &fits, 1, RIGHT, GATEWAY);
}

/// Puts fragments together again: payload and whether the last one says there is more.
fn reassemble(fragments: &[&Outcome], mtu: usize) -> (Vec<u8>, bool) {
    let (mut payload, mut more) = (Vec::new(), true);
    for fragment in fragments {
        assert_eq!(fragment.verdict, Verdict::Port(Port(1)));
        let bytes = &fragment.bytes;
        assert_eq!((&bytes[..6], &bytes[6..12]), (&GATEWAY.octets()[..], &RIGHT.octets()[..]));
        let layers = Layers::parse(bytes).unwrap();
        let ip = layers.ipv4(bytes).unwrap();
        ip.verify_checksum().unwrap();
        assert!(ip.total_len() <= mtu && ip.ttl() == 63);
        let expected = ip.fragment_offset_bytes() as usize - fragments_start(fragments);
        assert_eq!(expected, payload.len());
        payload.extend_from_slice(ip.payload());
        more = ip.more_fragments();
    }
    (payload, more)
}

fn fragments_start(fragments: &[&Outcome]) -> usize {
    let bytes = &fragments[0].bytes;
    Layers::parse(bytes).unwrap().ipv4(bytes).unwrap().fragment_offset_bytes().into()
}

#[test]
fn packets_that_may_be_cut_are_cut() {
    let mut kit = narrow_right();
    let data: Vec<u8> = (0..1470u32).map(|n| n as u8).collect();
    // An option that is copied into every fragment, one that is not, padding.
    let options = [0x94, 4, 0, 0, 7, 3, 4, 1];
    for options in [&[][..], &options] {
        let packet = udp4("10.1.0.5", "192.0.2.1").payload(&data[..1460]).ip_options(options).build();
        let (first, rest) = send(&mut kit, "left", &packet);
        let all: Vec<&Outcome> = std::iter::once(&first).chain(&rest).collect();
        assert_eq!(all.len(), 2);
        let (payload, more) = reassemble(&all, 1280);
        assert_eq!((payload.as_slice(), more), (&packet[34 + options.len()..], false));
        let later = Layers::parse(&all[1].bytes).unwrap();
        let copied: &[u8] = if options.is_empty() { &[] } else { &options[..4] };
        assert_eq!(later.ipv4(&all[1].bytes).unwrap().options(), copied);
    }
    assert_eq!([kit.counter("fragments"), kit.counter("forwarded")], [4, 2]);
}

#[test]
fn a_fragment_is_cut_into_smaller_ones() {
    let mut kit = narrow_right();
    let data = [9; 1400];
    let middle = Fragment { id: 77, offset_bytes: 1600, more: true };
    let packet =
        to_left().ipv4(v4("10.1.0.5"), v4("192.0.2.1")).protocol(protocol::UDP).fragment(middle).payload(&data).build();
    let (first, rest) = send(&mut kit, "left", &packet);
    let all: Vec<&Outcome> = std::iter::once(&first).chain(&rest).collect();
    assert_eq!(fragments_start(&all), 1600);
    assert_eq!(reassemble(&all, 1280), (data.to_vec(), true));
}

#[test]
fn errors_are_limited_and_refill() {
    let mut kit = Kit::new(changed(json!({ "icmp_errors_per_s": 10 })));
    let packets = vec![udp4("10.1.0.5", "192.0.2.1").ttl(1).build(); 50];
    let errors = |outcomes: Vec<Outcome>| outcomes.iter().filter(|outcome| outcome.emitted).count();
    assert_eq!(errors(kit.run("left", &packets)), 10);
    assert_eq!(kit.counter("icmp-errors-withheld"), 40);
    kit.advance(Duration::from_millis(500));
    assert_eq!(errors(kit.run("left", &packets)), 5);
    let mut silent = Kit::new(changed(json!({ "icmp_errors_per_s": 0 })));
    assert_eq!(errors(silent.run("left", &packets)), 0);
}

#[test]
fn no_error_about_an_error_a_group_or_a_later_fragment() {
    let mut kit = Kit::new(config());
    let original = udp4("10.1.0.5", "192.0.2.1").build();
    let error = to_left().ipv4(v4("10.1.0.5"), v4("192.0.2.1")).icmp(3, 1, 0).payload(&original[14..]).ttl(1).build();
    let later = Fragment { id: 1, offset_bytes: 800, more: false };
    let fragment =
        to_left().ipv4(v4("10.1.0.5"), v4("192.0.2.1")).protocol(17).fragment(later).payload(&[0; 40]).ttl(1).build();
    let error6 =
        to_left().ipv6(v6("2001:db8:1::5"), v6("2001:db8:7::1")).icmp(1, 0, 0).payload(&[0; 48]).ttl(1).build();
    for packet in [error, fragment, error6] {
        let (outcome, emitted) = send(&mut kit, "left", &packet);
        assert_eq!((dropped(&kit, &outcome).as_str(), emitted.len()), ("ttl-expired", 0));
    }
    assert_eq!([kit.counter("icmp-errors"), kit.counter("icmp-errors-withheld")], [0, 3]);
}

#[test]
fn without_resolution_the_gateway_or_the_old_address_is_used() {
    let base = json!({ "routes": ["0.0.0.0/0 right", "2001:db8::/32 right"], "resolve": false, "gateway_mac": GATEWAY.to_string() });
    let mut kit = Kit::new(base.clone());
    for packet in [udp4("10.1.0.5", "192.0.2.1").build(), udp6("2001:db8:1::5", "2001:db8:7::1").build()] {
        assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, GATEWAY);
    }
    let mut kept = base;
    kept.as_object_mut().unwrap().remove("gateway_mac");
    let mut kit = Kit::new(kept);
    for packet in [udp4("10.1.0.5", "192.0.2.1").build(), udp6("2001:db8:1::5", "2001:db8:7::1").build()] {
        assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, LEFT);
    }
}

#[test]
fn a_static_neighbour_counts_without_resolution_too() {
    let mut kit = Kit::new(json!({
        "addresses": [{ "port": "right", "address": "10.2.0.1/24" }], "resolve": false, "gateway_mac": GATEWAY.to_string(),
        "neighbours": [{ "ip": "10.2.0.9", "mac": "02:00:00:00:02:09" }],
    }));
    for (dst, mac) in [("10.2.0.9", MacAddr([2, 0, 0, 0, 2, 9])), ("10.2.0.10", GATEWAY)] {
        let packet = udp4("10.1.0.5", dst).build();
        assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, mac);
    }
}
