//! Addresses, and the virtual machine's card.
//!
//! ```text
//!   outside 10.9.0.1 ---- wire ---- card --+-- VF 0  10.9.0.10  router (DPDK): to 10.8/16 on the wire, to 10.7/16 by VF 1
//!     backend :8080                        +-- VF 1  10.9.0.11  kernel and broker, and 10.7.0.1
//! ```

use std::time::Duration;

use middlenet_tests::vm::{Outside, PF_MAC, Vm};
use middlenet_tests::{Error, wait_until};

pub(crate) const OUTSIDE: &str = "10.9.0.1";
pub(crate) const OUTSIDE_MAC: &str = "52:54:00:bb:00:01";
pub(crate) const BACKEND: &str = "10.9.0.1:8080";
pub(crate) const ROUTER: &str = "10.9.0.10";
pub(crate) const ROUTER_MAC: &str = "52:54:00:aa:00:10";
/// Where the broker listens: reached straight, and by way of the router.
pub(crate) const DIRECT: &str = "10.9.0.11:80";
pub(crate) const ROUTED: &str = "10.7.0.1:80";
pub(crate) const KERNEL_MAC: &str = "52:54:00:aa:00:11";
/// A station on the wire that nobody is: what the router sends there is counted.
pub(crate) const TRANSIT: &str = "10.8.0.5";
pub(crate) const TRANSIT_MAC: [u8; 6] = [0x52, 0x54, 0, 0xbb, 0, 0x99];

/// The card's functions in the guest.
#[derive(Debug)]
pub(crate) struct Card {
    /// PCI address of the physical function.
    pub(crate) address: String,
    /// Its network device.
    pub(crate) device: String,
    /// PCI address of the virtual function that DPDK drives.
    pub(crate) dpdk: String,
    /// Network device of the one that the kernel drives.
    pub(crate) kernel: String,
}

/// The host beyond the wire, with its routes.
pub(crate) fn outside() -> Result<Outside, Error> {
    let outside = Outside::new(&format!("{OUTSIDE}/24"), OUTSIDE_MAC)?;
    for network in ["10.7.0.0/16", "10.8.0.0/16"] {
        outside.host.exec("ip", ["route", "add", network, "via", ROUTER])?;
    }
    Ok(outside)
}

/// Loads the card's driver and finds the physical function.
pub(crate) fn find_card(vm: &mut Vm) -> Result<(String, String), Error> {
    vm.sh("for m in igb igbvf vfio-pci vfio_iommu_type1 veth; do modprobe $m; done")?;
    let device = vm.sh(&format!("basename $(dirname $(grep -l {PF_MAC} /sys/class/net/*/address))"))?;
    let address = vm.sh(&format!("basename $(readlink /sys/class/net/{device}/device)"))?;
    Ok((device, address))
}

/// Makes two virtual functions, one for DPDK and one for the kernel.
pub(crate) fn make_functions(vm: &mut Vm) -> Result<Card, Error> {
    let (device, address) = find_card(vm)?;
    let path = format!("/sys/bus/pci/devices/{address}");
    vm.sh(&format!(
        "ip link set {device} up
         echo 0 >{path}/sriov_drivers_autoprobe
         echo 2 >{path}/sriov_numvfs
         ip link set {device} vf 0 mac {ROUTER_MAC}
         ip link set {device} vf 1 mac {KERNEL_MAC}"
    ))?;
    let dpdk = vm.sh(&format!("basename $(readlink {path}/virtfn0)"))?;
    let kernel = vm.sh(&format!("basename $(readlink {path}/virtfn1)"))?;
    for (function, driver) in [(&dpdk, "vfio-pci"), (&kernel, "igbvf")] {
        vm.sh(&format!(
            "echo {driver} >/sys/bus/pci/devices/{function}/driver_override
             echo {function} >/sys/bus/pci/drivers_probe"
        ))?;
    }
    let kernel = vm.sh(&format!("ls /sys/bus/pci/devices/{kernel}/net"))?;
    Ok(Card { address, device, dpdk, kernel })
}

/// Gives the kernel's function its addresses and waits for its carrier. What comes by the router goes back by it.
pub(crate) fn raise_kernel_function(vm: &mut Vm, card: &Card) -> Result<(), Error> {
    // The physical function hears the same questions; only the device that has an address is to answer for it.
    vm.sh(&format!(
        "echo 1 >/proc/sys/net/ipv4/conf/all/arp_ignore
         echo 2 >/proc/sys/net/ipv4/conf/all/arp_announce
         ip link set {0} up
         ip addr add 10.9.0.11/24 dev {0}
         ip addr add 10.7.0.1/32 dev lo
         ip route add default via {ROUTER} dev {0} table 7
         ip rule add from 10.7.0.1 lookup 7",
        card.kernel
    ))?;
    wait_until("a carrier on the kernel's function", Duration::from_secs(20), || {
        vm.sh(&format!("cat /sys/class/net/{}/carrier", card.kernel)).is_ok_and(|text| text == "1")
    })
}
