//! Feedback, from servers on loopback that the tests play.

use super::super::load::{Metric, SnmpLoad, response};
use super::*;
use middlenet_sdk::peer::{DialError, PeerAddress};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::time::Instant;

fn with_feedback(servers: &[u8], feedback: Value) -> Value {
    let servers: Vec<(u8, u32)> = servers.iter().map(|n| (*n, 100)).collect();
    let mut config = config(&servers);
    config["feedback"] = feedback;
    config
}

fn agent() -> SnmpLoad {
    SnmpLoad { community: "public".into(), port: 161, metric: Metric::SsCpuIdle }
}

/// SNMP agents: the other ends of the sockets that the function was given, as it is by the supervisor, on which nothing comes late.
#[derive(Default)]
struct Agents(HashMap<IpAddr, UnixDatagram>);

impl Agents {
    fn connect(&mut self, peer: &PeerAddress) -> OwnedFd {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        self.0.insert(peer.address.ip(), ours);
        theirs.into()
    }

    /// They read what waits, and these answer: how many percent are idle.
    fn answer(&self, telling: &[(u8, u8)]) {
        let mut bytes = [0; 1500];
        for (host, socket) in &self.0 {
            let told = telling.iter().find(|(n, _)| server(*n) == *host);
            while let Ok(length) = socket.recv(&mut bytes) {
                let number = snmp2::Pdu::from_bytes(&bytes[..length]).unwrap().req_id & !(1 << 30);
                if let Some(&(_, idle)) = told {
                    socket.send(&response(&agent(), number, &[(&[], idle)])).unwrap();
                }
            }
        }
    }

    /// Lets time pass by ticks, in which these answer.
    fn pass(&mut self, kit: &mut Testkit<Elb>, ticks: usize, telling: &[(u8, u8)]) {
        for _ in 0..ticks {
            kit.answer_dials(|peer| Some(Ok(self.connect(peer))));
            pass(kit, 1, || self.answer(telling));
        }
    }
}

/// Lets time pass by ticks.
fn pass(kit: &mut Testkit<Elb>, ticks: usize, mut between: impl FnMut()) {
    for _ in 0..ticks {
        kit.advance(Duration::from_millis(100));
        kit.tick();
        between();
    }
}

fn weights(kit: &Testkit<Elb>) -> Vec<f64> {
    reported(kit, "weight_now").iter().map(|weight| weight.as_f64().unwrap()).collect()
}

#[test]
fn weights_follow_the_load_that_agents_tell() {
    let feedback = json!({"snmp": {}, "interval_ms": 1000, "timeout_ms": 500});
    let (mut kit, mut agents) = (Testkit::<Elb>::new(with_feedback(&[1, 2], feedback)), Agents::default());
    assert_eq!(weights(&kit), [100.0, 100.0]);
    agents.pass(&mut kit, 300, &[(1, 0), (2, 90)]);
    let [busy, idle] = weights(&kit)[..] else { panic!("two servers") };
    assert!(busy < 70.0 && idle > 150.0, "{busy} {idle}");
    assert_eq!(reported(&kit, "load")[0], json!(1.0));
    let slots: Vec<u64> = reported(&kit, "slots").iter().map(|slots| slots.as_u64().unwrap()).collect();
    assert!(slots[0] < 90 && slots[0] + slots[1] == 256, "{slots:?}");
    assert!(kit.counter("polls") >= 50 && kit.counter("poll-failures") == 0);
}

#[test]
fn a_silent_server_gets_no_new_connections_until_all_are_silent() {
    let feedback = json!({"snmp": {}, "interval_ms": 500, "timeout_ms": 300, "fails": 2, "silent_s": 10});
    let (mut kit, mut agents) = (Testkit::<Elb>::new(with_feedback(&[1, 2], feedback)), Agents::default());
    agents.pass(&mut kit, 50, &[(1, 50), (2, 80)]);
    let before = weights(&kit);
    assert!(before[0] > 100.0 && before[1] > before[0]);
    // One falls silent: its last weight stays, its slots go.
    agents.pass(&mut kit, 20, &[(1, 50)]);
    assert_eq!(reported(&kit, "up"), [json!(true), json!(false)]);
    assert_eq!((&reported(&kit, "slots")[1], kit.counter("servers-down")), (&json!(0), 1));
    assert_eq!(weights(&kit)[1], before[1]);
    // The other one too: rather a few failures than no service.
    agents.pass(&mut kit, 20, &[]);
    assert_eq!(reported(&kit, "up"), [json!(false), json!(false)]);
    let slots: Vec<u64> = reported(&kit, "slots").iter().map(|slots| slots.as_u64().unwrap()).collect();
    assert!(slots[0] > 0 && slots[1] > 0 && slots[0] != slots[1], "by their last weights: {slots:?}");
    // After a while, as configured.
    agents.pass(&mut kit, 110, &[]);
    assert_eq!(weights(&kit), [100.0, 100.0]);
    assert_eq!(reported(&kit, "slots"), [json!(128), json!(128)]);
    // It comes back.
    agents.pass(&mut kit, 20, &[(2, 80)]);
    assert_eq!(reported(&kit, "up"), [json!(false), json!(true)]);
    assert_eq!(reported(&kit, "slots"), [json!(0), json!(256)]);
}

#[test]
fn silence_may_say_nothing_about_the_server() {
    let feedback = json!({"snmp": {}, "interval_ms": 500, "timeout_ms": 300, "fails": 0, "silent_s": 3});
    let (mut kit, mut agents) = (Testkit::<Elb>::new(with_feedback(&[1], feedback)), Agents::default());
    agents.pass(&mut kit, 20, &[(1, 90)]);
    assert!(weights(&kit)[0] > 100.0);
    agents.pass(&mut kit, 60, &[]);
    assert_eq!((reported(&kit, "up"), weights(&kit)), (vec![json!(true)], vec![100.0]));
}

#[test]
fn a_server_is_back_when_silence_says_nothing_any_more() {
    let feedback = |fails: u32| json!({"snmp": {}, "interval_ms": 500, "timeout_ms": 300, "fails": fails});
    let up = |kit: &Testkit<Elb>| reported(kit, "up").iter().map(|up| up == true).collect::<Vec<_>>();
    let (mut kit, mut agents) = (Testkit::<Elb>::new(with_feedback(&[1, 2], feedback(2))), Agents::default());
    agents.pass(&mut kit, 30, &[(1, 50)]);
    assert_eq!((up(&kit), &reported(&kit, "slots")[1]), (vec![true, false], &json!(0)));
    // More patience is no answer.
    kit.reconfigure(with_feedback(&[1, 2], feedback(20))).unwrap();
    agents.pass(&mut kit, 30, &[(1, 50)]);
    assert_eq!((up(&kit), &reported(&kit, "slots")[1]), (vec![true, false], &json!(0)));
    kit.reconfigure(with_feedback(&[1, 2], feedback(0))).unwrap();
    assert_eq!(up(&kit), [true, true]);
    assert!(reported(&kit, "slots")[1].as_u64().unwrap() > 0);
    agents.pass(&mut kit, 30, &[(1, 50)]);
    assert_eq!(up(&kit), [true, true]);
}

#[test]
fn what_is_known_of_loads_survives_a_change() {
    let feedback = json!({"snmp": {}, "interval_ms": 500, "timeout_ms": 300});
    let mut config = with_feedback(&[1], feedback);
    let (mut kit, mut agents) = (Testkit::<Elb>::new(config.clone()), Agents::default());
    agents.pass(&mut kit, 50, &[(1, 90)]);
    let before = weights(&kit)[0];
    config["services"][0]["servers"][0]["weight"] = json!(50);
    kit.reconfigure(config.clone()).unwrap();
    assert!((weights(&kit)[0] - before / 2.0).abs() < 1e-9, "in proportion to the configured weight");
    config.as_object_mut().unwrap().remove("feedback");
    kit.reconfigure(config).unwrap();
    assert_eq!(weights(&kit), [50.0]);
}

#[test]
fn loads_are_asked_for_by_http_too() {
    let server = TcpListener::bind("127.0.0.7:0").unwrap();
    server.set_nonblocking(true).unwrap();
    let port = server.local_addr().unwrap().port();
    let http = json!({"http": {"port": port, "path": "/stats", "field": "/cpu", "scale": 100}});
    let mut feedback = http;
    feedback["interval_ms"] = json!(1000);
    let mut config = with_feedback(&[1], feedback);
    config["services"][0]["servers"][0]["agent"] = json!("127.0.0.7");
    let mut kit = Testkit::<Elb>::new(config);
    let mut open = Vec::new();
    let until = Instant::now() + Duration::from_secs(20);
    while kit.counter("polls") < 3 {
        assert!(Instant::now() < until, "{} polls, {} failed", kit.counter("polls"), kit.counter("poll-failures"));
        pass(&mut kit, 1, || {
            if let Ok((stream, _)) = server.accept() {
                stream.set_nonblocking(true).unwrap();
                open.push((stream, Vec::new()));
            }
            open.retain_mut(|(stream, request)| {
                let mut bytes = [0; 1000];
                if let Ok(length) = stream.read(&mut bytes) {
                    request.extend_from_slice(&bytes[..length]);
                }
                let is_whole = request.ends_with(b"\r\n\r\n");
                if is_whole {
                    assert!(request.starts_with(b"GET /stats HTTP/1.1\r\n"));
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{\"cpu\":25}").unwrap();
                }
                !is_whole
            });
        });
    }
    assert_eq!(reported(&kit, "load"), [json!(0.25)]);
    assert!(weights(&kit)[0] > 100.0);
    // Nobody answers any more.
    drop(server);
    open.clear();
    pass(&mut kit, 60, || {});
    assert_eq!(reported(&kit, "up"), [json!(false)]);
}

#[test]
fn what_the_runtime_refuses_says_nothing_about_a_server() {
    let feedback = json!({"snmp": {}, "interval_ms": 500, "timeout_ms": 100, "fails": 2, "silent_s": 3});
    let (mut kit, mut agents) = (Testkit::<Elb>::new(with_feedback(&[1], feedback)), Agents::default());
    kit.answer_dials(|_| None);
    // Dialled too often, over and over; then not answered for a while; then a socket, later than the server would have time.
    for round in 0..120 {
        kit.advance(Duration::from_millis(100));
        kit.tick();
        kit.answer_dials(|peer| match round {
            0..60 => Some(Err(DialError::Refused("the function dials too often".into()))),
            60..93 => None,
            _ => Some(Ok(agents.connect(peer))),
        });
        agents.answer(&[(1, 90)]);
        if round == 92 {
            assert_eq!((reported(&kit, "up"), weights(&kit)), (vec![json!(true)], vec![100.0]));
            assert_eq!((kit.counter("poll-failures"), kit.counter("polls")), (0, 0));
            let refused = kit.counter("polls-refused");
            assert!((15..=19).contains(&refused), "once an interval: {refused}");
        }
    }
    assert!(kit.counter("polls") >= 3 && kit.counter("poll-failures") == 0, "{:?}", kit.counters());
    assert!(weights(&kit)[0] > 100.0);
    // A server that nothing leads to is silent.
    let mut config = with_feedback(&[2], json!({"snmp": {}, "interval_ms": 500, "timeout_ms": 100}));
    config["feedback"]["fails"] = json!(2);
    kit.reconfigure(config).unwrap();
    kit.answer_dials(|_| None);
    for _ in 0..20 {
        kit.advance(Duration::from_millis(100));
        kit.tick();
        kit.answer_dials(|_| Some(Err(DialError::Unreachable("no route to host".into()))));
    }
    assert!(kit.counter("poll-failures") >= 2);
    assert_eq!(reported(&kit, "up"), [json!(false)]);
}
