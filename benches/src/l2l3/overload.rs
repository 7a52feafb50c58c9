//! `overload/process`: what a chain still delivers when far more is offered than it can carry.
//!
//! A sender on core 0 offers datagrams at set rates over a veth cable, and goes on whether anybody takes them or not; the whole
//! chain - manager and two function processes - shares core 1 and sends by another veth, behind which the kernel counts.
//! This is where receive livelock shows: the manager could spend the core on packets that the functions then have no time for.
//! The ratio is what is delivered at the highest offered load over the best that any load delivered; 1 is no loss at all.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{Bench, FUNCTION_CORE, MANAGER_CORE};
use crate::BenchError;
use crate::run::{Run, pause};
use crate::sample::Interval;
use crate::sender::Sender;
use crate::stage::{Stage, received_pkts};

pub(super) const CASE: &str = "overload/process";
/// Where datagrams go; its link address is set by hand, for no one answers for it.
const TARGET: &str = "10.9.0.2";
/// A station that is not there: the kernel behind the cable counts its frames and drops them at once.
pub(super) const NOBODY: &str = "02:00:00:00:00:99";

/// Offered loads in packets per second; the last, without a rate, is all that the sender can do.
const RATES: [Option<f64>; 9] =
    [Some(10e3), Some(25e3), Some(50e3), Some(100e3), Some(150e3), Some(200e3), Some(300e3), Some(450e3), None];
const QUICK_RATES: [Option<f64>; 4] = [Some(25e3), Some(100e3), Some(200e3), None];

/// One load.
struct Point {
    offered_pps: f64,
    delivered_pps: f64,
    interval: Interval,
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    if !bench.wants(CASE) {
        return Ok(());
    }
    let measured = sweep(bench);
    bench.outcome_of(CASE, measured)
}

fn sweep(bench: &mut Bench) -> Result<(), BenchError> {
    let stage = stage()?;
    let manifest = manifest(FUNCTION_CORE);
    let mut run = Run::start(&bench.programs, &bench.folder, Some(&stage.middle), manifest)?;
    let rates: &[Option<f64>] = if bench.quick { &QUICK_RATES } else { &RATES };
    let mut ratios = Vec::new();
    let mut sweeps = Vec::new();
    for repetition in 0..bench.repetitions() {
        bench.progress(&format!("{CASE}, {} of {}", repetition + 1, bench.repetitions()));
        let points = rates.iter().map(|&rate| point(bench, &stage, &mut run, rate)).collect::<Result<Vec<_>, _>>()?;
        let peak = points.iter().map(|p| p.delivered_pps).fold(0.0, f64::max);
        ratios.extend(points.last().map(|p| p.delivered_pps / peak));
        sweeps.push(points);
    }
    run.stop()?;
    bench.push(CASE, "ratio", "of peak", &ratios);
    for (at, rate) in rates.iter().enumerate() {
        let case = match rate {
            Some(rate) => format!("{CASE}/{}k", rate / 1e3),
            None => format!("{CASE}/most"),
        };
        let of = |value: &dyn Fn(&Point) -> f64| sweeps.iter().map(|s| value(&s[at])).collect::<Vec<_>>();
        bench.push(&case, "offered", "Mpps", &of(&|p| p.offered_pps / 1e6));
        bench.push(&case, "throughput", "Mpps", &of(&|p| p.delivered_pps / 1e6));
        let latency = |p: &Point| p.interval.hop_latency;
        bench.push(&case, "hop_latency_p50", "ns", &of(&|p| latency(p).map_or(f64::NAN, |l| l.p50_ns as f64)));
        bench.push(&case, "hop_latency_p99", "ns", &of(&|p| latency(p).map_or(f64::NAN, |l| l.p99_ns as f64)));
    }
    Ok(())
}

/// Hosts on both sides of a box; the client knows the target's link address.
pub(super) fn stage() -> Result<Stage, BenchError> {
    let stage = Stage::build("10.9.0.1/24", "10.9.0.3/24")?;
    stage.client.exec("ip", ["neigh", "replace", TARGET, "lladdr", NOBODY, "dev", "eth0"])?;
    Ok(stage)
}

/// Where a sender sends to.
pub(super) fn target() -> SocketAddr {
    SocketAddr::from(([10, 9, 0, 2], 9))
}

/// Two functions between the interfaces of a [`Stage`], the manager and they on one core.
pub(super) fn manifest(core: usize) -> Value {
    let forward = json!({ "use": "l2-forward", "config": { "src": "port", "dst": NOBODY } });
    json!({
        "ports": { "left": { "xdp": "left" }, "right": { "xdp": "right" } },
        "cores": { "manager": [core], "functions": [core] },
        "chains": { "chain": {
            "ports": ["left", "right"],
            "functions": [{ "first": forward }, { "second": forward }],
        } },
    })
}

fn point(bench: &Bench, stage: &Stage, run: &mut Run, rate_pps: Option<f64>) -> Result<Point, BenchError> {
    let sender = Sender::start(&stage.client, target(), MANAGER_CORE, rate_pps)?;
    pause(bench.settle())?;
    let before = run.stats()?;
    let (start, sent, arrived) = (Instant::now(), sender.sent(), received_pkts(&stage.server, "eth0")?);
    pause(bench.interval().max(Duration::from_millis(600)))?;
    let (sent_after, arrived_after) = (sender.sent(), received_pkts(&stage.server, "eth0")?);
    let seconds = start.elapsed().as_secs_f64();
    let after = run.stats()?;
    drop(sender);
    Ok(Point {
        offered_pps: (sent_after - sent) as f64 / seconds,
        delivered_pps: (arrived_after - arrived) as f64 / seconds,
        interval: Interval::between(&before, &after),
    })
}
