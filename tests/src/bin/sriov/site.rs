//! Addresses, and the virtual machine's card.
//!
//! ```text
//!   outside 10.9.0.1 ---- wire ---- card --+-- VF 0  10.9.0.10  router (DPDK): to 10.8/16 on the wire, to 10.7/16 by VF 1
//!     backend :8080                        +-- VF 1  10.9.0.11  kernel and broker, and 10.7.0.1
//!                                          +-- VF 2  VLAN 10    firewall (DPDK) that drops all
//! ```

use std::time::Duration;

use middlenet_tests::vm::{Outside, PF_MAC, Vm};
use middlenet_tests::{Error, wait_until};

pub(crate) const OUTSIDE: &str = "10.9.0.1";
pub(crate) const OUTSIDE_MAC: &str = "52:54:00:bb:00:01";
pub(crate) const BACKEND: &str = "10.9.0.1:8080";
pub(crate) const ROUTER: &str = "10.9.0.10";
pub(crate) const ROUTER_MAC: &str = "52:54:00:aa:00:10";
pub(crate) const KERNEL: &str = "10.9.0.11";
/// The physical function, once it has no virtual ones.
pub(crate) const WHOLE: &str = "10.9.0.20";
/// An address that is reached by way of the router.
pub(crate) const SERVICE: &str = "10.7.0.1";
/// Where the broker listens: reached straight, and by way of the router.
pub(crate) const DIRECT: &str = "10.9.0.11:80";
pub(crate) const ROUTED: &str = "10.7.0.1:80";
/// A function of DPDK's in a VLAN.
pub(crate) const TAGGED_MAC: [u8; 6] = [0x52, 0x54, 0, 0xaa, 0, 0x12];
pub(crate) const VLAN: u8 = 10;
pub(crate) const KERNEL_MAC: &str = "52:54:00:aa:00:11";
/// A station on the wire that nobody is: what the router sends there is counted.
pub(crate) const TRANSIT: &str = "10.8.0.5";
/// The same by way of the physical function.
pub(crate) const TRANSIT_BY_WHOLE: &str = "10.6.0.5";
pub(crate) const TRANSIT_MAC: [u8; 6] = [0x52, 0x54, 0, 0xbb, 0, 0x99];

/// The card in the guest.
#[derive(Debug)]
pub(crate) struct Card {
    /// PCI address of its physical function.
    pub(crate) address: String,
    /// Network device of its physical function.
    pub(crate) device: String,
}

/// The host beyond the wire, with its routes.
pub(crate) fn outside() -> Result<Outside, Error> {
    let outside = Outside::new(&format!("{OUTSIDE}/24"), OUTSIDE_MAC)?;
    for (network, router) in [("10.7.0.0/16", ROUTER), ("10.8.0.0/16", ROUTER), ("10.6.0.0/16", WHOLE)] {
        outside.host.exec("ip", ["route", "add", network, "via", router])?;
    }
    Ok(outside)
}

/// A link address as manifests have it.
pub(crate) fn text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Loads the drivers and finds the physical function.
pub(crate) fn find_card(vm: &mut Vm) -> Result<Card, Error> {
    vm.sh("for m in igb igbvf vfio-pci vfio_iommu_type1 veth tun; do modprobe $m; done")?;
    let device = vm.sh(&format!("basename $(dirname $(grep -l {PF_MAC} /sys/class/net/*/address))"))?;
    let address = vm.sh(&format!("basename $(readlink /sys/class/net/{device}/device)"))?;
    // The physical function hears the questions for its virtual ones; only the device that has an address is to answer.
    vm.sh("echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore; echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce")?;
    Ok(Card { address, device })
}

/// How many virtual functions there are.
pub(crate) fn functions(vm: &mut Vm, card: &Card) -> Result<String, Error> {
    vm.sh(&format!(
        "cat /sys/bus/pci/devices/{}/sriov_numvfs; ls -d /sys/bus/pci/devices/*/physfn || true",
        card.address
    ))
}

/// Waits for the carrier of the function that the kernel drives, and lets what comes by the router go back by it; returns its
/// device.
pub(crate) fn kernel_function(vm: &mut Vm, card: &Card) -> Result<String, Error> {
    let device = vm.sh(&format!("ls /sys/bus/pci/devices/{}/virtfn1/net", card.address))?;
    wait_until("a carrier on the kernel's function", Duration::from_secs(20), || {
        vm.sh(&format!("cat /sys/class/net/{device}/carrier")).is_ok_and(|text| text == "1")
    })?;
    vm.sh(&format!("ip route add default via {ROUTER} dev {device} table 7; ip rule add from 10.7.0.1 lookup 7"))?;
    Ok(device)
}
