//! What every benchmark is made of: what was asked, the cases measured so far, those that failed, and the end of it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::BenchError;
use crate::outcome::{Entry, Host, Outcome, Versions};
use crate::programs::Programs;
use crate::statistics::Figure;
use crate::work_folder::WorkFolder;

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

/// A benchmark under way.
pub(crate) struct Bench {
    /// Name in results.
    name: &'static str,
    host: Host,
    pub(crate) programs: Programs,
    pub(crate) folder: WorkFolder,
    pub(crate) quick: bool,
    only: String,
    pub(crate) entries: Vec<Entry>,
    failures: Vec<(String, String)>,
    /// Repetitions in which others took a core from what was measured.
    pub(crate) disturbed: usize,
    start: Instant,
}

impl Bench {
    /// At its beginning.
    ///
    /// # Errors
    /// With fewer than two cores, or without a folder for temporary files.
    pub(crate) fn begin(name: &'static str, programs: Programs, options: &Options) -> Result<Self, BenchError> {
        let host = Host::here();
        if host.cores < 2 {
            return Err(BenchError::Host("two cores are needed: one alone would measure how they are shared".into()));
        }
        let bench = Self {
            name,
            host,
            programs,
            folder: WorkFolder::new()?,
            quick: options.quick,
            only: options.only.clone(),
            entries: Vec::new(),
            failures: Vec::new(),
            disturbed: 0,
            start: Instant::now(),
        };
        if bench.host.load > QUIET_LOAD {
            let load = bench.host.load;
            bench.progress(&format!("the host is not quiet (load {load}): expect figures that are low and far apart"));
        }
        Ok(bench)
    }

    pub(crate) fn wants(&self, case: &str) -> bool {
        case.starts_with(&self.only)
    }

    /// Repetitions of each point.
    pub(crate) fn repetitions(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// Time of a run that is not measured: caches, rings and clocks settle.
    pub(crate) fn settle(&self) -> Duration {
        Duration::from_millis(if self.quick { 150 } else { 500 })
    }

    /// Time of a run that is measured.
    pub(crate) fn interval(&self) -> Duration {
        Duration::from_millis(if self.quick { 400 } else { 1500 })
    }

    pub(crate) fn progress(&self, what: &str) {
        eprintln!("[{:>4.0} s] {what}", self.start.elapsed().as_secs_f64());
    }

    /// An entry of this benchmark.
    pub(crate) fn entry(&self, case: &str, metric: &str, unit: &str, figure: Figure) -> Entry {
        Entry::new(self.name, case, metric, unit, figure)
    }

    pub(crate) fn push(&mut self, case: &str, metric: &str, unit: &str, values: &[f64]) {
        if let Some(figure) = Figure::of(values) {
            self.entries.push(self.entry(case, metric, unit, figure));
        }
    }

    /// Notes a case that failed and goes on; Ctrl-C does not go on.
    pub(crate) fn outcome_of(&mut self, case: &str, result: Result<(), BenchError>) -> Result<(), BenchError> {
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

    /// Prints, writes and draws what was measured.
    ///
    /// # Errors
    /// When nothing was, when a file cannot be written, or when a case failed.
    pub(crate) fn end(
        self,
        options: &Options,
        report: fn(&Host, &[Entry]) -> String,
        draw: fn(&[Entry], &Path) -> Result<(), BenchError>,
    ) -> Result<(), BenchError> {
        let Self { host, entries, failures, disturbed, start, .. } = self;
        if entries.is_empty() && failures.is_empty() {
            return Err(BenchError::Failed(format!("no case begins with `{}`", options.only)));
        }
        println!("{}", report(&host, &entries));
        if disturbed > 0 {
            println!("{disturbed} repetitions were disturbed: other programs ran on the cores that were measured");
        }
        eprintln!("measured in {:.0} s", start.elapsed().as_secs_f64());
        let outcome = Outcome { host, versions: Versions::here(), results: entries };
        if let Some(path) = &options.json {
            outcome.write(path)?;
        }
        if let Some(folder) = &options.charts {
            draw(&outcome.results, folder)?;
        }
        if failures.is_empty() {
            return Ok(());
        }
        let lines: Vec<String> = failures.iter().map(|(case, reason)| format!("  {case}: {reason}")).collect();
        Err(BenchError::Failed(format!("these cases could not be measured:\n{}", lines.join("\n"))))
    }
}
