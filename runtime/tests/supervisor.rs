//! The supervisor with real function processes and a manager that only speaks the protocol: no DPDK, no ports, no packets.
//!
//! The manager is this very test binary, started by a script with `FAKE` set; it writes what it is asked to a journal.

#![forbid(unsafe_code)]

mod fake_manager;
mod runs;

use middlenet_runtime::api::{Request, Response};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use runs::{FAKE, Run, command, copy_program, is_alive, pids, send, silence_told, write_script};

/// Not a test of anything by itself: what the script runs.
#[test]
fn fake_manager_main() {
    if std::env::var_os(FAKE).is_some() {
        fake_manager::serve();
    }
}

const FUNCTIONS: &str = "[monitor, { tail: { use: monitor, config: { top: 3 } } }]";

fn manifest(functions: &str) -> String {
    format!(
        "name: NAME\nports:\n  wan: {{ dpdk: net_null0 }}\n  lan: {{ dpdk: net_null1 }}\nmemory: {{ buffers: 4096, hugepages: never }}\n\
         heartbeat_ms: 400\ndrain_ms: 100\nchains:\n  transit: {{ ports: [wan, lan], functions: {functions} }}\n"
    )
}

fn start(test: &str, behaviour: &str) -> Run {
    Run::launch(test, behaviour, &manifest(FUNCTIONS))
}

#[test]
fn a_run_starts_tells_and_stops() {
    let mut run = start("plain", "");
    let status = run.running();
    assert_eq!(status.chains[0].lines[0], "wan -> monitor -> tail -> lan");
    assert_eq!(status.functions.len(), 2);
    assert!(status.functions[0].counters.iter().any(|c| c.name == "udp"), "{:?}", status.functions[0].counters);
    assert!(!status.functions[0].report.is_null(), "the monitor reports its flows");
    let mut journal = run.journal();
    journal.sort();
    assert_eq!(journal, ["attach 0/0", "attach 1/0", "start"]);
    let mode = fs::metadata(run.socket()).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);

    let children: Vec<u32> = pids(&status).into_iter().chain(status.manager.pid).collect();
    assert!(matches!(run.ask(&Request::Stop), Response::Stopping));
    assert!(run.end().success(), "{}", run.log());
    assert_eq!(run.journal().last().map(String::as_str), Some("stop 100"));
    assert!(children.into_iter().all(|pid| !is_alive(pid)));
    assert!(!run.socket().exists());
}

#[test]
fn a_killed_function_comes_back_at_once() {
    let run = start("killed", "");
    let before = run.running();
    send(pids(&before)[0], Signal::SIGKILL);
    let after = run.wait("back", |s| s.functions[0].process.restarts == 1 && s.state == "running");
    assert!(run.log().contains("restarting at once"), "{}", run.log());
    assert_eq!(after.functions[0].process.last_exit.as_deref(), Some("was killed by SIGKILL"));
    assert_eq!((after.manager.pid, pids(&after)[1]), (before.manager.pid, pids(&before)[1]));
    let journal = run.journal();
    assert_eq!(journal[journal.len() - 2..], ["detach 0/0 at once".to_owned(), "attach 0/0".to_owned()]);
    // The second death in a row waits.
    send(pids(&after)[0], Signal::SIGKILL);
    run.wait("back again", |s| s.functions[0].process.restarts == 2 && s.state == "running");
    assert!(run.log().contains("restarting in 100 ms"), "{}", run.log());
}

#[test]
fn a_function_that_hangs_is_killed_and_comes_back() {
    let run = start("hung", "");
    let before = run.running();
    send(pids(&before)[1], Signal::SIGSTOP);
    let after = run.wait("back", |s| s.functions[1].process.restarts == 1 && s.state == "running");
    let reason = after.functions[1].process.last_exit.clone().unwrap();
    assert!(silence_told(&reason) >= 400, "{reason}");
    assert!(!is_alive(pids(&before)[1]));
}

#[test]
fn functions_outlive_the_manager() {
    let run = start("manager", "");
    let before = run.running();
    send(before.manager.pid.unwrap(), Signal::SIGKILL);
    let after = run.wait("back", |s| s.manager.restarts == 1 && s.state == "running");
    assert_eq!(pids(&after), pids(&before), "the same processes, attached anew");
    assert_ne!(after.manager.pid, before.manager.pid);
    let journal = run.journal();
    assert_eq!(journal.iter().filter(|l| *l == "start").count(), 2);
    assert_eq!(journal.iter().filter(|l| l.starts_with("attach")).count(), 4);
}

#[test]
fn a_manager_that_does_not_understand_is_replaced() {
    let run = start("babble", "babble");
    let deadline = Instant::now() + Duration::from_secs(20);
    while !run.log().contains("runs: 2 ports") {
        assert!(Instant::now() < deadline, "{}", run.log());
        std::thread::sleep(Duration::from_millis(20));
    }
    // The statistics of this manager are garbage, which a status brings to light.
    let before = run.try_status().unwrap();
    let after = run.wait("another", |s| s.manager.restarts >= 1 && s.manager.pid != before.manager.pid);
    assert_eq!(pids(&after), pids(&before));
    assert!(run.log().contains("cannot be understood"), "{}", run.log());
}

#[test]
fn a_second_run_of_a_name_is_refused() {
    let run = start("twice", "");
    let before = run.running();
    let second = command(&run.folder).args(["run", "m.yaml"]).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let words = String::from_utf8_lossy(&second.stderr);
    assert!(
        words.contains(&format!("a run called `{}` is there already (process {}", run.name, run.child.id())),
        "{words}"
    );
    assert!(words.contains("hint: "), "{words}");
    assert_eq!(pids(&run.running()), pids(&before));
}

#[test]
fn configurations_change_while_it_runs_and_structure_does_not() {
    let run = start("apply", "");
    let before = run.running();
    let response = run.apply(&manifest("[monitor, { tail: { use: monitor, config: { top: 5 } } }]"));
    assert!(matches!(&response, Response::Applied { changed } if changed == &["transit/tail"]), "{response:?}");
    let response = run.apply(&manifest("[monitor, { tail: { use: monitor, config: { top: 5 } } }]"));
    assert!(matches!(&response, Response::Applied { changed } if changed.is_empty()), "{response:?}");
    let response = run.apply(&manifest("[monitor]"));
    let expected = ["function `transit/tail` would go"];
    assert!(matches!(&response, Response::NeedsRestart { differences } if differences == &expected), "{response:?}");
    let response = run.apply(&manifest("[monitor, { tail: { use: monitor, config: { top: many } } }]"));
    assert!(
        matches!(&response, Response::Failed { message, .. } if message.contains("expected a whole number")),
        "{response:?}"
    );
    assert_eq!(pids(&run.running()), pids(&before));
    // What is started later starts with what was applied.
    send(pids(&before)[1], Signal::SIGKILL);
    run.wait("back", |s| s.functions[1].process.restarts == 1 && s.state == "running");
    let response = run.apply(&manifest("[monitor, { tail: { use: monitor, config: { top: 5 } } }]"));
    assert!(matches!(&response, Response::Applied { changed } if changed.is_empty()), "{response:?}");
}

#[test]
fn a_new_instance_takes_over_from_the_old() {
    let run = start("replace", "");
    let before = run.running();
    let response = run.ask(&Request::Replace { chain: "transit".into(), function: "tail".into() });
    let Response::Replaced { pids: new } = response else { panic!("{response:?}") };
    let after = run.wait("gone", |_| !is_alive(pids(&before)[1]));
    assert_eq!(pids(&after), [pids(&before)[0], new[0]]);
    assert_eq!(after.functions[1].process.restarts, 0);
    let detached = run.journal().iter().any(|l| l.starts_with("detach"));
    assert!(!detached, "the place was never empty");
    let response = run.ask(&Request::Replace { chain: "transit".into(), function: "tial".into() });
    assert!(matches!(&response, Response::Failed { message, .. } if message.contains("no function `transit/tial`")));
}

#[test]
fn a_signal_drains_and_a_second_one_does_not_wait() {
    let mut run = start("signal", "");
    run.running();
    run.signal(Signal::SIGTERM);
    assert!(run.end().success(), "{}", run.log());

    let mut stuck = start("stuck", "never-stops");
    let status = stuck.running();
    stuck.signal(Signal::SIGINT);
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    stuck.signal(Signal::SIGINT);
    assert_eq!(stuck.end().code(), Some(130), "{}", stuck.log());
    // Less than it waits at the first one.
    assert!(start.elapsed() < Duration::from_millis(2500));
    assert!(pids(&status).into_iter().chain(status.manager.pid).all(|pid| !is_alive(pid)));
}

#[test]
fn a_manager_that_cannot_start_ends_the_run_with_its_reason() {
    let mut run = start("refuses", "refuses");
    assert_eq!(run.end().code(), Some(1));
    let log = run.log();
    assert!(log.contains("middlenet: port `wan`: no such device\n\nhint: plug it in"), "{log}");
}

#[test]
fn children_die_with_the_supervisor() {
    let run = start("orphans", "");
    let status = run.running();
    run.signal(Signal::SIGKILL);
    let children: Vec<u32> = pids(&status).into_iter().chain(status.manager.pid).collect();
    let deadline = Instant::now() + Duration::from_secs(5);
    while children.iter().any(|&pid| is_alive(pid)) {
        assert!(Instant::now() < deadline, "some of {children:?} are still there");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn hostile_clients_harm_nobody() {
    let run = start("hostile", "");
    let before = run.running();
    let connect = || UnixStream::connect(run.socket()).unwrap();
    // Silent ones, half a request, and more of them than are let in.
    let mut idle: Vec<UnixStream> = (0..20).map(|_| connect()).collect();
    idle[0].write_all(b"{\"type\":\"sta").unwrap();
    // Garbage is answered.
    let mut garbage = connect();
    garbage.write_all(b"\xff\xfe{}\n{\"type\":\"reboot\"}\n").unwrap();
    let mut answers = vec![0; 4096];
    std::thread::sleep(Duration::from_millis(200));
    let n = garbage.read(&mut answers).unwrap();
    let answers = String::from_utf8_lossy(&answers[..n]).into_owned();
    assert_eq!(answers.matches("that is no request").count(), 2, "{answers}");
    // A line without an end is cut off.
    let mut endless = connect();
    endless.set_write_timeout(Some(Duration::from_secs(10))).unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let refused = (0..40).any(|_| endless.write_all(&chunk).is_err());
    assert!(refused, "40 MiB without a line's end were read");
    // One that asks and does not read.
    let mut deaf = connect();
    for _ in 0..200 {
        if deaf.write_all(b"{\"type\":\"status\"}\n").is_err() {
            break;
        }
    }
    let start = Instant::now();
    let after = run.running();
    assert!(start.elapsed() < Duration::from_secs(2), "others waited {:?}", start.elapsed());
    assert_eq!((pids(&after), after.functions[0].process.restarts), (pids(&before), 0));
    drop(idle);
}

#[test]
fn an_external_function_runs_and_one_that_dies_at_start_ends_the_run() {
    let functions = "[{ own: { run: ./own, reads: [./program], config: { top: 2 } } }]";
    let name = "external";
    let folder = std::env::temp_dir().join(format!("middlenet-t{}-{name}", std::process::id()));
    // The script is written after the folder has been made, so check fails first.
    let mut missing = Run::launch(name, "", &manifest(functions));
    assert_eq!(missing.end().code(), Some(2));
    assert!(missing.log().contains("/own is not there"), "{}", missing.log());
    let own = folder.join("own");
    let describe = r#"{"name":"own","schema":{"type":"object","properties":{"top":{"type":"integer"}}}}"#;
    let script = format!(
        "#!/bin/sh\nif [ \"$1\" = --describe ]; then echo '{describe}'; exit 0; fi\nexec ./program fn monitor\n"
    );
    copy_program(Path::new(env!("CARGO_BIN_EXE_middlenet")), &folder.join("program"));
    write_script(&own, &script);
    let again =
        || command(&folder).args(["run", "m.yaml"]).stderr(fs::File::create(folder.join("log")).unwrap()).spawn();
    missing.child = again().unwrap();
    let status = missing.running();
    assert_eq!(status.functions[0].function, own.display().to_string());
    missing.ask(&Request::Stop);
    assert!(missing.end().success());

    fs::write(&own, script.replace("exec", "exit 3; exec")).unwrap();
    missing.child = again().unwrap();
    assert_eq!(missing.end().code(), Some(1));
    assert!(missing.log().contains("the function `transit/own` exited with code 3"), "{}", missing.log());
}
