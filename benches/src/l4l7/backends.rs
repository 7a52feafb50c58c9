//! The servers behind every middlebox.

use std::net::SocketAddr;

use middlenet_tests::Netns;

use super::nginx::{self, Site};
use super::server::Server;
use super::usage::Pids;
use super::{LOAD_CORE, ports};
use crate::BenchError;
use crate::work_folder::WorkFolder;

/// How many.
pub(super) const COUNT: usize = 2;

/// Two of them, on the load's core.
#[derive(Debug)]
pub(crate) struct Backends {
    servers: Vec<Server>,
    addresses: Vec<SocketAddr>,
}

impl Backends {
    /// Starts them on loopback.
    ///
    /// # Errors
    /// When nginx is not installed or does not start.
    pub(super) fn on_loopback(folder: &WorkFolder) -> Result<Self, BenchError> {
        let addresses = (0..COUNT).map(|_| ports::free()).collect::<Result<_, _>>()?;
        Self::start(folder, None, addresses)
    }

    /// Starts them at these addresses, the first of which is number 1.
    ///
    /// # Errors
    /// When nginx is not installed or does not start.
    pub(crate) fn start(
        folder: &WorkFolder,
        netns: Option<&Netns>,
        addresses: Vec<SocketAddr>,
    ) -> Result<Self, BenchError> {
        let start = |(at, &listen): (usize, &SocketAddr)| {
            nginx::start(folder, LOAD_CORE, netns, &[Site::Answer { listen, number: at + 1 }])
        };
        let servers = addresses.iter().enumerate().map(start).collect::<Result<_, _>>()?;
        Ok(Self { servers, addresses })
    }

    pub(crate) fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    pub(super) fn pids(&self) -> Pids {
        Pids::below(self.servers.iter().filter_map(Server::pid))
    }
}
