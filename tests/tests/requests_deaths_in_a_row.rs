//! Many deaths of functions under load cost nothing that lasts: no buffer, no descriptor, no memory.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use middlenet_tests::{Asks, Error, Load, Runtime, Web, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(30);
/// Supervised deaths; the pauses between restarts grow, so many replicas share them.
const DEATHS: usize = 60;

fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

fn own_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse().unwrap_or(0)
}

fn deaths_in_a_row(hop: &str) -> Result<(), Error> {
    let web = Web::new()?;
    let entry = |entry: &str| {
        let (name, config) = entry.split_once(": ").expect("an entry");
        format!("{name}: {{ config: {config}, replicas: 6 }}")
    };
    let functions = [entry(Web::PROXY), entry(Web::REWRITE)];
    let manifest = Web::manifest(&Web::processes(hop), &[&functions[0], &functions[1]]);
    let mut run = Runtime::start(&web.host, &manifest)?;
    let load = Load::start(&web.host, Web::ADDRESS, 16, Asks::REWRITTEN)?;
    load.wait_for(500, SOON)?;
    let supervisor = run.process().pid();
    let broker = run.status()?.broker_pid().expect("a broker runs");
    let sizes = |broker| (descriptors(broker), own_memory(broker), descriptors(supervisor));
    let before = sizes(broker);
    let mut killed = BTreeSet::new();
    let end = Instant::now() + Duration::from_secs(60);
    while killed.len() < DEATHS {
        assert!(Instant::now() < end, "only {} of {DEATHS} deaths; the log:\n{}", killed.len(), run.log());
        let status = run.status()?;
        for function in ["reverse-proxy", "url-rewrite"] {
            let instances = status.instances(function);
            let running = instances.iter().filter(|instance| instance["process"]["state"] == "running");
            let pids = running.filter_map(|instance| instance["process"]["pid"].as_u64()?.try_into().ok());
            // One replica always lives, so that there is a load all the time.
            let fresh: Vec<u32> = pids.skip(1).filter(|pid| !killed.contains(pid)).collect();
            for pid in fresh.into_iter().take(DEATHS - killed.len()) {
                kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).expect("a process of the run takes a signal");
                killed.insert(pid);
            }
        }
    }
    let all_back = |status: &middlenet_tests::RunStatus| {
        status.serves_requests() && status.restarts("reverse-proxy") + status.restarts("url-rewrite") >= DEATHS as u64
    };
    run.wait_for("everybody back", SOON, all_back)?;
    load.wait_for(500, SOON)?;
    let seen = load.stop();
    println!("{hop}: {seen:?}");
    assert_eq!((&seen.wrong, seen.hung, seen.cut), (&vec![], 0, 0), "{seen:?}");
    // Tried once more; who loses the second try as well is told so.
    let messages = &run.status()?.0["messages"];
    assert!(seen.refused.keys().all(|status| matches!(status, 502)), "{seen:?}, {messages:#}");
    let status = run.wait_for_requests_to_rest()?;
    assert_eq!(status.broker_pid(), Some(broker), "the broker lives on");
    let account = status.account("web");
    assert_eq!((account.received, account.answered, account.failed), (seen.asked, seen.fine, seen.failed()));
    let after = sizes(broker);
    println!("{hop}: descriptors and memory {before:?}, after {DEATHS} deaths {after:?}, failed {}", seen.failed());
    // Connections to backends come and go.
    assert!(after.0 <= before.0 + 40 && after.2 <= before.2 + 4, "descriptors: {before:?}, {after:?}");
    assert!(after.1 <= before.1 + 4096, "memory: {before:?}, {after:?}");
    run.stop_requests()?;
    Ok(())
}

#[test]
fn deaths_in_a_row_on_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    deaths_in_a_row("skmsg")
}

#[test]
fn deaths_in_a_row_on_rings() -> Result<(), Error> {
    require_root!(Ok(()));
    deaths_in_a_row("ring")
}
