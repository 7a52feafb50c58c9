//! Functions with fast paths in the kernel: who deals with which packet, and that everybody does so once.

use std::time::Duration;

use middlenet_tests::{By, Error, Line, Marked, RunStatus, Runtime, Sent, require_root};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// Packets after which all flows of a chain of four are where they belong: each lets one more fast path see the flow that the one before
/// makes of it.
const SETTLE: usize = 5;

/// An entry that marks `field`, with these options beside those of its configuration.
fn marker(name: &str, field: &str, config: &str, options: &str) -> String {
    let run = env!("CARGO_BIN_EXE_middlenet-test-marker");
    format!("{name}: {{ run: {run}, config: {{ field: {field}{config} }}{options} }}")
}

/// A line whose hosts take packets straight from programs.
fn direct_line() -> Result<Line, Error> {
    let line = Line::new()?;
    for host in [&line.client, &line.server] {
        host.exec("ethtool", ["-K", "eth0", "gro", "on"])?;
    }
    Ok(line)
}

fn manifest(functions: &[String]) -> String {
    Line::manifest(&functions.iter().map(String::as_str).collect::<Vec<_>>())
}

/// One of the counts of a function's fast path.
fn fast(status: &RunStatus, function: &str, count: &str) -> u64 {
    status.hop(function)["fast_path"][count]
        .as_u64()
        .unwrap_or_else(|| panic!("no fast path: {:#}", status.hop(function)))
}

/// Packets that a fast path left to the slow path, by reason.
fn slow(status: &RunStatus, function: &str, reason: &str) -> u64 {
    counted(&status.hop(function)["fast_path"]["slow"], reason)
}

fn counted(counts: &Value, reason: &str) -> u64 {
    let counts = counts.as_array().into_iter().flatten();
    counts.filter(|count| count[0] == reason).filter_map(|count| count[1].as_u64()).sum()
}

/// Every packet that entered a fast path is accounted for.
fn assert_conserved(status: &RunStatus) {
    let c = &status.0["data_plane"]["conservation"]["fast_paths"];
    let count = |name: &str| c[name].as_u64().unwrap_or_default();
    let sum = ["sent_pkts", "dropped_pkts", "slow_pkts", "kernel_pkts"].map(count).iter().sum::<u64>();
    assert!(count("entered_pkts") > 0 && count("entered_pkts") == sum, "{c:#}");
}

/// After its first packet, a flow passes in the kernel.
fn second_packets_pass_in_the_kernel(line: &Line, placement: &str) -> Result<(), Error> {
    let before = line.interfaces()?;
    let mut packets = Marked::on(line)?;
    let run =
        Runtime::start(&line.middle, &manifest(&[marker("a", "src", "", &format!(", mode: reactive{placement}"))]))?;
    for reverse in [false, true] {
        let first = packets.send(&Sent::to_port(5000), reverse).expect("the first packet");
        assert_eq!((first.marks[1], first.functions), (By::Function, 1));
        for _ in 0..5 {
            let next = packets.send(&Sent::to_port(5000), reverse).expect("the next packet");
            assert_eq!((next.marks[1], next.functions), (By::FastPath, 1));
        }
    }
    let status = run.wait_for_rest()?;
    assert_eq!(status.counter("a", "seen"), 2);
    assert_eq!((fast(&status, "a", "hits"), fast(&status, "a", "sent")), (10, 10), "{:#}", status.hop("a"));
    assert_conserved(&status);
    run.stop()?;
    assert_eq!(line.interfaces()?, before);
    Ok(())
}

#[test]
fn after_its_first_packet_a_flow_passes_in_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    second_packets_pass_in_the_kernel(&direct_line()?, "")
}

#[test]
fn every_function_deals_with_every_packet_once() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    let fields = ["ethernet", "src", "dst", "src-port"];
    let chain: Vec<_> =
        (0..4).map(|n| marker(&format!("f{n}"), fields[n], &format!(", bit: {n}"), ", mode: reactive")).collect();
    let run = Runtime::start(&line.middle, &manifest(&chain))?;
    for six in [false, true] {
        for reverse in [false, true] {
            for hits in 0..16 {
                let packet = Sent::to_port(0x1230 + hits);
                let packet = if six { packet.six() } else { packet };
                // As far as fast paths know the flow, and no further: behind the first that does not, functions deal with it themselves.
                let order: Vec<usize> = if reverse { (0..4).rev().collect() } else { (0..4).collect() };
                let known = order.iter().take_while(|&&n| hits >> n & 1 == 1).count();
                let mut expected = [By::Function; 4];
                order.iter().take(known).for_each(|&n| expected[n] = By::FastPath);
                for turn in 0..=SETTLE {
                    let arrived = packets.send(&packet, reverse).expect("the packet");
                    let what = format!("hits {hits:04b}, reverse {reverse}, six {six}, packet {turn}");
                    assert_eq!(arrived.functions, 4, "{what}: each function once");
                    assert!(arrived.marks.iter().all(|by| *by != By::Nobody), "{what}: {:?}", arrived.marks);
                    let fast = order.iter().take_while(|&&n| arrived.marks[n] == By::FastPath).count();
                    let rest = order.iter().skip(fast).all(|&n| arrived.marks[n] == By::Function);
                    assert!(rest, "{what}: back in the kernel behind a function: {:?}", arrived.marks);
                    if turn == SETTLE {
                        assert_eq!(arrived.marks, expected, "{what}");
                    }
                }
            }
        }
    }
    let status = run.wait_for_rest()?;
    assert_conserved(&status);
    assert!(slow(&status, "f0", "miss") > 0 && slow(&status, "f3", "miss") > 0);
    run.stop()?;
    Ok(())
}
