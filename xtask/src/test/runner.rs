//! The two ways to run a part of the workspace's tests: cargo-nextest, or what cargo brings.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use super::tally::Tally;
use crate::error::Error;
use crate::process;

/// The package whose tests need the programs, and the host to themselves.
const END_TO_END: &str = "middlenet-tests";

/// From where the inputs of `proptest` are drawn, unless the caller says so: of the same code every run says the same.
const SEED: (&str, &str) = ("PROPTEST_RNG_SEED", "1");

/// A part of the tests. Every test is in exactly one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Unit,
    EndToEnd,
}

#[derive(Debug)]
pub(crate) struct Runner {
    nextest: bool,
    names: Vec<String>,
    /// Where tests that this host cannot run leave a line each.
    skip_log: PathBuf,
    skipped: Vec<String>,
}

impl Runner {
    pub(crate) fn new(nextest: bool, names: &[String]) -> Self {
        let skip_log = std::env::temp_dir().join(format!("middlenet-skipped-{}", std::process::id()));
        Self { nextest, names: names.to_owned(), skip_log, skipped: Vec::new() }
    }

    /// Runs a part to its end, past failures, and adds its counts to `sum`.
    pub(crate) fn run(&mut self, part: Part, sum: &mut Tally) -> Result<(), Error> {
        let mut command = if self.nextest { self.nextest_command("run", part) } else { self.cargo_command(part) };
        if self.nextest {
            command.args(["--no-fail-fast", "--no-tests=pass"]);
        }
        let mut counts = Tally::default();
        let result = self.watch(&mut command, &mut counts);
        // Without a closing line nothing was built, or nothing is there.
        if self.nextest && (result.is_ok() || !counts.is_empty()) {
            counts.skipped += self.ignored(part)?;
        }
        *sum += counts;
        result
    }

    /// Runs a command whose output has the closing lines of a runner, and adds their counts to `sum`.
    pub(crate) fn watch(&mut self, command: &mut Command, sum: &mut Tally) -> Result<(), Error> {
        let _ = fs::remove_file(&self.skip_log);
        command.env("MIDDLENET_SKIP_LOG", &self.skip_log);
        if std::env::var_os(SEED.0).is_none() {
            command.env(SEED.0, SEED.1);
        }
        let mut counts = Tally::default();
        let result = process::watch(command, |line| {
            if let Some(read) = Tally::read(line) {
                counts += read;
            }
        });
        let skipped = fs::read_to_string(&self.skip_log).unwrap_or_default();
        let _ = fs::remove_file(&self.skip_log);
        let before = self.skipped.len();
        self.skipped.extend(skipped.lines().map(str::to_owned));
        counts.skip_passed((self.skipped.len() - before) as u64);
        *sum += counts;
        result
    }

    /// Notes a test that this host cannot run.
    pub(crate) fn skip(&mut self, what: &str) {
        self.skipped.push(what.to_owned());
    }

    /// The tests that this host could not run, each with its reason.
    pub(crate) fn skipped(&self) -> &[String] {
        &self.skipped
    }

    /// Always the whole workspace, and a filter: another selection of packages would be another build.
    fn nextest_command(&self, verb: &str, part: Part) -> Command {
        let filter = match part {
            Part::Unit => format!("not package({END_TO_END})"),
            Part::EndToEnd => format!("package({END_TO_END})"),
        };
        let mut command = process::cargo(["nextest", verb, "--workspace", "-E", &filter]);
        command.args(&self.names);
        command
    }

    /// How many tests of the part are marked `#[ignore]`.
    fn ignored(&self, part: Part) -> Result<u64, Error> {
        let mut command = self.nextest_command("list", part);
        let list = process::output(command.args(["--run-ignored=only", "--message-format=oneline"]))?;
        Ok(list.lines().filter(|line| !line.trim().is_empty()).count() as u64)
    }

    /// One test at a time: within one process, tests share what a program has once, such as the EAL.
    fn cargo_command(&self, part: Part) -> Command {
        let mut command = process::cargo(["test", "--no-fail-fast", "--tests"]);
        match part {
            Part::Unit => command.args(["--workspace", "--exclude", END_TO_END]),
            Part::EndToEnd => command.args(["-p", END_TO_END]),
        };
        command.args(["--", "--test-threads=1"]);
        command.args(&self.names);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn drawn_inputs_have_a_seed() {
        let mut runner = Runner::new(true, &[]);
        runner.skip_log.set_extension("seed");
        runner.watch(&mut shell("test -n \"$PROPTEST_RNG_SEED\""), &mut Tally::default()).unwrap();
    }

    #[test]
    fn counts_and_skipped_tests_are_collected_also_from_a_failure() {
        let mut runner = Runner::new(true, &[]);
        runner.skip_log.set_extension("unit");
        let mut sum = Tally::default();
        let script = "echo 'a: needs root' >>$MIDDLENET_SKIP_LOG
            echo '     Summary [ 0.1s] 4 tests run: 3 passed, 1 failed, 9 skipped' >&2
            echo 'test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out'
            exit 100";
        assert!(runner.watch(&mut shell(script), &mut sum).is_err());
        assert_eq!(sum, Tally { passed: 4, failed: 1, skipped: 1 });
        assert_eq!(runner.skipped(), ["a: needs root"]);
        assert!(!runner.skip_log.exists());
    }
}
