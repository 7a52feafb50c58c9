use super::*;
use middlenet_ndpi::samples::{
    bittorrent_handshake, dns_query, dns_response, http_request, http_response, tls_client_hello,
};
use middlenet_sdk::testkit::{Outcome, Testkit};
use middlenet_sdk::wire::{PacketBuilder, TcpFlags};
use proptest::prelude::*;
use std::net::Ipv4Addr;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

/// Which way a packet goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    Forward,
    Reverse,
}

pub(super) use Way::{Forward, Reverse};

/// One packet of a capture, and the port it comes by.
pub(super) type Step = (&'static str, Vec<u8>);

pub(super) fn tcp(way: Way, ports: (u16, u16), flags: TcpFlags, payload: &[u8]) -> Step {
    let builder = PacketBuilder::new().tcp_numbers(1, 1);
    match way {
        Forward => ("left", builder.ipv4(CLIENT, SERVER).tcp(ports.0, ports.1, flags).payload(payload).build()),
        Reverse => ("right", builder.ipv4(SERVER, CLIENT).tcp(ports.1, ports.0, flags).payload(payload).build()),
    }
}

pub(super) fn udp(way: Way, ports: (u16, u16), payload: &[u8]) -> Step {
    match way {
        Forward => ("left", PacketBuilder::new().ipv4(CLIENT, SERVER).udp(ports.0, ports.1).payload(payload).build()),
        Reverse => ("right", PacketBuilder::new().ipv4(SERVER, CLIENT).udp(ports.1, ports.0).payload(payload).build()),
    }
}

pub(super) const PUSH: TcpFlags = TcpFlags(0x18);
pub(super) const ACK: TcpFlags = TcpFlags(0x10);
pub(super) const FIN: TcpFlags = TcpFlags(0x11);

pub(super) fn handshake(ports: (u16, u16)) -> Vec<Step> {
    vec![
        tcp(Forward, ports, TcpFlags::SYN, b""),
        tcp(Reverse, ports, TcpFlags(0x12), b""),
        tcp(Forward, ports, ACK, b""),
    ]
}

/// A page is asked for and comes.
pub(super) fn http(ports: (u16, u16)) -> Vec<Step> {
    let mut steps = handshake(ports);
    steps.push(tcp(Forward, ports, PUSH, &http_request("www.example.org")));
    steps.push(tcp(Reverse, ports, PUSH, &http_response()));
    steps
}

pub(super) fn bittorrent(ports: (u16, u16)) -> Vec<Step> {
    let mut steps = handshake(ports);
    steps.push(tcp(Forward, ports, PUSH, &bittorrent_handshake()));
    steps
}

pub(super) fn dns(ports: (u16, u16)) -> Vec<Step> {
    vec![
        udp(Forward, ports, &dns_query("example.org")),
        udp(Reverse, ports, &dns_response("example.org", [192, 0, 2, 1])),
    ]
}

pub(super) fn play(kit: &mut Testkit<Edpi>, steps: &[Step]) -> Vec<Outcome> {
    steps.iter().flat_map(|(port, packet)| kit.run(port, &[packet])).collect()
}

pub(super) fn verdicts(kit: &mut Testkit<Edpi>, steps: &[Step]) -> Vec<Verdict> {
    play(kit, steps).into_iter().map(|outcome| outcome.verdict).collect()
}

/// Flows, packets and bytes of a protocol.
pub(super) fn moved(kit: &Testkit<Edpi>, protocol: &str) -> (u64, u64, u64) {
    let report = kit.report();
    let found = report["moved"]["protocols"].as_array().unwrap().iter().find(|shown| shown["protocol"] == protocol);
    let number = |name: &str| found.map_or(0, |shown| shown[name].as_u64().unwrap());
    (number("flows"), number("packets"), number("bytes"))
}

pub(super) fn bytes(steps: &[Step]) -> u64 {
    steps.iter().map(|(_, packet)| packet.len() as u64).sum()
}

#[test]
fn protocols_are_recognised_and_counted_with_what_came_before() {
    let mut kit = Testkit::<Edpi>::new(json!({}));
    let (page, question) = (http((40_000, 9999)), dns((40_001, 53)));
    let mut secure = handshake((40_002, 443));
    secure.push(tcp(Forward, (40_002, 443), PUSH, &tls_client_hello("www.netflix.com")));
    for steps in [&page, &question, &secure] {
        assert!(verdicts(&mut kit, steps).iter().all(|verdict| *verdict == Verdict::Next));
    }
    assert_eq!(moved(&kit, "HTTP"), (1, 5, bytes(&page)));
    assert_eq!(moved(&kit, "DNS"), (1, 2, bytes(&question)));
    assert_eq!(kit.counter("classified"), 2);
    // nDPI hopes for the certificate; the connection is closed first.
    assert_eq!(moved(&kit, "NetFlix"), (0, 0, 0));
    let closing = [tcp(Forward, (40_002, 443), FIN, b""), tcp(Reverse, (40_002, 443), FIN, b"")];
    play(&mut kit, &closing);
    assert_eq!(moved(&kit, "NetFlix"), (1, 6, bytes(&secure) + bytes(&closing)));
    assert_eq!(moved(&kit, "Unknown"), (0, 0, 0));
    let report = kit.report();
    assert_eq!(report["moved"]["packets"], 13);
    assert_eq!((report["flows"].as_u64(), report["inspecting"].as_u64()), (Some(3), Some(0)));
}

#[test]
fn a_reset_that_its_peer_may_ignore_hides_nothing() {
    let actions = json!([{"protocols": ["bittorrent"], "then": "drop"}]);
    for has_fast_path in [false, true] {
        let mut kit = match has_fast_path {
            false => Testkit::<Edpi>::new(json!({"actions": actions})),
            true => Testkit::<Edpi>::with_fast_path(json!({"actions": actions}), Mode::Reactive).unwrap(),
        };
        let ports = (40_000, 51_413);
        let (steps, reset) = (bittorrent(ports), tcp(Forward, ports, TcpFlags(0x14), b""));
        play(&mut kit, &steps[..3]);
        assert_eq!(verdicts(&mut kit, &[reset.clone(), steps[3].clone()])[0], Verdict::Next);
        assert_eq!((kit.counter("classified"), kit.counter("blocked")), (1, 1), "inspected all the same");
        // What is blocked stays so, through a silence after another one.
        play(&mut kit, &[reset]);
        kit.advance(Duration::from_secs(20));
        kit.tick();
        play(&mut kit, &steps[3..]);
        assert_eq!(kit.counter("blocked"), 3);
        // Another connection between the same ports is inspected anew.
        assert!(verdicts(&mut kit, &steps[..3]).iter().all(|verdict| *verdict == Verdict::Next));
        assert_eq!(kit.report()["inspecting"], 1);
    }
}

#[test]
fn a_reset_keeps_no_flow_from_where_it_is_to_go() {
    let actions = json!([{"protocols": ["bittorrent"], "then": {"output": "scrub"}}]);
    let ports = Testkit::<Edpi>::two_ports();
    let mut kit = Testkit::<Edpi>::with_outputs(json!({"actions": actions}), &ports, &["scrub"]).unwrap();
    let ports = (40_000, 51_413);
    let (steps, reset) = (bittorrent(ports), tcp(Forward, ports, TcpFlags(0x14), b""));
    play(&mut kit, &steps[..3]);
    let seen = verdicts(&mut kit, &[reset.clone(), steps[3].clone(), reset]);
    kit.advance(Duration::from_secs(20));
    kit.tick();
    let later = verdicts(&mut kit, &[tcp(Forward, ports, ACK, b"")]);
    assert_eq!([seen[1], later[0]], [Verdict::Output(Output(0)); 2]);

    let act = json!({"protocols": ["bittorrent"], "then": {"steer": "scrub"}});
    let mut kit = Testkit::<Edpi>::with_steering(json!({"actions": [act]}), &["scrub"]).unwrap();
    play(&mut kit, &steps[..3]);
    play(&mut kit, &[tcp(Forward, ports, TcpFlags(0x14), b""), steps[3].clone()]);
    assert_eq!(kit.counter("steered"), 1);
}

#[test]
fn a_flow_is_given_up_after_its_packets() {
    for (guess, name) in [(true, "SSH"), (false, "Unknown")] {
        let mut kit = Testkit::<Edpi>::new(json!({"packets": 4, "guess": guess}));
        let mut steps = handshake((40_000, 22));
        steps.extend((0..5).map(|_| tcp(Forward, (40_000, 22), PUSH, b"\x00\x01\x02\x03\x04\x05\x06\x07")));
        play(&mut kit, &steps);
        assert_eq!(kit.counter("inspected"), 4);
        assert_eq!(moved(&kit, name), (1, 8, bytes(&steps)), "{name}");
    }
}

#[test]
fn blocked_protocols_are_dropped_from_the_packet_that_tells() {
    let act = json!({"protocols": ["bittorrent"], "then": "drop"});
    let mut kit = Testkit::<Edpi>::new(json!({"actions": [act]}));
    let mut steps = bittorrent((40_000, 51_413));
    steps.push(tcp(Reverse, (40_000, 51_413), PUSH, b"piece"));
    let seen = verdicts(&mut kit, &steps);
    assert_eq!(seen[..3], [Verdict::Next; 3]);
    for verdict in &seen[3..] {
        let Verdict::Drop(reason) = verdict else { panic!("{verdict:?}") };
        assert_eq!(kit.reason(*reason), "blocked-protocol");
    }
    assert_eq!(kit.counter("blocked"), 2);
    // The other flows of the same hosts go on.
    assert!(verdicts(&mut kit, &http((40_000, 80))).iter().all(|verdict| *verdict == Verdict::Next));
}

#[test]
fn chosen_categories_are_diverted() {
    let act = json!({"categories": ["Web"], "then": {"output": "cache"}});
    let ports = Testkit::<Edpi>::two_ports();
    let mut kit = Testkit::<Edpi>::with_outputs(json!({"actions": [act]}), &ports, &["other", "cache"]).unwrap();
    let seen = verdicts(&mut kit, &http((40_000, 80)));
    assert_eq!(seen.iter().filter(|verdict| **verdict == Verdict::Output(middlenet_sdk::Output(1))).count(), 2);
    assert_eq!(kit.counter("diverted"), 2);
}

#[test]
fn silent_flows_and_ended_connections_are_forgotten() {
    let mut kit = Testkit::<Edpi>::new(json!({"idle_s": 60, "tcp_idle_s": 300}));
    let sweep = |kit: &mut Testkit<Edpi>, seconds| {
        kit.advance(Duration::from_secs(seconds));
        kit.tick();
        kit.counter("flows")
    };
    play(&mut kit, &dns((40_000, 53)));
    play(&mut kit, &http((40_000, 80)));
    play(&mut kit, &http((40_001, 80)));
    play(&mut kit, &[tcp(Forward, (40_001, 80), FIN, b""), tcp(Reverse, (40_001, 80), FIN, b"")]);
    assert_eq!(sweep(&mut kit, 0), 3);
    assert_eq!(sweep(&mut kit, 5), 2);
    assert_eq!(sweep(&mut kit, 55), 1);
    assert_eq!(sweep(&mut kit, 239), 1);
    assert_eq!(sweep(&mut kit, 1), 0);
}

#[test]
fn the_same_ports_once_more_are_another_connection() {
    let act = json!({"protocols": ["BitTorrent"], "then": "drop"});
    let mut kit = Testkit::<Edpi>::new(json!({"actions": [act]}));
    play(&mut kit, &bittorrent((40_000, 8080)));
    play(&mut kit, &[tcp(Reverse, (40_000, 8080), TcpFlags(0x14), b"")]);
    assert!(verdicts(&mut kit, &http((40_000, 8080))).iter().all(|verdict| *verdict == Verdict::Next));
    assert_eq!(moved(&kit, "HTTP").0, 1);
}

#[test]
fn a_file_of_signatures_adds_protocols() {
    let path = std::env::temp_dir().join(format!("middlenet-edpi-{}.txt", std::process::id()));
    std::fs::write(&path, "udp:7777@Ours\n").unwrap();
    let config = json!({"signatures": path, "packets": 1, "actions": [{"protocols": ["ours"], "then": "drop"}]});
    let mut kit = Testkit::<Edpi>::new(config.clone());
    let ours = [udp(Forward, (40_000, 7777), b"what only we know")];
    assert!(matches!(verdicts(&mut kit, &ours)[..], [Verdict::Drop(_)]));
    assert_eq!(moved(&kit, "Ours"), (1, 1, bytes(&ours)));
    // The same file: what is known stays. Another: all starts afresh.
    kit.reconfigure(config.clone()).unwrap();
    assert_eq!(moved(&kit, "Ours").0, 1);
    std::fs::write(&path, "udp:7777@Ours\nudp:7778@Theirs\n").unwrap();
    kit.reconfigure(config).unwrap();
    assert_eq!(moved(&kit, "Ours").0, 0);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_change_of_actions_holds_for_known_flows() {
    let mut kit = Testkit::<Edpi>::new(json!({}));
    play(&mut kit, &http((40_000, 80)));
    kit.reconfigure(json!({"actions": [{"protocols": ["http"], "then": "drop"}]})).unwrap();
    assert!(matches!(verdicts(&mut kit, &[tcp(Forward, (40_000, 80), ACK, b"")])[..], [Verdict::Drop(_)]));
    assert_eq!(moved(&kit, "HTTP").0, 1);
}

#[test]
fn flows_under_inspection_survive_a_change() {
    let mut kit = Testkit::<Edpi>::new(json!({}));
    let page = http((40_000, 9999));
    play(&mut kit, &page[..3]);
    kit.reconfigure(json!({"packets": 20})).unwrap();
    play(&mut kit, &page[3..]);
    assert_eq!(moved(&kit, "HTTP"), (1, 5, bytes(&page)));
}

#[test]
fn what_is_no_flow_passes_and_is_counted() {
    let mut kit = Testkit::<Edpi>::new(json!({}));
    let arp =
        PacketBuilder::new().arp_request(middlenet_sdk::wire::MacAddr::new(2, 0, 0, 0, 0, 1), CLIENT, SERVER).build();
    let fragment = middlenet_sdk::wire::Fragment { offset_bytes: 64, more: false, id: 7 };
    let piece = PacketBuilder::new().ipv4(CLIENT, SERVER).fragment(fragment).protocol(17).payload(&[0; 32]).build();
    let outcomes = kit.run("left", &[arp, piece, vec![0x45; 10]]);
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Next));
    assert_eq!(["not-ip", "fragments", "malformed"].map(|name| kit.counter(name)), [1, 1, 1]);
    assert_eq!(kit.report()["moved"]["packets"], 1);
}

#[test]
fn a_flood_of_first_packets_ends_no_conversation() {
    let act = json!({"protocols": ["BitTorrent"], "then": "drop"});
    let mut kit = Testkit::<Edpi>::new(json!({"flows": 16, "actions": [act]}));
    play(&mut kit, &bittorrent((40_000, 51_413)));
    for port in 1..200 {
        play(&mut kit, &[udp(Forward, (port, 9), b"x")]);
    }
    let piece = tcp(Reverse, (40_000, 51_413), PUSH, b"piece");
    assert!(matches!(verdicts(&mut kit, &[piece])[..], [Verdict::Drop(_)]));
    // Full of conversations: what has no room passes, and is counted.
    for port in 1..20 {
        play(&mut kit, &dns((port, 53)));
    }
    assert!(kit.counter("table-full") > 0);
    let sent = 4 + 199 + 1 + 38;
    assert_eq!(kit.report()["moved"]["packets"], sent);
}

#[test]
fn configuration_errors_name_the_value_and_the_remedy() {
    let refused = |config: Value| {
        let error = Testkit::<Edpi>::try_new(config).err().expect("a refusal");
        format!("{}|{}", error.message, error.hint.unwrap_or_default())
    };
    assert_eq!(
        refused(json!({"actions": [{"protocols": ["torrent"], "then": "drop"}]})),
        "nDPI knows no protocol `torrent`|did you mean BitTorrent?"
    );
    assert_eq!(
        refused(json!({"actions": [{"then": "drop"}]})),
        "an action names neither protocols nor categories|write `protocols: [BitTorrent]` beside `then`"
    );
    let unknown = refused(json!({"elephants": [{"categories": ["Films"]}]}));
    assert!(unknown.contains("it knows: Unspecified") && !unknown.contains(", ,"), "{unknown}");
    assert!(
        refused(json!({"actions": [{"protocols": ["DNS"], "then": {"output": "x"}}]}))
            .starts_with("the manifest connects no output `x`")
    );
    assert!(
        refused(json!({"signatures": "/nowhere/protos.txt"}))
            .starts_with("the signatures in /nowhere/protos.txt cannot be read")
    );
    assert!(refused(json!({"packets": 0})).starts_with("`packets` of 0"));
    assert!(refused(json!({"idle_s": 0})).starts_with("`idle_s` of 0"));
    assert!(refused(json!({"flows": 0})).starts_with("`flows` of 0"));
    assert!(refused(json!({"action": []})).contains("unknown field"));
}

/// Packets of a few flows, mended here and there, and any bytes.
fn packets() -> impl Strategy<Value = (bool, Vec<u8>)> {
    let known = (0..4_u16, 0..5_usize, any::<bool>(), any::<u8>()).prop_map(|(port, kind, is_tcp, flags)| {
        let payload = match kind {
            0 => http_request("www.example.org"),
            1 => dns_query("a.example"),
            2 => tls_client_hello("www.example.org"),
            3 => bittorrent_handshake(),
            _ => Vec::new(),
        };
        let way = if flags & 1 == 0 { Forward } else { Reverse };
        if is_tcp { tcp(way, (port, 80), TcpFlags(flags), &payload).1 } else { udp(way, (port, 53), &payload).1 }
    });
    let mended = (known, prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3)).prop_map(
        |(mut packet, edits)| {
            for (at, byte) in edits {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            packet
        },
    );
    let bytes = prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..200), 6 => mended];
    (any::<bool>(), bytes)
}

proptest! {
    #[test]
    fn every_packet_is_counted_once(packets in prop::collection::vec((packets(), 0..40_u64), 1..80), most in 1..6_u32) {
        let act = json!({"protocols": ["BitTorrent"], "then": "drop"});
        let mut kit = Testkit::<Edpi>::new(json!({"flows": 4, "packets": most, "actions": [act]}));
        for ((from_left, packet), seconds) in &packets {
            kit.run(if *from_left { "left" } else { "right" }, &[packet]);
            kit.advance(Duration::from_secs(*seconds));
            kit.tick();
        }
        let apart = kit.counter("not-ip") + kit.counter("malformed");
        prop_assert_eq!(kit.report()["moved"]["packets"].as_u64().unwrap() + apart, packets.len() as u64);
    }
}
