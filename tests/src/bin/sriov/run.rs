//! `middlenet` in the guest.

use std::time::Duration;

use middlenet_tests::vm::{Ended, Vm};
use middlenet_tests::{Error, RunStatus, binary, wait_until};

use crate::fail;

/// How long a start or an end may take; a data plane has 60 s for it, and the emulated processors are slow.
const START: Duration = Duration::from_secs(100);
const NAME: &str = "vm";
const MANIFEST: &str = "/tmp/manifest.yaml";

/// Writes a manifest in the guest; returns the path of `middlenet`.
fn program(vm: &mut Vm, manifest: &str) -> Result<String, Error> {
    vm.sh(&format!("cat >{MANIFEST} <<'END'\nname: {NAME}\n{manifest}END\n"))?;
    Ok(binary("middlenet")?.display().to_string())
}

/// A run in the guest. It ends with the guest, or by [`Run::stop`].
#[derive(Debug)]
pub(crate) struct Run {
    program: String,
    pid: u32,
}

impl Run {
    /// Writes the manifest and starts a run of it.
    pub(crate) fn start(vm: &mut Vm, manifest: &str) -> Result<Self, Error> {
        let program = program(vm, manifest)?;
        let pid = vm.spawn(&[&program, "run", MANIFEST])?;
        let run = Self { program, pid };
        let mut ended = None;
        let waited = wait_until("the start of the run", START, || {
            ended = vm.look(pid).ok();
            ended.as_ref().is_some_and(|e| e.status.is_some() || e.stderr.contains(&format!("`{NAME}` runs:")))
        });
        match (waited, ended) {
            (Ok(()), Some(Ended { status: None, .. })) => Ok(run),
            (_, ended) => fail(format!("the run does not start: {ended:?}")),
        }
    }

    /// Starts a run that is expected to fail; returns what it said.
    pub(crate) fn refused(vm: &mut Vm, manifest: &str) -> Result<String, Error> {
        let program = program(vm, manifest)?;
        let ended = vm.run(&[&program, "run", MANIFEST], START)?;
        match ended.status {
            Some(status) if status != 0 => Ok(ended.stderr),
            _ => fail(format!("the run was to be refused: {ended:?}")),
        }
    }

    /// Applies a manifest; returns whether it was taken, and what was said.
    pub(crate) fn apply(&self, vm: &mut Vm, manifest: &str) -> Result<(bool, String), Error> {
        let program = program(vm, manifest)?;
        let ended = vm.run(&[&program, "apply", MANIFEST], Duration::from_secs(30))?;
        Ok((ended.status == Some(0), ended.stderr))
    }

    /// What it has said to people.
    pub(crate) fn log(&self, vm: &mut Vm) -> Result<String, Error> {
        vm.look(self.pid).map(|ended| ended.stderr)
    }

    /// What it says of itself.
    pub(crate) fn status(&self, vm: &mut Vm) -> Result<RunStatus, Error> {
        let ended = vm.run(&[&self.program, "status", NAME, "--json"], Duration::from_secs(30))?;
        match serde_json::from_str(&ended.stdout) {
            Ok(value) => Ok(RunStatus(value)),
            Err(error) => fail(format!("no status ({error}): {ended:?}")),
        }
    }

    /// Waits until its status is as wanted.
    pub(crate) fn wait_for(
        &self,
        vm: &mut Vm,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> Result<RunStatus, Error> {
        let mut last = fail("was not asked");
        let met = wait_until(what, deadline, || {
            last = self.status(vm);
            last.as_ref().is_ok_and(&wanted)
        });
        match (met, last) {
            (Ok(()), last) => last,
            (Err(late), last) => fail(format!("{late}; status: {last:?}; log: {}", self.log(vm)?)),
        }
    }

    /// Waits until every packet and every request is accounted for.
    pub(crate) fn rest(&self, vm: &mut Vm) -> Result<RunStatus, Error> {
        self.wait_for(vm, "rest", Duration::from_secs(30), |status| {
            let packets = status.conservation();
            status.is_running()
                && packets.balances()
                && packets.held == 0
                && status.buffers_astray() == 0
                && status.requests_rest()
        })
    }

    /// Ends it as Ctrl-C does; returns what it said.
    pub(crate) fn stop(self, vm: &mut Vm) -> Result<String, Error> {
        vm.sh(&format!("kill -INT {}", self.pid))?;
        let mut ended = vm.look(self.pid)?;
        wait_until("the end of the run", START, || {
            let Ok(now) = vm.look(self.pid) else { return false };
            ended = now;
            ended.status.is_some()
        })?;
        match ended.status {
            Some(0) => Ok(ended.stderr),
            _ => fail(format!("the run ended with {:?}: {}", ended.status, ended.stderr)),
        }
    }
}
