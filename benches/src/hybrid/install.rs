//! `install`: rules for flows that a function in a process of its own puts into the kernel in bulk; `remove`: those it takes out
//! one by one, which the SDK gathers.

use std::time::Duration;

use middlenet_runtime::api::Status;
use serde_json::{Value, json};

use super::row::Row;
use super::{BOX_CORE, LOAD_CORE};
use crate::BenchError;
use crate::bench::Bench;
use crate::run::Run;

const CASE: &str = "install";
const PROGRAM: &str = "middlenet-bench-rules";
/// Rules of a turn.
const FLOWS: usize = 100_000;
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    if !bench.wants(CASE) {
        return Ok(());
    }
    let measured = turns(bench);
    bench.outcome_of(CASE, measured)
}

fn turns(bench: &mut Bench) -> Result<(), BenchError> {
    let turns = if bench.quick { 2 } else { 9 };
    bench.progress(&format!("{CASE}, {turns} times {FLOWS} rules"));
    let row = Row::lay(&["client", "box", "server"], &[[None, None], [None, None]])?;
    let host = &row.boxes()[0];
    let devices = host.devices();
    let manifest = json!({
        "ports": { "left": { "xdp": devices[0] }, "right": { "xdp": devices[1] } },
        "cores": { "manager": [BOX_CORE], "functions": [LOAD_CORE] },
        "chains": { "transit": { "ports": ["left", "right"], "functions": [{ "rules": {
            "run": bench.programs.path(PROGRAM)?,
            "mode": "reactive",
            "config": { "flows": FLOWS, "turns": turns },
        } }] } },
    });
    let mut run = Run::start(&bench.programs, &bench.folder, Some(&host.netns), manifest)?;
    let mut done = Vec::new();
    while done.len() < turns {
        // Asked for by a question of its own, since others do not ask functions for their reports.
        run.wait_until("an answer of the run", PATIENCE, |_| true)?;
        done = rates(&run.status_with_reports()?)?;
        crate::run::pause(Duration::from_millis(50))?;
    }
    run.stop()?;
    for (case, at) in [(CASE.to_owned(), 0), (format!("{CASE}/remove"), 1)] {
        let values: Vec<f64> = done.iter().map(|rates| rates[at]).collect();
        bench.push(&case, "rate", "rules/s", &values);
    }
    Ok(())
}

/// Rules per second by turn: put in place, taken out.
fn rates(status: &Status) -> Result<Vec<[f64; 2]>, BenchError> {
    let function = status.functions.first().ok_or_else(|| BenchError::Failed("the run has no function".into()))?;
    let turns = function.report["turns"].as_array().map(Vec::as_slice).unwrap_or_default();
    turns.iter().map(rate).collect()
}

fn rate(turn: &Value) -> Result<[f64; 2], BenchError> {
    let number = |name: &str| turn[name].as_f64().unwrap_or(f64::NAN);
    if number("installed") != FLOWS as f64 {
        return Err(BenchError::Failed(format!("of {FLOWS} rules so many are in place: {turn}")));
    }
    Ok(["install_ns", "remove_ns"].map(|time| FLOWS as f64 / (number(time) / 1e9)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_rules_that_are_in_place() {
        let turn = json!({ "installed": FLOWS, "install_ns": 500_000_000, "remove_ns": 250_000_000 });
        assert_eq!(rate(&turn).unwrap(), [200_000.0, 400_000.0]);
        assert!(rate(&json!({ "installed": 1, "install_ns": 1, "remove_ns": 1 })).is_err());
    }
}
