//! Chains at their limit, each repetition beside one of its reference.

use super::subject::{Reference, Subject};
use super::{BENCH, Bench};
use crate::BenchError;
use crate::outcome::Entry;
use crate::ring_pipeline::RingPipeline;
use crate::run::{Run, pause};
use crate::sample::Interval;
use crate::statistics::Figure;
use crate::testpmd;

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
        intervals.push(one_run(bench, subject)?);
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

fn one_run(bench: &Bench, subject: &Subject) -> Result<Interval, BenchError> {
    let manifest = subject.manifest(&bench.programs, &bench.folder)?;
    let mut run = Run::start(&bench.programs, &bench.folder, None, manifest)?;
    pause(bench.settle())?;
    let before = run.stats()?;
    pause(bench.interval())?;
    let after = run.stats()?;
    run.stop()?;
    let interval = Interval::between(&before, &after);
    // A chain that drops is not measured by what it sends: something is wrong with the case.
    if interval.sent_pkts == 0 || interval.dropped_pkts > interval.sent_pkts / 100 {
        let (sent, dropped) = (interval.sent_pkts, interval.dropped_pkts);
        return Err(BenchError::Failed(format!("{sent} packets were sent and {dropped} dropped")));
    }
    Ok(interval)
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
