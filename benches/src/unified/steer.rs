//! `steer/rulesN`: what N rules cost beside a program that hands over every packet.
//!
//! `throughput` and `ns_per_packet` are of whole packets: received, classified, copied to an AF_XDP socket, all on one core
//! (see `lane.rs`). `program` is the time of the BPF program alone, by running it in the kernel on one packet after the other.

use std::time::Duration;

use middlenet_bpf::{Trial, Verdict};
use middlenet_steer::Tables;

use super::lane::{Lane, Seen};
use super::rules::{self, Meets, Packet};
use super::source::Kind;
use crate::BenchError;
use crate::bench::Bench;
use crate::priority::Raised;
use crate::run::go_on;
use crate::statistics::Figure;

const COUNTS: [usize; 5] = [1, 10, 100, 1000, 4000];
const QUICK_COUNTS: [usize; 4] = [1, 10, 100, 1000];
const REFERENCE: &str = "xdp-redirect";

/// Cores that the receiving thread may wait for in a repetition that counts, as others had them.
const DISTURBED: f64 = 0.05;
/// Attempts at a repetition that was disturbed.
const ATTEMPTS: usize = 4;

/// Packets of each kind in a trial, and runs with each. A system call for runs takes tens of milliseconds before it begins.
const TRIAL_PACKETS: usize = 4;
const RUNS: u32 = 20_000;
const TRIAL_REPETITIONS: usize = 2;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let counts: &[usize] = if bench.quick { &QUICK_COUNTS } else { &COUNTS };
    let counts: Vec<usize> = counts.iter().copied().filter(|&count| bench.wants(&case(count))).collect();
    if counts.is_empty() {
        return Ok(());
    }
    let measured = counts
        .iter()
        .map(|&count| rules::tables(count))
        .collect::<Result<Vec<_>, _>>()
        .and_then(|tables| on_cables(bench, &counts, &tables).and_then(|()| alone(bench, &counts, &tables)));
    bench.outcome_of("steer", measured)
}

fn case(count: usize) -> String {
    format!("steer/rules{count}")
}

fn repetitions(bench: &Bench) -> usize {
    if bench.quick { 5 } else { 9 }
}

/// Each number of rules in turn with the reference, which has the same packets.
fn on_cables(bench: &mut Bench, counts: &[usize], tables: &[Tables]) -> Result<(), BenchError> {
    let _raised = Raised::now()?;
    for (&count, tables) in counts.iter().zip(tables) {
        let mix = rules::mix(tables);
        let kinds: &[Kind] = if bench.quick && count != 10 && count != 1000 { &[Kind::Socket] } else { &Kind::ALL };
        for &kind in kinds {
            let case = match kind {
                Kind::Socket => case(count),
                Kind::Frames => format!("{}/frames", case(count)),
            };
            bench.progress(&case);
            on_a_cable(bench, &case, tables, kind, &mix)?;
        }
    }
    Ok(())
}

fn on_a_cable(
    bench: &mut Bench,
    case: &str,
    tables: &Tables,
    kind: Kind,
    packets: &[Packet],
) -> Result<(), BenchError> {
    let time = Duration::from_millis(if bench.quick { 200 } else { 600 });
    let mut plain = Lane::lay(&format!("p{}", std::process::id()), None, kind, packets)?;
    let mut steered = Lane::lay(&format!("s{}", std::process::id()), Some(tables), kind, packets)?;
    let mut seen = Vec::new();
    for _ in 0..repetitions(bench) {
        let reference = undisturbed(bench, &mut plain, time)?;
        seen.push((undisturbed(bench, &mut steered, time)?, reference));
    }
    let figure = |of: &dyn Fn(&(Seen, Seen)) -> f64| {
        Figure::of(&seen.iter().map(of).collect::<Vec<_>>())
            .ok_or_else(|| BenchError::Failed("no packet was delivered".into()))
    };
    let metrics = [
        ("throughput", "Mpps", (|seen| seen.delivered_pps / 1e6) as fn(&Seen) -> f64),
        ("ns_per_packet", "ns", |seen| seen.ns_per_packet),
        ("cpu", "cores", |seen| seen.cpu),
    ];
    for (metric, unit, of) in metrics {
        let reference = figure(&|s| of(&s.1))?;
        let entry = bench.entry(case, metric, unit, figure(&|s| of(&s.0))?).against(REFERENCE, reference);
        bench.entries.push(entry);
    }
    let missed = bench.entry(case, "missed", "packets", figure(&|s| s.0.missed_pkts as f64)?);
    bench.entries.push(missed);
    Ok(())
}

fn undisturbed(bench: &mut Bench, lane: &mut Lane, time: Duration) -> Result<Seen, BenchError> {
    let mut best: Option<Seen> = None;
    for _ in 0..ATTEMPTS {
        let seen = lane.measure(time / 4, time)?;
        if best.is_none_or(|best| seen.waited < best.waited) {
            best = Some(seen);
        }
        if seen.waited <= DISTURBED {
            break;
        }
        bench.disturbed += 1;
    }
    best.ok_or_else(|| BenchError::Failed("nothing was measured".into()))
}

/// The programs without an interface.
fn alone(bench: &mut Bench, counts: &[usize], tables: &[Tables]) -> Result<(), BenchError> {
    let failed = |error: middlenet_bpf::Error| BenchError::Failed(error.to_string());
    bench.progress("steer, the programs alone");
    let plain = Trial::redirect().map_err(failed)?;
    for (&count, tables) in counts.iter().zip(tables) {
        let steering = Trial::steering(tables).map_err(failed)?;
        let kinds = Meets::ALL.map(|meets| (meets, rules::packets(tables, meets, TRIAL_PACKETS)));
        let (mut redirected, mut steered) = (Vec::new(), kinds.each_ref().map(|_| Vec::new()));
        for _ in 0..TRIAL_REPETITIONS {
            redirected.push(per_run(&plain, &kinds[0].1)?);
            for ((_, packets), times) in kinds.iter().zip(&mut steered) {
                times.push(per_run(&steering, packets)?);
            }
        }
        for ((meets, _), times) in kinds.iter().zip(&steered) {
            if let (Some(steered), Some(redirect)) = (Figure::of(times), Figure::of(&redirected)) {
                let case = format!("{}/{}", case(count), meets.name());
                let entry = bench.entry(&case, "program", "ns", steered).against(REFERENCE, redirect);
                bench.entries.push(entry);
            }
        }
    }
    Ok(())
}

/// Nanoseconds of one run, the mean over packets.
fn per_run(trial: &Trial, packets: &[Packet]) -> Result<f64, BenchError> {
    let mut sum = 0.0;
    for packet in packets {
        go_on()?;
        let run = trial.run(packet, RUNS).map_err(|error| BenchError::Failed(error.to_string()))?;
        if run.verdict != Verdict::Redirect {
            return Err(BenchError::Failed(format!("a packet was not handed over: {:?}", run.verdict)));
        }
        sum += f64::from(run.mean_ns);
    }
    Ok(sum / packets.len() as f64)
}
