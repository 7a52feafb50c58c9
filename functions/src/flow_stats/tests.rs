use super::*;
use middlenet_sdk::testkit::Testkit;
use middlenet_sdk::wire::{PacketBuilder, TcpFlags};
use std::path::PathBuf;
use std::time::Instant;

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("middlenet-flow-stats-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }

    fn file(&self) -> PathBuf {
        self.0.join("flows.log")
    }

    /// The lines, once there are so many.
    fn lines(&self, count: usize) -> Vec<Value> {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let text = std::fs::read_to_string(self.file()).unwrap_or_default();
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(Instant::now() < until, "{} lines of {count}", lines.len());
            std::thread::yield_now();
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn udp(port: u16) -> Vec<u8> {
    PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).udp(port, 53).payload(&[1; 58]).build()
}

fn tcp(flags: TcpFlags) -> Vec<u8> {
    PacketBuilder::new().ipv4([10, 0, 0, 1].into(), [10, 0, 0, 2].into()).tcp(40000, 80, flags).build()
}

fn flow_of(packet: &[u8]) -> fast_path::Flow {
    (&Probe::of(packet).key).into()
}

#[test]
fn all_packets_are_counted_without_a_fast_path() {
    let mut kit = Testkit::<FlowStats>::new(json!({"top": 2}));
    let arp = PacketBuilder::new().build();
    let outcomes = kit.run("left", &[udp(1), udp(1), udp(2), tcp(TcpFlags::SYN), arp, vec![0; 3]]);
    assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Next && !outcome.emitted));
    let report = kit.report();
    assert_eq!(report["flows"], 3);
    assert_eq!(report["totals"]["udp"], json!({"packets": 3, "bytes": 300, "fast_packets": 0}));
    assert_eq!(report["totals"]["tcp"]["packets"], 1);
    let top = report["top_flows"].as_array().unwrap();
    assert_eq!((top.len(), &top[0]["packets"], &top[0]["bytes"]), (2, &json!(2), &json!(200)));
    assert_eq!((kit.counter("not-ip"), kit.counter("malformed"), kit.counter("new-flows")), (1, 1, 3));
}

#[test]
fn flows_end_by_silence_closing_and_room() {
    let folder = Folder::new("ends");
    let mut kit = Testkit::<FlowStats>::new(json!({"max_flows": 2, "idle_s": 60, "file": folder.file()}));
    kit.run("left", &[udp(1), tcp(TcpFlags::SYN), udp(2)]);
    assert_eq!((kit.counter("evicted"), kit.report()["flows"].as_u64()), (1, Some(2)));
    kit.run("left", &[tcp(TcpFlags::FIN | TcpFlags::ACK)]);
    kit.tick();
    assert_eq!(kit.counter("ended"), 1);
    kit.advance(Duration::from_secs(3));
    kit.tick();
    assert_eq!((kit.counter("ended"), kit.report()["flows"].as_u64()), (2, Some(1)));
    kit.advance(Duration::from_secs(57));
    kit.tick();
    assert_eq!(kit.report()["flows"], 0);
    let lines = folder.lines(3);
    let of = |at: usize, field: &str| lines[at][field].clone();
    assert_eq!((of(0, "end"), of(0, "src_port"), of(0, "packets")), (json!("evicted"), json!(1), json!(1)));
    assert_eq!((of(1, "end"), of(1, "protocol"), of(1, "packets")), (json!("closed"), json!(6), json!(2)));
    assert_eq!((of(2, "end"), of(2, "bytes"), of(2, "dst")), (json!("idle"), json!(100), json!("10.0.0.2")));
    assert!(of(2, "first").as_str().unwrap().ends_with('Z'));
}

#[test]
fn a_syn_after_the_end_begins_another_flow() {
    let mut kit = Testkit::<FlowStats>::new(json!({}));
    kit.run("left", &[tcp(TcpFlags::SYN), tcp(TcpFlags::RST), tcp(TcpFlags::ACK), tcp(TcpFlags::SYN)]);
    assert_eq!((kit.counter("new-flows"), kit.counter("ended")), (2, 1));
}

#[test]
fn what_is_left_is_in_the_log_when_the_function_stops() {
    let folder = Folder::new("stop");
    let mut kit = Testkit::<FlowStats>::new(json!({"file": folder.file()}));
    kit.run("left", &[udp(1)]);
    kit.reconfigure(json!({"file": folder.file(), "max_flows": 10})).unwrap();
    assert_eq!(kit.report()["flows"], 1);
    drop(kit);
    let lines = folder.lines(1);
    assert_eq!((lines.len(), &lines[0]["end"]), (1, &json!("stopped")));
}

#[test]
fn configurations_that_make_no_sense_are_refused() {
    for config in [
        json!({"max_flows": 0}),
        json!({"idle_s": 0}),
        json!({"top": 1000}),
        json!({"file": "flows.log"}),
        json!({"queue_kib": 1}),
    ] {
        assert!(Testkit::<FlowStats>::try_new(config.clone()).is_err(), "{config}");
    }
}

mod with_a_fast_path {
    use super::*;

    fn kit(config: Value) -> Testkit<FlowStats> {
        Testkit::with_fast_path(config, Mode::Reactive).unwrap()
    }

    #[test]
    fn the_first_packet_comes_here_and_both_paths_are_added_up() {
        let folder = Folder::new("both");
        let mut kit = kit(json!({"file": folder.file(), "idle_s": 60}));
        let flow = flow_of(&udp(1));
        kit.run("left", &[udp(1)]);
        assert_eq!(kit.fast_path().decide(&flow).unwrap().then, Then::Next);
        for _ in 0..5 {
            kit.fast_path().pass(&flow, 100);
        }
        let report = kit.report();
        assert_eq!(report["totals"]["udp"], json!({"packets": 6, "bytes": 600, "fast_packets": 5}));
        assert_eq!(report["top_flows"][0]["packets"], 6);
        // It goes on as long as the fast path sees it.
        kit.advance(Duration::from_secs(50));
        kit.fast_path().pass(&flow, 100);
        kit.tick();
        kit.advance(Duration::from_secs(50));
        kit.tick();
        assert_eq!(kit.counter("ended"), 0);
        kit.advance(Duration::from_secs(61));
        kit.tick();
        assert_eq!((kit.counter("ended"), kit.fast_path().flows().len()), (1, 0));
        let line = &folder.lines(1)[0];
        assert_eq!((&line["packets"], &line["fast_packets"], &line["end"]), (&json!(7), &json!(6), &json!("idle")));
    }

    #[test]
    fn what_the_kernel_gave_up_is_installed_again() {
        let mut kit = kit(json!({}));
        let flow = flow_of(&udp(1));
        kit.run("left", &[udp(1)]);
        kit.fast_path().pass(&flow, 100);
        kit.tick();
        // A new generation stands for any loss.
        kit.advance(Duration::from_secs(100));
        kit.fast_path().pass(&flow, 100);
        assert!(kit.fast_path().decide(&flow).is_none(), "idle for too long");
        kit.run("left", &[udp(1)]);
        assert!(kit.fast_path().decide(&flow).is_some());
        kit.fast_path().pass(&flow, 100);
        assert_eq!(kit.report()["top_flows"][0]["packets"], 4);
    }

    #[test]
    fn a_closed_flow_leaves_the_fast_path_with_its_counts() {
        let mut kit = kit(json!({}));
        let syn = tcp(TcpFlags::SYN);
        kit.run("left", std::slice::from_ref(&syn));
        kit.fast_path().pass(&flow_of(&syn), 60);
        kit.run("left", &[tcp(TcpFlags::FIN | TcpFlags::ACK)]);
        assert!(kit.fast_path().flows().is_empty());
        assert_eq!(kit.report()["top_flows"][0]["packets"], 3);
        kit.run("left", &[tcp(TcpFlags::ACK)]);
        assert!(kit.fast_path().flows().is_empty(), "a flow that is closing stays here");
    }

    #[test]
    fn what_the_fast_path_counted_is_not_lost_with_a_flow_that_is_over_there() {
        let folder = Folder::new("over");
        let mut kit = kit(json!({"max_flows": 1, "idle_s": 5, "file": folder.file()}));
        let first = udp(1);
        kit.run("left", std::slice::from_ref(&first));
        kit.fast_path().pass(&flow_of(&first), 100);
        kit.advance(Duration::from_secs(6));
        // Over in the fast path and not swept away yet, it makes room for another.
        kit.run("left", &[udp(2)]);
        drop(kit);
        let text = std::fs::read_to_string(folder.file()).unwrap();
        let line: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        assert_eq!(line["packets"], 2);
    }

    fn log_of(folder: &Folder) -> Vec<Value> {
        let text = std::fs::read_to_string(folder.file()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn a_function_that_stops_takes_its_flows_along() {
        let folder = Folder::new("stops");
        let mut kit = kit(json!({"file": folder.file(), "idle_s": 5}));
        kit.run("left", &[udp(1)]);
        let path = kit.fast_path();
        (0..3).for_each(|_| assert!(path.pass(&flow_of(&udp(1)), 100).is_some()));
        drop(kit);
        assert!(path.flows().is_empty());
        let lines = log_of(&folder);
        assert_eq!(
            (lines.len(), &lines[0]["packets"], &lines[0]["end"]),
            (1, &json!(4), &json!("stopped")),
            "{lines:?}"
        );
    }

    /// The one that is replaced has seen what the fast path counted, but the entry is its successor's by then.
    #[test]
    fn what_was_counted_before_a_replacement_is_logged_once() {
        let folder = Folder::new("replaced");
        let config = json!({"file": folder.file(), "idle_s": 5});
        let mut kit = kit(config.clone());
        kit.run("left", &[udp(1)]);
        (0..3).for_each(|_| assert!(kit.fast_path().pass(&flow_of(&udp(1)), 100).is_some()));
        kit.tick();
        assert_eq!(kit.report()["top_flows"][0]["packets"], 4);
        kit.restart(config).unwrap();
        assert_eq!(kit.fast_path().flows().len(), 1, "it goes on meanwhile");
        for _ in 0..4 {
            kit.advance(Duration::from_secs(6));
            kit.tick();
        }
        drop(kit);
        let seen: Vec<_> = log_of(&folder).iter().map(|line| (line["packets"].clone(), line["end"].clone())).collect();
        assert_eq!(seen, [(json!(1), json!("stopped")), (json!(3), json!("idle"))]);
    }

    #[test]
    fn what_a_dead_process_left_is_counted_with_the_end_of_its_flow() {
        let mut kit = kit(json!({}));
        let (syn, fin) = (tcp(TcpFlags::SYN), tcp(TcpFlags::FIN | TcpFlags::ACK));
        kit.run("left", std::slice::from_ref(&syn));
        for _ in 0..3 {
            kit.fast_path().pass(&flow_of(&syn), 60);
        }
        kit.restart(json!({})).unwrap();
        assert_eq!(kit.fast_path().flows().len(), 1, "it goes on meanwhile");
        kit.run("left", &[fin]);
        assert!(kit.fast_path().flows().is_empty());
        let flow = &kit.report()["top_flows"][0];
        assert_eq!((&flow["packets"], &flow["fast_packets"]), (&json!(4), &json!(3)));
        // Another one between the same ports begins with no counts.
        kit.run("left", &[syn]);
        assert_eq!(kit.report()["top_flows"][0]["packets"], 1);
    }

    #[test]
    fn fragments_and_evicted_flows_are_not_in_the_fast_path() {
        let mut kit = kit(json!({"max_flows": 1}));
        let mut fragment = udp(1);
        fragment[20] = 0x20;
        kit.run("left", &[fragment]);
        assert!(kit.fast_path().flows().is_empty());
        kit.run("left", &[udp(2), udp(3)]);
        let left: Vec<u16> = kit.fast_path().flows().iter().map(|(flow, ..)| flow.src_port).collect();
        assert_eq!((left, kit.counter("evicted")), (vec![3], 2));
    }
}

mod drawn {
    use super::*;
    use middlenet_steer::testkit::Draw;
    use proptest::prelude::*;

    proptest! {
        /// Whatever comes, by whichever path: every packet is in the totals once, and in one flow at most.
        #[test]
        fn nothing_is_counted_twice_or_lost(
            steps in prop::collection::vec((any::<u64>(), 0_u8..4), 1..120),
            max_flows in 1_usize..40,
        ) {
            let folder = Folder::new("drawn");
            let mut kit = Testkit::<FlowStats>::with_fast_path(
                json!({"max_flows": max_flows, "idle_s": 5, "file": folder.file(), "top": 64}), Mode::Reactive,
            ).unwrap();
            let (mut ip, mut others) = (0, 0);
            for (seed, step) in steps {
                let frame = Draw::from_seed(seed % 50).frame();
                let probe = Probe::of(&frame);
                let is_ip = matches!(probe.class, Class::Flow | Class::LaterFragment);
                let is_fast = probe.class == Class::Flow
                    && !probe.first_fragment
                    && !TcpFlags(probe.tcp_flags).fin()
                    && !TcpFlags(probe.tcp_flags).rst();
                if !is_fast || kit.fast_path().pass(&flow_of(&frame), frame.len() as u64).is_none() {
                    kit.run("left", &[&frame]);
                }
                if is_ip { ip += 1 } else { others += 1 }
                match step {
                    0 => kit.advance(Duration::from_secs(1)),
                    1 => drop(kit.tick()),
                    _ => {}
                }
            }
            let report = kit.report();
            let totals = report["totals"].as_object().unwrap();
            let sum: u64 = totals.values().map(|total| total["packets"].as_u64().unwrap()).sum();
            prop_assert_eq!(sum, ip);
            prop_assert_eq!(kit.counter("not-ip") + kit.counter("malformed"), others);
            drop(kit);
            let text = std::fs::read_to_string(folder.file()).unwrap_or_default();
            let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            let in_flows: u64 = lines.iter().map(|line| line["packets"].as_u64().unwrap()).sum();
            prop_assert_eq!(in_flows, ip);
        }
    }
}
