//! `cargo xtask setup`: makes a host ready to build, test and show MiddleNet.
//!
//! Each step looks first and changes only what is missing, so it is safe to repeat; each prints one line. No step starts
//! a service, lowers a setting or touches an interface.

mod bpffs;
mod hugepages;
pub(crate) mod machine;
mod other;
mod packages;
mod privilege;

use std::fmt;

use crate::error::Error;
use crate::process;
use privilege::Privilege;

/// What was asked of `setup`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Say what would be done, and do nothing.
    pub(crate) dry_run: bool,
    /// Also what the test of virtual functions needs.
    pub(crate) sriov: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, Error> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--dry-run" => options.dry_run = true,
                "--sriov" => options.sriov = true,
                _ => return Err(Error::Usage(String::from("usage: cargo xtask setup [--sriov] [--dry-run]"))),
            }
        }
        Ok(options)
    }
}

/// What a step found or did, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Outcome {
    /// Nothing was to be done.
    Ok(String),
    /// It was missing and is now there.
    Done(String),
    /// A dry run: what is missing, and what a real run does about it.
    WouldDo(String),
    /// It is missing and stays missing: why, and what a person can do.
    Cannot { why: String, hint: String },
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok(text) | Self::Done(text) | Self::WouldDo(text) => write!(out, "{text}"),
            Self::Cannot { why, hint } => write!(out, "{why}\n{:23}hint: {hint}", ""),
        }
    }
}

impl Outcome {
    fn word(&self) -> &'static str {
        match self {
            Self::Ok(_) => "ok",
            Self::Done(_) => "done",
            Self::WouldDo(_) => "would do",
            Self::Cannot { .. } => "cannot",
        }
    }
}

fn report(step: &str, outcome: &Outcome) {
    println!("{:<9} {step:<12} {outcome}", outcome.word());
}

/// Runs every step; fails only if something is missing without which nothing builds.
pub(crate) fn run(options: Options) -> Result<(), Error> {
    let privilege = Privilege::detect();
    let mut lacking = Vec::new();
    if packages::is_debian_like() {
        let (outcome, still_missing) = packages::install(options, privilege)?;
        report("packages", &outcome);
        lacking.extend(still_missing);
    } else {
        lacking.extend(other::check());
    }
    report("hugepages", &hugepages::reserve(options, privilege));
    report("bpffs", &bpffs::mount(options, privilege));
    report("test runner", &test_runner());
    if options.sriov {
        for (step, outcome) in machine::prepare(options, privilege)? {
            report(step, &outcome);
        }
    }
    if lacking.is_empty() || options.dry_run { Ok(()) } else { Err(Error::HostLacks(lacking)) }
}

/// Sets up what the test of virtual functions needs; false if that cannot be had.
pub(crate) fn machine_for_tests() -> Result<bool, Error> {
    for (step, outcome) in machine::prepare(Options::default(), Privilege::detect())? {
        report(step, &outcome);
    }
    machine::is_ready()
}

fn test_runner() -> Outcome {
    Outcome::Ok(String::from(if has_nextest() {
        "cargo-nextest is there and will be used"
    } else {
        "cargo test will be used; with cargo-nextest installed, tests run side by side and have a time limit"
    }))
}

/// Whether `cargo nextest` works here.
pub(crate) fn has_nextest() -> bool {
    process::says_yes(&mut process::cargo(["nextest", "--version"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read() {
        let parse = |words: &[&str]| Options::parse(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>());
        assert_eq!(parse(&[]).unwrap(), Options { dry_run: false, sriov: false });
        assert_eq!(parse(&["--sriov", "--dry-run"]).unwrap(), Options { dry_run: true, sriov: true });
        assert!(parse(&["--force"]).is_err());
    }

    #[test]
    fn a_hint_stands_below_its_step() {
        let outcome = Outcome::Cannot { why: String::from("no"), hint: String::from("do this") };
        assert_eq!(outcome.to_string(), "no\n                       hint: do this");
    }
}
