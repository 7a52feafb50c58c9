//! Functions and managers that die or hang while traffic flows.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use middlenet_tests::{Conversation, Echo, Error, Line, Process, RunStatus, Runtime, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);

fn send(signal: Signal, pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process of the run takes a signal");
}

/// Wants everybody at work, and `function` as another process than `pid`.
fn replaced(status: &RunStatus, function: &str, pid: u32) -> bool {
    status.is_running() && status.pid(function).is_some_and(|now| now != pid)
}

/// An iperf3 server, and a client that sends for `seconds`.
fn load(line: &Line, seconds: u32) -> Result<(Process, Process), Error> {
    let mut server = line.server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    server.wait_for_output("Server listening", SOON)?;
    let client = line.client.spawn("iperf3", ["-c", "10.2.0.2", "-t", &seconds.to_string(), "-J"])?;
    Ok((server, client))
}

fn death_under_load(on_failure: &str) -> Result<(), Error> {
    let line = Line::new()?;
    let monitor = format!("monitor: {{ config: {{}}, on_failure: {on_failure} }}");
    let run = Runtime::start(&line.middle, &Line::manifest(&[Line::ROUTER, &monitor]))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _echo = Echo::start(&line.server, "10.2.0.2:7000")?;
    let mut conversation = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    conversation.say(b"before", SOON)?;

    let (_server, client) = load(&line, 10)?;
    let busy = |status: &RunStatus| status.hop_count("monitor", "in_pkts") > 2000;
    let mut status = run.wait_for("traffic", SOON, busy)?;
    for death in 1..=3u64 {
        let pid = status.pid("monitor").expect("the monitor runs");
        send(Signal::SIGKILL, pid);
        status =
            run.wait_for("another monitor", SOON, |s| replaced(s, "monitor", pid) && s.restarts("monitor") >= death)?;
        let passed = status.hop_count("monitor", "in_pkts");
        status = run.wait_for("traffic again", SOON, |s| s.hop_count("monitor", "in_pkts") > passed + 500)?;
    }
    let output = client.wait(SOON)?;
    assert!(output.status.success(), "iperf3 lost its connection: {}", output.stdout);
    conversation.say(b"after", SOON)?;

    let status = run.wait_for_rest()?;
    assert_eq!(status.restarts("monitor"), 3);
    assert_eq!(status.restarts("l3-router"), 0);
    let (down, bypassed) = (status.dropped("monitor", "function-down"), status.hop_count("monitor", "bypassed_pkts"));
    match on_failure {
        "bypass" => assert_eq!(down, 0, "packets skip a dead function that may be skipped"),
        _ => assert_eq!(bypassed, 0, "no packet skips a function that must be passed"),
    }
    run.stop()?;
    Ok(())
}

#[test]
fn a_function_dies_under_load_and_its_packets_are_dropped_meanwhile() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("drop")
}

#[test]
fn a_function_dies_under_load_and_its_packets_pass_meanwhile() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("bypass")
}

/// As fast as it can be killed: the waits between restarts grow, so it is killed the moment it is there.
#[test]
fn buffers_come_back_from_thirty_deaths() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    // Many replicas, so that thirty deaths do not wait for one growing pause.
    let monitor = "monitor: { config: {}, replicas: 6, on_failure: drop }";
    let run = Runtime::start(
        &line.middle,
        &format!("memory: {{ buffers: 8192 }}\n{}", Line::manifest(&[Line::ROUTER, monitor])),
    )?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    // From many ports, so that every replica has some.
    let flood = "while ping -n -q -f -c 500 -W 1 10.2.0.2 >/dev/null || true; do :; done";
    let pings = line.client.spawn("sh", ["-c", flood])?;
    let mut killed = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(60);
    while killed.len() < 30 {
        assert!(Instant::now() < end, "only {} of 30 deaths in 60 s; the log:\n{}", killed.len(), run.log());
        let status = run.status()?;
        let instances = status.instances("monitor");
        let running = instances.iter().filter(|instance| instance["process"]["state"] == "running");
        let pids = running.filter_map(|instance| instance["process"]["pid"].as_u64()?.try_into().ok());
        // One whose death has not been noticed yet does not die again.
        let fresh: Vec<u32> = pids.filter(|pid| !killed.contains(pid)).take(30 - killed.len()).collect();
        for pid in fresh {
            send(Signal::SIGKILL, pid);
            killed.insert(pid);
        }
    }
    let status =
        run.wait_for("everybody back", Duration::from_secs(30), |s| s.is_running() && s.restarts("monitor") >= 30)?;
    assert_eq!(status.restarts("monitor"), 30);
    drop(pings);
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    run.stop()?;
    Ok(())
}

#[test]
fn a_function_that_stops_answering_is_replaced() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(
        &line.middle,
        &format!("heartbeat_ms: 4000\n{}", Line::manifest(&["firewall: { default: allow }", Line::ROUTER])),
    )?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let status = run.status()?;
    let pid = status.pid("firewall").expect("the firewall runs");
    send(Signal::SIGSTOP, pid);
    let status = run.wait_for("another firewall", SOON, |s| replaced(s, "firewall", pid))?;
    assert_eq!((status.restarts("firewall"), status.restarts("l3-router")), (1, 0));
    let reason = status.instances("firewall")[0]["process"]["last_exit"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("no sign of life"), "{reason}");
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    run.stop()?;
    Ok(())
}

/// The manager's death costs the packets in flight and nothing else: functions live on and keep their tables.
#[test]
fn connections_survive_the_death_of_the_manager() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    // After a death of the firewall the connection would be refused: its tables go with its process.
    let firewall = "firewall: { default: drop, tcp_loose: false, rules: [
          { proto: icmp, allow: true }, { direction: forward, proto: tcp, dst_port: 7000, allow: true } ] }";
    let run = Runtime::start(&line.middle, &Line::manifest(&[firewall, Line::ROUTER]))?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let _echo = Echo::start(&line.server, "10.2.0.2:7000")?;
    let mut conversation = Conversation::tcp(&line.client, "10.2.0.2:7000", SOON)?;
    conversation.say(b"before", SOON)?;
    for _ in 0..2 {
        let before = run.status()?;
        let manager = before.manager_pid().expect("a manager runs");
        send(Signal::SIGKILL, manager);
        let after = run.wait_for("another manager", SOON, |s| s.is_running() && s.manager_pid() != Some(manager))?;
        for function in ["firewall", "l3-router"] {
            assert_eq!(after.pid(function), before.pid(function), "{function} lives on");
        }
        conversation.say(b"after", SOON)?;
    }
    let status = run.status()?;
    assert_eq!(status.0["manager"]["restarts"], 2);
    assert_eq!(status.counter("firewall", "invalid"), 0);
    run.stop()?;
    Ok(())
}
