//! `web/cN` and `tailcall/cN`: a firewall and a load balancer in front of two servers (the paper's figures 4 to 6).
//!
//! ```text
//!   client 10.71.0.2 == 10.71.0.1 firewall 10.72.0.1 == 10.72.0.2 balancer 10.73.0.1 == 10.73.0.11, .12 servers
//!   client 10.71.0.2 == 10.71.0.1 firewall and balancer 10.73.0.1 == 10.73.0.11, .12 servers
//! ```

mod site;

use site::{Functions, Layout, Site};

use super::parties::Used;
use super::{ATTEMPTS, DISTURBED};
use crate::BenchError;
use crate::bench::Bench;
use crate::l4l7::case::Load;
use crate::l4l7::generator::{self, Seen};
use crate::outcome::Entry;
use crate::statistics::Figure;

/// Connections, with a request under way on each.
const CONNECTIONS: [usize; 6] = [4, 8, 12, 20, 28, 36];
const QUICK_CONNECTIONS: [usize; 2] = [4, 36];
/// For the boxes that are compared with one box.
const TAILCALL_CONNECTIONS: [usize; 3] = [4, 12, 36];

/// What one run of the load saw.
#[derive(Debug, Clone)]
struct Sample {
    seen: Seen,
    used: Used,
}

/// A metric by name, unit and value.
type Metric = (&'static str, &'static str, fn(&Sample) -> f64);

const METRICS: [Metric; 7] = [
    ("throughput", "req/s", |s| s.seen.rate),
    ("latency_p50", "us", |s| s.seen.p50_us),
    ("latency_p99", "us", |s| s.seen.p99_us),
    ("cpu", "cores", |s| s.used.in_boxes()),
    ("cpu_per_request", "us", |s| s.used.in_boxes() / s.seen.rate * 1e6),
    // What a core of boxes would carry if it did so with no more of them.
    ("throughput_per_core", "req/s", |s| s.seen.rate / s.used.in_boxes()),
    ("load_cpu", "cores", |s| s.used.load),
];
/// Of boxes apart.
const APART: [Metric; 2] =
    [("cpu_firewall", "cores", |s| s.used.boxes[0]), ("cpu_balancer", "cores", |s| s.used.boxes[1])];

/// What is compared with what.
struct Comparison {
    case: &'static str,
    connections: Vec<usize>,
    subject: (Layout, Functions),
    reference: (Layout, Functions),
    reference_name: &'static str,
    metrics: Vec<Metric>,
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let hybrid = (Layout::Separate, Functions::Hybrid);
    let comparisons = [
        Comparison {
            case: "web",
            connections: CONNECTIONS.to_vec(),
            subject: hybrid,
            reference: (Layout::Separate, Functions::Legacy),
            reference_name: "iptables+haproxy",
            metrics: [&METRICS[..], &APART].concat(),
        },
        Comparison {
            case: "tailcall",
            connections: TAILCALL_CONNECTIONS.to_vec(),
            subject: (Layout::One, Functions::Hybrid),
            reference: hybrid,
            reference_name: "separate",
            metrics: METRICS.to_vec(),
        },
    ];
    for comparison in comparisons {
        let case = |connections: usize| format!("{}/c{connections}", comparison.case);
        let in_time = |n: &usize| !bench.quick || QUICK_CONNECTIONS.contains(n);
        let wanted: Vec<usize> =
            comparison.connections.iter().copied().filter(in_time).filter(|&n| bench.wants(&case(n))).collect();
        if !wanted.is_empty() {
            let measured = compare(bench, &comparison, &wanted);
            bench.outcome_of(comparison.case, measured)?;
        }
    }
    Ok(())
}

/// Subject and reference in turns, each at all numbers of connections.
fn compare(bench: &mut Bench, comparison: &Comparison, connections: &[usize]) -> Result<(), BenchError> {
    // By side, then by number of connections, then by repetition.
    let mut samples = [vec![Vec::new(); connections.len()], vec![Vec::new(); connections.len()]];
    for repetition in 0..bench.repetitions() {
        for (side, (layout, functions)) in [comparison.reference, comparison.subject].into_iter().enumerate() {
            let name = if side == 0 { comparison.reference_name } else { "hybrid" };
            bench.progress(&format!("{}, {name}, {} of {}", comparison.case, repetition + 1, bench.repetitions()));
            let mut site = Site::start(bench, layout, functions)?;
            for (at, &connections) in connections.iter().enumerate() {
                samples[side][at].push(sample(bench, &site, connections)?);
            }
            site.check(bench)?;
            site.stop()?;
        }
    }
    let [references, subjects] = samples;
    for ((&connections, reference), subject) in connections.iter().zip(&references).zip(&subjects) {
        let case = format!("{}/c{connections}", comparison.case);
        let entries = entries(bench, &case, comparison, subject, reference);
        bench.entries.extend(entries);
    }
    Ok(())
}

/// The least disturbed of a few attempts, the first if nobody disturbed it.
fn sample(bench: &mut Bench, site: &Site, connections: usize) -> Result<Sample, BenchError> {
    let (attempts, seconds) = if bench.quick { (1, 1) } else { (ATTEMPTS, 3) };
    let mut best: Option<Sample> = None;
    for _ in 0..attempts {
        let run = || generator::run(Load::Wrk, site.target(), connections, seconds, &bench.folder);
        let (seen, used) = site.parties().during(run)?;
        let is_quiet = used.others <= DISTURBED;
        if !is_quiet {
            bench.progress(&format!("others used {:.2} cores", used.others));
        }
        if best.as_ref().is_none_or(|best| used.others < best.used.others) {
            best = Some(Sample { seen, used });
        }
        if is_quiet {
            break;
        }
    }
    let best = best.ok_or_else(|| BenchError::Failed("nothing was attempted".into()))?;
    bench.disturbed += usize::from(best.used.others > DISTURBED);
    Ok(best)
}

fn entries(bench: &Bench, case: &str, comparison: &Comparison, subject: &[Sample], reference: &[Sample]) -> Vec<Entry> {
    let figure = |samples: &[Sample], (_, _, value): Metric| Figure::of(&samples.iter().map(value).collect::<Vec<_>>());
    let mut entries = Vec::new();
    for &metric in &comparison.metrics {
        if let (Some(own), Some(other)) = (figure(subject, metric), figure(reference, metric)) {
            entries.push(bench.entry(case, metric.0, metric.1, own).against(comparison.reference_name, other));
        }
    }
    // A count: repetitions are summed, not averaged.
    let failed = |samples: &[Sample]| {
        let sum = samples.iter().map(|sample| sample.seen.failed as f64).sum();
        Figure { value: sum, spread: 0.0 }
    };
    let entry = bench.entry(case, "failed", "requests", failed(subject));
    entries.push(entry.against(comparison.reference_name, failed(reference)));
    entries
}
