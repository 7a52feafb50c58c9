//! `hop/skmsg-checked`, `hop/ring`: what passing a descriptor costs, without sockets, HTTP or functions around it.
//!
//! A program beside `middlenet`, [`PROGRAM`], passes descriptors around a loop of processes, and is asked like this:
//!
//! ```text
//! middlenet-bench-hop --hop skmsg-checked|skmsg-plain|ring --in-flight N --seconds S
//! {"hops_per_s": 512000.0, "latency_p50_us": 8.1}
//! ```
//!
//! `skmsg-checked` is what chains use: sender, edge and holder are checked in the kernel. `skmsg-plain` redirects and checks
//! nothing; it is the reference. Throughput is that of many descriptors in flight, latency that of one alone.

use serde::Deserialize;
use std::process::Command;
use std::time::Duration;

use middlenet_tests::Process;

use crate::BenchError;
use crate::bench::Bench;
use crate::run::go_on;
use crate::statistics::Figure;

const PROGRAM: &str = "middlenet-bench-hop";
/// As many as a busy chain has.
const MANY_IN_FLIGHT: usize = 128;
/// Beyond its time of measuring.
const PATIENCE: Duration = Duration::from_secs(15);
/// What checked hops are compared with.
const PLAIN: &str = "skmsg-plain";
/// Hops that are cases, and what each is compared with.
const HOPS: [(&str, Option<&str>); 2] = [("skmsg-checked", Some(PLAIN)), ("ring", None)];

/// What the program answers.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    hops_per_s: f64,
    latency_p50_us: f64,
}

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    for (hop, reference) in HOPS {
        let case = format!("hop/{hop}");
        if bench.wants(&case) {
            let measured = measure_one(bench, &case, hop, reference);
            bench.outcome_of(&case, measured)?;
        }
    }
    Ok(())
}

fn measure_one(bench: &mut Bench, case: &str, hop: &str, reference: Option<&str>) -> Result<(), BenchError> {
    // By kind of hop: its own, then the reference's.
    let kinds: Vec<&str> = std::iter::once(hop).chain(reference).collect();
    let (mut rates, mut latencies) = (vec![Vec::new(); kinds.len()], vec![Vec::new(); kinds.len()]);
    for repetition in 0..bench.repetitions() {
        bench.progress(&format!("{case}, {} of {}", repetition + 1, bench.repetitions()));
        for (at, kind) in kinds.iter().enumerate() {
            rates[at].push(ask(bench, kind, MANY_IN_FLIGHT)?.hops_per_s);
            latencies[at].push(ask(bench, kind, 1)?.latency_p50_us);
        }
    }
    for (metric, unit, values) in [("throughput", "hops/s", rates), ("latency_p50", "us", latencies)] {
        let Some(figure) = Figure::of(&values[0]) else { continue };
        let entry = bench.entry(case, metric, unit, figure);
        bench.entries.push(match (reference, values.get(1).and_then(|values| Figure::of(values))) {
            (Some(reference), Some(figure)) => entry.against(reference, figure),
            _ => entry,
        });
    }
    Ok(())
}

fn ask(bench: &Bench, hop: &str, in_flight: usize) -> Result<Answer, BenchError> {
    go_on()?;
    let seconds = bench.interval().as_secs_f64();
    let program = bench.programs.path(PROGRAM);
    let program = program.map_err(|_| BenchError::Host(format!("there is no {PROGRAM} beside this program to ask")))?;
    let mut command = Command::new(program);
    command.args(["--hop", hop, "--in-flight", &in_flight.to_string(), "--seconds", &seconds.to_string()]);
    let output = Process::spawn(&mut command)?.wait(PATIENCE + bench.interval())?;
    if !output.status.success() {
        return Err(BenchError::Failed(format!("{PROGRAM} ended with {}: {}", output.status, output.stderr.trim())));
    }
    parse(&output.stdout)
}

fn parse(text: &str) -> Result<Answer, BenchError> {
    serde_json::from_str(text).map_err(|e| BenchError::Failed(format!("{PROGRAM} says `{}`: {e}", text.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_one_object() {
        let answer = parse("{\"hops_per_s\": 512000, \"latency_p50_us\": 8.1}\n").unwrap();
        assert_eq!(answer, Answer { hops_per_s: 512_000.0, latency_p50_us: 8.1 });
        assert!(parse("").is_err());
        assert!(parse("{\"hops_per_s\": 1}").is_err());
    }
}
