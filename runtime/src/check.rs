//! From a manifest to a plan: every piece against the others, the functions and the host. Touches nothing.

mod config;
mod graph;
mod hops;
mod ports;
mod resources;
#[cfg(test)]
mod tests;

pub(crate) use resources::ranges;

use middlenet_plan::ManagerPlan;
use middlenet_sdk::Registration;
use std::path::PathBuf;
use std::time::Duration;

use crate::diagnostic::Diagnostic;
use crate::machine::{Machine, Surroundings};
use crate::manifest::{Chain, Hugepages, Manifest};
use crate::plan::{Plan, RuntimePlan};

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
    let checker =
        Checker { manifest, registry, machine, surroundings, traffic, problems: manifest.problems().to_vec() };
    checker.run()
}

struct Checker<'a> {
    manifest: &'a Manifest,
    registry: &'a [Registration],
    machine: &'a Machine,
    surroundings: &'a dyn Surroundings,
    traffic: &'a Traffic,
    problems: Vec<Diagnostic>,
}

/// A chain whose ports are known.
struct Wired<'a> {
    chain: &'a Chain,
    ports: Vec<u8>,
}

impl<'a> Checker<'a> {
    fn run(mut self) -> Result<Plan, Vec<Diagnostic>> {
        self.check_names();
        let (ports, kernel_ports) = self.ports();
        let wired = self.wire(&ports);
        let mut notes = self.leave_out_unused(&ports, &wired);
        let hops = self.hops(&wired, &ports);
        let chains = self.chains(&wired, &hops);
        graph::check_cycles(&wired.iter().map(|w| w.chain).collect::<Vec<_>>(), &hops, &mut self.problems);
        let workers = self.worker_cores();
        let processes = self.processes(&wired, &hops, &workers, &mut notes);
        let lockstep = matches!(self.traffic, Traffic::Captures(_));
        let manager = ManagerPlan {
            name: self.manifest.name.clone(),
            buffers: self.manifest.memory.buffers,
            buffer_bytes: self.manifest.memory.buffer_bytes,
            wait: self.manager_wait(),
            shares_core: processes.iter().any(|p| p.cores.iter().any(|c| workers.contains(c))),
            workers,
            ring_slots: self.manifest.ring_slots,
            ports,
            hops,
            chains,
            lockstep,
            unprivileged: lockstep,
        };
        self.check_memory(&manager, &processes);
        if !self.problems.is_empty() {
            return Err(self.problems);
        }
        let hugepages = if lockstep { Hugepages::Never } else { self.manifest.memory.hugepages };
        let runtime = RuntimePlan {
            processes,
            kernel_ports: if lockstep { Vec::new() } else { kernel_ports },
            hugepages,
            heartbeat: Duration::from_millis(self.manifest.heartbeat_ms),
            drain: Duration::from_millis(self.manifest.drain_ms),
            notes,
        };
        Ok(Plan { manager, runtime })
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
        let functions = manifest.chains.iter().flat_map(|c| &c.functions).map(|f| (&f.name, &f.name_span));
        for (name, span) in ports.chain(chains).chain(functions) {
            let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
            if !plain || name.is_empty() || name.len() > 64 || name == "drop" {
                let hint = if name == "drop" {
                    "`drop` is where outputs lead to nothing"
                } else {
                    "use letters, digits, `-`, `_` and `.`"
                };
                self.problem(span.clone(), format!("`{name}` cannot be a name"), Some(hint.into()));
            }
        }
    }
}
