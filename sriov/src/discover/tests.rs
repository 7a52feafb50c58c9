use super::*;
use crate::Feature;
use crate::fake::{Fake, pci};
use std::os::unix::fs::symlink;

fn look(fake: &Fake) -> Inventory {
    discover(fake).unwrap()
}

#[test]
fn an_82576_and_its_virtual_functions() {
    let fake = Fake::with_igb();
    let before = look(&fake);
    let nic = before.find("eth1").unwrap();
    assert!(before.iommu && before.vfio);
    assert_eq!((nic.driver.as_deref(), nic.id.as_deref()), (Some("igb"), Some("8086:10c9")));
    assert_eq!((nic.pci, nic.iommu_group, nic.numa_node), (Some(pci("0000:01:00.0")), Some(1), None));
    assert!(nic.uses.is_empty() && !nic.splits_natively() && nic.has_native_xdp());
    let sriov = nic.sriov.as_ref().unwrap();
    assert_eq!((sriov.total, sriov.present, sriov.vfs.len()), (7, 0, 0));
    assert_eq!([0, 6, 7].map(|i| nic.vf_address(i)), [Some(pci("01:10.0")), Some(pci("01:11.4")), None]);

    fake.make_vfs(pci("01:00.0"), 7);
    fake.edit("eth1", |l| l.vfs[2].mac = Some(Mac([2, 0, 0, 0, 1, 2])));
    let after = look(&fake);
    let sriov = after.find("01:00.0").unwrap().sriov.as_ref().unwrap();
    assert_eq!((sriov.present, sriov.vfs.len()), (7, 7));
    let vf = &sriov.vfs[2];
    assert_eq!((vf.index, vf.pci, vf.driver.as_deref()), (2, pci("01:10.4"), Some("igbvf")));
    assert_eq!(
        (vf.interface.as_deref(), vf.mac, vf.held.clone()),
        (Some("vf132"), Some(Mac([2, 0, 0, 0, 1, 2])), None)
    );
    let as_nic = after.find("vf132").unwrap();
    assert_eq!((as_nic.vf_of, as_nic.pci), (Some(pci("01:00.0")), Some(pci("01:10.4"))));
}

use crate::Mac;

#[test]
fn who_uses_an_interface_is_told() {
    let fake = Fake::with_igb();
    let bridge = fake.link("br0", None);
    fake.edit("br0", |l| l.kind = Some("bridge".into()));
    fake.edit("eth1", |l| {
        l.default_route = true;
        l.addresses = vec![("10.0.0.1".parse().unwrap(), 24), ("fe80::1".parse().unwrap(), 64)];
        l.member_of = Some(bridge);
        l.xdp = Some(7);
    });
    let found = look(&fake);
    let words: Vec<String> = found.find("eth1").unwrap().uses.iter().map(ToString::to_string).collect();
    assert_eq!(
        words,
        ["carries the default route", "has the address 10.0.0.1/24", "belongs to br0", "has the XDP program 7"]
    );
    let bridge = found.find("br0").unwrap();
    assert_eq!((bridge.driver.as_deref(), bridge.pci, bridge.sriov.clone()), (Some("bridge"), None, None));
}

#[test]
fn a_natively_split_nic_and_its_filters() {
    let fake = Fake::new();
    fake.pf("ens1", "0000:c1:00.0", "mlx5_core", 8, (2, 1));
    fake.ntuple.borrow_mut().push("ens1".into());
    let found = look(&fake);
    let nic = found.find("ens1").unwrap();
    assert!(nic.splits_natively());
    assert_eq!(nic.filters.ntuple, Feature::Off);
    assert!(!found.vfio);
}

#[test]
fn a_virtio_interface_is_found_behind_its_device() {
    let fake = Fake::new();
    fake.nic(pci("00:03.0"), ("0x1af4", "0x1041"), false);
    fake.bind(pci("00:03.0"), "virtio-pci");
    let virtio = fake.device(pci("00:03.0")).join("virtio2");
    fs::create_dir_all(&virtio).unwrap();
    symlink("/nowhere/virtio_net", virtio.join("driver")).unwrap();
    fake.link("eth0", Some(&virtio));
    let found = look(&fake);
    assert_eq!(found.nics.len(), 1);
    let nic = &found.nics[0];
    assert_eq!((nic.pci, nic.driver.as_deref()), (Some(pci("00:03.0")), Some("virtio_net")));
    assert_eq!((nic.sriov.clone(), nic.iommu_group, found.iommu), (None, None, false));
}

#[test]
fn a_nic_without_interface_is_listed_by_its_address() {
    let fake = Fake::new();
    fake.nic(pci("02:00.0"), ("0x8086", "0x1572"), true);
    fake.bind(pci("02:00.0"), "vfio-pci");
    fake.nic(pci("00:02.0"), ("0x1af4", "0x1042"), false);
    fake.put("sys/bus/pci/devices/0000:00:02.0/class", "0x018000\n");
    let found = look(&fake);
    let names: Vec<String> = found.nics.iter().map(Nic::name).collect();
    assert_eq!(names, ["0000:02:00.0"]);
    assert_eq!(found.nics[0].driver.as_deref(), Some("vfio-pci"));
}

#[test]
fn virtual_functions_that_others_hold() {
    let fake = Fake::with_igb();
    fake.put("sys/bus/pci/devices/0000:01:00.0/sriov_drivers_autoprobe", "0\n");
    fake.make_vfs(pci("01:00.0"), 6);
    let vf = |index: u32| pci("01:00.0").further(128 + 2 * index).unwrap();
    // 0: free. 1: a process has its group open. 2: one that cannot be seen has. 3: pci-stub. 4: elsewhere. 5: here, in use.
    for index in [1, 2] {
        fake.bind(vf(index), "vfio-pci");
    }
    let group = |index: u32| super::group(&fake.device(vf(index))).unwrap();
    fs::create_dir_all(fake.at("proc/4242/fd")).unwrap();
    fake.put("proc/4242/comm", "dpdk-testpmd\n");
    symlink(format!("/dev/vfio/{}", group(1)), fake.at("proc/4242/fd/9")).unwrap();
    fake.open.borrow_mut().push(format!("/dev/vfio/{}", group(2)).into());
    fake.bind(vf(3), "pci-stub");
    fake.bind(vf(4), "igbvf");
    fake.bind(vf(5), "igbvf");
    fake.link("web0", Some(&fake.device(vf(5))));
    fake.edit("web0", |l| l.addresses = vec![("10.9.0.1".parse().unwrap(), 24)]);
    let found = look(&fake);
    let vfs = &found.find("eth1").unwrap().sriov.as_ref().unwrap().vfs;
    let held: Vec<String> = vfs.iter().map(|v| v.held.as_ref().map(ToString::to_string).unwrap_or_default()).collect();
    assert_eq!(
        held,
        [
            "",
            "process 4242 (dpdk-testpmd)",
            "a process that cannot be seen from here",
            "the driver pci-stub",
            "another network namespace",
            "the interface web0, which is in use"
        ]
    );
}

#[test]
fn the_output_of_ethtool_is_understood() {
    let output = "Features for eth0:\nrx-checksumming: on\nntuple-filters: off\nhw-tc-offload: off [fixed]\n";
    assert_eq!(read_filters(output), Filters { ntuple: Feature::Off, tc: Feature::Absent });
    assert_eq!(read_filters("ntuple-filters: on\nhw-tc-offload: on [fixed]\n").tc, Feature::On);
    assert_eq!(read_filters("netlink error: No such device\n"), Filters::default());
}

/// The real thing, read only: whatever this host has, its loopback is left out and its interfaces are all there.
#[test]
fn this_host_can_be_looked_at() {
    let found = discover(&crate::Linux).unwrap();
    let here = names(Path::new("/sys/class/net"));
    let listed: Vec<_> = found.nics.iter().filter_map(|n| n.interface.clone()).collect();
    assert!(!listed.contains(&"lo".to_owned()), "{listed:?}");
    assert!(here.iter().filter(|n| *n != "lo").all(|n| listed.contains(n)), "{here:?} {listed:?}");
}
