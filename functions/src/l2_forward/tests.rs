use super::*;
use middlenet_sdk::testkit::Testkit;
use proptest::prelude::*;
use serde_json::json;

const FRAME: [u8; 60] = {
    let mut frame = [0xee; 60];
    let mut at = 0;
    while at < 12 {
        frame[at] = at as u8;
        at += 1;
    }
    frame
};

fn macs(kit: &mut Testkit<L2Forward>, port: &str) -> ([u8; 6], [u8; 6]) {
    let outcome = kit.run(port, &[FRAME]).remove(0);
    assert_eq!(outcome.verdict, Verdict::Next);
    assert_eq!(outcome.bytes[12..], FRAME[12..], "only the addresses change");
    (outcome.bytes[..6].try_into().unwrap(), outcome.bytes[6..12].try_into().unwrap())
}

#[test]
fn source_is_the_egress_port_and_destination_stays() {
    let mut kit = Testkit::<L2Forward>::new(json!({}));
    assert_eq!(macs(&mut kit, "left"), ([0, 1, 2, 3, 4, 5], [2, 0, 0, 0, 0, 2]));
    assert_eq!(macs(&mut kit, "right"), ([0, 1, 2, 3, 4, 5], [2, 0, 0, 0, 0, 1]));
    assert_eq!(kit.counter("forwarded"), 2);
}

#[test]
fn addresses_are_set_as_configured() {
    let mut kit = Testkit::<L2Forward>::new(json!({ "src": "keep", "dst": { "right": "02:00:00:00:02:01" } }));
    assert_eq!(macs(&mut kit, "left"), ([2, 0, 0, 0, 2, 1], [6, 7, 8, 9, 10, 11]));
    assert_eq!(macs(&mut kit, "right"), ([0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]));
    let mut kit = Testkit::<L2Forward>::new(json!({ "src": "02:00:00:00:00:0a", "dst": "02:00:00:00:00:0b" }));
    assert_eq!(macs(&mut kit, "right"), ([2, 0, 0, 0, 0, 11], [2, 0, 0, 0, 0, 10]));
}

#[test]
fn a_pair_out_of_three_ports_is_named() {
    let mut ports = Testkit::<L2Forward>::two_ports();
    ports.push(PortInfo { id: 7, name: "third".into(), mac: [2, 0, 0, 0, 0, 9], mtu: 1500 });
    let unnamed = Testkit::<L2Forward>::with_ports(json!({}), &ports).err().expect("needs a pair");
    assert!(unnamed.message.contains("has 3") && unnamed.hint.is_some(), "{unnamed:?}");
    let mut kit = Testkit::<L2Forward>::with_ports(json!({ "ports": ["third", "left"] }), &ports).unwrap();
    assert_eq!(kit.run("left", &[FRAME])[0].verdict, Verdict::Port(Port(7)));
    assert_eq!(kit.run("third", &[FRAME])[0].verdict, Verdict::Port(Port(0)));
    let stranger = kit.run("right", &[FRAME]).remove(0);
    assert_eq!((stranger.verdict, stranger.bytes.as_slice()), (Verdict::Next, FRAME.as_slice()));
    assert_eq!([kit.counter("forwarded"), kit.counter("other-ports")], [2, 1]);
}

#[test]
fn wrong_configurations_say_what_is_wrong() {
    for (config, word) in [
        (json!({ "ports": ["left", "left"] }), "twice"),
        (json!({ "ports": ["left", "rigth"] }), "rigth"),
        (json!({ "dst": { "up": "02:00:00:00:00:01" } }), "up"),
    ] {
        let error = Testkit::<L2Forward>::try_new(config).err().expect("refused");
        assert!(error.message.contains(word) && error.hint.is_some(), "{error:?}");
    }
    assert!(Testkit::<L2Forward>::try_new(json!({ "dts": "keep" })).is_err());
    assert!(Testkit::<L2Forward>::try_new(json!({ "src": "elsewhere" })).is_err());
}

proptest! {
    #[test]
    fn any_bytes_keep_their_tail(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        let mut kit = Testkit::<L2Forward>::new(json!({ "dst": "02:00:00:00:02:01" }));
        let outcome = kit.run("left", &[&bytes]).remove(0);
        if bytes.len() < 14 {
            prop_assert_eq!(outcome.verdict, Verdict::Drop(DropReason::MALFORMED));
            prop_assert_eq!([kit.counter("runts"), kit.counter("forwarded")], [1, 0]);
        } else {
            prop_assert_eq!(&outcome.bytes[..12], &[2, 0, 0, 0, 2, 1, 2, 0, 0, 0, 0, 2]);
            prop_assert_eq!(&outcome.bytes[12..], &bytes[12..]);
        }
    }
}
