use super::*;
use middlenet_sdk::testkit::{Outcome, Testkit};
use middlenet_sdk::wire::{FlowKey, Fragment, MacAddr, PacketBuilder, TcpFlags, VlanTag};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

mod drawn;

const A: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const B: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const A6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1);
const B6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
const SYN_ACK: TcpFlags = TcpFlags(0x12);

fn kit(config: Value) -> Testkit<Firewall> {
    Testkit::new(config)
}

fn web() -> Testkit<Firewall> {
    kit(json!({"rules": [{"proto": "tcp", "dst_port": [80, 443], "direction": "forward", "allow": true}]}))
}

fn tcp(there: bool, flags: TcpFlags, seq: u32, ack: u32) -> Vec<u8> {
    let builder = PacketBuilder::new();
    let builder = if there { builder.ipv4(A, B).tcp(1000, 80, flags) } else { builder.ipv4(B, A).tcp(80, 1000, flags) };
    builder.tcp_numbers(seq, ack).tcp_window(1000).build()
}

fn udp(there: bool) -> Vec<u8> {
    let builder = PacketBuilder::new();
    if there { builder.ipv4(A, B).udp(5000, 53).build() } else { builder.ipv4(B, A).udp(53, 5000).build() }
}

fn one(kit: &mut Testkit<Firewall>, port: &str, packet: &[u8]) -> Outcome {
    kit.run(port, &[packet]).remove(0)
}

/// `pass`, the drop reason's name, or `reply`.
fn fate(kit: &mut Testkit<Firewall>, port: &str, packet: &[u8]) -> String {
    match one(kit, port, packet).verdict {
        Verdict::Next => "pass".into(),
        Verdict::Drop(reason) => kit.reason(reason),
        other => format!("{other:?}").to_lowercase(),
    }
}

fn handshake(kit: &mut Testkit<Firewall>) {
    assert_eq!(fate(kit, "left", &tcp(true, TcpFlags::SYN, 100, 0)), "pass");
    assert_eq!(fate(kit, "right", &tcp(false, SYN_ACK, 500, 101)), "pass");
    assert_eq!(fate(kit, "left", &tcp(true, TcpFlags::ACK, 101, 501)), "pass");
}

#[test]
fn answers_pass_and_strangers_do_not() {
    let mut kit = web();
    assert_eq!(fate(&mut kit, "right", &tcp(false, SYN_ACK, 500, 101)), "no-connection");
    handshake(&mut kit);
    assert_eq!(fate(&mut kit, "right", &tcp(false, TcpFlags::ACK, 501, 101)), "pass");
    assert_eq!(fate(&mut kit, "left", &udp(true)), "denied");
    let to_22 = PacketBuilder::new().ipv4(A, B).tcp(1000, 22, TcpFlags::SYN).build();
    assert_eq!(fate(&mut kit, "left", &to_22), "denied");
    assert_eq!(
        fate(&mut kit, "left", &tcp(true, TcpFlags::SYN, 100, 0)),
        "pass",
        "a retransmission is tracked, not ruled"
    );
    assert_eq!((kit.counter("denied"), kit.counter("allowed")), (2, 1));
}

#[test]
fn a_packet_of_a_connection_from_another_port_needs_the_rules() {
    let mut kit = web();
    handshake(&mut kit);
    let forged = tcp(true, TcpFlags::ACK, 101, 501);
    assert_eq!(fate(&mut kit, "right", &forged), "denied", "the rule allows forward only");
    assert_eq!(fate(&mut kit, "left", &forged), "pass");
}

#[test]
fn tcp_without_syn_or_with_impossible_flags_is_refused() {
    let mut kit = web();
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::ACK, 1, 1)), "no-connection");
    for flags in [0x00, 0x03, 0x06, 0x29, 0x3f] {
        assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags(flags), 1, 1)), "malformed", "{flags:#x}");
    }
    let mut loose = self::kit(json!({"tcp_loose": true, "rules": [{"proto": "tcp", "allow": true}]}));
    assert_eq!(fate(&mut loose, "left", &tcp(true, TcpFlags::ACK, 1, 1)), "pass");
    assert_eq!(fate(&mut loose, "right", &tcp(false, TcpFlags::ACK, 1, 1)), "pass");
    assert_eq!(loose.counter("allowed"), 1);
}

#[test]
fn a_reset_counts_only_with_the_right_sequence_number() {
    let mut kit = web();
    handshake(&mut kit);
    // Side A expects 501 and offers 1000 bytes.
    assert_eq!(fate(&mut kit, "right", &tcp(false, TcpFlags::RST, 501 + 1000, 0)), "invalid-segment");
    assert_eq!(fate(&mut kit, "right", &tcp(false, TcpFlags::RST, 500, 0)), "invalid-segment");
    assert_eq!(
        fate(&mut kit, "right", &tcp(false, TcpFlags::RST, 900, 0)),
        "pass",
        "in the window: the host challenges it"
    );
    kit.advance(Duration::from_secs(60));
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::ACK, 101, 501)), "pass", "and the connection lives on");
    assert_eq!(fate(&mut kit, "right", &tcp(false, TcpFlags::RST, 501, 0)), "pass");
    kit.advance(Duration::from_secs(11));
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::ACK, 101, 501)), "no-connection");
}

#[test]
fn a_reset_to_a_syn_must_acknowledge_it() {
    let mut kit = web();
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::SYN, 100, 0)), "pass");
    let reset = TcpFlags(0x14);
    assert_eq!(fate(&mut kit, "right", &tcp(false, reset, 0, 77)), "invalid-segment");
    assert_eq!(fate(&mut kit, "right", &tcp(false, SYN_ACK, 0, 77)), "invalid-segment");
    assert_eq!(fate(&mut kit, "right", &tcp(false, reset, 0, 101)), "pass");
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::SYN, 900, 0)), "pass", "tried again at once");
}

#[test]
fn closing_shortens_the_life_of_a_connection() {
    let fin_ack = TcpFlags(0x11);
    let mut kit = web();
    handshake(&mut kit);
    kit.advance(Duration::from_secs(7000));
    assert_eq!(fate(&mut kit, "left", &tcp(true, fin_ack, 101, 501)), "pass");
    kit.advance(Duration::from_secs(100));
    assert_eq!(fate(&mut kit, "right", &tcp(false, fin_ack, 501, 102)), "pass");
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::ACK, 102, 502)), "pass");
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::SYN, 9000, 0)), "pass", "the ports may be used again");
    assert_eq!(kit.report()["connections"], 1);
    kit.advance(Duration::from_secs(31));
    assert_eq!(
        fate(&mut kit, "right", &tcp(false, SYN_ACK, 1, 9001)),
        "no-connection",
        "an unanswered SYN ends sooner"
    );
    kit.tick();
    assert_eq!(kit.counter("connections"), 0);
}

#[test]
fn udp_answers_pass_while_the_conversation_lives() {
    let mut kit = kit(json!({"rules": [{"proto": "udp", "direction": "forward", "allow": true}]}));
    assert_eq!(fate(&mut kit, "right", &udp(false)), "denied");
    assert_eq!(fate(&mut kit, "left", &udp(true)), "pass");
    kit.advance(Duration::from_secs(29));
    assert_eq!(fate(&mut kit, "right", &udp(false)), "pass");
    kit.advance(Duration::from_secs(179));
    assert_eq!(fate(&mut kit, "right", &udp(false)), "pass");
    kit.advance(Duration::from_secs(181));
    assert_eq!(fate(&mut kit, "right", &udp(false)), "denied");
}

#[test]
fn pings_are_answered_once_asked_for_and_errors_must_quote_a_connection() {
    let mut kit = kit(json!({"rules": [{"direction": "forward", "allow": true}]}));
    let reply = PacketBuilder::new().ipv4(B, A).echo_reply(7, 1).build();
    assert_eq!(fate(&mut kit, "right", &reply), "no-connection");
    assert_eq!(fate(&mut kit, "left", &PacketBuilder::new().ipv4(A, B).echo_request(7, 1).build()), "pass");
    assert_eq!(fate(&mut kit, "right", &reply), "pass");
    let ask_back = PacketBuilder::new().ipv4(B, A).echo_request(7, 1).build();
    assert_eq!(fate(&mut kit, "right", &ask_back), "denied", "a query is no answer");
    let error = |quoted: &[u8], to: Ipv4Addr| {
        let router = Ipv4Addr::new(198, 51, 100, 1);
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 0];
        message.extend_from_slice(&quoted[14..]);
        PacketBuilder::new().ipv4(router, to).protocol(protocol::ICMPV4).payload(&message).build()
    };
    assert_eq!(fate(&mut kit, "right", &error(&udp(true), A)), "denied");
    assert_eq!(fate(&mut kit, "left", &udp(true)), "pass");
    assert_eq!(fate(&mut kit, "right", &error(&udp(true), A)), "pass");
    assert_eq!(fate(&mut kit, "right", &error(&udp(true)[..14 + 28], A)), "pass", "eight bytes quoted are enough");
    assert_eq!(fate(&mut kit, "right", &error(&udp(true), Ipv4Addr::new(10, 0, 0, 9))), "denied", "not its sender");
    assert_eq!(kit.counter("related"), 2);
}

#[test]
fn ipv6_vlans_options_and_extension_headers_are_seen_through() {
    let config = json!({"rules": [
        {"proto": "udp", "dst": "2001:db8::/32", "dst_port": "50-60", "allow": true},
        {"proto": "udp", "src": "10.0.0.0/24", "dst_port": 53, "allow": true},
    ]});
    let mut kit = kit(config);
    let options = [8, 0, 1, 4, 0, 0, 0, 0];
    for builder in [PacketBuilder::new(), PacketBuilder::new().vlan(VlanTag::service(3)).vlan(VlanTag::customer(7))] {
        let v6 = builder.ipv6(A6, B6).extensions(protocol::HOP_BY_HOP, &[17, 0, 1, 4, 0, 0, 0, 0]);
        assert_eq!(fate(&mut kit, "left", &v6.udp(9, 53).build()), "pass");
        assert_eq!(fate(&mut kit, "left", &v6.udp(9, 61).build()), "denied");
        assert_eq!(fate(&mut kit, "right", &builder.ipv6(B6, A6).udp(53, 9).build()), "pass");
        assert_eq!(fate(&mut kit, "left", &builder.ipv4(A, B).ip_options(&options).udp(9, 53).build()), "pass");
    }
    let other_vlan = PacketBuilder::new().vlan(VlanTag::customer(9)).ipv6(B6, A6).udp(53, 9).build();
    assert_eq!(fate(&mut kit, "right", &other_vlan), "denied", "VLANs are apart");
    let mapped = Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped();
    assert_eq!(fate(&mut kit, "left", &PacketBuilder::new().ipv6(mapped, B6).udp(9, 53).build()), "malformed");
}

#[test]
fn arp_and_neighbour_discovery_pass_by_default_and_other_ethertypes_do_not() {
    let mac = MacAddr::new(2, 0, 0, 0, 0, 9);
    let arp = PacketBuilder::new().arp_request(mac, A, B).build();
    let solicit = |ttl| {
        let message = [135, 0, 0, 0, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
        PacketBuilder::new().ipv6(A6, B6).ttl(ttl).protocol(protocol::ICMPV6).payload(&message).build()
    };
    let lldp = PacketBuilder::new().ethertype(0x88cc).payload(&[0; 46]).build();
    let mut kit = self::kit(json!({}));
    assert_eq!(fate(&mut kit, "left", &arp), "pass");
    assert_eq!(fate(&mut kit, "right", &solicit(255)), "pass");
    assert_eq!(fate(&mut kit, "right", &solicit(254)), "denied", "it was routed");
    assert_eq!(fate(&mut kit, "left", &lldp), "denied");
    let mut kit = self::kit(json!({"arp": "drop", "non_ip": "allow", "default": "allow"}));
    assert_eq!(fate(&mut kit, "left", &arp), "denied");
    assert_eq!(fate(&mut kit, "right", &solicit(255)), "denied");
    assert_eq!(fate(&mut kit, "left", &lldp), "pass");
}

#[test]
fn later_fragments_follow_the_first() {
    let fragment = |v6: bool, id, offset_bytes: u16, port| {
        let place = Fragment { id, offset_bytes, more: offset_bytes == 0 };
        let builder = PacketBuilder::new();
        let builder = if v6 { builder.ipv6(A6, B6) } else { builder.ipv4(A, B) };
        builder.udp(9, port).payload(&[1; 24]).fragment(place).build()
    };
    let rules = json!([{"proto": "udp", "dst_port": 53, "allow": true}]);
    for v6 in [false, true] {
        let mut kit = kit(json!({"rules": rules}));
        assert_eq!(fate(&mut kit, "left", &fragment(v6, 1, 32, 53)), "fragment-unknown");
        assert_eq!(fate(&mut kit, "left", &fragment(v6, 1, 0, 53)), "pass");
        assert_eq!(fate(&mut kit, "left", &fragment(v6, 1, 32, 53)), "pass");
        assert_eq!(fate(&mut kit, "left", &fragment(v6, 2, 0, 54)), "denied");
        assert_eq!(fate(&mut kit, "left", &fragment(v6, 2, 32, 54)), "fragment-unknown");
        kit.advance(Duration::from_secs(31));
        assert_eq!(fate(&mut kit, "left", &fragment(v6, 1, 64, 53)), "fragment-unknown");
    }
    let mut kit = kit(json!({"rules": rules, "fragments": "drop"}));
    assert_eq!(fate(&mut kit, "left", &fragment(false, 1, 0, 53)), "denied");
    let mut kit = self::kit(json!({"rules": rules, "fragments": "allow"}));
    assert_eq!(fate(&mut kit, "left", &fragment(false, 1, 32, 53)), "pass");
}

#[test]
fn rejected_packets_are_answered() {
    let mut kit = kit(json!({"default": "reject", "stateful": false}));
    let out = one(&mut kit, "left", &tcp(true, TcpFlags::SYN, 100, 0));
    assert_eq!(out.verdict, Verdict::Reply);
    let layers = Layers::parse(&out.bytes).unwrap();
    layers.verify_checksums(&out.bytes).unwrap();
    let reset = layers.tcp(&out.bytes).unwrap();
    assert!(reset.flags().rst() && reset.flags().ack());
    assert_eq!((reset.src_port(), reset.dst_port(), reset.seq(), reset.ack()), (80, 1000, 0, 101));
    assert_eq!(layers.ipv4(&out.bytes).unwrap().dst(), A);

    let asked = PacketBuilder::new().vlan(VlanTag::customer(7)).ipv6(A6, B6).udp(9, 53).payload(&[3; 1400]).build();
    let out = one(&mut kit, "left", &asked);
    let layers = Layers::parse(&out.bytes).unwrap();
    layers.verify_checksums(&out.bytes).unwrap();
    let icmp = layers.icmpv6(&out.bytes).unwrap();
    assert_eq!((out.verdict, icmp.icmp_type(), icmp.code(), layers.vid()), (Verdict::Reply, 1, 1, Some(7)));
    assert_eq!(layers.end - layers.l3_offset, 1280);
    assert_eq!(FlowKey::of_quoted(&layers, &out.bytes).unwrap(), FlowKey::parse(&asked).unwrap());

    let out = one(&mut kit, "left", &udp(true));
    let layers = Layers::parse(&out.bytes).unwrap();
    layers.verify_checksums(&out.bytes).unwrap();
    let icmp = layers.icmpv4(&out.bytes).unwrap();
    assert_eq!((icmp.icmp_type(), icmp.code()), (3, 13));
    // Not about errors, resets or to groups.
    assert_eq!(fate(&mut kit, "left", &out.bytes), "denied");
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::RST, 1, 1)), "denied");
    let group = PacketBuilder::new().ipv4(A, Ipv4Addr::new(224, 0, 0, 5)).udp(1, 2).build();
    assert_eq!(fate(&mut kit, "left", &group), "denied");
    let answered = kit.run("left", &vec![udp(true); 2000]).iter().filter(|o| o.verdict == Verdict::Reply).count();
    assert_eq!(answered, 1000 - 3, "a thousand answers a second at most");
}

#[test]
fn a_flood_of_syns_does_not_end_connections() {
    let mut kit = kit(json!({"rules": [{"proto": "tcp", "allow": true}], "connections": 64, "half_open": 16}));
    handshake(&mut kit);
    let flood: Vec<_> = (0..1000u32)
        .map(|n| PacketBuilder::new().ipv4(Ipv4Addr::from(0x0b00_0000 + n), B).tcp(9, 80, TcpFlags::SYN).build())
        .collect();
    assert!(kit.run("right", &flood).iter().all(|out| out.verdict == Verdict::Next));
    assert_eq!(fate(&mut kit, "left", &tcp(true, TcpFlags::ACK, 101, 501)), "pass");
    kit.tick();
    assert_eq!((kit.counter("half-open"), kit.counter("connections")), (16, 17));
    assert_eq!(kit.counter("evicted"), 1000 - 16);
}

#[test]
fn a_table_full_of_answered_connections_refuses_new_ones() {
    let mut kit = kit(json!({"rules": [{"allow": true}], "connections": 2}));
    for port in [1, 2] {
        kit.run("left", &[PacketBuilder::new().ipv4(A, B).udp(port, 53).build()]);
        kit.run("right", &[PacketBuilder::new().ipv4(B, A).udp(53, port).build()]);
    }
    assert_eq!(fate(&mut kit, "left", &PacketBuilder::new().ipv4(A, B).udp(3, 53).build()), "table-full");
    kit.advance(Duration::from_secs(200));
    assert_eq!(fate(&mut kit, "left", &PacketBuilder::new().ipv4(A, B).udp(3, 53).build()), "pass");
}

#[test]
fn connections_outlive_a_change_of_rules() {
    let mut kit = web();
    handshake(&mut kit);
    kit.reconfigure(json!({"default": "drop", "connections": 1000})).unwrap();
    assert_eq!(fate(&mut kit, "right", &tcp(false, TcpFlags::ACK, 501, 101)), "pass");
    let again = PacketBuilder::new().ipv4(A, B).tcp(1001, 80, TcpFlags::SYN).build();
    assert_eq!(fate(&mut kit, "left", &again), "denied");
}

#[test]
fn hits_are_reported_per_rule() {
    let mut kit = kit(json!({"stateful": false, "rules": [
        {"name": "dns", "proto": "udp", "dst_port": 53, "allow": true}, {"proto": "udp", "allow": false}]}));
    kit.run("left", &[udp(true), udp(true), udp(false), tcp(true, TcpFlags::SYN, 0, 0)]);
    let report = kit.report();
    assert_eq!(report["rules"], json!([{"rule": 1, "name": "dns", "hits": 2}, {"rule": 2, "name": null, "hits": 1}]));
    assert_eq!(report["default_hits"], 1);
}

#[test]
fn configuration_errors_name_the_rule_and_the_remedy() {
    let cases = [
        (json!({"rules": [{"proto": "tcp"}]}), "does not say what to do", "allow: true"),
        (json!({"rules": [{"allow": true, "reject": true}]}), "both allows and rejects", "keep one"),
        (json!({"rules": [{"allow": true}, {"proto": "tpc", "allow": true}]}), "rule 2: `proto` tpc", "tcp, udp"),
        (json!({"rules": [{"dst_port": 70000, "allow": true}]}), "70000 is no port", "65535"),
        (json!({"rules": [{"dst_port": "9-1", "allow": true}]}), "ends before it begins", "range"),
        (json!({"rules": [{"proto": "icmp", "dst_port": 1, "allow": true}]}), "protocol that has none", "proto: tcp"),
        (json!({"rules": [{"src": "10.0.0.1/8", "allow": true}]}), "beyond its prefix length", "10.0.0.0/8"),
        (json!({"rules": [{"src": "10.0.0.0/33", "allow": true}]}), "above 32", "prefix"),
        (json!({"rules": [{"src": "10.0.0.0/8", "dst": "::/0", "allow": true}]}), "different IP versions", "split"),
        (json!({"rules": [{"ingress": "wan", "allow": true}]}), "no port `wan`", "left, right"),
        (
            json!({"rules": [{"ingress": "right", "direction": "forward", "allow": true}]}),
            "no port is both",
            "one of the two",
        ),
        (json!({"rules": [{"tcp_flags": "syn,akc", "allow": true}]}), "`akc` is no TCP flag", "syn,!ack"),
        (json!({"rules": [{"proto": "udp", "tcp_flags": "syn", "allow": true}]}), "another protocol", "proto: tcp"),
        (json!({"rules": [{"icmp_type": "pong", "allow": true}]}), "pong is no ICMP type", "echo-request"),
        (json!({"connections": 0}), "`connections` of 0", "bytes"),
    ];
    for (config, message, hint) in cases {
        let error = Testkit::<Firewall>::try_new(config.clone()).err().unwrap_or_else(|| panic!("accepted: {config}"));
        assert!(error.message.contains(message), "{}", error.message);
        assert!(error.hint.as_deref().is_some_and(|h| h.contains(hint)), "{:?} lacks {hint}", error.hint);
    }
    let unknown = Testkit::<Firewall>::try_new(json!({"rules": [{"dport": 1, "allow": true}]})).err().unwrap();
    assert!(unknown.message.contains("dport"), "{}", unknown.message);
}

#[test]
fn a_rule_steers_both_directions_of_a_flow() {
    let config = json!({
        "steer_s": 5,
        "rules": [
            { "src": "192.0.2.0/24", "steer": "inspect", "allow": true },
            { "src": "198.51.100.0/24", "steer": "nowhere", "allow": false },
            { "allow": true },
        ],
    });
    let mut kit = Testkit::<Firewall>::with_steering(config.clone(), &["inspect", "nowhere"]).unwrap();
    let syn = |src: &str| {
        PacketBuilder::new()
            .ipv4(src.parse().unwrap(), "10.0.0.2".parse().unwrap())
            .tcp(1000, 80, TcpFlags::SYN)
            .build()
    };
    let outcomes = kit.run("left", &[syn("192.0.2.1"), syn("198.51.100.1"), syn("203.0.113.1")]);
    let passed: Vec<_> = outcomes.iter().map(|outcome| outcome.verdict == Verdict::Next).collect();
    assert_eq!(passed, [true, false, true]);
    let steered = kit.steered();
    let flows: Vec<_> = steered.iter().map(|f| (f.src.to_string(), f.dst_port, f.to, f.lifetime_ms)).collect();
    assert_eq!(
        flows,
        [
            ("192.0.2.1".to_owned(), 80, Some(0), 5000),
            ("10.0.0.2".to_owned(), 1000, Some(0), 5000),
            ("198.51.100.1".to_owned(), 80, Some(1), 5000),
            ("10.0.0.2".to_owned(), 1000, Some(1), 5000),
        ]
    );
    kit.tick();
    assert_eq!(
        (kit.counter("steered"), kit.counter("connections")),
        (2, 2),
        "what passed is tracked: its answer may come before it is steered"
    );
    let refused = Testkit::<Firewall>::with_steering(config, &["inspect"]).err().unwrap();
    assert!(refused.message.contains("`nowhere`"), "{refused}");
}
