//! `hop/skmsg-checked`, `hop/ring`: what passing a descriptor costs, without sockets, HTTP or functions around it.
//!
//! `skmsg-checked` is what chains use: sender, edge and holder are checked in the kernel. `skmsg-plain` redirects and checks
//! nothing; it is the reference. Throughput is that of many descriptors in flight ([`MANY_IN_FLIGHT`], and fewer in the cases
//! that end in a number), latency that of one alone. Which goes first changes from turn to turn.

use crate::BenchError;
use crate::bench::Bench;
use crate::hops::{self, HopResult};
use crate::run::go_on;
use crate::statistics::Figure;

/// As many as a busy chain has.
const MANY_IN_FLIGHT: usize = 128;
/// What checked hops are compared with.
const PLAIN: &str = "skmsg-plain";
/// Cases, their hop, how many descriptors are in flight, and what they are compared with.
const CASES: [(&str, &str, usize, Option<&str>); 4] = [
    ("hop/skmsg-checked", "skmsg-checked", MANY_IN_FLIGHT, Some(PLAIN)),
    ("hop/skmsg-checked/16", "skmsg-checked", 16, Some(PLAIN)),
    ("hop/ring", "ring", MANY_IN_FLIGHT, None),
    ("hop/ring/16", "ring", 16, None),
];

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    for (case, hop, in_flight, reference) in CASES {
        if bench.wants(case) {
            let measured = measure_one(bench, case, hop, in_flight, reference);
            bench.outcome_of(case, measured)?;
        }
    }
    Ok(())
}

fn measure_one(
    bench: &mut Bench,
    case: &str,
    hop: &str,
    in_flight: usize,
    reference: Option<&str>,
) -> Result<(), BenchError> {
    // By kind of hop: its own, then the reference's.
    let kinds: Vec<&str> = std::iter::once(hop).chain(reference).collect();
    let (mut rates, mut latencies) = (vec![Vec::new(); kinds.len()], vec![Vec::new(); kinds.len()]);
    let mut costs = vec![Vec::new(); kinds.len()];
    for repetition in 0..bench.repetitions() {
        bench.progress(&format!("{case}, {} of {}", repetition + 1, bench.repetitions()));
        for turn in 0..kinds.len() {
            let at = (turn + repetition) % kinds.len();
            let many = ask(bench, kinds[at], in_flight)?;
            rates[at].push(many.hops_per_second);
            costs[at].push(many.cpu_ns_per_hop());
            latencies[at].push(ask(bench, kinds[at], 1)?.latency_p50_ns / 1000.0);
        }
    }
    let metrics = [("throughput", "hops/s", rates), ("latency_p50", "us", latencies), ("cpu_per_hop", "ns", costs)];
    for (metric, unit, values) in metrics {
        let Some(figure) = Figure::of(&values[0]) else { continue };
        let entry = bench.entry(case, metric, unit, figure);
        bench.entries.push(match (reference, values.get(1).and_then(|values| Figure::of(values))) {
            (Some(reference), Some(figure)) => entry.against(reference, figure),
            _ => entry,
        });
    }
    Ok(())
}

fn ask(bench: &Bench, hop: &str, in_flight: usize) -> Result<HopResult, BenchError> {
    go_on()?;
    let seconds = bench.interval().as_secs_f64();
    match hop {
        "ring" => hops::ring(in_flight, seconds),
        other => hops::skmsg(other != PLAIN, in_flight, seconds),
    }
}
