use super::*;
use middlenet_sdk::testkit::Testkit;
use middlenet_sdk::wire::{PacketBuilder, TcpFlags};
use proptest::prelude::*;

fn udp(last: u8, port: u16, payload: usize) -> Vec<u8> {
    PacketBuilder::new()
        .ipv4([10, 0, 0, last].into(), [10, 1, 0, 1].into())
        .udp(port, 53)
        .payload(&vec![0; payload])
        .build()
}

#[test]
fn counts_by_kind_and_passes_everything_on() {
    let mut kit = Testkit::<Monitor>::new(json!({}));
    let (a, b) = ("2001:db8::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    let broken = {
        let mut bytes = udp(1, 1, 10);
        bytes[14] = 0x43;
        bytes
    };
    let packets = [
        udp(1, 1000, 10),
        PacketBuilder::new().ipv6(a, b).tcp(1, 2, TcpFlags::SYN).build(),
        PacketBuilder::new().ipv6(a, b).echo_request(1, 1).build(),
        PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).protocol(47).build(),
        PacketBuilder::new().arp_request([2, 0, 0, 0, 0, 9].into(), [10, 0, 0, 1].into(), [10, 0, 0, 2].into()).build(),
        broken,
        vec![1, 2, 3],
    ];
    let outcomes = kit.run("left", &packets);
    for (outcome, packet) in outcomes.iter().zip(&packets) {
        assert_eq!((outcome.verdict, &outcome.bytes), (Verdict::Next, packet));
    }
    let kinds = ["udp", "tcp", "icmp", "other-ip", "not-ip", "malformed"].map(|name| kit.counter(name));
    assert_eq!(kinds, [1, 1, 1, 1, 1, 2]);
    assert_eq!(kit.counter("bytes"), packets.iter().map(Vec::len).sum::<usize>() as u64);
    kit.tick();
    assert_eq!([kit.counter("flows"), kit.counter("new-flows")], [4, 4]);
}

#[test]
fn shows_the_top_talkers_with_rates() {
    let mut kit = Testkit::<Monitor>::new(json!({ "top": 2, "max_flows": 64 }));
    kit.run("left", &[udp(1, 1, 100), udp(2, 1, 1000), udp(3, 1, 500)]);
    kit.run("left", &vec![udp(1, 1, 100); 20]);
    kit.advance(Duration::from_secs(2));
    for _ in 0..10 {
        kit.tick();
    }
    let report = kit.report();
    let top = report["top_talkers"].as_array().unwrap();
    assert_eq!(top.len(), 2);
    assert_eq!([&top[0]["src"], &top[1]["src"]], ["10.0.0.1", "10.0.0.2"]);
    let bytes = 21 * (100 + 42);
    assert_eq!([&top[0]["packets"], &top[0]["bytes"]], [&json!(21), &json!(bytes)]);
    assert_eq!([&top[0]["rate_pps"], &top[0]["rate_bps"]], [&json!(10), &json!(bytes * 8 / 2)]);
    assert_eq!(top[0]["last_seen_s_ago"], json!(2.0));
    assert_eq!(report["flows"], 3);
}

#[test]
fn idle_flows_go_and_a_full_table_displaces_the_most_silent() {
    let mut kit = Testkit::<Monitor>::new(json!({ "idle_s": 10, "max_flows": 16 }));
    kit.run("left", &[udp(1, 1, 10)]);
    kit.advance(Duration::from_secs(5));
    kit.run("left", &(2..=16).map(|port| udp(1, port, 10)).collect::<Vec<_>>());
    kit.advance(Duration::from_secs(1));
    kit.run("left", &[udp(1, 17, 10)]);
    assert_eq!([kit.counter("evicted"), kit.counter("expired")], [1, 0]);
    kit.run("left", &[udp(1, 1, 10)]);
    assert_eq!(kit.counter("new-flows"), 18, "flow 1 was the most silent and made room");
    kit.advance(Duration::from_secs(11));
    for _ in 0..10 {
        kit.tick();
    }
    assert_eq!([kit.counter("flows"), kit.counter("expired")], [0, 16]);
}

#[test]
fn flows_survive_a_change_of_configuration() {
    let mut kit = Testkit::<Monitor>::new(json!({}));
    kit.run("left", &[udp(1, 1, 10), udp(1, 1, 10)]);
    kit.reconfigure(json!({ "max_flows": 1024, "top": 1 })).unwrap();
    kit.run("left", &[udp(1, 1, 10)]);
    assert_eq!(kit.report()["top_talkers"][0]["packets"], 3);
}

#[test]
fn wrong_configurations_are_refused() {
    for config in [json!({ "idle_s": 0 }), json!({ "max_flows": 0 }), json!({ "top": 5000 }), json!({ "tops": 1 })] {
        assert!(Testkit::<Monitor>::try_new(config).is_err());
    }
}

proptest! {
    #[test]
    fn agrees_with_a_map(packets in prop::collection::vec((1u8..5, 1u16..5, 0usize..50), 1..200)) {
        let mut kit = Testkit::<Monitor>::new(json!({ "top": 100 }));
        let mut model = std::collections::HashMap::<_, (u64, u64)>::new();
        let frames: Vec<_> = packets.iter().map(|(last, port, payload)| udp(*last, *port, *payload)).collect();
        for ((last, port, _), frame) in packets.iter().zip(&frames) {
            let flow = model.entry((format!("10.0.0.{last}"), *port)).or_default();
            *flow = (flow.0 + 1, flow.1 + frame.len() as u64);
        }
        kit.run("left", &frames);
        let report = kit.report();
        let top = report["top_talkers"].as_array().unwrap();
        prop_assert_eq!(top.len(), model.len());
        prop_assert!(top.windows(2).all(|pair| pair[0]["bytes"].as_u64() >= pair[1]["bytes"].as_u64()));
        for flow in top {
            let key = (flow["src"].as_str().unwrap().to_owned(), flow["src_port"].as_u64().unwrap() as u16);
            let (packets, bytes) = model[&key];
            prop_assert_eq!([&flow["packets"], &flow["bytes"]], [&json!(packets), &json!(bytes)]);
        }
    }

    #[test]
    fn any_bytes_are_counted_once(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
        let mut kit = Testkit::<Monitor>::new(json!({}));
        prop_assert_eq!(kit.run("left", &[&bytes])[0].verdict, Verdict::Next);
        let total: u64 = KINDS.iter().map(|(name, _)| kit.counter(name)).sum();
        prop_assert_eq!(total, 1);
    }
}
