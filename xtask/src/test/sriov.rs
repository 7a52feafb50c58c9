//! The test of virtual functions: its set-up, and its program's account of its steps.

use std::process::Command;

use super::runner::Runner;
use super::tally::Tally;
use crate::error::Error;
use crate::process;
use crate::setup::{self, machine};
use crate::workspace::Metadata;

const PROGRAM: &str = "middlenet-test-sriov";

/// Sets up what is missing, and runs the test; where that cannot be had, notes it as skipped.
pub(super) fn run(runner: &mut Runner, sum: &mut Tally) -> Result<(), Error> {
    let ready = machine::is_ready()? || setup::machine_for_tests()?;
    if !ready {
        println!("skipped: this host has no emulator with virtual functions, and cannot get one");
        runner.skip("virtual functions: no QEMU 8 or later, or no kernel for it, to be had");
        sum.skipped += 1;
        return Ok(());
    }
    let programs = Metadata::load()?.target_directory.join("fast");
    let mut command = Command::new(programs.join(PROGRAM));
    command.env("MIDDLENET_BIN_DIR", &programs).env("MIDDLENET_VM_IMAGE", machine::image_directory()?);
    process::watch(&mut command, |line| *sum += read(line))
}

/// `sriov: ok STEP (1.2 s): ...` or `sriov: FAILED STEP: ...`
fn read(line: &str) -> Tally {
    let step = line.strip_prefix("sriov: ").unwrap_or_default();
    let (passed, failed) = (step.starts_with("ok "), step.starts_with("FAILED "));
    Tally { passed: passed.into(), failed: failed.into(), skipped: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_counted() {
        let counts = |line| {
            let Tally { passed, failed, skipped } = read(line);
            (passed, failed, skipped)
        };
        assert_eq!(counts("sriov: ok boot (9.0 s): Linux"), (1, 0, 0));
        assert_eq!(counts("sriov: FAILED boot: no"), (0, 1, 0));
        assert_eq!(counts("sriov: all 12 steps passed in 60 s"), (0, 0, 0));
        assert_eq!(counts("ok"), (0, 0, 0));
    }
}
