//! The translator with a fast path, against the one without.

use super::tests::{ACK, IN, IN2, OUT, POOL, SYN, tcp, udp, with};
use super::*;
use crate::applied::{flow, pass};
use middlenet_sdk::testkit::{Outcome, Testkit};
use middlenet_sdk::wire::{Fragment, PacketBuilder, VlanTag};
use proptest::prelude::*;
use std::net::Ipv4Addr;
use std::time::Duration;

const FIN: TcpFlags = TcpFlags(0x11);
const RST: TcpFlags = TcpFlags(0x14);

fn fast(more: Value) -> Testkit<Nat> {
    Testkit::with_fast_path(with(more), Mode::Reactive).unwrap()
}

fn run(kit: &mut Testkit<Nat>, port: &str, packet: &[u8]) -> Outcome {
    kit.run(port, &[packet]).remove(0)
}

/// A handshake from 10.0.0.5, port 4000.
fn open(kit: &mut Testkit<Nat>) {
    run(kit, "left", &tcp(IN, 4000, OUT, 80, SYN));
    run(kit, "right", &tcp(OUT, 80, POOL, 4000, SYN.union(ACK)));
    run(kit, "left", &tcp(IN, 4000, OUT, 80, ACK));
}

fn installed(kit: &Testkit<Nat>) -> usize {
    kit.fast_path().flows().len()
}

#[test]
fn an_open_connection_is_translated_there_in_both_directions() {
    let mut kit = fast(json!({}));
    run(&mut kit, "left", &tcp(IN, 4000, OUT, 80, SYN));
    run(&mut kit, "right", &tcp(OUT, 80, POOL, 4000, SYN.union(ACK)));
    assert_eq!(installed(&kit), 0, "it may be a scan");
    run(&mut kit, "left", &tcp(IN, 4000, OUT, 80, ACK));
    assert_eq!(installed(&kit), 2);
    for (port, packet) in [("left", tcp(IN, 4000, OUT, 80, ACK)), ("right", tcp(OUT, 80, POOL, 4000, ACK))] {
        let (bytes, _) = pass(&kit.fast_path(), &packet).unwrap();
        assert_eq!(bytes, run(&mut kit, port, &packet).bytes);
    }
    assert_eq!(kit.counter("fast_installed"), 2, "packets that were under way change nothing");
    let report = kit.report();
    assert_eq!([&report["fast_path"]["outbound"]["packets"], &report["fast_path"]["inbound"]["packets"]], [1, 1]);
}

#[test]
fn udp_goes_there_with_its_second_packet() {
    for second in [("left", udp(IN, 5000, OUT, 53)), ("right", udp(OUT, 53, POOL, 5000))] {
        let mut kit = fast(json!({}));
        run(&mut kit, "left", &udp(IN, 5000, OUT, 53));
        assert_eq!(installed(&kit), 0);
        run(&mut kit, second.0, &second.1);
        assert_eq!(installed(&kit), 2);
    }
}

#[test]
fn the_end_of_a_connection_takes_it_out() {
    let there = |flags| ("left", tcp(IN, 4000, OUT, 80, flags));
    let back = |flags| ("right", tcp(OUT, 80, POOL, 4000, flags));
    for ends in [vec![there(FIN), back(FIN)], vec![back(RST)], vec![there(RST)]] {
        let mut kit = fast(json!({}));
        open(&mut kit);
        for (port, packet) in &ends {
            assert_eq!(installed(&kit), 2);
            run(&mut kit, port, packet);
        }
        assert_eq!(installed(&kit), 0);
        run(&mut kit, "left", &there(ACK).1);
        assert_eq!(installed(&kit), 0, "its last packet does not bring it back");
        // The same ports again.
        open(&mut kit);
        assert_eq!(installed(&kit), 2);
    }
}

#[test]
fn a_session_that_is_in_use_there_lives_on() {
    let mut kit = fast(json!({}));
    let (there, back) = (udp(IN, 5000, OUT, 53), udp(OUT, 53, POOL, 5000));
    run(&mut kit, "left", &there);
    run(&mut kit, "left", &there);
    for _ in 0..20 {
        kit.advance(Duration::from_secs(100));
        pass(&kit.fast_path(), &back).unwrap();
        kit.tick();
        assert_eq!(kit.counter("sessions"), 1);
    }
    // Silent for half the time: the next packet comes to the function, which still knows the session, and it is there again.
    kit.advance(Duration::from_secs(151));
    kit.tick();
    assert_eq!(pass(&kit.fast_path(), &back), None);
    assert_eq!(run(&mut kit, "right", &back).verdict, Verdict::Next);
    assert_eq!(installed(&kit), 2);
    // Silent for all of it.
    kit.advance(Duration::from_secs(299));
    kit.tick();
    assert_eq!(kit.counter("sessions"), 1);
    kit.advance(Duration::from_secs(1));
    kit.tick();
    kit.tick();
    assert_eq!((kit.counter("sessions"), kit.counter("mappings"), installed(&kit)), (0, 0, 0));
}

#[test]
fn a_session_ends_in_its_time() {
    // The last packet passes there, at any moment of the rounds.
    for last in (0..300).step_by(7) {
        let mut kit = fast(json!({}));
        let (there, back) = (udp(IN, 5000, OUT, 53), udp(OUT, 53, POOL, 5000));
        run(&mut kit, "left", &there);
        run(&mut kit, "left", &there);
        let mut since_last = 0;
        for second in 0..900 {
            if second <= last && second % 50 == last % 50 {
                assert!(pass(&kit.fast_path(), &back).is_some());
                since_last = 0;
            }
            kit.advance(Duration::from_secs(1));
            since_last += 1;
            kit.tick();
            if kit.counter("sessions") == 0 {
                break;
            }
        }
        assert!((300..=301).contains(&since_last), "{last}: {since_last}");
    }
}

#[test]
fn a_packet_of_a_session_that_only_answers_used_finds_it() {
    let there = tcp(IN, 4000, OUT, 80, ACK);
    let back = tcp(OUT, 80, POOL, 4000, ACK);
    let ends = tcp(OUT, 80, POOL, 4000, FIN);
    for (port, packet) in [("left", &there), ("right", &ends)] {
        let mut kit = fast(json!({}));
        open(&mut kit);
        // Nobody walks over the table meanwhile, which takes its time-out for over.
        for _ in 0..3 {
            kit.advance(Duration::from_secs(3000));
            pass(&kit.fast_path(), &back).expect("in the fast path");
        }
        assert_eq!(pass(&kit.fast_path(), &there), None, "nothing has gone this way for long");
        assert_eq!(run(&mut kit, port, packet).verdict, Verdict::Next);
        kit.tick();
        assert_eq!((kit.counter("sessions"), kit.counter("no-session"), kit.counter("unsolicited")), (1, 0, 0));
    }
    // Not in use: it is over, here and there.
    let mut kit = fast(json!({}));
    open(&mut kit);
    kit.advance(Duration::from_secs(9000));
    assert!(matches!(run(&mut kit, "left", &there).verdict, Verdict::Drop(_)));
    assert_eq!((kit.counter("no-session"), kit.counter("fast_removed")), (1, 2));
}

#[test]
fn sessions_that_are_in_use_there_make_no_room() {
    let mut kit = fast(json!({"sessions": 3}));
    let sessions = [5000, 5001, 5002].map(|port| (udp(IN, port, OUT, 53), udp(OUT, 53, POOL, port)));
    for (there, _) in sessions.iter().chain(&sessions) {
        run(&mut kit, "left", there);
    }
    let pass_in = |kit: &Testkit<Nat>, at: usize| pass(&kit.fast_path(), &sessions[at].1).map(drop);
    for _ in 0..3 {
        kit.advance(Duration::from_secs(120));
        (0..3).for_each(|at| pass_in(&kit, at).expect("in the fast path"));
    }
    for port in 1..20 {
        let verdict = run(&mut kit, "left", &udp(IN2, port, OUT, 53)).verdict;
        assert_eq!(verdict, Verdict::Drop(DropReason::TABLE_FULL));
    }
    (0..3).for_each(|at| pass_in(&kit, at).expect("in the fast path"));
    // One falls silent and makes room, and the others do not.
    for _ in 0..3 {
        kit.advance(Duration::from_secs(120));
        [0, 2].iter().for_each(|&at| pass_in(&kit, at).expect("in the fast path"));
    }
    for (port, expected) in [(1, Verdict::Next), (2, Verdict::Drop(DropReason::TABLE_FULL))] {
        assert_eq!(run(&mut kit, "left", &udp(IN2, port, OUT, 53)).verdict, expected);
    }
    assert_eq!((kit.counter("fast_removed"), installed(&kit)), (2, 2), "inbound, which was used");
    kit.tick();
    assert_eq!(kit.counter("sessions"), 3);
}

#[test]
fn ticks_that_cannot_ask_about_all_end_none_that_is_in_use() {
    let ports = 2000..2000 + 3 * fast::ASKED_PER_TICK as u16;
    let all = u64::try_from(ports.len()).unwrap();
    let mut kit = fast(json!({}));
    for port in ports.clone().chain(ports.clone()) {
        run(&mut kit, "left", &udp(IN, port, OUT, 53));
    }
    for _ in 0..12 {
        kit.advance(Duration::from_secs(100));
        for port in ports.clone() {
            pass(&kit.fast_path(), &udp(OUT, 53, POOL, port)).expect("in the fast path");
        }
        kit.tick();
        assert_eq!(kit.counter("sessions"), all);
    }
    // Whether a tick has asked about it or not, it is known.
    for port in ports.clone() {
        assert_eq!(run(&mut kit, "right", &udp(OUT, 53, POOL, port)).verdict, Verdict::Next);
    }
    kit.advance(Duration::from_secs(301));
    for left in [2, 1, 0] {
        kit.tick();
        assert_eq!(kit.counter("sessions"), left * fast::ASKED_PER_TICK as u64);
    }
}

#[test]
fn what_the_kernel_could_not_do_alike_stays() {
    let mut kit = fast(json!({"timeouts": {"udp_s": 10}}));
    let ping = PacketBuilder::new().ipv4(IN, OUT).echo_request(7, 1).build();
    let tagged = PacketBuilder::new().vlan(VlanTag::customer(7)).ipv4(IN, OUT).tcp(4001, 80, SYN).build();
    let tagged_ack = PacketBuilder::new().vlan(VlanTag::customer(7)).ipv4(IN, OUT).tcp(4001, 80, ACK).build();
    let answer = PacketBuilder::new().vlan(VlanTag::customer(7)).ipv4(OUT, POOL).tcp(80, 4001, SYN.union(ACK)).build();
    let first = Fragment { offset_bytes: 0, more: true, id: 9 };
    let piece = PacketBuilder::new().ipv4(IN, OUT).fragment(first).udp(6000, 53).payload(&[0; 64]).build();
    // Two inside hosts by an outside address.
    run(&mut kit, "left", &udp(IN2, 7000, OUT, 53));
    let hairpin = udp(IN, 5001, POOL, 7000);
    for _ in 0..3 {
        for packet in [&ping, &tagged, &piece, &hairpin] {
            run(&mut kit, "left", packet);
        }
        run(&mut kit, "right", &answer);
        run(&mut kit, "left", &tagged_ack);
        // Its time-out is too short to be followed from here.
        run(&mut kit, "left", &udp(IN, 5002, OUT, 53));
    }
    assert_eq!(installed(&kit), 0);
}

#[test]
fn a_change_of_configuration_voids_what_is_there() {
    let mut kit = fast(json!({}));
    open(&mut kit);
    kit.reconfigure(with(json!({"proxy_arp": true}))).unwrap();
    assert_eq!(installed(&kit), 0);
    kit.advance(Duration::from_secs(2));
    let there = tcp(IN, 4000, OUT, 80, ACK);
    assert_eq!(run(&mut kit, "left", &there).verdict, Verdict::Next, "the session is still known");
    assert_eq!(installed(&kit), 2);
    // Another pool: the session is gone, here and there.
    kit.reconfigure(with(json!({"pool": "203.0.113.9"}))).unwrap();
    assert_eq!(pass(&kit.fast_path(), &there), None);
    assert!(matches!(run(&mut kit, "left", &there).verdict, Verdict::Drop(_)));
    assert_eq!(flow(&there).src_port, 4000);
}

/// A packet of one of a few flows, from either side, some TCP flags, and the time before it in ms.
fn steps() -> impl Strategy<Value = Vec<(bool, Vec<u8>, u64)>> {
    let flags = prop::sample::select(vec![SYN, SYN.union(ACK), ACK, ACK, ACK, FIN, RST]);
    let step = (any::<bool>(), any::<bool>(), 0..2_u16, any::<bool>(), flags, 0..1500_u64).prop_map(
        |(outbound, is_tcp, port, second, flags, wait_ms)| {
            // Every host has ports of its own, so that both translators keep them.
            let (host, port) = if second { (IN2, 6000 + port) } else { (IN, 5000 + port) };
            let remote = Ipv4Addr::new(198, 51, 100, 7);
            let packet = match (outbound, is_tcp) {
                (true, true) => tcp(host, port, remote, 80, flags),
                (true, false) => udp(host, port, remote, 80),
                (false, true) => tcp(remote, 80, POOL, port, flags),
                (false, false) => udp(remote, 80, POOL, port),
            };
            (outbound, packet, wait_ms)
        },
    );
    prop::collection::vec(step, 1..120)
}

proptest! {
    #[test]
    fn with_and_without_it_packets_fare_alike(steps in steps()) {
        let (mut plain, mut fast) = (Testkit::<Nat>::new(with(json!({}))), fast(json!({})));
        let (mut there, mut here) = (0, 0);
        for (outbound, packet, wait_ms) in steps {
            for kit in [&mut plain, &mut fast] {
                kit.advance(Duration::from_millis(wait_ms));
                kit.tick();
            }
            let port = if outbound { "left" } else { "right" };
            let expected = run(&mut plain, port, &packet);
            let got = match pass(&fast.fast_path(), &packet) {
                Some((bytes, _)) => {
                    there += 1;
                    (Verdict::Next, bytes)
                }
                None => {
                    here += 1;
                    let outcome = run(&mut fast, port, &packet);
                    (outcome.verdict, outcome.bytes)
                }
            };
            prop_assert_eq!((expected.verdict, expected.bytes), got);
        }
        let counted = |kit: &Testkit<Nat>| kit.counter("outbound") + kit.counter("inbound");
        prop_assert_eq!(counted(&plain), counted(&fast) + there);
        prop_assert!(here > 0);
    }
}
