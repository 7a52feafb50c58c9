//! Connections to services, which the fast path remembers by itself, and their ends.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::thread::sleep;
use std::time::Duration;

use middlenet_bpf::{SlowReason, StagePlan};
use middlenet_fast_path::{Action, Ends, FlowRule, Rewrite, Service, ServiceRule, Shape, Then, slot_of};
use middlenet_steer::Flow;
use middlenet_tests::{require_root, wait_until};
use middlenet_wire::{PacketBuilder, TcpFlags};

use super::lab::{Chain, LEFT, Maps, RIGHT, flow, full_shape, hop_tag, port_tag, reversed, writes};

const IDLE: Duration = Duration::from_secs(100);
const CLOSING: Duration = Duration::from_millis(200);
const SERVICE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);

fn service() -> Service {
    Service { address: SERVICE.into(), port: 80, protocol: 6 }
}

fn server(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, 0, number)
}

/// Sends connections to this server, on its port 8080.
fn to_server(number: u8) -> Action {
    let rewrite = Rewrite { dst: Some(server(number).into()), dst_port: Some(8080), ..Rewrite::default() };
    Action { rewrite, class: Some(number.into()), ..Action::default() }
}

/// Slots of the service name these rules, of which rule n leads to server n.
fn set_slots(maps: &Maps, slots: &[u32]) {
    (0..).zip(slots).for_each(|(slot, rule)| maps.set_slot(slot, *rule));
    let count = slots.len() as u32;
    maps.set_service(&service(), &ServiceRule { first: 0, count, idle: IDLE, closing: CLOSING });
}

fn balancer(change: impl Fn(u16, &mut StagePlan)) -> Chain {
    let chain = Chain::new(1, full_shape(), change);
    (0..10).for_each(|number| chain.maps[0].set_rule(u32::from(number), &to_server(number)));
    set_slots(&chain.maps[0], &(0..10).collect::<Vec<u32>>());
    chain
}

fn tcp(src_port: u16, flags: TcpFlags) -> Vec<u8> {
    PacketBuilder::new().ipv4(CLIENT, SERVICE).tcp(src_port, 80, flags).build()
}

/// What the server says of it.
fn answer(to: &Flow, flags: TcpFlags) -> Vec<u8> {
    let (IpAddr::V4(src), IpAddr::V4(dst)) = (to.dst, to.src) else { panic!("of IPv4") };
    PacketBuilder::new().ipv4(src, dst).tcp(to.dst_port, to.src_port, flags).build()
}

/// Sends a packet of a client, and says to which server it went.
fn forward(chain: &Chain, packet: &[u8]) -> Flow {
    let outcome = chain.forward(packet);
    assert_eq!(outcome.mark.map(|mark| mark.tag), Some(port_tag(RIGHT)), "{:?}", chain.counters(0));
    flow(&outcome.packet)
}

#[test]
fn a_connection_is_remembered_in_both_directions() {
    require_root!();
    let chain = balancer(|_, _| ());
    let maps = &chain.maps[0];
    for src_port in 1000..1100 {
        let syn = tcp(src_port, TcpFlags::SYN);
        let there = forward(&chain, &syn);
        let number = slot_of(CLIENT.into(), src_port, 10) as u8;
        assert_eq!((there.dst, there.dst_port), (server(number).into(), 8080), "as functions select");
        assert_eq!((there.src, there.src_port), (CLIENT.into(), src_port));

        let outcome = chain.reverse(&answer(&there, TcpFlags::SYN | TcpFlags::ACK));
        assert_eq!(outcome.mark.map(|mark| mark.tag), Some(port_tag(LEFT)));
        assert_eq!(flow(&outcome.packet), reversed(&flow(&syn)), "from the service");
        let (action, state) = maps.flow(&flow(&syn)).expect("it is remembered");
        assert_eq!((action, state.packets), (to_server(number), 1));
        assert_eq!(state.bytes, syn.len() as u64);
        assert_eq!(maps.flow(&reversed(&there)).expect("so are answers").1.packets, 1);
    }
    let counters = chain.counters(0);
    assert_eq!((counters.learned, counters.hit_pkts, counters.no_room), (100, 200, 0));
    let of_rules: u64 = (0..10).map(|rule| maps.rule_counts(rule).packets).sum();
    let of_classes: u64 = (0..10).map(|class| maps.class_counts(class).packets).sum();
    assert_eq!((of_rules, of_classes), (100, 200), "rules decide about connections, classes count packets");
    chain.assert_conserved();
}

/// A closing time of nothing is one that is over at once, and none without end.
#[test]
fn a_connection_may_be_forgotten_as_soon_as_it_ends() {
    require_root!();
    let chain = balancer(|_, _| ());
    chain.maps[0].set_service(&service(), &ServiceRule { first: 0, count: 10, idle: IDLE, closing: Duration::ZERO });
    let there = forward(&chain, &tcp(1000, TcpFlags::SYN));
    forward(&chain, &tcp(1000, TcpFlags::RST));
    // As soon as the kernel's coarse clock moves on.
    let is_over = || chain.reverse(&answer(&there, TcpFlags::ACK)).mark.map(|mark| mark.tag) == Some(hop_tag(0));
    wait_until("its end", Duration::from_secs(5), is_over).expect("it ends");
    chain.assert_conserved();
}

/// What has other VLAN tags than its flow's key tells is another network's.
#[test]
fn tags_that_no_key_has_lead_to_the_slow_path() {
    require_root!();
    let chain = balancer(|_, _| ());
    let plain = tcp(1000, TcpFlags::SYN);
    forward(&chain, &plain);
    let known = PacketBuilder::new().ipv4(CLIENT, server(1)).udp(5, 6).build();
    chain.maps[0].set_action(&flow(&known), Action::default());
    let tagged = |packet: &[u8], tags: &[[u8; 4]]| [&packet[..12], &tags.concat(), &packet[12..]].concat();
    let (priority, other) = ([0x81, 0, 0x60, 0], [0x81, 0, 0, 7]);
    for tags in [&[priority, other][..], &[priority], &[other, other]] {
        for packet in [&plain, &known] {
            let outcome = chain.forward(&tagged(packet, tags));
            assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(0)), "{tags:02x?}");
        }
    }
    // One of its own is in the key.
    assert_eq!(forward(&chain, &tagged(&plain, &[other])).vlan, 7);
    chain.assert_conserved();
}

#[test]
fn weights_that_change_move_no_connection() {
    require_root!();
    let chain = balancer(|_, _| ());
    let before: Vec<Flow> = (1000..1200).map(|port| forward(&chain, &tcp(port, TcpFlags::SYN))).collect();
    set_slots(&chain.maps[0], &[7; 100]);
    for (port, before) in (1000..).zip(&before) {
        assert_eq!(forward(&chain, &tcp(port, TcpFlags::ACK)), *before);
        let back = chain.reverse(&answer(before, TcpFlags::ACK));
        assert_eq!(flow(&back.packet).src, IpAddr::from(SERVICE));
    }
    for port in 1200..1250 {
        assert_eq!(forward(&chain, &tcp(port, TcpFlags::SYN)).dst, IpAddr::from(server(7)));
    }
}

/// FIN of both sides, or RST of either: the connection is forgotten after the service's closing time, and not while it closes.
#[test]
fn a_connection_ends() {
    require_root!();
    let fin = TcpFlags::FIN | TcpFlags::ACK;
    type Step = (bool, TcpFlags);
    let endings: [&[Step]; 4] = [
        &[(true, fin), (false, fin), (true, TcpFlags::ACK)],
        &[(false, fin), (true, fin), (false, TcpFlags::ACK)],
        &[(true, TcpFlags::RST)],
        &[(false, TcpFlags::RST | TcpFlags::ACK)],
    ];
    for (number, steps) in endings.into_iter().enumerate() {
        let chain = balancer(|_, _| ());
        let maps = &chain.maps[0];
        let syn = tcp(1000, TcpFlags::SYN);
        let there = forward(&chain, &syn);
        let state = |of: &Flow| maps.flow(of).expect("it is remembered").1;
        let both = [flow(&syn), reversed(&there)];
        for &(forward_one, flags) in steps {
            if forward_one {
                assert_eq!(forward(&chain, &tcp(1000, flags)), there, "ending {number}: it goes where it went");
            } else {
                let outcome = chain.reverse(&answer(&there, flags));
                assert_eq!(flow(&outcome.packet), reversed(&flow(&syn)), "ending {number}");
            }
        }
        for of in &both {
            let state = state(of);
            assert!(state.is_closing, "ending {number}: {state:?}");
            assert_eq!(state.idle_ns, CLOSING.as_nanos() as u64, "ending {number}");
        }
        // Time itself is what is tested; the kernel's coarse clock may be 10 ms behind.
        sleep(CLOSING + Duration::from_millis(50));
        set_slots(maps, &[3]);
        let anew = forward(&chain, &tcp(1000, TcpFlags::SYN));
        assert_eq!(anew.dst, IpAddr::from(server(3)), "ending {number}: another connection");
        assert!(!maps.flow(&flow(&syn)).expect("it is remembered").1.is_closing);
        assert_eq!(chain.counters(0).learned, 2);
        chain.assert_conserved();
    }
}

/// One side alone does not end it, and a SYN on a closing connection begins another at once.
#[test]
fn a_syn_begins_anew_when_the_connection_is_closing() {
    require_root!();
    let chain = balancer(|_, _| ());
    let syn = tcp(1000, TcpFlags::SYN);
    let there = forward(&chain, &syn);
    set_slots(&chain.maps[0], &[(1 + slot_of(CLIENT.into(), 1000, 10)) % 10]);
    let fin = TcpFlags::FIN | TcpFlags::ACK;
    assert_eq!(forward(&chain, &tcp(1000, fin)), there);
    assert_eq!(forward(&chain, &syn), there, "half closed, and the SYN came twice");
    chain.reverse(&answer(&there, fin));
    assert_eq!(forward(&chain, &tcp(1000, TcpFlags::ACK)), there, "the last one");
    assert_ne!(forward(&chain, &syn).dst, there.dst, "another connection");
    assert_eq!(chain.counters(0).learned, 2);
}

#[test]
fn packets_that_end_what_nobody_knows_are_not_remembered() {
    require_root!();
    let chain = balancer(|_, _| ());
    for flags in [TcpFlags::RST, TcpFlags::FIN | TcpFlags::ACK] {
        forward(&chain, &tcp(1000, flags));
    }
    assert_eq!((chain.counters(0).learned, chain.maps[0].flow_count()), (0, 0));
    forward(&chain, &tcp(1000, TcpFlags::ACK));
    assert_eq!(chain.counters(0).learned, 1, "one in the middle, as after a restart");
}

#[test]
fn udp_and_ipv6_have_services_too() {
    require_root!();
    let chain = balancer(|_, _| ());
    let maps = &chain.maps[0];
    let v6 = |last| Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last);
    let rewrite = Rewrite { dst: Some(v6(7).into()), lower_ttl: true, ..Rewrite::default() };
    maps.set_rule(20, &writes(rewrite));
    maps.set_slot(50, 20);
    let service = Service { address: v6(1).into(), port: 53, protocol: 17 };
    maps.set_service(&service, &ServiceRule { first: 50, count: 1, idle: IDLE, closing: CLOSING });
    let question = PacketBuilder::new().ipv6(v6(9), v6(1)).udp(5000, 53).build();
    for _ in 0..3 {
        let there = forward(&chain, &question);
        assert_eq!((there.dst, there.dst_port), (v6(7).into(), 53));
    }
    let back = chain.reverse(&PacketBuilder::new().ipv6(v6(7), v6(9)).udp(53, 5000).build());
    assert_eq!(flow(&back.packet), reversed(&flow(&question)));
    assert_eq!(back.packet[14 + 7], 63, "the hop limit is lowered this way too");
    // TCP of the same port is another service, that there is not.
    let other = chain.forward(&PacketBuilder::new().ipv6(v6(9), v6(1)).tcp(5000, 53, TcpFlags::SYN).build());
    assert_eq!(other.mark.map(|mark| mark.tag), Some(hop_tag(0)));
    assert_eq!((chain.counters(0).learned, chain.counters(0).slow(SlowReason::Miss)), (1, 1));
}

/// Two clients' connections that would look the same to the server: the second goes to the function.
#[test]
fn answers_never_go_to_somebody_else() {
    require_root!();
    let chain = balancer(|_, _| ());
    let maps = &chain.maps[0];
    let second = Service { address: Ipv4Addr::new(198, 51, 100, 2).into(), ..service() };
    set_slots(maps, &[1]);
    maps.set_service(&second, &ServiceRule { first: 0, count: 1, idle: IDLE, closing: CLOSING });
    let there = forward(&chain, &tcp(1000, TcpFlags::SYN));
    let same = PacketBuilder::new().ipv4(CLIENT, Ipv4Addr::new(198, 51, 100, 2)).tcp(1000, 80, TcpFlags::SYN).build();
    let outcome = chain.forward(&same);
    assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(0)));
    assert_eq!(outcome.packet, same, "as it came");
    let back = chain.reverse(&answer(&there, TcpFlags::ACK));
    assert_eq!(flow(&back.packet).src, IpAddr::from(SERVICE));
    let counters = chain.counters(0);
    assert_eq!((counters.learned, counters.no_room, counters.slow(SlowReason::Room)), (1, 1, 1));
}

#[test]
fn services_without_slots_are_left_to_the_function() {
    require_root!();
    let chain = balancer(|_, _| ());
    let rule = ServiceRule { first: 0, count: 0, idle: IDLE, closing: CLOSING };
    chain.maps[0].set_service(&service(), &rule);
    let outcome = chain.forward(&tcp(1, TcpFlags::SYN));
    assert_eq!(outcome.mark.map(|mark| mark.tag), Some(hop_tag(0)));
    // Slots and rules that there are not.
    for first in [256, 1_000_000, u32::MAX] {
        chain.maps[0].set_service(&service(), &ServiceRule { first, count: 1, ..rule });
        chain.forward(&tcp(1, TcpFlags::SYN));
    }
    chain.maps[0].set_slot(0, 70_000);
    chain.maps[0].set_service(&service(), &ServiceRule { count: 1, ..rule });
    chain.forward(&tcp(1, TcpFlags::SYN));
    let counters = chain.counters(0);
    assert_eq!((counters.slow(SlowReason::Asked), counters.slow(SlowReason::Unfit), counters.learned), (1, 4, 0));
}

/// A balancer on one port answers where it was asked.
#[test]
fn answers_of_a_reply_come_back_by_the_same_port() {
    require_root!();
    let chain = balancer(|_, plan| plan.right = Vec::new());
    chain.maps[0].set_rule(5, &Action { then: Then::Reply, ..to_server(5) });
    set_slots(&chain.maps[0], &[5]);
    let outcome = chain.forward(&tcp(1000, TcpFlags::SYN));
    assert_eq!(outcome.mark.map(|mark| (mark.tag, mark.egress)), Some((port_tag(LEFT), Some(LEFT))));
    let back = chain.forward(&answer(&flow(&outcome.packet), TcpFlags::ACK));
    assert_eq!(back.mark.map(|mark| mark.tag), Some(port_tag(LEFT)));
    assert_eq!(flow(&back.packet).src, IpAddr::from(SERVICE));
}

/// What functions install themselves.
#[test]
fn flows_go_by_lifetime_idleness_and_generation_and_send_ends_to_the_slow_path() {
    require_root!();
    let chain = Chain::new(1, Shape::of(&[middlenet_fast_path::Mode::Reactive]).flows(64), |_, _| ());
    let maps = &chain.maps[0];
    let packet = |flags| tcp(1000, flags);
    let of = flow(&packet(TcpFlags::ACK));
    let short = Duration::from_millis(150);
    let rule = FlowRule { action: Action::default(), lifetime: IDLE, idle: None, ends: Ends::Ignored };
    let is_hit = |flags| chain.forward(&packet(flags)).mark.map(|mark| mark.tag) == Some(port_tag(RIGHT));
    for rule in [FlowRule { lifetime: short, ..rule }, FlowRule { idle: Some(short), ..rule }] {
        maps.set_flow(&of, &rule);
        assert!(is_hit(TcpFlags::ACK));
        // Time itself is what is tested.
        sleep(short + Duration::from_millis(50));
        assert!(!is_hit(TcpFlags::ACK), "{rule:?}");
    }
    maps.set_flow(&of, &rule);
    assert!(is_hit(TcpFlags::FIN), "ends are nothing to it");
    maps.set_generation(9);
    assert!(!is_hit(TcpFlags::ACK), "of another generation");
    maps.set_flow(&of, &FlowRule { ends: Ends::ToSlowPath, ..rule });
    assert!(is_hit(TcpFlags::ACK) && is_hit(TcpFlags::SYN | TcpFlags::ACK));
    assert!(!is_hit(TcpFlags::FIN | TcpFlags::ACK) && !is_hit(TcpFlags::RST));
    assert!(!is_hit(TcpFlags::SYN), "it may be another connection");
    assert_eq!(chain.counters(0).slow(SlowReason::Asked), 3);
    maps.set_flow(&of, &FlowRule { ends: Ends::Tracked, ..rule });
    assert!(is_hit(TcpFlags::RST) && is_hit(TcpFlags::ACK));
    assert!(maps.flow(&of).expect("it is there").1.is_closing);
    assert!(!is_hit(TcpFlags::SYN), "a new connection is for the function to see");
    chain.assert_conserved();
}
