//! With a fast path.

use super::*;
use middlenet_sdk::fast_path::{Flow, flow_of};
use std::collections::HashMap;

fn kit(config: Value) -> Testkit<Elb> {
    Testkit::with_fast_path(config, Mode::Proactive).unwrap()
}

fn flow(packet: &[u8]) -> Flow {
    flow_of(&FlowKey::parse(packet).unwrap())
}

/// Where the fast path sends a packet.
fn passed(kit: &Testkit<Elb>, packet: &[u8]) -> Option<IpAddr> {
    kit.fast_path().pass(&flow(packet), packet.len() as u64)?.rewrite.dst
}

#[test]
fn both_paths_choose_the_same_server() {
    let servers = config(&[(1, 100), (2, 60), (3, 40)]);
    let (mut slow, fast) = (Testkit::<Elb>::new(servers.clone()), kit(servers));
    for n in 0..300 {
        let syn = asked(n, TcpFlags::SYN);
        assert_eq!(passed(&fast, &syn), Some(to(&mut slow, &syn)), "{n}");
    }
}

#[test]
fn connections_of_the_fast_path_are_known_here() {
    let mut kit = kit(config(&[(1, 100), (2, 100)]));
    let chosen: HashMap<u16, IpAddr> = (0..50).map(|n| (n, passed(&kit, &asked(n, TcpFlags::SYN)).unwrap())).collect();
    // All new ones go to a third.
    kit.reconfigure(config(&[(1, 0), (2, 0), (3, 100)])).unwrap();
    for (&n, &server) in &chosen {
        assert_eq!(passed(&kit, &asked(n, TcpFlags::ACK)), Some(server));
        // What comes here instead, in either direction, goes the same way.
        assert_eq!(to(&mut kit, &asked(n, TcpFlags::ACK)), server);
        let outcome = &kit.run("right", &[answered(server, n, TcpFlags::ACK)])[0];
        assert_eq!(key(outcome).src_ip(), IpAddr::from(SERVICE));
    }
    assert_eq!(passed(&kit, &asked(60, TcpFlags::SYN)), Some(server(3)));
    assert_eq!(to(&mut kit, &asked(61, TcpFlags::SYN)), server(3));
    assert_eq!(passed(&kit, &asked(61, TcpFlags::ACK)), Some(server(3)), "what begins here goes on there");
    let back = kit.fast_path().decide(&flow(&answered(server(3), 61, TcpFlags::ACK))).unwrap();
    assert_eq!((back.rewrite.src, back.rewrite.src_port), (Some(SERVICE.into()), Some(80)));
    kit.tick();
    kit.tick();
    let connections: u64 = reported(&kit, "connections").iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(connections, 52);
}

fn answered_by_udp(from: IpAddr, n: u16) -> Vec<u8> {
    let IpAddr::V4(from) = from else { panic!("an IPv4 server") };
    PacketBuilder::new().ipv4(from, client(n).0.into()).udp(8080, client(n).1).payload(b"!").build()
}

/// Time passes, with ticks, and one side alone sends in the kernel.
fn one_side_goes_on(kit: &mut Testkit<Elb>, packets: &[Vec<u8>], seconds: u64) {
    for _ in 0..seconds {
        kit.advance(Duration::from_secs(1));
        for packet in packets {
            kit.fast_path().pass(&flow(packet), packet.len() as u64).expect("a packet that passes in the kernel");
        }
        kit.tick();
    }
}

#[test]
fn a_silent_server_may_answer_as_long_as_its_client_sends() {
    for (protocol, client, server_of) in [
        ("udp", asked_by_udp as fn(u16) -> Vec<u8>, answered_by_udp as fn(IpAddr, u16) -> Vec<u8>),
        ("tcp", |n| asked(n, TcpFlags::ACK), |from, n| answered(from, n, TcpFlags::ACK)),
    ] {
        let mut kit = kit(patient(protocol, &[(1, 1), (2, 1)]));
        let chosen = passed(&kit, &client(1)).unwrap();
        one_side_goes_on(&mut kit, &[client(1)], 35);
        let back = kit.fast_path().pass(&flow(&server_of(chosen, 1)), 60).expect("an answer that passes in the kernel");
        assert_eq!((back.rewrite.src, back.rewrite.src_port), (Some(SERVICE.into()), Some(80)));
    }
}

#[test]
fn a_silent_client_keeps_its_server_as_long_as_that_sends() {
    for (protocol, client, server_of) in [
        ("udp", asked_by_udp as fn(u16) -> Vec<u8>, answered_by_udp as fn(IpAddr, u16) -> Vec<u8>),
        ("tcp", |n| asked(n, TcpFlags::ACK), |from, n| answered(from, n, TcpFlags::ACK)),
    ] {
        let mut kit = kit(patient(protocol, &[(1, 1), (2, 1)]));
        let chosen: Vec<IpAddr> = (0..20).map(|n| passed(&kit, &client(n)).unwrap()).collect();
        kit.reconfigure(patient(protocol, &[(1, 0), (2, 0), (3, 1)])).unwrap();
        let answers: Vec<_> = (0..).zip(&chosen).map(|(n, &from)| server_of(from, n)).collect();
        one_side_goes_on(&mut kit, &answers, 35);
        for (n, &chosen) in (0..).zip(&chosen) {
            assert_eq!(passed(&kit, &client(n)), Some(chosen), "{protocol}");
        }
        assert_eq!(passed(&kit, &client(30)), Some(server(3)));
    }
}

#[test]
fn a_connection_on_which_both_are_silent_is_over() {
    let mut kit = kit(patient("udp", &[(1, 1)]));
    passed(&kit, &asked_by_udp(1)).unwrap();
    passed(&kit, &asked_by_udp(2)).unwrap();
    // Part of its packets come here, which the kernel does not see.
    to(&mut kit, &asked_by_udp(3));
    kit.reconfigure(patient("udp", &[(1, 0), (2, 1)])).unwrap();
    for _ in 0..20 {
        one_side_goes_on(&mut kit, &[asked_by_udp(2)], 1);
        to(&mut kit, &asked_by_udp(3));
    }
    one_side_goes_on(&mut kit, &[], 1);
    assert_eq!(reported(&kit, "connections")[0], json!(2));
    assert_eq!(kit.fast_path().flows().len(), 4);
    let chosen = [1, 2, 3].map(|n| passed(&kit, &asked_by_udp(n)).unwrap());
    assert_eq!(chosen, [server(2), server(1), server(1)]);
}

#[test]
fn an_answer_whose_entry_made_room_is_translated() {
    let mut kit = kit(config(&[(1, 1), (2, 1)]));
    let chosen = passed(&kit, &asked(1, TcpFlags::SYN)).unwrap();
    let answer = answered(chosen, 1, TcpFlags::ACK);
    kit.evict(&flow(&answer));
    assert!(kit.fast_path().decide(&flow(&answer)).is_none());
    let outcome = &kit.run("right", std::slice::from_ref(&answer))[0];
    assert_eq!(key(outcome).src_ip(), IpAddr::from(SERVICE));
    assert!(kit.fast_path().decide(&flow(&answer)).is_some(), "both directions are known again");
}

#[test]
fn a_client_whose_entry_made_room_keeps_its_server_if_it_comes_here() {
    let mut kit = kit(config(&[(1, 1), (2, 1)]));
    let chosen: Vec<IpAddr> = (0..4).map(|n| passed(&kit, &asked(n, TcpFlags::SYN)).unwrap()).collect();
    kit.reconfigure(config(&[(3, 1), (1, 0), (2, 0)])).unwrap();
    let is_known = |kit: &Testkit<Elb>, n| {
        let flow = flow(&asked(n, TcpFlags::ACK));
        kit.fast_path().flows().iter().any(|(of, ..)| *of == flow)
    };
    for n in 0..4 {
        kit.evict(&flow(&asked(n, TcpFlags::SYN)));
        assert!(!is_known(&kit, n));
    }
    assert_eq!(to(&mut kit, &asked(0, TcpFlags::ACK)), chosen[0]);
    assert!(is_known(&kit, 0), "both directions are known again");
    let fin = TcpFlags(TcpFlags::FIN.0 | TcpFlags::ACK.0);
    assert_eq!(to(&mut kit, &asked(1, fin)), chosen[1]);
    assert!(!is_known(&kit, 1), "what ends a connection brings none back");
    // A connection that begins is another one, from the same port.
    assert_eq!(to(&mut kit, &asked(2, TcpFlags::SYN)), server(3));
    // That of another service is not this one's.
    kit.fast_path().pass_tcp(&flow(&answered(chosen[3], 3, TcpFlags::ACK)), 60, TcpFlags::RST);
    assert_eq!(to(&mut kit, &asked(3, TcpFlags::ACK)), server(3));
}

#[test]
fn what_is_known_here_outlasts_what_made_room_in_the_fast_path() {
    let mut kit = kit(config(&[(1, 1)]));
    let answer = answered(server(1), 1, TcpFlags::ACK);
    to(&mut kit, &asked(1, TcpFlags::SYN));
    kit.reconfigure(config(&[(2, 1), (1, 0)])).unwrap();
    for from_client in [true, false] {
        kit.evict(&flow(&asked(1, TcpFlags::ACK)));
        kit.evict(&flow(&answer));
        kit.advance(Duration::from_secs(2));
        if from_client {
            assert_eq!(to(&mut kit, &asked(1, TcpFlags::ACK)), server(1));
        } else {
            let outcome = &kit.run("right", std::slice::from_ref(&answer))[0];
            assert_eq!(key(outcome).src_ip(), IpAddr::from(SERVICE));
        }
        assert_eq!(kit.fast_path().flows().len(), 2, "both directions are known again");
    }
    // Not so for a connection that begins.
    kit.evict(&flow(&asked(1, TcpFlags::ACK)));
    kit.evict(&flow(&answer));
    kit.advance(Duration::from_secs(2));
    assert_eq!(to(&mut kit, &asked(1, TcpFlags::SYN)), server(2));
}

#[test]
fn a_draining_server_has_fewer_and_fewer_connections() {
    let mut kit = kit(config(&[(1, 1)]));
    for n in 0..3 {
        passed(&kit, &asked(n, TcpFlags::SYN)).unwrap();
    }
    let mut draining = config(&[(1, 1), (2, 1)]);
    draining["services"][0]["servers"][0]["drain"] = json!(true);
    kit.reconfigure(draining).unwrap();
    let left = |kit: &mut Testkit<Elb>| {
        kit.tick();
        kit.tick();
        reported(kit, "connections")[0].as_u64().unwrap()
    };
    assert_eq!(left(&mut kit), 3);
    kit.fast_path().pass_tcp(&flow(&asked(0, TcpFlags::FIN)), 60, TcpFlags::RST);
    assert_eq!(left(&mut kit), 2);
    kit.advance(Duration::from_secs(901));
    assert_eq!((left(&mut kit), kit.fast_path().flows().len()), (0, 0));
    assert_eq!(passed(&kit, &asked(0, TcpFlags::SYN)), Some(server(2)));
}

#[test]
fn what_the_fast_path_began_anew_is_not_mistaken_for_the_old() {
    let mut kit = kit(config(&[(1, 1)]));
    assert_eq!(to(&mut kit, &asked(1, TcpFlags::SYN)), server(1));
    kit.reconfigure(config(&[(1, 0), (2, 1)])).unwrap();
    kit.fast_path().pass_tcp(&flow(&asked(1, TcpFlags::FIN)), 60, TcpFlags::RST);
    kit.advance(Duration::from_secs(901));
    kit.tick();
    assert_eq!(passed(&kit, &asked(1, TcpFlags::SYN)), Some(server(2)));
    assert_eq!(to(&mut kit, &asked(1, TcpFlags::ACK)), server(2));
}

#[test]
fn services_come_and_go_without_touching_others() {
    let service = |last: u8, servers: &[u8]| {
        let servers: Vec<Value> = servers.iter().map(|n| json!({"address": server(*n), "port": 8080})).collect();
        json!({"address": format!("192.0.2.{last}"), "port": 80, "servers": servers})
    };
    let packet = |last: u8, n: u16| {
        PacketBuilder::new()
            .ipv4(client(n).0.into(), [192, 0, 2, last].into())
            .tcp(client(n).1, 80, TcpFlags::SYN)
            .build()
    };
    let mut kit = kit(json!({"services": [service(80, &[1, 2]), service(81, &[3])]}));
    let before: Vec<_> = (0..50).map(|n| kit.fast_path().decide(&flow(&packet(80, n))).unwrap().rewrite.dst).collect();
    // Another in front, one with another number of servers, one gone.
    kit.reconfigure(json!({"services": [service(82, &[4, 5]), service(80, &[2, 1])]})).unwrap();
    let after: Vec<_> = (0..50).map(|n| kit.fast_path().decide(&flow(&packet(80, n))).unwrap().rewrite.dst).collect();
    assert_eq!(before, after);
    assert!(kit.fast_path().decide(&flow(&packet(81, 1))).is_none());
    for n in 0..50 {
        let to = kit.fast_path().decide(&flow(&packet(82, n))).unwrap().rewrite.dst.unwrap();
        assert!([server(4), server(5)].contains(&to));
    }
}

/// Connections that servers have, once all have been looked at.
fn counted(kit: &mut Testkit<Elb>) -> Vec<u64> {
    (0..3).for_each(|_| drop(kit.tick()));
    reported(kit, "connections").iter().map(|n| n.as_u64().unwrap()).collect()
}

#[test]
fn connections_are_counted_for_their_server_after_a_restart_too() {
    let mut kit = kit(config(&[(1, 1), (2, 1), (3, 1)]));
    let chosen: Vec<IpAddr> = (0..60).map(|n| passed(&kit, &asked(n, TcpFlags::SYN)).unwrap()).collect();
    let of = |n| chosen.iter().filter(|&&to| to == server(n)).count() as u64;
    let left = config(&[(2, 1), (3, 1)]);
    kit.reconfigure(left.clone()).unwrap();
    assert_eq!(counted(&mut kit), [of(2), of(3)]);
    // The new process numbers its servers from the first one on.
    kit.restart(left).unwrap();
    assert_eq!(reported(&kit, "connections"), [Value::Null, Value::Null], "nobody has looked yet");
    assert_eq!(reported(&kit, "fast_packets"), [json!(0), json!(0)], "what was counted before is of another process");
    assert_eq!(counted(&mut kit), [of(2), of(3)]);
    passed(&kit, &asked(90, TcpFlags::SYN)).unwrap();
    let packets: u64 = reported(&kit, "fast_packets").iter().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!((packets, counted(&mut kit).iter().sum::<u64>()), (1, of(2) + of(3) + 1));
}

#[test]
fn a_new_server_has_nothing_of_one_that_was_taken_out() {
    let mut kit = kit(config(&[(1, 1)]));
    passed(&kit, &asked(1, TcpFlags::SYN)).unwrap();
    assert_eq!(counted(&mut kit), [1]);
    for servers in [&[(2, 1), (1, 1)][..], &[(2, 1)], &[(2, 1), (4, 0)]] {
        kit.reconfigure(config(servers)).unwrap();
    }
    assert_eq!(passed(&kit, &asked(1, TcpFlags::ACK)), Some(server(1)), "its connections go on");
    assert_eq!(counted(&mut kit), [0, 0]);
    assert_eq!(reported(&kit, "fast_packets"), [json!(0), json!(0)]);
    // It comes back.
    kit.reconfigure(config(&[(2, 1), (4, 0), (1, 0)])).unwrap();
    assert_eq!(reported(&kit, "connections"), [json!(0), json!(0), Value::Null], "nobody has looked yet");
    assert_eq!(counted(&mut kit), [0, 0, 1]);
}

#[test]
fn many_that_fall_silent_at_once_are_looked_at_one_after_the_other() {
    let mut kit = kit(patient("udp", &[(1, 1)]));
    for n in 0..600 {
        passed(&kit, &asked_by_udp(n)).unwrap();
    }
    assert_eq!(counted(&mut kit), [600]);
    kit.advance(Duration::from_secs(11));
    // Of these only the servers are silent.
    for n in 0..100 {
        passed(&kit, &asked_by_udp(n)).unwrap();
    }
    kit.tick();
    let left = kit.fast_path().flows().len();
    assert!((600..1200).contains(&left), "each that is looked at costs system calls: {left} of 1200 left");
    for _ in 0..20 {
        kit.tick();
    }
    assert_eq!((counted(&mut kit), kit.fast_path().flows().len()), (vec![100], 200));
}

#[test]
fn a_connection_whose_service_went_is_over_when_both_are_silent() {
    let mut kit = kit(patient("udp", &[(1, 1)]));
    assert_eq!(passed(&kit, &asked_by_udp(1)), Some(server(1)));
    to(&mut kit, &asked_by_udp(1));
    let mut other = patient("udp", &[(1, 1)]);
    other["services"][0]["address"] = json!("192.0.2.81");
    kit.reconfigure(other).unwrap();
    assert_eq!(to(&mut kit, &asked_by_udp(1)), server(1));
    kit.reconfigure(patient("udp", &[(2, 1)])).unwrap();
    one_side_goes_on(&mut kit, &[], 12);
    assert_eq!(kit.fast_path().flows().len(), 0);
    assert_eq!(passed(&kit, &asked_by_udp(1)), Some(server(2)));
}

#[test]
fn services_keep_apart_when_the_number_of_slots_changes() {
    let service = |n: u8| {
        let server = json!({"address": server(n), "port": 8080});
        json!({"address": format!("192.0.2.{}", 80 + n), "port": 80, "servers": [server]})
    };
    let some = |slots: u32, count: u8| json!({"services": (0..count).map(service).collect::<Vec<_>>(), "slots": slots});
    let mut kit = kit(some(8, 1));
    // As many as there can be, which leave no room for what was there.
    for (slots, count) in [(4096, 16), (8, 16), (4095, 16), (4096, 16)] {
        kit.reconfigure(some(slots, count)).unwrap();
        for (n, client) in (0..count).flat_map(|n| (0..20).map(move |client| (n, client))) {
            let to = [192, 0, 2, 80 + n];
            let packet =
                PacketBuilder::new().ipv4([198, 51, 100, client].into(), to.into()).tcp(5000, 80, TcpFlags::SYN);
            let chosen = kit.fast_path().decide(&flow(&packet.build())).unwrap().rewrite.dst;
            assert_eq!(chosen, Some(server(n)), "{count} services of {slots} slots");
        }
    }
}

#[test]
fn counts_of_both_paths_are_added_up() {
    let mut kit = kit(config(&[(1, 1)]));
    let packet = asked(1, TcpFlags::SYN);
    passed(&kit, &packet);
    passed(&kit, &packet);
    to(&mut kit, &packet);
    assert_eq!(reported(&kit, "packets"), [json!(3)]);
    assert_eq!(reported(&kit, "bytes"), [json!(3 * packet.len())]);
    assert_eq!(reported(&kit, "fast_packets"), [json!(2)]);
}

#[test]
fn where_the_kernel_routes_nothing_leaves_by_here() {
    let mut kit = Testkit::<Elb>::with_fast_path(config(&[(1, 1)]), Mode::Offloading).unwrap();
    let other = PacketBuilder::new().ipv4([10, 0, 0, 9].into(), [10, 0, 0, 8].into()).udp(1, 2).build();
    let syn = asked(1, TcpFlags::SYN);
    let answer = answered(server(1), 1, TcpFlags(TcpFlags::SYN.0 | TcpFlags::ACK.0));
    let outcomes = kit.run("left", &[other, syn.clone(), answer]);
    for outcome in &outcomes {
        let Verdict::Drop(reason) = outcome.verdict else { panic!("{:?}", outcome.verdict) };
        assert_eq!(kit.reason(reason), "not-routed");
    }
    assert_eq!((outcomes.len(), kit.counter("not-routed")), (3, 3));
    // What begins here goes on there, once the client sends it again.
    assert_eq!((kit.counter("begun"), passed(&kit, &syn)), (1, Some(server(1))));
    // Who has a router behind lets all pass.
    let mut kit = Testkit::<Elb>::with_fast_path(config(&[(1, 1)]), Mode::Proactive).unwrap();
    assert_eq!(to(&mut kit, &syn), server(1));
    assert_eq!(kit.counter("not-routed"), 0);
}
