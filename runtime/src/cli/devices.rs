//! The devices of a run: claimed first, then virtual functions as the manifest asks for them.

use std::path::{Path, PathBuf};

use middlenet_plan::PortKind;
use middlenet_sriov::{Inventory, Linux, PciAddress, SriovError, Vfs};

use super::Failure;
use crate::check::tap_remote;
use crate::claim::{ClaimError, ClaimedDevice, Claims};
use crate::other_runs::OtherRuns;
use crate::plan::Plan;
use crate::run_folder;
use crate::supervisor::log;

/// Takes what the plan names, and the virtual functions that a crashed run of its name has written down in `record`. Fails while
/// another run has any of it.
pub(super) fn claim(plan: &Plan, record: &Path) -> Result<Claims, Failure> {
    let made = |interface: &str| plan.runtime.kernel_ports.iter().any(|k| k.inner == interface);
    let mut devices: Vec<ClaimedDevice> =
        plan.runtime.kernel_ports.iter().map(|k| ClaimedDevice::interface(&k.interface)).collect();
    for port in plan.manager.iter().flat_map(|m| &m.ports) {
        match &port.kind {
            PortKind::Xdp { interface, .. } if !made(interface) => devices.push(ClaimedDevice::interface(interface)),
            PortKind::Dpdk { device } => {
                let interface = tap_remote(device).map(ClaimedDevice::interface);
                devices.extend(pci(device).map(ClaimedDevice::pci).or(interface));
            }
            _ => {}
        }
    }
    if !plan.runtime.vfs.is_empty() {
        let inventory = middlenet_sriov::discover(&Linux).map_err(|e| refused(&SriovError::Look(e)))?;
        devices.extend(virtual_functions(plan, &inventory));
    }
    let recorded = middlenet_sriov::recorded(&Linux, record).map_err(|e| refused(&e))?;
    devices.extend(recorded.into_iter().map(ClaimedDevice::pci));
    take(&plan.name, &devices)
}

fn take(run: &str, devices: &[ClaimedDevice]) -> Result<Claims, Failure> {
    Claims::take(&run_folder::path(), run, devices).map_err(|e| {
        let hint = match &e {
            ClaimError::Taken { .. } => Some("end that run (`middlenet stop`), or give this one another device".into()),
            ClaimError::Io { .. } => None,
        };
        Failure::new(e.to_string(), hint)
    })
}

/// The address of a DPDK device, if it is no virtual one.
pub(super) fn pci(device: &str) -> Option<PciAddress> {
    device.split(',').next()?.parse().ok()
}

fn virtual_functions(plan: &Plan, inventory: &Inventory) -> Vec<ClaimedDevice> {
    let mut devices = Vec::new();
    for wish in &plan.runtime.vfs {
        let Some(nic) = inventory.find(&wish.pf) else { continue };
        for vf in &wish.vfs {
            let shown = format!("the virtual function {} of `{}`", vf.index, nic.name());
            devices.extend(nic.vf_address(vf.index).map(|pci| ClaimedDevice::pci(pci).called(shown)));
        }
    }
    devices
}

/// Undoes what a crashed run of this name left, and makes the virtual functions of the plan. `record` is where changes are
/// written down.
pub(super) fn make_vfs(plan: &Plan, record: &Path) -> Result<Option<Vfs<OtherRuns>>, Failure> {
    let runs = OtherRuns { run: plan.name.clone() };
    if record.exists() {
        log("undoing what a crashed run did to virtual functions");
        for problem in middlenet_sriov::recover(&Linux, &runs, record).map_err(|e| refused(&e))? {
            log(format_args!("not undone: {problem}"));
        }
    }
    if plan.runtime.vfs.is_empty() {
        return Ok(None);
    }
    let vfs = Vfs::apply(Linux, runs, &plan.runtime.vfs, record).map_err(|e| refused(&e))?;
    for vf in vfs.ready() {
        let interface = vf.interface.as_ref().map(|i| format!(", interface {i}")).unwrap_or_default();
        log(format_args!("virtual function `{}` is {}{interface}", vf.name, vf.pci));
    }
    Ok(Some(vfs))
}

fn refused(error: &SriovError) -> Failure {
    Failure::new(error.to_string(), error.hint())
}

/// Where the changes of a run are written down.
pub(super) fn record(run: &str) -> PathBuf {
    run_folder::path().join(format!("{run}.sriov.json"))
}
