//! Every change, written down before it is made, so that whoever comes after a crash can undo it.
//!
//! A step says what was and what was to be. Undoing looks first: what is not as the step would have left it was never done, or has
//! been changed by somebody else since, and is left alone.

use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::device::Device;
use crate::{Filter, Host, Link, PciAddress, Runs, SriovError, VfSetting};

/// A change of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    /// The interface of a device, which was down, is set up.
    Up { device: PciAddress },
    /// Whether VFs are bound to drivers as they come.
    Autoprobe { pf: PciAddress, before: bool, after: bool },
    /// VFs are made where there were none.
    Count { pf: PciAddress, after: u16 },
    /// A setting of a VF.
    Setting { pf: PciAddress, vf: u16, before: VfSetting, after: VfSetting },
    /// A VF is taken from its driver.
    Unbind { vf: PciAddress, driver: String },
    /// The driver that a VF must have.
    Override { vf: PciAddress, before: Option<String>, after: Option<String> },
    /// A driver is found for a VF that has none.
    Bind { vf: PciAddress },
    /// A filter of a PF.
    Filter { pf: PciAddress, filter: Filter },
    /// An address of a VF's interface.
    Address { device: PciAddress, address: IpAddr, prefix: u8 },
}

/// How often a device that is still open is looked at before it is given up.
const PATIENCE: usize = 100;

impl Step {
    /// Does it.
    pub(crate) fn take(&self, host: &dyn Host) -> io::Result<()> {
        match self {
            Self::Up { device } => host.set_up(Device(*device).index(host)?, true),
            Self::Autoprobe { pf, after, .. } => Device(*pf).write(host, "sriov_drivers_autoprobe", flag(*after)),
            Self::Count { pf, after } => Device(*pf).write(host, "sriov_numvfs", &after.to_string()),
            Self::Setting { pf, vf, after, .. } => host.set_vf(Device(*pf).index(host)?, *vf, *after),
            Self::Unbind { vf, .. } => Device(*vf).write(host, "driver/unbind", &vf.to_string()),
            Self::Override { vf, after, .. } => Device(*vf).set_override(host, after.as_deref()),
            Self::Bind { vf } => Device(*vf).probe(host),
            Self::Filter { pf, filter } => Device(*pf).add_filter(host, filter),
            Self::Address { device, address, prefix } => {
                host.set_address(Device(*device).index(host)?, *address, *prefix, true)
            }
        }
    }

    /// Undoes it, if it is still as the step left it. What other runs build on stays.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn undo(&self, host: &dyn Host, runs: &dyn Runs) -> Result<(), String> {
        // A device that is gone has taken its settings with it.
        if !self.device().exists(host) {
            return Ok(());
        }
        let done = match self {
            Self::Up { device } => return undo_up(host, runs, Device(*device)),
            Self::Autoprobe { pf, before, after } => {
                let now = Device(*pf).read(host, "sriov_drivers_autoprobe");
                match now.as_deref() == Some(flag(*after)) {
                    true => Device(*pf).write(host, "sriov_drivers_autoprobe", flag(*before)),
                    false => Ok(()),
                }
            }
            Self::Count { pf, after } => return undo_count(host, runs, Device(*pf), *after),
            Self::Setting { pf, vf, before, after } => undo_setting(host, Device(*pf), *vf, *before, *after),
            Self::Unbind { vf, driver } => match Device(*vf).driver(host) {
                None => Device(*vf).bind(host, driver),
                Some(_) => Ok(()),
            },
            Self::Override { vf, before, after } => match Device(*vf).driver_override(host) == *after {
                true => Device(*vf).set_override(host, before.as_deref()),
                false => Ok(()),
            },
            Self::Bind { vf } => return undo_bind(host, Device(*vf)),
            Self::Filter { pf, filter } => Device(*pf).remove_filter(host, filter),
            Self::Address { device, address, prefix } => undo_address(host, Device(*device), *address, *prefix),
        };
        done.map_err(|e| format!("{}: {e}", self.device().0))
    }

    /// Whether both together change nothing.
    fn cancels(&self, earlier: &Self) -> bool {
        match (earlier, self) {
            (Self::Autoprobe { pf, before, after }, Self::Autoprobe { pf: same, before: from, after: to }) => {
                pf == same && before == to && after == from
            }
            _ => false,
        }
    }

    /// The VF that it changes.
    fn virtual_function(&self, host: &dyn Host) -> io::Result<Option<PciAddress>> {
        match self {
            Self::Setting { pf, vf, .. } => {
                Ok(Device(*pf).vfs(host)?.into_iter().find(|there| there.index == *vf).map(|there| there.pci))
            }
            step => Ok(Some(step.device()).filter(|device| device.pf(host).is_some()).map(|device| device.0)),
        }
    }

    fn device(&self) -> Device {
        match self {
            Self::Up { device } | Self::Address { device, .. } => Device(*device),
            Self::Autoprobe { pf, .. }
            | Self::Count { pf, .. }
            | Self::Setting { pf, .. }
            | Self::Filter { pf, .. } => Device(*pf),
            Self::Unbind { vf, .. } | Self::Override { vf, .. } | Self::Bind { vf } => Device(*vf),
        }
    }
}

/// A VF of `pf` that another run has, and that run.
fn of_another_run(host: &dyn Host, runs: &dyn Runs, pf: Device) -> Result<Option<(PciAddress, String)>, String> {
    let vfs = pf.vfs(host).map_err(|e| format!("{}: {e}", pf.0))?;
    Ok(vfs.iter().find_map(|vf| Some((vf.pci, runs.other(vf.pci)?))))
}

fn undo_up(host: &dyn Host, runs: &dyn Runs, device: Device) -> Result<(), String> {
    let down = |link: Option<Link>| match link {
        Some(link) if link.up => host.set_up(link.index, false),
        _ => Ok(()),
    };
    match of_another_run(host, runs, device)? {
        Some((vf, run)) => Err(format!("{} stays up: its virtual function {vf} belongs to the run {run}", device.0)),
        None => device.link(host).and_then(down).map_err(|e| format!("{}: {e}", device.0)),
    }
}

fn flag(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

fn undo_count(host: &dyn Host, runs: &dyn Runs, pf: Device, after: u16) -> Result<(), String> {
    if pf.read(host, "sriov_numvfs") != Some(after.to_string()) {
        return Ok(());
    }
    let vfs = pf.vfs(host).map_err(|e| format!("{}: {e}", pf.0))?;
    if let Some((vf, held)) = vfs.iter().find_map(|vf| Some((vf, vf.held.clone()?))) {
        return Err(format!("the virtual functions of {} stay: {} is held by {held}", pf.0, vf.pci));
    }
    if let Some((vf, run)) = of_another_run(host, runs, pf)? {
        return Err(format!("the virtual functions of {} stay: {vf} belongs to the run {run}", pf.0));
    }
    pf.write(host, "sriov_numvfs", "0").map_err(|e| format!("{}: {e}", pf.0))
}

fn undo_setting(host: &dyn Host, pf: Device, vf: u16, before: VfSetting, after: VfSetting) -> io::Result<()> {
    let Some(link) = pf.link(host)? else { return Ok(()) };
    match link.vfs.iter().find(|v| v.vf == vf) {
        Some(now) if after.of(now) == after && before != after => host.set_vf(link.index, vf, before),
        _ => Ok(()),
    }
}

fn undo_bind(host: &dyn Host, vf: Device) -> Result<(), String> {
    let Some(driver) = vf.driver(host) else { return Ok(()) };
    if driver.starts_with("vfio") {
        // vfio-pci would wait for its user, and we with it.
        for attempt in 0.. {
            match vf.user(host) {
                None => break,
                Some(_) if attempt < PATIENCE => host.pause(),
                Some(held) => return Err(format!("{} stays bound to {driver}: it is held by {held}", vf.0)),
            }
        }
    }
    vf.write(host, "driver/unbind", &vf.0.to_string()).map_err(|e| format!("{}: {e}", vf.0))
}

fn undo_address(host: &dyn Host, device: Device, address: IpAddr, prefix: u8) -> io::Result<()> {
    match device.link(host)? {
        Some(link) if link.addresses.contains(&(address, prefix)) => {
            host.set_address(link.index, address, prefix, false)
        }
        _ => Ok(()),
    }
}

/// The steps of a run, and the file they are in.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    steps: Vec<Step>,
    on_disk: bool,
}

impl Journal {
    /// The journal that a crashed run left, else one without steps, whose file comes with the first one.
    pub(crate) fn open(path: &Path) -> Result<Self, SriovError> {
        let fail = |source| SriovError::Record { path: path.into(), source };
        match fs::read(path) {
            Ok(bytes) => {
                let steps = serde_json::from_slice(&bytes).map_err(|e| fail(e.into()))?;
                Ok(Self { path: path.into(), steps, on_disk: true })
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path: path.into(), steps: Vec::new(), on_disk: false })
            }
            Err(e) => Err(fail(e)),
        }
    }

    /// The VFs that it changes and that are there, each once.
    pub(crate) fn virtual_functions(&self, host: &dyn Host) -> io::Result<Vec<PciAddress>> {
        let mut vfs = Vec::new();
        for step in &self.steps {
            vfs.extend(step.virtual_function(host)?);
        }
        vfs.sort();
        vfs.dedup();
        Ok(vfs)
    }

    /// The PFs that it changes, or VFs of theirs.
    pub(crate) fn pfs(&self, host: &dyn Host) -> impl Iterator<Item = PciAddress> {
        self.steps.iter().map(|step| step.device().pf(host).unwrap_or(step.device().0))
    }

    /// Writes a step down, and then does it. One that takes an earlier one back leaves neither: what was put back for a moment
    /// only is not changed again by undoing it.
    pub(crate) fn step(&mut self, host: &dyn Host, step: Step) -> Result<io::Result<()>, SriovError> {
        let earlier = self.steps.iter().rposition(|earlier| step.cancels(earlier));
        self.steps.push(step);
        self.keep()?;
        let done = self.steps.last().map_or(Ok(()), |step| step.take(host));
        if let Some(earlier) = earlier.filter(|_| done.is_ok()) {
            self.steps.pop();
            self.steps.remove(earlier);
            self.keep()?;
        }
        Ok(done)
    }

    fn keep(&mut self) -> Result<(), SriovError> {
        self.save().map_err(|source| SriovError::Record { path: self.path.clone(), source })
    }

    /// Undoes everything, the last step first; returns what could not be undone. That stays in the file, for the next attempt.
    pub(crate) fn undo(&mut self, host: &dyn Host, runs: &dyn Runs) -> Vec<String> {
        let mut kept: Vec<(Step, Option<String>)> = Vec::new();
        while let Some(step) = self.steps.pop() {
            // While a later step stands, an earlier one of the same device cannot be judged by what is.
            let stands = kept.iter().any(|(later, _)| later.device() == step.device());
            // And what others use through this device, they use as long as it is up.
            let needed = stands && matches!(step, Step::Up { .. });
            let problem = if needed { None } else { step.undo(host, runs).err() };
            if let (Step::Count { pf, .. }, None) = (&step, &problem) {
                // VFs that are gone took their settings with them.
                kept.retain(|(later, _)| !matches!(later, Step::Setting { pf: of, .. } if of == pf));
            }
            if problem.is_some() || kept.iter().any(|(later, _)| later.device() == step.device()) {
                kept.push((step, problem));
            }
        }
        // What failed on a VF does not matter when the VF is gone.
        kept.retain(|(step, _)| step.device().exists(host));
        let mut problems: Vec<String> = kept.iter().filter_map(|(_, problem)| problem.clone()).collect();
        self.steps = kept.into_iter().rev().map(|(step, _)| step).collect();
        let saved = match self.steps.is_empty() {
            true if self.on_disk => fs::remove_file(&self.path),
            true => Ok(()),
            false => self.save(),
        };
        problems.extend(saved.err().map(|e| format!("{}: {e}", self.path.display())));
        self.on_disk &= !self.steps.is_empty();
        problems
    }

    /// Replaces the file as a whole: a reader finds the old one or the new one.
    fn save(&mut self) -> io::Result<()> {
        let fresh = self.path.with_extension("new");
        let mut file = File::create(&fresh)?;
        file.write_all(&serde_json::to_vec_pretty(&self.steps)?)?;
        file.sync_all()?;
        fs::rename(&fresh, &self.path)?;
        self.on_disk = true;
        Ok(())
    }
}
