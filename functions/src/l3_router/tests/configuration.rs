//! What the manifest may say, and what an operator reads when it is wrong.

use super::*;
use proptest::prelude::*;
use std::fs;

#[track_caller]
fn refusal(config: Value) -> ConfigError {
    Kit::try_new(config).err().expect("refused")
}

#[test]
fn wrong_configurations_say_what_is_wrong_and_what_to_do() {
    for (config, words) in [
        (json!({ "routes": ["10.2.0.0/33 right"] }), "10.2.0.0/33"),
        (json!({ "routes": ["10.2.0.1/24 right"] }), "beyond its prefix length"),
        (json!({ "routes": [{ "to": "10.2.0.0/24" }] }), "neither `via` nor `port`"),
        (json!({ "routes": [{ "to": "10.2.0.0/24", "port": "up" }] }), "`up`"),
        (json!({ "routes": ["10.2.0.0/24 10.9.9.9"] }), "10.9.9.9"),
        (json!({ "routes": ["10.2.0.0/24 2001:db8::1 right"] }), "other IP version"),
        (json!({ "routes": ["10.2.0.0/24 10.9.9.9 right extra"] }), "extra"),
        (changed(json!({ "routes": ["10.9.0.0/16 10.2.0.9", "10.9.0.0/16 10.2.0.8"] })), "two routes to 10.9.0.0/16"),
        (changed(json!({ "routes": ["10.2.0.0/24 10.1.0.9"] })), "two routes to 10.2.0.0/24"),
        (changed(json!({ "routes": ["10.9.0.0/16 10.2.0.1"] })), "own address"),
        (json!({ "addresses": [{ "port": "left", "address": "10.1.0.1" }] }), "10.1.0.1"),
        (json!({ "addresses": [{ "port": "left", "address": "10.1.0.255/24" }] }), "own address"),
        (
            json!({ "addresses": [{ "port": "left", "address": "10.1.0.1/24" }, { "port": "right", "address": "10.1.0.2/16" }] }),
            "share a network",
        ),
        (json!({ "neighbours": [{ "ip": "10.1.0.1", "mac": "02:00:00:00:00:01" }] }), "neighbour 10.1.0.1"),
        (
            json!({ "neighbours": [{ "ip": "10.1.0.1", "mac": "ff:ff:ff:ff:ff:ff", "port": "left" }] }),
            "ff:ff:ff:ff:ff:ff",
        ),
        (json!({ "gateway_mac": "02:00:00:00:00:01" }), "resolve"),
        (json!({ "routes_file": "/nowhere/routes.txt" }), "/nowhere/routes.txt"),
        (json!({ "max_neighbours": 60000 }), "max_neighbours"),
    ] {
        let error = refusal(config);
        assert!(error.message.contains(words), "{words}: {error:?}");
    }
    assert_eq!(refusal(json!({ "routes": ["10.2.0.1/24 right"] })).hint.as_deref(), Some("did you mean 10.2.0.0/24?"));
}

#[test]
fn a_routes_file_is_read_with_its_defaults() {
    let path = std::env::temp_dir().join(format!("middlenet-routes-{}.txt", std::process::id()));
    fs::write(&path, "# a comment\n10.7.0.0/16\n\n10.8.0.0/16 10.1.0.9 # via the left\n10.9.0.0/16 left\n").unwrap();
    let file = json!({ "path": path, "via": "10.2.0.254" });
    let mut kit = Kit::new(changed(json!({ "routes_file": file, "routes": [] })));
    let packet = udp4("10.1.0.5", "10.7.1.1").build();
    assert_forwarded(&send(&mut kit, "left", &packet).0, &packet, 1, RIGHT, GATEWAY);
    for (dst, asked) in [("10.8.1.1", "10.1.0.9"), ("10.9.1.1", "10.9.1.1")] {
        let (outcome, emitted) = send(&mut kit, "right", &udp4("10.2.0.5", dst).mac(HOST, RIGHT).build());
        assert_eq!(outcome.verdict, Verdict::Hold);
        let arp = Layers::parse(&emitted[0].bytes).unwrap().arp(&emitted[0].bytes).unwrap().target_ip();
        assert_eq!((emitted[0].verdict, arp), (Verdict::Port(Port(0)), v4(asked)));
    }
    fs::write(&path, "10.7.0.0/16\n10.7.0.0/99\n").unwrap();
    let error = refusal(changed(json!({ "routes_file": { "path": path, "port": "right" } })));
    fs::remove_file(&path).unwrap();
    assert!(error.message.contains("line 2") && error.message.contains("10.7.0.0/99"), "{error:?}");
}

#[test]
fn the_same_route_twice_is_harmless() {
    Kit::new(changed(json!({ "routes": ["10.9.0.0/16 10.2.0.9", "10.9.0.0/16 10.2.0.9"] })));
}

#[test]
fn the_report_tells_sizes_and_neighbours() {
    let kit = Kit::new(config());
    let report = kit.report();
    // Three routes, four networks, two broadcast and two network addresses, four own addresses.
    assert_eq!(report["prefixes"], 3 + 4 + 4 + 4);
    assert_eq!(report["neighbours_known"], 2);
    assert_eq!(report["neighbours"][0]["port"], "right");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Forwarding by a random table, against a look at every prefix.
    #[test]
    fn forwards_as_the_plainest_model_does(
        routes in prop::collection::btree_map((1u8..=32, 0u32..1 << 12), 0u8..4, 1..40),
        probes in prop::collection::vec(any::<u32>(), 100),
    ) {
        // Networks close to each other in 100.64/10, so that they nest.
        let place = |bits: u32, length: u8| (0x6440_0000 | (bits & 0xf) << 18 | bits) & prefix::mask32(length);
        let table: std::collections::BTreeMap<(u8, u32), u8> =
            routes.into_iter().map(|((length, bits), hop)| ((length, place(bits, length)), hop)).collect();
        let lines: Vec<String> = table.iter().map(|((length, network), hop)| format!("{}/{length} 10.2.0.{}", Ipv4Addr::from(*network), 100 + hop)).collect();
        let neighbours: Vec<Value> = (0..4).map(|hop| json!({ "ip": format!("10.2.0.{}", 100 + hop), "mac": format!("02:00:00:00:05:0{hop}") })).collect();
        let mut kit = Kit::new(changed(json!({ "routes": lines, "neighbours": neighbours })));
        for probe in probes {
            let dst = 0x6440_0000 | probe & 0x3f_0fff;
            let model = table.iter().filter(|((length, network), _)| dst & prefix::mask32(*length) == *network).max_by_key(|((length, _), _)| *length);
            let packet = to_left().ipv4(v4("10.1.0.5"), dst.into()).udp(1, 2).build();
            let outcome = kit.run("left", &[&packet]).remove(0);
            match model {
                None => prop_assert_eq!(dropped(&kit, &outcome), "no-route"),
                Some((_, hop)) => assert_forwarded(&outcome, &packet, 1, RIGHT, MacAddr([2, 0, 0, 0, 5, *hop])),
            }
        }
    }
}
