//! The supervisor with chains of messages: real function processes, and a broker that only speaks the protocol.

#![forbid(unsafe_code)]

mod fake_broker;
mod fake_manager;
mod runs;

use middlenet_runtime::api::{Request, Response, Status};
use middlenet_sdk::Registration;
use middlenet_sdk::middlebox::prelude::*;
use nix::sys::signal::Signal;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use runs::{FAKE, Run, command, is_alive, pids, send, silence_told};

/// Not a test of anything by itself: what the script runs.
#[test]
fn fake_broker_main() {
    if std::env::var_os(FAKE).is_some() {
        fake_broker::serve();
    }
}

/// Not a test of anything by itself: what the script runs.
#[test]
fn fake_manager_main() {
    if std::env::var_os(FAKE).is_some() {
        fake_manager::serve();
    }
}

/// Not a test of anything by itself: the function process.
#[test]
fn message_function_main() {
    if std::env::var_os(middlenet_sdk::protocol::SOCKET_VARIABLE).is_some() {
        let registration = Registration::middlebox::<Tag>("tag", "routes to one");
        let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        let _ = middlenet_sdk::host::run(&registration, socket);
        std::process::exit(0);
    }
}

middlenet_sdk::config! {
    /// A function that routes.
    struct Config {
        /// Where to.
        to: String,
        /// Anything.
        #[serde(default)]
        mark: u64,
    }
}

struct Tag {
    to: Upstream,
    mark: u64,
}

impl MiddleboxFunction for Tag {
    type Config = Config;
    const INTERESTS: Interests = Interests::REQUEST_HEAD;

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        init.counter("seen", "requests seen");
        Ok(Self { to: init.upstream(&config.to)?, mark: config.mark })
    }

    fn request(&mut self, _: &mut middlenet_sdk::middlebox::Request<'_>, _: &mut Context<'_>) -> Verdict {
        Verdict::Route(self.to)
    }

    fn report(&self) -> serde_json::Value {
        serde_json::json!({ "mark": self.mark })
    }
}

const TWO: &str = "[{ tag: { run: ./tag, reads: [./program], config: { to: \"10.2.0.10:80\" } } }, \
                   { ringed: { run: ./tag, reads: [./program], config: { to: \"10.2.0.11:80\", mark: 1 }, hop: ring } }]";

fn manifest(functions: &str) -> String {
    format!(
        "name: NAME\nmemory: {{ messages: 256, hugepages: never }}\nheartbeat_ms: 400\ndrain_ms: 100\n\
         chains:\n  web: {{ layer: l4l7, listen: \"127.0.0.1:8080\", functions: {functions} }}\n"
    )
}

fn start(test: &str, behaviour: &str) -> Run {
    Run::launch(test, behaviour, &manifest(TWO))
}

fn broker(status: &Status) -> u32 {
    status.broker.as_ref().and_then(|b| b.pid).unwrap()
}

fn wait_for_line(run: &Run, line: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !run.journal().iter().any(|l| l == line) {
        assert!(Instant::now() < deadline, "no `{line}` in {:#?}", run.journal());
        std::thread::sleep(Duration::from_millis(5));
    }
}

const FIRST: &str = "attach message 0/0 by skmsg, wants 1, routes to 10.2.0.10:80";
const SECOND: &str = "attach message 1/0 by ring, wants 1, routes to 10.2.0.11:80";

#[test]
fn a_run_of_messages_starts_without_a_manager_and_stops() {
    let mut run = start("m-plain", "");
    let status = run.running();
    assert_eq!(status.chains[0].lines, ["127.0.0.1:8080 -> tag -> ringed -> upstreams"]);
    assert_eq!((status.manager.state.as_str(), status.manager.pid), ("unused", None));
    assert_eq!(status.functions[0].layer, "l4l7");
    assert_eq!(status.functions[1].report["mark"], 1);
    assert_eq!(status.functions[0].counters[0].name, "seen");
    assert_eq!(status.messages.as_ref().unwrap().chains[0].answered, 3);
    assert!(status.notes.iter().any(|n| n == "the kernel cannot do SK_MSG here"));
    let mut journal = run.journal();
    journal.sort();
    assert_eq!(journal, [FIRST, SECOND, "start broker with 256 buffers"]);
    assert!(run.log().contains("runs: 1 listener, 1 chain, 2 functions, up in"), "{}", run.log());

    let children: Vec<u32> = pids(&status).into_iter().chain([broker(&status)]).collect();
    assert!(matches!(run.ask(&Request::Stop), Response::Stopping));
    assert!(run.end().success(), "{}", run.log());
    assert!(run.journal().iter().any(|l| l == "stop broker 100"));
    assert!(children.into_iter().all(|pid| !is_alive(pid)));
    let balance = "stopped: 5 requests received = 3 answered + 1 rejected + 1 failed + 0 aborted + 0 under way";
    assert!(run.log().contains(balance), "{}", run.log());
}

#[test]
fn the_socket_of_a_killed_function_closes_and_it_comes_back() {
    let run = start("m-killed", "");
    let before = run.running();
    send(pids(&before)[0], Signal::SIGKILL);
    wait_for_line(&run, "closed message 0/0");
    let after = run.wait("back", |s| s.functions[0].process.restarts == 1 && s.state == "running");
    assert!(run.log().contains("restarting at once"), "{}", run.log());
    assert_eq!((broker(&after), pids(&after)[1]), (broker(&before), pids(&before)[1]));
    let journal = run.journal();
    assert!(journal.iter().any(|l| l == "detach message 0/0"), "{journal:#?}");
    assert_eq!(journal.iter().filter(|l| *l == FIRST).count(), 2, "{journal:#?}");
}

#[test]
fn a_function_of_messages_that_hangs_is_killed_and_one_that_idles_is_not() {
    let run = start("m-hung", "");
    let before = run.running();
    send(pids(&before)[0], Signal::SIGSTOP);
    let after = run.wait("back", |s| s.functions[0].process.restarts == 1 && s.state == "running");
    let reason = after.functions[0].process.last_exit.clone().unwrap();
    assert!(silence_told(&reason) >= 400, "{reason}");
    std::thread::sleep(Duration::from_millis(900));
    let later = run.running();
    assert_eq!(pids(&later), pids(&after), "idle functions were taken for hung ones: {}", run.log());
}

#[test]
fn functions_outlive_the_broker_and_get_new_sockets() {
    let run = start("m-broker", "");
    let before = run.running();
    send(broker(&before), Signal::SIGKILL);
    let restarted = |s: &Status| s.broker.as_ref().is_some_and(|b| b.restarts == 1) && s.state == "running";
    let after = run.wait("back", restarted);
    assert_eq!(pids(&after), pids(&before), "the same processes, attached anew");
    assert_ne!(broker(&after), broker(&before));
    let journal = run.journal();
    assert_eq!(journal.iter().filter(|l| l.starts_with("start broker")).count(), 2);
    assert_eq!(
        (journal.iter().filter(|l| *l == FIRST).count(), journal.iter().filter(|l| *l == SECOND).count()),
        (2, 2)
    );
    // The new socket works as the old one did.
    send(pids(&after)[0], Signal::SIGKILL);
    wait_for_line(&run, "closed message 0/0");
}

#[test]
fn configurations_change_live_and_instances_are_replaced() {
    let run = start("m-apply", "");
    let before = run.running();
    let response = run.apply(&manifest(&TWO.replace("mark: 1", "mark: 2")));
    assert!(matches!(&response, Response::Applied { changed } if changed == &["web/ringed"]), "{response:?}");
    assert_eq!(run.running().functions[1].report["mark"], 2);
    // Where a function may route to was agreed on with the broker.
    let response = run.apply(&manifest(&TWO.replace("10.2.0.11", "10.2.0.12")));
    assert!(
        matches!(&response, Response::Failed { message, .. } if message.contains("other upstreams")),
        "{response:?}"
    );
    let response = run.apply(&manifest(&TWO.replace(", hop: ring", "")).replace("8080", "8081"));
    let expected = ["chain `web` would be made differently", "function `web/ringed` would be made differently"];
    assert!(matches!(&response, Response::NeedsRestart { differences } if differences == &expected), "{response:?}");
    assert_eq!(pids(&run.running()), pids(&before));

    let response = run.ask(&Request::Replace { chain: "web".into(), function: "tag".into() });
    let Response::Replaced { pids: new } = response else { panic!("{response:?}") };
    let after = run.wait("gone", |_| !is_alive(pids(&before)[0]));
    assert_eq!(pids(&after), [new[0], pids(&before)[1]]);
    assert!(!run.journal().iter().any(|l| l.starts_with("detach")), "the place was never empty");
}

#[test]
fn both_data_planes_run_and_requests_end_before_packets() {
    let both = manifest(TWO)
        .replace("chains:\n", "ports: { wan: { dpdk: net_null0 }, lan: { dpdk: net_null1 } }\nchains:\n  transit: { ports: [wan, lan], functions: [monitor] }\n")
        .replace("messages: 256", "buffers: 4096, messages: 256");
    let mut run = Run::launch("m-both", "", &both);
    let status = run.running();
    assert!(run.log().contains("runs: 2 ports, 1 listener, 2 chains, 3 functions"), "{}", run.log());
    assert_eq!(status.functions.iter().map(|f| f.layer.as_str()).collect::<Vec<_>>(), ["l2l3", "l4l7", "l4l7"]);
    assert!(status.data_plane.is_some() && status.messages.is_some());
    // One data plane's death is not the other's, nor that of its functions.
    send(broker(&status), Signal::SIGKILL);
    let restarted = |s: &Status| s.broker.as_ref().is_some_and(|b| b.restarts == 1) && s.state == "running";
    let after = run.wait("back", restarted);
    assert_eq!((after.manager.pid, pids(&after)), (status.manager.pid, pids(&status)));
    assert_eq!(run.journal().iter().filter(|l| l.starts_with("attach 0/0")).count(), 1);
    run.signal(Signal::SIGTERM);
    assert!(run.end().success(), "{}", run.log());
    let journal = run.journal();
    let place = |line: &str| journal.iter().position(|l| l == line).unwrap();
    assert!(place("stop broker 100") < place("stop 100"), "{journal:#?}");
}

#[test]
fn a_broker_that_cannot_listen_ends_the_run_and_one_that_hangs_is_given_up() {
    let mut refused = start("m-refuses", "refuses");
    assert_eq!(refused.end().code(), Some(1));
    let log = refused.log();
    assert!(log.contains("chain `web`: cannot listen on 127.0.0.1:80: in use\n\nhint: end the other"), "{log}");

    let mut stuck = start("m-stuck", "never-stops");
    stuck.running();
    stuck.signal(Signal::SIGINT);
    assert!(stuck.end().success(), "{}", stuck.log());
    assert!(stuck.log().contains("the message broker did not drain in time"), "{}", stuck.log());
}

#[test]
fn people_and_programs_are_told_of_requests() {
    let run = start("m-tell", "");
    run.running();
    let ask = |arguments: &[&str]| {
        let output = command(&run.folder).args(arguments).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let text = ask(&["status", &run.name]);
    for part in [
        "127.0.0.1:8080 -> tag -> ringed -> upstreams",
        "message broker",
        "10.2.0.10:80",
        "requests: 5 requests received",
    ] {
        assert!(text.contains(part), "{part} is missing in\n{text}");
    }
    let drops: serde_json::Value = serde_json::from_str(&ask(&["drops", "--json", &run.name])).unwrap();
    let rows = drops["drops"].as_array().unwrap();
    let row = |stage: &str, reason: &str| {
        rows.iter().any(|r| r["stage"] == stage && r["reason"] == reason && r["place"] == "web" && r["requests"] == 1)
    };
    assert!(row("rejected", "too-large") && row("failed", "no-upstream"), "{drops:#}");
    assert!(ask(&["drops", &run.name]).contains("no-upstream"));
}
