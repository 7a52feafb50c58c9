//! The manager process with real DPDK ports: throughput paths, conservation, and functions that misbehave.

mod support;

use middlenet_functions::registry;
use middlenet_plan::{Placement, SteeringPlan};
use middlenet_steer::{Action, Match, Rule};
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

#[test]
fn a_device_that_cannot_split_with_the_kernel_fails_the_start() {
    let matches = Match { vlans: vec![7], ..Match::default() };
    let rules = vec![Rule { name: "seven".into(), matches, action: Action::Tag(0) }];
    let steering = SteeringPlan { rules, default: Action::Kernel, to: vec!["chain".into(), "kernel".into()] };
    let mut plan = plan(null(0, 64), null(1, 64), Vec::new());
    plan.ports[0].steering = Some(steering);
    assert_eq!(Manager::start(plan.clone()).stop().ports[0].steering.as_ref().unwrap().by, "manager");
    plan.ports[0].isolated = true;
    let Err((message, hint)) = Manager::try_start(plan) else { panic!("it starts") };
    assert!(
        message.starts_with("port `left`: port net_null0 refuses to leave to the kernel what no rule asks for: "),
        "{message}"
    );
    assert!(!message.contains('\n') && hint.is_some_and(|hint| hint.contains("`xdp` port")));
}
