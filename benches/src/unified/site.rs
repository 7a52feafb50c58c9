//! Both loads, on one interface or on two.
//!
//! ```text
//!            eth0 ======= wan                 lan ======= eth0
//!   client                    box: manager, broker              server
//!            eth1 ======= web       and nginx behind it
//! ```
//!
//! Packets go from the client by `wan`, a firewall, a router and `lan` to the server. Requests go from the client to the
//! broker: in the unified layout by `wan` as well, where rules tell the two apart; in the separate one by `web`, which has
//! no XDP program, while `wan` hands over every packet.

use std::net::{SocketAddr, UdpSocket};

use middlenet_tests::{End, Netns, Process, Veth, may_build_namespaces};
use serde_json::{Value, json};

use super::{BOX_CORE, LOAD_CORE};
use crate::BenchError;
use crate::bench::Bench;
use crate::l4l7::backends::Backends;
use crate::run::Run;
use crate::sender::Sender;
use crate::stage::{Received, received};
use crate::tool::Tool;

const WRK: Tool = Tool { program: "wrk", package: "wrk" };
/// Requests under way at a time.
const CONCURRENCY: &str = "-c32";
/// Where packets go; a socket is there that nobody reads.
const SINK: &str = "10.2.0.2:9";

/// Which interface requests come by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Layout {
    /// The one that packets come by.
    Unified,
    /// One of their own.
    Separate,
}

impl Layout {
    pub(super) const BOTH: [Self; 2] = [Self::Unified, Self::Separate];

    fn listen(self) -> &'static str {
        match self {
            Self::Unified => "10.1.0.1:80",
            Self::Separate => "10.3.0.1:80",
        }
    }

    /// The client's interface that responses come by.
    fn device(self) -> &'static str {
        match self {
            Self::Unified => "eth0",
            Self::Separate => "eth1",
        }
    }
}

/// The hosts with everything but the runtime.
#[derive(Debug)]
pub(super) struct Site {
    // Programs end before their namespaces.
    backends: Backends,
    _sink: UdpSocket,
    client: Netns,
    middle: Netns,
    server: Netns,
    _cables: [Veth; 3],
}

impl Site {
    /// Builds it.
    ///
    /// # Errors
    /// Without the privilege to make namespaces, or when a tool fails.
    pub(super) fn build(bench: &Bench) -> Result<Self, BenchError> {
        if !may_build_namespaces() {
            return Err(BenchError::Host("this needs root: it makes network namespaces".into()));
        }
        WRK.path()?;
        let (client, middle, server) = (Netns::new("client")?, Netns::new("box")?, Netns::new("server")?);
        let end = |netns, device, address| End::new(netns, device).address(address).without_ipv6();
        let cables = [
            Veth::between(&end(&client, "eth0", "10.1.0.2/24"), &end(&middle, "wan", "10.1.0.1/24"))?,
            Veth::between(&End::new(&middle, "lan").without_ipv6(), &end(&server, "eth0", "10.2.0.2/24"))?,
            Veth::between(&end(&client, "eth1", "10.3.0.2/24"), &end(&middle, "web", "10.3.0.1/24"))?,
        ];
        client.exec("ip", ["route", "add", "10.2.0.0/24", "via", "10.1.0.254"])?;
        server.exec("ip", ["route", "add", "10.1.0.0/24", "via", "10.2.0.254"])?;
        let addresses = [8081, 8082].map(|port| SocketAddr::from(([127, 0, 0, 1], port))).to_vec();
        let backends = Backends::start(&bench.folder, Some(&middle), addresses)?;
        let sink: std::io::Result<UdpSocket> = server.enter(|| UdpSocket::bind(SINK))?;
        let sink = sink.map_err(|e| BenchError::Failed(format!("nobody can listen on {SINK}: {e}")))?;
        Ok(Self { backends, _sink: sink, client, middle, server, _cables: cables })
    }

    /// Starts the runtime, and waits until packets and requests pass.
    ///
    /// # Errors
    /// When they do not.
    pub(super) fn start(&self, bench: &Bench, layout: Layout) -> Result<Run, BenchError> {
        let manifest = manifest(layout, self.backends.addresses());
        let run = Run::start(&bench.programs, &bench.folder, Some(&self.middle), manifest)?;
        self.wait_for_packets()?;
        Ok(run)
    }

    /// Waits until the router knows the server's link address and the client the router's.
    ///
    /// # Errors
    /// When no packet passes.
    pub(super) fn wait_for_packets(&self) -> Result<(), BenchError> {
        self.client.exec("ping", ["-n", "-c", "2", "-i", "0.05", "-W", "5", "10.2.0.2"])?;
        Ok(())
    }

    pub(super) fn upstreams(&self) -> &[SocketAddr] {
        self.backends.addresses()
    }

    pub(super) fn middle(&self) -> &Netns {
        &self.middle
    }

    /// Begins to send datagrams of so many bytes in all, Ethernet header included.
    ///
    /// # Errors
    /// When they cannot be sent.
    pub(super) fn packets(&self, frame_bytes: usize, rate_pps: Option<f64>) -> Result<Sender, BenchError> {
        let sink = SINK.parse().map_err(|_| BenchError::Failed(format!("`{SINK}` is no address")))?;
        Sender::start_with(&self.client, sink, LOAD_CORE, rate_pps, frame_bytes)
    }

    /// Begins to send requests, for some whole seconds.
    ///
    /// # Errors
    /// When wrk cannot be started.
    pub(super) fn requests(&self, layout: Layout, seconds: u64) -> Result<Process, BenchError> {
        let mut command = self.client.command("taskset");
        command.args(["-c", &LOAD_CORE.to_string()]).arg(WRK.path()?);
        command.args(["-t1", CONCURRENCY, &format!("-d{seconds}s"), &format!("http://{}/old/page", layout.listen())]);
        Ok(Process::spawn(&mut command)?)
    }

    /// What has arrived until now: packets at the server, responses at the client.
    ///
    /// # Errors
    /// When a device is gone.
    pub(super) fn arrived(&self, layout: Layout) -> Result<[Received; 2], BenchError> {
        Ok([received(&self.server, "eth0")?, received(&self.client, layout.device())?])
    }
}

/// Whether all requests of an ended wrk were answered well.
///
/// # Errors
/// When one was not, or when wrk says nothing.
pub(super) fn all_answered(said: &str) -> Result<(), BenchError> {
    let failed = said.lines().any(|line| line.contains("Socket errors") || line.contains("Non-2xx"));
    if failed || !said.contains(" requests in ") {
        return Err(BenchError::Failed(format!("requests failed: {}", said.trim().replace('\n', "; "))));
    }
    Ok(())
}

fn manifest(layout: Layout, upstreams: &[SocketAddr]) -> Value {
    manifest_with(layout, upstreams, Vec::new())
}

/// With rules before those that the unified layout needs.
pub(super) fn manifest_with(layout: Layout, upstreams: &[SocketAddr], mut rules: Vec<Value>) -> Value {
    let mut manifest = json!({
        "ports": { "wan": { "xdp": "wan" }, "lan": { "xdp": "lan" } },
        "cores": { "manager": [BOX_CORE], "broker": [BOX_CORE] },
        "chains": {
            "transit": { "ports": ["wan", "lan"], "placement": "inline", "functions": [
                { "firewall": { "default": "allow" } },
                { "l3-router": { "addresses": [
                    { "port": "wan", "address": "10.1.0.254/24" },
                    { "port": "lan", "address": "10.2.0.254/24" },
                ] } },
            ] },
            "web": { "layer": "l4l7", "listen": layout.listen(), "placement": "inline", "functions": [
                { "reverse-proxy": { "upstreams": upstreams } },
                { "url-rewrite": { "rules": [{ "match": "^/old/(.*)$", "to": "/new/$1" }] } },
            ] },
        },
    });
    if layout == Layout::Unified {
        rules.extend([json!({ "to": "web" }), json!({ "to": "transit" })]);
        manifest["steering"] = json!({ "wan": rules });
    }
    manifest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_interface_needs_rules_and_two_do_not() {
        let upstreams = [SocketAddr::from(([127, 0, 0, 1], 8081))];
        let (unified, separate) = (manifest(Layout::Unified, &upstreams), manifest(Layout::Separate, &upstreams));
        assert_eq!(unified["steering"]["wan"][0]["to"], "web");
        assert_eq!(separate["steering"], Value::Null);
        assert_eq!(separate["chains"]["web"]["listen"], "10.3.0.1:80");
        assert_eq!(unified["chains"]["transit"], separate["chains"]["transit"]);
    }

    #[test]
    fn a_failed_request_is_told() {
        assert!(all_answered("  161826 requests in 1.00s, 181.18MB read\n").is_ok());
        assert!(all_answered("  10 requests in 1.00s\n  Non-2xx or 3xx responses: 1\n").is_err());
        assert!(all_answered("unable to connect\n").is_err());
    }
}
