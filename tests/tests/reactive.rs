//! Functions that install flows into their fast paths while packets pass: what is known stays in the kernel.

use std::time::Duration;

use middlenet_tests::{Conversation, Echo, Error, Line, Netns, RunStatus, Runtime, Scratch, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);

/// What the fast paths of a chain did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Fast {
    entered: u64,
    sent: u64,
    dropped: u64,
    slow: u64,
    kernel: u64,
}

impl Fast {
    /// Sums over the hops.
    fn of(status: &RunStatus, hops: &[&str]) -> Self {
        let sum = |count: &dyn Fn(&serde_json::Value) -> u64| -> u64 {
            hops.iter().map(|name| count(&status.hop(name)["fast_path"])).sum()
        };
        let number = |name: &'static str| move |stats: &serde_json::Value| stats[name].as_u64().expect("a fast path");
        let by_reason = |name: &'static str| {
            move |stats: &serde_json::Value| -> u64 {
                stats[name].as_array().into_iter().flatten().filter_map(|entry| entry[1].as_u64()).sum()
            }
        };
        Self {
            entered: sum(&number("entered")),
            sent: sum(&number("sent")),
            dropped: sum(&number("dropped")),
            slow: sum(&by_reason("slow")),
            kernel: sum(&by_reason("kernel")),
        }
    }

    /// Every packet that entered is accounted for.
    fn assert_balanced(&self) {
        assert_eq!(self.entered, self.sent + self.dropped + self.slow + self.kernel, "{self:?}");
    }
}

/// A line whose hosts send nothing of their own, and from which packets can leave directly.
fn quiet_line() -> Result<Line, Error> {
    let line = Line::new()?;
    line.let_packets_leave_directly()?;
    line.silence_ipv6()?;
    Ok(line)
}

/// Sends 40 MB, some 28,000 packets, over one connection; bits per second that arrived.
fn iperf(client: &Netns, server: &Netns, more: &[&str]) -> Result<f64, Error> {
    let mut listener = server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    listener.wait_for_output("Server listening", SOON)?;
    let arguments = [&["-c", "10.2.0.2", "-J", "-n", "40M"], more].concat();
    let report = client.exec("iperf3", arguments)?.stdout;
    let report: serde_json::Value = serde_json::from_str(&report).expect("iperf3 -J prints JSON");
    Ok(report["end"]["sum_received"]["bits_per_second"].as_f64().expect("a rate"))
}

fn translating(mode: &str) -> String {
    format!(
        "ports:
  lan: {{ xdp: wan }}
  out: {{ xdp: lan }}
chains:
  transit:
    ports: [lan, out]
    functions:
      - l3-router: {{ config: {{ addresses: [{{ address: 10.1.0.1/24, port: lan }}, {{ address: 10.2.0.1/24, port: out }}] }}{mode} }}
      - nat: {{ config: {{ inside: lan, sources: [10.1.0.0/24], pool: 10.2.0.1, unsolicited: pass }}{mode} }}
"
    )
}

const TRANSLATING: [&str; 2] = ["l3-router", "nat"];

#[test]
fn translated_and_routed_connections_stay_in_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    // Whatever arrives with an inside address cannot be answered.
    line.server.exec("ip", ["route", "del", "default"])?;
    let run = Runtime::start(&line.middle, &translating(", mode: reactive"))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    for more in [&[][..], &["-R"][..]] {
        let before = Fast::of(&run.wait_for_rest()?, &TRANSLATING);
        let rate = iperf(&line.client, &line.server, more)?;
        let after = Fast::of(&run.wait_for_rest()?, &TRANSLATING);
        let (entered, slow) = (after.entered - before.entered, after.slow - before.slow);
        assert!(entered > 10_000, "{entered} packets, {rate} bit/s");
        assert!(slow * 20 < entered, "{slow} of {entered} packets came to the functions");
        after.assert_balanced();
    }
    // Pings and short questions go by the functions, and nothing is lost on either way.
    let _outside = Echo::start(&line.server, "10.2.0.2:7000")?;
    let text: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut tcp = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    tcp.say(&text, SOON)?;
    let mut udp = Conversation::udp(&line.client, "10.2.0.2:7000")?;
    for _ in 0..5 {
        udp.say(b"hello", SOON)?;
    }
    line.client.exec("ping", ["-n", "-c", "5", "-i", "0.05", "-W", "5", "10.2.0.2"])?;

    // The session is known to both: it goes on when all that is in the kernel is gone with the manager.
    let manager = run.status()?.manager_pid().expect("a manager runs");
    kill(Pid::from_raw(manager.cast_signed()), Signal::SIGKILL).expect("the manager can be killed");
    run.wait_for("another manager", SOON, |s| s.is_running() && s.manager_pid() != Some(manager))?;
    let mut again = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    again.say(&text, SOON)?;
    run.wait_for("flows in the new fast path", SOON, |s| Fast::of(s, &TRANSLATING).sent > 100)?;

    let summary = run.stop()?;
    let count = |counter| summary.status.counter("nat", counter);
    assert_eq!((count("exhausted"), count("untranslatable")), (0, 0));
    Fast::of(&summary.status, &TRANSLATING).assert_balanced();
    Ok(())
}

#[test]
fn a_neighbour_that_moves_is_followed_in_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let run = Runtime::start(&line.middle, &routing(", mode: reactive"))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _outside = Echo::start(&line.server, "10.2.0.2:7000")?;
    let text: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let mut tcp = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    tcp.say(&text, SOON)?;
    let installed = run.wait_for_rest()?;
    assert!(Fast::of(&installed, &["l3-router"]).sent > 100);
    // It announces its new link address; what goes the old way is lost.
    line.server.exec("ip", ["link", "set", "eth0", "address", "02:00:00:00:02:77"])?;
    line.server.exec("ping", ["-n", "-c", "1", "-W", "5", "10.2.0.1"])?;
    tcp.say(&text, SOON)?;
    run.stop()?;
    Ok(())
}

fn routing(mode: &str) -> String {
    let addresses = "[{ address: 10.1.0.1/24, port: wan }, { address: 10.2.0.1/24, port: lan }]";
    Line::manifest(&[&format!("l3-router: {{ config: {{ addresses: {addresses} }}{mode} }}")])
}

/// A page is asked for, over a connection that answers with what it is told.
const REQUEST: &[u8] =
    b"GET /index.html HTTP/1.1\r\nHost: www.example.org\r\nUser-Agent: test/1.0\r\nAccept: */*\r\n\r\n";

fn inspecting(config: &str) -> String {
    let addresses = "[{ address: 10.1.0.1/24, port: wan }, { address: 10.2.0.1/24, port: lan }]";
    Line::manifest(&[
        &format!("edpi: {{ config: {{ {config} }}, mode: reactive, placement: process }}"),
        &format!("l3-router: {{ config: {{ addresses: {addresses} }}, mode: reactive }}"),
    ])
}

/// Packets and bytes of a protocol, in both paths together and in the fast path alone.
fn moved(status: &RunStatus, protocol: &str) -> (u64, u64) {
    let report = &status.instances("edpi")[0]["report"]["moved"];
    let found = report["protocols"].as_array().into_iter().flatten().find(|shown| shown["protocol"] == protocol);
    let number = |name: &str| found.and_then(|shown| shown[name].as_u64()).unwrap_or_default();
    (number("packets"), number("fast_packets"))
}

#[test]
fn a_flow_that_is_recognised_moves_to_the_kernel_while_it_runs() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let run = Runtime::start(&line.middle, &inspecting("packets: 12"))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _server = Echo::start(&line.server, "10.2.0.2:7000")?;
    let mut tcp = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    run.wait_for("the handshake at the function", SOON, |s| s.counter("edpi", "inspected") >= 3)?;
    tcp.say(REQUEST, SOON)?;
    // A few words more, and its inspection is over.
    for _ in 0..12 {
        tcp.say(b"more\r\n", SOON)?;
    }
    run.wait_for("the flow in the fast path", SOON, |s| s.counter("edpi", "elephants") >= 1)?;
    let before = run.wait_for_rest()?;
    let text: Vec<u8> = (0..=255).cycle().take(2_000_000).collect();
    tcp.say(&text, SOON)?;
    let after =
        run.wait_for("the report of what moved", SOON, |s| moved(s, "HTTP").1 > moved(&before, "HTTP").1 + 1000)?;
    let came = after.hop_count("edpi", "in_pkts") - before.hop_count("edpi", "in_pkts");
    assert!(came < 100, "{came} packets of a known flow came to the function");
    drop(tcp);
    // Its end comes to the function, and takes it out of the kernel.
    run.wait_for("the end of the flow", SOON, |s| s.counter("edpi", "fast_removed") >= 2)?;
    let status = run.wait_for_rest()?;
    Fast::of(&status, &["edpi", "l3-router"]).assert_balanced();
    let (packets, fast) = moved(&status, "HTTP");
    let slow_and_fast = status.instances("edpi")[0]["report"]["moved"]["packets"].as_u64().unwrap_or_default();
    assert!(fast > 1000 && fast < packets && packets <= slow_and_fast, "{fast} {packets} {slow_and_fast}");
    run.stop()?;
    Ok(())
}

#[test]
fn a_blocked_protocol_is_dropped_in_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let run = Runtime::start(&line.middle, &inspecting("actions: [{ protocols: [HTTP], then: drop }]"))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _server = Echo::start(&line.server, "10.2.0.2:7000")?;
    let mut tcp = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    assert!(tcp.say(REQUEST, Duration::from_secs(2)).is_err(), "the request came through");
    // The sender tries again and again, and that is dropped by the kernel.
    run.wait_for("drops in the fast path", SOON, |s| {
        Fast::of(s, &["edpi"]).dropped >= 1 && s.dropped("edpi", "blocked-protocol") >= 2
    })?;
    let mut other = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    other.say(b"EHLO something else entirely\r\n", SOON)?;
    run.stop()?;
    Ok(())
}

#[test]
fn a_block_that_is_added_reaches_flows_that_are_in_the_kernel() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let scratch = Scratch::new()?;
    let signatures = scratch.write("protos.txt", "tcp:7009@Ours\n")?;
    let config = format!("packets: 4, signatures: {}", signatures.display());
    let run = Runtime::start(&line.middle, &inspecting(&config))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _servers = [Echo::start(&line.server, "10.2.0.2:7000")?, Echo::start(&line.server, "10.2.0.2:7001")?];
    let mut large = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    let mut other = Conversation::tcp(&line.client, "10.2.0.2:7001", SOON)?;
    for _ in 0..6 {
        large.say(b"what nobody knows\r\n", SOON)?;
        other.say(b"what nobody knows\r\n", SOON)?;
    }
    run.wait_for("the flows in the fast path", SOON, |s| s.counter("edpi", "elephants") >= 2)?;

    // They go on while the function is dead, and the process after it leaves them alone.
    let before = run.wait_for_rest()?;
    let pid = before.pid("edpi").expect("the function runs");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the function is the test's own");
    let text: Vec<u8> = (0..=255).cycle().take(500_000).collect();
    large.say(&text, SOON)?;
    run.wait_for("another process", SOON, |s| s.is_running() && s.pid("edpi").is_some_and(|new| new != pid))?;
    large.say(&text, SOON)?;
    let after = run.wait_for_rest()?;
    let came = after.hop_count("edpi", "in_pkts") - before.hop_count("edpi", "in_pkts");
    assert!(came < 20, "{came} packets of a known flow came to the function");

    // By another signature one of them is to be dropped.
    scratch.write("protos.txt", "tcp:7000@Ours\n")?;
    let output = run.apply(&inspecting(&format!("{config}, actions: [{{ protocols: [Ours], then: drop }}]")))?;
    assert!(output.status.success(), "{}", output.stderr);
    assert!(large.say(b"more", Duration::from_secs(2)).is_err(), "what is blocked came through");
    run.wait_for("drops in the fast path", SOON, |s| {
        Fast::of(s, &["edpi"]).dropped >= 1 && s.dropped("edpi", "blocked-protocol") >= 2
    })?;
    other.say(&text, SOON)?;
    run.stop()?;
    Ok(())
}

/// A filter for requests before the firewall, and one for answers behind it.
const AROUND_THE_FIREWALL: &str = "ports:
  wan: { xdp: wan }
  lan: { xdp: lan }
chains:
  transit:
    ports: [wan, lan]
    functions:
      - requests:
          use: efw
          mode: proactive
          outputs: { allowed: l3-router }
          config: { rules: [{ dst_port: 7000, proto: tcp, allow: true }] }
      - firewall: { default: drop, rules: [{ proto: icmp, direction: forward, allow: true }] }
      - answers:
          use: efw
          mode: proactive
          outputs: { allowed: wan }
          config: { rules: [{ src_port: 7000, proto: tcp, allow: true }] }
      - l3-router:
          config: { addresses: [{ address: 10.1.0.1/24, port: wan }, { address: 10.2.0.1/24, port: lan }] }
          mode: reactive
";

#[test]
fn connections_pass_by_the_firewall_in_both_directions() -> Result<(), Error> {
    require_root!(Ok(()));
    let hops = ["requests", "answers", "l3-router"];
    let line = quiet_line()?;
    let run = Runtime::start(&line.middle, AROUND_THE_FIREWALL)?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let seen = |status: &RunStatus| status.hop("firewall")["in_pkts"].as_u64().expect("a count");
    let before = run.wait_for_rest()?;
    let _outside = Echo::start(&line.server, "10.2.0.2:7000")?;
    let text: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?.say(&text, SOON)?;
    let after = run.wait_for_rest()?;
    // ARP alone still meets it.
    assert!(seen(&after) - seen(&before) < 10, "{} packets met the firewall", seen(&after) - seen(&before));
    for hop in ["answers", "l3-router"] {
        let sent = Fast::of(&after, &[hop]).sent - Fast::of(&before, &[hop]).sent;
        assert!(sent > 20, "{sent} packets left behind `{hop}`");
    }
    Fast::of(&after, &hops).assert_balanced();
    run.stop()?;
    Ok(())
}
