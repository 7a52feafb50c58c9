//! From a manifest to a plan: every piece against the others, the functions and the host. Touches nothing.

mod config;
mod cores;
mod fast_paths;
mod graph;
mod hops;
mod listeners;
mod message_hops;
mod messages;
mod placing;
mod ports;
mod processes;
mod resources;
mod steering;
#[cfg(test)]
mod tests;
mod user;
mod vfs;

pub(crate) use cores::ranges;
pub(crate) use placing::tap_remote;

use middlenet_plan::ManagerPlan;
use middlenet_sdk::Registration;
use middlenet_sdk::protocol::Wait;
use middlenet_sriov::Inventory;
use std::cell::OnceCell;
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::machine::{Machine, Surroundings};
use crate::manifest::{Chain, ChainOptions, Hugepages, Manifest};
use crate::plan::{KernelPort, Plan, RuntimePlan};
use cores::CorePlan;
use processes::ProcessDraft;

/// Where packets come from and go to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Traffic {
    /// The manifest's ports.
    #[default]
    Ports,
    /// Capture files in place of all of them: no privileges, no network, the same result every time.
    Captures(Captures),
}

/// The files of `run --pcap`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Captures {
    /// What goes in, by port; without a port: the first port of the first chain.
    pub read: Vec<(Option<String>, PathBuf)>,
    /// What comes out, by port; without a port: whatever leaves by a port not named.
    pub write: Vec<(Option<String>, PathBuf)>,
}

/// Checks a manifest against itself, the functions and the host, and plans its run.
///
/// # Errors
/// Everything that is wrong, not only the first thing.
pub fn plan(
    manifest: &Manifest,
    registry: &[Registration],
    machine: &Machine,
    surroundings: &dyn Surroundings,
    traffic: &Traffic,
) -> Result<Plan, Vec<Diagnostic>> {
    let checker = Checker {
        manifest,
        registry,
        machine,
        surroundings,
        traffic,
        network: OnceCell::new(),
        problems: manifest.problems().to_vec(),
        oddities: Vec::new(),
    };
    checker.run()
}

struct Checker<'a> {
    manifest: &'a Manifest,
    registry: &'a [Registration],
    machine: &'a Machine,
    surroundings: &'a dyn Surroundings,
    traffic: &'a Traffic,
    /// The host's network devices, once somebody has asked for them.
    network: OnceCell<Option<Inventory>>,
    problems: Vec<Diagnostic>,
    /// What is odd about functions, a sentence each.
    oddities: Vec<String>,
}

/// A chain whose ports are known.
struct Wired<'a> {
    chain: &'a Chain,
    ports: Vec<u8>,
}

impl<'a> Checker<'a> {
    fn run(mut self) -> Result<Plan, Vec<Diagnostic>> {
        self.check_names();
        if self.manifest.chains.is_empty() && self.manifest.message_chains.is_empty() {
            self.no_chains();
        }
        let mut notes = Vec::new();
        let (of_packets, of_messages) = self.layers(&mut notes);
        let cores = self.cores(of_packets, of_messages);
        let user = self.user();
        let mut processes = Vec::new();
        let mut kernel_ports = Vec::new();
        let mut obstacles = Vec::new();
        let mut vfs = self.vfs(&mut notes, &mut obstacles);
        let vf_ports = if vfs.is_empty() { Vec::new() } else { self.vf_ports() };
        let mut placed = Vec::new();
        let mut manager = of_packets.then(|| self.packets(&cores, &mut processes, &mut kernel_ports, &mut notes));
        let broker = of_messages.then(|| self.messages(&cores, &mut processes, &mut notes));
        if let Some(manager) = &mut manager {
            self.steering(manager, broker.as_ref(), &mut notes);
            self.fast_paths(manager, &mut notes);
            placed = self.place_rules(manager, &vf_ports, &mut vfs, &mut notes);
        }
        notes.append(&mut self.oddities);
        let processes = self.processes(processes, &cores, &mut notes);
        if let Some(manager) = &mut manager {
            manager.shares_core = cores.share_manager(&processes);
        }
        self.check_memory(manager.as_ref(), broker.as_ref(), &processes);
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let lockstep = matches!(self.traffic, Traffic::Captures(_));
        let hugepages = if lockstep { Hugepages::Never } else { self.manifest.memory.hugepages };
        let runtime = RuntimePlan {
            processes,
            kernel_ports: if lockstep { Vec::new() } else { kernel_ports },
            vf_ports,
            placed,
            vfs,
            hugepages,
            user,
            heartbeat: Duration::from_millis(self.manifest.heartbeat_ms),
            drain: Duration::from_millis(self.manifest.drain_ms),
            notes,
            obstacles,
        };
        Ok(Plan { name: self.manifest.name.clone(), manager, broker, runtime })
    }

    fn network(&self) -> Option<&Inventory> {
        self.network.get_or_init(|| self.surroundings.network()).as_ref()
    }

    /// Which data planes run: that of packets, and that of messages.
    fn layers(&mut self, notes: &mut Vec<String>) -> (bool, bool) {
        let manifest = self.manifest;
        let packets = !manifest.chains.is_empty() || manifest.message_chains.is_empty();
        let messages = !manifest.message_chains.is_empty();
        if matches!(self.traffic, Traffic::Captures(_)) && messages {
            if !packets {
                let hint = "start it without `--pcap`, and send it requests";
                self.problem(
                    manifest.key_span("chains"),
                    "no chain of layer l2l3 is there to run over captures",
                    Some(hint.into()),
                );
            }
            let left_out = manifest.message_chains.iter();
            notes
                .extend(left_out.map(|c| format!("the chain `{}` is of layer l4l7: captures do not reach it", c.name)));
            return (true, false);
        }
        if !packets {
            let unused = manifest.ports.iter();
            notes.extend(
                unused.map(|p| format!("the port `{}` is not opened: no chain of layer l2l3 is there", p.name)),
            );
        }
        (packets, messages)
    }

    /// The plan of the nf-manager.
    fn packets(
        &mut self,
        cores: &CorePlan,
        processes: &mut Vec<ProcessDraft>,
        kernel_ports: &mut Vec<KernelPort>,
        notes: &mut Vec<String>,
    ) -> ManagerPlan {
        let ports = self.ports(kernel_ports);
        let wired = self.wire(&ports);
        notes.extend(self.leave_out_unused(&ports, &wired));
        let hops = self.hops(&wired, &ports);
        let chains = self.chains(&wired, &hops);
        graph::check_cycles(&wired.iter().map(|w| w.chain).collect::<Vec<_>>(), &hops, &mut self.problems);
        processes.extend(self.packet_processes(&wired, &hops));
        let lockstep = matches!(self.traffic, Traffic::Captures(_));
        ManagerPlan {
            name: self.manifest.name.clone(),
            buffers: self.manifest.memory.buffers,
            buffer_bytes: self.manifest.memory.buffer_bytes,
            wait: self.most_eager(&self.manifest.chains),
            shares_core: false,
            workers: cores.manager.clone(),
            ring_slots: self.manifest.ring_slots,
            ports,
            hops,
            chains,
            lockstep,
            unprivileged: lockstep,
        }
    }

    fn no_chains(&mut self) {
        if self.manifest.problems().is_empty() {
            let hint = "write at least one: `chains: { transit: { ports: [wan, lan], functions: [monitor] } }`";
            self.problem(self.manifest.key_span("chains"), "there is no chain", Some(hint.into()));
        }
    }

    /// Workers serve all chains: they wait as the most eager one asks.
    fn most_eager<F: ChainOptions>(&self, chains: &[Chain<F>]) -> Wait {
        let of_chain = |c: &Chain<F>| c.form.as_ref().and_then(F::wait).unwrap_or(self.manifest.wait);
        let eagerness = |wait: &Wait| match wait {
            Wait::Poll => 0,
            Wait::Auto => 1,
            Wait::Event => 2,
        };
        chains.iter().map(of_chain).min_by_key(eagerness).unwrap_or(self.manifest.wait)
    }

    fn problem(&mut self, span: std::ops::Range<usize>, message: impl Into<String>, hint: impl Into<Option<String>>) {
        self.problems.push(Diagnostic::new(span, message).with_optional_hint(hint.into()));
    }

    fn check_names(&mut self) {
        let name = &self.manifest.name;
        let fits = name.len() <= 32
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && !name.starts_with('-');
        if !fits || name.is_empty() && self.manifest.problems().is_empty() {
            let message = format!("`{name}` cannot be the name of a run");
            self.problem(
                self.manifest.span(["name"]),
                message,
                Some("use lower-case letters, digits and `-`, at most 32".into()),
            );
        }
        let manifest = self.manifest;
        let ports = manifest.ports.iter().map(|p| (&p.name, &p.name_span));
        let chains = manifest.chains.iter().map(|c| (&c.name, &c.name_span));
        let chains = chains.chain(manifest.message_chains.iter().map(|c| (&c.name, &c.name_span)));
        let functions = manifest.chains.iter().flat_map(|c| &c.functions);
        let functions = functions.chain(manifest.message_chains.iter().flat_map(|c| &c.functions));
        let functions = functions.map(|f| (&f.name, &f.name_span));
        for (name, span) in ports.chain(chains).chain(functions) {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !plain || name.is_empty() || name.len() > 64 || matches!(name.as_str(), "drop" | "kernel") {
                let hint = if name == "drop" {
                    "`drop` is where outputs lead to nothing"
                } else if name == "kernel" {
                    "`kernel` is the host's own stack, where rules can lead"
                } else {
                    "use letters, digits, `-`, `_` and `.`"
                };
                self.problem(span.clone(), format!("`{name}` cannot be a name"), Some(hint.into()));
            }
        }
    }
}
