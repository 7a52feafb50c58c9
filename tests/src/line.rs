//! The stage of most tests.

use std::time::Duration;

use crate::{End, Error, Netns, Veth, wait_until};

const CARRIER: Duration = Duration::from_secs(10);

/// Two hosts, and between them one that routes:
///
/// ```text
///   client                     middle                    server
///   eth0 10.1.0.2/24  ======  wan   lan  ======  eth0 10.2.0.2/24
///        fd01::2/64                                   fd02::2/64
///        default via .1                               default via .1
/// ```
///
/// The middle has no addresses of its own: those with `.1` belong to whatever runs there.
#[derive(Debug)]
pub struct Line {
    /// The left host.
    pub client: Netns,
    /// The host of the run.
    pub middle: Netns,
    /// The right host.
    pub server: Netns,
    _cables: [Veth; 2],
}

impl Line {
    /// Builds it.
    ///
    /// # Errors
    ///
    /// If `ip` or `ethtool` fails.
    pub fn new() -> Result<Self, Error> {
        Self::with_queues(1)
    }

    /// Builds it with cables that have several queues.
    ///
    /// # Errors
    ///
    /// If `ip` or `ethtool` fails.
    pub fn with_queues(queues: u16) -> Result<Self, Error> {
        let client = Netns::new("client")?;
        let middle = Netns::new("middle")?;
        let server = Netns::new("server")?;
        let host = |netns, side: u8| {
            End::new(netns, "eth0")
                .address(&format!("10.{side}.0.2/24"))
                .address(&format!("fd0{side}::2/64"))
                .mac(&format!("02:00:00:00:0{side}:02"))
                .queues(queues)
        };
        let port = |device| End::new(&middle, device).without_ipv6().queues(queues);
        let cables = [Veth::between(&host(&client, 1), &port("wan"))?, Veth::between(&host(&server, 2), &port("lan"))?];
        for (netns, side) in [(&client, 1), (&server, 2)] {
            netns.exec("ip", ["route", "add", "default", "via", &format!("10.{side}.0.1")])?;
            netns.exec("ip", ["route", "add", "default", "via", &format!("fd0{side}::1")])?;
        }
        // A device has no carrier for a moment after its peer is up.
        wait_until("the carrier of both cables", CARRIER, || {
            ["wan", "lan"].iter().all(|device| {
                let path = format!("/sys/class/net/{device}/operstate");
                middle.exec("cat", [path]).is_ok_and(|state| state.stdout.trim() == "up")
            })
        })?;
        Ok(Self { client, middle, server, _cables: cables })
    }

    /// The manifest's entry for a router with the addresses that the hosts use.
    pub const ROUTER: &'static str = "l3-router: { addresses: [
          { address: 10.1.0.1/24, port: wan }, { address: 10.2.0.1/24, port: lan },
          { address: 'fd01::1/64', port: wan }, { address: 'fd02::1/64', port: lan } ] }";

    /// A manifest, without its name, with a chain `transit` from `wan` to `lan`; each function is one entry.
    #[must_use]
    pub fn manifest(functions: &[&str]) -> String {
        let entries: String = functions.iter().map(|function| format!("      - {function}\n")).collect();
        format!(
            "ports:\n  wan: {{ xdp: wan }}\n  lan: {{ xdp: lan }}\nchains:\n  transit:\n    ports: [wan, lan]\n    functions:\n{entries}"
        )
    }

    /// Lets the hosts take packets straight from programs, so that those that stay in the kernel leave without the manager.
    ///
    /// # Errors
    ///
    /// If `ethtool` fails.
    pub fn let_packets_leave_directly(&self) -> Result<(), Error> {
        for host in [&self.client, &self.server] {
            host.exec("ethtool", ["-K", "eth0", "gro", "on"])?;
        }
        Ok(())
    }

    /// Switches IPv6 off at the hosts, which then send nothing of their own but ARP. For tests that count packets.
    ///
    /// # Errors
    ///
    /// If `sysctl` fails.
    pub fn silence_ipv6(&self) -> Result<(), Error> {
        for host in [&self.client, &self.server] {
            host.exec("sysctl", ["-qw", "net.ipv6.conf.all.disable_ipv6=1"])?;
        }
        Ok(())
    }

    /// Gives the addresses with `.1` to the middle's own kernel, which routes between them.
    ///
    /// # Errors
    ///
    /// If `ip` or `sysctl` fails.
    pub fn route_in_the_kernel(&self) -> Result<(), Error> {
        for (device, address) in [("wan", "10.1.0.1/24"), ("lan", "10.2.0.1/24")] {
            self.middle.exec("ip", ["address", "add", address, "dev", device])?;
        }
        self.middle.exec("sysctl", ["-qw", "net.ipv4.ip_forward=1"])?;
        Ok(())
    }

    /// What the kernel says of the middle's interfaces: everything that a run must leave as it found it.
    ///
    /// # Errors
    ///
    /// If `ip` or `ethtool` fails.
    pub fn interfaces(&self) -> Result<String, Error> {
        let mut text = self.middle.exec("ip", ["-d", "link", "show"])?.stdout;
        for device in ["wan", "lan"] {
            text.push_str(&self.middle.exec("ethtool", ["-k", device])?.stdout);
        }
        Ok(text)
    }
}
