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

#[test]
fn an_answer_after_a_long_silence_is_translated() {
    let mut servers = config(&[(1, 100)]);
    servers["timeouts"] = json!({ "tcp_s": 10 });
    let mut kit = kit(servers);
    let chosen = passed(&kit, &asked(1, TcpFlags::SYN)).unwrap();
    // The client goes on, the server says nothing, so that only one of the two directions is still known.
    for _ in 0..3 {
        kit.advance(Duration::from_secs(6));
        passed(&kit, &asked(1, TcpFlags::ACK)).unwrap();
    }
    let answer = answered(chosen, 1, TcpFlags::ACK);
    assert!(kit.fast_path().decide(&flow(&answer)).is_none());
    let outcome = &kit.run("right", std::slice::from_ref(&answer))[0];
    assert_eq!(key(outcome).src_ip(), IpAddr::from(SERVICE));
    assert!(kit.fast_path().decide(&flow(&answer)).is_some(), "both directions are known again");
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
    kit.fast_path().close(&flow(&asked(0, TcpFlags::FIN)));
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
    kit.fast_path().close(&flow(&asked(1, TcpFlags::FIN)));
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
