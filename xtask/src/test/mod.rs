//! `cargo xtask test`: every check and test, in the order in which they are cheap to fail.
//!
//! Clippy, unit tests, documentation and examples share the profile `dev` and one target directory, so that dependencies
//! and their build scripts are built once. The end-to-end tests drive the programs of the profile `fast`, the same that
//! the demo runs.

mod runner;
mod sriov;
mod tally;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use runner::{Part, Runner};
use tally::Tally;

use crate::error::Error;
use crate::programs::{self, Profile};
use crate::workspace::{self, Metadata};
use crate::{process, setup, tidy};

/// What was asked of `test`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Only what needs no set-up and no root.
    fast: bool,
    /// Only the test of virtual functions, in a virtual machine.
    sriov: bool,
    /// Only the tests whose name contains one of these.
    names: Vec<String>,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, Error> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--fast" => options.fast = true,
                "--sriov" => options.sriov = true,
                name if !name.starts_with('-') => options.names.push(name.to_owned()),
                _ => return Err(Error::Usage(String::from("usage: cargo xtask test [--fast | --sriov] [NAME...]"))),
            }
        }
        Ok(options)
    }

    fn steps(&self) -> Vec<Step> {
        let all: &[Step] = &[
            ("set-up", |_| setup::run(setup::Options::default())),
            ("formatting", |_| formatting()),
            ("tidy", |_| tidy::run()),
            ("licences and sources of dependencies", |_| dependencies()),
            ("clippy", |_| {
                process::run(&mut process::cargo(["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"]))
            }),
            UNIT,
            PROGRAMS,
            END_TO_END,
            SRIOV,
            ("tests in the documentation", |session| {
                session.watch(&mut process::cargo(["test", "--doc", "--workspace"]))
            }),
            ("documentation", |_| {
                let mut doc = process::cargo(["doc", "--workspace", "--no-deps"]);
                process::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
            }),
            ("examples", Session::examples),
            ("fuzz targets build", |_| fuzz_targets()),
        ];
        if self.sriov {
            return vec![all[0], PROGRAMS, SRIOV];
        }
        let named = !self.names.is_empty();
        let wanted = |step: &&Step| match step.0 {
            "set-up" => !self.fast,
            "formatting" | "tidy" | "clippy" => !named,
            name if name == UNIT.0 => true,
            name if name == PROGRAMS.0 || name == END_TO_END.0 => !self.fast,
            _ => !self.fast && !named,
        };
        all.iter().filter(wanted).copied().collect()
    }
}

type Step = (&'static str, fn(&mut Session) -> Result<(), Error>);

const UNIT: Step = ("unit tests", |session| session.tests(Part::Unit));
const PROGRAMS: Step =
    ("programs for the end-to-end tests", |_| process::run(&mut programs::build_command(Profile::Fast)));
const SRIOV: Step = ("virtual functions, in a virtual machine", Session::sriov);
const END_TO_END: Step = ("end-to-end tests", |session| session.tests(Part::EndToEnd));

/// Runs the steps up to the first that fails. The last line it prints is the sum of all tests, alone.
pub(crate) fn run(options: &Options) -> ExitCode {
    let mut session = Session::new(options);
    let steps = options.steps();
    let result = session.run(&steps);
    let result = match result {
        Ok(()) if !options.names.is_empty() && session.sum.is_empty() => {
            let error = Error::NoSuchTest(options.names.clone());
            println!("\nFAILED: {error}");
            Err(())
        }
        other => other,
    };
    session.close(steps.len());
    if result.is_err() && session.sum.failed == 0 {
        // A check that is no test: the sum may not look as if all were well.
        session.sum.failed = 1;
    }
    println!("{}", session.sum);
    if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Session {
    runner: Runner,
    sum: Tally,
    times: Vec<(&'static str, Duration)>,
}

impl Session {
    fn new(options: &Options) -> Self {
        Self { runner: Runner::new(setup::has_nextest(), &options.names), sum: Tally::default(), times: Vec::new() }
    }

    fn run(&mut self, steps: &[Step]) -> Result<(), ()> {
        for (index, (name, step)) in steps.iter().enumerate() {
            println!("\n== {} of {}: {name}", index + 1, steps.len());
            let start = Instant::now();
            let result = step(self);
            self.times.push((name, start.elapsed()));
            match result {
                Ok(()) => println!("== {name}: ok in {}", seconds(start.elapsed())),
                Err(error) => {
                    println!("\nFAILED: {name}, after {}: {error}", seconds(start.elapsed()));
                    return Err(());
                }
            }
        }
        Ok(())
    }

    fn tests(&mut self, part: Part) -> Result<(), Error> {
        self.runner.run(part, &mut self.sum)
    }

    fn watch(&mut self, command: &mut std::process::Command) -> Result<(), Error> {
        self.runner.watch(command, &mut self.sum)
    }

    /// Skipped, with its reason, where the emulator cannot be had.
    fn sriov(&mut self) -> Result<(), Error> {
        sriov::run(&mut self.runner, &mut self.sum)
    }

    /// What an author of functions would do, in the examples' own workspaces but with what is built already.
    fn examples(&mut self) -> Result<(), Error> {
        let target = Metadata::load()?.target_directory;
        for manifest in example_manifests()? {
            for words in [&["fmt", "--check"] as &[_], &["clippy", "--all-targets"], &["build"]] {
                let mut command = process::cargo(words);
                command.arg("--manifest-path").arg(&manifest);
                if words[0] != "fmt" {
                    command.arg("--target-dir").arg(&target);
                }
                if words[0] == "clippy" {
                    command.args(["--", "-Dwarnings"]);
                }
                process::run(&mut command)?;
            }
            let mut test = process::cargo(["test", "--manifest-path"]);
            self.watch(test.arg(&manifest).arg("--target-dir").arg(&target))?;
        }
        Ok(())
    }

    fn close(&self, steps: usize) {
        println!("\n{} of {steps} steps ran:", self.times.len());
        for (name, time) in &self.times {
            println!("{:>9}  {name}", seconds(*time));
        }
        let total = self.times.iter().map(|(_, time)| *time).sum();
        println!("{:>9}  together", seconds(total));
        for skipped in self.runner.skipped() {
            println!("skipped: {skipped}");
        }
    }
}

fn seconds(time: Duration) -> String {
    format!("{:.1} s", time.as_secs_f64())
}

fn formatting() -> Result<(), Error> {
    process::run(&mut process::cargo(["fmt", "--all", "--check"]))
}

/// Licences, sources and double versions, as `deny.toml` wants them. Advisories change from day to day and need a network,
/// so they are not part of this.
fn dependencies() -> Result<(), Error> {
    if !process::says_yes(&mut process::cargo(["deny", "--version"])) {
        println!("cargo-deny is not installed: not checked (`cargo install cargo-deny` installs it)");
        return Ok(());
    }
    process::run(&mut process::cargo(["deny", "check", "bans", "licenses", "sources"]))
}

fn example_manifests() -> Result<Vec<PathBuf>, Error> {
    let directory = workspace::root().join("examples");
    let entries = fs::read_dir(&directory).map_err(Error::file(&directory))?;
    let mut manifests = Vec::new();
    for entry in entries {
        let manifest = entry.map_err(Error::file(&directory))?.path().join("Cargo.toml");
        if manifest.is_file() {
            manifests.push(manifest);
        }
    }
    manifests.sort();
    Ok(manifests)
}

/// Fuzzing needs a nightly compiler; that the targets still fit what they fuzz does not.
fn fuzz_targets() -> Result<(), Error> {
    let manifest = Path::new("fuzz/Cargo.toml");
    if !workspace::root().join(manifest).is_file() {
        println!("there are no fuzz targets");
        return Ok(());
    }
    let target = Metadata::load()?.target_directory;
    let mut check = process::cargo(["check", "--manifest-path"]);
    process::run(check.arg(manifest).arg("--target-dir").arg(target))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steps(words: &[&str]) -> Vec<&'static str> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        Options::parse(&words).unwrap().steps().iter().map(|step| step.0).collect()
    }

    #[test]
    fn everything_is_the_default() {
        let all = steps(&[]);
        assert_eq!(all.len(), 13);
        assert_eq!((all[0], all[12]), ("set-up", "fuzz targets build"));
    }

    #[test]
    fn fast_needs_no_set_up_and_no_root() {
        assert_eq!(steps(&["--fast"]), ["formatting", "tidy", "clippy", "unit tests"]);
    }

    #[test]
    fn names_leave_only_what_runs_tests_by_name() {
        let expected = ["set-up", "unit tests", "programs for the end-to-end tests", "end-to-end tests"];
        assert_eq!(steps(&["ledger"]), expected);
        assert_eq!(steps(&["--fast", "ledger"]), ["unit tests"]);
    }

    #[test]
    fn virtual_functions_alone_need_set_up_and_programs() {
        assert_eq!(steps(&["--sriov"]), ["set-up", PROGRAMS.0, SRIOV.0]);
    }

    #[test]
    fn unknown_flags_are_refused() {
        assert!(Options::parse(&[String::from("--quick")]).is_err());
    }
}
