//! One turn of one middlebox: its responses are verified, then it is loaded.

use super::backends::Backends;
use super::case::{Load, Subject};
use super::generator::{self, Seen};
use super::middlebox::Middlebox;
use super::usage::{Meter, Usage};
use super::verify::{Verified, verify};
use crate::BenchError;
use crate::bench::Bench;
use crate::outcome::Entry;
use crate::run::go_on;
use crate::statistics::Figure;

/// Cores used by others than those that take part, from which on a repetition counts as disturbed. The kernel's own
/// housekeeping, and what its clock ticks misjudge, are below.
const DISTURBED: f64 = 0.08;
/// How often a disturbed repetition is measured.
const ATTEMPTS: usize = 3;

/// What one turn gave.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    seen: Seen,
    usage: Usage,
    verified: Verified,
}

/// The least disturbed of a few attempts, the first if nobody disturbed it.
///
/// # Errors
/// When the middlebox does not do its job at all, or a generator fails.
pub(super) fn measure(
    bench: &mut Bench,
    (middlebox, backends): (&Middlebox, &Backends),
    load: Load,
    concurrency: usize,
) -> Result<Sample, BenchError> {
    let verified = verified(bench, middlebox, concurrency)?;
    let target = middlebox.target();
    let attempts = if bench.quick { 1 } else { ATTEMPTS };
    let seconds = match load {
        _ if bench.quick => 1,
        Load::Wrk => 3,
        Load::Ab | Load::AbClose => 2,
    };
    let (middlebox, servers) = (middlebox.pids(), middlebox.backends(backends).pids());
    let mut best: Option<(Seen, Usage)> = None;
    for _ in 0..attempts {
        let meter = Meter::start(&middlebox, &servers)?;
        let seen = generator::run(load, target, concurrency, seconds, &bench.folder)?;
        let usage = meter.stop()?;
        if best.is_none_or(|(_, least)| usage.others < least.others) {
            best = Some((seen, usage));
        }
        if usage.others <= DISTURBED {
            break;
        }
        bench.progress(&format!("others used {:.2} cores", usage.others));
    }
    let (seen, usage) = best.ok_or_else(|| BenchError::Failed("nothing was attempted".into()))?;
    bench.disturbed += usize::from(usage.others > DISTURBED);
    Ok(Sample { seen, usage, verified })
}

/// Connections are made and pools filled by the way.
fn verified(bench: &Bench, middlebox: &Middlebox, concurrency: usize) -> Result<Verified, BenchError> {
    let verified = verify(middlebox.target(), concurrency, if bench.quick { 500 } else { 3000 })?;
    go_on()?;
    if let Some(first) = &verified.first {
        let what = format!("{} of {} responses were wrong, the first: {first}", verified.failed, verified.requests);
        if verified.failed == verified.requests {
            return Err(BenchError::Failed(what));
        }
        bench.progress(&what);
    }
    if !verified.is_balanced() {
        return Err(BenchError::Failed(format!("requests were not spread over the servers in turn: {verified:?}")));
    }
    Ok(verified)
}

/// A metric by name, unit and value. The first ones are compared with the reference.
type Metric = (&'static str, &'static str, fn(&Sample) -> f64);

const COMPARED: [Metric; 5] = [
    ("throughput", "req/s", |s| s.seen.rate),
    ("latency_p50", "us", |s| s.seen.p50_us),
    ("latency_p99", "us", |s| s.seen.p99_us),
    ("cpu", "cores", |s| s.usage.middlebox),
    ("cpu_per_request", "us", |s| s.usage.middlebox / s.seen.rate * 1e6),
];
const LOAD_CPU: Metric = ("load_cpu", "cores", |s| s.usage.load);
/// Counts: repetitions are summed, not averaged.
const COUNTED: [Metric; 2] = [
    ("failed", "requests", |s| (s.seen.failed + s.verified.failed) as f64),
    ("verified", "requests", |s| s.verified.requests as f64),
];

/// The results of a case, given all its turns, beside those of the reference if there are any.
pub(super) fn entries(bench: &Bench, case: &str, samples: &[Sample], reference: Option<&[Sample]>) -> Vec<Entry> {
    let figure = |samples: &[Sample], (_, _, value): Metric| Figure::of(&samples.iter().map(value).collect::<Vec<_>>());
    let entry = |metric: Metric, figure| bench.entry(case, metric.0, metric.1, figure);
    let mut entries = Vec::new();
    for metric in COMPARED {
        let Some(own) = figure(samples, metric) else { continue };
        let entry = entry(metric, own);
        entries.push(match reference.and_then(|samples| figure(samples, metric)) {
            Some(figure) => entry.against(Subject::REFERENCE.title(), figure),
            None => entry,
        });
    }
    entries.extend(figure(samples, LOAD_CPU).map(|figure| entry(LOAD_CPU, figure)));
    for metric in COUNTED {
        let sum = samples.iter().map(metric.2).sum();
        entries.push(entry(metric, Figure { value: sum, spread: 0.0 }));
    }
    entries
}
