use super::*;
use middlenet_sdk::testkit::{Outcome, Testkit};
use proptest::prelude::*;
use std::collections::HashMap;

const A: [u8; 6] = [2, 0, 0, 0, 1, 1];
const B: [u8; 6] = [2, 0, 0, 0, 1, 2];
const BROADCAST: [u8; 6] = [0xff; 6];

fn frame(dst: [u8; 6], src: [u8; 6]) -> Vec<u8> {
    [&dst[..], &src, &[0x08, 0x00], &[0; 46]].concat()
}

fn tagged(dst: [u8; 6], src: [u8; 6], vid: u16) -> Vec<u8> {
    let [high, low] = (0x6000 | vid).to_be_bytes();
    [&dst[..], &src, &[0x81, 0x00, high, low, 0x08, 0x00], &[0; 46]].concat()
}

fn bridge(config: Value) -> Testkit<L2Bridge> {
    let mut ports = Testkit::<L2Bridge>::two_ports();
    ports.push(PortInfo { id: 2, name: "third".into(), mac: [2, 0, 0, 0, 0, 3], mtu: 1500 });
    Testkit::with_ports(config, &ports).unwrap()
}

fn send(kit: &mut Testkit<L2Bridge>, port: &str, bytes: Vec<u8>) -> Verdict {
    let Outcome { verdict, bytes: after, .. } = kit.run(port, &[&bytes]).remove(0);
    assert_eq!(after, bytes, "a bridge changes nothing");
    verdict
}

fn reason(kit: &Testkit<L2Bridge>, verdict: Verdict) -> String {
    let Verdict::Drop(reason) = verdict else { panic!("not dropped: {verdict:?}") };
    kit.reason(reason)
}

#[test]
fn learns_floods_and_follows_a_station() {
    let mut kit = bridge(json!({}));
    assert_eq!(send(&mut kit, "left", frame(B, A)), Verdict::Flood, "B is unknown yet");
    assert_eq!(send(&mut kit, "right", frame(A, B)), Verdict::Port(Port(0)));
    assert_eq!(send(&mut kit, "left", frame(B, A)), Verdict::Port(Port(1)));
    assert_eq!(send(&mut kit, "left", frame(BROADCAST, A)), Verdict::Flood);
    assert_eq!(send(&mut kit, "left", frame([0x33, 0x33, 0, 0, 0, 1], A)), Verdict::Flood);
    assert_eq!(send(&mut kit, "third", frame(BROADCAST, B)), Verdict::Flood, "B moved");
    assert_eq!(send(&mut kit, "left", frame(B, A)), Verdict::Port(Port(2)));
    kit.tick();
    let counters = ["learned", "moved", "known-unicast", "flooded", "stations"].map(|name| kit.counter(name));
    assert_eq!(counters, [2, 1, 3, 4, 2]);
    assert_eq!(kit.report()["stations_by_port"], json!({ "left": 1, "right": 0, "third": 1 }));
}

#[test]
fn never_sends_back_where_a_frame_came_from() {
    let mut kit = bridge(json!({}));
    send(&mut kit, "left", frame(BROADCAST, A));
    let verdict = send(&mut kit, "left", frame(A, B));
    assert_eq!(reason(&kit, verdict), "same-port");
}

#[test]
fn vlans_are_separate() {
    let mut kit = bridge(json!({}));
    send(&mut kit, "left", tagged(BROADCAST, A, 10));
    assert_eq!(send(&mut kit, "right", tagged(A, B, 10)), Verdict::Port(Port(0)));
    assert_eq!(send(&mut kit, "right", tagged(A, B, 11)), Verdict::Flood);
    assert_eq!(send(&mut kit, "right", frame(A, B)), Verdict::Flood);
}

#[test]
fn refuses_reserved_groups_bad_sources_and_runts() {
    let mut kit = bridge(json!({}));
    for (bytes, expected) in [
        (frame([0x01, 0x80, 0xc2, 0, 0, 0], A), "reserved-address"),
        (frame([0x01, 0x80, 0xc2, 0, 0, 0x0f], A), "reserved-address"),
        (frame(B, [1, 0, 0, 0, 0, 1]), "bad-source"),
        (frame(B, [0; 6]), "bad-source"),
        (frame(B, A)[..13].to_vec(), "malformed"),
    ] {
        let verdict = send(&mut kit, "left", bytes);
        assert_eq!(reason(&kit, verdict), expected);
    }
    assert_eq!(send(&mut kit, "left", frame([0x01, 0x80, 0xc2, 0, 0, 0x10], A)), Verdict::Flood);
}

#[test]
fn silence_makes_a_station_forgotten() {
    let mut kit = bridge(json!({ "ageing_s": 10 }));
    send(&mut kit, "left", frame(BROADCAST, A));
    kit.advance(Duration::from_secs(9));
    assert_eq!(send(&mut kit, "right", frame(A, B)), Verdict::Port(Port(0)));
    kit.advance(Duration::from_secs(1));
    assert_eq!(send(&mut kit, "right", frame(A, B)), Verdict::Flood);
    for _ in 0..16 {
        kit.tick();
    }
    assert_eq!([kit.counter("aged"), kit.counter("stations")], [1, 1]);
}

#[test]
fn a_flood_of_addresses_stays_bounded_and_pushes_nobody_out() {
    let mut kit = bridge(json!({ "max_stations": 64 }));
    send(&mut kit, "right", frame(BROADCAST, A));
    let flood: Vec<_> = (0..5000u32).map(|n| frame(B, [2, 9, 0, 0, (n >> 8) as u8, n as u8])).collect();
    kit.run("left", &flood);
    assert_eq!(send(&mut kit, "left", frame(A, B)), Verdict::Port(Port(1)), "A is still known");
    kit.tick();
    assert!(kit.counter("stations") <= 64);
    assert!(kit.counter("not-learned") >= 5000 - 64, "{}", kit.counter("not-learned"));
}

#[test]
fn stations_survive_a_change_of_configuration() {
    let mut kit = bridge(json!({}));
    send(&mut kit, "left", frame(BROADCAST, A));
    kit.reconfigure(json!({ "max_stations": 100 })).unwrap();
    assert_eq!(send(&mut kit, "right", frame(A, B)), Verdict::Port(Port(0)));
}

#[test]
fn wrong_configurations_are_refused() {
    for config in [json!({ "ageing_s": 0 }), json!({ "max_stations": 0 }), json!({ "max_stations": 1 << 30 })] {
        assert!(Testkit::<L2Bridge>::try_new(config).is_err());
    }
}

proptest! {
    #[test]
    fn agrees_with_a_map(frames in prop::collection::vec((0u8..3, 0u8..6, 0u8..6), 1..100)) {
        let mut kit = bridge(json!({}));
        let mut model = HashMap::new();
        for (port, dst, src) in frames {
            let name = ["left", "right", "third"][usize::from(port)];
            let verdict = send(&mut kit, name, frame([2, 0, 0, 0, 0, dst], [2, 0, 0, 0, 0, src]));
            model.insert(src, port);
            match model.get(&dst) {
                None => prop_assert_eq!(verdict, Verdict::Flood),
                Some(known) if *known == port => prop_assert_eq!(reason(&kit, verdict), "same-port"),
                Some(known) => prop_assert_eq!(verdict, Verdict::Port(Port(*known))),
            }
        }
    }
}
