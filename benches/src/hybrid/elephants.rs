//! `elephants/...` and `all-slow`: a firewall, and a function that recognises what flows carry (the paper's figure 7).
//!
//! ```text
//!   client 10.71.0.2 == 10.71.0.1 firewall 10.72.0.1 == inspection == 10.72.0.2 server
//! ```
//!
//! Four TCP flows to ports of their own. A file of signatures says which ports are elephants': those flows go to the fast path
//! of `edpi` once it has classified them; the others stay with it.

mod site;

use std::time::Duration;

use site::{Firewall, Inspection, Site};

use super::parties::Used;
use super::transfers::PORTS;
use super::{ATTEMPTS, DISTURBED};
use crate::BenchError;
use crate::bench::Bench;
use crate::statistics::Figure;

/// What all are compared with, itself excepted.
const REFERENCE: &str = "elephants/0";
const ALL_SLOW: &str = "all-slow";
const LEGACY: &str = "legacy";

/// What arrived in a time, and who worked for it.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    /// At the server, frames without FCS.
    bits_per_s: f64,
    packets_per_s: f64,
    /// Packets that the fast path of the inspection decided about, of all that came there.
    fast_share: f64,
    used: Used,
}

impl Sample {
    /// By the box of the inspection, the last one.
    fn inspection(&self) -> f64 {
        self.used.boxes.last().copied().unwrap_or_default()
    }
}

/// A metric by name, unit and value.
type Metric = (&'static str, &'static str, fn(&Sample) -> f64);

const METRICS: [Metric; 6] = [
    ("throughput", "Gb/s", |s| s.bits_per_s / 1e9),
    ("cpu_inspection", "cores", Sample::inspection),
    ("cpu_inspection_per_gigabit", "ms", |s| s.inspection() / (s.bits_per_s / 1e9) * 1e3),
    ("cpu", "cores", |s| s.used.in_boxes()),
    ("load_cpu", "cores", |s| s.used.load),
    ("fast_share", "%", |s| s.fast_share * 100.0),
];
const CPU_FIREWALL: Metric = ("cpu_firewall", "cores", |s| s.used.boxes[0]);
const SMALL: [Metric; 2] = [("throughput", "Mpps", |s| s.packets_per_s / 1e6), ("cpu", "cores", |s| s.used.in_boxes())];

/// What runs in the two boxes, by name of the case.
fn lineup() -> Vec<(String, Firewall, Inspection)> {
    let elephants = (0..=PORTS.len())
        .map(|count| (format!("elephants/{}", count * 100 / PORTS.len()), Firewall::Efw, Inspection::Elephants(count)));
    let legacy = [
        ("elephants/ndpi", Firewall::Efw, Inspection::Legacy),
        ("elephants/iptables+ndpi", Firewall::Iptables, Inspection::Legacy),
    ];
    elephants.chain(legacy.map(|(case, firewall, inspection)| (case.into(), firewall, inspection))).collect()
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    let all = lineup();
    if all.iter().any(|(case, ..)| bench.wants(case)) {
        let measured = elephants(bench, &all);
        bench.outcome_of("elephants", measured)?;
    }
    if bench.wants(ALL_SLOW) {
        let measured = all_slow(bench);
        bench.outcome_of(ALL_SLOW, measured)?;
    }
    Ok(())
}

fn elephants(bench: &mut Bench, all: &[(String, Firewall, Inspection)]) -> Result<(), BenchError> {
    let in_time = |case: &str| !bench.quick || !matches!(case, "elephants/25" | "elephants/75");
    let taking_part: Vec<_> =
        all.iter().filter(|(case, ..)| case == REFERENCE || bench.wants(case) && in_time(case)).collect();
    let mut samples = vec![Vec::new(); taking_part.len()];
    for repetition in 0..bench.repetitions() {
        for ((case, firewall, inspection), samples) in taking_part.iter().zip(&mut samples) {
            bench.progress(&format!("{case}, {} of {}", repetition + 1, bench.repetitions()));
            let site = Site::start(bench, *firewall, *inspection)?;
            samples.push(least_disturbed(bench, site, Site::transfers)?);
        }
    }
    let reference = samples[0].clone();
    for ((case, ..), samples) in taking_part.iter().zip(&samples) {
        if bench.wants(case) {
            let metrics = METRICS.iter().chain([&CPU_FIREWALL]);
            let reference = (case != REFERENCE).then_some((REFERENCE, &reference[..]));
            push(bench, case, metrics, samples, reference);
        }
    }
    Ok(())
}

/// One box alone, so that nothing else has its core; in turns, and more of them, since little is expected between the two.
fn all_slow(bench: &mut Bench) -> Result<(), BenchError> {
    let repetitions = if bench.quick { 1 } else { 7 };
    let sides = [Inspection::Legacy, Inspection::Elephants(0)];
    let mut streams = [Vec::new(), Vec::new()];
    let mut small = [Vec::new(), Vec::new()];
    for repetition in 0..repetitions {
        bench.progress(&format!("{ALL_SLOW}, {} of {repetitions}", repetition + 1));
        // Who begins changes from turn to turn.
        for turn in 0..sides.len() {
            let side = (repetition + turn) % sides.len();
            let site = Site::start(bench, Firewall::None, sides[side])?;
            streams[side].push(least_disturbed(bench, site, Site::transfers)?);
            let site = Site::start(bench, Firewall::None, sides[side])?;
            small[side].push(least_disturbed(bench, site, Site::small_packets)?);
        }
    }
    push(bench, ALL_SLOW, METRICS.iter(), &streams[1], Some((LEGACY, &streams[0])));
    push(bench, &format!("{ALL_SLOW}/64"), SMALL.iter(), &small[1], Some((LEGACY, &small[0])));
    Ok(())
}

fn push<'m>(
    bench: &mut Bench,
    case: &str,
    metrics: impl Iterator<Item = &'m Metric>,
    samples: &[Sample],
    reference: Option<(&str, &[Sample])>,
) {
    let figure =
        |samples: &[Sample], value: fn(&Sample) -> f64| Figure::of(&samples.iter().map(value).collect::<Vec<_>>());
    for &(metric, unit, value) in metrics {
        let Some(own) = figure(samples, value) else { continue };
        let mut entry = bench.entry(case, metric, unit, own);
        if let Some((name, samples)) = reference
            && let Some(other) = figure(samples, value)
        {
            entry = entry.against(name, other);
        }
        bench.entries.push(entry);
    }
}

/// Of a few attempts, the first if nobody disturbed it; then the site goes.
fn least_disturbed(
    bench: &mut Bench,
    mut site: Site,
    attempt: fn(&mut Site, Duration) -> Result<Sample, BenchError>,
) -> Result<Sample, BenchError> {
    let (attempts, time) = if bench.quick { (1, Duration::from_secs(1)) } else { (ATTEMPTS, Duration::from_secs(3)) };
    let mut best: Option<Sample> = None;
    for _ in 0..attempts {
        let sample = attempt(&mut site, time)?;
        let is_quiet = sample.used.others <= DISTURBED;
        if !is_quiet {
            bench.progress(&format!("others used {:.2} cores", sample.used.others));
        }
        if best.as_ref().is_none_or(|best| sample.used.others < best.used.others) {
            best = Some(sample);
        }
        if is_quiet {
            break;
        }
    }
    site.stop()?;
    let best = best.ok_or_else(|| BenchError::Failed("nothing was attempted".into()))?;
    bench.disturbed += usize::from(best.used.others > DISTURBED);
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_the_first() {
        let names: Vec<_> = lineup().into_iter().map(|(case, ..)| case).collect();
        assert_eq!(names[0], REFERENCE);
        assert_eq!(names[1..5], ["elephants/25", "elephants/50", "elephants/75", "elephants/100"]);
    }
}
