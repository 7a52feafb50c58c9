//! Functions of the catalogue with their fast paths, end to end: both paths decide alike, and count alike.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use middlenet_sdk::wire::Ipv4Mut;
use middlenet_tests::{By, Error, Line, Marked, RawSocket, RunStatus, Runtime, Scratch, Sent, require_root};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// A line whose hosts send nothing of their own.
fn quiet_line() -> Result<Line, Error> {
    let line = Line::new()?;
    line.let_packets_leave_directly()?;
    line.silence_ipv6()?;
    Ok(line)
}

fn from(src: &str, dst_port: u16) -> Sent {
    Sent { src: src.parse().expect("an address"), ..Sent::to_port(dst_port) }
}

/// One of the counts of a rule of `efw`; rules count from 1.
fn of_rule(status: &RunStatus, rule: usize, count: &str) -> u64 {
    let report = &status.instances("efw")[0]["report"];
    report["rules"][rule - 1][count].as_u64().unwrap_or_else(|| panic!("no rule {rule}: {report:#}"))
}

fn by_rule(status: &RunStatus, count: &str) -> [u64; 4] {
    [1, 2, 3, 4].map(|rule| of_rule(status, rule, count))
}

const EFW_RULES: &str = "{ src: 10.66.0.0/16, allow: false }, { dst: 10.2.0.66, allow: false },
    { dst_port: 7000-7009, proto: udp, allow: true }, { src: 10.1.0.0/24, allow: true, name: rest }";

/// A filter of common rules, and behind it the firewall, which has the rest. What `efw` allows leaves past it.
fn filters(rules: &str, mode: &str) -> String {
    let efw = format!("efw: {{ config: {{ rules: [{rules}] }}, outputs: {{ allowed: lan }}{mode} }}");
    let firewall = "firewall: { config: { default: drop, rules: [{ proto: udp, src: 10.55.0.0/16, dst_port: 8000, allow: true }] } }";
    Line::manifest(&[&efw, firewall])
}

/// Packets of each kind, how many there are of them, and whether they arrive.
fn kinds() -> Vec<(Sent, u64, bool)> {
    let to_denied = Sent { dst: "10.2.0.66".parse().expect("an address"), ..Sent::to_port(7000) };
    vec![
        (from("10.66.1.2", 7003), 3, false),
        (to_denied, 4, false),
        (from("10.44.0.1", 7000), 5, true),
        (from("10.44.0.1", 7009), 1, true),
        (from("10.1.0.9", 9000), 7, true),
        // Of these two efw knows nothing.
        (from("10.55.0.1", 8000), 8, true),
        (from("10.44.0.1", 7010), 2, false),
    ]
}

#[test]
fn efw_decides_alike_by_both_paths_and_leaves_the_rest_to_the_firewall() -> Result<(), Error> {
    require_root!(Ok(()));
    for mode in ["", ", mode: proactive"] {
        let line = quiet_line()?;
        let mut packets = Marked::on(&line)?;
        let run = Runtime::start(&line.middle, &filters(EFW_RULES, mode))?;
        for (packet, count, arrives) in kinds() {
            for _ in 0..count {
                let arrived = if arrives { packets.send(&packet, false) } else { packets.send_in_vain(&packet) };
                assert_eq!(arrived.is_some(), arrives, "{packet:?}, mode {mode:?}");
            }
        }
        let status = run.wait_for("all packets in the report", SOON, |status| {
            by_rule(status, "packets") == [3, 4, 6, 7]
                && status.dropped("firewall", "denied") == 2
                && status.counter("efw", "unmatched") == 10
        })?;
        let bytes = Sent::to_port(1).frame(1).len() as u64;
        assert_eq!(by_rule(&status, "bytes"), [3, 4, 6, 7].map(|packets| packets * bytes));
        assert_eq!(status.dropped("efw", "denied"), 7, "{:?}", status.drops());
        let in_the_kernel = if mode.is_empty() { [0; 4] } else { [3, 4, 6, 7] };
        assert_eq!(by_rule(&status, "fast_packets"), in_the_kernel);
        assert_eq!(
            status.counter("efw", "denied") + status.counter("efw", "allowed"),
            if mode.is_empty() { 20 } else { 0 }
        );
        if !mode.is_empty() {
            let counts = ["entered", "hits", "sent", "dropped"].map(|count| status.fast("efw", count));
            assert_eq!(counts, [30, 20, 13, 7], "{:#}", status.hop("efw"));
            assert_eq!(status.left("efw", "slow", "miss"), 10);
            status.assert_fast_paths_conserve();
        }
        run.stop()?;
    }
    Ok(())
}

/// A datagram to this port in two fragments, and one whose header lies behind nine of options.
fn hiding_their_port(dst_port: u16) -> [Vec<u8>; 3] {
    let whole = Sent::to_port(dst_port).frame(1);
    let fragment = |flags: u16, offset: u16, payload: std::ops::Range<usize>| {
        let mut frame = [&whole[..34], &whole[34..][payload]].concat();
        let length = frame.len() as u16 - 14;
        frame[16..18].copy_from_slice(&length.to_be_bytes());
        frame[20..22].copy_from_slice(&(flags | offset).to_be_bytes());
        Ipv4Mut::parse(&mut frame[14..]).expect("it has a header").fill_checksum();
        frame
    };
    let mut six = Sent::to_port(dst_port).six().frame(1);
    for at in 0..9 {
        six.splice(54..54, [if at == 0 { 17 } else { 60 }, 0, 1, 4, 0, 0, 0, 0]);
    }
    six[20] = 60;
    let length = six.len() as u16 - 54;
    six[18..20].copy_from_slice(&length.to_be_bytes());
    [fragment(0x2000, 0, 0..16), fragment(0, 2, 16..24), six]
}

/// A rule of a port is not evaded by what does not show its port: whatever rule of an address comes after it, the firewall sees the packet.
#[test]
fn the_firewall_behind_efw_judges_what_hides_its_ports() -> Result<(), Error> {
    require_root!(Ok(()));
    let telnet = "{ dst_port: 23, allow: false }, { src: [10.0.0.0/8, \"fd00::/8\"], allow: true }";
    for mode in ["", ", mode: proactive"] {
        let line = quiet_line()?;
        let mut packets = Marked::on(&line)?;
        let run = Runtime::start(&line.middle, &filters(telnet, mode))?;
        let client = RawSocket::open(&line.client, "eth0")?;
        for frame in hiding_their_port(23) {
            assert!(client.send(&frame), "the kernel takes the frame");
        }
        assert!(packets.send_in_vain(&Sent::to_port(23)).is_none(), "the port is denied");
        assert!(packets.send(&Sent::to_port(24), false).is_some(), "others are not");
        let status = run.wait_for("all packets", SOON, |status| {
            status.hop_count("firewall", "in_pkts") == 3 && status.counter("efw", "unmatched") == 3
        })?;
        assert_eq!((status.dropped("efw", "denied"), status.hop_count("firewall", "out_pkts")), (1, 0));
        if !mode.is_empty() {
            let left = ["fragment", "miss"].map(|reason| status.left("efw", "slow", reason));
            assert_eq!(left, [2, 1], "{:#}", status.hop("efw"));
            status.assert_fast_paths_conserve();
        }
        run.stop()?;
    }
    Ok(())
}

/// Rules are replaced while the fast path works: each rule that stays keeps its counts.
#[test]
fn rules_of_efw_are_replaced_in_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let mut packets = Marked::on(&line)?;
    let mode = ", mode: proactive";
    let run = Runtime::start(&line.middle, &filters(EFW_RULES, mode))?;
    assert!(packets.send(&from("10.44.0.1", 7000), false).is_some());
    assert!(packets.send_in_vain(&from("10.66.1.2", 7000)).is_none());
    let other = EFW_RULES.replace("10.66.0.0/16", "10.44.0.0/16");
    let output = run.apply(&filters(&other, mode))?;
    assert_eq!(output.stdout, "changed transit/efw\n", "{}", output.stderr);
    assert!(packets.send_in_vain(&from("10.44.0.1", 7000)).is_none());
    assert!(packets.send(&from("10.66.1.2", 7000), false).is_some());
    let status = run.wait_for("the counts", SOON, |status| of_rule(status, 3, "fast_packets") == 2)?;
    assert_eq!(status.counter("efw", "unmatched"), 0);
    assert_eq!((status.fast("efw", "sent"), status.fast("efw", "dropped")), (2, 2));
    status.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}

/// In mode `offloading` the filter behind is nftables, which user space cannot reach: what comes there and no rule matches is dropped.
#[test]
fn what_reaches_an_offloaded_efw_unmatched_is_dropped() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    line.route_in_the_kernel()?;
    let mut packets = Marked::on(&line)?;
    // The first function asks for UDP port 7777 to come to itself, so its packets come to `efw` in user space as well.
    let marker = env!("CARGO_BIN_EXE_middlenet-test-marker");
    let asks = format!(
        "asks: {{ run: {marker}, config: {{ field: nothing, by: dst-port, then: slow-path }}, mode: offloading }}"
    );
    let efw = "efw: { config: { rules: [{ src: 10.44.0.0/16, allow: true }, { src: 10.66.0.0/16, allow: false }] }, mode: offloading }";
    let run = Runtime::start(&line.middle, &Line::manifest(&[&asks, efw]))?;
    for _ in 0..3 {
        assert!(packets.send_in_vain(&Sent::to_port(7777)).is_none(), "no rule matches");
    }
    for _ in 0..2 {
        assert!(packets.send_in_vain(&from("10.66.0.1", 7777)).is_none(), "denied");
    }
    let arrived = packets.send(&from("10.44.0.1", 7777), false).expect("it is allowed");
    assert_eq!((arrived.marks[1], arrived.functions), (By::Nobody, 1));
    let status = run.wait_for("the drops", SOON, |status| {
        let counters = ["unmatched", "denied", "allowed"].map(|name| status.counter("efw", name));
        let drops = ["not_judged", "denied"].map(|reason| status.dropped("efw", reason));
        (counters, drops, status.counter("asks", "seen")) == ([3, 2, 1], [3, 2], 6)
    })?;
    assert!(status.left("asks", "slow", "asked") == 6, "{:#}", status.hop("asks"));
    let drops = run.command(&["drops", run.name()])?.stdout;
    assert!(drops.contains("not_judged"), "{drops}");
    run.wait_for_rest()?.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}

/// The flow with this destination port in the report of `flow-stats`.
fn flow_of(status: &RunStatus, dst_port: u16) -> Value {
    let flows = status.instances("flow-stats")[0]["report"]["top_flows"].as_array().into_iter().flatten();
    flows.clone().find(|flow| flow["dst_port"] == dst_port).cloned().unwrap_or_default()
}

/// Counts of flows that ran partly in the kernel are those of the packets that were sent, in the report and in the log.
#[test]
fn flow_stats_counts_what_was_sent_whoever_saw_it() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let mut packets = Marked::on(&line)?;
    // The run's user may write there.
    let folder = Scratch::new()?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o777)).expect("the folder is the test's own");
    let log = folder.file("flows.log");
    let entry = format!("flow-stats: {{ config: {{ file: {} }}, mode: reactive }}", log.display());
    let run = Runtime::start(&line.middle, &Line::manifest(&[&entry]))?;
    let sent = [
        (Sent::to_port(5001), false, 40),
        (Sent::to_port(5002).six(), false, 25),
        (Sent::to_port(5003), true, 12),
        (Sent::to_port(5004), false, 1),
    ];
    for (packet, reverse, count) in &sent {
        for _ in 0..*count {
            let arrived = packets.send(packet, *reverse).expect("the packet");
            assert_eq!((arrived.functions, arrived.marks), (0, [By::Nobody; 4]), "untouched");
        }
    }
    let bytes = |packet: &Sent| packet.frame(1).len() as u64;
    let all: u64 = sent.iter().map(|(_, _, count)| count).sum();
    // Each packet was seen once: by the function or in the kernel.
    let status = run.wait_for("all packets in the report", SOON, |status| {
        sent.iter().all(|(packet, _, count)| flow_of(status, packet.dst_port)["packets"] == *count)
            && status.counter("flow-stats", "udp") + status.fast("flow-stats", "hits") == all
    })?;
    let mut in_the_kernel = 0;
    for (packet, _, count) in &sent {
        let flow = flow_of(&status, packet.dst_port);
        assert_eq!(flow["bytes"], count * bytes(packet), "{flow:#}");
        let fast = flow["fast_packets"].as_u64().expect("a count");
        assert_eq!(flow["fast_bytes"], fast * bytes(packet));
        assert!(fast < *count && (fast > 0) == (*count > 1), "the first comes to the function: {flow:#}");
        in_the_kernel += fast;
    }
    let total = &status.instances("flow-stats")[0]["report"]["totals"]["udp"];
    assert_eq!((&total["packets"], &total["fast_packets"]), (&all.into(), &in_the_kernel.into()), "{total:#}");
    assert_eq!(total["bytes"], sent.iter().map(|(packet, _, count)| count * bytes(packet)).sum::<u64>());
    assert_eq!(status.fast("flow-stats", "hits"), in_the_kernel);
    run.wait_for_rest()?.assert_fast_paths_conserve();
    run.stop()?;
    let text = std::fs::read_to_string(&log).map_err(|source| Error::File { path: log, source })?;
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.len(), sent.len(), "{text}");
    for (packet, _, count) in &sent {
        let line = lines.iter().find(|line| line["dst_port"] == packet.dst_port).expect("a line for each flow");
        assert_eq!((&line["packets"], &line["end"]), (&(*count).into(), &"stopped".into()), "{line:#}");
        assert_eq!(line["bytes"], count * bytes(packet));
    }
    Ok(())
}
