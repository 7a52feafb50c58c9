//! What happens where something ends: tail calls, room, sockets; and what bytes of any kind in the maps do.

use std::net::{IpAddr, Ipv4Addr};

use middlenet_bpf::{Entry, Error, FastPaths, KernelReason, SlowReason, StagePlan, Target, Trial, Verdict};
use middlenet_fast_path::{Action, Mode, Rewrite, Shape, Then};
use middlenet_steer::testkit::Draw;
use middlenet_steer::{Flow, Match, Rule, Tables};
use middlenet_tests::require_root;
use middlenet_wire::PacketBuilder;

use super::lab::{Chain, RIGHT, flow, full_shape, hop_tag, port_tag, then, writes};

const REACTIVE: Shape = Shape::of(&[Mode::Reactive]);
/// Most tail calls in a row; the first one leads from the rules to the first hop.
const TAIL_CALLS: u64 = 33;

fn udp(src_port: u16) -> Vec<u8> {
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    PacketBuilder::new().ipv4(src, dst).udp(src_port, 80).build()
}

/// A hop whose output leads back to itself: a packet goes round as often as the kernel lets it, and then to the function.
#[test]
fn a_packet_that_goes_in_a_circle_ends_in_the_slow_path() {
    require_root!();
    let chain = Chain::new(1, REACTIVE.flows(64), |_, plan| plan.outputs = vec![Target::Hop(0)]);
    let packet = udp(1);
    let rewrite = Rewrite { lower_ttl: true, ..Rewrite::default() };
    chain.maps[0].set_action(&flow(&packet), Action { then: Then::Output(0), ..writes(rewrite) });
    let outcome = chain.forward(&packet);
    assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(0)));
    assert_eq!(u64::from(64 - outcome.packet[14 + 8]), TAIL_CALLS, "each round has lowered the TTL");
    let counters = chain.counters(0);
    assert_eq!((counters.entered_pkts, counters.hit_pkts, counters.slow(SlowReason::End)), (1, TAIL_CALLS, 1));
    chain.assert_conserved();
}

/// As many hops as there may be, and one more than that.
#[test]
fn long_chains_end_in_the_slow_path() {
    require_root!();
    let hops = TAIL_CALLS as u16 + 1;
    let chain = Chain::new(hops, REACTIVE.flows(64), |_, _| ());
    let packet = udp(1);
    chain.maps.iter().for_each(|maps| maps.set_action(&flow(&packet), Action::default()));
    let outcome = chain.forward(&packet);
    assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(hops - 1)), "the last one takes it up");
    assert_eq!(chain.counters(hops - 1).hit_pkts, 0);
    let outcome = chain.reverse(&packet);
    assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(0)));
    chain.assert_conserved();
}

/// Where the driver has no room for marks, nobody could go on with what a fast path has begun: packets go to the workers, all but the first
/// one.
#[test]
fn without_room_for_marks_packets_take_the_slow_path() {
    require_root!();
    let chain = Chain::new(2, REACTIVE.flows(64), |_, _| ());
    let (known, unknown) = (udp(1), udp(2));
    // The second hop knows nothing, so it is for its function to go on.
    chain.maps[0].set_action(&flow(&known), writes(Rewrite { lower_ttl: true, ..Rewrite::default() }));
    let pass = |packet: &[u8]| chain.left.pass_without_room(packet).expect("it runs");
    // What nobody has dealt with loses nothing without one.
    assert_eq!(pass(&unknown).verdict, Verdict::Redirect);
    let outcome = pass(&known);
    assert_eq!((outcome.verdict, chain.counters(1).untagged_pkts), (Verdict::Drop, 1), "half of it is done");
    for packet in [&known, &unknown, &known] {
        let outcome = pass(packet);
        assert_eq!((outcome.verdict, outcome.mark), (Verdict::Redirect, None));
        assert_eq!(outcome.packet, *packet, "as it came");
    }
    assert_eq!((chain.counters(0).entered_pkts, chain.counters(1).untagged_pkts), (2, 1));
    // The other port has another driver.
    assert_eq!(chain.reverse(&unknown).mark.map(|mark| mark.tag), Some(hop_tag(1)));
    chain.assert_conserved();
}

/// Nobody but the kernel does what is offloaded to it: its packets go there also when one before the function was ready had no room.
#[test]
fn what_is_offloaded_stays_so_without_room_for_marks() {
    require_root!();
    let chain = Chain::new(1, full_shape(), |_, plan| (plan.misses_to_kernel, plan.ends_by_kernel) = (true, true));
    let packet = udp(1);
    let pass = || chain.left.pass_without_room(&packet).expect("it runs").verdict;
    chain.maps[0].set_ready(None, false);
    assert_eq!(pass(), Verdict::Redirect);
    chain.maps[0].set_ready(None, true);
    assert_eq!(pass(), Verdict::Pass);
    // A port that takes no packets itself: each one is lost, and the next one is none of the function's all the same.
    chain.maps[0].set_action(&flow(&packet), then(Then::Port(RIGHT)));
    assert_eq!([pass(), pass()], [Verdict::Drop; 2]);
    assert_eq!(chain.counters(0).untagged_pkts, 2);
    chain.assert_conserved();
}

#[test]
fn the_flow_in_use_stays_when_others_come() {
    require_root!();
    let chain = Chain::new(1, REACTIVE.flows(2000), |_, _| ());
    let maps = &chain.maps[0];
    let (kept, of) = (udp(1), |number: u32| Flow { src: Ipv4Addr::from(number).into(), ..flow(&udp(2)) });
    maps.set_action(&flow(&kept), Action::default());
    for number in 0..20_000 {
        maps.set_action(&of(number), Action::default());
        if number % 50 == 0 {
            assert_eq!(chain.forward(&kept).mark.map(|mark| mark.tag), Some(port_tag(RIGHT)), "after {number}");
        }
    }
    let count = maps.flow_count();
    assert!((1000..=2100).contains(&count), "{count} flows");
    assert!(maps.flow(&of(0)).is_none() && maps.flow(&of(19_999)).is_some());
    assert_eq!(maps.flow(&flow(&kept)).expect("it is there").1.packets, 400);
}

/// Without a socket, packets that no fast path has dealt with go to the kernel, as they do without fast paths; others may not skip what is
/// left of their chain.
#[test]
fn a_queue_without_socket() {
    require_root!();
    let paths = FastPaths::new(2, 2).expect("maps");
    let plan = |next_forward| StagePlan {
        shape: REACTIVE.flows(64),
        misses_to_kernel: false,
        ends_by_kernel: false,
        next_forward,
        next_reverse: Target::Egress,
        outputs: Vec::new(),
        left: 0,
        right: vec![1],
    };
    let first = super::lab::Maps(paths.load_stage(0, &plan(Target::Hop(1))).expect("it loads"));
    paths.load_stage(1, &plan(Target::Egress)).expect("it loads");
    let tables = Tables::compile(&[], middlenet_steer::Action::Tag(0)).expect("no rule");
    let port = paths.port(0, &[Entry { chain: 0, hop: 0, reverse: false }]).expect("a map");
    let trial = Trial::fast_without_socket(&tables, port).expect("it loads");
    assert_eq!(trial.pass(&udp(1), 0).expect("it runs").verdict, Verdict::Pass);
    first.set_action(&flow(&udp(1)), Action::default());
    assert_eq!(trial.pass(&udp(1), 0).expect("it runs").verdict, Verdict::Drop);
    assert_eq!(paths.counters(0).expect("counters").kernel(KernelReason::NoSocket), 1);
    assert_eq!(paths.counters(1).expect("counters").no_socket_pkts, 1);
}

#[test]
fn a_chain_without_fast_path_beside_one_with() {
    require_root!();
    let paths = FastPaths::new(1, 2).expect("maps");
    let plan = StagePlan {
        shape: REACTIVE.flows(64),
        misses_to_kernel: false,
        ends_by_kernel: false,
        next_forward: Target::Egress,
        next_reverse: Target::Egress,
        outputs: Vec::new(),
        left: 1,
        right: Vec::new(),
    };
    paths.load_stage(0, &plan).expect("it loads");
    let port = || paths.port(1, &[Entry { chain: 3, hop: 0, reverse: false }]).expect("a map");
    let tag_of = |tag| {
        let tables = Tables::compile(&[], middlenet_steer::Action::Tag(tag)).expect("no rule");
        let trial = Trial::fast(&tables, port()).expect("it loads");
        trial.pass(&udp(1), 0).expect("it runs").mark.map(|mark| mark.tag)
    };
    // Chains beside it, one beyond all entries, and a port.
    for tag in [0, 2, 4, 4000, port_tag(0)] {
        assert_eq!(tag_of(tag), Some(tag));
    }
    assert_eq!(tag_of(3), Some(hop_tag(0)));
}

/// What a function writes is data: whatever it is, a packet goes where its verdicts could send it, and nothing breaks.
#[test]
fn rules_of_any_bytes() {
    require_root!();
    let shape = Shape::of(&[Mode::Proactive]).prefixes(8, 0).rules(1).classes(4);
    let chain = Chain::new(2, shape, |_, plan| plan.outputs = vec![Target::Drop]);
    for maps in &chain.maps {
        for prefix in ["0.0.0.0/0", "::/0"] {
            maps.set_src(&prefix.parse().expect("a prefix"), 0);
        }
    }
    let mut draw = Draw::from_seed(4);
    let packets: Vec<Vec<u8>> = (0..100).map(|_| draw.frame()).collect();
    for round in 0..200 {
        for maps in &chain.maps {
            let mut bytes: [u8; Action::BYTES] = std::array::from_fn(|_| draw.below(256) as u8);
            // Now and then one that is sent on.
            bytes[0] = draw.below(if round % 2 == 0 { 8 } else { 256 }) as u8;
            bytes[2] &= [0x3f, 0xff][draw.below(2)];
            maps.set_raw_rule(0, &bytes);
        }
        for packet in &packets {
            let outcome = if draw.below(2) == 0 { chain.forward(packet) } else { chain.reverse(packet) };
            assert_eq!(outcome.packet.len(), packet.len());
            let tag = outcome.mark.map(|mark| mark.tag);
            match outcome.verdict {
                Verdict::Drop => assert_eq!(tag, None),
                Verdict::Redirect => {
                    assert!([hop_tag(0), hop_tag(1), port_tag(0), port_tag(1)].map(Some).contains(&tag), "{tag:?}");
                }
                other => panic!("{other:?}"),
            }
        }
    }
    chain.assert_conserved();
}

#[test]
fn a_refusal_has_the_words_of_the_kernel() {
    require_root!();
    let paths = FastPaths::new(1, 1).expect("maps");
    let plan = StagePlan {
        // Connections are remembered among the flows.
        shape: Shape::of(&[Mode::Proactive]).services(4, 4).rules(4),
        misses_to_kernel: false,
        ends_by_kernel: false,
        next_forward: Target::Egress,
        next_reverse: Target::Egress,
        outputs: Vec::new(),
        left: 0,
        right: Vec::new(),
    };
    let Err(Error::Load { program: "fast_path", log, .. }) = paths.load_stage(0, &plan) else { panic!("it loads") };
    assert!(log.contains("PROG LOAD LOG"), "{log}");
    let full = StagePlan { shape: full_shape(), outputs: vec![Target::Drop; 257], ..plan };
    assert!(matches!(paths.load_stage(0, &full), Err(Error::Load { .. })));
}

/// Drops by a function's reasons, those of the manifest, and what there is not.
#[test]
fn drops_are_counted_by_reason() {
    require_root!();
    let chain = Chain::new(1, REACTIVE.flows(64), |_, plan| plan.outputs = vec![Target::Drop]);
    let reasons = [0, 5, 63];
    for (number, reason) in (0..).zip(reasons) {
        chain.maps[0].set_action(&flow(&udp(number)), then(Then::Drop(reason)));
        assert_eq!(chain.forward(&udp(number)).verdict, Verdict::Drop);
    }
    chain.maps[0].set_action(&flow(&udp(7)), then(Then::Output(0)));
    assert_eq!(chain.forward(&udp(7)).verdict, Verdict::Drop);
    chain.maps[0].set_action(&flow(&udp(8)), then(Then::Drop(64)));
    assert_eq!(chain.forward(&udp(8)).mark.map(|mark| mark.tag), Some(hop_tag(0)));
    let counters = chain.counters(0);
    assert!(reasons.iter().all(|&reason| counters.dropped_pkts[usize::from(reason)] == 1));
    assert_eq!((counters.dropped_pkts.iter().sum::<u64>(), counters.discarded_pkts), (3, 1));
    assert_eq!(IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), flow(&udp(8)).src);
    chain.assert_conserved();
}

#[test]
fn rules_that_are_replaced_lead_to_the_same_fast_paths() {
    require_root!();
    let mut chain = Chain::new(1, REACTIVE.flows(64), |_, _| ());
    chain.maps[0].set_action(&flow(&udp(1)), Action::default());
    let tables = |rules: &[Rule], default| Tables::compile(rules, default).expect("few rules");
    let is_for = |protocol| Match { protocols: vec![protocol], ..Match::default() };
    let rule = |protocol, action| Rule { name: "only".into(), matches: is_for(protocol), action };
    let tag = |chain: &Chain, packet: &[u8]| chain.forward(packet).mark.map(|mark| mark.tag);
    let to_chain = tables(&[rule(17, middlenet_steer::Action::Tag(0))], middlenet_steer::Action::Kernel);
    chain.left.steering_mut().expect("it steers").replace(&to_chain).expect("a replacement");
    assert_eq!(tag(&chain, &udp(1)), Some(port_tag(RIGHT)));
    assert_eq!(tag(&chain, &udp(2)), Some(hop_tag(0)));
    // A flow that is steered there goes there too.
    let steering = chain.left.steering_mut().expect("it steers");
    let elsewhere = tables(&[rule(17, middlenet_steer::Action::Drop)], middlenet_steer::Action::Kernel);
    steering.replace(&elsewhere).expect("a replacement");
    let long = std::time::Duration::from_secs(100);
    steering.install_flow(&flow(&udp(1)), middlenet_steer::Action::Tag(0), long).expect("there is room");
    assert_eq!(tag(&chain, &udp(1)), Some(port_tag(RIGHT)));
    assert_eq!(chain.forward(&udp(2)).verdict, Verdict::Drop);
    let totals = chain.left.steering_mut().expect("it steers").counters().expect("counters").totals;
    assert_eq!((totals.redirected_pkts, totals.by_flow_pkts, totals.dropped_pkts), (3, 1, 1));
    chain.assert_conserved();
}
