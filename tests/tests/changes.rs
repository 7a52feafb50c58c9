//! Changes to a run while traffic flows.

use std::time::Duration;

use middlenet_tests::{Conversation, Echo, Error, Line, Runtime, require_root};

const SOON: Duration = Duration::from_secs(20);

fn manifest(ports: &str) -> String {
    let firewall = format!(
        "firewall: {{ default: drop, rules: [
          {{ proto: icmp, allow: true }}, {{ direction: forward, dst_port: {ports}, allow: true }} ] }}"
    );
    Line::manifest(&[&firewall, Line::ROUTER, "monitor"])
}

#[test]
fn a_new_rule_counts_at_once_and_established_connections_stay() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(&line.middle, &manifest("7000"))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _echo = [Echo::start(&line.server, "10.2.0.2:7000")?, Echo::start(&line.server, "10.2.0.2:7001")?];
    let mut old = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    old.say(b"before", SOON)?;
    assert!(Conversation::tcp(&line.client, "10.2.0.2:7001", Duration::from_millis(300)).is_err());
    let pids = run.status()?.pids();

    let output = run.apply(&manifest("7001"))?;
    assert!(output.status.success(), "{}", output.stderr);
    assert_eq!(output.stdout, "changed transit/firewall\n");
    Conversation::tcp(&line.client, "10.2.0.2:7001", SOON)?.say(b"the new port", SOON)?;
    assert!(Conversation::tcp(&line.client, "10.2.0.2:7000", Duration::from_millis(300)).is_err());
    old.say(b"after", SOON)?;
    assert_eq!(run.status()?.pids(), pids, "no process was replaced");

    let output = run.apply(&manifest("7001"))?;
    assert_eq!((output.status.code(), output.stdout.as_str()), (Some(0), "nothing to change\n"));
    run.stop()?;
    Ok(())
}

#[test]
fn what_needs_a_restart_is_listed_and_nothing_changes() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(&line.middle, &manifest("7000"))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let pids = run.status()?.pids();
    // A hop less, and another rule with it: neither may be done.
    let next = manifest("7001").replace("      - monitor\n", "");
    let output = run.apply(&next)?;
    assert_eq!(output.status.code(), Some(1), "{}", output.stdout);
    assert!(output.stderr.contains("monitor") && output.stderr.contains("restart"), "{}", output.stderr);
    // One that cannot even be read.
    let output = run.apply(&manifest("seven"))?;
    assert_eq!(output.status.code(), Some(2), "{}", output.stderr);
    // One that only the function itself can judge.
    let output = run.apply(&manifest("7000").replace("10.1.0.1/24", "10.2.0.7/24"))?;
    assert!(!output.status.success(), "two ports with one network: {}", output.stdout);
    let status = run.status()?;
    assert_eq!(status.pids(), pids);
    let _echo = Echo::start(&line.server, "10.2.0.2:7000")?;
    Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?.say(b"as before", SOON)?;
    run.stop()?;
    Ok(())
}

#[test]
fn a_replacement_under_load_loses_no_packet() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(&line.middle, &Line::manifest(&[Line::ROUTER, "monitor"]))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let mut server = line.server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    server.wait_for_output("Server listening", SOON)?;
    let client = line.client.spawn("iperf3", ["-c", "10.2.0.2", "-t", "8", "-J"])?;
    let mut passed = 0;
    for _ in 0..3 {
        let status = run.wait_for("traffic", SOON, |status| status.hop_count("monitor", "in_pkts") > passed + 500)?;
        let pid = status.pid("monitor").expect("the monitor runs");
        let output = run.command(&["apply", "--replace", "transit/monitor", "--name", run.name()])?;
        assert!(output.status.success(), "{}", output.stderr);
        let status = run.status()?;
        let now = status.pid("monitor").expect("another monitor runs");
        assert_ne!(now, pid);
        assert!(output.stdout.contains(&now.to_string()), "{}", output.stdout);
        passed = status.hop_count("monitor", "in_pkts");
    }
    assert!(client.wait(SOON)?.status.success());
    let summary = run.stop()?;
    let lost: Vec<_> = summary.status.drops().into_iter().filter(|(place, ..)| place == "monitor").collect();
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(summary.status.restarts("monitor"), 0, "a replacement is no restart");
    assert_eq!(summary.status.hop_count("monitor", "in_pkts"), summary.status.hop_count("monitor", "out_pkts"));
    Ok(())
}

#[test]
fn who_is_not_there_cannot_be_replaced() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(
        &line.middle,
        &Line::manifest(&["monitor", "l3-router: { config: { resolve: false }, placement: inline }"]),
    )?;
    for target in ["transit/nobody", "nowhere/monitor", "monitor", "transit/l3-router"] {
        let output = run.command(&["apply", "--replace", target, "--name", run.name()])?;
        assert_eq!(output.status.code(), Some(1), "{target}: {}", output.stdout);
        assert!(output.stderr.starts_with("middlenet: "), "{target}: {}", output.stderr);
    }
    run.stop()?;
    Ok(())
}
