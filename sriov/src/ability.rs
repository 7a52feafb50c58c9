//! What a network device can be used for, and why not. Pure.

use serde::Serialize;

use crate::{Feature, Inventory, Nic, Use, is_for_user_space};

/// What a device can be used for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Abilities {
    /// An `xdp` port.
    pub xdp: Ability,
    /// A `dpdk` port as a whole.
    pub dpdk: Ability,
    /// Virtual functions.
    pub vfs: Ability,
    /// Flows split between DPDK and the kernel without virtual functions.
    pub native_split: Ability,
    /// Steering rules by 5-tuple in hardware, through ethtool.
    pub ntuple: Ability,
}

/// Whether something can be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Ability {
    /// Whether it can be.
    pub can: bool,
    /// How, in a word or two: `native`; or `no`.
    pub how: String,
    /// What to know of it: why not, or at which cost. Empty if there is nothing.
    pub notes: Vec<String>,
}

impl Ability {
    fn yes(how: impl Into<String>) -> Self {
        Self { can: true, how: how.into(), notes: Vec::new() }
    }

    fn no(why: impl Into<String>) -> Self {
        Self { can: false, how: "no".into(), notes: vec![why.into()] }
    }

    fn noting(mut self, note: impl Into<Option<String>>) -> Self {
        self.notes.extend(note.into());
        self
    }
}

/// What a device of the inventory can be used for.
pub fn abilities(inventory: &Inventory, nic: &Nic) -> Abilities {
    Abilities {
        xdp: xdp(nic),
        dpdk: dpdk(inventory, nic),
        vfs: vfs(nic),
        native_split: match nic.splits_by_flows() {
            true => Ability::yes("yes"),
            false => Ability::no("the driver keeps the device to itself: split by virtual functions or by XDP"),
        },
        ntuple: match nic.filters.ntuple {
            Feature::On => Ability::yes("on"),
            Feature::Off => Ability::yes("off").noting(format!("turn it on: `ethtool -K {} ntuple on`", nic.name())),
            Feature::Absent => Ability::no("the driver has none: steering by 5-tuple is done by XDP"),
        },
    }
}

fn xdp(nic: &Nic) -> Ability {
    let Some(interface) = &nic.interface else {
        return Ability::no(match &nic.driver {
            Some(driver) => format!("it has no interface here: the driver is {driver}"),
            None => "it has no driver".into(),
        });
    };
    if let Some(program) = nic.uses.iter().find(|u| matches!(u, Use::Xdp(_))) {
        return Ability::no(format!("it {program} already"));
    }
    let how = if nic.has_native_xdp() { "native" } else { "generic" };
    let taken = |u: &&Use| matches!(u, Use::DefaultRoute | Use::Address(_) | Use::Member(_));
    let used =
        nic.uses.iter().find(taken).map(|u| format!("it {u}: what is not steered to `kernel` no longer gets there"));
    let down = (!nic.up).then(|| format!("it is down: `ip link set {interface} up`"));
    let slow = (how == "generic").then(|| "the driver is not known to run XDP: the stack does, slower".to_owned());
    Ability::yes(how).noting(slow).noting(used).noting(down)
}

fn dpdk(inventory: &Inventory, nic: &Nic) -> Ability {
    let Some(pci) = nic.pci else { return Ability::no("it is no PCI device: use it as an `xdp` port") };
    if nic.driver.as_deref().is_some_and(is_for_user_space) {
        return Ability::yes("yes");
    }
    if nic.splits_natively() {
        return Ability::yes("yes").noting("beside the kernel's driver, which stays".to_owned());
    }
    if let Some(used) = nic.uses.first() {
        return Ability::no(format!("it {used}, and would be lost to the kernel"));
    }
    if !inventory.iommu {
        return Ability::no("the IOMMU is off: boot with `intel_iommu=on` or `amd_iommu=on`");
    }
    if !inventory.vfio {
        return Ability::no("vfio-pci is not loaded: `modprobe vfio-pci`");
    }
    Ability::yes("bind").noting(format!("after `dpdk-devbind.py -b vfio-pci {pci}`, if DPDK has a driver for it"))
}

fn vfs(nic: &Nic) -> Ability {
    if let Some(pf) = nic.vf_of {
        return Ability::no(format!("it is a virtual function itself, of {pf}"));
    }
    let Some(sriov) = &nic.sriov else { return Ability::no("it has no SR-IOV, or its driver or firmware has it off") };
    if let Some(driver) = nic.driver.as_deref().filter(|d| is_for_user_space(d)) {
        return Ability::no(format!("it is in the hands of {driver}, not of the kernel"));
    }
    let mut ability = Ability::yes(format!("{}/{}", sriov.present, sriov.total));
    for vf in &sriov.vfs {
        let held = vf.held.as_ref().map(|held| format!("virtual function {} ({}) is held by {held}", vf.index, vf.pci));
        ability = ability.noting(held);
    }
    ability
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discover;
    use crate::fake::{Fake, pci};

    fn of(fake: &Fake, name: &str) -> Abilities {
        let inventory = discover(fake).unwrap();
        abilities(&inventory, inventory.find(name).unwrap())
    }

    fn words(ability: &Ability) -> String {
        format!("{} {}", ability.how, ability.notes.join("; "))
    }

    #[test]
    fn a_free_82576_can_be_used_for_all_but_filters() {
        let fake = Fake::with_igb();
        fake.make_vfs(pci("01:00.0"), 2);
        fake.edit("vf130", |l| l.addresses = vec![("10.0.0.1".parse().unwrap(), 24)]);
        let igb = of(&fake, "eth1");
        assert_eq!(words(&igb.xdp), "native ");
        assert_eq!(
            words(&igb.dpdk),
            "bind after `dpdk-devbind.py -b vfio-pci 0000:01:00.0`, if DPDK has a driver for it"
        );
        let held = "2/7 virtual function 1 (0000:01:10.2) is held by the interface vf130, which is in use";
        assert_eq!(words(&igb.vfs), held);
        assert!(!igb.ntuple.can && !igb.native_split.can);
        assert_eq!(words(&of(&fake, "vf130").vfs), "no it is a virtual function itself, of 0000:01:00.0");
    }

    #[test]
    fn a_device_in_use_says_so() {
        let fake = Fake::with_igb();
        fake.edit("eth1", |l| l.default_route = true);
        let igb = of(&fake, "eth1");
        assert_eq!(words(&igb.dpdk), "no it carries the default route, and would be lost to the kernel");
        let xdp = "native it carries the default route: what is not steered to `kernel` no longer gets there";
        assert_eq!(words(&igb.xdp), xdp);
        fake.edit("eth1", |l| l.xdp = Some(4));
        assert_eq!(words(&of(&fake, "eth1").xdp), "no it has the XDP program 4 already");
    }

    #[test]
    fn what_the_host_lacks_is_said() {
        let fake = Fake::new();
        fake.pf("eth1", "0000:01:00.0", "igb", 7, (128, 2));
        assert_eq!(words(&of(&fake, "eth1").dpdk), "no vfio-pci is not loaded: `modprobe vfio-pci`");
        std::fs::remove_dir_all(fake.at("sys/kernel/iommu_groups")).unwrap();
        assert!(words(&of(&fake, "eth1").dpdk).starts_with("no the IOMMU is off"));
        fake.link("tap9", None);
        fake.edit("tap9", |l| (l.kind, l.up) = (Some("sit".into()), false));
        let tap = of(&fake, "tap9");
        let slow =
            "generic the driver is not known to run XDP: the stack does, slower; it is down: `ip link set tap9 up`";
        assert_eq!(words(&tap.xdp), slow);
        assert_eq!(words(&tap.dpdk), "no it is no PCI device: use it as an `xdp` port");
        assert_eq!(words(&tap.vfs), "no it has no SR-IOV, or its driver or firmware has it off");
    }

    #[test]
    fn a_natively_split_nic_needs_no_virtual_functions() {
        let fake = Fake::new();
        fake.pf("ens1", "0000:c1:00.0", "mlx5_core", 8, (2, 1));
        fake.ntuple.borrow_mut().push("ens1".into());
        fake.edit("ens1", |l| l.default_route = true);
        let nic = of(&fake, "ens1");
        assert_eq!(words(&nic.dpdk), "yes beside the kernel's driver, which stays");
        assert_eq!((nic.native_split.can, nic.vfs.how.as_str()), (true, "0/8"));
        assert_eq!(words(&nic.ntuple), "off turn it on: `ethtool -K ens1 ntuple on`");
    }

    #[test]
    fn a_device_without_interface() {
        let fake = Fake::with_igb();
        fake.nic(pci("02:00.0"), ("0x8086", "0x1572"), true);
        assert_eq!(words(&of(&fake, "02:00.0").xdp), "no it has no driver");
        fake.bind(pci("02:00.0"), "vfio-pci");
        let nic = of(&fake, "02:00.0");
        assert_eq!(words(&nic.xdp), "no it has no interface here: the driver is vfio-pci");
        assert_eq!(words(&nic.dpdk), "yes ");
    }
}
