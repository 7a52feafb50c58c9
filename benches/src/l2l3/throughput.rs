//! Chains at their limit, each repetition beside one of its reference.

use super::BENCH;
use super::subject::{Reference, Subject};
use crate::BenchError;
use crate::bench::Bench;
use crate::cpu::CpuTime;
use crate::outcome::Entry;
use crate::ring_pipeline::RingPipeline;
use crate::run::{Run, pause};
use crate::sample::Interval;
use crate::statistics::Figure;
use crate::testpmd;

/// Share of an interval for which the worker may wait for its core before it counts as disturbed: the kernel's own housekeeping
/// is below.
const DISTURBED: f64 = 0.02;
/// How often a disturbed repetition is measured.
const ATTEMPTS: usize = 3;

/// References that are prepared once.
#[derive(Default)]
struct Peers {
    ring_pipeline: Option<RingPipeline>,
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let mut peers = Peers::default();
    for subject in Subject::all(bench.quick) {
        let case = subject.case();
        if bench.wants(&case) {
            let measured = measure_one(bench, &subject, &mut peers);
            bench.outcome_of(&case, measured)?;
        }
    }
    Ok(())
}

fn measure_one(bench: &mut Bench, subject: &Subject, peers: &mut Peers) -> Result<(), BenchError> {
    let case = subject.case();
    let mut intervals = Vec::new();
    let mut references = Vec::new();
    for repetition in 0..bench.repetitions() {
        bench.progress(&format!("{case}, {} of {}", repetition + 1, bench.repetitions()));
        intervals.push(undisturbed_run(bench, subject)?);
        if let Some(reference) = subject.reference {
            references.push(one_reference(bench, subject, reference, peers)? / 1e6);
        }
    }
    let rates: Vec<f64> = intervals.iter().map(Interval::mpps).collect();
    if let Some(figure) = Figure::of(&rates) {
        let entry = Entry::new(BENCH, &case, "throughput", "Mpps", figure);
        bench.entries.push(match (subject.reference, Figure::of(&references)) {
            (Some(reference), Some(figure)) => entry.against(reference.name(), figure),
            _ => entry,
        });
    }
    bench.push(
        &case,
        "cycles_per_packet",
        "cycles",
        &intervals.iter().map(Interval::cycles_per_packet).collect::<Vec<_>>(),
    );
    let latencies: Vec<_> = intervals.iter().filter_map(|i| i.hop_latency).collect();
    bench.push(&case, "hop_latency_p50", "ns", &latencies.iter().map(|l| l.p50_ns as f64).collect::<Vec<_>>());
    bench.push(&case, "hop_latency_p99", "ns", &latencies.iter().map(|l| l.p99_ns as f64).collect::<Vec<_>>());
    Ok(())
}

/// The least disturbed of a few attempts, the first if nobody disturbed it.
fn undisturbed_run(bench: &mut Bench, subject: &Subject) -> Result<Interval, BenchError> {
    let attempts = if bench.quick { 1 } else { ATTEMPTS };
    let mut best: Option<(f64, Interval)> = None;
    for _ in 0..attempts {
        let (waited, interval) = one_run(bench, subject)?;
        if best.as_ref().is_none_or(|(least, _)| waited < *least) {
            best = Some((waited, interval));
        }
        if waited <= DISTURBED {
            break;
        }
        bench.progress(&format!("the worker had to wait for its core for {:.0} % of the time", 100.0 * waited));
    }
    let (waited, interval) = best.ok_or_else(|| BenchError::Failed("nothing was attempted".into()))?;
    bench.disturbed += usize::from(waited > DISTURBED);
    Ok(interval)
}

/// What happened in the interval, and for which share of it the manager's threads had to wait for a core.
fn one_run(bench: &Bench, subject: &Subject) -> Result<(f64, Interval), BenchError> {
    let manifest = subject.manifest(&bench.programs, &bench.folder)?;
    let mut run = Run::start(&bench.programs, &bench.folder, None, manifest)?;
    let manager = run.status()?.manager.pid;
    pause(bench.settle())?;
    let waited_ns = || manager.and_then(CpuTime::of).map_or(0, |time| time.waiting_ns);
    let (waited_before, before) = (waited_ns(), run.stats()?);
    pause(bench.interval())?;
    let (after, waited_after) = (run.stats()?, waited_ns());
    run.stop()?;
    let interval = Interval::between(&before, &after);
    // A chain that drops is not measured by what it sends: something is wrong with the case.
    if interval.sent_pkts == 0 || interval.dropped_pkts > interval.sent_pkts / 100 {
        let (sent, dropped) = (interval.sent_pkts, interval.dropped_pkts);
        return Err(BenchError::Failed(format!("{sent} packets were sent and {dropped} dropped")));
    }
    Ok((waited_after.saturating_sub(waited_before) as f64 / 1e9 / interval.seconds, interval))
}

/// Packets per second of the reference, on the same devices.
fn one_reference(bench: &Bench, subject: &Subject, reference: Reference, peers: &mut Peers) -> Result<f64, BenchError> {
    match reference {
        Reference::Testpmd => testpmd::run(&subject.left(&bench.folder)?, "net_null1", if bench.quick { 1 } else { 2 }),
        Reference::RingPipeline => {
            let pipeline = match peers.ring_pipeline.take() {
                Some(pipeline) => pipeline,
                None => RingPipeline::compile(&bench.folder)?,
            };
            let rate = pipeline.run(subject.frame_bytes(), bench.interval().as_secs_f64());
            peers.ring_pipeline = Some(pipeline);
            rate
        }
    }
}
