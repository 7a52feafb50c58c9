//! Functions with fast paths in the kernel: who deals with which packet, and that everybody does so once.

use std::time::Duration;

use middlenet_tests::{
    By, Conversation, Echo, Error, Line, Marked, RunStatus, Runtime, Sent, require_root, wait_until_still,
};
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
    line.let_packets_leave_directly()?;
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

#[test]
fn after_its_first_packet_a_flow_passes_in_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let before = line.interfaces()?;
    let mut packets = Marked::on(&line)?;
    let run = Runtime::start(&line.middle, &manifest(&[marker("a", "src", "", ", mode: reactive")]))?;
    for reverse in [false, true] {
        let packet = Sent::to_port(5000 + u16::from(reverse));
        let first = packets.send(&packet, reverse).expect("the first packet");
        assert_eq!((first.marks[1], first.functions), (By::Function, 1));
        for _ in 0..5 {
            let next = packets.send(&packet, reverse).expect("the next packet");
            assert_eq!((next.marks[1], next.functions), (By::FastPath, 1));
        }
    }
    let status = run.wait_for_rest()?;
    assert_eq!(status.counter("a", "seen"), 2);
    assert_eq!((fast(&status, "a", "hits"), fast(&status, "a", "sent")), (10, 10), "{:#}", status.hop("a"));
    assert_conserved(&status);
    let text = run.command(&["status", run.name()])?.stdout;
    assert!(text.contains("FAST PATH") && text.contains("transit/a  reactive"), "{text}");
    assert!(text.contains(" slow path + 0 kernel"), "{text}");
    run.stop()?;
    assert_eq!(line.interfaces()?, before);
    Ok(())
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
                let packet = Sent::to_port(if reverse { 0x1330 } else { 0x1230 } + hits);
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

/// Rules that are there before any packet, by each matcher that names some.
#[test]
fn rules_decide_before_any_packet_came() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    let chain = [
        marker("by-src", "dst", ", by: src", ", mode: proactive"),
        marker("by-port", "ethernet", ", by: dst-port", ", mode: proactive"),
    ];
    let run = Runtime::start(&line.middle, &manifest(&chain))?;
    let known = Sent { src: "10.66.1.2".parse().expect("an address"), ..Sent::to_port(7777) };
    let arrived = packets.send(&known, false).expect("the packet");
    assert_eq!((arrived.marks[0], arrived.marks[2], arrived.functions), (By::FastPath, By::FastPath, 2));
    let half_known = Sent { dst_port: 7778, ..known };
    let arrived = packets.send(&half_known, false).expect("the packet");
    assert_eq!((arrived.marks[0], arrived.marks[2], arrived.functions), (By::Function, By::FastPath, 2));
    let arrived = packets.send(&Sent::to_port(7777), false).expect("the packet");
    assert_eq!((arrived.marks[0], arrived.marks[2], arrived.functions), (By::Function, By::Function, 2));
    // The other way round the ports come first.
    let arrived = packets.send(&Sent::to_port(7777), true).expect("the packet");
    assert_eq!((arrived.marks[0], arrived.marks[2], arrived.functions), (By::FastPath, By::Function, 2));
    let status = run.wait_for_rest()?;
    assert_conserved(&status);
    run.stop()?;
    Ok(())
}

#[test]
fn connections_to_a_service_are_remembered() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    let chain = [marker("balancer", "dst", ", by: service", ", mode: proactive")];
    let run = Runtime::start(&line.middle, &manifest(&chain))?;
    let service: std::net::IpAddr = "10.88.0.1".parse().expect("an address");
    let there = Sent { dst: service, ..Sent::to_port(80) };
    for _ in 0..3 {
        let arrived = packets.send(&there, false).expect("the packet");
        assert_eq!((arrived.marks[2], arrived.functions), (By::FastPath, 1));
    }
    // What the server answers comes from the service's address, as the client knows it.
    let server = "10.9.2.250".parse().expect("an address");
    let back = Sent { src: server, dst: there.src, src_port: 80, dst_port: there.src_port };
    let arrived = packets.send(&back, true).expect("the answer");
    assert_eq!(arrived.key.src_ip(), service);
    let status = run.wait_for_rest()?;
    assert_eq!((fast(&status, "balancer", "learned"), status.counter("balancer", "seen")), (1, 0));
    assert_conserved(&status);
    run.stop()?;
    Ok(())
}

#[test]
fn what_a_rule_says_is_done_as_the_function_would() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    let verdict = |then: &str, outputs: &str| {
        let entry = marker("a", "src", &format!(", then: {then}"), &format!(", mode: reactive{outputs}"));
        Runtime::start(&line.middle, &manifest(&[entry]))
    };

    // The first is dropped by the function, and those that come when that is done by its fast path.
    let run = verdict("drop", "")?;
    for dropped in 1..=4 {
        assert!(packets.send_in_vain(&Sent::to_port(1)).is_none());
        run.wait_for("the drops", SOON, |status| status.dropped("a", "unwanted") == dropped)?;
    }
    let status = run.wait_for_rest()?;
    assert_eq!((status.counter("a", "seen"), fast(&status, "a", "dropped")), (1, 3), "{:#}", status.hop("a"));
    let drops = run.command(&["drops", run.name()])?.stdout;
    assert!(drops.contains("unwanted"), "{drops}");
    assert_conserved(&run.wait_for_rest()?);
    run.stop()?;

    let run = verdict("reply", "")?;
    for by in [By::Function, By::FastPath, By::FastPath] {
        let arrived = packets.send_to_and_fro(&Sent::to_port(2)).expect("it comes back");
        assert_eq!((arrived.marks[1], arrived.functions), (by, 1));
    }
    assert_conserved(&run.wait_for_rest()?);
    run.stop()?;

    let run = verdict("output", ", outputs: { out: drop }")?;
    for dropped in 1..=3 {
        assert!(packets.send_in_vain(&Sent::to_port(3)).is_none());
        run.wait_for("the drops", SOON, |status| status.dropped("a", "output-to-drop") == dropped)?;
    }
    assert_eq!(fast(&run.status()?, "a", "dropped"), 2);
    run.stop()?;

    let run = verdict("lan", "")?;
    for by in [By::Function, By::FastPath] {
        let arrived = packets.send(&Sent::to_port(4), false).expect("it arrives");
        assert_eq!((arrived.marks[1], arrived.functions), (by, 1));
    }
    run.stop()?;
    Ok(())
}

#[test]
fn only_as_many_flows_as_there_is_room_for_are_known() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    // There is room for 2048.
    let run = Runtime::start(&line.middle, &manifest(&[marker("a", "src", "", ", mode: reactive")]))?;
    for n in 0..3000 {
        let arrived = packets.send(&Sent { src_port: 2000 + n, ..Sent::to_port(9) }, false).expect("the packet");
        assert_eq!((arrived.marks[1], arrived.functions), (By::Function, 1));
    }
    let arrived = packets.send(&Sent { src_port: 2000, ..Sent::to_port(9) }, false).expect("the oldest");
    assert_eq!((arrived.marks[1], arrived.functions), (By::Function, 1), "the oldest has made room");
    let arrived = packets.send(&Sent { src_port: 4999, ..Sent::to_port(9) }, false).expect("the newest");
    assert_eq!((arrived.marks[1], arrived.functions), (By::FastPath, 1));
    let status = run.wait_for_rest()?;
    assert!(status.counter("a", "fast_installed") >= 3001, "{:#?}", status.instances("a"));
    assert_conserved(&status);
    run.stop()?;
    Ok(())
}

#[test]
fn rules_of_a_port_come_before_fast_paths_and_can_be_replaced() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    let with = |rules: &str| {
        let chain = manifest(&[marker("a", "src", "", ", mode: reactive")]);
        format!("{chain}steering:\n  wan: [{rules}{{ to: transit }}]\n")
    };
    let run = Runtime::start(&line.middle, &with("{ proto: udp, dst_port: 1, to: drop }, "))?;
    for by in [By::Function, By::FastPath] {
        assert!(packets.send_in_vain(&Sent::to_port(1)).is_none());
        let arrived = packets.send(&Sent::to_port(2), false).expect("the packet");
        assert_eq!((arrived.marks[1], arrived.functions), (by, 1));
    }
    let output = run.apply(&with("{ proto: udp, dst_port: 2, to: drop }, "))?;
    assert_eq!(output.stdout, "changed steering of wan\n", "{}", output.stderr);
    for by in [By::Function, By::FastPath] {
        assert!(packets.send_in_vain(&Sent::to_port(2)).is_none());
        let arrived = packets.send(&Sent::to_port(1), false).expect("the packet");
        assert_eq!((arrived.marks[1], arrived.functions), (by, 1));
    }
    let output = run.apply(&with(""))?;
    assert_eq!(output.stdout, "changed steering of wan\n", "{}", output.stderr);
    let arrived = packets.send(&Sent::to_port(2), false).expect("a flow that the fast path still knows");
    assert_eq!((arrived.marks[1], arrived.functions), (By::FastPath, 1));
    assert_conserved(&run.wait_for_rest()?);
    run.stop()?;
    Ok(())
}

#[test]
fn another_configuration_takes_over_under_traffic() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    let with = |field: &str, mode: &str| manifest(&[marker("a", field, ", by: dst-port", &format!(", mode: {mode}"))]);
    let run = Runtime::start(&line.middle, &with("src", "proactive"))?;
    let arrived = packets.send(&Sent::to_port(7777), false).expect("the packet");
    assert_eq!((arrived.marks[1], arrived.functions), (By::FastPath, 1));
    let output = run.apply(&with("dst", "proactive"))?;
    assert_eq!(output.stdout, "changed transit/a\n", "{}", output.stderr);
    let arrived = packets.send(&Sent::to_port(7777), false).expect("the packet");
    assert_eq!((arrived.marks[1], arrived.marks[2], arrived.functions), (By::Nobody, By::FastPath, 1));
    let output = run.apply(&with("dst", "reactive"))?;
    assert!(!output.status.success() && output.stderr.contains("made differently"), "{}", output.stderr);
    run.stop()?;
    Ok(())
}

#[test]
fn the_kernels_own_stack_is_the_slow_path_of_an_offloading_function() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    for (device, address) in [("wan", "10.1.0.1/24"), ("lan", "10.2.0.1/24")] {
        line.middle.exec("ip", ["addr", "add", address, "dev", device])?;
    }
    line.middle.exec("sysctl", ["-qw", "net.ipv4.ip_forward=1"])?;
    line.middle.exec("iptables", ["-A", "FORWARD", "-p", "udp", "--dport", "7778", "-j", "DROP"])?;
    let run =
        Runtime::start(&line.middle, &manifest(&[marker("a", "nothing", ", by: dst-port", ", mode: offloading")]))?;
    // What no rule matches is forwarded by the kernel, ARP and ICMP included.
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    // What came before there were rules, as words of neighbours, had to wait for the function.
    let seen = run.wait_for_rest()?.counter("a", "seen");
    let ports = [7777, 7778, 7779];
    let echoes: Result<Vec<_>, _> =
        ports.iter().map(|port| Echo::start(&line.server, &format!("10.2.0.2:{port}"))).collect();
    let _echoes = echoes?;
    let mut known = Conversation::udp(&line.client, "10.2.0.2:7777")?;
    for _ in 0..20 {
        known.say(b"by the fast path", SOON)?;
    }
    // One that was late was said anew.
    let sent = wait_until_still("the end of the words", SOON, || Ok(fast(&run.status()?, "a", "sent")))?;
    assert!(sent >= 19, "{sent}");
    Conversation::udp(&line.client, "10.2.0.2:7779")?.say(b"by the kernel", SOON)?;
    let refused = Conversation::udp(&line.client, "10.2.0.2:7778")?.say(b"by nobody", Duration::from_millis(300));
    assert!(refused.is_err());
    let counted = line.middle.exec("iptables", ["-L", "FORWARD", "-v", "-n", "-x"])?.stdout;
    let dropped = counted.lines().find(|rule| rule.contains("dpt:7778")).unwrap_or_default();
    assert!(!dropped.trim_start().starts_with("0 ") && !dropped.is_empty(), "{counted}");
    let status = run.wait_for_rest()?;
    assert_eq!((fast(&status, "a", "sent"), status.counter("a", "seen")), (sent, seen));
    assert!(to_kernel(&status, "miss") > 20, "{:#}", status.hop("a"));
    assert_conserved(&status);
    run.stop()?;
    Ok(())
}

/// Packets that the fast path of `a` left to the kernel, by reason.
fn to_kernel(status: &RunStatus, reason: &str) -> u64 {
    counted(&status.hop("a")["fast_path"]["kernel"], reason)
}

#[test]
fn an_inline_function_has_its_fast_path_as_well() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = direct_line()?;
    let mut packets = Marked::on(&line)?;
    let entry = "flow-stats: { config: {}, placement: inline, mode: reactive }";
    let run = Runtime::start(&line.middle, &Line::manifest(&[entry]))?;
    for _ in 0..10 {
        assert_eq!(packets.send(&Sent::to_port(1), false).expect("the packet").functions, 0);
    }
    let status = run.wait_for_rest()?;
    assert!(fast(&status, "flow-stats", "sent") > 0, "{:#}", status.hop("flow-stats"));
    assert_conserved(&status);
    run.stop()?;
    Ok(())
}
