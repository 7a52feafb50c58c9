//! `overload/process`: what a chain still delivers when far more is offered than it can carry.
//!
//! A sender on core 0 offers datagrams at set rates over a veth cable, and goes on whether anybody takes them or not; the whole
//! chain - manager, a forwarder and a function that computes for microseconds - shares core 1 and sends by another veth,
//! behind which the kernel counts.
//! This is where receive livelock shows: the manager could spend the core on packets that the functions then have no time for.
//! The ratio is what is delivered at the highest offered load over the best that any load delivered; 1 is no loss at all.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::subject::{NOBODY, forward};
use super::{BENCH, FUNCTION_CORE, MANAGER_CORE};
use crate::BenchError;
use crate::bench::Bench;
use crate::outcome::Entry;
use crate::programs::Programs;
use crate::run::{Run, pause};
use crate::sample::Interval;
use crate::sender::Sender;
use crate::stage::{Stage, received_pkts};
use crate::statistics::Figure;

pub(super) const CASE: &str = "overload/process";
/// Where datagrams go; its link address is set by hand, for no one answers for it.
const TARGET: &str = "10.9.0.2";

/// Offered loads in thousands of packets per second. After them comes all that the sender can do.
const RATES_KPPS: [u32; 8] = [25, 50, 75, 100, 150, 200, 300, 400];
const QUICK_RATES_KPPS: [u32; 3] = [50, 100, 200];

/// What the second function does per packet; some microseconds, so that the chain carries far less than the sender can offer.
const ROUNDS: u32 = 5000;

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
    let manifest = manifest(functions(&bench.programs)?);
    let mut run = Run::start(&bench.programs, &bench.folder, Some(&stage.middle), manifest)?;
    let rates_kpps: &[u32] = if bench.quick { &QUICK_RATES_KPPS } else { &RATES_KPPS };
    let rates: Vec<Option<u32>> = rates_kpps.iter().copied().map(Some).chain([None]).collect();
    let mut sweeps = Vec::new();
    for repetition in 0..bench.repetitions() {
        bench.progress(&format!("{CASE}, {} of {}", repetition + 1, bench.repetitions()));
        let points = rates
            .iter()
            .map(|&rate| point(bench, &stage, &mut run, rate.map(|kpps| f64::from(kpps) * 1e3)))
            .collect::<Result<Vec<_>, _>>()?;
        sweeps.push(points);
    }
    run.stop()?;
    let most = |value: fn(&Point) -> f64| sweeps.iter().filter_map(|s| s.last()).map(value).sum::<f64>();
    if most(|p| p.delivered_pps) > 0.9 * most(|p| p.offered_pps) {
        return Err(BenchError::Failed(
            "this was no overload: the sender offered hardly more than the chain carries".into(),
        ));
    }
    if let Some(figure) = ratio(&sweeps.iter().map(|s| s.iter().map(|p| p.delivered_pps).collect()).collect::<Vec<_>>())
    {
        bench.entries.push(Entry::new(BENCH, CASE, "ratio", "of peak", figure));
    }
    for (at, rate) in rates.iter().enumerate() {
        let case = match rate {
            Some(kpps) => format!("{CASE}/{kpps}k"),
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

/// Delivered at the last load over the best of all loads, by the medians of the sweeps: the best of single readings would be
/// the luckiest one.
fn ratio(sweeps: &[Vec<f64>]) -> Option<Figure> {
    let last_over_best =
        |delivered: &[f64]| Some(delivered.last()? / delivered.iter().copied().fold(f64::MIN, f64::max));
    let loads = sweeps.first()?.len();
    let medians: Option<Vec<f64>> =
        (0..loads).map(|at| Some(Figure::of(&sweeps.iter().map(|s| s[at]).collect::<Vec<_>>())?.value)).collect();
    let single: Vec<f64> = sweeps.iter().filter_map(|s| last_over_best(s)).collect();
    Some(Figure { value: last_over_best(&medians?)?, spread: Figure::of(&single)?.spread })
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

/// Functions between the interfaces of a [`Stage`], the manager and they on one core.
pub(super) fn manifest(functions: Value) -> Value {
    json!({
        "ports": { "left": { "xdp": "left" }, "right": { "xdp": "right" } },
        "cores": { "manager": [FUNCTION_CORE], "functions": [FUNCTION_CORE] },
        "chains": { "chain": { "ports": ["left", "right"], "functions": functions } },
    })
}

/// The second function is what limits the chain; what the first has done for a packet that the second has no room for is wasted.
fn functions(programs: &Programs) -> Result<Value, BenchError> {
    let costly = json!({ "run": programs.path("middlenet-bench-ttl")?, "config": { "rounds": ROUNDS } });
    Ok(json!([{ "forward": { "use": "l2-forward", "config": forward() } }, { "costly": costly }]))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_of_medians() {
        let sweeps = [vec![50.0, 100.0, 95.0], vec![50.0, 190.0, 90.0], vec![50.0, 100.0, 96.0]];
        let figure = ratio(&sweeps).unwrap();
        assert_eq!(figure.value, 0.95);
        assert!((figure.spread - (0.96 - 90.0 / 190.0)).abs() < 1e-9);
        assert_eq!(ratio(&[vec![10.0, 12.0]]).unwrap().value, 1.0);
        assert_eq!(ratio(&[]), None);
    }
}
