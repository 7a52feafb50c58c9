//! `idle/skmsg`: processor time of all processes of a chain without traffic.

use std::time::{Duration, Instant};

use super::backends::Backends;
use super::case::Subject;
use super::middlebox::Middlebox;
use crate::BenchError;
use crate::bench::Bench;
use crate::run::pause;

const CASE: &str = "idle/skmsg";
/// Long enough that a timer which fires once a second shows.
const TIME: Duration = Duration::from_secs(5);

pub(super) fn measure(bench: &mut Bench) -> Result<(), BenchError> {
    if !bench.wants(CASE) {
        return Ok(());
    }
    let measured = measure_one(bench);
    bench.outcome_of(CASE, measured)
}

fn measure_one(bench: &mut Bench) -> Result<(), BenchError> {
    let backends = Backends::on_loopback(&bench.folder)?;
    let middlebox = Middlebox::start(bench, Subject::Skmsg, &backends)?;
    let pids = middlebox.pids();
    let mut values = Vec::new();
    for repetition in 0..bench.repetitions() {
        bench.progress(&format!("{CASE}, {} of {}", repetition + 1, bench.repetitions()));
        pause(bench.settle())?;
        let (start, before) = (Instant::now(), pids.busy_ns()?);
        pause(TIME)?;
        let (elapsed, after) = (start.elapsed(), pids.busy_ns()?);
        values.push(after.saturating_sub(before) as f64 / elapsed.as_nanos() as f64);
    }
    middlebox.stop()?;
    bench.push(CASE, "cpu", "cores", &values);
    Ok(())
}
