//! Functions of packets: what each is, where it runs, and where its packets go.

use middlenet_plan::{ChainPlan, HopPlan, Placement, PortPlan, Target};
use middlenet_sdk::{Layer, PortInfo};
use std::path::Path;

use super::processes::{ProcessDraft, program};
use super::{Checker, Traffic, Wired};
use crate::diagnostic::{did_you_mean, one_of};
use crate::machine::{Description, resolve};
use crate::manifest::{Chain, ChainOptions, FunctionEntry, OnFailure};
use crate::plan::{HopId, Plane};

/// Functions of a run.
const HOP_LIMIT: usize = 256;

impl<'a> Checker<'a> {
    pub(super) fn hops(&mut self, wired: &[Wired<'a>], ports: &[PortPlan]) -> Vec<HopPlan> {
        let mut hops = Vec::new();
        for (chain_id, Wired { chain, ports: chain_ports }) in wired.iter().enumerate() {
            let first = hops.len();
            let count = chain.functions.len();
            // A function would blame its own configuration for ports that have been reported already.
            let all_known = chain.form.as_ref().is_some_and(|f| f.ports.len() == chain_ports.len());
            let init_ports = all_known.then(|| dummy_ports(chain_ports, ports));
            let hop_id = |i: usize| u16::try_from(first + i).unwrap_or(u16::MAX);
            for (i, entry) in chain.functions.iter().enumerate() {
                self.check_entry(chain, entry, "manager");
                self.check_packet_entry(chain, entry);
                let outputs = self.outputs(chain, entry, chain_ports, ports, first);
                let placement = self.placement(chain, entry);
                let names = outputs.iter().map(|(n, _)| n.clone()).collect();
                let found = self.check_function(entry, Layer::L2l3, init_ports.clone(), names);
                let function = self.function_name(entry);
                let fast_path = self.fast_path(entry, chain_ports, ports);
                hops.push(HopPlan {
                    name: entry.name.clone(),
                    function,
                    config: entry.config_json(),
                    placement,
                    replicas: if placement == Placement::Inline { 1 } else { entry.options.replicas.unwrap_or(1) },
                    on_failure: entry.options.on_failure.and_then(OnFailure::for_packets).unwrap_or_default(),
                    chain: u16::try_from(chain_id).unwrap_or(u16::MAX),
                    next_forward: if i + 1 < count { Target::Hop(hop_id(i + 1)) } else { Target::Egress },
                    next_reverse: if i > 0 { Target::Hop(hop_id(i - 1)) } else { Target::Egress },
                    outputs,
                    steering: Vec::new(),
                    fast_path,
                    peers: found.map(|(_, peers)| peers).unwrap_or_default(),
                });
            }
        }
        if hops.len() > HOP_LIMIT {
            let message = format!("{} functions, but a run has at most {HOP_LIMIT}", hops.len());
            self.problem(self.manifest.key_span("chains"), message, None);
        }
        hops
    }

    /// What is wrong with an entry in a chain of either layer; `process` runs its inline functions.
    pub(super) fn check_entry<F: ChainOptions>(&mut self, chain: &Chain<F>, entry: &FunctionEntry, process: &str) {
        let twins = chain.functions.iter().filter(|f| f.name == entry.name);
        if twins.take_while(|f| f.name_span != entry.name_span).next().is_some() {
            let message = format!("the chain `{}` has two functions called `{}`", chain.name, entry.name);
            let hint = format!(
                "give this one a name of its own: `{}-2: {{ use: {}, config: {{ ... }} }}`",
                entry.name, entry.function
            );
            self.problem(entry.name_span.clone(), message, Some(hint));
        }
        let options = &entry.options;
        let inline = options.placement.map(Placement::from) == Some(Placement::Inline);
        if inline && options.run.is_some() {
            let message = "a binary of your own cannot run inline";
            self.problem(
                entry.option_span(&["placement"]),
                message,
                Some("remove `placement`, it runs as a process".into()),
            );
        } else if self.placement(chain, entry) == Placement::Inline && !matches!(self.traffic, Traffic::Captures(_)) {
            let registration = self.registry.iter().find(|r| r.name == entry.function);
            if let Some(why) = registration.and_then(|r| r.process_only) {
                let message = format!("`{}` must not run inline: {why}", entry.function);
                let hint = "add `placement: process` beside `config:`: there it is confined";
                self.problem(entry.name_span.clone(), message, Some(hint.into()));
            }
            if options.replicas.is_some_and(|n| n > 1) {
                let message = "replicas are processes, but this function is placed inline";
                let hint = "add `placement: process`, or remove `replicas`";
                self.problem(entry.option_span(&["replicas"]), message, Some(hint.into()));
            }
            if options.cores.is_some() {
                let message = format!("an inline function runs on the {process}'s cores");
                let hint = "add `placement: process`, or remove `cores`";
                self.problem(entry.option_span(&["cores"]), message, Some(hint.into()));
            }
        }
    }

    /// What is wrong with an entry in a chain of packets.
    fn check_packet_entry(&mut self, chain: &Chain, entry: &FunctionEntry) {
        if chain.form.as_ref().is_some_and(|f| f.ports.contains(&entry.name)) {
            let message = format!("`{}` is the name of a port of this chain as well", entry.name);
            self.problem(
                entry.name_span.clone(),
                message,
                Some("outputs could not tell them apart: rename one".into()),
            );
        }
        if entry.options.on_failure == Some(OnFailure::Retry) {
            let hint = "packets do not wait: `drop` them, or let them skip the function with `bypass`";
            let message = "`retry` is for chains of layer l4l7";
            self.problem(entry.option_span(&["on_failure"]), message, Some(hint.into()));
        }
        if entry.options.hop.is_some() {
            let message = "`hop` is for chains of layer l4l7";
            let hint = "remove it: packets reach function processes through rings";
            self.problem(entry.option_span(&["hop"]), message, Some(hint.into()));
        }
    }

    /// The registered name, or the path of the binary.
    pub(super) fn function_name(&self, entry: &FunctionEntry) -> String {
        match &entry.options.run {
            Some(run) => resolve(self.surroundings.folder(), run).to_string_lossy().into_owned(),
            None => entry.function.clone(),
        }
    }

    pub(super) fn placement<F: ChainOptions>(&self, chain: &Chain<F>, entry: &FunctionEntry) -> Placement {
        if entry.options.run.is_some() {
            return Placement::Process;
        }
        if matches!(self.traffic, Traffic::Captures(_)) {
            return Placement::Inline;
        }
        let of_chain = chain.form.as_ref().and_then(F::placement);
        entry.options.placement.or(of_chain).unwrap_or(self.manifest.placement).into()
    }

    pub(super) fn outputs(
        &mut self,
        chain: &Chain,
        entry: &FunctionEntry,
        chain_ports: &[u8],
        ports: &[PortPlan],
        first: usize,
    ) -> Vec<(String, Target)> {
        let Some(node) = entry.body.as_ref().and_then(|b| b.get("outputs")) else { return Vec::new() };
        let mut outputs = Vec::new();
        for output in node.entries() {
            let Some(name) = output.value.as_str() else { continue };
            let hop = chain.functions.iter().position(|f| f.name == name);
            let port = chain_ports.iter().find(|&&p| ports[usize::from(p)].name == name);
            let target = match (name, hop, port) {
                ("drop", ..) => Target::Drop,
                (_, Some(at), _) => Target::Hop(u16::try_from(first + at).unwrap_or(u16::MAX)),
                (_, _, Some(&port)) => Target::Port(port),
                _ => {
                    let functions = chain.functions.iter().map(|f| f.name.as_str()).filter(|f| *f != entry.name);
                    let port_names = chain_ports.iter().map(|&p| ports[usize::from(p)].name.as_str());
                    let known: Vec<&str> = functions.chain(port_names).chain(["drop"]).collect();
                    let hint = did_you_mean(name, known.iter().copied())
                        .unwrap_or_else(|| format!("it can lead to {}", one_of(known.iter().copied())));
                    let message = format!(
                        "the output `{}` leads to `{name}`, which is not in the chain `{}`",
                        output.key, chain.name
                    );
                    self.problem(output.value.span.clone(), message, Some(hint));
                    continue;
                }
            };
            outputs.push((output.key.clone(), target));
        }
        outputs
    }

    pub(super) fn chains(&self, wired: &[Wired<'a>], hops: &[HopPlan]) -> Vec<ChainPlan> {
        let of = |id: usize| {
            let at = |h: &HopPlan| usize::from(h.chain) == id;
            let first = hops.iter().position(at).and_then(|i| u16::try_from(i).ok());
            let last = hops.iter().rposition(at).and_then(|i| u16::try_from(i).ok());
            (first.map_or(Target::Egress, Target::Hop), last.map_or(Target::Egress, Target::Hop))
        };
        let chain = |(id, wired): (usize, &Wired<'a>)| {
            let (entry_forward, entry_reverse) = of(id);
            ChainPlan {
                name: wired.chain.name.clone(),
                left: wired.ports.first().copied().unwrap_or_default(),
                right: wired.ports.get(1..).unwrap_or_default().to_vec(),
                entry_forward,
                entry_reverse,
            }
        };
        wired.iter().enumerate().map(chain).collect()
    }

    /// The processes of the chains of packets.
    pub(super) fn packet_processes(&mut self, wired: &[Wired<'a>], hops: &[HopPlan]) -> Vec<ProcessDraft> {
        let entries = wired.iter().flat_map(|w| w.chain.functions.iter().map(move |f| (w, f)));
        let mut drafts = Vec::new();
        for (id, ((wired, entry), hop)) in entries.zip(hops).enumerate() {
            if hop.placement == Placement::Process {
                drafts.push(ProcessDraft {
                    hop: HopId::new(Plane::Packets, id),
                    replicas: hop.replicas,
                    label: format!("{}/{}", wired.chain.name, hop.name),
                    program: program(entry, &hop.function),
                    ports: wired.ports.clone(),
                    wait: wired.chain.form.as_ref().and_then(|f| f.wait).unwrap_or(self.manifest.wait),
                    cores: self.entry_cores(entry),
                    files: self.files(entry),
                });
            }
        }
        drafts
    }

    /// What an external binary says of itself.
    pub(super) fn describe(&mut self, entry: &FunctionEntry, program: &Path) -> Option<Description> {
        match self.surroundings.describe(program) {
            Ok(description) => Some(description),
            Err((message, hint)) => {
                self.problem(entry.option_span(&["run"]), message, hint);
                None
            }
        }
    }
}

/// Ports as a function will see them, before they are open.
fn dummy_ports(ids: &[u8], ports: &[PortPlan]) -> Vec<PortInfo> {
    let info =
        |&id: &u8| PortInfo { id, name: ports[usize::from(id)].name.clone(), mac: [2, 0, 0, 0, 0, id], mtu: 1500 };
    ids.iter().map(info).collect()
}
