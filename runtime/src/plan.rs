//! What will run: the manager's plan, the processes, and what the host has to provide.

use middlenet_plan::{ManagerPlan, Placement, Target};
use middlenet_sdk::protocol::Wait;
use serde::Serialize;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

use crate::manifest::Hugepages;

/// Everything `run` does, decided. Only [`crate::check::plan`] makes one, so it is valid by construction.
#[derive(Debug, Clone)]
pub struct Plan {
    /// For the manager.
    pub manager: ManagerPlan,
    /// For the supervisor.
    pub runtime: RuntimePlan,
}

/// The supervisor's part.
#[derive(Debug, Clone, PartialEq)]
pub struct RuntimePlan {
    /// One per replica of every process hop, in the order of hops.
    pub processes: Vec<ProcessPlan>,
    /// Interfaces to make.
    pub kernel_ports: Vec<KernelPort>,
    /// Pages behind the packets region.
    pub hugepages: Hugepages,
    /// A function silent for this long while attached is killed.
    pub heartbeat: Duration,
    /// Time for packets in flight at the end.
    pub drain: Duration,
    /// What a person should know, though nothing is wrong.
    pub notes: Vec<String>,
}

/// A function process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessPlan {
    /// Hop id.
    pub hop: u16,
    /// Replica number.
    pub replica: u16,
    /// `chain/function`, with `#replica` where there are several: for messages.
    pub label: String,
    /// What is started.
    pub program: Program,
    /// Ids of the chain's ports.
    pub ports: Vec<u8>,
    /// How it waits.
    pub wait: Wait,
    /// Cores it may use.
    pub cores: Vec<usize>,
    /// Whether others poll on these cores.
    pub shares_core: bool,
}

/// What a function process runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// `middlenet fn NAME`.
    BuiltIn(String),
    /// A binary of the operator's.
    External(PathBuf),
}

/// A veth pair: the host's end for the host's stack, the other for the manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct KernelPort {
    /// Port id.
    pub port: u8,
    /// The manager's end.
    pub inner: String,
    /// The host's end.
    pub interface: String,
    /// Addresses of the host's end, with prefix length.
    pub addresses: Vec<String>,
}

impl Plan {
    /// Bytes of the packets region.
    pub fn packet_bytes(&self) -> u64 {
        u64::from(self.manager.buffers) * u64::from(self.manager.buffer_bytes)
    }

    /// `wan -> firewall -> l3-router -> lan`, for a chain by id; the second line is the way back.
    pub fn chain_lines(&self, chain: usize) -> Vec<String> {
        let Some(plan) = self.manager.chains.get(chain) else { return Vec::new() };
        let right = plan.right.iter().map(|&p| self.port_name(p)).collect::<Vec<_>>().join(" | ");
        let left = self.port_name(plan.left).to_owned();
        let right = if right.is_empty() { left.clone() } else { right };
        let mut lines = vec![self.line(&left, plan.entry_forward, &right, |h| h.next_forward)];
        if !plan.right.is_empty() {
            lines.push(self.line(&right, plan.entry_reverse, &left, |h| h.next_reverse));
        }
        for hop in self.manager.hops.iter().filter(|h| usize::from(h.chain) == chain) {
            for (name, target) in &hop.outputs {
                lines.push(format!("{}.{name} -> {}", hop.name, self.target_name(*target, "out")));
            }
        }
        lines
    }

    fn line(&self, from: &str, entry: Target, to: &str, next: impl Fn(&middlenet_plan::HopPlan) -> Target) -> String {
        let mut line = from.to_owned();
        let mut target = entry;
        // Valid plans end; the bound is for those who construct others.
        for _ in 0..=self.manager.hops.len() {
            line.push_str(" -> ");
            line.push_str(&self.target_name(target, to));
            let Target::Hop(hop) = target else { break };
            match self.manager.hops.get(usize::from(hop)) {
                Some(hop) => target = next(hop),
                None => break,
            }
        }
        line
    }

    fn target_name(&self, target: Target, egress: &str) -> String {
        match target {
            Target::Hop(hop) => self.manager.hops.get(usize::from(hop)).map_or("?", |h| &h.name).to_owned(),
            Target::Port(port) => self.port_name(port).to_owned(),
            Target::Egress => egress.to_owned(),
            Target::Drop => "drop".to_owned(),
        }
    }

    /// Name of a port by id.
    pub fn port_name(&self, port: u8) -> &str {
        self.manager.ports.get(usize::from(port)).map_or("?", |p| &p.name)
    }
}

/// What `apply` may change in a running plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// Hop id.
    pub hop: u16,
    /// `chain/function`.
    pub label: String,
    /// The new configuration.
    pub config: Value,
}

/// The difference between what runs and what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Configurations that change, to be applied live.
    pub changes: Vec<Change>,
    /// What only a restart can change, a line each.
    pub structural: Vec<String>,
}

impl Difference {
    /// Compares two plans.
    pub fn between(old: &Plan, new: &Plan) -> Self {
        let mut difference = Self::default();
        difference.compare_settings(old, new);
        difference.compare_ports(old, new);
        difference.compare_hops(old, new);
        difference
    }

    fn compare_settings(&mut self, old: &Plan, new: &Plan) {
        let (a, b) = (&old.manager, &new.manager);
        let mut note = |what: &str, a: String, b: String| {
            if a != b {
                self.structural.push(format!("{what}: {a} would become {b}"));
            }
        };
        note("name", a.name.clone(), b.name.clone());
        note("cores.manager", format!("{:?}", a.workers), format!("{:?}", b.workers));
        note("memory.buffers", a.buffers.to_string(), b.buffers.to_string());
        note("memory.buffer_bytes", a.buffer_bytes.to_string(), b.buffer_bytes.to_string());
        note("ring_slots", a.ring_slots.to_string(), b.ring_slots.to_string());
        note("wait", format!("{:?}", a.wait).to_lowercase(), format!("{:?}", b.wait).to_lowercase());
        let (a, b) = (&old.runtime, &new.runtime);
        note(
            "memory.hugepages",
            format!("{:?}", a.hugepages).to_lowercase(),
            format!("{:?}", b.hugepages).to_lowercase(),
        );
        note("heartbeat_ms", a.heartbeat.as_millis().to_string(), b.heartbeat.as_millis().to_string());
        note("drain_ms", a.drain.as_millis().to_string(), b.drain.as_millis().to_string());
    }

    fn compare_ports(&mut self, old: &Plan, new: &Plan) {
        let form = |plan: &Plan, id: usize| {
            let host = plan.runtime.kernel_ports.iter().find(|k| usize::from(k.port) == id);
            (serde_json::to_value(&plan.manager.ports[id]).ok(), host.cloned())
        };
        let names = |plan: &Plan| plan.manager.ports.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        compare_lists("port", &names(old), &names(new), &mut self.structural, |o, n| form(old, o) == form(new, n));
        let chains = |plan: &Plan| plan.manager.chains.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        let ends = |plan: &Plan, id: usize| {
            let chain = &plan.manager.chains[id];
            let right: Vec<_> = chain.right.iter().map(|&p| plan.port_name(p).to_owned()).collect();
            (plan.port_name(chain.left).to_owned(), right)
        };
        compare_lists("chain", &chains(old), &chains(new), &mut self.structural, |o, n| ends(old, o) == ends(new, n));
    }

    fn compare_hops(&mut self, old: &Plan, new: &Plan) {
        let label = |plan: &Plan, id: usize| {
            let hop = &plan.manager.hops[id];
            format!("{}/{}", plan.manager.chains[usize::from(hop.chain)].name, hop.name)
        };
        let labels = |plan: &Plan| (0..plan.manager.hops.len()).map(|id| label(plan, id)).collect::<Vec<_>>();
        let (before, after) = (labels(old), labels(new));
        let mut changes = Vec::new();
        compare_lists("function", &before, &after, &mut self.structural, |o, n| {
            let (a, b) = (&old.manager.hops[o], &new.manager.hops[n]);
            // Neighbours that come, go or move are told of by themselves.
            let outputs = |plan: &Plan, hop: &middlenet_plan::HopPlan| {
                let name = |t: &Target| plan.target_name(*t, "egress");
                hop.outputs.iter().map(|(output, t)| (output.clone(), name(t))).collect::<Vec<_>>()
            };
            let processes = |plan: &Plan, id: usize| {
                let of_hop = plan.runtime.processes.iter().filter(|p| usize::from(p.hop) == id);
                of_hop.map(|p| (p.program.clone(), p.cores.clone(), p.wait)).collect::<Vec<_>>()
            };
            let same = (&a.function, a.placement, a.replicas, a.on_failure)
                == (&b.function, b.placement, b.replicas, b.on_failure)
                && outputs(old, a) == outputs(new, b)
                && processes(old, o) == processes(new, n);
            if same && a.config != b.config {
                changes.push(Change { hop: a_id(o), label: after[n].clone(), config: b.config.clone() });
            }
            same
        });
        self.changes = changes;
    }
}

fn a_id(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

/// Lines for what was added, removed, moved, or is not the same.
fn compare_lists(
    what: &str,
    old: &[String],
    new: &[String],
    lines: &mut Vec<String>,
    mut same: impl FnMut(usize, usize) -> bool,
) {
    for (o, name) in old.iter().enumerate() {
        match new.iter().position(|n| n == name) {
            None => lines.push(format!("{what} `{name}` would go")),
            Some(n) if !same(o, n) => lines.push(format!("{what} `{name}` would be made differently")),
            Some(_) => {}
        }
    }
    for name in new.iter().filter(|n| !old.contains(n)) {
        lines.push(format!("{what} `{name}` would be new"));
    }
    let common = |a: &[String], b: &[String]| a.iter().filter(|n| b.contains(n)).cloned().collect::<Vec<_>>();
    if common(old, new) != common(new, old) {
        lines.push(format!("the order of {what}s would change"));
    }
}

/// Whether a hop runs as processes.
pub fn is_process(hop: &middlenet_plan::HopPlan) -> bool {
    hop.placement == Placement::Process
}
