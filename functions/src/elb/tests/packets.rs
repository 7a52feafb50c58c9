//! Without a fast path.

use super::*;
use middlenet_sdk::wire::checksum::internet_checksum;
use middlenet_sdk::wire::vlan::VlanTag;
use proptest::prelude::*;
use std::collections::{HashMap, HashSet};

#[test]
fn connections_are_spread_by_weight_and_stay() {
    let mut kit = Testkit::<Elb>::new(config(&[(1, 100), (2, 50), (3, 50)]));
    let chosen: Vec<IpAddr> = (0..400).map(|n| to(&mut kit, &asked(n, TcpFlags::SYN))).collect();
    let of = |n: u8| chosen.iter().filter(|&&to| to == server(n)).count();
    assert!((160..240).contains(&of(1)) && (70..130).contains(&of(2)) && (70..130).contains(&of(3)));
    for (n, chosen) in (0..400).zip(&chosen) {
        assert_eq!(to(&mut kit, &asked(n, TcpFlags::ACK)), *chosen);
        let outcomes = kit.run("right", &[answered(*chosen, n, TcpFlags::SYN | TcpFlags::ACK)]);
        let key = key(&outcomes[0]);
        assert_eq!((key.src_ip(), key.src_port, key.dst_port), (IpAddr::from(SERVICE), 80, client(n).1));
    }
    assert_eq!((kit.counter("begun"), kit.counter("to-servers"), kit.counter("to-clients")), (400, 800, 400));
    assert_eq!(reported(&kit, "slots"), [json!(128), json!(64), json!(64)]);
    assert_eq!(reported(&kit, "connections")[0], Value::Null, "nobody has looked yet");
    kit.tick();
    assert_eq!(reported(&kit, "connections")[0].as_u64().unwrap() as usize, of(1));
    let packets: u64 = reported(&kit, "packets").iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(packets, 1200);
}

#[test]
fn many_servers_are_counted_apart() {
    let servers: Vec<(u8, u32)> = (1..=40).map(|n| (n, 1)).collect();
    let mut kit = Testkit::<Elb>::new(config(&servers));
    let chosen: Vec<IpAddr> = (0..200).map(|n| to(&mut kit, &asked(n, TcpFlags::SYN))).collect();
    kit.tick();
    let counts: Vec<Value> = (1..=40).map(|n| json!(chosen.iter().filter(|to| **to == server(n)).count())).collect();
    assert_eq!((reported(&kit, "connections"), reported(&kit, "packets")), (counts.clone(), counts));
}

#[test]
fn no_connection_moves_when_weights_change_or_a_server_drains() {
    let mut kit = Testkit::<Elb>::new(config(&[(1, 100), (2, 100)]));
    let chosen: Vec<IpAddr> = (0..100).map(|n| to(&mut kit, &asked(n, TcpFlags::SYN))).collect();
    kit.reconfigure(config(&[(2, 10), (1, 200), (3, 100)])).unwrap();
    let mut draining = config(&[(2, 10), (1, 200), (3, 100)]);
    draining["services"][0]["servers"][1]["drain"] = json!(true);
    kit.reconfigure(draining).unwrap();
    assert!((0..100).zip(&chosen).all(|(n, chosen)| to(&mut kit, &asked(n, TcpFlags::ACK)) == *chosen));
    let left = chosen.iter().filter(|&&to| to == server(1)).count();
    kit.tick();
    assert_eq!(reported(&kit, "connections")[1], json!(left));
    assert_eq!((&reported(&kit, "slots")[1], &reported(&kit, "drain")[1]), (&json!(0), &json!(true)));
    // New ones go to the others.
    let new: HashSet<IpAddr> = (100..300).map(|n| to(&mut kit, &asked(n, TcpFlags::SYN))).collect();
    assert_eq!(new, [server(2), server(3)].into());
    kit.tick();
    assert!(kit.counter("moved-slots") > 0);
}

#[test]
fn connections_end_by_closing_reset_and_silence() {
    let mut kit = Testkit::<Elb>::new(json!({
        "services": config(&[(1, 1)])["services"].clone(),
        "timeouts": {"tcp_s": 600, "closing_s": 10},
    }));
    for n in 0..3 {
        to(&mut kit, &asked(n, TcpFlags::SYN));
        kit.run("right", &[answered(server(1), n, TcpFlags::SYN | TcpFlags::ACK)]);
    }
    to(&mut kit, &asked(0, TcpFlags::FIN | TcpFlags::ACK));
    kit.run("right", &[answered(server(1), 0, TcpFlags::FIN | TcpFlags::ACK)]);
    to(&mut kit, &asked(1, TcpFlags::RST));
    kit.tick();
    assert_eq!((kit.counter("connections"), reported(&kit, "connections")), (3, vec![json!(1)]));
    kit.advance(Duration::from_secs(11));
    kit.tick();
    assert_eq!(kit.counter("connections"), 1);
    kit.advance(Duration::from_secs(600));
    kit.tick();
    assert_eq!(kit.counter("connections"), 0);
    // What ends a connection begins none.
    to(&mut kit, &asked(7, TcpFlags::RST));
    kit.tick();
    assert_eq!(kit.counter("connections"), 0);
}

#[test]
fn a_connection_whose_service_went_ends_in_its_time() {
    let mut kit = Testkit::<Elb>::new(patient("udp", &[(1, 1)]));
    assert_eq!(to(&mut kit, &asked_by_udp(1)), server(1));
    let mut other = patient("udp", &[(1, 1)]);
    other["services"][0]["address"] = json!("192.0.2.81");
    kit.reconfigure(other).unwrap();
    assert_eq!(to(&mut kit, &asked_by_udp(1)), server(1), "it goes on");
    kit.reconfigure(patient("udp", &[(2, 1)])).unwrap();
    kit.advance(Duration::from_secs(11));
    assert_eq!(to(&mut kit, &asked_by_udp(1)), server(2));
}

#[test]
fn a_syn_after_the_end_selects_anew() {
    let mut kit = Testkit::<Elb>::new(config(&[(1, 1)]));
    to(&mut kit, &asked(1, TcpFlags::SYN));
    kit.run("right", &[answered(server(1), 1, TcpFlags::RST)]);
    kit.reconfigure(config(&[(2, 1)])).unwrap();
    assert_eq!(to(&mut kit, &asked(1, TcpFlags::ACK)), server(1), "it is closing, but known");
    assert_eq!(to(&mut kit, &asked(1, TcpFlags::SYN)), server(2));
}

#[test]
fn other_packets_pass_untouched() {
    let mut kit = Testkit::<Elb>::new(config(&[(1, 1)]));
    let other = PacketBuilder::new().ipv4([10, 9, 9, 9].into(), [10, 0, 0, 1].into());
    let packets = [
        other.tcp(1000, 8080, TcpFlags::SYN).build(),
        builder(1).tcp(1000, 81, TcpFlags::SYN).build(),
        builder(1).udp(1000, 80).build(),
        answered(server(1), 1, TcpFlags::SYN | TcpFlags::ACK),
        vec![0; 14],
        vec![],
    ];
    for (outcome, packet) in kit.run("left", &packets).iter().zip(&packets) {
        assert_eq!((outcome.verdict, &outcome.bytes), (Verdict::Next, packet));
    }
}

#[test]
fn a_service_without_servers_drops() {
    let mut drained = config(&[(1, 1)]);
    drained["services"][0]["servers"][0]["drain"] = json!(true);
    let mut kit = Testkit::<Elb>::new(drained);
    let outcome = &kit.run("left", &[asked(1, TcpFlags::SYN)])[0];
    let Verdict::Drop(reason) = outcome.verdict else { panic!("{outcome:?}") };
    assert_eq!((kit.reason(reason).as_str(), kit.counter("no-server")), ("no-server", 1));
}

#[test]
fn a_port_that_is_in_use_at_a_server_gets_another_one() {
    let servers = json!([{"address": "10.0.0.1", "port": 8080}, {"address": "10.0.0.2", "port": 8080}]);
    let service = |address: &str| json!({"address": address, "port": 80, "servers": servers});
    let mut kit =
        Testkit::<Elb>::new(json!({"services": [service("192.0.2.80"), service("192.0.2.81"), service("192.0.2.82")]}));
    let packet = |last: u8| {
        PacketBuilder::new()
            .ipv4([198, 51, 100, 1].into(), [192, 0, 2, last].into())
            .tcp(5000, 80, TcpFlags::SYN)
            .build()
    };
    let (one, other) = (to(&mut kit, &packet(80)), to(&mut kit, &packet(81)));
    assert_ne!(one, other);
    assert_eq!(kit.run("left", &[packet(82)])[0].verdict, Verdict::Drop(DropReason::TABLE_FULL));
    assert_eq!(to(&mut kit, &packet(80)), one);
    // Each has one connection, of different services.
    kit.tick();
    let counts = [0, 1, 2].map(|at| -> Vec<Value> {
        let servers = kit.report()["services"][at]["servers"].as_array().unwrap().clone();
        servers.iter().filter(|server| server["connections"] == 1).map(|server| server["address"].clone()).collect()
    });
    assert_eq!(counts, [vec![json!(one)], vec![json!(other)], vec![]]);
}

#[test]
fn errors_reach_who_sent_what_they_quote() {
    let mut kit = Testkit::<Elb>::new(config(&[(1, 1)]));
    let sent = kit.run("left", &[asked(1, TcpFlags::SYN)])[0].bytes.clone();
    let answer = answered(server(1), 1, TcpFlags::SYN | TcpFlags::ACK);
    let back = kit.run("right", &[answer])[0].bytes.clone();
    let error = |about: &[u8], from: [u8; 4], to: [u8; 4]| -> Vec<u8> {
        let mut message = [&[3, 4, 0, 0, 0, 0, 5, 0], &about[14..]].concat();
        let checksum = internet_checksum(&message);
        message[2..4].copy_from_slice(&checksum.to_be_bytes());
        PacketBuilder::new().ipv4(from.into(), to.into()).protocol(1).payload(&message).build()
    };
    // A router on the way to the server, then the server itself, about what the client sent.
    for (from, expected) in [([10, 9, 9, 9], [10, 9, 9, 9]), ([10, 0, 0, 1], SERVICE)] {
        let outcome = &kit.run("right", &[error(&sent, from, client(1).0)])[0];
        let layers = Layers::parse(&outcome.bytes).unwrap();
        layers.verify_checksums(&outcome.bytes).unwrap();
        let quoted = FlowKey::of_quoted(&layers, &outcome.bytes).unwrap();
        assert_eq!((quoted.dst_ip(), quoted.dst_port), (IpAddr::from(SERVICE), 80));
        assert_eq!(FlowKey::of(&layers, &outcome.bytes).unwrap().src_ip(), IpAddr::from(expected));
    }
    // A router on the way to the client about what the server sent.
    let outcome = &kit.run("left", &[error(&back, [198, 51, 100, 254], SERVICE)])[0];
    let layers = Layers::parse(&outcome.bytes).unwrap();
    layers.verify_checksums(&outcome.bytes).unwrap();
    let quoted = FlowKey::of_quoted(&layers, &outcome.bytes).unwrap();
    assert_eq!((quoted.src_ip(), quoted.src_port), (server(1), 8080));
    assert_eq!(FlowKey::of(&layers, &outcome.bytes).unwrap().dst_ip(), server(1));
    assert_eq!(kit.counter("icmp-errors"), 3);
    // One that quotes what nobody sent, and one to somebody else.
    for stranger in
        [error(&asked(9, TcpFlags::SYN), [10, 9, 9, 9], client(9).0), error(&sent, [10, 9, 9, 9], [9, 9, 9, 9])]
    {
        assert_eq!(kit.run("right", &[&stranger])[0].bytes, stranger);
    }
}

#[test]
fn fragments_follow_their_first_one() {
    let udp = json!({"services": [{"address": "192.0.2.80", "port": 80, "protocol": "udp",
        "servers": [{"address": "10.0.0.1", "port": 8080}]}]});
    let mut kit = Testkit::<Elb>::new(udp);
    let whole = builder(1).udp(client(1).1, 80).payload(&[7; 64]).build();
    let fragment = |id: u8, more: bool, offset: u8| {
        let mut packet = whole.clone();
        (packet[19], packet[20], packet[21]) = (id, if more { 0x20 } else { 0 }, offset);
        (packet[24], packet[25]) = (0, 0);
        let sum = internet_checksum(&packet[14..34]);
        packet[24..26].copy_from_slice(&sum.to_be_bytes());
        packet
    };
    let outcomes = kit.run("left", &[fragment(1, true, 0), fragment(1, false, 9), fragment(2, false, 9)]);
    for outcome in &outcomes[..2] {
        assert_eq!(FlowKey::parse(&outcome.bytes).unwrap().dst_ip(), server(1));
    }
    let Verdict::Drop(reason) = outcomes[2].verdict else { panic!("{:?}", outcomes[2]) };
    assert_eq!(kit.reason(reason), "fragment-unknown");
}

#[test]
fn a_full_table_gives_up_what_was_never_answered() {
    let mut small = config(&[(1, 1)]);
    small["connections"] = json!(8);
    let mut kit = Testkit::<Elb>::new(small);
    to(&mut kit, &asked(0, TcpFlags::SYN));
    kit.run("right", &[answered(server(1), 0, TcpFlags::SYN | TcpFlags::ACK)]);
    to(&mut kit, &asked(0, TcpFlags::ACK));
    for n in 1..100 {
        to(&mut kit, &asked(n, TcpFlags::SYN));
    }
    kit.tick();
    assert_eq!((kit.counter("connections"), kit.counter("evicted")), (8, 92));
    let outcome = &kit.run("right", &[answered(server(1), 0, TcpFlags::ACK)])[0];
    assert_eq!(key(outcome).src_ip(), IpAddr::from(SERVICE));
}

#[test]
fn a_full_table_finds_the_one_that_was_never_answered() {
    let mut small = config(&[(1, 1)]);
    small["connections"] = json!(100);
    let mut kit = Testkit::<Elb>::new(small);
    for n in 0..100 {
        to(&mut kit, &asked(n, TcpFlags::SYN));
        if n != 50 {
            kit.run("right", &[answered(server(1), n, TcpFlags::SYN | TcpFlags::ACK)]);
            to(&mut kit, &asked(n, TcpFlags::ACK));
        }
    }
    for n in 100..200 {
        to(&mut kit, &asked(n, TcpFlags::SYN));
    }
    kit.tick();
    assert_eq!((kit.counter("connections"), kit.counter("evicted")), (100, 100));
    kit.advance(Duration::from_secs(61));
    for n in (0..100).filter(|n| *n != 50) {
        let outcome = &kit.run("right", &[answered(server(1), n, TcpFlags::ACK)])[0];
        assert_eq!(key(outcome).src_ip(), IpAddr::from(SERVICE), "{n} is not known any more");
    }
}

/// A restart forgets connections: what comes in their middle goes where the slots say, in both directions.
#[test]
fn an_instance_that_knows_nothing_takes_connections_up() {
    let mut kit = Testkit::<Elb>::new(config(&[(1, 100), (2, 100), (3, 100)]));
    let chosen: Vec<IpAddr> = (0..60).map(|n| to(&mut kit, &asked(n, TcpFlags::SYN))).collect();
    let mut kit = Testkit::<Elb>::new(config(&[(3, 100), (1, 100), (2, 100)]));
    for (n, &from) in (0..60).zip(&chosen) {
        if n % 2 == 0 {
            assert_eq!(to(&mut kit, &asked(n, TcpFlags::ACK)), from);
        } else {
            let outcome = &kit.run("right", &[answered(from, n, TcpFlags::ACK)])[0];
            assert_eq!(key(outcome).src_ip(), IpAddr::from(SERVICE), "{n}");
        }
    }
    kit.advance(Duration::from_secs(61));
    let packet = answered(to(&mut kit, &asked(70, TcpFlags::SYN)), 71, TcpFlags::ACK);
    assert_eq!(kit.run("right", &[&packet])[0].bytes, packet, "later, a server may speak for itself");
}

#[test]
fn ipv6_and_tags_are_balanced_too() {
    let mut kit = Testkit::<Elb>::new(json!({"services": [{"address": "2001:db8::80", "port": 80, "protocol": "udp",
        "servers": [{"address": "2001:db8:1::1"}, {"address": "2001:db8:1::2", "weight": 0}]}]}));
    let (client, service) = ("2001:db8:c::1".parse().unwrap(), "2001:db8::80".parse().unwrap());
    let packet =
        PacketBuilder::new().vlan(VlanTag::customer(7)).ipv6(client, service).udp(5000, 80).payload(b"x").build();
    let key = key(&kit.run("left", &[packet])[0]);
    assert_eq!((key.dst_ip().to_string().as_str(), key.dst_port, key.vid), ("2001:db8:1::1", 80, 7));
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    let service = |service: Value| json!({"services": [service]});
    let one = json!([{"address": "10.0.0.1"}]);
    let many: Vec<Value> = (1..=50).map(|n| json!({"address": server(n)})).collect();
    for (config, word) in [
        (json!({"services": []}), "services"),
        (service(json!({"address": "192.0.2.1", "port": 80, "servers": []})), "no `servers`"),
        (service(json!({"address": "0.0.0.0", "port": 80, "servers": one})), "reach"),
        (service(json!({"address": "192.0.2.1", "port": 0, "servers": one})), "reach"),
        (service(json!({"address": "192.0.2.1", "port": 80, "servers": [{"address": "::1"}]})), "IP version"),
        (
            service(
                json!({"address": "192.0.2.1", "port": 80, "servers": [{"address": "10.0.0.1"}, {"address": "10.0.0.1"}]}),
            ),
            "twice",
        ),
        (
            service(json!({"address": "192.0.2.1", "port": 80, "servers": [{"address": "10.0.0.1", "weight": 70000}]})),
            "weight",
        ),
        (json!({"services": [{"address": "192.0.2.1", "port": 80, "servers": one}], "slots": 4}), "slots"),
        (json!({"services": [{"address": "192.0.2.1", "port": 80, "servers": one}], "feedback": {}}), "exactly one"),
        (
            json!({"services": [{"address": "192.0.2.1", "port": 80, "servers": one}],
                "feedback": {"snmp": {}, "timeout_ms": 5000}}),
            "timeout_ms",
        ),
        (
            json!({"services": [{"address": "192.0.2.1", "port": 80, "servers": one}],
                "feedback": {"http": {"port": 80, "path": "load"}}}),
            "path",
        ),
        (
            json!({"services": [{"address": "192.0.2.1", "port": 80, "servers": many}],
                "feedback": {"http": {"port": 80, "path": "/load"}, "interval_ms": 200, "timeout_ms": 100}}),
            "`interval_ms` of 334",
        ),
    ] {
        let error = Testkit::<Elb>::try_new(config.clone()).err().unwrap_or_else(|| panic!("{config} is taken"));
        assert!(error.message.contains(word), "{}", error.message);
    }
}

proptest! {
    /// Each client stays with its server through any changes of weights, for as long as it is known.
    #[test]
    fn a_known_connection_never_moves(
        steps in prop::collection::vec((0_u16..40, prop::collection::vec(0_u32..5, 3), any::<bool>()), 1..30),
    ) {
        let small = |weights: &[(u8, u32)]| {
            let mut config = config(weights);
            (config["slots"], config["connections"]) = (json!(16), json!(64));
            config
        };
        let mut kit = Testkit::<Elb>::new(small(&[(1, 1), (2, 1), (3, 1)]));
        let mut known = HashMap::new();
        for (n, weights, changes) in steps {
            if changes {
                let weights: Vec<(u8, u32)> = (1..).zip(weights).collect();
                kit.reconfigure(small(&weights)).unwrap();
            }
            let outcome = &kit.run("left", &[asked(n, TcpFlags::ACK)])[0];
            if outcome.verdict != Verdict::Next {
                prop_assert!(!known.contains_key(&n));
                continue;
            }
            let to = key(outcome).dst_ip();
            prop_assert_eq!(*known.entry(n).or_insert(to), to);
        }
    }

    /// Any bytes pass without harm, and what is not translated is not touched.
    #[test]
    fn any_bytes_pass(seeds in prop::collection::vec(any::<u64>(), 1..40)) {
        let mut kit = Testkit::<Elb>::new(json!({"services": [
            {"address": "10.0.0.1", "port": 80, "servers": [{"address": "10.1.0.2"}]},
            {"address": "10.0.0.1", "port": 53, "protocol": "udp", "servers": [{"address": "10.1.0.2"}]},
        ], "slots": 8, "connections": 64}));
        for seed in seeds {
            let frame = middlenet_steer::testkit::Draw::from_seed(seed).frame();
            if frame.len() <= 1700 {
                let before = kit.counter("to-servers") + kit.counter("to-clients") + kit.counter("icmp-errors");
                let outcome = &kit.run("left", &[&frame])[0];
                let after = kit.counter("to-servers") + kit.counter("to-clients") + kit.counter("icmp-errors");
                prop_assert!(after > before || outcome.bytes == frame);
            }
        }
    }
}
