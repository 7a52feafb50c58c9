//! `join`: packets at a rate that the box carries with room to spare; then requests join, as many as they can be, and leave.
//!
//! Throughput of both by time, on one interface and on two; and by how much packets become fewer while there are requests.

use std::time::{Duration, Instant};

use super::site::{Layout, Site, all_answered};
use crate::BenchError;
use crate::bench::Bench;
use crate::run::pause;
use crate::statistics::Figure;

const CASE: &str = "join";
/// Bytes of a packet without its FCS.
const FRAME_BYTES: usize = 508;
const RATE_PPS: f64 = 50_000.0;
/// Of the time series.
const STEP: Duration = Duration::from_millis(250);
const PATIENCE: Duration = Duration::from_secs(20);

/// Names of what is counted, by place in [`Sample`].
pub(super) const LOADS: [&str; 2] = ["packets", "responses"];

/// The end of a step in seconds since the beginning, and bits per second of packets and of responses within it.
type Sample = (f64, [f64; 2]);

/// How long, in seconds: packets alone, requests too, packets alone again.
struct Times {
    alone: u64,
    both: u64,
}

/// A layout, what is counted and the second, of a case that is a point of the time series.
pub(super) fn point_of(case: &str) -> Option<(&str, &str, f64)> {
    let mut parts = case.strip_prefix("join/")?.split('/');
    Some((parts.next()?, parts.next()?, parts.next()?.parse().ok()?))
}

pub(super) fn name(layout: Layout) -> &'static str {
    match layout {
        Layout::Unified => "unified",
        Layout::Separate => "separate",
    }
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    if !bench.wants(CASE) {
        return Ok(());
    }
    let measured = series(bench);
    bench.outcome_of(CASE, measured)
}

fn series(bench: &mut Bench) -> Result<(), BenchError> {
    let site = Site::build(bench)?;
    let times = if bench.quick { Times { alone: 1, both: 2 } } else { Times { alone: 4, both: 6 } };
    let mut interference = Vec::new();
    for layout in Layout::BOTH {
        bench.progress(&format!("{CASE}, {}", name(layout)));
        let run = site.start(bench, layout)?;
        let samples = play(&site, layout, &times)?;
        run.stop()?;
        for (second, loads) in &samples {
            for (load, bps) in LOADS.into_iter().zip(loads) {
                let case = format!("{CASE}/{}/{load}/{second:.2}", name(layout));
                bench.push(&case, "throughput", "Mb/s", &[bps / 1e6]);
            }
        }
        interference.push(lost_percent(&samples, &times).unwrap_or(f64::NAN));
    }
    let figure = |value: f64| Figure::of(&[value]);
    if let (Some(unified), Some(separate)) = (figure(interference[0]), figure(interference[1])) {
        let mut entry = bench.entry(CASE, "interference", "%", unified).against("separate", separate);
        // Of two percentages near 0 a quotient says nothing.
        entry.ratio = None;
        bench.entries.push(entry);
    }
    Ok(())
}

fn play(site: &Site, layout: Layout, times: &Times) -> Result<Vec<Sample>, BenchError> {
    let sender = site.packets(FRAME_BYTES, Some(RATE_PPS))?;
    pause(STEP)?;
    let mut samples = Vec::new();
    let mut requests = None;
    let start = Instant::now();
    let (joins, all) = (Duration::from_secs(times.alone), Duration::from_secs(2 * times.alone + times.both));
    let mut last = (start, site.arrived(layout)?);
    while start.elapsed() < all {
        if requests.is_none() && start.elapsed() + STEP / 2 >= joins {
            requests = Some(site.requests(layout, times.both)?);
        }
        let next = start + STEP * (samples.len() as u32 + 1);
        pause(next.saturating_duration_since(Instant::now()))?;
        let now = (Instant::now(), site.arrived(layout)?);
        let seconds = (now.0 - last.0).as_secs_f64();
        let bps = [0, 1].map(|at| (now.1[at].bytes - last.1[at].bytes) as f64 * 8.0 / seconds);
        samples.push(((now.0 - start).as_secs_f64(), bps));
        last = now;
    }
    drop(sender);
    let ended = requests.ok_or_else(|| BenchError::Failed("no requests were sent".into()))?.wait(PATIENCE)?;
    all_answered(&ended.stdout)?;
    Ok(samples)
}

/// By how much packets were fewer while there were requests, in percent of what they were before. Steps at the edges, which
/// have of both, do not count.
fn lost_percent(samples: &[Sample], times: &Times) -> Option<f64> {
    let edge = 1.5 * STEP.as_secs_f64();
    let mean = |from: f64, to: f64| {
        let within = samples.iter().filter(|(second, _)| (from..=to).contains(second));
        let (count, sum) = within.fold((0_u32, 0.0), |(count, sum), (_, bps)| (count + 1, sum + bps[0]));
        (count > 0).then(|| sum / f64::from(count))
    };
    let (joins, leaves) = (times.alone as f64, (times.alone + times.both) as f64);
    Some(100.0 * (1.0 - mean(joins + edge, leaves - edge)? / mean(0.0, joins - edge)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interference_is_what_packets_lose_while_there_are_requests() {
        let times = Times { alone: 2, both: 2 };
        let packets = |second: f64| match second {
            s if s <= 2.0 => 200.0,
            s if s <= 2.25 => 7.0,
            s if s <= 4.0 => 190.0,
            _ => 200.0,
        };
        let samples: Vec<Sample> = (1..=24).map(|n| f64::from(n) / 4.0).map(|s| (s, [packets(s), 0.0])).collect();
        let lost = lost_percent(&samples, &times).unwrap();
        assert!((lost - 5.0).abs() < 1e-9, "{lost}");
        assert_eq!(lost_percent(&[], &times), None);
    }

    #[test]
    fn a_point_of_the_series_is_told_from_the_sum() {
        assert_eq!(point_of("join/unified/packets/0.25"), Some(("unified", "packets", 0.25)));
        assert_eq!(point_of("join"), None);
        assert_eq!(point_of("aggregate/64/packets"), None);
    }
}
