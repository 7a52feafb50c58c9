//! Any packets, in any order, through every function: no panic, one verdict each.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_functions::{firewall::Firewall, l2_bridge::L2Bridge, l3_router::L3Router, monitor::Monitor, nat::Nat};
use middlenet_sdk::{NetworkFunction, testkit::Testkit};
use serde_json::{Value, json};

fn run<F: NetworkFunction>(config: Value, packets: &[&[u8]]) {
    let mut kit = Testkit::<F>::new(config);
    for port in ["left", "right"] {
        assert!(kit.run(port, packets).len() >= packets.len());
    }
    kit.tick();
}

fuzz_target!(|bytes: &[u8]| {
    // The first byte cuts the rest into packets, so that flows, fragments and answers meet.
    let Some((&size, rest)) = bytes.split_first() else { return };
    let packets: Vec<&[u8]> = rest.chunks(usize::from(size).max(14)).take(64).collect();
    run::<Firewall>(
        json!({ "default": "drop", "rules": [{ "proto": "tcp", "dst_port": 80, "allow": true }] }),
        &packets,
    );
    run::<L3Router>(json!({ "addresses": [{ "port": "left", "address": "10.0.0.1/8" }] }), &packets);
    run::<Nat>(json!({ "inside": "left", "pool": ["192.0.2.1"] }), &packets);
    run::<L2Bridge>(json!({}), &packets);
    run::<Monitor>(json!({}), &packets);
});
