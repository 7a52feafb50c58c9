//! Virtual cables between namespaces.

use std::process::Command;
use std::time::Duration;

use crate::netns::ip;
use crate::process::run;
use crate::{Error, Netns, name};

const COMMAND_DEADLINE: Duration = Duration::from_secs(60);

/// A device name that no other test on this host has, for an end that stays on the host.
#[must_use]
pub fn unique_device_name() -> String {
    format!("mnv{}.{}", std::process::id(), name::next())
}

/// One end of a cable as it will be: where, under which name, with which addresses.
#[derive(Debug, Clone)]
pub struct End<'a> {
    netns: Option<&'a Netns>,
    device: String,
    addresses: Vec<String>,
    mac: Option<String>,
    ipv6: bool,
    offloads: bool,
    queues: u16,
}

impl<'a> End<'a> {
    /// An end inside a namespace.
    #[must_use]
    pub fn new(netns: &'a Netns, device: &str) -> Self {
        Self { netns: Some(netns), ..Self::on_host(device) }
    }

    /// An end in the namespace of the test itself; give it a name of [`unique_device_name`].
    #[must_use]
    pub fn on_host(device: &str) -> Self {
        Self {
            netns: None,
            device: device.to_owned(),
            addresses: Vec::new(),
            mac: None,
            ipv6: true,
            offloads: false,
            queues: 1,
        }
    }

    /// Adds an IPv4 or IPv6 address with its prefix length, such as `10.0.0.1/24` or `fd00::1/64`.
    #[must_use]
    pub fn address(mut self, address: &str) -> Self {
        self.addresses.push(address.to_owned());
        self
    }

    /// Sets the hardware address; the kernel draws one otherwise.
    #[must_use]
    pub fn mac(mut self, mac: &str) -> Self {
        self.mac = Some(mac.to_owned());
        self
    }

    /// Switches IPv6 off, so that nothing but the test's own packets leaves here: no router solicitation, no multicast
    /// report. For tests that count packets exactly.
    #[must_use]
    pub fn without_ipv6(mut self) -> Self {
        self.ipv6 = false;
        self
    }

    /// Leaves checksum and segmentation offloads on.
    ///
    /// They are off by default: a sender with checksum offload leaves L4 checksums half done, and a receiver behind XDP
    /// gets them like that and drops them.
    #[must_use]
    pub fn with_offloads(mut self) -> Self {
        self.offloads = true;
        self
    }

    /// Gives the end this many receive and transmit queues; one otherwise. What the peer sends on its queue `q` arrives on
    /// queue `q` here.
    #[must_use]
    pub fn queues(mut self, queues: u16) -> Self {
        self.queues = queues;
        self
    }

    fn command(&self, program: &str) -> Command {
        self.netns.map_or_else(|| Command::new(program), |netns| netns.command(program))
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), Error> {
        run(self.command(program).args(arguments), COMMAND_DEADLINE).map(drop)
    }

    /// Gives the device its final settings, from outermost to addresses, and raises it.
    fn configure(&self, mtu_bytes: u32) -> Result<(), Error> {
        let device = self.device.as_str();
        self.run("ip", &["link", "set", "dev", device, "mtu", &mtu_bytes.to_string()])?;
        if let Some(mac) = &self.mac {
            self.run("ip", &["link", "set", "dev", device, "address", mac])?;
        }
        if !self.ipv6 {
            let script = format!("echo 1 > '/proc/sys/net/ipv6/conf/{device}/disable_ipv6'");
            self.run("sh", &["-c", &script])?;
        }
        if !self.offloads {
            let features = ["tx", "tso", "gso", "gro", "txvlan", "rxvlan"];
            let settings = features.iter().flat_map(|feature| [*feature, "off"]);
            let arguments: Vec<&str> = ["-K", device].into_iter().chain(settings).collect();
            self.run("ethtool", &arguments)?;
        }
        for address in &self.addresses {
            // Duplicate address detection would keep the address unusable for a second or two.
            let nodad: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
            self.run("ip", &[&["addr", "add", address, "dev", device], nodad].concat())?;
        }
        self.run("ip", &["link", "set", "dev", device, "up"])
    }
}

/// A cable. It goes with the namespaces of its ends; an end on the host is removed when this is dropped.
#[derive(Debug)]
pub struct Veth {
    on_host: Option<String>,
}

impl Veth {
    /// Lays a cable with an MTU of 1500 bytes.
    ///
    /// # Errors
    ///
    /// If `ip` or `ethtool` fails; nothing is left on the host then.
    pub fn between(a: &End<'_>, b: &End<'_>) -> Result<Self, Error> {
        Self::with_mtu(a, b, 1500)
    }

    /// Lays a cable with an MTU of `mtu_bytes` (L3 bytes, as `ip link` counts).
    ///
    /// # Errors
    ///
    /// If `ip` or `ethtool` fails; nothing is left on the host then.
    pub fn with_mtu(a: &End<'_>, b: &End<'_>, mtu_bytes: u32) -> Result<Self, Error> {
        let queues = [a, b].map(|end| end.queues.to_string());
        let mut arguments: Vec<&str> = vec!["link", "add", "name", &a.device];
        arguments.extend(a.netns.iter().flat_map(|netns| ["netns", netns.name()]));
        arguments.extend(["numrxqueues", &queues[0], "numtxqueues", &queues[0], "type", "veth"]);
        arguments.extend(["peer", "name", &b.device]);
        arguments.extend(b.netns.iter().flat_map(|netns| ["netns", netns.name()]));
        arguments.extend(["numrxqueues", &queues[1], "numtxqueues", &queues[1]]);
        ip(arguments)?;
        let on_host = [a, b].into_iter().find(|end| end.netns.is_none()).map(|end| end.device.clone());
        let veth = Self { on_host };
        a.configure(mtu_bytes)?;
        b.configure(mtu_bytes)?;
        Ok(veth)
    }
}

impl Drop for Veth {
    fn drop(&mut self) {
        if let Some(device) = &self.on_host {
            // Already gone when the namespace of the other end went first.
            let _ = ip(["link", "del", "dev", device]);
        }
    }
}
