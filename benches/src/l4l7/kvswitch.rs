//! The kernel as virtual switch: a namespace and an nginx for each function, joined by a Linux bridge.
//!
//! ```text
//!   load 10.77.0.1          bridge          balance 10.77.0.2     rewrite 10.77.0.3
//!   clients ----------------->|<------------- nginx: in turn ----->|
//!   servers :8001 :8002 <-----|<----------------------------------- nginx: rewrites; :8001 and :8002, one per server
//! ```
//!
//! Every arrow is a TCP connection that crosses two veth cables and the bridge. The first nginx chooses the server, by the port
//! of the second that stands for it: so each does its function and no other.

use std::net::{Ipv4Addr, SocketAddr};

use middlenet_tests::{End, Netns, Veth, may_build_namespaces};

use super::MIDDLEBOX_CORE;
use super::backends::Backends;
use super::nginx::{self, Site};
use super::server::Server;
use crate::BenchError;
use crate::work_folder::WorkFolder;

const LOAD: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const BALANCE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
const REWRITE: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
const PORTS: [u16; 2] = [8001, 8002];

/// The chain with its own servers. What runs ends before what it runs in.
#[derive(Debug)]
pub(super) struct KernelSwitch {
    servers: Vec<Server>,
    backends: Backends,
    load: Netns,
    _cables: Vec<Veth>,
    _others: Vec<Netns>,
}

impl KernelSwitch {
    /// Builds it.
    ///
    /// # Errors
    /// Without the privilege to make namespaces, or when a tool is missing or fails.
    pub(super) fn start(folder: &WorkFolder) -> Result<Self, BenchError> {
        if !may_build_namespaces() {
            return Err(BenchError::Host("this needs root: it makes network namespaces".into()));
        }
        let switch = Netns::new("switch")?;
        switch.exec("ip", ["link", "add", "name", "bridge", "type", "bridge"])?;
        switch.exec("ip", ["link", "set", "dev", "bridge", "up"])?;
        let mut cables = Vec::new();
        let mut host = |name: &str, address: Ipv4Addr| -> Result<Netns, BenchError> {
            let netns = Netns::new(name)?;
            // Offloads stay on, as on any host: packets up to 64 KiB cross the bridge whole.
            let inside = End::new(&netns, "eth0").address(&format!("{address}/24")).without_ipv6().with_offloads();
            cables.push(Veth::between(&inside, &End::new(&switch, name).without_ipv6().with_offloads())?);
            switch.exec("ip", ["link", "set", "dev", name, "master", "bridge"])?;
            Ok(netns)
        };
        let (load, balance, rewrite) = (host("load", LOAD)?, host("balance", BALANCE)?, host("rewrite", REWRITE)?);
        // Clients that close connections need more ports than Linux gives them at first.
        load.exec("sysctl", ["-q", "-w", "net.ipv4.ip_local_port_range=10000 65000", "net.ipv4.tcp_tw_reuse=1"])?;
        let at = |address: Ipv4Addr| PORTS.map(|port| SocketAddr::from((address, port)));
        let backends = Backends::start(folder, Some(&load), at(LOAD).into())?;
        let rewriters: Vec<Site> = at(REWRITE)
            .into_iter()
            .zip(backends.addresses())
            .map(|(listen, &server)| Site::Proxy { listen, upstreams: vec![server], rewrite: true })
            .collect();
        let balancer = Site::Proxy { listen: Self::address(), upstreams: at(REWRITE).into(), rewrite: false };
        let servers = vec![
            nginx::start(folder, MIDDLEBOX_CORE, Some(&rewrite), &rewriters)?,
            nginx::start(folder, MIDDLEBOX_CORE, Some(&balance), &[balancer])?,
        ];
        Ok(Self { servers, backends, load, _cables: cables, _others: vec![balance, rewrite, switch] })
    }

    /// Where clients connect.
    pub(super) fn address() -> SocketAddr {
        SocketAddr::from((BALANCE, 80))
    }

    /// Where clients are.
    pub(super) fn clients(&self) -> &Netns {
        &self.load
    }

    pub(super) fn backends(&self) -> &Backends {
        &self.backends
    }

    /// The first process of each function.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.servers.iter().filter_map(Server::pid)
    }
}
