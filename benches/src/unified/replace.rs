//! `replace`: 1,000 rules are replaced by 1,000 others, again and again, while packets pass. None may be lost.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::site::{Layout, Site, manifest_with};
use crate::BenchError;
use crate::bench::Bench;
use crate::run::{Run, pause};

const CASE: &str = "replace/rules1000";
const RULES: u32 = 1000;
const FRAME_BYTES: usize = 60;
/// Far below what passes, so that none is lost for want of time on a host that others use.
const RATE_PPS: f64 = 20_000.0;
/// Until the last packets have arrived.
const DRAIN: Duration = Duration::from_millis(300);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    if !bench.wants(CASE) {
        return Ok(());
    }
    bench.progress(CASE);
    let measured = replace(bench);
    bench.outcome_of(CASE, measured)
}

/// Rules that no packet of ours meets, other ones for each number, in front of those that they do.
fn rules(number: u32) -> Vec<Value> {
    let rule = |at: u32| {
        let [_, _, c, d] = at.to_be_bytes();
        json!({ "dst": format!("10.{}.{c}.{d}", 100 + number % 100), "proto": "udp", "dst_port": 1000 + at, "to": "drop" })
    };
    (0..RULES).map(rule).collect()
}

fn replace(bench: &mut Bench) -> Result<(), BenchError> {
    let site = Site::build(bench)?;
    let manifest = |number| manifest_with(Layout::Unified, site.upstreams(), rules(number));
    let mut run = Run::start(&bench.programs, &bench.folder, Some(site.middle()), manifest(0))?;
    site.wait_for_packets()?;
    let replacements = if bench.quick { 10 } else { 50 };
    let before = site.arrived(Layout::Unified)?[0].pkts;
    let sender = site.packets(FRAME_BYTES, Some(RATE_PPS))?;
    pause(bench.settle())?;
    let mut times = Vec::new();
    for number in 1..=replacements {
        let start = Instant::now();
        run.apply(manifest(number))?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let sent = sender.end();
    pause(DRAIN)?;
    let arrived = site.arrived(Layout::Unified)?[0].pkts - before;
    run.stop()?;
    bench.push(CASE, "time", "ms", &times);
    bench.push(CASE, "replacements", "times", &[f64::from(replacements)]);
    bench.push(CASE, "sent", "packets", &[sent as f64]);
    bench.push(CASE, "lost", "packets", &[sent.saturating_sub(arrived) as f64]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_set_has_a_thousand_rules_of_its_own() {
        let (first, second) = (rules(0), rules(1));
        assert_eq!((first.len(), second.len()), (1000, 1000));
        assert!(first.iter().zip(&second).all(|(a, b)| a != b));
        assert_eq!(first[300]["dst"], "10.100.1.44");
    }
}
