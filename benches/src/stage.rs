//! Three hosts on two cables, as namespaces: a client, a box that runs chains, a server.
//!
//! ```text
//!   client eth0 ======= left  box  right ======= eth0 server
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use middlenet_tests::{End, Netns, Veth, may_build_namespaces};

use crate::BenchError;

/// The stage; it goes with everything on it when this goes.
#[derive(Debug)]
pub struct Stage {
    /// Where traffic begins.
    pub client: Netns,
    /// Where the runtime runs, with the interfaces `left` and `right`.
    pub middle: Netns,
    /// Where traffic ends.
    pub server: Netns,
    _cables: [Veth; 2],
}

impl Stage {
    /// Builds it. The client and the server get an address each, such as `10.1.0.2/24`, and no IPv6, so that there is no
    /// traffic but what is wanted.
    ///
    /// # Errors
    /// Without the privilege to make namespaces, or when a tool fails.
    pub fn build(client_address: &str, server_address: &str) -> Result<Self, BenchError> {
        if !may_build_namespaces() {
            return Err(BenchError::Host("this needs root: it makes network namespaces".into()));
        }
        let (client, middle, server) = (Netns::new("client")?, Netns::new("box")?, Netns::new("server")?);
        let host = |netns, address| End::new(netns, "eth0").address(address).without_ipv6();
        let port = |device| End::new(&middle, device).without_ipv6();
        let left = Veth::between(&host(&client, client_address), &port("left"))?;
        let right = Veth::between(&port("right"), &host(&server, server_address))?;
        Ok(Self { client, middle, server, _cables: [left, right] })
    }
}

impl Stage {
    /// The files that stand for its namespaces while they are there.
    pub fn paths(&self) -> Vec<PathBuf> {
        [&self.client, &self.middle, &self.server].map(Netns::path).to_vec()
    }
}

/// What the kernel received on a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Bytes, without FCS.
    pub bytes: u64,
    /// Packets.
    pub pkts: u64,
}

/// What the kernel has received on a device of a namespace. Costs no process, unlike [`Netns::statistic`], so it can stand
/// beside a clock.
///
/// # Errors
/// When the namespace or the device is not there.
pub fn received(netns: &Netns, device: &str) -> Result<Received, BenchError> {
    // `/proc/self` would be the namespace of the whole process.
    let path = Path::new("/proc/thread-self/net/dev");
    let text = netns.enter(|| fs::read_to_string(path))?.map_err(BenchError::file(path))?;
    parse_received(&text, device).ok_or_else(|| BenchError::Failed(format!("there is no device `{device}`")))
}

/// The packets of [`received`].
///
/// # Errors
/// Likewise.
pub fn received_pkts(netns: &Netns, device: &str) -> Result<u64, BenchError> {
    Ok(received(netns, device)?.pkts)
}

/// The first two columns of a device's line.
fn parse_received(text: &str, device: &str) -> Option<Received> {
    let columns = text.lines().find_map(|line| line.trim().strip_prefix(device)?.strip_prefix(':'))?;
    let mut columns = columns.split_whitespace().map_while(|column| column.parse().ok());
    Some(Received { bytes: columns.next()?, pkts: columns.next()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn received_bytes_and_packets_are_the_first_columns() {
        let text = "Inter-|   Receive                  |  Transmit\n face |bytes    packets errs\n\
                    \x20   lo:       7       1    0\n  eth0:12345    678    0    0 9 9\n eth01: 1 2\n";
        assert_eq!(parse_received(text, "eth0"), Some(Received { bytes: 12345, pkts: 678 }));
        assert_eq!(parse_received(text, "eth01"), Some(Received { bytes: 1, pkts: 2 }));
        assert_eq!(parse_received(text, "eth"), None);
    }
}
