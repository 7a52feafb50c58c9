use super::*;
use middlenet_plan::{HopPlan, OnFailure, Placement, PortKind, PortPlan, Wait};
use middlenet_sdk::Output;

/// left(0) - hop 0 - hop 1 - {right(1), dmz(2)}; hop 0 has an output to the dmz and one to nowhere. Port 3 is another chain's.
fn graph() -> Graph {
    let port = |name: &str| PortPlan {
        name: name.into(),
        kind: PortKind::Pcap { read: None, write: None },
        queues: 1,
        steering: None,
        isolated: false,
    };
    let hop = |name: &str, forward, reverse, outputs| HopPlan {
        name: name.into(),
        function: name.into(),
        config: serde_json::Value::Null,
        placement: Placement::Inline,
        replicas: 1,
        on_failure: OnFailure::Drop,
        chain: 0,
        next_forward: forward,
        next_reverse: reverse,
        outputs,
        steering: Vec::new(),
        fast_path: None,
        peers: Vec::new(),
    };
    let outputs = vec![("suspect".to_owned(), Target::Port(2)), ("bin".to_owned(), Target::Drop)];
    Graph::new(&ManagerPlan {
        name: "test".into(),
        buffers: 64,
        buffer_bytes: 2048,
        workers: vec![0],
        wait: Wait::Auto,
        shares_core: false,
        ring_slots: 64,
        ports: vec![port("left"), port("right"), port("dmz"), port("other")],
        hops: vec![
            hop("a", Target::Hop(1), Target::Egress, outputs),
            hop("b", Target::Egress, Target::Hop(0), Vec::new()),
        ],
        chains: vec![
            ChainPlan {
                name: "chain".into(),
                left: 0,
                right: vec![1, 2],
                entry_forward: Target::Hop(0),
                entry_reverse: Target::Hop(1),
            },
            ChainPlan {
                name: "lone".into(),
                left: 3,
                right: Vec::new(),
                entry_forward: Target::Egress,
                entry_reverse: Target::Egress,
            },
        ],
        lockstep: true,
        unprivileged: true,
    })
}

/// Where packets enter the only chain of a port.
fn entry(graph: &Graph, port: u8) -> Entry {
    graph.entries(port).next().unwrap()
}

#[test]
fn packets_enter_by_the_side_of_their_port() {
    let graph = graph();
    let Entry { target, journey, .. } = entry(&graph, 0);
    assert_eq!((target, journey.reverse, journey.ingress), (Target::Hop(0), false, 0));
    let Entry { target, journey, .. } = entry(&graph, 2);
    assert_eq!((target, journey.reverse, journey.ingress), (Target::Hop(1), true, 2));
    assert_eq!(graph.entries(9).count(), 0);
}

#[test]
fn next_follows_the_direction() {
    let graph = graph();
    let mut journey = entry(&graph, 0).journey;
    assert_eq!(graph.step(0, Some(Verdict::Next), &mut journey), Step::To(Target::Hop(1)));
    journey.reverse = true;
    assert_eq!(graph.step(0, Some(Verdict::Next), &mut journey), Step::To(Target::Egress));
}

#[test]
fn a_reply_turns_round_and_leaves_where_it_came_from() {
    let graph = graph();
    let mut journey = entry(&graph, 0).journey;
    assert_eq!(graph.step(1, Some(Verdict::Reply), &mut journey), Step::To(Target::Hop(0)));
    assert!(journey.reverse);
    assert_eq!(graph.egress(0, journey), Some(0));
}

#[test]
fn a_chosen_port_on_the_same_side_turns_the_packet() {
    let graph = graph();
    let mut journey = entry(&graph, 2).journey;
    assert_eq!(graph.step(1, Some(Verdict::Port(Port(1))), &mut journey), Step::To(Target::Egress));
    assert!(!journey.reverse);
    assert_eq!(graph.egress(0, journey), Some(1));
}

#[test]
fn ports_and_outputs_beyond_the_manifest_are_refused() {
    let graph = graph();
    let mut journey = entry(&graph, 0).journey;
    for verdict in [Verdict::Port(Port(3)), Verdict::Port(Port(200)), Verdict::Output(Output(2))] {
        assert_eq!(graph.step(0, Some(verdict), &mut journey), Step::Refuse, "{verdict:?}");
    }
    assert_eq!(graph.step(0, None, &mut journey), Step::Refuse);
    assert_eq!(graph.step(0, Some(Verdict::Output(Output(0))), &mut journey), Step::To(Target::Port(2)));
    assert_eq!(graph.step(0, Some(Verdict::Output(Output(1))), &mut journey), Step::To(Target::Drop));
}

#[test]
fn the_end_of_a_chain_needs_a_port() {
    let graph = graph();
    let journey = entry(&graph, 0).journey;
    assert_eq!(graph.egress(0, journey), None, "two ports on the right and no choice");
    assert_eq!(graph.egress(0, Journey { reverse: true, ..journey }), Some(0));
    assert_eq!(graph.egress(1, entry(&graph, 3).journey), Some(3), "a chain of one port answers there");
}

#[test]
fn a_made_packet_looks_as_if_it_had_come_from_behind() {
    let graph = graph();
    let made = Journey { ingress: MADE, egress: NO_PORT, reverse: false, turns: 0 };
    for (verdict, ingress) in [(Verdict::Next, 0), (Verdict::Port(Port(2)), 0), (Verdict::Port(Port(0)), 1)] {
        let mut journey = made;
        assert!(matches!(graph.step(1, Some(verdict), &mut journey), Step::To(_)));
        assert_eq!(journey.ingress, ingress, "{verdict:?}");
    }
    assert_eq!(graph.step(1, Some(Verdict::Reply), &mut made.clone()), Step::Refuse, "it came from nowhere");
}

#[test]
fn flooding_leaves_out_the_ingress() {
    let graph = graph();
    assert_eq!(graph.flood_ports(0, 1).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(graph.flood_ports(0, NO_PORT).collect::<Vec<_>>(), [0, 1, 2]);
}

#[test]
fn a_journey_survives_its_packing() {
    for journey in [
        Journey { ingress: 0, egress: NO_PORT, reverse: false, turns: 0 },
        Journey { ingress: 255, egress: 3, reverse: true, turns: Meta::MAX_HOPS },
    ] {
        let mut descriptor = Descriptor::default();
        journey.write(&mut descriptor);
        assert_eq!(Journey::of(&descriptor), journey);
        assert_eq!(Journey::from_meta(journey.to_meta(true)), journey);
    }
}
