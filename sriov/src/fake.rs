//! A small kernel over a temporary folder: PFs that make VFs, drivers that bind, links with VFs; and it can fail at any change.

use middlenet_steer::Prefix;
use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use tempfile::TempDir;

use crate::discover::{PCI_DEVICES, PCI_DRIVERS, link_name, names, number, text};
use crate::{
    Feature, Filter, FilterTarget, Filters, Host, Link, Mac, PciAddress, Runs, SriovError, VfSetting, VfSettings,
};

/// The host of a test.
#[derive(Debug)]
pub(crate) struct Fake {
    folder: TempDir,
    pub(crate) links: RefCell<Vec<Link>>,
    pub(crate) ntuple: RefCell<Vec<String>>,
    pub(crate) open: RefCell<Vec<PathBuf>>,
    /// What VF drivers call their settings, and what the PF's driver refuses.
    pub(crate) refuses: RefCell<Vec<&'static str>>,
    /// The PF's filters.
    pub(crate) filters: RefCell<Vec<(u32, Filter)>>,
    /// Devices that find themselves in the group of a new VF.
    pub(crate) joins: RefCell<Vec<PciAddress>>,
    /// Changes done so far.
    pub(crate) changes: Cell<usize>,
    /// The change that fails.
    pub(crate) fail_at: Cell<Option<usize>>,
    /// Whether all changes from there on fail: the process is dead.
    pub(crate) dead: Cell<bool>,
    pub(crate) pauses: Cell<usize>,
    /// Pauses after which whoever has a device open closes it.
    pub(crate) closes_after: Cell<Option<usize>>,
    /// What other runs have.
    pub(crate) of_others: RefCell<Vec<PciAddress>>,
    /// Another run is at it all the time.
    pub(crate) no_turn: Cell<bool>,
    /// The PFs that are this run's for the moment.
    turn: Rc<RefCell<Vec<PciAddress>>>,
    next_group: Cell<u32>,
}

pub(crate) fn pci(text: &str) -> PciAddress {
    text.parse().unwrap()
}

impl Fake {
    pub(crate) fn new() -> Self {
        let fake = Self {
            folder: tempfile::tempdir().unwrap(),
            links: RefCell::default(),
            ntuple: RefCell::default(),
            open: RefCell::default(),
            refuses: RefCell::default(),
            joins: RefCell::default(),
            filters: RefCell::default(),
            changes: Cell::new(0),
            fail_at: Cell::new(None),
            dead: Cell::new(false),
            pauses: Cell::new(0),
            closes_after: Cell::new(None),
            of_others: RefCell::default(),
            no_turn: Cell::new(false),
            turn: Rc::default(),
            next_group: Cell::new(1),
        };
        for folder in [PCI_DEVICES, PCI_DRIVERS, "sys/class/net", "sys/kernel/iommu_groups", "sys/devices/pci0", "proc"]
        {
            fs::create_dir_all(fake.folder.path().join(folder)).unwrap();
        }
        fake.put("sys/bus/pci/drivers_probe", "");
        fake
    }

    /// A host with an IOMMU, vfio-pci and an 82576 as eth1.
    pub(crate) fn with_igb() -> Self {
        let fake = Self::new();
        for driver in ["vfio-pci", "igbvf"] {
            fake.driver(driver);
        }
        fake.pf("eth1", "0000:01:00.0", "igb", 7, (128, 2));
        fake
    }

    pub(crate) fn at(&self, path: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(path)
    }

    pub(crate) fn put(&self, path: impl AsRef<Path>, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(crate) fn driver(&self, name: &str) {
        fs::create_dir_all(self.at(PCI_DRIVERS).join(name)).unwrap();
    }

    pub(crate) fn device(&self, address: PciAddress) -> PathBuf {
        self.at(PCI_DEVICES).join(address.to_string())
    }

    /// A PCI network function.
    pub(crate) fn nic(&self, address: PciAddress, id: (&str, &str), iommu: bool) {
        let real = self.at("sys/devices/pci0").join(address.to_string());
        fs::create_dir_all(&real).unwrap();
        symlink(&real, self.device(address)).unwrap();
        let numa = "-1".to_owned();
        for (file, text) in [("class", "0x020000"), ("vendor", id.0), ("device", id.1), ("numa_node", &numa)] {
            fs::write(real.join(file), format!("{text}\n")).unwrap();
        }
        fs::write(real.join("driver_override"), "(null)\n").unwrap();
        if iommu {
            let group = self.next_group.replace(self.next_group.get() + 1);
            let folder = self.at("sys/kernel/iommu_groups").join(group.to_string());
            fs::create_dir_all(folder.join("devices")).unwrap();
            symlink(&real, folder.join("devices").join(address.to_string())).unwrap();
            symlink(&folder, real.join("iommu_group")).unwrap();
        }
    }

    pub(crate) fn bind(&self, address: PciAddress, driver: &str) {
        self.driver(driver);
        let folder = self.device(address);
        symlink(self.at(PCI_DRIVERS).join(driver), folder.join("driver")).unwrap();
    }

    pub(crate) fn link(&self, name: &str, device: Option<&Path>) -> u32 {
        let index = u32::try_from(self.links.borrow().len()).unwrap() + 2;
        let mac = Some(Mac([2, 0, 0, 0, 0, index.to_le_bytes()[0]]));
        self.links.borrow_mut().push(Link { index, name: name.into(), mac, mtu: 1500, up: true, ..Link::default() });
        let net = self.at("sys/class/net").join(name);
        fs::create_dir_all(net.join("queues/rx-0")).unwrap();
        fs::write(net.join("carrier"), "1\n").unwrap();
        if let Some(device) = device {
            symlink(device, net.join("device")).unwrap();
            fs::create_dir_all(device.join("net").join(name)).unwrap();
        }
        index
    }

    pub(crate) fn edit(&self, name: &str, edit: impl FnOnce(&mut Link)) {
        edit(self.links.borrow_mut().iter_mut().find(|l| l.name == name).unwrap());
    }

    pub(crate) fn pf(&self, name: &str, address: &str, driver: &str, total: u16, offset_stride: (u32, u32)) {
        let address = pci(address);
        self.nic(address, ("0x8086", "0x10c9"), true);
        self.bind(address, driver);
        let folder = self.device(address);
        for (file, value) in [
            ("sriov_totalvfs", u32::from(total)),
            ("sriov_numvfs", 0),
            ("sriov_offset", offset_stride.0),
            ("sriov_stride", offset_stride.1),
            ("sriov_drivers_autoprobe", 1),
        ] {
            fs::write(folder.join(file), format!("{value}\n")).unwrap();
        }
        self.link(name, Some(&folder));
    }

    /// Everything that can be seen of the host, to compare.
    pub(crate) fn picture(&self) -> BTreeMap<String, String> {
        fn walk(folder: &Path, root: &Path, out: &mut BTreeMap<String, String>) {
            for name in names(folder) {
                let path = folder.join(&name);
                let shown = path.strip_prefix(root).unwrap().display().to_string();
                let kind = fs::symlink_metadata(&path).unwrap();
                if kind.is_symlink() {
                    out.insert(shown, fs::read_link(&path).unwrap().display().to_string());
                } else if kind.is_dir() {
                    out.insert(shown, "folder".into());
                    walk(&path, root, out);
                } else {
                    out.insert(shown, fs::read_to_string(&path).unwrap());
                }
            }
        }
        let mut out = BTreeMap::new();
        walk(&self.at("sys"), self.folder.path(), &mut out);
        for link in self.links.borrow().iter() {
            out.insert(format!("link {}", link.name), format!("{link:?}"));
        }
        out.insert("filters".into(), format!("{:?}", self.filters.borrow()));
        out
    }

    fn change(&self) -> io::Result<()> {
        assert!(!self.turn.borrow().is_empty(), "changed out of turn");
        let now = self.changes.replace(self.changes.get() + 1);
        match self.fail_at.get().is_some_and(|at| now == at || now > at && self.dead.get()) {
            true => Err(io::Error::from_raw_os_error(nix::errno::Errno::EIO as i32)),
            false => Ok(()),
        }
    }

    pub(crate) fn make_vfs(&self, pf: PciAddress, count: u16) {
        let folder = self.device(pf);
        let read = |file: &str| number::<u32>(&folder.join(file)).unwrap();
        let name = names(&folder.join("net")).remove(0);
        for index in 0..count {
            let vf = pf.further(read("sriov_offset") + read("sriov_stride") * u32::from(index)).unwrap();
            let with_iommu = folder.join("iommu_group").exists();
            self.nic(vf, ("0x8086", "0x10ca"), with_iommu);
            for other in self.joins.borrow().iter() {
                let group = self.device(vf).join("iommu_group/devices");
                symlink(self.device(*other), group.join(other.to_string())).unwrap();
            }
            symlink(self.device(vf), folder.join(format!("virtfn{index}"))).unwrap();
            symlink(&folder, self.device(vf).join("physfn")).unwrap();
            let settings = VfSettings { vf: index, mac: Some(Mac::ZERO), spoof_check: true, ..Default::default() };
            self.edit(&name, |link| link.vfs.push(settings));
            if read("sriov_drivers_autoprobe") == 1 {
                self.probe(vf);
            }
        }
        fs::write(folder.join("sriov_numvfs"), format!("{count}\n")).unwrap();
    }

    fn remove_vfs(&self, pf: PciAddress) {
        let folder = self.device(pf);
        for name in names(&folder).iter().filter(|n| n.starts_with("virtfn")) {
            let vf = pci(&link_name(&folder.join(name)).unwrap());
            self.unbind(vf);
            if let Some(group) = link_name(&self.device(vf).join("iommu_group")) {
                fs::remove_dir_all(self.at("sys/kernel/iommu_groups").join(&group)).unwrap();
            }
            fs::remove_dir_all(self.at("sys/devices/pci0").join(vf.to_string())).unwrap();
            fs::remove_file(self.device(vf)).unwrap();
            fs::remove_file(folder.join(name)).unwrap();
        }
        let name = names(&folder.join("net")).remove(0);
        self.edit(&name, |link| link.vfs.clear());
        fs::write(folder.join("sriov_numvfs"), "0\n").unwrap();
    }

    fn probe(&self, device: PciAddress) {
        let folder = self.device(device);
        let wanted = text(&folder.join("driver_override")).filter(|o| o != "(null)");
        // pci_device_can_probe(): a VF that gets no driver by itself gets one by its override alone.
        let autoprobe = number::<u8>(&folder.join("physfn/sriov_drivers_autoprobe")) == Some(1);
        if wanted.is_none() && !autoprobe {
            return;
        }
        let driver = wanted.unwrap_or_else(|| "igbvf".into());
        if folder.join("driver").exists() || !self.at(PCI_DRIVERS).join(&driver).exists() {
            return;
        }
        self.attach(device, &driver);
    }

    fn attach(&self, device: PciAddress, driver: &str) {
        let folder = self.device(device);
        symlink(self.at(PCI_DRIVERS).join(driver), folder.join("driver")).unwrap();
        if driver == "igbvf" {
            let name = format!("vf{}", device.device * 8 + device.function);
            self.link(&name, Some(&folder));
            self.edit(&name, |link| link.up = false);
        }
    }

    fn unbind(&self, device: PciAddress) {
        let folder = self.device(device);
        let _ = fs::remove_file(folder.join("driver"));
        for name in names(&folder.join("net")) {
            fs::remove_dir_all(self.at("sys/class/net").join(&name)).unwrap();
            self.links.borrow_mut().retain(|l| l.name != name);
        }
        let _ = fs::remove_dir_all(folder.join("net"));
    }
}

fn of_driver(path: &Path) -> String {
    path.parent().unwrap().file_name().unwrap().to_str().unwrap().into()
}

impl Runs for Fake {
    fn turn(&self, pfs: &[PciAddress]) -> Result<Box<dyn Any>, SriovError> {
        struct Turn(Rc<RefCell<Vec<PciAddress>>>);
        impl Drop for Turn {
            fn drop(&mut self) {
                self.0.borrow_mut().clear();
            }
        }
        assert!(self.turn.borrow().is_empty(), "a turn within a turn waits for itself");
        if self.no_turn.get() {
            return Err(SriovError::NoTurn("`core` (process 7)".into()));
        }
        self.turn.borrow_mut().extend(pfs);
        Ok(Box::new(Turn(Rc::clone(&self.turn))))
    }

    fn other(&self, function: PciAddress) -> Option<String> {
        self.of_others.borrow().contains(&function).then(|| "`core` (process 7)".into())
    }
}

impl Host for Fake {
    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn links(&self) -> io::Result<Vec<Link>> {
        Ok(self.links.borrow().clone())
    }

    fn filters(&self, interface: &str) -> Filters {
        let has = self.ntuple.borrow().iter().any(|n| n == interface);
        Filters { ntuple: if has { Feature::Off } else { Feature::Absent }, tc: Feature::Absent }
    }

    fn is_open(&self, device: &Path) -> bool {
        self.open.borrow().iter().any(|d| d == device)
    }

    fn write(&self, path: &Path, value: &str) -> io::Result<()> {
        self.change()?;
        let name = path.file_name().unwrap().to_str().unwrap();
        let of = |path: &Path| pci(path.file_name().unwrap().to_str().unwrap());
        if !path.exists() && !matches!(name, "bind" | "unbind") {
            return Err(io::ErrorKind::NotFound.into());
        }
        match name {
            "sriov_numvfs" => {
                let pf = of(path.parent().unwrap());
                let (now, count): (u16, u16) = (number(path).unwrap(), value.trim().parse().unwrap());
                match (now, count) {
                    (_, 0) => self.remove_vfs(pf),
                    (0, count) => self.make_vfs(pf, count),
                    _ => return Err(io::Error::from_raw_os_error(nix::errno::Errno::EBUSY as i32)),
                }
            }
            "driver_override" => {
                let value = if value.trim().is_empty() { "(null)" } else { value.trim() };
                fs::write(path, format!("{value}\n"))?;
            }
            "drivers_probe" => self.probe(pci(value.trim())),
            "bind" => {
                let device = pci(value.trim());
                let driver = of_driver(path);
                let wanted = text(&self.device(device).join("driver_override")).filter(|o| o != "(null)");
                if wanted.unwrap_or_else(|| "igbvf".into()) != driver {
                    return Err(io::Error::from_raw_os_error(nix::errno::Errno::ENODEV as i32));
                }
                self.attach(device, &driver);
            }
            "unbind" => {
                let device = of(path.parent().unwrap().parent().unwrap());
                assert_eq!(device, pci(value.trim()), "a driver is asked to let go of another device");
                assert!(self.device(device).join("driver").exists());
                self.unbind(device);
            }
            _ => fs::write(path, format!("{}\n", value.trim()))?,
        }
        Ok(())
    }

    fn set_vf(&self, pf_index: u32, vf: u16, setting: VfSetting) -> io::Result<()> {
        self.change()?;
        if self.refuses.borrow().contains(&setting.what()) {
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::EOPNOTSUPP as i32));
        }
        let mut links = self.links.borrow_mut();
        let link = links.iter_mut().find(|l| l.index == pf_index).unwrap();
        if !link.up {
            // As igb: a reset on the way up forgets it.
            return Err(io::Error::from_raw_os_error(nix::errno::Errno::ENETDOWN as i32));
        }
        let vf = link.vfs.iter_mut().find(|v| v.vf == vf).unwrap();
        match setting {
            VfSetting::Mac(mac) => vf.mac = Some(mac),
            VfSetting::Vlan(vlan, qos) => (vf.vlan, vf.qos) = (vlan, qos),
            VfSetting::Trust(on) => vf.trust = on,
            VfSetting::SpoofCheck(on) => vf.spoof_check = on,
            VfSetting::Rate(least, most) => (vf.min_rate_mbps, vf.max_rate_mbps) = (least, most),
        }
        Ok(())
    }

    fn set_up(&self, index: u32, up: bool) -> io::Result<()> {
        self.change()?;
        self.links.borrow_mut().iter_mut().find(|l| l.index == index).unwrap().up = up;
        Ok(())
    }

    fn set_address(&self, index: u32, address: IpAddr, prefix: u8, present: bool) -> io::Result<()> {
        self.change()?;
        let mut links = self.links.borrow_mut();
        let link = links.iter_mut().find(|l| l.index == index).unwrap();
        link.addresses.retain(|a| *a != (address, prefix));
        if present {
            link.addresses.push((address, prefix));
        }
        Ok(())
    }

    fn ethtool(&self, arguments: &[String]) -> io::Result<String> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut filters = self.filters.borrow_mut();
        match words.as_slice() {
            ["-n", "eth1"] => Ok(filters.iter().map(|(number, filter)| list(*number, filter)).collect()),
            ["-N", "eth1", "delete", number] => {
                self.change()?;
                filters.retain(|(n, _)| n.to_string() != *number);
                Ok(String::new())
            }
            ["-N", "eth1", rule @ ..] => {
                self.change()?;
                if self.refuses.borrow().contains(&"filters") {
                    return Ok("rmgr: Cannot insert RX class rule: Operation not supported\n".into());
                }
                let number = filters.iter().map(|(n, _)| n + 1).max().unwrap_or(0);
                filters.push((number, read(rule)));
                Ok(format!("Added rule with ID {number}\n"))
            }
            other => panic!("{other:?}"),
        }
    }

    fn pause(&self) {
        self.pauses.set(self.pauses.get() + 1);
        if let Some(after) = self.closes_after.get()
            && self.pauses.get() >= after
        {
            self.open.borrow_mut().clear();
        }
    }
}

/// A filter by the words of a request.
fn read(words: &[&str]) -> Filter {
    let value = |name: &str| words.iter().position(|w| *w == name).map(|at| words[at + 1]);
    let mask = |name: &str| {
        let at = words.iter().position(|w| *w == name)?;
        (words.get(at + 2) == Some(&"m")).then(|| words[at + 3])
    };
    let prefix = |name: &str| {
        let ignored = mask(name).map_or(0, |m| m.parse::<std::net::Ipv4Addr>().unwrap().to_bits());
        value(name).map(|v| Prefix::new(v.parse().unwrap(), u8::try_from(ignored.leading_zeros()).unwrap()).unwrap())
    };
    assert_eq!(words[0], "flow-type");
    Filter {
        protocol: match words[1] {
            "tcp4" => 6,
            "udp4" => 17,
            other => panic!("{other}"),
        },
        src: prefix("src-ip"),
        dst: prefix("dst-ip"),
        src_port: value("src-port").map(|v| v.parse().unwrap()),
        dst_port: value("dst-port").map(|v| v.parse().unwrap()),
        vlan: value("vlan").map(|v| v.parse().unwrap()),
        dst_mac: value("dst-mac").map(|v| v.parse().unwrap()),
        to: match (value("vf"), value("queue"), value("action")) {
            (Some(vf), Some(queue), None) => {
                FilterTarget::Vf { vf: vf.parse().unwrap(), queue: queue.parse().unwrap() }
            }
            (None, None, Some("-1")) => FilterTarget::Drop,
            other => panic!("{other:?}"),
        },
    }
}

/// As ethtool prints it.
fn list(number: u32, filter: &Filter) -> String {
    let prefix = |prefix: Option<Prefix>| match prefix {
        None => "0.0.0.0 mask: 255.255.255.255".to_owned(),
        Some(p) => {
            let ignored = u32::MAX.checked_shr(p.length().into()).unwrap_or(0);
            format!("{} mask: {}", p.address(), std::net::Ipv4Addr::from(ignored))
        }
    };
    let port = |port: Option<u16>| port.map_or("0 mask: 0xffff".to_owned(), |p| format!("{p} mask: 0x0"));
    let protocol = if filter.protocol == 6 { "TCP" } else { "UDP" };
    let vlan = filter.vlan.map(|v| format!("\tVLAN EtherType: 0x0 mask: 0xffff\n\tVLAN: {v:#x} mask: 0xf000\n\tUser-defined: 0x0 mask: 0xffffffffffffffff\n"));
    let mac =
        filter.dst_mac.map(|m| format!("\tDest MAC addr: {} mask: 00:00:00:00:00:00\n", m.to_string().to_uppercase()));
    let to = match filter.to {
        FilterTarget::Vf { vf, queue } => format!("Direct to VF {vf} queue {queue}"),
        FilterTarget::Drop => "Drop".into(),
    };
    format!(
        "Filter: {number}\n\tRule Type: {protocol} over IPv4\n\tSrc IP addr: {}\n\tDest IP addr: {}\n\tTOS: 0x0 mask: 0xff\n\tSrc port: {}\n\tDest port: {}\n{}{}\tAction: {to}\n\n",
        prefix(filter.src),
        prefix(filter.dst),
        port(filter.src_port),
        port(filter.dst_port),
        vlan.unwrap_or_default(),
        mac.unwrap_or_default(),
    )
}
