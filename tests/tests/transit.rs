//! Traffic of two hosts through a firewall, a router and a monitor over XDP ports.

use std::time::Duration;

use middlenet_tests::{Conversation, Echo, Error, Line, Runtime, require_root, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);

const FIREWALL: &str = "firewall: { default: drop, rules: [
          { proto: icmp, allow: true }, { proto: icmpv6, allow: true },
          { proto: tcp, dst_port: [7000, 5201], allow: true }, { proto: udp, dst_port: 7000, allow: true } ] }";

fn transit() -> String {
    Line::manifest(&[FIREWALL, Line::ROUTER, "monitor"])
}

fn is_alive(pid: u32) -> bool {
    std::path::Path::new("/proc").join(pid.to_string()).exists()
}

#[test]
fn ping_tcp_and_udp_pass_and_a_closed_port_is_counted() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let before = line.interfaces()?;
    let _open = [Echo::start(&line.server, "10.2.0.2:7000")?, Echo::start(&line.server, "[fd02::2]:7000")?];
    let _closed = Echo::start(&line.server, "10.2.0.2:7001")?;
    let run = Runtime::start(&line.middle, &transit())?;
    assert_ne!(line.interfaces()?, before, "an XDP program shows while the run goes on");

    for address in ["10.2.0.2", "fd02::2", "10.1.0.1", "fd01::1"] {
        line.client.exec("ping", ["-n", "-c", "5", "-i", "0.05", "-W", "5", address])?;
    }
    line.server.exec("ping", ["-n", "-c", "5", "-i", "0.05", "-W", "5", "10.1.0.2"])?;
    let text: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    for server in ["10.2.0.2:7000", "[fd02::2]:7000"] {
        Conversation::tcp(&line.client, server, SOON)?.say(&text, SOON)?;
        Conversation::udp(&line.client, server)?.say(b"hello over UDP", SOON)?;
    }
    let denied_before = run.status()?.dropped("firewall", "denied");
    let refused = Conversation::tcp(&line.client, "10.2.0.2:7001", Duration::from_millis(500));
    assert!(refused.is_err(), "the firewall lets port 7001 pass");
    let silent = Conversation::udp(&line.client, "10.2.0.2:7001")?.say(b"anybody?", Duration::from_millis(500));
    assert!(silent.is_err(), "the firewall lets UDP to port 7001 pass");

    let status = run.wait_for_rest()?;
    let denied = status.dropped("firewall", "denied") - denied_before;
    // A SYN and a datagram at least; how many more depends on how busy the host is.
    assert!((2..20).contains(&denied), "{denied} packets denied: {:?}", status.drops());
    assert_eq!(status.counter("firewall", "denied"), status.dropped("firewall", "denied"));
    // Twice 300 kB each way.
    let bytes = |port: &str| status.port(port)["received_bytes"].as_u64().unwrap_or_default();
    assert!(bytes("wan") > 600_000 && bytes("lan") > 600_000, "{:#}", status.port("wan"));
    assert!(status.counter("monitor", "tcp") > 0 && status.counter("monitor", "udp") >= 4);
    assert!(status.counter("l3-router", "echo-replies") >= 10);
    assert!(status.counter("firewall", "connections") > 0);

    let summary = run.stop()?;
    assert!(summary.conservation.sent > 400, "{:?}", summary.conservation);
    assert_eq!(line.interfaces()?, before, "the interfaces are as they were found");
    Ok(())
}

/// Whatever a function makes passes other functions like any packet: it is counted once, and does not stay behind.
#[test]
fn packets_that_a_function_makes_pass_the_others_and_leave_nothing_behind() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let router = Line::ROUTER.replace("addresses:", "icmp_errors_per_s: 1000000, addresses:");
    let run = Runtime::start(
        &line.middle,
        // A ring shorter than the number of errors: were they to stay in the chain, it would fill up.
        &format!("ring_slots: 128\n{}", Line::manifest(&["firewall: { default: allow }", &router, "monitor"])),
    )?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let before = run.wait_for_rest()?;
    // They expire at the router, whose answers pass the firewall.
    let expiring = ["-n", "-q", "-i", "0.005", "-c", "400", "-t", "1", "-W", "1", "10.2.0.2"];
    assert!(line.client.exec("ping", expiring).is_err(), "nothing is answered by the host itself");
    let status = run.wait_for_rest()?;
    let more = |counter| status.counter("l3-router", counter) - before.counter("l3-router", counter);
    let errors = more("icmp-errors");
    assert_eq!(errors + more("icmp-errors-withheld"), 400);
    assert!(errors > 200, "only {errors} of 400 were told");
    let made = status.hop_count("l3-router", "originated_pkts") - before.hop_count("l3-router", "originated_pkts");
    assert!(made >= errors, "{made} packets made for {errors} errors");
    for function in ["firewall", "monitor"] {
        assert_eq!(status.hop_count(function, "originated_pkts"), 0, "{function} makes no packets");
    }
    line.client.exec("ping", ["-n", "-c", "3", "-i", "0.05", "-W", "5", "10.2.0.2"])?;
    run.stop()?;
    Ok(())
}

#[test]
fn iperf_through_the_chain_arrives_whole() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let run = Runtime::start(&line.middle, &transit())?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let mut server = line.server.spawn("iperf3", ["-s", "-1", "--forceflush"])?;
    server.wait_for_output("Server listening", SOON)?;
    let output = line.client.exec("iperf3", ["-c", "10.2.0.2", "-t", "2", "-J"])?.stdout;
    let report: serde_json::Value = serde_json::from_str(&output).expect("iperf3 -J prints JSON");
    let megabits = report["end"]["sum_received"]["bits_per_second"].as_f64().unwrap_or_default() / 1e6;
    assert!(megabits > 20.0, "{megabits} Mb/s: the chain stalls");
    let summary = run.stop()?;
    let received = report["end"]["sum_received"]["bytes"].as_u64().unwrap_or_default();
    let sent = summary.status.port("lan")["sent_bytes"].as_u64().unwrap_or_default();
    assert!(sent > received, "{sent} bytes left by lan, and {received} arrived");
    Ok(())
}

/// Ends the run's supervisor or its manager by a signal that it cannot catch.
fn nothing_is_left_after_a_kill_of(victim: &str) -> Result<(), Error> {
    let line = Line::new()?;
    let before = line.interfaces()?;
    let mut run = Runtime::start(&line.middle, &transit())?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    let status = run.wait_for("all processes", SOON, |status| status.pids().len() == 5)?;
    match victim {
        "supervisor" => {
            run.end_with(Signal::SIGKILL)?;
        }
        _ => {
            let pid = status.manager_pid().expect("a manager runs");
            kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("the manager can be killed");
            run.wait_for("another manager", SOON, |s| s.is_running() && s.manager_pid() != Some(pid))?;
            line.client.wait_for_ping("10.2.0.2", SOON)?;
            run.stop()?;
        }
    }
    wait_until("the end of every process", SOON, || !status.pids().into_iter().any(is_alive))?;
    wait_until("interfaces as they were", SOON, || line.interfaces().is_ok_and(|now| now == before))?;
    // And the name is free again.
    let run = Runtime::start(&line.middle, &transit())?;
    line.client.wait_for_ping("10.2.0.2", SOON)?;
    run.stop()?;
    Ok(())
}

#[test]
fn nothing_is_left_after_a_kill_of_the_supervisor() -> Result<(), Error> {
    require_root!(Ok(()));
    nothing_is_left_after_a_kill_of("supervisor")
}

#[test]
fn nothing_is_left_after_a_kill_of_the_manager() -> Result<(), Error> {
    require_root!(Ok(()));
    nothing_is_left_after_a_kill_of("manager")
}
