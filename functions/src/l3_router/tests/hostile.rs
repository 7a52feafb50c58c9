//! Packets that a router must refuse, and any bytes at all.

use super::*;
use proptest::prelude::*;

#[test]
fn martians_groups_and_strangers_are_refused() {
    let mut kit = Kit::new(config());
    let mut cases = Vec::new();
    for src in ["127.0.0.1", "224.0.0.1", "0.1.2.3", "0.0.0.0", "240.0.0.1", "255.255.255.255"] {
        cases.push((udp4(src, "192.0.2.1").build(), "martian"));
    }
    for dst in ["127.0.0.1", "0.0.0.0", "240.0.0.1"] {
        cases.push((udp4("10.1.0.5", dst).build(), "martian"));
    }
    for dst in ["224.0.0.5", "239.1.1.1", "255.255.255.255", "10.2.0.255", "10.2.0.0"] {
        cases.push((udp4("10.1.0.5", dst).build(), "group"));
    }
    for (src, dst) in [
        ("::1", "2001:db8:7::1"),
        ("ff02::1", "2001:db8:7::1"),
        ("2001:db8:1::5", "::1"),
        ("2001:db8:1::5", "::"),
        ("fe80::5", "2001:db8:7::1"),
        ("::", "2001:db8:7::1"),
        ("2001:db8:1::5", "fe80::9"),
    ] {
        cases.push((udp6(src, dst).build(), "martian"));
    }
    cases.push((udp6("2001:db8:1::5", "ff05::1").build(), "group"));
    let plain = udp4("10.1.0.5", "192.0.2.1");
    cases.push((plain.mac(HOST, MacAddr([2, 9, 9, 9, 9, 9])).build(), "other-host"));
    cases.push((plain.mac(HOST, MacAddr::BROADCAST).build(), "group"));
    cases.push((udp6("2001:db8:1::5", "2001:db8:7::1").mac(HOST, MacAddr::BROADCAST).build(), "group"));
    cases.push((plain.ip_options(&[131, 7, 4, 10, 9, 9, 9, 0]).build(), "source-route"));
    cases.push((plain.ip_options(&[1, 137, 7, 4, 10, 9, 9, 9]).build(), "source-route"));
    cases.push((plain.vlan(middlenet_sdk::wire::VlanTag::customer(7)).build(), "unsupported"));
    cases.push((plain.ethertype(0x88cc).build(), "unsupported"));
    let original = udp4("10.1.0.5", "192.0.2.1").build();
    for (at, value, reason) in [
        (14, 0x55, "malformed"),
        (14, 0x44, "malformed"),
        (16, 0x7f, "malformed"),
        (17, 10, "malformed"),
        (24, 0, "bad-checksum"),
        (26, 11, "bad-checksum"),
    ] {
        let mut packet = original.clone();
        packet[at] = value;
        cases.push((packet, reason));
    }
    cases.push((original[..33].to_vec(), "malformed"));
    cases.push((original[..13].to_vec(), "malformed"));
    for (packet, reason) in cases {
        let (outcome, emitted) = send(&mut kit, "left", &packet);
        assert_eq!((dropped(&kit, &outcome).as_str(), emitted.len()), (reason, 0), "{packet:02x?}");
    }
    assert_eq!(kit.counter("forwarded"), 0);
}

#[test]
fn padding_is_no_error_and_other_options_are_routed() {
    let mut kit = Kit::new(config());
    let mut padded = to_left().ipv4(v4("10.1.0.5"), v4("192.0.2.1")).udp(1, 2).build();
    padded.resize(60, 0xaa);
    let options = udp4("10.1.0.5", "192.0.2.1").ip_options(&[7, 7, 4, 0, 0, 0, 0, 0]).build();
    for packet in [padded, options] {
        assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, GATEWAY);
    }
}

/// RFC 8200, section 4: of the extension headers a router reads hop-by-hop options at most.
#[test]
fn extension_headers_that_are_cut_off_are_no_matter_of_the_router() {
    const NEXT_HEADER: usize = 20;
    const HOP_LIMIT: usize = 21;
    let mut kit = Kit::new(config());
    for header in [43, 51, 60, 135] {
        let mut packet = udp6("2001:db8:1::5", "2001:db8:7::1").build();
        packet[NEXT_HEADER] = header;
        assert!(Layers::parse(&packet).is_err(), "header {header} reaches beyond the end");
        let (outcome, _) = send(&mut kit, "left", &packet);
        assert_eq!(outcome.verdict, Verdict::Port(Port(1)), "header {header}");
        packet[HOP_LIMIT] -= 1;
        assert_eq!(outcome.bytes[12..], packet[12..], "header {header}");
    }
}

#[test]
fn any_station_is_served_where_the_configuration_or_the_port_says_so() {
    let stranger = udp4("10.1.0.5", "192.0.2.1").mac(HOST, MacAddr([2, 9, 9, 9, 9, 9])).build();
    let mut kit = Kit::new(changed(json!({ "accept_any_mac": true })));
    assert_forwarded(&send(&mut kit, "left", &stranger).0, &stranger, 1, RIGHT, GATEWAY);
    let mut ports = Kit::two_ports();
    ports[0].mac = [0; 6];
    let mut kit = Kit::with_ports(config(), &ports).unwrap();
    assert_forwarded(&send(&mut kit, "left", &stranger).0, &stranger, 1, RIGHT, GATEWAY);
    let group = udp4("10.1.0.5", "192.0.2.1").mac(HOST, MacAddr::BROADCAST).build();
    let (outcome, _) = send(&mut kit, "left", &group);
    assert_eq!(dropped(&kit, &outcome), "group");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Packets with a few bytes changed: no panic, none lost, none forwarded with a wrong checksum or too many hops.
    #[test]
    fn changed_bytes_never_confuse_it(
        kind in 0usize..8,
        changes in prop::collection::vec((0usize..100, any::<u8>()), 0..6),
        cut in 0usize..140,
        port in prop::sample::select(vec!["left", "right"]),
    ) {
        let mut ports = Kit::two_ports();
        ports[1].mtu = 68;
        let mut kit = Kit::with_ports(config(), &ports).unwrap();
        let mut room = [0; 128];
        let solicit = middlenet_sdk::wire::build::NeighborSolicit {
            src_mac: HOST, src: v6("2001:db8:1::5"), target: v6("2001:db8:1::1"), to: None,
            tags: middlenet_sdk::wire::vlan::VlanTags::EMPTY,
        }.emit(&mut room).unwrap();
        let mut packet = match kind {
            0 => udp4("10.1.0.5", "192.0.2.1").build(),
            1 => udp6("2001:db8:1::5", "2001:db8:7::1").build(),
            2 => udp4("10.1.0.5", "10.2.0.7").ip_options(&[0x94, 4, 0, 0, 7, 3, 4, 1]).build(),
            3 => to_left().ipv4(v4("10.1.0.5"), v4("10.1.0.1")).echo_request(1, 2).payload(&[0; 30]).build(),
            4 => to_left().ipv6(v6("2001:db8:1::5"), v6("2001:db8:1::1")).echo_request(1, 2).payload(&[0; 30]).build(),
            5 => PacketBuilder::new().arp_request(HOST, v4("10.1.0.5"), v4("10.1.0.1")).build(),
            6 => room[..solicit].to_vec(),
            _ => udp4("10.1.0.5", "192.0.2.1").ip_options(&[0x94, 4, 0, 0, 7, 3, 4, 1]).payload(&[1; 100]).build(),
        };
        for (at, value) in &changes {
            if let Some(byte) = packet.get_mut(*at) {
                *byte = *value;
            }
        }
        // Repairs the checksum, so that more than that check is reached.
        if packet[12..14] == [8, 0] && let Ok(mut ip) = middlenet_sdk::wire::Ipv4Mut::parse(&mut packet[14..]) {
            ip.fill_checksum();
        }
        packet.truncate(packet.len().min(cut + 20));
        let outcomes = kit.run(port, &[&packet]);
        prop_assert_eq!(outcomes.iter().filter(|outcome| !outcome.emitted).count(), 1);
        let first = &outcomes[0];
        if let Verdict::Port(_) = first.verdict {
            // A router reads the network's header alone: what follows it may be cut off or senseless.
            if first.bytes[12..14] == [8, 0] {
                let ip = Ipv4::parse(&first.bytes[14..]).unwrap();
                prop_assert!(ip.verify_checksum().is_ok());
                prop_assert_eq!(ip.ttl(), packet[22] - 1);
            } else {
                prop_assert_eq!(Ipv6::parse(&first.bytes[14..]).unwrap().hop_limit(), packet[21] - 1);
            }
        }
        for _ in 0..60 {
            kit.advance(Duration::from_millis(100));
            kit.tick();
        }
        prop_assert_eq!(kit.held(), 0);
    }

    #[test]
    fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..200), ethertype in prop::sample::select(vec![0x0800u16, 0x86dd, 0x0806, 0x8100])) {
        let mut kit = Kit::new(changed(json!({ "accept_any_mac": true })));
        let mut frame = bytes;
        if frame.len() >= 14 {
            frame[0] &= 0xfe;
            frame[12..14].copy_from_slice(&ethertype.to_be_bytes());
        }
        let outcomes = kit.run("left", &[&frame]);
        prop_assert_eq!(outcomes.iter().filter(|outcome| !outcome.emitted).count(), 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, ..ProptestConfig::default() })]

    /// The fast path and the slow path agree: options of no meaning send a packet the slow way.
    #[test]
    fn both_paths_agree(packets in prop::collection::vec((any::<u32>(), any::<u32>(), any::<u8>()), 500)) {
        let mut kit = Kit::new(changed(json!({ "routes": ["10.0.0.0/8 10.2.0.254", "128.0.0.0/2 10.2.0.254"] })));
        for (src, dst, ttl) in packets {
            let plain = to_left().ipv4(src.into(), dst.into()).udp(1, 2).ttl(ttl);
            let fast = kit.run("left", &[plain.build()]).remove(0);
            let slow = kit.run("left", &[plain.ip_options(&[1, 1, 1, 0]).build()]).remove(0);
            prop_assert_eq!(fast.verdict, slow.verdict);
            if matches!(fast.verdict, Verdict::Port(_)) {
                prop_assert_eq!(&fast.bytes[..14], &slow.bytes[..14]);
                prop_assert_eq!(&fast.bytes[26..34], &slow.bytes[26..34]);
                prop_assert_eq!(fast.bytes[22], slow.bytes[22]);
            }
        }
    }
}
