//! Brokers, supervisors and backends that die under load.

use std::time::{Duration, Instant};

use middlenet_tests::{Asks, Backend, Error, Load, Runtime, Web, require_root, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);
const CLIENTS: usize = 32;

fn send(signal: Signal, pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process of the run takes a signal");
}

/// The broker's death costs the connections it had; functions live on, listeners are back.
#[test]
fn the_broker_dies_and_comes_back() -> Result<(), Error> {
    require_root!(Ok(()));
    for hop in ["skmsg", "ring"] {
        let web = Web::new()?;
        let manifest = Web::manifest(&Web::processes(hop), &[Web::PROXY, Web::REWRITE, Web::EDIT]);
        let run = Runtime::start(&web.host, &manifest)?;
        let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
        load.wait_for(300, SOON)?;
        let functions = ["reverse-proxy", "url-rewrite", "header-edit"];
        for death in 1..=3 {
            let before = run.status()?;
            let broker = before.broker_pid().expect("a broker runs");
            let cut = load.seen().cut;
            let began = Instant::now();
            send(Signal::SIGKILL, broker);
            let after = run.wait_for("another broker", SOON, |s| {
                s.serves_requests() && s.broker_pid().is_some_and(|now| now != broker)
            })?;
            let back = began.elapsed();
            for function in functions {
                assert_eq!(after.pid(function), before.pid(function), "{function} lives on");
            }
            assert_eq!(after.0["broker"]["restarts"], death);
            load.wait_for(300, SOON)?;
            let cut = load.seen().cut - cut;
            println!("{hop}: broker back after {back:?}, {cut} connections cut");
            // The connection it had, and what was accepted by a listener that was about to go.
            assert!(cut <= 4 * CLIENTS as u64, "{cut} connections were cut by one death");
        }
        let seen = load.stop();
        assert_eq!((&seen.wrong, seen.hung, seen.refused.len()), (&vec![], 0, 0), "{seen:?}");
        run.stop_requests()?;
    }
    Ok(())
}

/// The ids of all BPF programs of the kernel with the broker's name.
fn programs() -> Vec<String> {
    let output = std::process::Command::new("bpftool").args(["prog", "show", "name", "skmsg_route"]).output();
    let text = output.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
    text.lines().filter(|line| line.contains("sk_msg")).map(str::to_owned).collect()
}

/// Nothing outlives the supervisor: no process, no listener, no program.
#[test]
fn the_supervisor_dies_and_leaves_nothing() -> Result<(), Error> {
    require_root!(Ok(()));
    let web = Web::new()?;
    let before = programs();
    let manifest = Web::manifest(&Web::processes("skmsg"), &[Web::PROXY, Web::REWRITE, Web::EDIT]);
    let mut run = Runtime::start(&web.host, &manifest)?;
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
    load.wait_for(300, SOON)?;
    let status = run.status()?;
    let mut pids = status.pids();
    pids.extend(status.broker_pid());
    assert!(pids.len() >= 5, "{pids:?}");
    run.end_with(Signal::SIGKILL)?;
    let alive = |pid: &u32| std::path::Path::new("/proc").join(pid.to_string()).exists();
    wait_until("the end of all processes", SOON, || !pids.iter().any(alive))?;
    let sockets = || web.host.exec("ss", ["-Hltn", "sport", "=", ":8080"]).map(|output| output.stdout);
    assert_eq!(sockets()?.trim(), "", "nobody listens");
    wait_until("the end of the programs", SOON, || programs().iter().all(|program| before.contains(program)))?;
    drop(load);
    // The same run can be started again.
    run.launch(&web.host)?;
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
    load.wait_for(300, SOON)?;
    assert_eq!(load.stop().failed(), 0);
    run.stop_requests()?;
    Ok(())
}

/// Of two backends one dies and comes back: what was idempotent went to the other.
#[test]
fn a_backend_dies_and_comes_back() -> Result<(), Error> {
    require_root!(Ok(()));
    for how in ["    placement: inline\n".to_owned(), Web::processes("skmsg")] {
        let mut web = Web::new()?;
        let health = "    upstream: { health: { fall: 3, eject_ms: 500 } }\n";
        let run = Runtime::start(
            &web.host,
            &Web::manifest(&format!("{how}{health}"), &[Web::PROXY, Web::REWRITE, Web::EDIT]),
        )?;
        let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
        load.wait_for(500, SOON)?;
        for _ in 0..3 {
            drop(web.backends.pop());
            load.wait_for(500, SOON)?;
            let status = run
                .wait_for("it is taken out", SOON, |s| s.upstream("127.0.0.1:9002")["ejections"].as_u64() > Some(0))?;
            let failed = load.seen();
            assert!(failed.cut <= CLIENTS as u64, "{failed:?}");
            assert!(status.upstream("127.0.0.1:9001")["healthy"].as_bool() == Some(true), "the other is fine");
            web.backends.push(Backend::start(&web.host, "127.0.0.1:9002")?);
            let before = web.backends[1].requests();
            wait_until("requests at the backend that is back", SOON, || web.backends[1].requests() > before + 50)?;
        }
        let seen = load.stop();
        println!("backend: {seen:?}");
        // A response that was cut half-way cannot be mended; none of these is so long, nor is any request not idempotent.
        assert_eq!((&seen.wrong, seen.hung, seen.failed()), (&vec![], 0, 0), "{seen:?}");
        let status = run.wait_for_requests_to_rest()?;
        let account = status.account("web");
        assert_eq!((account.received, account.answered), (seen.asked, seen.fine));
        assert!(status.request_chain("web")["retries"].as_u64() > Some(0));
        run.stop_requests()?;
    }
    Ok(())
}
