//! Packets meet a fast path in memory as they do in the kernel: bpf/tests/fast/connections.rs has the same cases.

use super::*;
use crate::fast_path::{FastPath, FlowRule, Mode, Rewrite, RuleTable};
use std::sync::atomic::AtomicU64;
use std::time::Duration;

const SHAPE: Shape =
    Shape::of(&[Mode::Proactive]).flows(100).prefixes(4, 4).ports(true, true).rules(8).services(4, 8).classes(4);

/// A fast path at 100 seconds, with services at 192.0.2.1 and .2, port 80, of both protocols, which have one server in common.
fn balanced() -> (FastPath, View) {
    let path = FastPath::in_memory_at(Mode::Proactive, SHAPE, Arc::new(AtomicU64::new(0)));
    path.begin();
    path.set_clock(100_000_000_000);
    let to = |last: u8| Action {
        rewrite: Rewrite { dst: Some([10, 0, 0, last].into()), dst_port: Some(8080), ..Rewrite::default() },
        class: Some(last.into()),
        mtu: Some(1500),
        ..Action::default()
    };
    path.set_rules(&RuleTable { rules: vec![to(1), to(2)], ..RuleTable::default() }).unwrap();
    path.set_slots(0, &[0]).unwrap();
    let rule = ServiceRule { first: 0, count: 1, idle: Duration::from_secs(60), closing: Duration::from_secs(5) };
    for (last, protocol) in [(1, 6), (2, 6), (1, 17)] {
        path.set_service(&Service { address: [192, 0, 2, last].into(), port: 80, protocol }, &rule).unwrap();
    }
    let view = path.view().unwrap();
    (path, view)
}

/// To a service.
fn asked(service: u8, protocol: u8) -> Flow {
    let (src, dst) = ([203, 0, 113, 1].into(), [192, 0, 2, service].into());
    Flow { vlan: 0, src, dst, protocol, src_port: 1000, dst_port: 80 }
}

/// From its server.
fn answered(protocol: u8) -> Flow {
    Flow {
        src: [10, 0, 0, 1].into(),
        src_port: 8080,
        dst: [203, 0, 113, 1].into(),
        dst_port: 1000,
        ..asked(1, protocol)
    }
}

fn advance(path: &FastPath, seconds: u64) {
    let now = path.now() + Duration::from_secs(seconds);
    path.set_clock(now.as_nanos() as u64);
}

fn closing(path: &FastPath) -> [Option<bool>; 2] {
    [asked(1, 6), answered(6)].map(|flow| path.query(&flow).map(|(_, state)| state.is_closing))
}

#[test]
fn a_connection_counts_in_the_generation_in_which_it_begins_and_in_its_class() {
    let (path, view) = balanced();
    path.clear();
    view.pass_tcp(&asked(1, 6), 100, TcpFlags::SYN).unwrap();
    let back = view.pass(&answered(6), 50).unwrap();
    assert_eq!((back.rewrite.src, back.rewrite.src_port), (Some([192, 0, 2, 1].into()), Some(80)));
    assert_eq!((back.class, back.mtu), (Some(1), None));
    assert_eq!(path.class_counts(1), Counted { packets: 2, bytes: 150 });
    assert_eq!(path.rule_counts(0), Counted { packets: 1, bytes: 100 });
    let (_, state) = path.query(&asked(1, 6)).unwrap();
    assert_eq!((state.packets, state.bytes), (1, 100));
    path.clear();
    assert_eq!(view.decide(&answered(6)), None);
}

#[test]
fn ends_are_noted_in_both_directions() {
    let (path, view) = balanced();
    view.pass_tcp(&asked(1, 6), 60, TcpFlags::SYN).unwrap();
    view.pass_tcp(&answered(6), 60, TcpFlags::FIN).unwrap();
    assert_eq!(closing(&path), [Some(false); 2]);
    view.pass_tcp(&asked(1, 6), 60, TcpFlags::FIN).unwrap();
    assert_eq!(closing(&path), [Some(true); 2]);
    // As long as the service says, without a packet.
    for _ in 0..3 {
        advance(&path, 4);
        view.pass(&asked(1, 6), 60).unwrap();
    }
    assert_eq!(closing(&path), [Some(true), None]);
    advance(&path, 6);
    assert_eq!(closing(&path), [None; 2]);
    view.pass_tcp(&asked(1, 6), 60, TcpFlags::SYN).unwrap();
    view.pass_tcp(&answered(6), 60, TcpFlags::RST).unwrap();
    assert_eq!(closing(&path), [Some(true); 2]);
    // Another connection from the same port.
    path.set_slots(0, &[1]).unwrap();
    assert_eq!(view.pass(&asked(1, 6), 60).unwrap().class, Some(1));
    assert_eq!(view.pass_tcp(&asked(1, 6), 60, TcpFlags::SYN).unwrap().class, Some(2));
    // What ends none begins none.
    let other = Flow { src_port: 1, ..asked(1, 6) };
    assert_eq!(view.pass_tcp(&other, 60, TcpFlags::FIN).unwrap().class, Some(2));
    assert_eq!(path.query(&other), None);
}

#[test]
fn connections_of_udp_have_no_ends() {
    let (path, view) = balanced();
    view.pass_tcp(&asked(1, 17), 60, TcpFlags::RST).unwrap();
    view.pass_tcp(&answered(17), 60, TcpFlags::RST).unwrap();
    for flow in [asked(1, 17), answered(17)] {
        assert_eq!(
            connections::counting(&mut lock(&view.0), &flow).map(|value| connections::ends_of(&value)),
            Some(Ends::Ignored)
        );
        assert!(!path.query(&flow).unwrap().1.is_closing);
    }
}

#[test]
fn answers_never_go_to_somebody_else() {
    let (path, view) = balanced();
    view.pass_tcp(&asked(1, 6), 60, TcpFlags::SYN).unwrap();
    let other = asked(2, 6);
    assert_eq!((view.decide(&other), view.pass_tcp(&other, 60, TcpFlags::SYN)), (None, None));
    assert_eq!(path.query(&other), None);
    assert!(view.pass_tcp(&asked(1, 6), 60, TcpFlags::SYN).is_some(), "its own place");
    view.pass_tcp(&asked(1, 6), 60, TcpFlags::RST).unwrap();
    assert!(view.pass_tcp(&other, 60, TcpFlags::SYN).is_some(), "the connection before is closing");
}

#[test]
fn a_rule_may_leave_packets_to_the_slow_path() {
    let (path, view) = balanced();
    let large = Action { mtu: Some(100), ..Action::default() };
    let rule = |action, ends| FlowRule { action, lifetime: Duration::from_secs(9), idle: None, ends };
    let flows = [1, 2, 3].map(|port| Flow { src_port: port, ..answered(6) });
    path.install_all(&[
        (flows[0], rule(large, Ends::Ignored)),
        (flows[1], rule(Action::default(), Ends::ToSlowPath)),
        (flows[2], rule(Action { then: Then::Drop(64), ..Action::default() }, Ends::Ignored)),
    ]);
    assert!(view.pass(&flows[0], 114).is_some() && view.pass(&flows[0], 115).is_none());
    let passes = |flags| view.pass_tcp(&flows[1], 60, flags).is_some();
    let syn_ack = TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0);
    let flags = [TcpFlags::ACK, syn_ack, TcpFlags::SYN, TcpFlags::FIN, TcpFlags::RST];
    assert_eq!(flags.map(passes), [true, true, false, false, false]);
    assert_eq!(view.pass(&flows[2], 60), None);
}

#[test]
fn an_address_of_ipv6_is_none_of_ipv4() {
    let (_, view) = balanced();
    let flow = asked(1, 6);
    let mapped = |address: std::net::IpAddr| match address {
        std::net::IpAddr::V4(address) => address.to_ipv6_mapped().into(),
        address => address,
    };
    assert!(view.decide(&flow).is_some());
    assert_eq!(view.decide(&Flow { src: mapped(flow.src), dst: mapped(flow.dst), ..flow }), None);
}

#[test]
fn what_hides_its_ports_meets_no_rule_behind_those_of_ports() {
    let (path, view) = balanced();
    let flow = Flow { dst_port: 23, ..answered(6) };
    let table = |port_rule: u32, allowed: u32, then| RuleTable {
        rules: vec![Action { then, ..Action::default() }; 3],
        src: vec![("10.0.0.0/8".parse().unwrap(), allowed)],
        dst_ports: vec![(6, 23, port_rule)],
        ..RuleTable::default()
    };
    for (table, decides) in [
        (table(0, 1, Then::Next), false),
        (table(2, 1, Then::Next), true),
        (table(1, 1, Then::Next), true),
        (table(0, 1, Then::Drop(1)), true),
        (RuleTable { dst_ports: Vec::new(), ..table(0, 1, Then::Next) }, true),
    ] {
        path.set_rules(&table).unwrap();
        assert_eq!(view.decide_hidden(&flow).is_some(), decides, "{table:?}");
        assert!(view.decide(&flow).is_some());
    }
}

#[test]
fn looking_at_a_flow_is_no_use_of_it() {
    let shape = Shape::of(&[Mode::Reactive]).flows(2);
    let path = FastPath::in_memory(Mode::Reactive, shape);
    path.begin();
    let view = path.view().unwrap();
    let flow = |port| Flow { src_port: port, ..answered(6) };
    let install = |port| {
        let (lifetime, ends) = (Duration::from_secs(9), Ends::Ignored);
        path.install_all(&[(flow(port), FlowRule { action: Action::default(), lifetime, idle: None, ends })]);
    };
    let there = || [1, 2, 3].map(|port| path.query(&flow(port)).is_some());
    install(1);
    install(2);
    assert!(path.query(&flow(1)).is_some());
    install(3);
    assert_eq!(there(), [false, true, true]);
    view.pass(&flow(2), 60).unwrap();
    install(1);
    assert_eq!(there(), [true, true, false]);
}
