//! Functions of chains of requests that die or hang under load.

use std::time::{Duration, Instant};

use middlenet_tests::{Asks, Conversation, Echo, Error, Load, RunStatus, Runtime, Web, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);
/// Clients of a load; none has more than one request under way.
const CLIENTS: usize = 32;

fn send(signal: Signal, pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process of the run takes a signal");
}

fn replaced(status: &RunStatus, function: &str, pid: u32) -> bool {
    status.serves_requests() && status.pid(function).is_some_and(|now| now != pid)
}

/// Kills each function of the chain once under load.
fn death_under_load(hop: &str, on_failure: &str) -> Result<(), Error> {
    let web = Web::new()?;
    let functions = [Web::PROXY, Web::REWRITE, Web::EDIT].map(|entry| Web::entry(entry, on_failure));
    let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
    let run = Runtime::start(&web.host, &Web::manifest(&Web::processes(hop), &functions))?;
    let skip = on_failure == "bypass";
    // What a dead rewriter or editor lets pass is not as it would be otherwise: then only the proxy's path is looked at.
    let asks = match skip {
        true => Asks { body_bytes: 20_000, ..Asks::PLAIN },
        false => Asks { header: Some(("x-chain", "web")), body_bytes: 20_000, ..Asks::REWRITTEN },
    };
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, asks)?;
    load.wait_for(500, SOON)?;
    let broker = run.status()?.broker_pid();
    for function in ["reverse-proxy", "url-rewrite", "header-edit"] {
        let pid = run.status()?.pid(function).expect("the function runs");
        let (began, failed) = (Instant::now(), load.seen().failed());
        send(Signal::SIGKILL, pid);
        run.wait_for("another process", SOON, |status| replaced(status, function, pid))?;
        let back = began.elapsed();
        load.wait_for(500, SOON)?;
        let failed = load.seen().failed() - failed;
        println!("{hop} {on_failure} {function}: back after {back:?}, {failed} requests failed");
    }
    let seen = load.stop();
    println!("{hop} {on_failure}: {seen:?}");
    assert_eq!((&seen.wrong, seen.hung, seen.cut), (&vec![], 0, 0), "{seen:?}");
    let status = run.wait_for_requests_to_rest()?;
    assert_eq!(status.broker_pid(), broker, "the broker lives on");
    let account = status.account("web");
    assert_eq!((account.received, account.answered, account.failed), (seen.asked, seen.fine, seen.failed()));
    match on_failure {
        "retry" => assert_eq!(seen.failed(), 0, "what was lost is tried once more: {seen:?}"),
        // While the proxy is dead and skipped, nobody says where a request is to go.
        "bypass" => assert!(seen.refused.keys().all(|status| *status == 503), "{seen:?}"),
        _ => assert!(seen.refused.keys().all(|status| matches!(status, 502 | 503)), "{seen:?}"),
    }
    run.stop_requests()?;
    Ok(())
}

#[test]
fn a_function_on_skmsg_dies_and_nothing_is_lost() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("skmsg", "retry")
}

#[test]
fn a_function_on_a_ring_dies_and_nothing_is_lost() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("ring", "retry")
}

#[test]
fn a_function_on_skmsg_dies_and_its_requests_fail() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("skmsg", "drop")
}

#[test]
fn a_function_on_a_ring_dies_and_its_requests_fail() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("ring", "drop")
}

#[test]
fn a_function_on_skmsg_dies_and_is_skipped() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("skmsg", "bypass")
}

#[test]
fn a_function_on_a_ring_dies_and_is_skipped() -> Result<(), Error> {
    require_root!(Ok(()));
    death_under_load("ring", "bypass")
}

/// A function that takes messages and never answers: 504 in time, and the supervisor sees to it that another takes its place.
fn hang_under_load(hop: &str) -> Result<(), Error> {
    let web = Web::new()?;
    let how = format!("{}    timeouts: {{ function_ms: 500 }}\n", Web::processes(hop));
    let run = Runtime::start(
        &web.host,
        &format!("heartbeat_ms: 4000\n{}", Web::manifest(&how, &[Web::PROXY, Web::REWRITE])),
    )?;
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
    load.wait_for(500, SOON)?;
    let pid = run.status()?.pid("url-rewrite").expect("the function runs");
    let began = Instant::now();
    send(Signal::SIGSTOP, pid);
    let status = run.wait_for("another process", SOON, |status| replaced(status, "url-rewrite", pid))?;
    println!("{hop}: hung function replaced after {:?}", began.elapsed());
    let reason = status.instances("url-rewrite")[0]["process"]["last_exit"].as_str().unwrap_or_default().to_owned();
    assert!(reason.contains("no sign of life"), "{reason}");
    load.wait_for(500, SOON)?;
    let seen = load.stop();
    println!("{hop}: {seen:?}");
    assert_eq!((&seen.wrong, seen.hung, seen.cut), (&vec![], 0, 0), "{seen:?}");
    assert!(seen.refused.contains_key(&504), "{seen:?}");
    assert!(seen.refused.keys().all(|status| matches!(status, 503 | 504)), "{seen:?}");
    assert!(seen.slowest < Duration::from_secs(6), "{seen:?}");
    let status = run.wait_for_requests_to_rest()?;
    assert!(
        status.hop_reason("reverse-proxy", "failed", "timeout") + status.hop_reason("url-rewrite", "failed", "timeout")
            > 0
    );
    run.stop_requests()?;
    Ok(())
}

#[test]
fn a_function_on_skmsg_hangs() -> Result<(), Error> {
    require_root!(Ok(()));
    hang_under_load("skmsg")
}

#[test]
fn a_function_on_a_ring_hangs() -> Result<(), Error> {
    require_root!(Ok(()));
    hang_under_load("ring")
}

/// Functions decide where a TCP connection goes; what they have decided outlives them.
#[test]
fn tcp_connections_outlive_their_function() -> Result<(), Error> {
    require_root!(Ok(()));
    for hop in ["skmsg", "ring"] {
        let web = Web::new()?;
        let _echo = Echo::start(&web.host, "127.0.0.1:9003")?;
        let how = format!("    protocol: tcp\n{}", Web::processes(hop));
        let run = Runtime::start(&web.host, &Web::manifest(&how, &["tcp-proxy: { upstreams: ['127.0.0.1:9003'] }"]))?;
        let mut first = Conversation::tcp(&web.host, Web::ADDRESS, SOON)?;
        first.say(b"before", SOON)?;
        for _ in 0..3 {
            let pid = run.wait_for("a process", SOON, RunStatus::serves_requests)?.pid("tcp-proxy").expect("it runs");
            send(Signal::SIGKILL, pid);
            first.say(b"meanwhile", SOON)?;
            // It waits for the next process.
            let mut second = Conversation::tcp(&web.host, Web::ADDRESS, SOON)?;
            second.say(b"after", SOON)?;
            run.wait_for("another process", SOON, |status| replaced(status, "tcp-proxy", pid))?;
            first.say(b"after", SOON)?;
        }
        drop(first);
        let account = run.wait_for_requests_to_rest()?.account("web");
        assert_eq!((account.received, account.answered), (4, 4), "{account:?}");
        run.stop_requests()?;
    }
    Ok(())
}
