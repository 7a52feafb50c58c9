//! The manager process with real DPDK ports: throughput paths, conservation, and functions that misbehave.

mod support;

use middlenet_functions::registry;
use middlenet_plan::Placement;
use serde_json::json;
use std::time::Duration;
use support::{Manager, hop, null, plan};

fn function(name: &str) -> &'static middlenet_sdk::Registration {
    registry().iter().find(|r| r.name == name).unwrap()
}

#[test]
fn inline_functions_between_null_ports_conserve_packets() {
    let hops = vec![hop("l2-forward", Placement::Inline, json!({})), hop("monitor", Placement::Inline, json!({}))];
    let manager = Manager::start(plan(null(0, 64), null(1, 64), hops));
    std::thread::sleep(Duration::from_millis(500));
    let stats = manager.stop();
    assert!(stats.ports[0].received_pkts > 100_000, "{stats:#?}");
    assert_eq!(stats.hops[0].in_pkts, stats.hops[0].out_pkts);
    println!("inline: {:.2} Mpps", stats.conservation.sent_pkts as f64 / stats.uptime_s / 1e6);
}

#[test]
fn function_processes_conserve_packets() {
    let hops = vec![hop("l2-forward", Placement::Process, json!({})), hop("l2-forward", Placement::Process, json!({}))];
    let manager = Manager::start(plan(null(0, 64), null(1, 64), hops));
    let first = manager.function(0, 0, function("l2-forward"), json!({}), vec![1]);
    let second = manager.function(1, 0, function("l2-forward"), json!({}), vec![1]);
    let before = manager.stats();
    std::thread::sleep(Duration::from_millis(1000));
    let after = manager.stats();
    let sent = after.conservation.sent_pkts - before.conservation.sent_pkts;
    println!("process: {:.2} Mpps", sent as f64 / 1e6);
    println!("{:?}", after.hops[0].latency);
    assert!(sent > 10_000, "{after:#?}");
    let stats = manager.stop();
    drop((first, second));
    assert!(stats.hops[1].in_pkts > 10_000, "{stats:#?}");
}
