//! The second act: two functions between clients and two servers, and what they do with requests.

pub(super) mod account;
pub(super) mod backend;
mod curl;
pub(super) mod load;
mod watch;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use middlenet_plan::BrokerStats;
use middlenet_runtime::api::Status;
use serde_json::{Value, json};

use super::{bars, heading, left_of, say};
use crate::BenchError;
use crate::lifetime::{kill_pid, pid_of};
use crate::programs::Programs;
use crate::run::Run;
use crate::stage::Stage;
use crate::tool::Tool;
use crate::work_folder::WorkFolder;
use backend::Backend;
use load::Load;
use watch::Watch;

/// What this act needs of the host.
pub(super) const TOOLS: [Tool; 3] = [backend::NGINX, load::AB, curl::CURL];

const CLIENT: &str = "10.3.0.2";
const LISTEN: &str = "10.3.0.1:80";
const BACKENDS: [&str; 2] = ["10.4.0.11:80", "10.4.0.12:80"];
/// The function that is killed.
const VICTIM: &str = "url-rewrite";
/// Between two checks of a server.
const CHECK_MS: u64 = 100;
/// The load, from the beginning of which the times below count.
const LOAD: Duration = Duration::from_secs(7);
const FUNCTION_DIES: Duration = Duration::from_millis(1_500);
const SERVER_DIES: Duration = Duration::from_secs(3);
const SERVER_COMES: Duration = Duration::from_millis(4_800);
/// Until the last connections are closed.
const REST_PATIENCE: Duration = Duration::from_secs(5);
/// A bar of the chart.
const BAR: Duration = Duration::from_millis(100);

/// Plays it, and notes what was seen.
///
/// # Errors
/// When anything does not go as it should. Whatever was made is removed then too.
pub(super) fn run(programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    println!("\n\nRequests: two functions, each in a process of its own, between clients and two nginx\n");
    println!("  client {CLIENT}  ==  {LISTEN} [ reverse-proxy -> {VICTIM} ]  ==  {} nginx", BACKENDS.join(", "));
    let namespaces = {
        let stage = stage()?;
        play(&stage, programs, seen)?;
        stage.paths()
    };
    left_of(&namespaces)
}

/// The hosts: the kernel of the middle one speaks TCP to both sides, and routes nothing.
fn stage() -> Result<Stage, BenchError> {
    let stage = Stage::build(&format!("{CLIENT}/24"), "10.4.0.11/24")?;
    stage.server.exec("ip", ["addr", "add", "10.4.0.12/24", "dev", "eth0"])?;
    stage.middle.exec("ip", ["addr", "add", "10.3.0.1/24", "dev", "left"])?;
    stage.middle.exec("ip", ["addr", "add", "10.4.0.1/24", "dev", "right"])?;
    Ok(stage)
}

fn address(text: &str) -> Result<SocketAddr, BenchError> {
    text.parse().map_err(|_| BenchError::Failed(format!("`{text}` is no address")))
}

fn manifest() -> Value {
    json!({
        "chains": { "web": {
            "layer": "l4l7",
            "listen": LISTEN,
            "upstream": { "health": { "interval_ms": CHECK_MS, "timeout_ms": 500, "rise": 1, "fall": 2 } },
            "functions": [
                { "reverse-proxy": { "upstreams": BACKENDS } },
                { VICTIM: { "rules": [{ "match": "^/old/(.*)$", "to": "/new/$1" }] } },
            ],
        } },
    })
}

fn play(stage: &Stage, programs: &Programs, seen: &mut Value) -> Result<(), BenchError> {
    let folder = WorkFolder::new()?;
    let mut backends = Vec::new();
    for (at, listen) in BACKENDS.into_iter().enumerate() {
        backends.push(Backend::start(&stage.server, &folder, at + 1, address(listen)?)?);
    }
    heading("start: the broker takes connections; requests travel between it and the functions as 16-byte descriptors");
    let start = Instant::now();
    let mut run = Run::start(programs, &folder, Some(&stage.middle), manifest())?;
    say(format_args!("up in {:.0} ms", start.elapsed().as_secs_f64() * 1e3));
    introduce(&run.status()?)?;

    seen["curl"] = curl::talk(stage, LISTEN)?;
    seen["load"] = load(stage, &folder, &mut run, &mut backends)?;

    heading("account: every request was answered, or is counted by what became of it");
    let status = run.wait_until("rest after the load", REST_PATIENCE, |status| {
        status.messages.as_ref().is_some_and(|m| account::is_even(m) && m.buffers_free == m.buffers)
    })?;
    let stats = messages(&status)?;
    print!("{}", account::text(stats));
    seen["chains"] = json!(stats.chains);
    seen["hops"] = json!(stats.hops);
    seen["upstreams"] = json!(stats.upstreams);
    seen["workers"] = json!(stats.workers);

    heading("stop: requests under way are finished, then everybody leaves");
    run.stop()?;
    drop(backends);
    say("no process runs");
    Ok(())
}

fn messages(status: &Status) -> Result<&BrokerStats, BenchError> {
    status.messages.as_ref().ok_or_else(|| BenchError::Failed("the message broker is down".into()))
}

fn introduce(status: &Status) -> Result<(), BenchError> {
    let number = |pid: Option<u32>| pid.map_or_else(|| "-".into(), |pid| pid.to_string());
    let broker = status.broker.as_ref().and_then(|broker| broker.pid);
    say(format_args!("supervisor {}, message broker {}", status.pid, number(broker)));
    let stats = messages(status)?;
    for function in &status.functions {
        let hop = stats.hops.iter().find(|hop| hop.name == function.name).map_or("-", |hop| hop.transport.as_str());
        let pid = number(function.process.pid);
        say(format_args!("{:<13} process {pid}, reached by {hop}, cores {:?}", function.name, function.cores));
    }
    if stats.skmsg != "works" {
        say(format_args!("SK_MSG is not used here: {}", stats.skmsg));
    }
    status.notes.iter().for_each(|note| say(format_args!("note: {note}")));
    Ok(())
}

/// One load, during which a function dies, then a server, which comes back.
fn load(stage: &Stage, folder: &WorkFolder, run: &mut Run, backends: &mut [Backend]) -> Result<Value, BenchError> {
    heading("ab: a load, under which a function is killed, then one of the servers, which is started again");
    let old = pid_of(&run.status()?, VICTIM);
    let load = Load::start(stage, folder, LISTEN, LOAD)?;
    let mut watch = Watch::start(run)?;

    watch.until(FUNCTION_DIES)?;
    watch.mark();
    let function_back = function_dies(&mut watch)?;
    watch.until(SERVER_DIES)?;
    watch.mark();
    let server_out = server_dies(&mut watch, &mut backends[1])?;
    watch.until(SERVER_COMES)?;
    watch.mark();
    let start = Instant::now();
    backends[1].start_again(&stage.server, folder)?;
    let mut before = None;
    watch.wait_for("requests at the server that is back", |status| {
        let upstream = status.messages.as_ref().and_then(|stats| stats.upstreams.get(1));
        upstream.is_some_and(|u| u.healthy && *before.get_or_insert(u.requests) < u.requests)
    })?;
    let server_back = start.elapsed();
    watch.until(LOAD)?;

    let new = pid_of(&watch.status()?, VICTIM);
    let seen = load.wait()?;
    let rates = watch.rates(BAR, LOAD);
    let number = |pid: Option<u32>| pid.map_or_else(|| "?".into(), |pid| pid.to_string());
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    say(format_args!("answered, 0.1 s each: {}", bars(&rates)));
    say(format_args!("                      {}", watch.marks(BAR)));
    say(format_args!(
        "1: {VICTIM} (process {}) killed; answers through its successor ({}) after {:.1} ms",
        number(old),
        number(new),
        ms(function_back)
    ));
    say(format_args!("2: nginx 2 killed; taken out after {:.0} ms, and its requests go to nginx 1", ms(server_out)));
    say(format_args!("3: nginx 2 started again; it answers after {:.0} ms", ms(server_back)));
    seen.lines().iter().for_each(say);
    if seen.bad() > seen.complete / 100 {
        return Err(BenchError::Failed("more than one request in a hundred failed".into()));
    }
    Ok(json!({
        "seen": seen,
        "function_back_ms": ms(function_back),
        "server_out_ms": ms(server_out),
        "server_back_ms": ms(server_back),
        "answered_rps": rates,
    }))
}

/// Kills the function; returns the time until requests are answered by way of its successor.
fn function_dies(watch: &mut Watch<'_>) -> Result<Duration, BenchError> {
    let old = pid_of(&watch.status()?, VICTIM)
        .ok_or_else(|| BenchError::Failed(format!("`{VICTIM}` does not run before it is killed")))?;
    let killed = Instant::now();
    kill_pid(old)?;
    let mut before = None;
    watch.wait_for("answers through the function's successor", |status| {
        let Some(stats) = &status.messages else { return false };
        let is_back = pid_of(status, VICTIM).is_some_and(|pid| pid != old);
        let hop = stats.hops.iter().find(|hop| hop.name == VICTIM).map_or(0, |hop| hop.messages);
        let answered = account::answered(stats);
        // Between two looks at a successor at work: so it is the successor that they passed.
        let (hop_before, answered_before) = match (is_back, before) {
            (false, _) => return false,
            (true, Some(before)) => before,
            (true, None) => *before.insert((hop, answered)),
        };
        hop > hop_before && answered > answered_before
    })?;
    Ok(killed.elapsed())
}

/// Kills a server; returns the time until no more requests are sent to it.
fn server_dies(watch: &mut Watch<'_>, backend: &mut Backend) -> Result<Duration, BenchError> {
    let killed = Instant::now();
    backend.kill()?;
    watch.wait_for("the dead server to be taken out", |status| {
        let upstream = status.messages.as_ref().and_then(|stats| stats.upstreams.get(1));
        upstream.is_some_and(|upstream| !upstream.healthy)
    })?;
    Ok(killed.elapsed())
}
