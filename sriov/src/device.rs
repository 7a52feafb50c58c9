//! One PCI function: its attributes, its driver, its interface.

use std::io;
use std::path::PathBuf;

use crate::discover::{PCI_DEVICES, PCI_DRIVERS, Tree, group, link_name, names, text};
use crate::{Filter, Held, Host, Link, PciAddress, Vf, listed};

/// A PCI function by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Device(pub(crate) PciAddress);

impl Device {
    pub(crate) fn folder(self, host: &dyn Host) -> PathBuf {
        host.root().join(PCI_DEVICES).join(self.0.to_string())
    }

    pub(crate) fn exists(self, host: &dyn Host) -> bool {
        self.folder(host).exists()
    }

    pub(crate) fn read(self, host: &dyn Host, attribute: &str) -> Option<String> {
        text(&self.folder(host).join(attribute))
    }

    pub(crate) fn write(self, host: &dyn Host, attribute: &str, value: &str) -> io::Result<()> {
        host.write(&self.folder(host).join(attribute), value)
    }

    pub(crate) fn driver(self, host: &dyn Host) -> Option<String> {
        link_name(&self.folder(host).join("driver"))
    }

    pub(crate) fn driver_override(self, host: &dyn Host) -> Option<String> {
        self.read(host, "driver_override").filter(|o| o != "(null)" && !o.is_empty())
    }

    /// A line break takes the override away.
    pub(crate) fn set_override(self, host: &dyn Host, driver: Option<&str>) -> io::Result<()> {
        self.write(host, "driver_override", driver.unwrap_or("\n"))
    }

    /// Lets the kernel find a driver.
    pub(crate) fn probe(self, host: &dyn Host) -> io::Result<()> {
        host.write(&host.root().join("sys/bus/pci/drivers_probe"), &self.0.to_string())
    }

    /// Gives it to a driver.
    pub(crate) fn bind(self, host: &dyn Host, driver: &str) -> io::Result<()> {
        host.write(&host.root().join(PCI_DRIVERS).join(driver).join("bind"), &self.0.to_string())
    }

    /// Its interface, if it has one here. Names change under way (udev), hence the second look.
    pub(crate) fn link(self, host: &dyn Host) -> io::Result<Option<Link>> {
        for _ in 0..2 {
            let Some(name) = names(&self.folder(host).join("net")).into_iter().next() else { return Ok(None) };
            if let Some(link) = host.links()?.into_iter().find(|l| l.name == name) {
                return Ok(Some(link));
            }
        }
        Ok(None)
    }

    /// The index of its interface.
    pub(crate) fn index(self, host: &dyn Host) -> io::Result<u32> {
        self.link(host)?.map(|l| l.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// The filters that it has, with their numbers.
    pub(crate) fn filters(self, host: &dyn Host) -> io::Result<Vec<(u32, Filter)>> {
        match self.link(host)? {
            Some(link) => Ok(listed(&host.ethtool(&["-n".into(), link.name])?)),
            None => Ok(Vec::new()),
        }
    }

    /// Adds a filter; what counts is whether it is listed afterwards.
    pub(crate) fn add_filter(self, host: &dyn Host, filter: &Filter) -> io::Result<()> {
        let name = self.link(host)?.ok_or(io::ErrorKind::NotFound)?.name;
        let words = [vec!["-N".into(), name], filter.arguments()].concat();
        let output = host.ethtool(&words)?;
        match self.filters(host)?.iter().any(|(_, there)| there == filter) {
            true => Ok(()),
            false => {
                let reason = output.lines().next().unwrap_or("the driver did not keep it").trim().to_owned();
                Err(io::Error::new(io::ErrorKind::Unsupported, reason))
            }
        }
    }

    /// Removes a filter, if it is there.
    pub(crate) fn remove_filter(self, host: &dyn Host, filter: &Filter) -> io::Result<()> {
        let Some((number, _)) = self.filters(host)?.into_iter().find(|(_, there)| there == filter) else {
            return Ok(());
        };
        let name = self.link(host)?.ok_or(io::ErrorKind::NotFound)?.name;
        let output = host.ethtool(&["-N".into(), name, "delete".into(), number.to_string()])?;
        match self.filters(host)?.iter().any(|(n, _)| *n == number) {
            true => Err(io::Error::other(format!(
                "the filter {number} stays: {}",
                output.lines().next().unwrap_or_default()
            ))),
            false => Ok(()),
        }
    }

    /// Its VFs.
    pub(crate) fn vfs(self, host: &dyn Host) -> io::Result<Vec<Vf>> {
        let links = host.links()?;
        let tree = Tree { host, links: &links };
        Ok(tree.vfs(&self.folder(host), self.driver(host).as_deref(), None))
    }

    /// Its PF, if it is a VF.
    pub(crate) fn pf(self, host: &dyn Host) -> Option<PciAddress> {
        link_name(&self.folder(host).join("physfn"))?.parse().ok()
    }

    /// The process that has it open through VFIO.
    pub(crate) fn user(self, host: &dyn Host) -> Option<Held> {
        Tree { host, links: &[] }.process_with(self.0, group(&self.folder(host)))
    }

    /// Another device of its IOMMU group that is in the kernel's hands: DPDK would be refused the group.
    pub(crate) fn neighbour(self, host: &dyn Host) -> Option<PciAddress> {
        let others = names(&self.folder(host).join("iommu_group/devices"));
        others.iter().filter_map(|name| name.parse().ok()).filter(|a| *a != self.0).find(|a| {
            let driver = Self(*a).driver(host);
            driver.is_some_and(|d| !d.starts_with("vfio") && d != "pcieport" && d != "pci-stub")
        })
    }
}
