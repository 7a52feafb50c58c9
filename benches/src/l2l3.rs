//! `middlenet-bench l2l3`: chains of packet functions against the limits of the host.
//!
//! | cases | what runs | reference |
//! |---|---|---|
//! | `inline/router+l2fwd/SIZE` | `l3-router` with 10,000 routes and `l2-forward`, called by one worker on core 0; 4,096 random destinations from a capture played without end, into a null device | testpmd, same devices |
//! | `process/router+l2fwd/SIZE` | the same functions as two processes on core 1, the manager on core 0 | none |
//! | `inline/trivial2/SIZE` | `l2-forward` twice between null devices | testpmd, same devices |
//! | `process/trivial2/SIZE` | TTL and address rewriting, unchecked, as two processes on core 1 | the same pipeline in C on `rte_ring` |
//! | `inline/chainN/64`, `process/chainN/64` | N times `l2-forward` between null devices | none |
//! | `overload/process` | see `overload.rs` | its own peak |
//! | `idle/auto`, `attach`, `restart`, `restart/kills` | see `lifecycle.rs` | none |
//!
//! SIZE counts the FCS, as RFC 2544 does. Sources never pause, so a chain is always at its limit, and hop latency is that
//! of full rings: what a burst waits behind those before it. `cycles_per_packet` are those of the manager's worker.

mod charted;
mod lifecycle;
mod overload;
mod report;
mod subject;
mod throughput;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::BenchError;
use crate::outcome::{Entry, Host, Outcome, Versions};
use crate::programs::Programs;
use crate::statistics::Figure;
use crate::work_folder::WorkFolder;

/// Name in results.
const BENCH: &str = "l2l3";
/// Core of the manager's worker.
const MANAGER_CORE: usize = 0;
/// Core of function processes.
const FUNCTION_CORE: usize = 1;

/// Load of a host on which a figure means something.
const QUIET_LOAD: f64 = 0.5;

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Fewer points, shorter.
    pub quick: bool,
    /// Only cases whose name begins like this.
    pub only: String,
    /// Where to write the results.
    pub json: Option<PathBuf>,
    /// Where to draw them.
    pub charts: Option<PathBuf>,
}

/// What all cases need.
struct Bench {
    programs: Programs,
    folder: WorkFolder,
    quick: bool,
    only: String,
    entries: Vec<Entry>,
    failures: Vec<(String, String)>,
    /// Repetitions in which others took the worker's core.
    disturbed: usize,
    start: Instant,
}

/// Measures, prints, writes.
///
/// # Errors
/// When the host cannot do it at all, or when a case failed: then after all others.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let host = Host::here();
    if host.cores < 2 {
        return Err(BenchError::Host("two cores are needed: one for the manager, one for functions".into()));
    }
    let mut bench = Bench {
        programs: Programs::find()?,
        folder: WorkFolder::new()?,
        quick: options.quick,
        only: options.only.clone(),
        entries: Vec::new(),
        failures: Vec::new(),
        disturbed: 0,
        start: Instant::now(),
    };
    if host.load > QUIET_LOAD {
        bench.progress(&format!(
            "the host is not quiet (load {}): expect figures that are low and far apart",
            host.load
        ));
    }
    throughput::measure(&mut bench)?;
    overload::measure(&mut bench)?;
    lifecycle::measure(&mut bench)?;
    if bench.entries.is_empty() && bench.failures.is_empty() {
        return Err(BenchError::Failed(format!("no case begins with `{}`", options.only)));
    }
    let Bench { entries, failures, disturbed, start, .. } = bench;
    println!("{}", report::text(&host, &entries));
    if disturbed > 0 {
        println!("{disturbed} repetitions were disturbed: other programs ran on the worker's core");
    }
    eprintln!("measured in {:.0} s", start.elapsed().as_secs_f64());
    let outcome = Outcome { host, versions: Versions::here(), results: entries };
    if let Some(path) = &options.json {
        outcome.write(path)?;
    }
    if let Some(folder) = &options.charts {
        charted::draw(&outcome.results, folder)?;
    }
    if failures.is_empty() {
        return Ok(());
    }
    let lines: Vec<String> = failures.iter().map(|(case, reason)| format!("  {case}: {reason}")).collect();
    Err(BenchError::Failed(format!("these cases could not be measured:\n{}", lines.join("\n"))))
}

impl Bench {
    fn wants(&self, case: &str) -> bool {
        case.starts_with(&self.only)
    }

    /// Repetitions of each point.
    fn repetitions(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// Time of a run that is not measured: caches, rings and clocks settle.
    fn settle(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 500 })
    }

    /// Time of a run that is measured.
    fn interval(&self) -> Duration {
        Duration::from_millis(if self.quick { 400 } else { 1500 })
    }

    fn progress(&self, what: &str) {
        eprintln!("[{:>4.0} s] {what}", self.start.elapsed().as_secs_f64());
    }

    fn push(&mut self, case: &str, metric: &str, unit: &str, values: &[f64]) {
        if let Some(figure) = Figure::of(values) {
            self.entries.push(Entry::new(BENCH, case, metric, unit, figure));
        }
    }

    /// Notes a case that failed and goes on; Ctrl-C does not go on.
    fn outcome_of(&mut self, case: &str, result: Result<(), BenchError>) -> Result<(), BenchError> {
        match result {
            Err(BenchError::Interrupted) => Err(BenchError::Interrupted),
            Err(error) => {
                let sentence = error.sentence();
                self.progress(&format!("{case} FAILED: {sentence}"));
                self.failures.push((case.into(), sentence));
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
