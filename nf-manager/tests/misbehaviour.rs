//! Functions that die, lie, or come and go under load: the manager goes on, and no buffer is lost.

mod support;

use middlenet_functions::registry;
use middlenet_plan::{OnFailure, Placement, Reply, Request};
use middlenet_sdk::{BURST, Registration};
use middlenet_shm::{ControlRegion, Descriptor};
use serde_json::json;
use std::time::{Duration, Instant};
use support::{Manager, hop, null, plan};

fn l2_forward() -> &'static Registration {
    registry().iter().find(|r| r.name == "l2-forward").unwrap()
}

fn one_hop(on_failure: OnFailure) -> middlenet_plan::ManagerPlan {
    let mut plan = plan(null(0, 64), null(1, 64), vec![hop("l2-forward", Placement::Process, json!({}))]);
    plan.hops[0].on_failure = on_failure;
    plan
}

fn wait(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A peer that plays the function's side of the rings by hand.
struct Peer {
    ends: (middlenet_shm::Consumer, middlenet_shm::Producer),
    _region: ControlRegion,
}

impl Peer {
    fn attach(manager: &Manager) -> Self {
        let ours = manager.control();
        let region = ControlRegion::open(ours.fd().try_clone_to_owned().unwrap()).unwrap();
        let ends = (region.to_function_consumer(0).unwrap(), region.from_function_producer(0).unwrap());
        manager.attach(0, 0, &ours);
        Self { ends, _region: region }
    }

    fn take(&mut self, most: usize) -> Vec<Descriptor> {
        let mut burst = vec![Descriptor::default(); most];
        let deadline = Instant::now() + Duration::from_secs(5);
        loop {
            let n = self.ends.0.dequeue(&mut burst);
            if n > 0 || Instant::now() > deadline {
                burst.truncate(n);
                return burst;
            }
        }
    }

    fn give(&mut self, burst: &[Descriptor]) {
        assert_eq!(self.ends.1.enqueue(burst), burst.len());
    }
}

#[test]
fn forged_descriptors_are_refused_and_counted() {
    let manager = Manager::start(one_hop(OnFailure::Drop));
    let mut peer = Peer::attach(&manager);
    let mine = peer.take(8);
    assert_eq!(mine.len(), 8);
    let change = |d: Descriptor, f: fn(&mut Descriptor)| {
        let mut d = d;
        f(&mut d);
        d
    };
    // Not a buffer; not mine (the next buffer's index with my generation may be mine too, so take one far away that was never
    // handed out); an old generation; beyond the buffer; the same one twice.
    peer.give(&[
        change(mine[0], |d| d.index = u32::MAX),
        change(mine[0], |d| d.generation = d.generation.wrapping_sub(1)),
        change(mine[1], |d| (d.offset, d.length) = (2000, 2000)),
        mine[2],
        mine[2],
        change(mine[3], |d| d.length = 0),
        change(mine[4], |d| d.verdict = 200),
    ]);
    wait("the manager to read them", || {
        let hop = &manager.stats().hops[0];
        hop.refused_descriptors.iter().map(|(_, n)| n).sum::<u64>() + hop.drops.iter().map(|(.., n)| n).sum::<u64>()
            >= 6
    });
    let stats = manager.stats();
    let refused = |why: &str| stats.hops[0].refused_descriptors.iter().find(|(w, _)| w == why).map_or(0, |(_, n)| *n);
    assert_eq!((refused("index"), refused("generation"), refused("holder")), (1, 1, 1), "{stats:#?}");
    let dropped = |why: &str| stats.hops[0].drops.iter().find(|(_, r, _)| r == why).map_or(0, |(.., n)| *n);
    assert_eq!((dropped("out-of-bounds"), dropped("bad-verdict")), (2, 1), "{stats:#?}");
    manager.stop();
}

#[test]
fn a_peer_that_returns_noise_for_a_second_harms_nobody() {
    let manager = Manager::start(one_hop(OnFailure::Drop));
    let mut peer = Peer::attach(&manager);
    let pid = manager.pid();
    let mut word = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        word ^= word << 13;
        word ^= word >> 7;
        word ^= word << 17;
        word
    };
    let end = Instant::now() + Duration::from_secs(1);
    let mut burst = [Descriptor::default(); BURST];
    while Instant::now() < end {
        let n = peer.ends.0.dequeue(&mut burst);
        for descriptor in &mut burst[..n] {
            let r = next();
            match r % 8 {
                0 => descriptor.index = r as u32,
                1 => descriptor.index = (r >> 20) as u32 % 8192,
                2 => descriptor.generation = r as u16,
                3 => (descriptor.offset, descriptor.length) = (r as u16, (r >> 16) as u16),
                4 => (descriptor.verdict, descriptor.argument) = (r as u8, (r >> 8) as u16),
                5 => descriptor.port = r as u8,
                _ => {}
            }
        }
        peer.ends.1.enqueue(&burst[..n]);
    }
    assert_eq!(manager.pid(), pid);
    let stats = manager.stop();
    assert!(stats.hops[0].out_pkts > 0 && !stats.hops[0].refused_descriptors.is_empty(), "{stats:#?}");
}

#[test]
fn what_a_dead_function_held_comes_back_every_time() {
    let manager = Manager::start(one_hop(OnFailure::Drop));
    for round in 0..100 {
        let mut peer = Peer::attach(&manager);
        let mine = peer.take(BURST);
        // Some are back, some are in the ring still, some are gone with the function.
        peer.give(&mine[..mine.len() / 2]);
        drop(peer);
        let reply = manager.ask(&Request::Detach { hop: 0, replica: 0, drain: false });
        assert!(matches!(reply, Reply::Done), "round {round}: {reply:?}");
    }
    let stats = manager.stop();
    let died = stats.hops[0].drops.iter().find(|(_, r, _)| r == "function-died").map_or(0, |(.., n)| *n);
    assert!(died >= 100, "{stats:#?}");
}

#[test]
fn a_hop_without_its_function_drops_or_is_bypassed() {
    for on_failure in [OnFailure::Drop, OnFailure::Bypass] {
        let manager = Manager::start(one_hop(on_failure));
        drop(manager.function(0, 0, l2_forward(), json!({}), Vec::new()));
        assert!(matches!(manager.ask(&Request::Detach { hop: 0, replica: 0, drain: false }), Reply::Done));
        let before = manager.stats();
        wait("packets to meet the gap", || {
            let now = manager.stats();
            let moved = now.conservation.received_pkts - before.conservation.received_pkts;
            moved > 10_000
        });
        let stats = manager.stop();
        let down = stats.hops[0].drops.iter().find(|(_, r, _)| r == "function-down").map_or(0, |(.., n)| *n);
        match on_failure {
            OnFailure::Drop => assert!(down > 1000 && stats.hops[0].bypassed_pkts == 0, "{stats:#?}"),
            OnFailure::Bypass => assert!(down == 0 && stats.hops[0].bypassed_pkts > 1000, "{stats:#?}"),
        }
    }
}

#[test]
fn replacing_an_instance_loses_no_packet() {
    let manager = Manager::start(one_hop(OnFailure::Drop));
    let mut function = manager.function(0, 0, l2_forward(), json!({}), Vec::new());
    for _ in 0..20 {
        let replacement = manager.function(0, 0, l2_forward(), json!({}), Vec::new());
        drop(std::mem::replace(&mut function, replacement));
    }
    let stats = manager.stats();
    assert!(stats.hops[0].drops.is_empty(), "{:?}", stats.hops[0].drops);
    assert!(stats.conservation.sent_pkts > 1000);
    manager.stop();
    drop(function);
}

#[test]
fn replicas_share_flows_and_take_over() {
    let mut plan = one_hop(OnFailure::Drop);
    plan.hops[0].replicas = 2;
    let manager = Manager::start(plan);
    let first = manager.function(0, 0, l2_forward(), json!({}), Vec::new());
    let second = manager.function(0, 1, l2_forward(), json!({}), Vec::new());
    wait("packets", || manager.stats().conservation.sent_pkts > 1000);
    drop(second);
    assert!(matches!(manager.ask(&Request::Detach { hop: 0, replica: 1, drain: true }), Reply::Done));
    let before = manager.stats().conservation.sent_pkts;
    wait("packets after the loss", || manager.stats().conservation.sent_pkts > before + 1000);
    manager.stop();
    drop(first);
}

#[test]
fn two_workers_share_a_function_process() {
    let mut plan = one_hop(OnFailure::Drop);
    plan.workers = vec![0, 1];
    plan.ports.iter_mut().for_each(|port| port.queues = 2);
    let manager = Manager::start(plan);
    let function = manager.function(0, 0, l2_forward(), json!({}), Vec::new());
    wait("packets", || manager.stats().conservation.sent_pkts > 1000);
    let stats = manager.stop();
    assert!(stats.workers.iter().all(|w| w.busy_turns > 0), "{stats:#?}");
    drop(function);
}

#[test]
fn requests_that_make_no_sense_are_answered_and_change_nothing() {
    let manager = Manager::start(one_hop(OnFailure::Drop));
    for request in [
        Request::Attach { hop: 0, replica: 0, declared: None },
        Request::Attach { hop: 9, replica: 0, declared: None },
        Request::Detach { hop: 0, replica: 7, drain: false },
        Request::Reconfigure { hop: 0, config: json!({}) },
        Request::Reconfigure { hop: 3, config: json!({}) },
    ] {
        let reply = manager.ask(&request);
        assert!(matches!(reply, Reply::Failed { .. }), "{request:?}: {reply:?}");
    }
    manager.stop();
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let plan = plan(support::dpdk("net_nonsense0"), null(1, 64), Vec::new());
    let Err((message, _)) = Manager::try_start(plan) else { panic!("it started") };
    assert!(message.contains("left") && message.contains("net_nonsense0"), "{message}");
}
