//! Virtual functions as they are wanted, and back.

use std::any::Any;
use std::io;
use std::path::Path;

use crate::device::Device;
use crate::discover::number;
use crate::journal::{Journal, Step};
use crate::nic::splits_natively;
use crate::{Host, Linux, Nic, PciAddress, PfWish, Runs, SriovError, VfDriver, VfSetting, VfWish, check, discover};

/// How often is looked whether an interface has come, or the PF's cable carries: five seconds.
const PATIENCE: usize = 100;

/// A VF that is ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyVf {
    /// Its name in the manifest.
    pub name: String,
    /// Its PCI address.
    pub pci: PciAddress,
    /// Its interface, of one that the kernel drives.
    pub interface: Option<String>,
}

/// Virtual functions, ready for use. When this goes, the host is as it was found.
#[derive(Debug)]
pub struct Vfs<R: Runs, H: Host = Linux> {
    made: Made<H>,
    runs: R,
    released: bool,
}

impl<R: Runs, H: Host> Vfs<R, H> {
    /// Makes and sets up what is asked for; all of it or nothing. `record` is where each change is written down before it is made; a
    /// record that is there already is of a run that crashed, and is undone first.
    ///
    /// Other runs that do the same, or undo it, are waited for.
    ///
    /// # Errors
    /// [`SriovError`]; the host is as it was found.
    pub fn apply(host: H, runs: R, wishes: &[PfWish], record: &Path) -> Result<Self, SriovError> {
        let mut journal = Journal::open(record)?;
        let inventory = discover(&host).map_err(SriovError::Look)?;
        let wished = wishes.iter().filter_map(|wish| inventory.find(&wish.pf)?.pci);
        let _turn = take_turn(&runs, journal.pfs(&host).chain(wished).collect())?;
        // What cannot be undone now stays in the journal, to be undone with the rest.
        journal.undo(&host, &runs);
        let mut made = Made { host, journal, ready: Vec::new() };
        match made.make(wishes) {
            Ok(()) => Ok(Self { made, runs, released: false }),
            Err(cause) => match made.journal.undo(&made.host, &runs) {
                problems if problems.is_empty() => Err(cause),
                problems => Err(SriovError::Left { cause: Box::new(cause), problems: problems.join("; ") }),
            },
        }
    }

    /// The VFs, in the order of the wishes.
    pub fn ready(&self) -> &[ReadyVf] {
        &self.made.ready
    }

    /// Undoes everything now; returns what could not be undone, a line each. That is kept in the record.
    pub fn release(mut self) -> Vec<String> {
        self.undo()
    }

    fn undo(&mut self) -> Vec<String> {
        self.released = true;
        undo(&mut self.made.journal, &self.made.host, &self.runs)
    }
}

impl<R: Runs, H: Host> Drop for Vfs<R, H> {
    fn drop(&mut self) {
        if !self.released {
            self.undo();
        }
    }
}

/// VFs as far as they have been made.
#[derive(Debug)]
struct Made<H> {
    host: H,
    journal: Journal,
    ready: Vec<ReadyVf>,
}

impl<H: Host> Made<H> {
    fn make(&mut self, wishes: &[PfWish]) -> Result<(), SriovError> {
        let inventory = discover(&self.host).map_err(SriovError::Look)?;
        let nics = check(&inventory, wishes)?;
        let pfs: Vec<(&Nic, PciAddress, &PfWish)> =
            nics.iter().zip(wishes).filter_map(|(nic, wish)| Some((*nic, nic.pci?, wish))).collect();
        for (nic, pf, wish) in &pfs {
            self.prepare_pf(nic, *pf, wish)?;
        }
        for (nic, pf, wish) in &pfs {
            for vf in &wish.vfs {
                self.make_vf(nic, *pf, vf)?;
            }
        }
        for (nic, pf, wish) in &pfs {
            self.add_filters(&nic.name(), *pf, wish)?;
        }
        Ok(())
    }

    fn step(&mut self, what: impl FnOnce() -> String, step: Step, device: &str) -> Result<(), SriovError> {
        self.journal.step(&self.host, step)?.map_err(|source| refused(what(), device, source))
    }

    /// The PF is up, and has its VFs.
    fn prepare_pf(&mut self, nic: &Nic, pf: PciAddress, wish: &PfWish) -> Result<(), SriovError> {
        let name = &nic.name();
        // Some drivers forget the settings of VFs when the PF comes up.
        if !nic.up {
            self.step(|| format!("set `{name}` up"), Step::Up { device: pf }, name)?;
        }
        if nic.sriov.as_ref().is_none_or(|s| s.present > 0) {
            return Ok(());
        }
        // Bound at once, they would have other addresses than they are given in a moment.
        self.autoprobe(name, pf, false)?;
        let count = wish.vfs.iter().map(|v| v.index + 1).max().unwrap_or(0).max(wish.create);
        let what = || format!("make {count} virtual functions of `{name}`");
        self.step(what, Step::Count { pf, after: count }, name)?;
        let before = nic.sriov.as_ref().map(|s| s.autoprobe);
        self.autoprobe(name, pf, before.unwrap_or(true))
    }

    fn autoprobe(&mut self, name: &str, pf: PciAddress, on: bool) -> Result<(), SriovError> {
        // Linux before 4.12 has none.
        let Some(before) = Device(pf).read(&self.host, "sriov_drivers_autoprobe").map(|t| t == "1") else {
            return Ok(());
        };
        if before == on {
            return Ok(());
        }
        let what = || format!("choose when virtual functions of `{name}` get drivers");
        self.step(what, Step::Autoprobe { pf, before, after: on }, name)
    }

    fn make_vf(&mut self, nic: &Nic, pf: PciAddress, wish: &VfWish) -> Result<(), SriovError> {
        let name = &nic.name();
        let vanished = || SriovError::Vanished { device: name.clone() };
        let vfs = Device(pf)
            .vfs(&self.host)
            .map_err(|e| refused(format!("find the virtual functions of `{name}`"), name, e))?;
        let vf = vfs.into_iter().find(|v| v.index == wish.index).ok_or_else(vanished)?;
        let made_by_others = nic.sriov.as_ref().is_some_and(|s| s.present > 0);
        if let Some(held) = vf.held.filter(|_| made_by_others) {
            return Err(SriovError::Held { nic: name.clone(), index: vf.index, pci: vf.pci, held });
        }
        self.set(nic, pf, vf.pci, wish)?;
        let user_space = wish.driver == VfDriver::Dpdk && !nic.driver.as_deref().is_some_and(splits_natively);
        self.drive(nic, pf, vf.pci, wish, user_space)?;
        let mut ready = ReadyVf { name: wish.name.clone(), pci: vf.pci, interface: None };
        if wish.driver == VfDriver::Kernel {
            ready.interface = Some(self.bring_up(vf.pci, wish)?);
        } else if let (Some(group), Some(other)) = (
            crate::discover::group(&Device(vf.pci).folder(&self.host)),
            Device(vf.pci).neighbour(&self.host).filter(|_| user_space),
        ) {
            return Err(SriovError::SharedGroup { vf: wish.name.clone(), group, other });
        }
        self.ready.push(ready);
        Ok(())
    }

    /// Its settings, made while no kernel driver has it: such a one reads them once, at its start.
    fn set(&mut self, nic: &Nic, pf: PciAddress, vf: PciAddress, wish: &VfWish) -> Result<(), SriovError> {
        let name = &nic.name();
        let report = |host: &H| {
            let link = Device(pf)
                .link(host)
                .map_err(|e| refused(format!("ask for the settings of `{}`", wish.name), name, e))?;
            let report = link.and_then(|l| l.vfs.into_iter().find(|v| v.vf == wish.index));
            report.ok_or_else(|| SriovError::Vanished { device: name.clone() })
        };
        let before = report(&self.host)?;
        let settings = wish.settings(before.min_rate_mbps);
        // Drivers report the others even where they cannot do them: only a request shows.
        let is_so = |s: &VfSetting| matches!(s, VfSetting::Mac(_) | VfSetting::Vlan(..)) && s.of(&before) == *s;
        if settings.iter().all(is_so) {
            return Ok(());
        }
        if let Some(driver) = Device(vf).driver(&self.host).filter(|d| !d.starts_with("vfio")) {
            self.step(
                || format!("take `{}` from {driver}", wish.name),
                Step::Unbind { vf, driver: driver.clone() },
                &wish.name,
            )?;
        }
        for setting in settings.into_iter().filter(|s| !is_so(s)) {
            if matches!(setting, VfSetting::Rate(..)) {
                self.wait_for_carrier(nic);
            }
            let step = Step::Setting { pf, vf: wish.index, before: setting.of(&before), after: setting };
            self.step(|| format!("set {} of `{}` on `{name}`", setting.what(), wish.name), step, name)?;
        }
        let after = report(&self.host)?;
        for setting in wish.settings(0).into_iter().filter(|s| matches!(s, VfSetting::Mac(_) | VfSetting::Vlan(..))) {
            if setting.of(&after) != setting {
                return Err(SriovError::NotTaken { nic: name.clone(), vf: wish.name.clone(), what: setting.what() });
            }
        }
        Ok(())
    }

    /// Limits of rate are taken relative to the speed of the link, which making VFs has interrupted.
    fn wait_for_carrier(&self, nic: &Nic) {
        let Some(interface) = &nic.interface else { return };
        let carrier = self.host.root().join("sys/class/net").join(interface).join("carrier");
        for _ in 0..PATIENCE {
            if number::<u8>(&carrier) == Some(1) {
                return;
            }
            self.host.pause();
        }
    }

    /// It has the driver that is wanted.
    fn drive(
        &mut self,
        nic: &Nic,
        pf: PciAddress,
        vf: PciAddress,
        wish: &VfWish,
        user_space: bool,
    ) -> Result<(), SriovError> {
        let device = Device(vf);
        let fits = |driver: Option<&str>| {
            driver.is_some_and(|d| if user_space { d == "vfio-pci" } else { !d.starts_with("vfio") })
        };
        if !fits(device.driver(&self.host).as_deref()) {
            if let Some(driver) = device.driver(&self.host) {
                self.step(
                    || format!("take `{}` from {driver}", wish.name),
                    Step::Unbind { vf, driver: driver.clone() },
                    &wish.name,
                )?;
            }
            let before = device.driver_override(&self.host);
            let after = user_space.then(|| "vfio-pci".to_owned());
            if before != after {
                self.step(
                    || format!("choose the driver of `{}`", wish.name),
                    Step::Override { vf, before, after },
                    &wish.name,
                )?;
            }
            // While VFs get no drivers by themselves, only those with an override get one at all.
            let autoprobe = nic.sriov.as_ref().is_none_or(|s| s.autoprobe);
            if !user_space && !autoprobe {
                self.autoprobe(&nic.name(), pf, true)?;
            }
            self.step(|| format!("bind `{}` to a driver", wish.name), Step::Bind { vf }, &wish.name)?;
            if !user_space && !autoprobe {
                self.autoprobe(&nic.name(), pf, false)?;
            }
        }
        match fits(device.driver(&self.host).as_deref()) {
            true => Ok(()),
            false if user_space => {
                Err(refused(format!("bind `{}` to vfio-pci", wish.name), &wish.name, io::ErrorKind::Other.into()))
            }
            false => {
                let pf_driver = nic.driver.clone().unwrap_or_default();
                Err(SriovError::NoKernelDriver { vf: wish.name.clone(), pf_driver })
            }
        }
    }

    /// The PF's filters send packets to its VFs. One that somebody else has made already does the same, and is left to them.
    fn add_filters(&mut self, name: &str, pf: PciAddress, wish: &PfWish) -> Result<(), SriovError> {
        let there = match wish.filters.as_slice() {
            [] => return Ok(()),
            _ => {
                Device(pf).filters(&self.host).map_err(|e| refused(format!("list the filters of `{name}`"), name, e))?
            }
        };
        for filter in wish.filters.iter().filter(|filter| !there.iter().any(|(_, other)| other == *filter)) {
            let step = Step::Filter { pf, filter: filter.clone() };
            self.step(|| format!("add a filter to `{name}` ({filter})"), step, name)?;
        }
        Ok(())
    }

    /// Its interface is up and has its addresses; returns the interface's name.
    fn bring_up(&mut self, vf: PciAddress, wish: &VfWish) -> Result<String, SriovError> {
        let mut link = None;
        for _ in 0..PATIENCE {
            link = Device(vf)
                .link(&self.host)
                .map_err(|e| refused(format!("find the interface of `{}`", wish.name), &wish.name, e))?;
            if link.is_some() {
                break;
            }
            self.host.pause();
        }
        let Some(link) = link else {
            let driver = Device(vf).driver(&self.host).unwrap_or_default();
            return Err(SriovError::NoInterface { vf: wish.name.clone(), driver });
        };
        if !link.up {
            self.step(|| format!("set the interface of `{}` up", wish.name), Step::Up { device: vf }, &wish.name)?;
        }
        for (address, prefix) in wish.addresses.iter().filter(|a| !link.addresses.contains(a)) {
            let step = Step::Address { device: vf, address: *address, prefix: *prefix };
            self.step(
                || format!("give the interface of `{}` the address {address}/{prefix}", wish.name),
                step,
                &wish.name,
            )?;
        }
        Ok(link.name)
    }
}

/// The virtual functions that a crashed run changed by the word of its `record`, and that are there; none if there is no record.
///
/// # Errors
/// [`SriovError::Record`] when the record cannot be read, [`SriovError::Look`] when the host cannot be looked at.
pub fn recorded(host: &dyn Host, record: &Path) -> Result<Vec<PciAddress>, SriovError> {
    Journal::open(record)?.virtual_functions(host).map_err(SriovError::Look)
}

/// Undoes what a crashed run wrote down in `record`; returns what could not be undone, a line each.
///
/// # Errors
/// [`SriovError::Record`] when the record cannot be read.
pub fn recover(host: &dyn Host, runs: &dyn Runs, record: &Path) -> Result<Vec<String>, SriovError> {
    Ok(undo(&mut Journal::open(record)?, host, runs))
}

/// Undoes a journal when it is this run's turn.
fn undo(journal: &mut Journal, host: &dyn Host, runs: &dyn Runs) -> Vec<String> {
    match take_turn(runs, journal.pfs(host).collect()) {
        Ok(_turn) => journal.undo(host, runs),
        Err(e) => vec![e.to_string()],
    }
}

/// Waits for the turn at these PFs; always in the same order, so that no two runs wait for each other.
fn take_turn(runs: &dyn Runs, mut pfs: Vec<PciAddress>) -> Result<Option<Box<dyn Any>>, SriovError> {
    pfs.sort();
    pfs.dedup();
    if pfs.is_empty() { Ok(None) } else { runs.turn(&pfs).map(Some) }
}

fn refused(what: String, device: &str, source: io::Error) -> SriovError {
    let gone = [nix::errno::Errno::ENODEV as i32, nix::errno::Errno::ENOENT as i32];
    match source.kind() == io::ErrorKind::NotFound || source.raw_os_error().is_some_and(|e| gone.contains(&e)) {
        true => SriovError::Vanished { device: device.into() },
        false => SriovError::Refused { what, source },
    }
}

#[cfg(test)]
mod tests;
