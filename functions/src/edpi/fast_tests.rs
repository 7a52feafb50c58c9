//! Inspection with a fast path.

use super::flow::ASKED_PER_TICK;
use super::tests::*;
use super::*;
use middlenet_sdk::fast_path::{Action, Then, flow_of};
use middlenet_sdk::testkit::Testkit;
use middlenet_sdk::wire::TcpFlags;

/// The flow of a packet made above.
fn flow(step: &Step) -> Flow {
    flow_of(&FlowKey::parse(&step.1).unwrap())
}

/// A flow's two directions, by ports.
fn both(make: impl Fn(Way) -> Step) -> [Flow; 2] {
    [flow(&make(Forward)), flow(&make(Reverse))]
}

fn tcp_flow(ports: (u16, u16)) -> [Flow; 2] {
    both(|way| tcp(way, ports, ACK, b""))
}

fn fast(config: Value) -> Testkit<Edpi> {
    Testkit::<Edpi>::with_fast_path(config, Mode::Reactive).unwrap()
}

#[test]
fn what_is_known_goes_to_the_fast_path_in_both_directions() {
    let mut kit = fast(json!({}));
    let page = http((40_000, 9999));
    play(&mut kit, &page[..4]);
    assert!(kit.fast_path().flows().is_empty(), "the answer may tell more");
    play(&mut kit, &page[4..]);
    let flows = tcp_flow((40_000, 9999));
    for flow in &flows {
        let action = kit.fast_path().decide(flow).unwrap();
        assert_eq!(action, Action { then: Then::Next, class: Some(7), ..Action::default() });
    }
    assert_eq!((kit.counter("elephants"), kit.counter("fast_installed")), (1, 2));
    // Statistics are those of both paths.
    for flow in &flows {
        kit.fast_path().pass(flow, 1000).unwrap();
    }
    assert_eq!(moved(&kit, "HTTP"), (1, 7, bytes(&page) + 2000));
    // A packet that was under way does not install it again.
    play(&mut kit, &[tcp(Forward, (40_000, 9999), ACK, b"")]);
    assert_eq!(kit.counter("fast_installed"), 2);
    assert_eq!(kit.report()["moved"]["packets"], 8);
}

#[test]
fn elephants_are_what_the_configuration_says() {
    let elephants = json!([{"protocols": ["dns"]}, {"categories": ["Web"], "packets": 8, "bytes": 500}]);
    let mut kit = fast(json!({"elephants": elephants}));
    play(&mut kit, &dns((40_001, 53)));
    assert_eq!(kit.fast_path().flows().len(), 2);
    play(&mut kit, &http((40_000, 80)));
    play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b""), tcp(Reverse, (40_000, 80), PUSH, &[b'x'; 300])]);
    assert_eq!(kit.fast_path().flows().len(), 2);
    play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")]);
    assert_eq!(kit.fast_path().flows().len(), 4);

    let mut none = fast(json!({"elephants": []}));
    play(&mut none, &dns((40_001, 53)));
    assert!(none.fast_path().flows().is_empty());
}

#[test]
fn actions_hold_in_the_fast_path_too() {
    let actions = json!([
        {"protocols": ["bittorrent"], "then": "drop"},
        {"protocols": ["HTTP"], "then": {"output": "cache"}},
    ]);
    let config = json!({"elephants": [], "actions": actions});
    let ports = Testkit::<Edpi>::two_ports();
    let mut kit = Testkit::<Edpi>::with_fast_path_on(config, Mode::Reactive, ports, &["cache"]).unwrap();
    let seen = verdicts(&mut kit, &bittorrent((40_000, 51_413)));
    let Some(Verdict::Drop(reason)) = seen.last() else { panic!("{seen:?}") };
    play(&mut kit, &http((40_001, 80)));
    for (ports, then) in [((40_000, 51_413), Then::Drop(reason.0)), ((40_001, 80), Then::Output(0))] {
        for flow in tcp_flow(ports) {
            assert_eq!(kit.fast_path().decide(&flow).map(|action| action.then), Some(then));
        }
    }
    assert_eq!(kit.counter("elephants"), 0);
}

#[test]
fn the_end_of_a_connection_takes_it_out() {
    for ends in [vec![(Forward, FIN), (Reverse, FIN)], vec![(Reverse, TcpFlags(0x14))]] {
        let mut kit = fast(json!({}));
        play(&mut kit, &http((40_000, 80)));
        for (at, (way, flags)) in ends.iter().enumerate() {
            assert_eq!(kit.fast_path().flows().len(), 2, "before end {at}");
            play(&mut kit, &[tcp(*way, (40_000, 80), *flags, b"")]);
        }
        assert!(kit.fast_path().flows().is_empty());
        play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")]);
        assert!(kit.fast_path().flows().is_empty(), "its last packet does not bring it back");
        // Between the same ports again: inspected, then fast again.
        play(&mut kit, &http((40_000, 80)));
        assert_eq!((moved(&kit, "HTTP").0, kit.fast_path().flows().len()), (2, 2));
    }
}

#[test]
fn flows_that_go_by_in_the_fast_path_are_not_forgotten() {
    let mut kit = fast(json!({"idle_s": 60}));
    play(&mut kit, &dns((40_000, 53)));
    let flows = both(|way| udp(way, (40_000, 53), b""));
    for _ in 0..10 {
        kit.advance(Duration::from_secs(40));
        // One direction is enough; the other has been silent for too long by then.
        kit.fast_path().pass(&flows[0], 100).unwrap();
        kit.tick();
        assert_eq!(kit.counter("flows"), 1);
    }
    assert_eq!(kit.counter("fast_expired"), 1);
    assert_eq!(moved(&kit, "DNS").1, 12);
    // A packet of the direction that has expired brings it back, without another inspection.
    let inspected = kit.counter("inspected");
    play(&mut kit, &[udp(Reverse, (40_000, 53), b"more")]);
    assert!(kit.fast_path().decide(&flows[1]).is_some());
    assert_eq!(kit.counter("inspected"), inspected);
    for _ in 0..3 {
        kit.advance(Duration::from_secs(60));
        kit.tick();
    }
    assert_eq!((kit.counter("flows"), kit.fast_path().flows().len()), (0, 0));
}

#[test]
fn a_change_of_configuration_decides_anew() {
    let mut kit = fast(json!({}));
    play(&mut kit, &http((40_000, 80)));
    kit.reconfigure(json!({"actions": [{"protocols": ["http"], "then": "drop"}]})).unwrap();
    assert!(kit.fast_path().flows().is_empty());
    play(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")]);
    for flow in tcp_flow((40_000, 80)) {
        assert!(matches!(kit.fast_path().decide(&flow).map(|action| action.then), Some(Then::Drop(_))));
    }
    assert_eq!(moved(&kit, "HTTP").1, 6);
}

#[test]
fn a_new_process_keeps_what_it_would_decide_alike_and_nothing_else() {
    let path = std::env::temp_dir().join(format!("middlenet-edpi-restart-{}.txt", std::process::id()));
    std::fs::write(&path, "udp:7777@Ours\n").unwrap();
    let first = json!({"signatures": path, "elephants": [{"bytes": 1}], "top": 3});
    let with = |key: &str, value: Value| {
        let mut config = first.clone();
        config[key] = value;
        config
    };
    let stay = [first.clone(), with("top", json!(5)), with("flows", json!(100)), with("steer_s", json!(7))];
    let go = [
        with("actions", json!([{"protocols": ["BitTorrent"], "then": "drop"}])),
        with("elephants", json!([{"bytes": 2}])),
        with("packets", json!(8)),
        with("guess", json!(false)),
        with("idle_s", json!(61)),
        with("tcp_idle_s", json!(299)),
        json!({"elephants": [{"bytes": 1}]}),
    ];
    for (config, left) in stay.iter().map(|config| (config, 2)).chain(go.iter().map(|config| (config, 0))) {
        let mut kit = fast(first.clone());
        play(&mut kit, &http((40_000, 80)));
        assert_eq!(kit.fast_path().flows().len(), 2);
        kit.restart(config.clone()).unwrap();
        assert_eq!(kit.fast_path().flows().len(), left, "{config}");
        // And what the new one decides stays when it starts once more.
        play(&mut kit, &http((40_001, 80)));
        kit.restart(config.clone()).unwrap();
        assert_eq!(kit.fast_path().flows().len(), left + 2, "{config}");
    }
    // The same file with something else in it.
    let mut kit = fast(first.clone());
    play(&mut kit, &http((40_000, 80)));
    std::fs::write(&path, "udp:7778@Ours\n").unwrap();
    kit.restart(first).unwrap();
    assert!(kit.fast_path().flows().is_empty());
    std::fs::remove_file(path).unwrap();
}

/// Makes the flow of a name's look-up known and fast.
fn look_up(kit: &mut Testkit<Edpi>, port: u16) {
    play(kit, &dns((port, 53)));
}

fn look_up_flow(port: u16) -> [Flow; 2] {
    both(|way| udp(way, (port, 53), b""))
}

fn flows_of_all(kit: &Testkit<Edpi>) -> u64 {
    let report = kit.report();
    let known = report["moved"]["protocols"].as_array().unwrap().iter().map(|shown| shown["flows"].as_u64().unwrap());
    known.sum::<u64>() + report["inspecting"].as_u64().unwrap()
}

#[test]
fn what_is_in_use_in_the_fast_path_makes_no_room() {
    let mut kit = fast(json!({"flows": 4}));
    (1..=4).for_each(|port| look_up(&mut kit, port));
    kit.advance(Duration::from_secs(40));
    // The first two are in use there, though no packet of theirs comes here.
    for port in [1, 2] {
        kit.fast_path().pass(&look_up_flow(port)[1], 100).unwrap();
    }
    kit.advance(Duration::from_secs(21));
    (5..=6).for_each(|port| look_up(&mut kit, port));
    assert_eq!(kit.counter("table-full"), 0);
    look_up(&mut kit, 7);
    assert_eq!(kit.counter("table-full"), 2, "full of flows that are in use");
    let inspected = kit.counter("inspected");
    for port in [1, 2] {
        assert!(kit.fast_path().decide(&look_up_flow(port)[1]).is_some());
        play(&mut kit, &[udp(Forward, (port, 53), b"again")]);
    }
    assert_eq!(kit.counter("inspected"), inspected, "they are known");
    // The others made room there too, though the fast path would have kept them.
    assert_eq!(kit.counter("fast_removed"), 4);
}

#[test]
fn what_makes_room_is_counted_as_a_flow() {
    let mut kit = Testkit::<Edpi>::new(json!({"flows": 16, "top": 500}));
    (1..200).for_each(|port| drop(play(&mut kit, &[udp(Forward, (port, 9), b"x")])));
    assert_eq!((flows_of_all(&kit), kit.counter("flows")), (199, 0));
    // Those that were silent for too long as well.
    kit.advance(Duration::from_secs(100));
    (200..300).for_each(|port| drop(play(&mut kit, &[udp(Forward, (port, 9), b"x")])));
    assert_eq!((flows_of_all(&kit), kit.counter("classified") + kit.counter("unclassified")), (299, 283));
}

#[test]
fn ticks_that_cannot_ask_about_all_end_none_that_is_in_use() {
    let flows = ASKED_PER_TICK as u16 * 3;
    let mut kit = fast(json!({}));
    (1..=flows).for_each(|port| look_up(&mut kit, port));
    let inspected = kit.counter("inspected");
    for _ in 0..12 {
        kit.advance(Duration::from_secs(50));
        for port in 1..=flows {
            kit.fast_path().pass(&look_up_flow(port)[0], 100).expect("in the fast path");
        }
        kit.tick();
        assert_eq!(kit.counter("flows"), u64::from(flows));
    }
    // Whatever a tick has asked about them, all are known.
    for port in 1..=flows {
        play(&mut kit, &[udp(Forward, (port, 53), b"again")]);
    }
    assert_eq!(kit.counter("inspected"), inspected);
    // They end as fast as may be asked.
    kit.advance(Duration::from_secs(61));
    for left in [2, 1, 0] {
        kit.tick();
        assert_eq!(kit.counter("flows"), left * ASKED_PER_TICK as u64);
    }
}

#[test]
fn the_end_of_a_connection_from_before_a_restart_takes_it_out() {
    let mut kit = fast(json!({}));
    play(&mut kit, &http((40_000, 80)));
    kit.restart(json!({})).unwrap();
    assert_eq!(kit.fast_path().flows().len(), 2);
    play(&mut kit, &[tcp(Forward, (40_000, 80), FIN, b"")]);
    assert_eq!(kit.fast_path().flows().len(), 2, "the other side may send on");
    play(&mut kit, &[tcp(Reverse, (40_000, 80), FIN, b"")]);
    assert!(kit.fast_path().flows().is_empty());
    // Connections that began here and never were there cost nothing.
    let mut small = fast(json!({"elephants": []}));
    play(&mut small, &http((40_000, 80)));
    play(&mut small, &[tcp(Reverse, (40_000, 80), TcpFlags(0x14), b"")]);
    assert_eq!(small.counter("fast_removed"), 0);
}
