//! Changes to chains of requests under load: none of them costs a request.

use std::os::unix::fs::FileExt;
use std::time::Duration;

use middlenet_tests::{Asks, Error, Load, Process, Runtime, Web, binary, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);
const CLIENTS: usize = 32;

fn send(signal: Signal, pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process of the run takes a signal");
}

/// A load that went well, to its end.
fn fine(load: Load, run: &Runtime) -> Result<(), Error> {
    let seen = load.stop();
    assert_eq!((seen.failed(), &seen.wrong), (0, &vec![]), "{seen:?}");
    assert!(seen.slowest < Duration::from_secs(4), "one waited until its time was almost up: {seen:?}");
    let account = run.wait_for_requests_to_rest()?.account("web");
    assert_eq!((account.received, account.answered), (seen.asked, seen.fine));
    Ok(())
}

fn changes(how: &str, placement: &str) -> Result<(), Error> {
    let web = Web::new()?;
    let edit = |value: u32| {
        format!(
            "header-edit: {{ response: [{{ set: {{ name: x-chain, value: web }} }}, {{ set: {{ name: x-turn, value: '{value}' }} }}] }}"
        )
    };
    let cores = if placement == "inline" { "cores: { broker: [0, 1] }\n" } else { "" };
    let manifest = |value: u32| Web::manifest(how, &[Web::PROXY, Web::REWRITE, &edit(value)]) + cores;
    let run = Runtime::start(&web.host, &manifest(0))?;
    let asks = Asks { header: Some(("x-chain", "web")), ..Asks::REWRITTEN };
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, asks)?;
    load.wait_for(300, SOON)?;
    for turn in 1..=5 {
        let output = run.apply(&manifest(turn))?;
        assert!(output.status.success(), "{} {}", output.stdout, output.stderr);
        load.wait_for(200, SOON)?;
    }
    if placement == "process" {
        for function in ["reverse-proxy", "url-rewrite", "header-edit"] {
            let pid = run.status()?.pid(function);
            let output = run.command(&["apply", "--replace", &format!("web/{function}"), "--name", run.name()])?;
            assert!(output.status.success(), "{} {}", output.stdout, output.stderr);
            assert_ne!(run.status()?.pid(function), pid, "{function} is another process");
            load.wait_for(200, SOON)?;
        }
    }
    fine(load, &run)?;
    let status = run.status()?;
    assert_eq!(status.restarts("url-rewrite"), 0);
    if placement == "inline" {
        // Each worker has an instance of its own, and together they have seen all.
        let hops = status.0["messages"]["hops"].as_array().into_iter().flatten();
        let instances = hops.filter(|hop| hop["name"] == "url-rewrite").filter_map(|hop| hop["instances"].as_array());
        let counts =
            instances.flatten().filter_map(|i| i["counters"].as_array()?.iter().find(|c| c[0]["name"] == "rewritten"));
        let counts: Vec<u64> = counts.filter_map(|counter| counter[1].as_u64()).collect();
        assert!(counts.len() == 2 && counts.iter().all(|n| *n > 0), "{counts:?}");
        assert_eq!(status.counter("url-rewrite", "rewritten"), status.account("web").received);
    }
    run.stop_requests()?;
    Ok(())
}

#[test]
fn changes_inline_lose_nothing() -> Result<(), Error> {
    require_root!(Ok(()));
    changes("    placement: inline\n", "inline")
}

#[test]
fn changes_on_skmsg_lose_nothing() -> Result<(), Error> {
    require_root!(Ok(()));
    changes(&Web::processes("skmsg"), "process")
}

#[test]
fn changes_on_rings_lose_nothing() -> Result<(), Error> {
    require_root!(Ok(()));
    changes(&Web::processes("ring"), "process")
}

#[test]
fn two_workers_and_replicas_share_the_load() -> Result<(), Error> {
    require_root!(Ok(()));
    for hop in ["skmsg", "ring"] {
        let web = Web::new()?;
        let rewrite = format!("url-rewrite: {{ config: {}, replicas: 2 }}", &Web::REWRITE["url-rewrite: ".len()..]);
        let manifest = Web::manifest(&Web::processes(hop), &[Web::PROXY, &rewrite, Web::EDIT]);
        let run = Runtime::start(&web.host, &format!("{manifest}cores: {{ broker: [0, 1], functions: [0, 1] }}\n"))?;
        let asks = Asks { header: Some(("x-chain", "web")), ..Asks::REWRITTEN };
        let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, asks)?;
        load.wait_for(1000, SOON)?;
        // Functions publish their counts ten times a second.
        let status = run.wait_for("work for both replicas", SOON, |status| {
            let replicas = status.instances("url-rewrite").into_iter();
            let counts = replicas.map(|i| i["counters"].as_array().into_iter().flatten());
            let counts: Vec<u64> = counts.map(|c| c.filter_map(|c| c["value"].as_u64()).sum()).collect();
            counts.len() == 2 && counts.iter().all(|n| *n > 50)
        })?;
        let workers = status.0["messages"]["workers"].as_array().into_iter().flatten();
        let received: Vec<u64> = workers.filter_map(|worker| worker["descriptors_received"].as_u64()).collect();
        assert!(received.len() == 2 && received.iter().all(|n| *n > 50), "both workers work: {received:?}");
        for backend in &web.backends {
            assert!(backend.requests() > 100, "{} serves", backend.address());
        }
        // One of two dies: the other goes on.
        for _ in 0..3 {
            let status = run.status()?;
            let pid = status.pid("url-rewrite").expect("it runs");
            send(Signal::SIGKILL, pid);
            run.wait_for("another", SOON, |s| {
                s.serves_requests() && s.pid("url-rewrite").is_some_and(|now| now != pid)
            })?;
            load.wait_for(300, SOON)?;
        }
        let output = run.command(&["apply", "--replace", "web/url-rewrite", "--name", run.name()])?;
        assert!(output.status.success(), "{} {}", output.stdout, output.stderr);
        load.wait_for(300, SOON)?;
        fine(load, &run)?;
        run.stop_requests()?;
    }
    Ok(())
}

/// What has begun is finished: the run counts no failure, and clients lose at most the request that it had not read.
#[test]
fn a_stop_under_load_finishes_what_has_begun() -> Result<(), Error> {
    require_root!(Ok(()));
    for how in ["    placement: inline\n".to_owned(), Web::processes("skmsg"), Web::processes("ring")] {
        let web = Web::new()?;
        let mut run = Runtime::start(&web.host, &Web::manifest(&how, &[Web::PROXY, Web::REWRITE, Web::EDIT]))?;
        let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
        load.wait_for(500, SOON)?;
        let output = run.end_with(Signal::SIGINT)?;
        assert!(output.status.success(), "{}", output.stderr);
        let seen = load.stop();
        assert_eq!((&seen.wrong, seen.hung, seen.refused.len()), (&vec![], 0, 0), "{seen:?}");
        assert!(seen.cut <= CLIENTS as u64, "{seen:?}");
        let line = output.stderr.lines().find(|line| line.contains("requests received")).unwrap_or_default();
        assert!(line.contains("received =") && line.contains(" 0 failed") && line.contains(" 0 under way"), "{line}");
    }
    Ok(())
}

/// With more clients than there are buffers, they take turns.
#[test]
fn few_buffers_serve_many_clients() -> Result<(), Error> {
    require_root!(Ok(()));
    for how in ["    placement: inline\n".to_owned(), Web::processes("skmsg"), Web::processes("ring")] {
        let web = Web::new()?;
        let manifest = Web::manifest(&how, &[Web::PROXY, Web::REWRITE, Web::EDIT]);
        let run = Runtime::start(&web.host, &format!("memory: {{ messages: 64 }}\n{manifest}"))?;
        let asks = Asks { body_bytes: 40_000, ..Asks::REWRITTEN };
        let load = Load::start(&web.host, Web::ADDRESS, 200, asks)?;
        load.wait_for(1000, SOON)?;
        fine(load, &run)?;
        run.stop_requests()?;
    }
    Ok(())
}

/// Without the right to load BPF programs, chains run on rings, and say so.
#[test]
fn without_bpf_there_are_rings() -> Result<(), Error> {
    require_root!(Ok(()));
    let web = Web::new()?;
    let run = Runtime::prepare(&Web::manifest(&Web::processes("skmsg"), &[Web::PROXY, Web::REWRITE, Web::EDIT]))?;
    let mut command = web.host.command("setpriv");
    command.args(["--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin", "--no-new-privs"]);
    command.arg(binary("middlenet")?).arg("run").arg(run.manifest());
    let mut process = Process::spawn(&mut command)?;
    process.wait_for_output(&format!("`{}` runs:", run.name()), SOON)?;
    let status = run.status()?;
    for function in ["reverse-proxy", "url-rewrite", "header-edit"] {
        assert_eq!(status.request_hop(function)["transport"], "ring", "{function}");
    }
    assert_ne!(status.0["messages"]["skmsg"], "works");
    let notes = status.0["notes"].to_string();
    assert!(notes.contains("SK_MSG is not used") && notes.contains("rings"), "{notes}");
    assert!(process.stderr().contains("SK_MSG is not used"), "{}", process.stderr());
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
    load.wait_for(500, SOON)?;
    fine(load, &run)?;
    let output = process.stop(SOON)?;
    assert!(output.status.success(), "{}", output.stderr);
    Ok(())
}

/// Lost wake-ups, told of by a function's own count, end the trust in SK_MSG while requests are under way.
#[test]
fn from_skmsg_to_rings_at_run_time() -> Result<(), Error> {
    require_root!(Ok(()));
    for on_failure in ["retry", "drop"] {
        let web = Web::new()?;
        let functions = [Web::PROXY, Web::REWRITE, Web::EDIT].map(|entry| Web::entry(entry, on_failure));
        let functions: Vec<&str> = functions.iter().map(String::as_str).collect();
        let mut run = Runtime::start(&web.host, &Web::manifest(&Web::processes("skmsg"), &functions))?;
        let supervisor = run.process().pid();
        let asks = Asks { header: Some(("x-chain", "web")), ..Asks::REWRITTEN };
        let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, asks)?;
        load.wait_for(500, SOON)?;
        let status = run.status()?;
        assert_eq!(status.request_hop("url-rewrite")["transport"], "skmsg");
        // One function alone is not believed. They stand still, so that they do not count anew, and messages wait for them.
        let victims = ["url-rewrite", "header-edit"].map(|name| {
            let pid = status.pid(name).expect("it runs");
            send(Signal::SIGSTOP, pid);
            (pid, lost_wakeups(supervisor, name))
        });
        let changed = run.wait_for("rings", SOON, |status| {
            for (_, counter) in &victims {
                counter.write_all_at(&1000u32.to_ne_bytes(), LATE_WAKEUPS).expect("the region takes it");
            }
            status.request_hop("url-rewrite")["transport"] == "ring"
        });
        victims.iter().for_each(|(pid, _)| send(Signal::SIGCONT, *pid));
        let status = changed?;
        assert!(status.0["messages"]["skmsg"].to_string().contains("given up"), "{}", status.0["messages"]["skmsg"]);
        load.wait_for(500, SOON)?;
        assert_eq!(load.seen().failed(), 0, "no request is lost to the change: {:?}", load.seen());
        // Who is started from now on is on rings as well.
        send(Signal::SIGKILL, status.pid("header-edit").expect("it runs"));
        if on_failure == "retry" {
            run.wait_for("another", SOON, |s| s.serves_requests() && s.restarts("header-edit") == 1)?;
            load.wait_for(500, SOON)?;
            fine(load, &run)?;
        } else {
            let seen = load.stop();
            assert!(seen.wrong.is_empty() && seen.cut == 0 && seen.hung == 0, "{seen:?}");
        }
        run.stop_requests()?;
    }
    Ok(())
}

/// Where a control region has the count; `sdk/shm/src/control/layout.rs`.
const LATE_WAKEUPS: u64 = 84;

/// The control region of a function, as the supervisor has it.
fn lost_wakeups(supervisor: u32, function: &str) -> std::fs::File {
    let folder = format!("/proc/{supervisor}/fd");
    let entries = std::fs::read_dir(&folder).expect("the supervisor lives").flatten();
    let found = entries.map(|entry| entry.path()).find(|path| {
        let target = std::fs::read_link(path).unwrap_or_default();
        let target = target.to_string_lossy();
        target.contains("memfd:middlenet-") && target.contains(function)
    });
    let path = found.unwrap_or_else(|| panic!("no control region of {function} in {folder}"));
    std::fs::File::options().read(true).write(true).open(path).expect("root may open it")
}
