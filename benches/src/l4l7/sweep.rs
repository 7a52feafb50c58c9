//! All subjects at all concurrencies, in turns: one repetition of each, then the next of each.

use super::case::{self, Load, Subject};
use super::lineup::Lineup;
use super::point::{self, Sample};
use crate::BenchError;
use crate::bench::Bench;

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let points: Vec<(Load, usize)> = Load::all(bench.quick)
        .iter()
        .flat_map(|&load| case::concurrencies(bench.quick).iter().map(move |&concurrency| (load, concurrency)))
        .filter(|&(load, concurrency)| !wanted(bench, load, concurrency).is_empty())
        .collect();
    if points.is_empty() {
        return Ok(());
    }
    let mut lineup = Lineup::new(bench)?;
    for (load, concurrency) in points {
        measure_point(bench, &mut lineup, load, concurrency)?;
    }
    Ok(())
}

fn wanted(bench: &Bench, load: Load, concurrency: usize) -> Vec<Subject> {
    Subject::ALL.into_iter().filter(|&subject| bench.wants(&case::name(subject, load, concurrency))).collect()
}

/// The turns of a subject; nothing more once one failed.
struct Turns {
    subject: Subject,
    samples: Option<Vec<Sample>>,
}

fn measure_point(bench: &mut Bench, lineup: &mut Lineup, load: Load, concurrency: usize) -> Result<(), BenchError> {
    let wanted = wanted(bench, load, concurrency);
    let takes_part = |subject: &Subject| wanted.contains(subject) || *subject == Subject::REFERENCE;
    let mut all: Vec<Turns> = Subject::ALL
        .into_iter()
        .filter(takes_part)
        .map(|subject| Turns { subject, samples: Some(Vec::new()) })
        .collect();
    for repetition in 0..bench.repetitions() {
        let at = format!("{}/c{concurrency}, {} of {}", load.infix(), repetition + 1, bench.repetitions());
        for turns in &mut all {
            let Some(samples) = &mut turns.samples else { continue };
            bench.progress(&format!("{}{at}", turns.subject.prefix()));
            let Some(subject) = lineup.get(bench, turns.subject)? else {
                turns.samples = None;
                continue;
            };
            let measured = point::measure(bench, subject, load, concurrency);
            let ended = lineup.end_turn(turns.subject, measured.is_err());
            match measured.and_then(|sample| ended.map(|()| sample)) {
                Ok(sample) => samples.push(sample),
                Err(error) => {
                    turns.samples = None;
                    bench.outcome_of(&case::name(turns.subject, load, concurrency), Err(error))?;
                }
            }
        }
    }
    let samples_of = |subject: Subject| all.iter().find(|t| t.subject == subject).and_then(|t| t.samples.as_deref());
    for &subject in &wanted {
        if let Some(samples) = samples_of(subject) {
            let reference = samples_of(Subject::REFERENCE).filter(|_| subject != Subject::REFERENCE);
            let case = case::name(subject, load, concurrency);
            let entries = point::entries(bench, &case, samples, reference);
            bench.entries.extend(entries);
        }
    }
    Ok(())
}
