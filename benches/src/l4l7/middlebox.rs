//! What stands between clients and servers.

use std::net::SocketAddr;

use super::backends::Backends;
use super::case::Subject;
use super::generator::Target;
use super::kvswitch::KernelSwitch;
use super::nginx::{self, Site};
use super::ours::{self, Hop};
use super::server::Server;
use super::usage::Pids;
use super::{MIDDLEBOX_CORE, haproxy, ports};
use crate::BenchError;
use crate::bench::Bench;
use crate::run::Run;

/// A middlebox at work. Dropping it ends it, without a look at how.
#[derive(Debug)]
pub(super) struct Middlebox {
    address: SocketAddr,
    rewrites: bool,
    processes: Processes,
}

#[derive(Debug)]
enum Processes {
    Ours(Run),
    One(Server),
    Switch(Box<KernelSwitch>),
}

impl Middlebox {
    /// Starts a subject's, which does both functions.
    ///
    /// # Errors
    /// When a program is missing or does not start.
    pub(super) fn start(bench: &Bench, subject: Subject, backends: &Backends) -> Result<Self, BenchError> {
        let (listen, upstreams) = (ports::free()?, backends.addresses());
        let ours = |hop| ours::start(bench, hop, listen, ours::proxy_and_rewrite(upstreams)).map(Processes::Ours);
        let processes = match subject {
            Subject::Inline => ours(Hop::Inline)?,
            Subject::Skmsg => ours(Hop::Skmsg)?,
            Subject::Ring => ours(Hop::Ring)?,
            Subject::Nginx => {
                let site = Site::Proxy { listen, upstreams: upstreams.to_vec(), rewrite: true };
                Processes::One(nginx::start(&bench.folder, MIDDLEBOX_CORE, None, &[site])?)
            }
            Subject::Haproxy => Processes::One(haproxy::start(&bench.folder, listen, upstreams)?),
            Subject::KernelSwitch => Processes::Switch(Box::new(KernelSwitch::start(&bench.folder)?)),
        };
        let address = if subject == Subject::KernelSwitch { KernelSwitch::address() } else { listen };
        Ok(Self { address, rewrites: true, processes })
    }

    /// Starts a proxy of ours in front of functions that compute.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) fn burning(bench: &Bench, hop: Hop, burners: usize, backends: &Backends) -> Result<Self, BenchError> {
        let address = ports::free()?;
        let run = ours::start(bench, hop, address, ours::proxy_and_burners(backends.addresses(), burners))?;
        Ok(Self { address, rewrites: false, processes: Processes::Ours(run) })
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it is one of ours and does not end well: then its figures are those of something broken.
    pub(super) fn stop(self) -> Result<(), BenchError> {
        match self.processes {
            Processes::Ours(run) => run.stop().map(drop),
            Processes::One(_) | Processes::Switch(_) => Ok(()),
        }
    }

    /// What clients ask, and where they are.
    pub(super) fn target(&self) -> Target<'_> {
        let netns = match &self.processes {
            Processes::Switch(switch) => Some(switch.clients()),
            Processes::Ours(_) | Processes::One(_) => None,
        };
        Target { address: self.address, netns, rewrites: self.rewrites }
    }

    /// All its processes.
    pub(super) fn pids(&self) -> Pids {
        match &self.processes {
            Processes::Ours(run) => Pids::below(run.pid()),
            Processes::One(server) => Pids::below(server.pid()),
            Processes::Switch(switch) => Pids::below(switch.pids()),
        }
    }

    /// The servers behind it: its own, or else those that middleboxes on loopback share.
    pub(super) fn backends<'b>(&'b self, shared: &'b Backends) -> &'b Backends {
        match &self.processes {
            Processes::Switch(switch) => switch.backends(),
            Processes::Ours(_) | Processes::One(_) => shared,
        }
    }
}
