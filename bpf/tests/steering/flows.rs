//! Flows that are installed while packets pass, and expire.

use std::thread::sleep;
use std::time::Duration;

use middlenet_bpf::{Error, FlowEntry, Trial, Verdict};
use middlenet_steer::testkit::Draw;
use middlenet_steer::{Action, Flow, Head, Match, Tables};
use middlenet_tests::require_root;
use middlenet_wire::{FlowKey, PacketBuilder, TcpFlags, VlanTag};

use super::{rule, run, shown};

const LONG: Duration = Duration::from_secs(60);

fn trial() -> Trial {
    let rules = [rule("all", Match::default(), Action::Tag(1))];
    Trial::steering(&Tables::compile(&rules, Action::Drop).expect("one rule")).expect("it loads")
}

fn tcp(src_port: u16) -> Vec<u8> {
    let addresses = ("10.0.0.1".parse().expect("one"), "10.0.0.2".parse().expect("two"));
    PacketBuilder::new().ipv4(addresses.0, addresses.1).tcp(src_port, 80, TcpFlags::SYN).build()
}

/// The flow of a packet as functions know it.
fn flow(packet: &[u8]) -> Flow {
    let key = FlowKey::parse(packet).expect("it is IP");
    Flow {
        vlan: key.vid,
        src: key.src_ip(),
        dst: key.dst_ip(),
        protocol: key.protocol,
        src_port: key.src_port,
        dst_port: key.dst_port,
    }
}

#[test]
fn a_flow_goes_before_the_rules_until_it_is_removed() {
    require_root!();
    let mut trial = trial();
    let steered = tcp(1000);
    for action in [Action::Drop, Action::Kernel, Action::Tag(777)] {
        assert_eq!(run(&trial, &steered), shown(Action::Tag(1)));
        let steering = trial.steering_mut().expect("it steers");
        steering.install_flow(&flow(&steered), action, LONG).expect("there is room");
        assert_eq!(run(&trial, &steered), shown(action));
        assert_eq!(run(&trial, &tcp(1001)), shown(Action::Tag(1)), "another flow");
        let steering = trial.steering_mut().expect("it steers");
        let [FlowEntry { flow: listed, action: of, remaining: Some(remaining), packets: 1 }] =
            steering.flows().expect("a list")[..]
        else {
            panic!("{:?}", steering.flows())
        };
        assert_eq!((listed, of), (flow(&steered), action));
        assert!(remaining <= LONG && remaining > LONG - Duration::from_secs(5), "{remaining:?}");
        assert!(steering.remove_flow(&flow(&steered)).expect("it is removed"));
        assert!(!steering.remove_flow(&flow(&steered)).expect("it is gone"));
    }
    let counters = trial.steering_mut().expect("it steers").counters().expect("counters");
    assert_eq!((counters.totals.by_flow_pkts, counters.rules[0].packets), (3, 6));
    let totals = counters.totals;
    assert_eq!((totals.redirected_pkts, totals.passed_pkts, totals.dropped_pkts), (7, 1, 1));
}

/// Whatever the kind of packet: a key that a function takes from it names it here too.
#[test]
fn flow_keys_of_functions_name_flows() {
    require_root!();
    let mut trial = trial();
    let v4 = ("10.0.0.1".parse().expect("one"), "10.0.0.2".parse().expect("two"));
    let v6 = ("2001:db8::1".parse().expect("one"), "2001:db8::2".parse().expect("two"));
    let packets = [
        PacketBuilder::new().ipv4(v4.0, v4.1).udp(5, 6).build(),
        PacketBuilder::new().vlan(VlanTag::customer(100)).ipv4(v4.0, v4.1).udp(5, 6).build(),
        PacketBuilder::new().ipv6(v6.0, v6.1).udp(5, 6).build(),
        PacketBuilder::new().vlan(VlanTag::customer(7)).ipv6(v6.0, v6.1).tcp(5, 6, TcpFlags::SYN).build(),
        PacketBuilder::new().ipv4(v4.0, v4.1).echo_request(77, 1).build(),
        PacketBuilder::new().ipv6(v6.0, v6.1).echo_request(78, 1).build(),
    ];
    for (number, packet) in packets.iter().enumerate() {
        let steering = trial.steering_mut().expect("it steers");
        let action = Action::Tag(100 + number as u16);
        steering.install_flow(&flow(packet), action, LONG).expect("there is room");
    }
    for (number, packet) in packets.iter().enumerate() {
        assert_eq!(run(&trial, packet), shown(Action::Tag(100 + number as u16)), "{:?}", flow(packet));
    }
}

#[test]
fn a_flow_expires() {
    require_root!();
    let mut trial = trial();
    let (short, long) = (tcp(1), tcp(2));
    let steering = trial.steering_mut().expect("it steers");
    let lifetime = Duration::from_millis(300);
    steering.install_flow(&flow(&short), Action::Drop, lifetime).expect("there is room");
    steering.install_flow(&flow(&long), Action::Drop, LONG).expect("there is room");
    assert!(steering.sweep_flows().expect("a sweep").is_empty());
    assert_eq!(run(&trial, &short).0, Verdict::Drop);
    // Time itself is what is tested.
    sleep(lifetime + Duration::from_millis(50));
    assert_eq!(run(&trial, &short), shown(Action::Tag(1)));
    assert_eq!(run(&trial, &long).0, Verdict::Drop);
    let steering = trial.steering_mut().expect("it steers");
    let swept = steering.sweep_flows().expect("a sweep");
    assert_eq!(swept.iter().map(|entry| (entry.flow, entry.packets)).collect::<Vec<_>>(), [(flow(&short), 1)]);
    assert_eq!(steering.flows().expect("a list").len(), 1);
}

#[test]
fn a_flow_that_is_installed_again_counts_on() {
    require_root!();
    let mut trial = trial();
    let packet = tcp(1);
    for action in [Action::Drop, Action::Kernel] {
        let steering = trial.steering_mut().expect("it steers");
        steering.install_flow(&flow(&packet), action, LONG).expect("there is room");
        assert_eq!(run(&trial, &packet), shown(action));
    }
    let flows = trial.steering_mut().expect("it steers").flows().expect("a list");
    assert_eq!((flows.len(), flows[0].packets, flows[0].action), (1, 2, Action::Kernel));
}

#[test]
fn a_full_table_refuses_and_pushes_nobody_out() {
    require_root!();
    let mut trial = trial();
    let steering = trial.steering_mut().expect("it steers");
    let of =
        |number: u32| Flow { vlan: 0, src: std::net::Ipv4Addr::from(0x0a00_0000 | number).into(), ..flow(&tcp(1)) };
    let mut installed = 0;
    let capacity = loop {
        match steering.install_flow(&of(installed), Action::Drop, LONG) {
            Ok(()) => installed += 1,
            Err(Error::FlowsFull { capacity }) => break capacity,
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!((installed, capacity), (65_536, 65_536));
    assert_eq!(steering.counters().expect("counters").totals.flows_refused, 1);
    steering.install_flow(&of(0), Action::Kernel, LONG).expect("who is there already stays");
    let mut listed: Vec<Flow> = steering.flows().expect("a list").iter().map(|entry| entry.flow).collect();
    listed.sort();
    assert_eq!(listed, (0..installed).map(of).collect::<Vec<_>>());
    assert!(steering.remove_flow(&of(7)).expect("it is removed"));
    steering.install_flow(&of(installed), Action::Drop, LONG).expect("there is room again");
}

#[test]
fn flows_outlive_a_rule_set_and_mixed_ones_are_refused() {
    require_root!();
    let mut trial = trial();
    let packet = tcp(1);
    let steering = trial.steering_mut().expect("it steers");
    steering.install_flow(&flow(&packet), Action::Drop, LONG).expect("there is room");
    let rules = Draw::from_seed(1).rules(100);
    steering.replace(&Tables::compile(&rules, Action::Kernel).expect("few rules")).expect("a replacement");
    assert_eq!(run(&trial, &packet).0, Verdict::Drop);
    let mixed = Flow { dst: "2001:db8::1".parse().expect("an address"), ..flow(&packet) };
    let refused = trial.steering_mut().expect("it steers").install_flow(&mixed, Action::Drop, LONG);
    assert!(matches!(refused, Err(Error::MixedFlow { .. })), "{refused:?}");
}

/// Packets that are no IP, and fragments, have no flow, even if flows are looked for; malformed ones have the one that their head tells.
#[test]
fn drawn_packets_are_decided_by_their_flow_alone() {
    require_root!();
    let mut trial = trial();
    let mut draw = Draw::from_seed(99);
    let frames: Vec<Vec<u8>> = (0..500).map(|_| draw.frame()).collect();
    let of = |frame: &Vec<u8>| Flow::of(&Head::parse(frame).expect("long enough"));
    let installed: Vec<Flow> = frames.iter().step_by(2).filter_map(of).collect();
    for flow in &installed {
        trial.steering_mut().expect("it steers").install_flow(flow, Action::Drop, LONG).expect("there is room");
    }
    assert!(installed.len() > 50);
    let mut by_flow = 0;
    for frame in &frames {
        let expected = of(frame).is_some_and(|flow| installed.contains(&flow));
        by_flow += u64::from(expected);
        assert_eq!(run(&trial, frame).0 == Verdict::Drop, expected, "{:?}", Head::parse(frame));
    }
    assert_eq!(trial.steering_mut().expect("it steers").counters().expect("counters").totals.by_flow_pkts, by_flow);
}
