//! `idle/auto`, `attach`, `restart`, `restart/kills`: what functions cost when there is nothing to do, and when they come and go.
//!
//! - `idle/auto`: processor time of supervisor, manager and two functions together, between two veth cables without traffic.
//! - `attach`: from the request for a new instance of a function, which starts its process, until that has handled its first
//!   packets by its own clock. The predecessor works meanwhile.
//! - `restart`: from SIGKILL until the function's successor passes packets on. Each function of the chain is killed once: a
//!   function that dies again within 10 s is started again later, on purpose.
//! - `restart/kills`: packet buffers that are not where they were after functions were killed under load, again and again.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use middlenet_plan::Conservation;
use serde_json::{Value, json};

use super::overload::{manifest as on_cables, stage, target};
use super::subject::{NOBODY, forwards};
use super::{FUNCTION_CORE, MANAGER_CORE};
use crate::BenchError;
use crate::bench::Bench;
use crate::clock;
use crate::cpu::CpuTime;
use crate::lifetime::{PATIENCE, gap_after_kill, kill_pid};
use crate::run::{POLL, Run, pause, running_pid};
use crate::sender::Sender;
use crate::stage::Stage;

/// The papers' systems poll; this is long enough that a timer which fires once a second shows.
const IDLE_TIME: Duration = Duration::from_secs(5);
/// Functions in the chain that restarts are measured on; each gives one figure.
const FUNCTIONS: usize = 5;
/// Kills of one run; with each, a function is started again later.
const KILLS_PER_RUN: usize = 50;
/// Replicas of each of the two functions, so that many die in a short time.
const REPLICAS: usize = 8;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    type Case = fn(&mut Bench, &str) -> Result<(), BenchError>;
    let cases: [(&str, Case); 4] =
        [("idle/auto", idle), ("attach", attach), ("restart", restart), ("restart/kills", kills)];
    for (case, measure) in cases {
        if bench.wants(case) {
            let measured = measure(bench, case);
            bench.outcome_of(case, measured)?;
        }
    }
    Ok(())
}

fn idle(bench: &mut Bench, case: &str) -> Result<(), BenchError> {
    let stage = stage()?;
    let mut run = Run::start(&bench.programs, &bench.folder, Some(&stage.middle), on_cables(forwards(2)))?;
    let pids = run.pids()?;
    let mut values = Vec::new();
    for repetition in 0..bench.repetitions() {
        bench.progress(&format!("{case}, {} of {}", repetition + 1, bench.repetitions()));
        pause(bench.settle())?;
        let busy = || pids.iter().map(|&pid| CpuTime::of(pid).map(|time| time.busy_ns)).sum::<Option<u64>>();
        let (start, before) = (Instant::now(), busy());
        pause(IDLE_TIME)?;
        let (elapsed, after) = (start.elapsed(), busy());
        let (Some(before), Some(after)) = (before, after) else {
            return Err(BenchError::Failed("a process of the run ended while it was idle".into()));
        };
        values.push((after - before) as f64 / elapsed.as_nanos() as f64);
    }
    run.stop()?;
    bench.push(case, "cpu", "cores", &values);
    Ok(())
}

/// Functions as processes between null devices, at their limit.
fn between_null_devices(functions: Value) -> Value {
    json!({
        "ports": { "left": { "dpdk": "net_null0,size=60" }, "right": { "dpdk": "net_null1,no-rx=1" } },
        "cores": { "manager": [MANAGER_CORE], "functions": [FUNCTION_CORE] },
        "chains": { "chain": { "ports": ["left", "right"], "functions": functions } },
    })
}

fn attach(bench: &mut Bench, case: &str) -> Result<(), BenchError> {
    let mut values = Vec::new();
    let function = json!({ "run": bench.programs.path("middlenet-bench-mac")?, "config": {} });
    let functions = json!([{ "comes": function }, { "stays": { "use": "l2-forward", "config": {} } }]);
    let mut run = Run::start(&bench.programs, &bench.folder, None, between_null_devices(functions))?;
    for repetition in 0..if bench.quick { 3 } else { 9 } {
        bench.progress(&format!("{case}, {}", repetition + 1));
        pause(bench.settle())?;
        let (Some(before), Some(start)) = (first_packet_ns(&mut run)?, clock::now_ns()) else {
            return Err(BenchError::Failed("the function does not say when its first packet came".into()));
        };
        run.replace("chain", "comes")?;
        let patience = Instant::now() + PATIENCE;
        let first = loop {
            match first_packet_ns(&mut run)? {
                Some(first) if first != before => break first,
                _ if Instant::now() >= patience => {
                    return Err(BenchError::Failed("the new instance got no packets".into()));
                }
                _ => pause(POLL)?,
            }
        };
        values.push(first.saturating_sub(start) as f64 / 1e6);
    }
    run.stop()?;
    bench.push(case, "time", "ms", &values);
    Ok(())
}

/// When the instance at work had passed its first packets.
fn first_packet_ns(run: &mut Run) -> Result<Option<u64>, BenchError> {
    let status = run.status_with_reports()?;
    Ok(status.functions.iter().find(|f| f.name == "comes").and_then(|f| f.report["first_packet_ns"].as_u64()))
}

fn restart(bench: &mut Bench, case: &str) -> Result<(), BenchError> {
    let functions = if bench.quick { FUNCTIONS - 2 } else { FUNCTIONS };
    let mut values = Vec::new();
    for repetition in 0..bench.repetitions() {
        let mut run = Run::start(&bench.programs, &bench.folder, None, between_null_devices(forwards(functions)))?;
        for function in (0..functions).map(|i| format!("hop{i}")) {
            bench.progress(&format!("{case}, {function}, {} of {}", repetition + 1, bench.repetitions()));
            pause(bench.settle())?;
            values.push(milliseconds(gap_after_kill(&mut run, &function)?));
        }
        run.stop()?;
    }
    bench.push(case, "time", "ms", &values);
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn kills(bench: &mut Bench, case: &str) -> Result<(), BenchError> {
    let wanted = if bench.quick { KILLS_PER_RUN } else { 1000 };
    let stage = stage()?;
    let (mut done, mut lost) = (0, Vec::new());
    while done < wanted {
        bench.progress(&format!("{case}, {done} of {wanted}"));
        let outcome = killing_run(bench, &stage)?;
        done += outcome.kills;
        lost.push(outcome.lost_buffers);
    }
    bench.push(case, "kills", "functions", &[done as f64]);
    bench.push(case, "lost", "buffers", &[lost.iter().sum::<u64>() as f64]);
    Ok(())
}

struct Killed {
    kills: usize,
    lost_buffers: u64,
}

/// One run in which functions die under load; then the load stops, and every buffer must be where it was.
fn killing_run(bench: &Bench, stage: &Stage) -> Result<Killed, BenchError> {
    let function = json!({ "use": "l2-forward", "replicas": REPLICAS, "config": { "src": "port", "dst": NOBODY } });
    let manifest = json!({
        "ports": { "left": { "xdp": "left" }, "right": { "xdp": "right" } },
        "cores": { "manager": [MANAGER_CORE], "functions": [FUNCTION_CORE] },
        "chains": { "chain": { "ports": ["left", "right"], "functions": [{ "first": function }, { "second": function }] } },
    });
    let mut run = Run::start(&bench.programs, &bench.folder, Some(&stage.middle), manifest)?;
    let manager = run.status()?.manager.pid;
    let before = run.stats()?.conservation;
    let to: SocketAddr = target();
    // Each sender is a flow, and a flow belongs to one replica.
    let senders: Vec<Sender> =
        (0..4).map(|_| Sender::start(&stage.client, to, FUNCTION_CORE, None)).collect::<Result<_, _>>()?;
    let mut killed = BTreeSet::new();
    let mut next = 0;
    while killed.len() < KILLS_PER_RUN {
        let status = run.wait_until("a function to kill", PATIENCE, |status| {
            status.functions.iter().filter_map(running_pid).any(|pid| !killed.contains(&pid))
        })?;
        let alive: Vec<u32> =
            status.functions.iter().filter_map(running_pid).filter(|pid| !killed.contains(pid)).collect();
        let Some(&pid) = alive.get(next % alive.len().max(1)) else { continue };
        next += 1;
        kill_pid(pid)?;
        killed.insert(pid);
    }
    drop(senders);
    let restarted = run.wait_until("a run with all functions back", PATIENCE, |s| s.state == "running")?;
    if restarted.manager.pid != manager || restarted.manager.restarts > 0 {
        let why = restarted.manager.last_exit.unwrap_or_else(|| "of unknown causes".into());
        return Err(BenchError::Failed(format!("the manager did not survive the deaths of functions: it was {why}")));
    }
    // What is under way leaves; then every buffer is in one of the places that are counted.
    let quiet = |c: &Conservation| c.held_pkts == 0 && c.packets_balance() && missing(c) == 0;
    let waited = run.wait_until("rest after the kills", Duration::from_secs(5), |status| {
        status.data_plane.as_ref().is_some_and(|stats| quiet(&stats.conservation))
    });
    if matches!(waited, Err(BenchError::Interrupted)) {
        return Err(BenchError::Interrupted);
    }
    let after = run.stats()?.conservation;
    run.stop()?;
    if after.sent_pkts == before.sent_pkts {
        return Err(BenchError::Failed("nothing was sent while functions were killed".into()));
    }
    if !after.packets_balance() {
        return Err(BenchError::Failed(format!("packets are missing: {after:?}")));
    }
    Ok(Killed {
        kills: killed.len(),
        lost_buffers: missing(&after) + after.buffers_lent.saturating_sub(before.buffers_lent),
    })
}

/// Buffers in none of the places that are counted.
fn missing(c: &Conservation) -> u64 {
    c.buffers.saturating_sub(c.buffers_free + c.buffers_in_ports + c.buffers_lent + c.held_pkts)
}
