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
use crate::{Filter, Host, PciAddress, SriovError, VfSetting};

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

    /// Undoes it, if it is still as the step left it.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub(crate) fn undo(&self, host: &dyn Host) -> Result<(), String> {
        // A device that is gone has taken its settings with it.
        if !self.device().exists(host) {
            return Ok(());
        }
        let done = match self {
            Self::Up { device } => self.undo_up(host, Device(*device)),
            Self::Autoprobe { pf, before, after } => {
                let now = Device(*pf).read(host, "sriov_drivers_autoprobe");
                match now.as_deref() == Some(flag(*after)) {
                    true => Device(*pf).write(host, "sriov_drivers_autoprobe", flag(*before)),
                    false => Ok(()),
                }
            }
            Self::Count { pf, after } => return undo_count(host, Device(*pf), *after),
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

    fn undo_up(&self, host: &dyn Host, device: Device) -> io::Result<()> {
        match device.link(host)? {
            Some(link) if link.up => host.set_up(link.index, false),
            _ => Ok(()),
        }
    }

    fn virtual_function(&self) -> Option<PciAddress> {
        match self {
            Self::Unbind { vf, .. } | Self::Override { vf, .. } | Self::Bind { vf } => Some(*vf),
            _ => None,
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

fn flag(on: bool) -> &'static str {
    if on { "1" } else { "0" }
}

fn undo_count(host: &dyn Host, pf: Device, after: u16) -> Result<(), String> {
    if pf.read(host, "sriov_numvfs") != Some(after.to_string()) {
        return Ok(());
    }
    let vfs = pf.vfs(host).map_err(|e| format!("{}: {e}", pf.0))?;
    if let Some((vf, held)) = vfs.iter().find_map(|vf| Some((vf, vf.held.clone()?))) {
        return Err(format!("the virtual functions of {} stay: {} is held by {held}", pf.0, vf.pci));
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

    /// The VFs that it speaks of, each once.
    pub(crate) fn virtual_functions(&self) -> Vec<PciAddress> {
        let mut vfs: Vec<PciAddress> = self.steps.iter().filter_map(Step::virtual_function).collect();
        vfs.sort();
        vfs.dedup();
        vfs
    }

    /// Writes a step down, and then does it.
    pub(crate) fn step(&mut self, host: &dyn Host, step: Step) -> Result<io::Result<()>, SriovError> {
        self.steps.push(step);
        self.save().map_err(|source| SriovError::Record { path: self.path.clone(), source })?;
        Ok(self.steps.last().map_or(Ok(()), |step| step.take(host)))
    }

    /// Undoes everything, the last step first; returns what could not be undone. That stays in the file, for the next attempt.
    pub(crate) fn undo(&mut self, host: &dyn Host) -> Vec<String> {
        let mut kept: Vec<(Step, Option<String>)> = Vec::new();
        while let Some(step) = self.steps.pop() {
            let problem = step.undo(host).err();
            // While a later step stands, an earlier one of the same device cannot be judged by what is.
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
