//! One interface that feeds several chains, the kernel and ports, by rules and by what functions decide.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use middlenet_tests::{
    Asks, Backend, Conversation, Echo, Error, Line, Load, RawSocket, RunStatus, Runtime, Scratch, random_frame,
    require_root, wait_until,
};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(20);

/// All packets that rules and flows of `wan` have decided about.
fn all_decided(status: &RunStatus) -> u64 {
    let steering = &status.port("wan")["steering"];
    let sum = |list: &Value| -> u64 { list.as_array().into_iter().flatten().filter_map(|r| r["pkts"].as_u64()).sum() };
    let gone = steering["irregular"].as_array().into_iter().flatten().filter(|i| i[0] == "rules-gone");
    sum(&steering["rules"]) + sum(&steering["flows"]) + gone.filter_map(|i| i[1].as_u64()).sum::<u64>()
}

fn flows(status: &RunStatus) -> Vec<Value> {
    status.port("wan")["steering"]["flows"].as_array().cloned().unwrap_or_default()
}

/// A line whose middle has an address of the kernel's own at `wan`.
fn line() -> Result<Line, Error> {
    let line = Line::new()?;
    line.middle.exec("ip", ["addr", "add", "10.1.0.5/24", "dev", "wan"])?;
    Ok(line)
}

/// A manifest with the chain `transit`, the chain `web` on the kernel's address, and these rules at `wan`.
fn manifest(functions: &[&str], rules: &str) -> String {
    format!(
        "{}  web:
    layer: l4l7
    listen: 10.1.0.5:8080
    functions: [{{ url-rewrite: {{ rules: [{{ match: '^/old/(.*)$', to: '/new/$1' }}] }} }}]
    upstreams: ['127.0.0.1:9001']
steering:
  wan:
{rules}",
        Line::manifest(functions)
    )
}

#[test]
fn one_interface_carries_both_layers() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = line()?;
    let before = line.interfaces()?;
    let _backend = Backend::start(&line.middle, "127.0.0.1:9001")?;
    let rules = "    - { to: web }\n    - { to: transit }\n";
    let run = Runtime::start(&line.middle, &manifest(&[Line::ROUTER], rules))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    line.client.wait_for_ping("10.1.0.5", SOON)?;
    let mut server = line.server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    server.wait_for_output("Server listening", SOON)?;
    let transit = line.client.spawn("iperf3", ["-c", "10.2.0.2", "-t", "3", "-J"])?;
    let load = Load::start(&line.client, "10.1.0.5:8080", 4, Asks::REWRITTEN)?;
    load.wait_for(500, SOON)?;
    let carried: Value = serde_json::from_str(&transit.wait(SOON)?.stdout).expect("iperf3 writes JSON");
    let seen = load.stop();
    assert_eq!(seen.failed(), 0, "{seen:?}");
    let bytes = carried["end"]["sum_received"]["bytes"].as_u64().unwrap_or_default();
    assert!(bytes > 1 << 20, "{bytes} bytes of transit");
    let status = run.wait_for_requests_to_rest()?;
    assert!(status.decided("wan", "#1 tcp 10.1.0.5:8080") > 1000, "{:#}", status.port("wan")["steering"]);
    // What the rules gave to the chain is what the chain received, but for what the socket had no room for.
    run.wait_for("an even account of the rules", SOON, |status| {
        status.decided("wan", "else") == status.port_count("wan", "received_pkts") + status.missed("wan")
    })?;
    run.stop()?;
    assert_eq!(line.interfaces()?, before);
    Ok(())
}

/// Whatever comes while a port opens either finds the interface as it was, or meets rules that are carried out.
#[test]
fn no_packet_slips_past_the_rules_of_a_port_that_opens() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = line()?;
    let socket = RawSocket::open(&line.client, "eth0")?;
    let frame = random_frame(3, [0xff; 6], [2, 0, 0, 0, 1, 2]);
    for _ in 0..3 {
        let done = AtomicBool::new(false);
        let (run, status) = std::thread::scope(|scope| {
            scope.spawn(|| {
                // Should the start take for ever, the runtime gives up first.
                let deadline = Instant::now() + SOON * 4;
                while !done.load(Ordering::Relaxed) && Instant::now() < deadline {
                    socket.send(&frame);
                }
            });
            let run = Runtime::start(&line.middle, &manifest(&["monitor"], "    - { to: transit }\n"))?;
            let status = run.wait_for("packets", SOON, |status| status.decided("wan", "else") > 1000)?;
            done.store(true, Ordering::Relaxed);
            Ok::<_, Error>((run, status))
        })?;
        let irregular = &status.port("wan")["steering"]["irregular"];
        assert_eq!(irregular.as_array().map(Vec::len), Some(0), "{irregular}");
        // What met a rule and found no room was missed, once each; workers tell that ten times a second.
        run.wait_for("an even account of the rules", SOON, |status| {
            status.decided("wan", "else") == status.port_count("wan", "received_pkts") + status.missed("wan")
        })?;
        run.stop()?;
    }
    Ok(())
}

/// A thousand rules that match nothing of the test, other ones for each `turn`.
fn thousand(turn: usize) -> String {
    let rule = |n: usize| match n % 4 {
        0 => format!("    - {{ src: 172.{}.{}.0/24, to: drop }}\n", 16 + turn, n / 4),
        1 => format!("    - {{ dst: 'fd00:{turn:x}:{n:x}::/48', proto: udp, to: drop }}\n"),
        2 => format!("    - {{ proto: tcp, dst_port: {}-{}, to: kernel }}\n", 20_000 + 8 * n, 20_003 + 8 * n),
        _ => format!("    - {{ vlan: {}, src: 192.168.0.0/16, to: drop }}\n", 1 + n),
    };
    (0..1000).map(rule).collect::<String>()
        + "    - { name: all, proto: udp, dst_port: 5201, to: transit }\n    - { to: transit }\n"
}

#[test]
fn replacing_a_thousand_rules_under_load_loses_no_packet() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = line()?;
    let run = Runtime::start(&line.middle, &manifest(&[Line::ROUTER], &thousand(0)))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let mut server = line.server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    server.wait_for_output("Server listening", SOON)?;
    let arguments = ["-c", "10.2.0.2", "-u", "-b", "8M", "-l", "200", "-t", "6", "-J"];
    let client = line.client.spawn("iperf3", arguments)?;
    let mut counted = 0;
    for turn in 1..=5 {
        run.wait_for("traffic", SOON, |status| status.decided("wan", "all") > counted + 1000)?;
        let output = run.apply(&manifest(&[Line::ROUTER], &thousand(turn)))?;
        assert_eq!(output.stdout, "changed steering of wan\n", "{}", output.stderr);
        let now = run.status()?.decided("wan", "all");
        assert!(now > counted, "a rule of the same name and match goes on counting");
        counted = now;
    }
    let report: Value = serde_json::from_str(&client.wait(SOON)?.stdout).expect("iperf3 writes JSON");
    let sent = report["end"]["sum"]["packets"].as_u64().unwrap_or_default();
    run.wait_for("an even account of the rules", SOON, |status| {
        all_decided(status) == status.port_count("wan", "received_pkts") + status.missed("wan") + kernel(status)
    })?;
    let summary = run.stop()?;
    let status = &summary.status;
    assert!(sent > 20_000, "{sent}");
    // Each packet that was sent met a rule of one set or another. What a busy host loses it loses elsewhere, and counts it.
    let all = status.decided("wan", "all");
    // iperf3 begins and ends with a datagram or two of its own.
    assert!((sent..sent + 8).contains(&all), "{sent} sent, {all} met a rule");
    Ok(())
}

/// Packets of `wan` that rules left to the kernel.
fn kernel(status: &RunStatus) -> u64 {
    let rules = status.port("wan")["steering"]["rules"].as_array().cloned().unwrap_or_default();
    rules.iter().filter(|r| r["to"] == "kernel" || r["to"] == "web").filter_map(|r| r["pkts"].as_u64()).sum()
}

#[test]
fn a_function_steers_flows_for_a_time() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = line()?;
    let _backend = Backend::start(&line.middle, "127.0.0.1:9001")?;
    let firewall = "firewall: { config: { default: allow, steer_s: 3, rules: [
          { proto: udp, dst_port: 7001, steer: nowhere, allow: false },
          { proto: tcp, dst_port: 8080, steer: closer, allow: false } ] },
          steer: { nowhere: drop, closer: web } }";
    // At first the connection to the listener goes into the chain of packets, like everything else.
    let rules = "    - { arp: 10.1.0.5, to: kernel }\n    - { to: transit }\n";
    let run = Runtime::start(&line.middle, &manifest(&[firewall, Line::ROUTER], rules))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _echo = Echo::start(&line.server, "10.2.0.2:7001")?;

    let mut unwanted = Conversation::udp(&line.client, "10.2.0.2:7001")?;
    let say = |unwanted: &mut Conversation| unwanted.say(b"hello", Duration::from_millis(20)).is_err();
    assert!(say(&mut unwanted));
    let status = run.wait_for("the flow", SOON, |status| !flows(status).is_empty())?;
    let flow = flows(&status).into_iter().find(|f| f["flow"].as_str().unwrap_or_default().starts_with("udp 10.1.0.2:"));
    let flow = flow.expect("the flow is listed");
    assert_eq!((flow["to"].as_str(), flow["by"].as_str()), (Some("drop"), Some("transit/firewall")));
    assert!(flow["remaining_s"].as_f64().is_some_and(|s| 0.0 < s && s <= 3.0), "{flow}");
    // What comes now is dropped before the chain sees it: by the flow, no longer by the firewall.
    let denied = status.dropped("firewall", "denied");
    for _ in 0..5 {
        assert!(say(&mut unwanted));
    }
    let status = run.status()?;
    assert_eq!(status.dropped("firewall", "denied"), denied);
    let dropped: u64 = flows(&status).iter().filter(|f| f["to"] == "drop").filter_map(|f| f["pkts"].as_u64()).sum();
    assert!(dropped >= 5, "{:#?}", flows(&status));
    // Its time over, the chain sees the flow again.
    wait_until("the end of the flow", SOON, || {
        say(&mut unwanted);
        run.status().is_ok_and(|status| status.dropped("firewall", "denied") > denied)
    })?;

    // The first segment is dropped by the firewall; its repetition goes through the chain of requests.
    let load = Load::start(&line.client, "10.1.0.5:8080", 1, Asks::REWRITTEN)?;
    load.wait_for(20, SOON)?;
    let seen = load.stop();
    assert!(seen.fine >= 20, "{seen:?}");
    let status = run.status()?;
    assert!(status.counter("firewall", "steered") >= 2);
    assert!(flows(&status).iter().any(|f| f["to"] == "web"), "{:#?}", flows(&status));
    run.stop()?;
    Ok(())
}

#[test]
fn a_flow_is_steered_no_longer_when_the_configuration_wants_it_elsewhere() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = line()?;
    let scratch = Scratch::new()?;
    let signatures = scratch.write("protos.txt", "udp:7001@Ours\n")?.display().to_string();
    let inspecting = |then: &str| {
        let actions = format!("[{{ protocols: [Ours], then: {then} }}]");
        let config = format!("signatures: {signatures}, steer_s: 600, actions: {actions}");
        let edpi = format!("edpi: {{ config: {{ {config} }}, steer: {{ nowhere: drop }} }}");
        manifest(&[&edpi, Line::ROUTER], "    - { arp: 10.1.0.5, to: kernel }\n    - { to: transit }\n")
    };
    let run = Runtime::start(&line.middle, &inspecting("{ steer: nowhere }"))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _echo = Echo::start(&line.server, "10.2.0.2:7001")?;
    let mut ours = Conversation::udp(&line.client, "10.2.0.2:7001")?;
    // The packet by which it is recognised passes, and perhaps the answer.
    let mut say = |text: &[u8]| ours.say(text, Duration::from_millis(50)).is_ok();
    wait_until("the flow", SOON, || {
        say(b"first");
        run.status().is_ok_and(|status| flows(&status).len() == 2)
    })?;
    for _ in 0..3 {
        assert!(!say(b"hello"), "it is steered to where all is dropped");
    }
    let steered = flows(&run.status()?);
    let flow = steered.iter().find(|f| f["flow"].as_str().is_some_and(|name| name.ends_with(" -> 10.2.0.2:7001")));
    let flow = flow.unwrap_or_else(|| panic!("it is not there: {steered:#?}"));
    assert_eq!((flow["to"].as_str(), flow["by"].as_str()), (Some("drop"), Some("transit/edpi")));
    assert!(flow["pkts"].as_u64() >= Some(3) && flow["remaining_s"].as_f64() > Some(500.0), "{flow}");

    // Long before its time is over, and without a packet of it.
    for (then, counter) in [("pass", "taken-back"), ("drop", "blocked")] {
        let output = run.apply(&inspecting(then))?;
        assert_eq!(output.stdout, "changed transit/edpi\n", "{}", output.stderr);
        run.wait_for("the end of the steering", SOON, |status| flows(status).is_empty())?;
        match then {
            "pass" => wait_until("the answer", SOON, || say(b"hello"))?,
            _ => assert!(!say(b"hello"), "it is blocked"),
        }
        run.wait_for(counter, SOON, |status| status.counter("edpi", counter) >= 1)?;
    }
    assert_eq!(run.stop()?.status.counter("edpi", "steered"), 1);
    Ok(())
}

#[test]
fn a_rule_and_a_function_send_packets_straight_out() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = line()?;
    let manifest = "ports:
  wan: { xdp: wan }
  lan: { xdp: lan }
chains:
  transit:
    ports: [wan, lan]
    functions: [{ firewall: { config: { default: drop, rules: [
      { proto: udp, dst_port: 53, steer: out, allow: true } ] }, steer: { out: lan } } }]
steering:
  wan:
    - { ether_type: 0x88b5, to: lan }
    - { to: transit }
";
    let run = Runtime::start(&line.middle, manifest)?;
    let there = RawSocket::open(&line.server, "eth0")?;
    let here = RawSocket::open(&line.client, "eth0")?;
    let arrives = |frame: &[u8]| {
        here.send(frame);
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            match there.receive() {
                Some(received) if received.starts_with(frame) => return true,
                Some(_) => {}
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        false
    };
    let mut strange = random_frame(7, [2, 0, 0, 0, 2, 2], [2, 0, 0, 0, 1, 2]);
    strange.resize(60, 0);
    strange[12..14].copy_from_slice(&0x88b5_u16.to_be_bytes());
    assert!(arrives(&strange), "past the firewall, which would drop it");
    let dns = middlenet_sdk::wire::PacketBuilder::new()
        .ipv4("10.1.0.2".parse().unwrap(), "10.2.0.2".parse().unwrap())
        .udp(4000, 53)
        .payload(&[0x5a; 40])
        .build();
    assert!(arrives(&dns), "through the firewall");
    let status = run.wait_for("the flow", SOON, |status| !flows(status).is_empty())?;
    let seen = status.hop_count("firewall", "in_pkts");
    for _ in 0..3 {
        assert!(arrives(&dns), "past the firewall");
    }
    let summary = run.stop()?;
    assert_eq!(summary.status.hop_count("firewall", "in_pkts"), seen);
    Ok(())
}

#[test]
fn both_layers_work_on_one_flow_while_transit_goes_past_both() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let _backend = Backend::start(&line.middle, "127.0.0.1:9001")?;
    let manifest = format!(
        "{}  front:
    ports: [wan, own]
    functions:
      - firewall: {{ default: drop, rules: [
          {{ proto: tcp, dst_port: 80, direction: forward, allow: true }}, {{ proto: icmp, allow: true }} ] }}
      - rate-limiter: {{ per: source, rate: 1Gbps, direction: forward }}
      - l3-router: {{ addresses: [
          {{ address: 10.1.0.9/24, port: wan }}, {{ address: 10.9.0.1/24, port: own }} ] }}
  web:
    layer: l4l7
    listen: 10.9.0.2:80
    functions:
      - reverse-proxy: {{ upstreams: ['127.0.0.1:9001'] }}
      - url-rewrite: {{ rules: [{{ match: '^/old/(.*)$', to: '/new/$1' }}] }}
steering:
  wan:
    - {{ dst: 10.9.0.0/24, to: front }}
    - {{ arp: 10.1.0.9, to: front }}
    - {{ to: transit }}
",
        Line::manifest(&[Line::ROUTER]).replace(
            "  lan: { xdp: lan }\n",
            "  lan: { xdp: lan }\n  own: { kernel: { interface: own0, address: 10.9.0.2/24 } }\n"
        )
    );
    let run = Runtime::start(&line.middle, &manifest)?;
    line.middle.exec("ip", ["route", "add", "10.1.0.0/24", "via", "10.9.0.1"])?;
    line.client.exec("ip", ["route", "add", "10.9.0.0/24", "via", "10.1.0.9"])?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    line.client.wait_for_ping("10.9.0.2", SOON)?;
    let status = run.status()?;
    let transit = status.hop_count("l3-router", "in_pkts");
    let load = Load::start(&line.client, "10.9.0.2:80", 2, Asks::REWRITTEN)?;
    load.wait_for(200, SOON)?;
    let seen = load.stop();
    assert_eq!(seen.failed(), 0, "{seen:?}");
    // The firewall in front refuses what is not for the web, and the kernel never sees it.
    assert!(Conversation::tcp(&line.client, "10.9.0.2:81", Duration::from_millis(300)).is_err());
    let summary = run.stop()?;
    let status = &summary.status;
    assert!(status.dropped("firewall", "denied") > 0);
    assert!(status.decided("wan", "#1") > 200 && status.port_count("own", "sent_pkts") > 200);
    assert!(status.hop_count("l3-router", "in_pkts") < transit + 20, "requests go past the chain of transit");
    Ok(())
}

/// What a port counted of a rule, or otherwise than its rules say.
fn counted(status: &RunStatus, port: &str, list: &str, name: &str) -> u64 {
    let all = status.port(port)["steering"][list].as_array().cloned().unwrap_or_default();
    let of = |entry: &Value| match list {
        "irregular" => (entry[0] == name).then(|| entry[1].as_u64()).flatten(),
        _ => (entry["name"] == name).then(|| entry["pkts"].as_u64()).flatten(),
    };
    all.iter().filter_map(of).sum()
}

/// An ARP request of 10.3.0.2 for this address.
fn who_has(address: [u8; 4]) -> Vec<u8> {
    let sender = [2, 0, 0, 0, 9, 9];
    let mut frame = [[0xff; 6], sender].concat();
    frame.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(sender);
    frame.extend([10, 3, 0, 2, 0, 0, 0, 0, 0, 0]);
    frame.extend(address);
    frame.resize(60, 0);
    frame
}

#[test]
fn an_interface_that_vanishes_is_told_of_and_taken_up_again() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = line()?;
    let add = |mac: &str| {
        line.middle.exec("ip", ["link", "add", "spare", "address", mac, "type", "veth", "peer", "name", "other"])?;
        line.middle.exec("ip", ["link", "set", "spare", "up"])?;
        line.middle.exec("ip", ["link", "set", "other", "up"])
    };
    add("02:00:00:00:03:01")?;
    let manifest = Line::manifest(&[Line::ROUTER])
        .replace("  lan: { xdp: lan }\n", "  lan: { xdp: lan }\n  spare: { xdp: spare }\n")
        + "  aside: { ports: [spare], functions: [monitor, { l3-router: { placement: inline, config: { addresses: [{ address: 10.3.0.1/24, port: spare }] } } }] }\nsteering:\n  spare: [{ vlan: 7, to: drop }, { to: aside }]\n";
    let run = Runtime::start(&line.middle, &manifest)?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    line.middle.exec("ip", ["link", "delete", "spare"])?;
    let gone = |status: &RunStatus| status.port("spare")["kind"] == "gone";
    let status = run.wait_for("the loss", SOON, gone)?;
    assert_eq!(status.port("spare")["trouble"], "its interface `spare` is gone");
    assert!(run.log().contains("port `spare`: its interface `spare` is gone"), "{}", run.log());
    line.client.exec("ping", ["-c", "3", "-i", "0.05", "-W", "2", "10.2.0.2"])?;
    assert_eq!(run.status()?.buffers_astray(), 0, "the buffers of its sockets are back");

    add("02:00:00:00:03:01")?;
    let status = run.wait_for("its return", SOON, |status| !gone(status))?;
    assert_eq!((&status.port("spare")["restarts"], status.restarts("monitor")), (&Value::from(1), 0));
    let frame = random_frame(3, [0xff; 6], [2, 0, 0, 0, 9, 9]);
    let socket = RawSocket::open(&line.middle, "other")?;
    run.wait_for("packets", SOON, |status| {
        socket.send(&frame);
        status.port_count("spare", "received_pkts") > 3
    })?;

    // What a rule decided about that is no more stays known, whatever becomes of the program that counted it.
    let without = manifest.replace("{ vlan: 7, to: drop }, ", "");
    let of_rule = |status: &RunStatus, wanted: u64| counted(status, "spare", "rules", "#1") >= wanted;
    let mut tagged = who_has([10, 3, 0, 1]);
    tagged.splice(12..12, [0x81, 0, 0, 7]);
    run.wait_for("packets of the rule", SOON, |status| socket.send(&tagged) && of_rule(status, 3))?;
    let dropped = counted(&run.status()?, "spare", "rules", "#1");
    assert_eq!(run.apply(&without)?.stdout, "changed steering of spare\n");
    let status = run.status()?;
    assert!(counted(&status, "spare", "irregular", "rules-gone") >= dropped, "{:#}", status.port("spare")["steering"]);

    // With another address, which functions must not take for the old one.
    line.middle.exec("ip", ["link", "delete", "spare"])?;
    let status = run.wait_for("the loss", SOON, gone)?;
    assert!(counted(&status, "spare", "irregular", "rules-gone") >= dropped, "{:#}", status.port("spare")["steering"]);
    add("02:00:00:00:03:07")?;
    let status =
        run.wait_for("new functions", SOON, |status| status.restarts("monitor") == 1 && status.is_running())?;
    let trouble = status.port("spare")["trouble"].as_str().unwrap_or_default();
    assert!(trouble.contains("02:00:00:00:03:07") && trouble.contains("instead of 02:00:00:00:03:01"), "{trouble}");
    let (socket, asked) = (RawSocket::open(&line.middle, "other")?, who_has([10, 3, 0, 1]));
    wait_until("an answer from the new address", SOON, || {
        socket.send(&asked);
        socket.receive_incoming().is_some_and(|frame| frame[6..14] == [2, 0, 0, 0, 3, 7, 8, 6])
    })?;
    run.stop()?;
    Ok(())
}
