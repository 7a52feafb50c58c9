//! The network devices of a host.

use middlenet_sriov::{Abilities, Inventory, Nic, abilities};
use serde_json::{Value, json};
use std::fmt::Write;

use super::Table;

/// A network device, with what is known of it.
#[derive(Debug, Clone)]
pub struct HostPort<'i> {
    nic: &'i Nic,
    abilities: Abilities,
    run: Option<String>,
}

impl<'i> HostPort<'i> {
    /// A device of an inventory, and the run that has it.
    pub fn new(inventory: &Inventory, nic: &'i Nic, run: Option<String>) -> Self {
        Self { nic, abilities: abilities(inventory, nic), run }
    }
}

/// For people: a table, and below it what to know of each.
pub fn host_ports_text(ports: &[HostPort<'_>]) -> String {
    if ports.is_empty() {
        return "this host has no network devices but its loopback\n".into();
    }
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".into());
    let mut table = Table::new(["INTERFACE", "PCI", "DRIVER", "NODE", "XDP", "DPDK", "VFS", "SPLITS", "NTUPLE", "RUN"]);
    let mut notes = String::new();
    for port in ports {
        let (nic, able) = (port.nic, &port.abilities);
        table.row([
            or_dash(nic.interface.clone()),
            or_dash(nic.pci.map(|p| p.to_string())),
            or_dash(nic.driver.clone()),
            or_dash(nic.numa_node.map(|n| n.to_string())),
            able.xdp.how.clone(),
            able.dpdk.how.clone(),
            able.vfs.how.clone(),
            able.native_split.how.clone(),
            able.ntuple.how.clone(),
            or_dash(port.run.clone()),
        ]);
        let of_all = [("xdp", &able.xdp), ("dpdk", &able.dpdk), ("vfs", &able.vfs), ("ntuple", &able.ntuple)];
        // Nobody expects a NIC's abilities of an interface that is made by software.
        let worth_telling = if nic.pci.is_some() { &of_all[..] } else { &of_all[..1] };
        let lines = worth_telling.iter().flat_map(|(what, ability)| ability.notes.iter().map(move |note| (what, note)));
        for (at, (what, note)) in lines.enumerate() {
            if at == 0 {
                let _ = writeln!(notes, "\n{}", nic.name());
            }
            let _ = writeln!(notes, "  {what}: {note}");
        }
    }
    table.render() + &notes
}

/// For programs.
pub fn host_ports_json(ports: &[HostPort<'_>]) -> Value {
    ports.iter().map(|p| json!({ "device": p.nic, "can": p.abilities, "run": p.run })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_sriov::Sriov;

    #[test]
    fn a_device_is_a_row_and_its_notes() {
        let sriov = Sriov { total: 7, present: 0, offset_stride: (128, 2), autoprobe: true, vfs: Vec::new() };
        let nic = Nic {
            interface: Some("eth1".into()),
            pci: "01:00.0".parse().ok(),
            driver: Some("igb".into()),
            up: true,
            sriov: Some(sriov),
            ..Nic::default()
        };
        let inventory = Inventory { nics: vec![nic], iommu: true, vfio: false };
        let port = HostPort::new(&inventory, &inventory.nics[0], Some("`edge` (process 12)".into()));
        let text = host_ports_text(std::slice::from_ref(&port));
        let expected = "\
INTERFACE  PCI           DRIVER  NODE  XDP     DPDK  VFS  SPLITS  NTUPLE  RUN
eth1       0000:01:00.0  igb     -     native  no    0/7  no      no      `edge` (process 12)

eth1
  dpdk: vfio-pci is not loaded: `modprobe vfio-pci`
  ntuple: the driver has none: steering by 5-tuple is done by XDP
";
        assert_eq!(text, expected);
        let json = host_ports_json(&[port]);
        assert_eq!(json[0]["device"]["sriov"]["total"], 7);
        assert_eq!((&json[0]["can"]["xdp"]["how"], &json[0]["can"]["dpdk"]["can"]), (&json!("native"), &json!(false)));
    }
}
