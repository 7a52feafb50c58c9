//! The test of virtual functions: a virtual machine with an emulated Intel 82576 runs `middlenet`, this host is what lies
//! beyond the card's wire. Each step prints one line; the first that fails is the last.
//!
//! `MIDDLENET_VM_IMAGE` names the folder that `cargo xtask setup --sriov` made.

#![forbid(unsafe_code)]

mod flows;
mod run;
mod scenario;
mod site;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use middlenet_tests::Error;

fn main() -> ExitCode {
    let Some(image) = std::env::var_os("MIDDLENET_VM_IMAGE") else {
        eprintln!("MIDDLENET_VM_IMAGE is not set: `cargo xtask test --sriov` runs this");
        return ExitCode::from(2);
    };
    let mut report = Report { began: Instant::now(), step: Instant::now(), steps: 0 };
    match scenario::play(Path::new(&image), &mut report) {
        Ok(()) => {
            println!("sriov: all {} steps passed in {:.0} s", report.steps, report.began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err((what, error)) => {
            println!("sriov: FAILED {what}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What failed, and why.
type Failure = (&'static str, Error);

/// Tells of each step.
struct Report {
    began: Instant,
    step: Instant,
    steps: u32,
}

impl Report {
    /// Carries out a step; what it returns beside its result is what was seen, in words.
    fn step<T>(&mut self, what: &'static str, act: impl FnOnce() -> Result<(T, String), Error>) -> Result<T, Failure> {
        self.step = Instant::now();
        let (result, seen) = act().map_err(|error| (what, error))?;
        self.steps += 1;
        println!("sriov: ok {what} ({:.1} s): {seen}", self.step.elapsed().as_secs_f64());
        Ok(result)
    }
}

/// What was wanted and did not come.
fn fail<T>(what: impl Into<String>) -> Result<T, Error> {
    Err(Error::Vm { what: what.into() })
}
