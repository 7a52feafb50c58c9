//! What network devices the host has, from sysfs, procfs and rtnetlink. Changes nothing.

use serde::Serialize;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use crate::nic::{is_for_user_space, splits_natively};
use crate::{Filters, Held, Host, Link, Nic, PciAddress, Sriov, Use, Vf};

/// Where PCI functions are, below the root.
pub(crate) const PCI_DEVICES: &str = "sys/bus/pci/devices";
/// Where their drivers are, below the root.
pub(crate) const PCI_DRIVERS: &str = "sys/bus/pci/drivers";

/// The network devices of a host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Inventory {
    /// All of them: those with an interface by name, then those without by PCI address. VFs are among them.
    pub nics: Vec<Nic>,
    /// Whether devices can be given to user space: the IOMMU is on, or VFIO was told to do without.
    pub iommu: bool,
    /// Whether vfio-pci is loaded.
    pub vfio: bool,
}

impl Inventory {
    /// The device of this interface name or PCI address.
    pub fn find(&self, name: &str) -> Option<&Nic> {
        self.nics.iter().find(|nic| nic.is_called(name))
    }
}

/// Looks at the network devices of a host.
///
/// # Errors
/// When the kernel does not tell its interfaces. Devices that vanish meanwhile are left out.
pub fn discover(host: &dyn Host) -> io::Result<Inventory> {
    let links = host.links()?;
    let tree = Tree { host, links: &links };
    let mut nics: Vec<Nic> = links.iter().filter(|l| l.name != "lo").map(|l| tree.nic_of_link(l)).collect();
    nics.sort_by(|a, b| a.interface.cmp(&b.interface));
    let with_interface: Vec<PciAddress> = nics.iter().filter_map(|n| n.pci).collect();
    let mut addresses: Vec<PciAddress> =
        names(&host.root().join(PCI_DEVICES)).iter().filter_map(|name| name.parse().ok()).collect();
    addresses.sort();
    for pci in addresses.into_iter().filter(|a| !with_interface.contains(a)) {
        let folder = tree.device(pci);
        if text(&folder.join("class")).is_some_and(|c| c.starts_with("0x02")) {
            let mut nic = Nic::default();
            tree.describe_pci(pci, &mut nic, None);
            nics.push(nic);
        }
    }
    let groups = !names(&host.root().join("sys/kernel/iommu_groups")).is_empty();
    let unsafe_mode = text(&host.root().join("sys/module/vfio/parameters/enable_unsafe_noiommu_mode"));
    Ok(Inventory {
        nics,
        iommu: groups || unsafe_mode.as_deref() == Some("Y"),
        vfio: host.root().join(PCI_DRIVERS).join("vfio-pci").exists(),
    })
}

/// What is read of a host at one time.
pub(crate) struct Tree<'h> {
    pub(crate) host: &'h dyn Host,
    pub(crate) links: &'h [Link],
}

impl Tree<'_> {
    fn device(&self, pci: PciAddress) -> PathBuf {
        self.host.root().join(PCI_DEVICES).join(pci.to_string())
    }

    fn nic_of_link(&self, link: &Link) -> Nic {
        let folder = self.host.root().join("sys/class/net").join(&link.name);
        let queues = names(&folder.join("queues")).iter().filter(|q| q.starts_with("rx-")).count();
        let driver = link_name(&folder.join("device/driver")).or_else(|| link.kind.clone());
        let mut nic = Nic {
            interface: Some(link.name.clone()),
            index: link.index,
            driver,
            mac: link.mac,
            up: link.up,
            mtu: link.mtu,
            queues,
            filters: self.host.filters(&link.name),
            uses: self.uses(link),
            ..Nic::default()
        };
        if let Some(pci) = pci_behind(&folder.join("device")) {
            self.describe_pci(pci, &mut nic, Some(link));
        }
        nic
    }

    fn uses(&self, link: &Link) -> Vec<Use> {
        let mut uses = Vec::new();
        if link.default_route {
            uses.push(Use::DefaultRoute);
        }
        let of_its_own = |address: &IpAddr| matches!(address, IpAddr::V6(a) if a.is_unicast_link_local());
        let addresses = link.addresses.iter().filter(|(address, _)| !of_its_own(address));
        uses.extend(addresses.map(|(address, prefix)| Use::Address(format!("{address}/{prefix}"))));
        if let Some(master) = link.member_of {
            let name = self.links.iter().find(|l| l.index == master).map(|l| l.name.clone());
            uses.push(Use::Member(name.unwrap_or_else(|| format!("the interface {master}"))));
        }
        uses.extend(link.xdp.map(Use::Xdp));
        uses
    }

    fn describe_pci(&self, pci: PciAddress, nic: &mut Nic, link: Option<&Link>) {
        let folder = self.device(pci);
        let hex = |file: &str| text(&folder.join(file)).map(|t| t.trim_start_matches("0x").to_owned());
        nic.pci = Some(pci);
        nic.id = hex("vendor").zip(hex("device")).map(|(vendor, device)| format!("{vendor}:{device}"));
        // The interface of a virtio device has a driver of its own, which says more than virtio-pci.
        if nic.driver.is_none() {
            nic.driver = link_name(&folder.join("driver"));
        }
        nic.numa_node = number(&folder.join("numa_node"));
        nic.iommu_group = group(&folder);
        nic.vf_of = link_name(&folder.join("physfn")).and_then(|n| n.parse().ok());
        let total = number(&folder.join("sriov_totalvfs")).unwrap_or(0);
        if total > 0 {
            let read = |file: &str| number::<u32>(&folder.join(file)).unwrap_or(0);
            nic.sriov = Some(Sriov {
                total,
                present: number(&folder.join("sriov_numvfs")).unwrap_or(0),
                offset_stride: (read("sriov_offset"), read("sriov_stride")),
                autoprobe: read("sriov_drivers_autoprobe") == 1,
                vfs: self.vfs(&folder, nic.driver.as_deref(), link),
            });
        }
    }

    pub(crate) fn vfs(&self, pf: &Path, pf_driver: Option<&str>, link: Option<&Link>) -> Vec<Vf> {
        let mut vfs: Vec<Vf> = names(pf)
            .iter()
            .filter_map(|name| name.strip_prefix("virtfn")?.parse().ok())
            .filter_map(|index: u16| {
                let pci = link_name(&pf.join(format!("virtfn{index}")))?.parse().ok()?;
                let folder = self.device(pci);
                let driver = link_name(&folder.join("driver"));
                let interface = names(&folder.join("net")).into_iter().next();
                let settings = link.and_then(|l| l.vfs.iter().find(|v| v.vf == index));
                let mut vf = Vf {
                    index,
                    pci,
                    driver,
                    interface,
                    mac: settings.and_then(|s| s.mac),
                    iommu_group: group(&folder),
                    held: None,
                };
                vf.held = self.holder(&vf, pf_driver);
                Some(vf)
            })
            .collect();
        vfs.sort_by_key(|vf| vf.index);
        vfs
    }

    /// Who holds a VF.
    fn holder(&self, vf: &Vf, pf_driver: Option<&str>) -> Option<Held> {
        let driver = vf.driver.as_deref()?;
        if driver.starts_with("vfio") {
            return self.process_with(vf.pci, vf.iommu_group);
        }
        if is_for_user_space(driver) || driver == "pci-stub" || driver == "xen-pciback" {
            return Some(Held::Driver(driver.into()));
        }
        let Some(interface) = &vf.interface else {
            // Some drivers make no interface for a moment; one that never does has it elsewhere.
            return Some(Held::Namespace);
        };
        let link = self.links.iter().find(|l| &l.name == interface)?;
        if !self.uses(link).is_empty() {
            return Some(Held::Interface(interface.clone()));
        }
        // Programs that split natively drive it through its kernel driver.
        if pf_driver.is_some_and(splits_natively) { self.process_with_verbs(vf) } else { None }
    }

    /// The process that has a device, or its group, open through VFIO.
    pub(crate) fn process_with(&self, pci: PciAddress, group: Option<u32>) -> Option<Held> {
        let mut nodes: Vec<PathBuf> =
            group.iter().flat_map(|g| [g.to_string(), format!("noiommu-{g}")]).map(Into::into).collect();
        let of_device = names(&self.device(pci).join("vfio-dev"));
        nodes.extend(of_device.iter().map(|name| Path::new("devices").join(name)));
        let nodes: Vec<PathBuf> = nodes.iter().map(|n| Path::new("/dev/vfio").join(n)).collect();
        if let Some(held) = self.process_with_open(&nodes) {
            return Some(held);
        }
        nodes.iter().any(|node| self.host.is_open(node)).then_some(Held::Process { pid: None, name: None })
    }

    fn process_with_verbs(&self, vf: &Vf) -> Option<Held> {
        let nodes = names(&self.device(vf.pci).join("infiniband_verbs"));
        let nodes: Vec<PathBuf> = nodes.iter().map(|n| Path::new("/dev/infiniband").join(n)).collect();
        self.process_with_open(&nodes)
    }

    fn process_with_open(&self, nodes: &[PathBuf]) -> Option<Held> {
        let proc = self.host.root().join("proc");
        if nodes.is_empty() {
            return None;
        }
        for pid in names(&proc).iter().filter_map(|name| name.parse::<u32>().ok()) {
            let folder = proc.join(pid.to_string());
            let fds = folder.join("fd");
            let has =
                names(&fds).iter().any(|fd| fs::read_link(fds.join(fd)).is_ok_and(|target| nodes.contains(&target)));
            if has {
                return Some(Held::Process { pid: Some(pid), name: text(&folder.join("comm")) });
            }
        }
        None
    }
}

/// The PCI function of an interface, if it has one.
pub fn pci_of(root: &Path, interface: &str) -> Option<PciAddress> {
    pci_behind(&root.join("sys/class/net").join(interface).join("device"))
}

/// The PCI function behind an interface's `device`: itself, or above it (virtio).
fn pci_behind(device: &Path) -> Option<PciAddress> {
    let whole = fs::canonicalize(device).ok()?;
    whole.ancestors().take(3).find_map(|folder| folder.file_name()?.to_str()?.parse().ok())
}

/// The IOMMU group of a device.
pub(crate) fn group(device: &Path) -> Option<u32> {
    link_name(&device.join("iommu_group"))?.parse().ok()
}

/// The names in a folder; none if it is not there.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().into_string().ok()).collect()
}

/// The last part of where a link leads.
pub(crate) fn link_name(path: &Path) -> Option<String> {
    Some(fs::read_link(path).ok()?.file_name()?.to_str()?.to_owned())
}

/// An attribute without the line's end.
pub(crate) fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|t| t.trim().to_owned())
}

/// An attribute that is a number.
pub(crate) fn number<T: std::str::FromStr>(path: &Path) -> Option<T> {
    text(path)?.parse().ok()
}

/// What `ethtool -k` printed.
pub(crate) fn read_filters(output: &str) -> Filters {
    use crate::Feature;
    let feature = |name: &str| {
        let state = output.lines().find_map(|l| l.trim().strip_prefix(name)?.strip_prefix(": ")).unwrap_or_default();
        match state {
            s if s.starts_with("on") => Feature::On,
            "off" | "off [requested on]" => Feature::Off,
            _ => Feature::Absent,
        }
    };
    Filters { ntuple: feature("ntuple-filters"), tc: feature("hw-tc-offload") }
}

#[cfg(test)]
mod tests;
