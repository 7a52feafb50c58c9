//! Every verdict over the real path: capture file, manager process, rings, function, capture file.

mod support;

use middlenet_plan::{Placement, PortKind, PortPlan, Stats, Target};
use middlenet_sdk::Registration;
use pcap_file::pcap::{PcapPacket, PcapReader, PcapWriter};
use serde_json::json;
use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;
use support::functions::{Opcode, packet};
use support::{Manager, hop, plan};

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("middlenet-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn write(path: &str, packets: &[Vec<u8>]) {
    let mut writer = PcapWriter::new(File::create(path).unwrap()).unwrap();
    for (at, bytes) in packets.iter().enumerate() {
        let time = Duration::from_millis(1000 + at as u64);
        writer.write_packet(&PcapPacket::new(time, bytes.len() as u32, bytes)).unwrap();
    }
}

fn read(path: &str) -> Vec<Vec<u8>> {
    let mut reader = PcapReader::new(File::open(path).unwrap()).unwrap();
    let mut packets = Vec::new();
    while let Some(packet) = reader.next_packet() {
        packets.push(packet.unwrap().data.into_owned());
    }
    packets
}

/// Runs packets from the left port through `processes` [`Opcode`] processes; returns what left by each port.
fn run(name: &str, packets: &[Vec<u8>], processes: u16) -> (Vec<Vec<Vec<u8>>>, Stats) {
    let folder = Folder::new(name);
    write(&folder.file("in"), packets);
    let pcap = |read: Option<&str>, out: &str| PortKind::Pcap {
        read: read.map(|f| folder.file(f)),
        write: Some(folder.file(out)),
    };
    let hops = (0..processes).map(|_| hop("opcode", Placement::Process, json!({}))).collect();
    let mut plan = plan(pcap(Some("in"), "left"), pcap(None, "right"), hops);
    plan.ports.push(PortPlan {
        name: "dmz".into(),
        kind: pcap(None, "dmz"),
        queues: 1,
        steering: None,
        isolated: false,
    });
    plan.chains[0].right.push(2);
    plan.lockstep = true;
    let manager = Manager::start(plan);
    let functions: Vec<_> = (0..processes)
        .map(|at| manager.function(at, 0, &Registration::of::<Opcode>(), json!({}), Vec::new()))
        .collect();
    manager.wait_finished();
    let stats = manager.stop();
    drop(functions);
    let out = ["left", "right", "dmz"].map(|name| read(&folder.file(name))).to_vec();
    (out, stats)
}

#[test]
fn next_goes_through_all_hops_in_order() {
    let packets: Vec<_> = (0..200).map(|id| packet(b'p', id)).collect();
    let (out, stats) = run("next", &packets, 3);
    assert_eq!(out[1], packets);
    assert_eq!((out[0].len(), out[2].len()), (0, 0));
    assert!(stats.hops.iter().all(|h| (h.in_pkts, h.out_pkts) == (200, 200)), "{stats:#?}");
}

#[test]
fn each_verdict_does_what_it_says() {
    let ops = b"dnrfpxoh.Rm";
    let packets: Vec<_> = (0..).zip(ops).map(|(id, &op)| packet(op, id)).collect();
    let (out, stats) = run("each", &packets, 1);
    let ids = |packets: &[Vec<u8>]| packets.iter().map(|p| p[15]).collect::<Vec<_>>();
    // r: back by the left port.
    assert_eq!(ids(&out[0]), [2]);
    // f, p, ., R, held h after R, m's made packet, m itself.
    let mut right = ids(&out[1]);
    right.sort_unstable();
    assert_eq!(right, [3, 4, 7, 8, 9, 10, 0x55]);
    // n: nobody said which of two ports.
    assert_eq!(stats.ports[0].drops, [("egress".into(), "no-egress-port".into(), 1)]);
    // f: a copy to the dmz.
    assert_eq!(ids(&out[2]), [3]);
    let drops = &stats.hops[0].drops;
    let count = |reason: &str| drops.iter().find(|(_, r, _)| r == reason).map_or(0, |(.., n)| *n);
    assert_eq!(count("denied"), 1);
    assert_eq!(count("bad-verdict"), 2, "port 77 and output 5 do not exist: {drops:?}");
    // The copy for flooding and the packet made.
    assert_eq!(stats.hops[0].originated_pkts, 2);
}

#[test]
fn what_a_function_still_holds_at_the_end_is_counted() {
    let packets = [packet(b'h', 0), packet(b'h', 1), packet(b'n', 2)];
    let folder = Folder::new("hold");
    write(&folder.file("in"), &packets);
    let pcap = |read: Option<&str>, out: &str| PortKind::Pcap {
        read: read.map(|f| folder.file(f)),
        write: Some(folder.file(out)),
    };
    let mut plan =
        plan(pcap(Some("in"), "left"), pcap(None, "right"), vec![hop("opcode", Placement::Process, json!({}))]);
    plan.lockstep = false;
    let manager = Manager::start(plan);
    let function = manager.function(0, 0, &Registration::of::<Opcode>(), json!({}), Vec::new());
    std::thread::sleep(Duration::from_millis(400));
    let stats = manager.stats();
    assert_eq!(stats.conservation.held_pkts, 2, "{stats:#?}");
    assert!(stats.conservation.packets_balance());
    let stats = manager.stop();
    assert!(stats.hops[0].drops.contains(&("hop".into(), "stopped".into(), 2)), "{stats:#?}");
    drop(function);
}

#[test]
fn a_function_that_sends_to_and_fro_runs_into_the_hop_limit() {
    // Both functions reply to every packet: without a limit it would bounce for ever.
    let folder = Folder::new("bounce");
    write(&folder.file("in"), &[packet(b'b', 1)]);
    let pcap = |read: Option<&str>, out: &str| PortKind::Pcap {
        read: read.map(|f| folder.file(f)),
        write: Some(folder.file(out)),
    };
    let hops = vec![hop("a", Placement::Process, json!({})), hop("b", Placement::Process, json!({}))];
    let mut plan = plan(pcap(Some("in"), "left"), pcap(None, "right"), hops);
    plan.hops[0].outputs = vec![("other".into(), Target::Hop(1))];
    plan.hops[1].outputs = vec![("other".into(), Target::Hop(0))];
    plan.lockstep = true;
    let manager = Manager::start(plan);
    let functions: Vec<_> = (0..2)
        .map(|at| manager.function(at, 0, &Registration::of::<support::functions::Bounce>(), json!({}), Vec::new()))
        .collect();
    manager.wait_finished();
    let stats = manager.stop();
    drop(functions);
    let limit: u64 = stats.hops.iter().flat_map(|h| &h.drops).filter(|d| d.1 == "hop-limit").map(|d| d.2).sum();
    assert_eq!(limit, 1, "{stats:#?}");
}
