//! Hosts in a row, each joined to the next by a cable.

use std::sync::atomic::{AtomicU32, Ordering};

use middlenet_tests::{End, Netns, Veth, may_build_namespaces};

use super::{BOX_CORE, LOAD_CORE};
use crate::{BenchError, napi, priority};

/// A host of a row.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) netns: Netns,
    /// Towards the first host, empty there; then towards the last.
    devices: [Option<Device>; 2],
}

#[derive(Debug)]
struct Device {
    name: String,
    /// Who receives.
    thread: u32,
}

/// It goes with its namespaces when this goes.
#[derive(Debug)]
pub(super) struct Row {
    hosts: Vec<Host>,
    _cables: Vec<Veth>,
}

impl Row {
    /// Lays it: names of the hosts, and the addresses of the ends of the cables between them, with their prefix lengths. The first
    /// and the last host are the load's, the others are boxes, which forward packets.
    ///
    /// # Errors
    /// Without the privilege to make namespaces, or when a tool fails.
    pub(super) fn lay(names: &[&str], cables: &[[Option<&str>; 2]]) -> Result<Self, BenchError> {
        if !may_build_namespaces() {
            return Err(BenchError::Host("this needs root: it makes network namespaces".into()));
        }
        let tag = tag();
        let namespaces = names.iter().map(|name| Netns::new(name)).collect::<Result<Vec<_>, _>>()?;
        let device = |at: usize, side: &str| format!("{side}{at}{tag}");
        let mut laid = Vec::new();
        for (at, addresses) in cables.iter().enumerate() {
            let name = |side| device(at, side);
            let end = |host: usize, device: &str, address: Option<&str>| {
                let end = End::new(&namespaces[host], device).without_ipv6();
                address.map_or(end.clone(), |address| end.address(address))
            };
            let (near, far) = (name("w"), name("e"));
            laid.push(Veth::between(&end(at, &near, addresses[0]), &end(at + 1, &far, addresses[1]))?);
        }
        let last = namespaces.len() - 1;
        let mut hosts = Vec::new();
        for (at, netns) in namespaces.into_iter().enumerate() {
            let is_box = at != 0 && at != last;
            let core = if is_box { BOX_CORE } else { LOAD_CORE };
            if is_box {
                netns.exec("sh", ["-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])?;
            }
            let threaded = |name: String| -> Result<Device, BenchError> {
                let thread = napi::in_thread(&netns, &name, core)?;
                priority::raise(thread)?;
                if !is_box {
                    // So that the load offers more: its core is the limit where boxes do little.
                    priority::wait_for_turn(thread)?;
                }
                Ok(Device { name, thread })
            };
            let left = at.checked_sub(1).map(|cable| threaded(device(cable, "e"))).transpose()?;
            let right = (at < last).then(|| threaded(device(at, "w"))).transpose()?;
            hosts.push(Host { netns, devices: [left, right] });
        }
        Ok(Self { hosts, _cables: laid })
    }

    pub(super) fn client(&self) -> &Host {
        &self.hosts[0]
    }

    pub(super) fn server(&self) -> &Host {
        &self.hosts[self.hosts.len() - 1]
    }

    pub(super) fn boxes(&self) -> &[Host] {
        &self.hosts[1..self.hosts.len() - 1]
    }
}

impl Host {
    /// The names of its devices.
    pub(super) fn devices(&self) -> Vec<&str> {
        self.devices.iter().flatten().map(|device| device.name.as_str()).collect()
    }

    /// The threads of its devices.
    pub(super) fn threads(&self) -> impl Iterator<Item = u32> {
        self.devices.iter().flatten().map(|device| device.thread)
    }

    /// Sends what is for elsewhere by this neighbour.
    ///
    /// # Errors
    /// When `ip` refuses.
    pub(super) fn route(&self, to: &str, via: &str) -> Result<(), BenchError> {
        self.netns.exec("ip", ["route", "add", to, "via", via])?;
        Ok(())
    }
}

/// What no other row on the host has in its names: six letters at most.
fn tag() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let digit = |value: u32| char::from_digit(value % 36, 36).unwrap_or('0');
    let mut pid = std::process::id();
    let mut tag = String::from(digit(NEXT.fetch_add(1, Ordering::Relaxed)));
    while pid > 0 {
        tag.push(digit(pid));
        pid /= 36;
    }
    tag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_device_can_be_told_from_its_threads_name() {
        let (one, other) = (tag(), tag());
        assert_ne!(one, other);
        assert!(one.len() <= 6, "{one}: the kernel keeps 15 letters of `napi/w0{one}-8193`");
    }
}
