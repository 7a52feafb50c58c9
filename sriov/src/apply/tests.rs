use super::*;
use crate::fake::{Fake, pci};
use crate::{Filter, FilterTarget, Mac};
use std::fs;
use std::path::PathBuf;
use tempfile::TempDir;

mod runs;

fn vf(name: &str, index: u16, driver: VfDriver) -> VfWish {
    VfWish {
        name: name.into(),
        index,
        driver,
        mac: None,
        vlan: None,
        trust: None,
        spoof_check: None,
        max_rate_mbps: None,
        addresses: Vec::new(),
    }
}

fn mac(last: u8) -> Mac {
    Mac([0x52, 0x54, 0, 0xaa, 0, last])
}

/// One VF for DPDK with all settings, one for the kernel with two addresses.
fn both() -> Vec<PfWish> {
    let fast = VfWish {
        mac: Some(mac(0x10)),
        vlan: Some(10),
        trust: Some(true),
        spoof_check: Some(false),
        max_rate_mbps: Some(1000),
        ..vf("fast", 0, VfDriver::Dpdk)
    };
    let web = VfWish {
        mac: Some(mac(0x11)),
        addresses: vec![("10.0.0.11".parse().unwrap(), 24), ("fd00::11".parse().unwrap(), 64)],
        ..vf("web", 1, VfDriver::Kernel)
    };
    let web_port = Filter {
        protocol: 6,
        src: None,
        dst: "10.1.0.0/16".parse().ok(),
        src_port: None,
        dst_port: Some(80),
        vlan: Some(5),
        dst_mac: None,
        to: FilterTarget::Vf { vf: 0, queue: 0 },
    };
    let drop = Filter {
        dst: None,
        vlan: None,
        dst_mac: Some(mac(0x99)),
        dst_port: Some(23),
        to: FilterTarget::Drop,
        ..web_port.clone()
    };
    vec![PfWish { pf: "eth1".into(), create: 2, vfs: vec![fast, web], filters: vec![web_port, drop] }]
}

fn one(vf: VfWish) -> Vec<PfWish> {
    vec![PfWish { pf: "eth1".into(), create: 0, vfs: vec![vf], filters: Vec::new() }]
}

fn record() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.sriov.json");
    (folder, path)
}

fn refusal(fake: &Fake, wishes: &[PfWish]) -> String {
    let (_folder, path) = record();
    let before = fake.picture();
    let error = Vfs::apply(fake, fake, wishes, &path).unwrap_err();
    assert_eq!(fake.picture(), before, "{error}");
    assert!(!path.exists());
    format!("{error}|{}", error.hint().unwrap_or_default())
}

#[test]
fn virtual_functions_are_made_set_up_and_taken_away() {
    let fake = Fake::with_igb();
    fake.edit("eth1", |l| l.up = false);
    let before = fake.picture();
    let (_folder, path) = record();
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    assert_eq!(
        vfs.ready(),
        [
            ReadyVf { name: "fast".into(), pci: pci("01:10.0"), interface: None },
            ReadyVf { name: "web".into(), pci: pci("01:10.2"), interface: Some("vf130".into()) },
        ]
    );
    let links = fake.links().unwrap();
    let pf = links.iter().find(|l| l.name == "eth1").unwrap();
    assert!(pf.up);
    let first = pf.vfs[0];
    assert_eq!((first.mac, first.vlan, first.trust), (Some(mac(0x10)), 10, true));
    assert_eq!((first.spoof_check, first.max_rate_mbps, pf.vfs[1].mac), (false, 1000, Some(mac(0x11))));
    let web = links.iter().find(|l| l.name == "vf130").unwrap();
    assert!(web.up && web.addresses == both()[0].vfs[1].addresses);
    assert_eq!(Device(pci("01:10.0")).driver(&fake).as_deref(), Some("vfio-pci"));
    assert_eq!(Device(pci("01:10.2")).driver(&fake).as_deref(), Some("igbvf"));
    assert_eq!(Device(pci("01:10.2")).driver_override(&fake), None);
    assert_eq!(Device(pci("01:00.0")).read(&fake, "sriov_drivers_autoprobe").as_deref(), Some("1"));
    assert!(path.exists());
    assert!(vfs.release().is_empty());
    assert_eq!(fake.picture(), before);
    assert!(!path.exists());
}

/// Two runs' worth of ports on one PF: both are DPDK's, each in a VLAN of its own, and the kernel has none.
#[test]
fn two_virtual_functions_of_one_nic_are_both_dpdks() {
    let fake = Fake::with_igb();
    let before = fake.picture();
    let (_folder, path) = record();
    let of = |name, index: u16, vlan| VfWish { mac: Some(mac(index as u8)), vlan, ..vf(name, index, VfDriver::Dpdk) };
    let vfs = vec![of("wan", 0, Some(10)), of("lan", 1, Some(20))];
    let wish = PfWish { pf: "eth1".into(), create: 3, vfs, filters: Vec::new() };
    let vfs = Vfs::apply(&fake, &fake, &[wish], &path).unwrap();
    assert_eq!(vfs.ready().iter().map(|vf| vf.pci).collect::<Vec<_>>(), [pci("01:10.0"), pci("01:10.2")]);
    let driver = |vf: &str| Device(pci(vf)).driver(&fake);
    assert_eq!((driver("01:10.0").as_deref(), driver("01:10.2").as_deref()), (Some("vfio-pci"), Some("vfio-pci")));
    // The third is made, and nobody's.
    assert_eq!(driver("01:10.4"), None);
    let links = fake.links().unwrap();
    let pf = links.iter().find(|l| l.name == "eth1").unwrap();
    assert_eq!(pf.vfs.iter().map(|vf| vf.vlan).collect::<Vec<_>>(), [10, 20, 0]);
    assert!(vfs.release().is_empty());
    assert_eq!(fake.picture(), before);
}

#[test]
fn twice_in_a_row_gives_the_same() {
    let fake = Fake::with_igb();
    let before = fake.picture();
    let (_folder, path) = record();
    let first = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    let (picture, ready) = (fake.picture(), first.ready().to_vec());
    // The first crashed: its record is there, and nobody undid it.
    std::mem::forget(first);
    assert_eq!(recorded(&fake, &path).unwrap(), [pci("01:10.0"), pci("01:10.2")]);
    let second = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    assert_eq!(second.ready(), ready);
    let settings = |p: &std::collections::BTreeMap<String, String>| {
        p.iter()
            .filter(|(k, _)| !k.contains("vf1") && !k.contains("iommu_group"))
            .map(|(k, v)| format!("{k} {v}"))
            .collect::<Vec<_>>()
    };
    assert_eq!(settings(&fake.picture()), settings(&picture));
    drop(second);
    assert_eq!(fake.picture(), before);
}

/// Every change that is made can fail; whichever it is, all before it are undone.
#[test]
fn a_failure_at_any_point_leaves_nothing() {
    let (_folder, path) = record();
    let changes = {
        let fake = Fake::with_igb();
        fake.edit("eth1", |l| l.up = false);
        std::mem::forget(Vfs::apply(&fake, &fake, &both(), &path).unwrap());
        fs::remove_file(&path).unwrap();
        fake.changes.get()
    };
    assert!(changes > 15, "{changes}");
    for at in 0..changes {
        let fake = Fake::with_igb();
        fake.edit("eth1", |l| l.up = false);
        let before = fake.picture();
        fake.fail_at.set(Some(at));
        let error = Vfs::apply(&fake, &fake, &both(), &path).unwrap_err();
        assert!(matches!(error, SriovError::Refused { .. }), "change {at}: {error}");
        assert_eq!(fake.picture(), before, "change {at}: {error}");
        assert!(!path.exists(), "change {at}");
    }
}

/// A process can die before or after any change, while it sets up or while it undoes; the next one undoes what it finds written.
#[test]
fn a_crash_at_any_point_is_mended_by_the_next_run() {
    let (_folder, path) = record();
    let prepare = |dies_at: usize| {
        let fake = Fake::with_igb();
        fake.edit("eth1", |l| l.up = false);
        let before = fake.picture();
        fake.dead.set(true);
        fake.fail_at.set(Some(dies_at));
        (fake, before)
    };
    let mut at = 0;
    loop {
        let (fake, before) = prepare(at);
        let died_on_the_way = match Vfs::apply(&fake, &fake, &both(), &path) {
            Ok(vfs) => {
                let died = !vfs.release().is_empty();
                assert_eq!(died, path.exists(), "change {at}");
                died
            }
            Err(_) => true,
        };
        if !died_on_the_way {
            assert_eq!(fake.picture(), before);
            break;
        }
        fake.fail_at.set(None);
        assert_eq!(recover(&fake, &fake, &path).unwrap(), Vec::<String>::new(), "change {at}");
        assert_eq!(fake.picture(), before, "change {at}");
        assert!(!path.exists());
        at += 1;
    }
    assert!(at > 30, "{at}");
}

/// VFs made by others are used, and given back as they were; their number stays.
#[test]
fn virtual_functions_of_others_are_given_back() {
    let fake = Fake::with_igb();
    fake.make_vfs(pci("01:00.0"), 3);
    fake.edit("eth1", |l| l.vfs[1].mac = Some(mac(0x77)));
    let others = |fake: &Fake| {
        let picture = fake.picture();
        picture
            .into_iter()
            .filter(|(k, _)| !k.contains("01:10.0") && !k.contains("01:10.2"))
            .filter(|(k, _)| !k.contains("vf128") && !k.contains("vf130"))
            .collect::<Vec<_>>()
    };
    let before = others(&fake);
    let before_all: Vec<String> = fake.picture().into_keys().collect();
    let (_folder, path) = record();
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    assert_eq!(Device(pci("01:10.0")).driver(&fake).as_deref(), Some("vfio-pci"));
    assert_eq!(number::<u16>(&Device(pci("01:00.0")).folder(&fake).join("sriov_numvfs")), Some(3));
    assert!(vfs.release().is_empty());
    assert_eq!(others(&fake), before);
    assert_eq!(fake.picture().into_keys().collect::<Vec<_>>(), before_all);
    assert_eq!(Device(pci("01:10.0")).driver(&fake).as_deref(), Some("igbvf"));
    assert_eq!(Device(pci("01:10.0")).driver_override(&fake), None);
}

/// Where VFs get no drivers by themselves, a kernel driver is still found, and that setting is as before.
#[test]
fn a_host_without_autoprobe_keeps_it_so() {
    let fake = Fake::with_igb();
    fake.put("sys/bus/pci/devices/0000:01:00.0/sriov_drivers_autoprobe", "0\n");
    let before = fake.picture();
    let (_folder, path) = record();
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    assert_eq!(vfs.ready()[1].interface.as_deref(), Some("vf130"));
    assert_eq!(Device(pci("01:00.0")).read(&fake, "sriov_drivers_autoprobe").as_deref(), Some("0"));
    drop(vfs);
    assert_eq!(fake.picture(), before);
}

#[test]
fn what_others_changed_meanwhile_is_theirs() {
    let fake = Fake::with_igb();
    fake.make_vfs(pci("01:00.0"), 2);
    let (_folder, path) = record();
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    fake.edit("eth1", |l| l.vfs[0].vlan = 99);
    assert!(vfs.release().is_empty());
    let links = fake.links().unwrap();
    let first = links.iter().find(|l| l.name == "eth1").unwrap().vfs[0];
    assert_eq!((first.vlan, first.mac, first.max_rate_mbps), (99, Some(Mac::ZERO), 0));
}

#[test]
fn a_virtual_function_that_another_took_meanwhile_keeps_its_pf() {
    let fake = Fake::with_igb();
    fake.edit("eth1", |l| l.up = false);
    let (_folder, path) = record();
    let wishes = vec![PfWish { create: 3, ..both().remove(0) }];
    let vfs = Vfs::apply(&fake, &fake, &wishes, &path).unwrap();
    fake.bind(pci("01:10.4"), "pci-stub");
    let problems = vfs.release();
    assert_eq!(problems, ["the virtual functions of 0000:01:00.0 stay: 0000:01:10.4 is held by the driver pci-stub"]);
    assert!(path.exists(), "what is left is for the next run");
    let autoprobe = Device(pci("01:00.0")).read(&fake, "sriov_drivers_autoprobe");
    assert_eq!(autoprobe.as_deref(), Some("1"), "VFs of others get drivers as before");
    assert!(fake.links().unwrap().iter().any(|l| l.name == "eth1" && l.up), "it carries what they send");
    fs::remove_file(fake.device(pci("01:10.4")).join("driver")).unwrap();
    assert!(recover(&fake, &fake, &path).unwrap().is_empty());
    assert!(!fake.device(pci("01:10.0")).exists() && !path.exists());
    assert!(fake.links().unwrap().iter().any(|l| l.name == "eth1" && !l.up));
}

#[test]
fn a_device_that_is_still_open_is_waited_for() {
    let fake = Fake::with_igb();
    let before = fake.picture();
    let (_folder, path) = record();
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    let group = crate::discover::group(&fake.device(pci("01:10.0"))).unwrap();
    fake.open.borrow_mut().push(format!("/dev/vfio/{group}").into());
    fake.closes_after.set(Some(fake.pauses.get() + 3));
    assert!(vfs.release().is_empty());
    assert_eq!(fake.picture(), before);

    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    let group = crate::discover::group(&fake.device(pci("01:10.0"))).unwrap();
    fake.open.borrow_mut().push(format!("/dev/vfio/{group}").into());
    fake.closes_after.set(None);
    let problems = vfs.release();
    let line = "0000:01:10.0 stays bound to vfio-pci: it is held by a process that cannot be seen from here";
    assert_eq!(problems[0], line);
}

#[test]
fn what_cannot_be_had_is_said_and_nothing_touched() {
    let fake = Fake::with_igb();
    fake.nic(pci("02:00.0"), ("0x1af4", "0x1041"), false);
    fake.bind(pci("02:00.0"), "virtio-pci");
    fake.link("eth0", Some(&fake.device(pci("02:00.0"))));
    let of = |pf: &str, vf| vec![PfWish { pf: pf.into(), create: 0, vfs: vec![vf], filters: Vec::new() }];
    let dpdk = |index| vf("fast", index, VfDriver::Dpdk);
    let cases = [
        (of("eth7", dpdk(0)), "this host has no network interface `eth7`|those with SR-IOV are eth1"),
        (
            of("eth0", dpdk(0)),
            "`eth0` has no SR-IOV (driver virtio-pci)|use it as an `xdp` port; if the NIC should have SR-IOV, turn it on in the firmware set-up, and check its driver",
        ),
        (of("eth1", dpdk(7)), "`eth1` has at most 7 virtual functions, but 8 are asked for|ask for at most 7"),
        (
            vec![PfWish { create: 9, ..both().remove(0) }],
            "`eth1` has at most 7 virtual functions, but 9 are asked for|ask for at most 7",
        ),
        (
            vec![PfWish { pf: "eth1".into(), create: 0, vfs: vec![dpdk(1), dpdk(1)], filters: Vec::new() }],
            "the virtual function 1 of `eth1` is asked for twice|give each its own `index`",
        ),
    ];
    for (wishes, expected) in cases {
        assert_eq!(refusal(&fake, &wishes), expected);
    }
}

#[test]
fn a_pf_that_is_not_the_kernels() {
    let fake = Fake::with_igb();
    fs::remove_file(fake.device(pci("01:00.0")).join("driver")).unwrap();
    fs::remove_dir_all(fake.device(pci("01:00.0")).join("net")).unwrap();
    fake.links.borrow_mut().clear();
    fake.bind(pci("01:00.0"), "vfio-pci");
    let wishes =
        vec![PfWish { pf: "01:00.0".into(), create: 0, vfs: vec![vf("fast", 0, VfDriver::Dpdk)], filters: Vec::new() }];
    let said = refusal(&fake, &wishes);
    assert!(
        said.starts_with(
            "`0000:01:00.0` is not the kernel's: the driver vfio-pci has given it to a program, such as DPDK|"
        ),
        "{said}"
    );
}

#[test]
fn virtual_functions_that_are_held_or_too_few() {
    let fake = Fake::with_igb();
    fake.make_vfs(pci("01:00.0"), 2);
    fake.edit("vf130", |l| l.addresses = vec![("10.9.0.1".parse().unwrap(), 24)]);
    let said = refusal(&fake, &both());
    let held = "the virtual function 1 of `eth1` (0000:01:10.2) is held by the interface vf130, which is in use|";
    assert!(said.starts_with(held), "{said}");
    let said = refusal(&fake, &one(vf("fast", 2, VfDriver::Dpdk)));
    assert!(
        said.starts_with("`eth1` has 2 virtual functions already, made by somebody else, but 3 are needed|"),
        "{said}"
    );
    let said = refusal(
        &fake,
        &[PfWish { pf: "vf128".into(), create: 0, vfs: vec![vf("fast", 0, VfDriver::Dpdk)], filters: Vec::new() }],
    );
    assert_eq!(said, "`vf128` is a virtual function itself, of 0000:01:00.0|name the PF");
}

#[test]
fn drivers_and_iommu_that_are_missing() {
    let fake = Fake::new();
    fake.pf("eth1", "0000:01:00.0", "igb", 7, (128, 2));
    let fast = one(vf("fast", 0, VfDriver::Dpdk));
    let said =
        "the driver vfio-pci is not loaded: the virtual function `fast` cannot be given to DPDK|modprobe vfio-pci";
    assert_eq!(refusal(&fake, &fast), said);
    let web = one(vf("web", 0, VfDriver::Kernel));
    let said = "the kernel has loaded no driver for the virtual function `web` (that of its PF is igb)|modprobe igbvf";
    assert_eq!(refusal(&fake, &web), said);
    fs::remove_dir_all(fake.at("sys/kernel/iommu_groups")).unwrap();
    fs::remove_file(fake.device(pci("01:00.0")).join("iommu_group")).unwrap();
    let said = refusal(&fake, &fast);
    assert!(
        said.starts_with("the IOMMU is off: the virtual function `fast` cannot be given to DPDK|turn it on"),
        "{said}"
    );
}

#[test]
fn a_setting_that_the_driver_lacks() {
    let fake = Fake::with_igb();
    fake.refuses.borrow_mut().push("trust");
    let said = refusal(&fake, &both());
    let expected = "cannot set trust of `fast` on `eth1`: Operation not supported (os error 95)|this NIC or its driver cannot do that: leave the setting out";
    assert_eq!(said, expected);
}

#[test]
fn a_group_shared_with_the_kernel() {
    let fake = Fake::with_igb();
    fake.nic(pci("00:1f.0"), ("0x8086", "0x1533"), false);
    fake.bind(pci("00:1f.0"), "e1000e");
    fake.joins.borrow_mut().push(pci("00:1f.0"));
    let said = refusal(&fake, &one(vf("fast", 0, VfDriver::Dpdk)));
    let expected = "the virtual function `fast` shares IOMMU group 2 with 0000:00:1f.0, which is the kernel's|";
    assert!(said.starts_with(expected), "{said}");
}

/// Those that split natively stay with the kernel's driver; DPDK drives them beside it.
#[test]
fn a_natively_split_nic_keeps_its_driver() {
    let fake = Fake::with_igb();
    fs::remove_file(fake.device(pci("01:00.0")).join("driver")).unwrap();
    fake.bind(pci("01:00.0"), "mlx5_core");
    let before = fake.picture();
    let (_folder, path) = record();
    let vfs = Vfs::apply(&fake, &fake, &both(), &path).unwrap();
    assert_eq!(Device(pci("01:10.0")).driver(&fake).as_deref(), Some("igbvf"));
    drop(vfs);
    assert_eq!(fake.picture(), before);
}

#[test]
fn filters_are_listed_or_it_failed() {
    let fake = Fake::with_igb();
    let (_folder, path) = record();
    let wishes = both();
    // Somebody else's: one that is the same as ours, and another.
    fake.filters.borrow_mut().push((7, wishes[0].filters[1].clone()));
    let vfs = Vfs::apply(&fake, &fake, &wishes, &path).unwrap();
    let listed: Vec<_> = Device(pci("01:00.0")).filters(&fake).unwrap();
    assert_eq!(listed, [(7, wishes[0].filters[1].clone()), (8, wishes[0].filters[0].clone())]);
    assert!(vfs.release().is_empty());
    assert_eq!(fake.filters.borrow().iter().map(|(n, _)| *n).collect::<Vec<_>>(), [7]);
    fake.filters.borrow_mut().clear();
    // As igb: an error in words, and success all the same.
    fake.refuses.borrow_mut().push("filters");
    let said = refusal(&fake, &wishes);
    let expected = "cannot add a filter to `eth1` (flow-type tcp4 dst-ip 10.1.0.0 m 0.0.255.255 dst-port 80 vlan 5 m 0xf000 vf 0 queue 0): rmgr: Cannot insert RX class rule: Operation not supported|turn filters on";
    assert!(said.starts_with(expected), "{said}");
}

#[test]
fn a_broken_record_is_not_ignored() {
    let fake = Fake::with_igb();
    let (_folder, path) = record();
    fs::write(&path, "{").unwrap();
    let error = Vfs::apply(&fake, &fake, &both(), &path).unwrap_err();
    assert!(matches!(error, SriovError::Record { .. }), "{error}");
    assert_eq!(fake.changes.get(), 0);
}
