use super::tests::{ACK, Forward, http, play, tcp, verdicts};
use super::*;
use middlenet_sdk::SteeredFlow;
use middlenet_sdk::testkit::Testkit;
use middlenet_sdk::wire::TcpFlags;
use std::collections::HashSet;

#[test]
fn chosen_protocols_are_steered_again_and_again() {
    let act = json!({"protocols": ["HTTP"], "then": {"steer": "web"}});
    let mut kit = Testkit::<Edpi>::with_steering(json!({"actions": [act], "steer_s": 10}), &["video", "web"]).unwrap();
    play(&mut kit, &http((40_000, 80)));
    let steered = kit.steered();
    let ends: Vec<_> =
        steered.iter().map(|flow| (flow.src.to_string(), flow.src_port, flow.to, flow.lifetime_ms)).collect();
    assert_eq!(ends.len(), 2);
    assert!(
        ends.contains(&("10.1.0.2".into(), 40_000, Some(1), 10_000))
            && ends.contains(&("10.2.0.2".into(), 80, Some(1), 10_000))
    );
    play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")]);
    assert!(kit.steered().is_empty());
    kit.advance(Duration::from_secs(10));
    play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")]);
    assert_eq!(kit.steered().len(), 2);
    assert_eq!(kit.counter("steered"), 2);
}

/// A flow in one direction as it is steered: from where, both ports, target; without one it is taken back.
type Wish = (String, u16, u16, Option<u8>);

/// Those since the last call, sorted.
fn wishes(kit: &mut Testkit<Edpi>) -> Vec<Wish> {
    let wish = |flow: SteeredFlow| (flow.src.to_string(), flow.src_port, flow.dst_port, flow.to);
    let mut wishes: Vec<Wish> = kit.steered().into_iter().map(wish).collect();
    wishes.sort();
    wishes
}

/// The same of both directions of the flow from this port.
fn both_ways(port: u16, to: Option<u8>) -> Vec<Wish> {
    vec![("10.1.0.2".into(), port, 80, to), ("10.2.0.2".into(), 80, port, to)]
}

fn steering(then: Value) -> Value {
    json!({"actions": [{"protocols": ["HTTP"], "then": then}], "steer_s": 600, "idle_s": 5, "tcp_idle_s": 5})
}

fn steering_kit() -> Testkit<Edpi> {
    let mut kit =
        Testkit::<Edpi>::with_steering(steering(json!({"steer": "web"})), &["video", "web"]).expect("a configuration");
    play(&mut kit, &http((40_000, 80)));
    assert_eq!(wishes(&mut kit), both_ways(40_000, Some(1)));
    kit
}

fn taken_back(kit: &mut Testkit<Edpi>) -> Vec<Wish> {
    kit.tick();
    wishes(kit)
}

#[test]
fn a_steered_flow_that_is_to_go_elsewhere_is_taken_back() {
    // Its packets come no more; it is known longer than other silent flows.
    for (then, verdict) in [("pass", Verdict::Next), ("drop", Verdict::Drop(DropReason(DropReason::FIRST_OWN)))] {
        let mut kit = steering_kit();
        for _ in 0..20 {
            kit.advance(Duration::from_secs(20));
            kit.tick();
        }
        assert_eq!((kit.counter("flows"), wishes(&mut kit)), (1, vec![]));
        kit.reconfigure(steering(json!(then))).unwrap();
        assert_eq!(taken_back(&mut kit), both_ways(40_000, None));
        assert_eq!(taken_back(&mut kit), [], "once");
        assert_eq!(kit.counter("taken-back"), 1);
        let inspected = kit.counter("inspected");
        assert_eq!(verdicts(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"more")]), [verdict]);
        assert_eq!((kit.counter("inspected"), wishes(&mut kit)), (inspected, vec![]), "it is known");
    }
}

#[test]
fn a_flow_that_is_to_be_steered_elsewhere_is_taken_back_and_steered_there() {
    let mut kit = steering_kit();
    kit.reconfigure(steering(json!({"steer": "video"}))).unwrap();
    assert_eq!(taken_back(&mut kit), both_ways(40_000, None));
    play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")]);
    assert_eq!(wishes(&mut kit), both_ways(40_000, Some(0)));
    // What was under way comes before it could be taken back: it is steered at once, and that stays.
    kit.reconfigure(steering(json!({"steer": "web"}))).unwrap();
    play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")]);
    assert_eq!(wishes(&mut kit), both_ways(40_000, Some(1)));
    assert_eq!(taken_back(&mut kit), []);
}

#[test]
fn steered_flows_stay_where_they_are_wanted_and_those_whose_time_is_over_are_left_alone() {
    let mut kit = steering_kit();
    let mut same = steering(json!({"steer": "web"}));
    same["top"] = json!(3);
    kit.reconfigure(same).unwrap();
    assert_eq!(taken_back(&mut kit), []);
    kit.advance(Duration::from_secs(600));
    kit.reconfigure(steering(json!("pass"))).unwrap();
    assert_eq!(taken_back(&mut kit), []);
    assert_eq!((kit.counter("taken-back"), kit.counter("flows")), (0, 0));
}

#[test]
fn other_signatures_and_another_connection_take_steered_flows_back() {
    let path = std::env::temp_dir().join(format!("middlenet-edpi-steered-{}.txt", std::process::id()));
    std::fs::write(&path, "udp:7777@Ours\n").unwrap();
    let mut kit = steering_kit();
    let mut other = steering(json!({"steer": "web"}));
    other["signatures"] = json!(path);
    kit.reconfigure(other).unwrap();
    assert_eq!(taken_back(&mut kit), both_ways(40_000, None));
    std::fs::remove_file(path).unwrap();
    // Between the same ports: what it carries is to be found out.
    let mut kit = steering_kit();
    play(&mut kit, &[tcp(Forward, (40_000, 80), TcpFlags::SYN, b"")]);
    assert_eq!(wishes(&mut kit), both_ways(40_000, None));
}

#[test]
fn many_flows_are_taken_back_as_there_is_room() {
    const FLOWS: u16 = 300;
    let mut kit = steering_kit();
    for port in 40_001..40_000 + FLOWS {
        play(&mut kit, &http((port, 80)));
        assert_eq!(wishes(&mut kit).len(), 2, "of port {port}");
    }
    kit.reconfigure(steering(json!("pass"))).unwrap();
    // Also when the configuration changes again meanwhile.
    let first = taken_back(&mut kit);
    assert_eq!(first.len(), middlenet_sdk::STEERED);
    kit.tick();
    kit.tick();
    kit.reconfigure(steering(json!("drop"))).unwrap();
    let (second, third) = (taken_back(&mut kit), taken_back(&mut kit));
    assert_eq!((second.len(), third.len()), (middlenet_sdk::STEERED, 600 - 2 * middlenet_sdk::STEERED));
    let all: HashSet<_> = [first, second, third].concat().into_iter().collect();
    assert!(all.contains(&both_ways(40_000, None)[0]) && all.iter().all(|(.., to)| to.is_none()));
    assert_eq!((all.len(), taken_back(&mut kit)), (600, vec![]));
    assert_eq!(kit.counter("taken-back"), u64::from(FLOWS));
}
