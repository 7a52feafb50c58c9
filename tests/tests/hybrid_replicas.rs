//! Several instances of a function share its fast path: replicas, and the workers that call an inline one.

use std::time::Duration;

use middlenet_tests::{By, Error, Line, Marked, RunStatus, Runtime, Sent, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(20);
const FLOWS: u16 = 60;

/// A line of two queues, whose hosts send nothing of their own.
fn quiet_line() -> Result<Line, Error> {
    let line = Line::with_queues(2)?;
    line.let_packets_leave_directly()?;
    for host in [&line.client, &line.server] {
        host.exec("sysctl", ["-qw", "net.ipv6.conf.all.disable_ipv6=1"])?;
    }
    Ok(line)
}

fn manifest(entry: &str) -> String {
    format!("cores: {{ manager: [0, 1] }}\n{}", Line::manifest(&[entry]))
}

fn marker(config: &str, replicas: u16, mode: &str) -> String {
    let run = env!("CARGO_BIN_EXE_middlenet-test-marker");
    format!("a: {{ run: {run}, config: {{ field: src{config} }}, replicas: {replicas}, mode: {mode} }}")
}

fn flow(number: u16) -> Sent {
    Sent { src_port: 2000 + number, ..Sent::to_port(7777) }
}

/// One of the counters of each instance.
fn by_instance(status: &RunStatus, function: &str, counter: &str) -> Vec<u64> {
    let of = |instance: &&Value| -> u64 {
        let counters = instance["counters"].as_array().into_iter().flatten();
        counters.filter(|c| c["name"] == counter).filter_map(|c| c["value"].as_u64()).sum()
    };
    status.instances(function).iter().map(of).collect()
}

/// Sends one packet of each of these flows, each of which is to be dealt with once, by this one.
fn assert_dealt_with(packets: &mut Marked, flows: std::ops::Range<u16>, by: By, reverse: bool, when: &str) {
    for number in flows {
        let arrived = packets.send(&flow(number), reverse).unwrap_or_else(|| panic!("flow {number} is lost {when}"));
        assert_eq!((arrived.marks[1], arrived.functions), (by, 1), "flow {number} {when}");
    }
}

fn kill_instance(run: &Runtime, instance: usize) -> Result<u64, Error> {
    let status = run.status()?;
    let pid = status.instances("a")[instance]["process"]["pid"].as_u64().expect("it has a process");
    kill(Pid::from_raw(pid as i32), Signal::SIGKILL).expect("the function is the test's own");
    Ok(status.restarts("a"))
}

fn wait_for_restart(run: &Runtime, before: u64) -> Result<(), Error> {
    run.wait_for("its return", SOON, |status| status.is_running() && status.restarts("a") > before).map(drop)
}

#[test]
fn replicas_share_a_fast_path_and_a_death_of_one_does_not_hurt_the_others() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let mut packets = Marked::on(&line)?;
    let run = Runtime::start(&line.middle, &manifest(&marker("", 3, "reactive")))?;
    assert_dealt_with(&mut packets, 0..FLOWS, By::Function, false, "at first");
    assert_dealt_with(&mut packets, 0..FLOWS, By::FastPath, false, "afterwards");
    let status =
        run.wait_for("all flows", SOON, |s| by_instance(s, "a", "fast_installed").iter().sum::<u64>() == 60)?;
    let installed = by_instance(&status, "a", "fast_installed");
    assert!(installed.len() == 3 && installed.iter().all(|n| *n > 0), "{installed:?}");
    run.wait_for("the same counts of packets", SOON, |s| by_instance(s, "a", "seen") == installed)?;
    let workers = status.0["data_plane"]["workers"].as_array().cloned().unwrap_or_default();
    assert!(workers.len() == 2 && workers.iter().all(|w| w["busy_turns"].as_u64() > Some(0)), "{workers:#?}");

    for victim in 0..3 {
        let restarts = kill_instance(&run, victim)?;
        // While it is down, and when it is back.
        assert_dealt_with(&mut packets, 0..FLOWS, By::FastPath, false, "while one is down");
        wait_for_restart(&run, restarts)?;
        assert_dealt_with(&mut packets, 0..FLOWS, By::FastPath, false, "when it is back");
    }
    // All three know what to do with new flows.
    assert_dealt_with(&mut packets, FLOWS..2 * FLOWS, By::Function, false, "of new ones");
    assert_dealt_with(&mut packets, FLOWS..2 * FLOWS, By::FastPath, false, "of new ones");
    let status =
        run.wait_for("the new flows", SOON, |s| by_instance(s, "a", "fast_installed").iter().all(|n| *n > 0))?;
    assert_eq!(status.fast("a", "hits"), u64::from(FLOWS) * 8);
    assert_eq!(status.left("a", "slow", "miss"), u64::from(FLOWS) * 2);
    run.wait_for_rest()?.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}

/// Rules are written by the first instance; they are there whichever of them dies, and are not counted twice.
#[test]
fn rules_of_a_function_with_replicas_outlast_each_of_them() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let mut packets = Marked::on(&line)?;
    let run = Runtime::start(&line.middle, &manifest(&marker(", by: dst-port", 2, "proactive")))?;
    assert_dealt_with(&mut packets, 0..FLOWS, By::FastPath, false, "at first");
    for victim in [0, 1, 0] {
        let restarts = kill_instance(&run, victim)?;
        assert_dealt_with(&mut packets, 0..FLOWS, By::FastPath, false, "while one is down");
        wait_for_restart(&run, restarts)?;
        assert_dealt_with(&mut packets, 0..FLOWS, By::FastPath, false, "when it is back");
    }
    // The other configuration counts for all of them.
    let output = run.apply(&manifest(&marker(", by: src-port", 2, "proactive")))?;
    assert_eq!(output.stdout, "changed transit/a\n", "{}", output.stderr);
    assert_dealt_with(&mut packets, 0..FLOWS, By::Function, false, "by another rule");
    let known = Sent { src_port: 6666, ..Sent::to_port(1) };
    assert_eq!(packets.send(&known, false).expect("it arrives").marks[1], By::FastPath);
    let status = run.wait_for("the counts", SOON, |s| s.counter("a", "seen") == u64::from(FLOWS))?;
    assert_eq!(status.fast("a", "hits"), u64::from(FLOWS) * 7 + 1);
    run.wait_for_rest()?.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}

/// Each worker calls an instance of its own of an inline function.
#[test]
fn the_workers_of_an_inline_function_share_its_fast_path() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = quiet_line()?;
    let mut packets = Marked::on(&line)?;
    let entry = "flow-stats: { config: { top: 256 }, placement: inline, mode: reactive }";
    let run = Runtime::start(&line.middle, &manifest(entry))?;
    for _ in 0..4 {
        for number in 0..FLOWS {
            assert_eq!(packets.send(&flow(number), false).expect("it arrives").functions, 0);
        }
    }
    let all = u64::from(FLOWS) * 4;
    // Each tells the manager what it counted.
    let by_worker = |status: &RunStatus, counter: &str| -> Vec<u64> {
        let of = |instance: &Value| -> u64 {
            let counters = instance["counters"].as_array().into_iter().flatten();
            counters.filter(|c| c[0]["name"] == counter).filter_map(|c| c[1].as_u64()).sum()
        };
        status.hop("flow-stats")["instances"].as_array().into_iter().flatten().map(of).collect()
    };
    let status = run.wait_for("all packets", SOON, |s| {
        let seen = by_worker(s, "udp").iter().sum::<u64>() + s.fast("flow-stats", "hits");
        seen == all && by_worker(s, "flows").iter().sum::<u64>() == u64::from(FLOWS)
    })?;
    let installed = by_worker(&status, "fast_installed");
    assert_eq!(installed.iter().sum::<u64>(), u64::from(FLOWS), "{installed:?}");
    assert!(installed.len() == 2 && installed.iter().all(|n| *n > 0), "{installed:?}");
    assert_eq!(status.fast("flow-stats", "hits"), u64::from(FLOWS) * 3);
    // The function as a whole: what both counted, and the reports of both.
    let whole = status.instances("flow-stats");
    assert_eq!(whole.len(), 1, "{whole:#?}");
    assert_eq!(status.counter("flow-stats", "fast_installed"), u64::from(FLOWS));
    assert_eq!(status.counter("flow-stats", "flows"), u64::from(FLOWS));
    assert_eq!(by_worker(&status, "udp").iter().sum::<u64>(), status.counter("flow-stats", "udp"));
    assert_eq!(whole[0]["cores"], json!([0, 1]));
    let reports = whole[0]["report"].as_array().expect("one of each worker");
    let shown = |report: &Value| report["top_flows"].as_array().map_or(0, Vec::len);
    let shown: Vec<usize> = reports.iter().map(shown).collect();
    assert!(shown.len() == 2 && shown.iter().sum::<usize>() == usize::from(FLOWS), "{shown:?} {reports:#?}");
    run.wait_for_rest()?.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}
