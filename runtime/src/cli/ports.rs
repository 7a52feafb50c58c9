//! `middlenet ports`.

use middlenet_sriov::{Linux, discover};

use super::{Failure, print_data};
use crate::claim::{ClaimedDevice, Claims};
use crate::render::{HostPort, host_ports_json, host_ports_text};
use crate::run_folder;

pub(super) fn ports(json: bool) -> Result<(), Failure> {
    let inventory =
        discover(&Linux).map_err(|e| Failure::new(format!("cannot look at the network devices: {e}"), None))?;
    let folder = run_folder::path();
    let ports: Vec<HostPort<'_>> = inventory
        .nics
        .iter()
        .map(|nic| {
            let device = match &nic.interface {
                Some(interface) => Some(ClaimedDevice::interface(interface)),
                None => nic.pci.map(ClaimedDevice::pci),
            };
            HostPort::new(&inventory, nic, device.and_then(|device| Claims::holder(&folder, &device)))
        })
        .collect();
    print_data(&if json { format!("{:#}\n", host_ports_json(&ports)) } else { host_ports_text(&ports) });
    Ok(())
}
