//! Flows that functions steer at a port whose rules the workers carry out: whose they are, and how many there is room for.

mod support;

use middlenet_plan::{Destination, ManagerPlan, Placement, PortKind, Reply, Request, SteerTargetPlan, SteeringPlan};
use middlenet_plan::{Stats, SteeringStats};
use middlenet_sdk::SteeredFlow;
use middlenet_steer::Action;
use serde_json::json;
use std::net::Ipv4Addr;
use support::{Manager, hop, plan};

/// Flows that a port has room for.
const ROOM: u64 = 65_536;

/// Two hops that may drop flows of the port `left`; nothing moves, since their processes never come.
fn steered() -> ManagerPlan {
    let idle = |index: u8| PortKind::Dpdk { device: format!("net_null{index},no-rx=1") };
    let hops = ["monitor", "firewall"].map(|function| hop(function, Placement::Process, json!({})));
    let mut plan = plan(idle(0), idle(1), hops.to_vec());
    let chain = Destination::Chain(0).tag();
    plan.ports[0].steering =
        Some(SteeringPlan { rules: Vec::new(), default: Action::Tag(chain), to: vec!["chain".into()] });
    for hop in &mut plan.hops {
        let to = SteerTargetPlan { name: "away".into(), action: Action::Drop, to: "drop".into(), ports: vec![0] };
        hop.steering = vec![to];
    }
    plan
}

fn flow(number: u32, to: Option<u8>) -> SteeredFlow {
    SteeredFlow {
        src: Ipv4Addr::from(0x0a00_0000 | number).into(),
        dst: Ipv4Addr::new(10, 255, 0, 1).into(),
        src_port: 1000,
        dst_port: 80,
        vlan: 0,
        protocol: 6,
        to,
        lifetime_ms: 600_000,
    }
}

fn steer(manager: &Manager, hop: u16, flows: Vec<SteeredFlow>) {
    let reply = manager.ask(&Request::SteerFlows { hop, flows, unheard: 0 });
    assert!(matches!(reply, Reply::Done), "{reply:?}");
}

fn of_left(stats: &Stats) -> &SteeringStats {
    stats.ports[0].steering.as_ref().expect("the port has rules")
}

fn irregular(stats: &Stats, what: &str) -> u64 {
    of_left(stats).irregular.iter().filter(|(name, _)| name == what).map(|(_, n)| n).sum()
}

#[test]
fn a_flow_is_the_affair_of_who_steers_it() {
    let manager = Manager::start(steered());
    steer(&manager, 0, vec![flow(1, Some(0))]);
    // Neither can another function have it, nor leave it to the rules.
    steer(&manager, 1, vec![flow(1, Some(0)), flow(1, None)]);
    let stats = manager.stats();
    assert_eq!(irregular(&stats, "refused-flows"), 2, "{stats:#?}");
    let [of_first] = &of_left(&stats).flows[..] else { panic!("{stats:#?}") };
    assert_eq!((of_first.by.as_str(), of_first.flow.as_str()), ("chain/monitor", "tcp 10.0.0.1:1000 -> 10.255.0.1:80"));
    // Its own function can; then it is free.
    steer(&manager, 0, vec![flow(1, None)]);
    assert!(of_left(&manager.stats()).flows.is_empty());
    steer(&manager, 1, vec![flow(1, Some(0)), flow(2, Some(9))]);
    let stats = manager.stop();
    assert_eq!((of_left(&stats).flows[0].by.as_str(), irregular(&stats, "refused-flows")), ("chain/firewall", 3));
}

#[test]
fn a_port_that_has_no_room_for_a_flow_says_so_and_pushes_none_out() {
    let manager = Manager::start(steered());
    let beyond = 300;
    let all: Vec<u32> = (0..ROOM as u32 + beyond).collect();
    for some in all.chunks(4096) {
        steer(&manager, 0, some.iter().map(|&number| flow(number, Some(0))).collect());
    }
    let stats = manager.stats();
    let flows = &of_left(&stats).flows;
    assert_eq!((flows.len() as u64, irregular(&stats, "flows-without-room")), (ROOM, beyond.into()));
    assert!(!flows.iter().any(|f| f.flow.starts_with("tcp 10.1.0.")), "the first ones are there");
    // One that is there is steered on, and one that goes makes room.
    steer(&manager, 0, vec![flow(7, Some(0)), flow(8, None), flow(ROOM as u32, Some(0))]);
    let stats = manager.stop();
    assert!(of_left(&stats).flows.iter().any(|f| f.flow.starts_with("tcp 10.1.0.0:")));
    assert_eq!((of_left(&stats).flows.len() as u64, irregular(&stats, "flows-without-room")), (ROOM, beyond.into()));
}
