//! nDPI on packets made here: what it recognises, what a file of signatures adds, and that no bytes do it harm.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use middlenet_ndpi::samples::{bittorrent_handshake, dns_query, dns_response, http_request, tls_client_hello};
use middlenet_ndpi::{Classification, Confidence, Detector, Error, Flow, Options};
use middlenet_wire::{PacketBuilder, TcpFlags, protocol};
use proptest::prelude::*;

const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 2, 0, 2);

fn l3(builder: PacketBuilder<'_>) -> Vec<u8> {
    let mut bytes = vec![0; 2048];
    let length = builder.emit(&mut bytes).unwrap();
    bytes[14..length].to_vec()
}

fn tcp(forward: bool, port: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let (src, dst, ports) = if forward { (CLIENT, SERVER, (40_000, port)) } else { (SERVER, CLIENT, (port, 40_000)) };
    let seq = if payload.is_empty() { (1000, 0) } else { (1001, 5001) };
    l3(PacketBuilder::new()
        .ipv4(src, dst)
        .tcp(ports.0, ports.1, TcpFlags(flags))
        .tcp_numbers(seq.0, seq.1)
        .payload(payload))
}

/// A connection's handshake, and what its client says first.
fn connection(port: u16, payload: &[u8]) -> Vec<Vec<u8>> {
    vec![
        tcp(true, port, 0x02, b""),
        tcp(false, port, 0x12, b""),
        tcp(true, port, 0x10, b""),
        tcp(true, port, 0x18, payload),
    ]
}

fn udp(forward: bool, port: u16, payload: &[u8]) -> Vec<u8> {
    let (src, dst, ports) = if forward { (CLIENT, SERVER, (40_000, port)) } else { (SERVER, CLIENT, (port, 40_000)) };
    l3(PacketBuilder::new().ipv4(src, dst).udp(ports.0, ports.1).payload(payload))
}

fn detector() -> Detector {
    Detector::new(&Options::default(), None).unwrap()
}

fn found(detector: &mut Detector, packets: &[Vec<u8>]) -> Classification {
    let mut flow = Flow::new().unwrap();
    let mut last = Classification::default();
    for (at, packet) in packets.iter().enumerate() {
        last = detector.packet(&mut flow, packet, at as u64);
    }
    last
}

fn names(detector: &Detector, found: Classification) -> (&str, &str) {
    (detector.protocol_name(found.master), detector.protocol_name(found.app))
}

#[test]
fn what_flows_carry_is_recognised() {
    let mut detector = detector();
    // On a port that says nothing.
    let http = found(&mut detector, &connection(9999, &http_request("www.example.org")));
    assert_eq!(detector.protocol_name(http.protocol()), "HTTP");
    assert_eq!((http.confidence, detector.category_name(http.category)), (Confidence::Inspected, "Web"));

    let dns = found(
        &mut detector,
        &[udp(true, 53, &dns_query("example.org")), udp(false, 53, &dns_response("example.org", [192, 0, 2, 1]))],
    );
    assert_eq!(detector.protocol_name(dns.protocol()), "DNS");

    let tls = found(&mut detector, &connection(443, &tls_client_hello("www.netflix.com")));
    assert_eq!(names(&detector, tls), ("TLS", "NetFlix"));

    let bittorrent = found(&mut detector, &connection(51_413, &bittorrent_handshake()));
    assert_eq!(detector.protocol_name(bittorrent.protocol()), "BitTorrent");
}

#[test]
fn giving_up_guesses_if_wanted() {
    let mut detector = detector();
    for (guess, known) in [(true, "SSH"), (false, "Unknown")] {
        let mut flow = Flow::new().unwrap();
        for packet in &connection(22, b"")[..3] {
            assert!(!detector.packet(&mut flow, packet, 0).is_known());
        }
        let given_up = detector.give_up(&mut flow, guess);
        assert_eq!(detector.protocol_name(given_up.protocol()), known);
        assert_eq!(given_up.confidence, if guess { Confidence::Port } else { Confidence::Unknown });
    }
}

#[test]
fn a_flow_belongs_to_one_detector() {
    let (mut first, mut second) = (detector(), detector());
    let mut flow = Flow::new().unwrap();
    let packets = connection(80, &http_request("example.org"));
    first.packet(&mut flow, &packets[0], 0);
    assert_eq!(second.packet(&mut flow, &packets[3], 1), Classification::default());
    assert_eq!(second.give_up(&mut flow, true), Classification::default());
    assert!(first.packet(&mut flow, &packets[3], 2).is_known());
}

#[test]
fn a_file_adds_protocols_by_port_name_and_address() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("protos.txt");
    std::fs::write(&path, "# ours\nudp:7777@Ours\nhost:\"intern.example\"@Intern\nip:10.2.0.2/32:8888@There\n")
        .unwrap();
    let mut detector = Detector::new(&Options::default(), Some(&path)).unwrap();
    for name in ["Ours", "Intern", "There"] {
        assert!(detector.protocols().iter().any(|known| known == name), "{name}");
    }
    let tls = found(&mut detector, &connection(443, &tls_client_hello("www.intern.example")));
    assert_eq!(names(&detector, tls), ("TLS", "Intern"));
    let mut flow = Flow::new().unwrap();
    detector.packet(&mut flow, &udp(true, 7777, b"what only we know"), 0);
    let ours = detector.give_up(&mut flow, true);
    assert_eq!(detector.protocol_name(ours.protocol()), "Ours");

    std::fs::write(&path, "tcp:81@HTTP\ntcp 82 HTTP\n").unwrap();
    let error = Detector::new(&Options::default(), Some(&path)).unwrap_err();
    assert!(matches!(error, Error::Signature { line: 2, .. }), "{error}");
    let error = Detector::new(&Options::default(), Some(&folder.path().join("none"))).unwrap_err();
    assert!(matches!(error, Error::Read { .. }), "{error}");
}

/// More names than nDPI has room for are its business to refuse.
#[test]
fn more_protocols_than_there_is_room_for() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("protos.txt");
    let text = (0..2000).fold(String::new(), |mut text, i| {
        writeln!(text, "udp:{}@Own{i}", 10_000 + i).unwrap();
        text
    });
    std::fs::write(&path, text).unwrap();
    let mut detector = Detector::new(&Options::default(), Some(&path)).unwrap();
    assert!(detector.protocols().len() <= 512, "{}", detector.protocols().len());
    assert!(detector.protocols().iter().any(|known| known == "Own100"));
    for port in [10_100, 11_999] {
        found(&mut detector, &[udp(true, port, b"abc")]);
    }
}

#[test]
fn names_are_there_for_every_number() {
    let detector = detector();
    assert_eq!(detector.protocol_name(7), "HTTP");
    assert_eq!(detector.protocol_name(u16::MAX), "Unknown");
    assert_eq!(detector.category_name(u16::MAX), detector.category_name(0));
    assert!(detector.protocols().len() > 250);
    assert!(detector.categories().iter().any(|name| name == "Download-FileTransfer-FileSharing" || name == "Download"));
}

/// What a stranger may send: anything; something like IP; known beginnings, mended here and there.
fn packets() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..400),
        Just(http_request("www.example.org")),
        Just(dns_query("a.example")),
        Just(dns_response("a.example", [1, 2, 3, 4])),
        Just(tls_client_hello("www.example.org")),
        Just(bittorrent_handshake()),
    ];
    let ports =
        prop_oneof![any::<u16>(), prop::sample::select(vec![53, 80, 123, 137, 443, 1900, 3478, 5060, 5353, 6881])];
    let packet = (payload, ports, any::<bool>(), any::<bool>(), any::<u8>()).prop_map(
        |(payload, port, is_tcp, forward, flags)| {
            if is_tcp { tcp(forward, port, flags, &payload) } else { udp(forward, port, &payload) }
        },
    );
    let mended = (
        packet,
        prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        any::<prop::sample::Index>(),
        any::<bool>(),
    )
        .prop_map(|(mut packet, edits, cut, is_cut)| {
            for (at, byte) in edits {
                let at = at.index(packet.len());
                packet[at] = byte;
            }
            if is_cut {
                packet.truncate(cut.index(packet.len()));
            }
            packet
        });
    prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..1600), 4 => mended]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_do_harm(packets in prop::collection::vec((packets(), any::<u64>()), 1..60), guess in any::<bool>()) {
        thread_local!(static DETECTOR: std::cell::RefCell<Detector> = detector().into());
        DETECTOR.with_borrow_mut(|detector| {
            let mut flow = Flow::new().unwrap();
            for (packet, now_ms) in &packets {
                let found = detector.packet(&mut flow, packet, *now_ms);
                assert!(usize::from(found.protocol()) < 512);
            }
            let given_up = detector.give_up(&mut flow, guess);
            assert!(!detector.protocol_name(given_up.protocol()).is_empty());
        });
    }
}

/// Protocols that have a number of their own in IP.
#[test]
fn other_protocols_than_tcp_and_udp() {
    let mut detector = detector();
    let icmp =
        l3(PacketBuilder::new().ipv4(CLIENT, SERVER).protocol(protocol::ICMPV4).payload(&[8, 0, 0, 0, 0, 1, 0, 1]));
    let found = found(&mut detector, &[icmp]);
    assert_eq!(detector.protocol_name(found.protocol()), "ICMP");
}
