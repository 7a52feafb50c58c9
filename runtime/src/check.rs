//! From a manifest to a plan: every piece against the others, the functions and the host. Touches nothing.

mod config;
mod graph;
mod resources;
#[cfg(test)]
mod tests;

pub(crate) use resources::ranges;

use middlenet_plan::{ChainPlan, HopPlan, ManagerPlan, Placement, PortKind, PortPlan, Target};
use middlenet_sdk::protocol::Wait;
use middlenet_sdk::{PortInfo, Registration};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::diagnostic::{Diagnostic, did_you_mean, one_of};
use crate::machine::{Description, Machine, Surroundings, resolve};
use crate::manifest::{Chain, DpdkForm, FunctionEntry, Hugepages, Manifest, Port, PortForm, XdpForm};
use crate::plan::{KernelPort, Plan, ProcessPlan, Program, RuntimePlan};

/// Ports of a run.
const PORT_LIMIT: usize = 32;
/// Functions of a run.
const HOP_LIMIT: usize = 256;
/// Characters of an interface's name (IFNAMSIZ less its end).
const INTERFACE_CHARACTERS: usize = 15;

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

    fn ports(&mut self) -> (Vec<PortPlan>, Vec<KernelPort>) {
        let manifest = self.manifest;
        if manifest.ports.len() > PORT_LIMIT {
            let message = format!("{} ports, but a run has at most {PORT_LIMIT}", manifest.ports.len());
            self.problem(manifest.key_span("ports"), message, None);
        }
        let mut plans = Vec::new();
        let mut kernel_ports = Vec::new();
        let mut devices: HashMap<String, &str> = HashMap::new();
        for (id, port) in manifest.ports.iter().take(PORT_LIMIT).enumerate() {
            let id = u8::try_from(id).unwrap_or(u8::MAX);
            let (device, kind, queues) =
                match port.form.as_ref().and_then(|form| self.port_kind(id, port, form, &mut kernel_ports)) {
                    Some(known) => known,
                    // Something must keep its place, so that what refers to it can be checked.
                    None => (String::new(), PortKind::Pcap { read: None, write: None }, 0),
                };
            if !device.is_empty()
                && let Some(other) = devices.insert(device.clone(), &port.name)
            {
                let message = format!("`{device}` is port `{other}` already");
                self.problem(port.node.span.clone(), message, Some("give each port a device of its own".into()));
            }
            plans.push(PortPlan { name: port.name.clone(), kind, queues });
        }
        if let Traffic::Captures(captures) = self.traffic {
            self.replace_by_captures(&mut plans, captures);
        }
        (plans, kernel_ports)
    }

    /// The device's name (to find it twice), the port, and its queues.
    fn port_kind(
        &mut self,
        id: u8,
        port: &Port,
        form: &PortForm,
        kernel_ports: &mut Vec<KernelPort>,
    ) -> Option<(String, PortKind, u16)> {
        match form {
            PortForm { dpdk: Some(dpdk), xdp: None, kernel: None, pcap: None } => {
                let (device, queues) = match dpdk {
                    DpdkForm::Device(device) => (device, 0),
                    DpdkForm::Options(options) => (&options.device, options.queues),
                };
                if device.trim().is_empty() {
                    self.problem(
                        port.node.span.clone(),
                        "the device is empty",
                        Some("write a PCI address, or `net_null0`".into()),
                    );
                }
                Some((
                    device.split(',').next().unwrap_or(device).into(),
                    PortKind::Dpdk { device: device.clone() },
                    queues,
                ))
            }
            PortForm { dpdk: None, xdp: Some(xdp), kernel: None, pcap: None } => {
                let (interface, mode, queues) = match xdp {
                    XdpForm::Interface(interface) => (interface, Default::default(), 0),
                    XdpForm::Options(options) => (&options.interface, options.mode, options.queues),
                };
                self.check_interface(interface, port);
                let kind = PortKind::Xdp { interface: interface.clone(), mode: mode.into() };
                Some((interface.clone(), kind, queues))
            }
            PortForm { dpdk: None, xdp: None, kernel: Some(kernel), pcap: None } => {
                self.check_interface(&kernel.interface, port);
                for address in kernel.address.as_slice() {
                    if !is_cidr(address) {
                        self.problem(
                            port.node.get("kernel").and_then(|k| k.get("address")).unwrap_or(&port.node).span.clone(),
                            format!("`{address}` is no address with a prefix length"),
                            Some("write `10.0.0.1/24` or `fd00::1/64`".into()),
                        );
                    }
                }
                let inner = inner_interface(&kernel.interface);
                kernel_ports.push(KernelPort {
                    port: id,
                    inner: inner.clone(),
                    interface: kernel.interface.clone(),
                    addresses: kernel.address.as_slice().to_vec(),
                });
                Some((kernel.interface.clone(), PortKind::Xdp { interface: inner, mode: Default::default() }, 0))
            }
            PortForm { dpdk: None, xdp: None, kernel: None, pcap: Some(pcap) } => {
                if pcap.read.is_none() && pcap.write.is_none() {
                    let hint = "add `read: in.pcap`, `write: out.pcap`, or both";
                    self.problem(
                        port.node.span.clone(),
                        format!("the port `{}` has no file", port.name),
                        Some(hint.into()),
                    );
                }
                let path = |p: &Path| resolve(self.surroundings.folder(), p).to_string_lossy().into_owned();
                let kind =
                    PortKind::Pcap { read: pcap.read.as_deref().map(path), write: pcap.write.as_deref().map(path) };
                Some((String::new(), kind, 1))
            }
            PortForm { dpdk: None, xdp: None, kernel: None, pcap: None } => {
                let hint = "write `{ xdp: eth0 }`, `{ dpdk: \"0000:01:00.0\" }`, `{ kernel: { interface: mn0 } }` or `{ pcap: { read: in.pcap } }`";
                self.problem(
                    port.name_span.clone(),
                    format!("the port `{}` does not say what it is", port.name),
                    Some(hint.into()),
                );
                None
            }
            _ => {
                let second = port.node.entries().get(1).map_or(port.name_span.clone(), |e| e.key_span.clone());
                let message = format!("the port `{}` is two things at once", port.name);
                self.problem(second, message, Some("keep one of `dpdk`, `xdp`, `kernel` and `pcap`".into()));
                None
            }
        }
    }

    fn check_interface(&mut self, interface: &str, port: &Port) {
        let plain = !interface.is_empty()
            && interface.len() <= INTERFACE_CHARACTERS
            && !interface.starts_with('.')
            && interface.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':'));
        if !plain {
            let message = format!("`{interface}` cannot be the name of an interface");
            self.problem(
                port.node.span.clone(),
                message,
                Some(format!("at most {INTERFACE_CHARACTERS} characters, no `/`, `:` or space")),
            );
        }
    }

    fn replace_by_captures(&mut self, plans: &mut [PortPlan], captures: &Captures) {
        for plan in plans.iter_mut() {
            plan.kind = PortKind::Pcap { read: None, write: None };
            plan.queues = 1;
        }
        let first = self.manifest.chains.first().and_then(|c| c.form.as_ref()).and_then(|f| f.ports.first()).cloned();
        let absolute =
            |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into()).to_string_lossy().into_owned();
        let names: Vec<String> = plans.iter().map(|p| p.name.clone()).collect();
        let find = |plans: &mut [PortPlan], port: &str, option: &str| -> Result<usize, Diagnostic> {
            plans.iter().position(|p| p.name == port).ok_or_else(|| {
                let names = names.iter().map(String::as_str);
                let hint =
                    did_you_mean(port, names.clone()).unwrap_or_else(|| format!("its ports are {}", one_of(names)));
                Diagnostic::new(self.manifest.key_span("ports"), format!("{option}: the manifest has no port `{port}`"))
                    .with_hint(hint)
            })
        };
        for (port, path) in &captures.read {
            let Some(port) = port.as_deref().or(first.as_deref()) else { continue };
            match find(plans, port, "--pcap") {
                Ok(at) => {
                    if let PortKind::Pcap { read, .. } = &mut plans[at].kind {
                        *read = Some(absolute(path));
                    }
                }
                Err(problem) => self.problems.push(problem),
            }
        }
        let mut named = Vec::new();
        for (port, path) in &captures.write {
            let targets: Vec<usize> = match port {
                Some(port) => match find(plans, port, "--write") {
                    Ok(at) => {
                        named.push(at);
                        vec![at]
                    }
                    Err(problem) => {
                        self.problems.push(problem);
                        continue;
                    }
                },
                None => (0..plans.len()).filter(|at| !named.contains(at)).collect(),
            };
            for at in targets {
                if let PortKind::Pcap { write, .. } = &mut plans[at].kind {
                    *write = Some(absolute(path));
                }
            }
        }
    }

    /// Finds each chain's ports.
    fn wire(&mut self, ports: &[PortPlan]) -> Vec<Wired<'a>> {
        let manifest = self.manifest;
        let mut owner: HashMap<u8, &str> = HashMap::new();
        let mut wired = Vec::new();
        for chain in &manifest.chains {
            let mut ids = Vec::new();
            let names = chain.form.as_ref().map(|f| f.ports.as_slice()).unwrap_or_default();
            let nodes = chain.node.get("ports").map(|n| n.items()).unwrap_or_default();
            if chain.form.is_some() && names.is_empty() {
                let span = chain.node.get("ports").map_or(chain.name_span.clone(), |n| n.span.clone());
                let hint = "name at least its left side: `ports: [wan, lan]`";
                self.problem(span, format!("the chain `{}` has no ports", chain.name), Some(hint.into()));
            }
            for (name, node) in names.iter().zip(nodes) {
                let Some(id) = ports.iter().position(|p| &p.name == name).and_then(|id| u8::try_from(id).ok()) else {
                    let known = ports.iter().map(|p| p.name.as_str());
                    let hint = did_you_mean(name, known.clone()).unwrap_or_else(|| match ports.len() {
                        0 => "define it under `ports:`".into(),
                        _ => format!("defined under `ports:` are {}", one_of(known)),
                    });
                    self.problem(node.span.clone(), format!("there is no port `{name}`"), Some(hint));
                    continue;
                };
                match owner.insert(id, &chain.name) {
                    Some(other) if other == chain.name => {
                        self.problem(
                            node.span.clone(),
                            format!("the port `{name}` is in this chain twice"),
                            Some("name it once".into()),
                        );
                    }
                    Some(other) => {
                        let message = format!("the port `{name}` belongs to the chain `{other}` already");
                        let hint = "a port feeds one chain: define a second port, or merge the chains";
                        self.problem(node.span.clone(), message, Some(hint.into()));
                    }
                    None => ids.push(id),
                }
            }
            wired.push(Wired { chain, ports: ids });
        }
        if manifest.chains.is_empty() && manifest.problems().is_empty() {
            let hint = "write at least one: `chains: { transit: { ports: [wan, lan], functions: [monitor] } }`";
            self.problem(manifest.key_span("chains"), "there is no chain", Some(hint.into()));
        }
        wired
    }

    fn leave_out_unused(&self, ports: &[PortPlan], wired: &[Wired<'a>]) -> Vec<String> {
        let used = |id: usize| wired.iter().any(|w| w.ports.iter().any(|&p| usize::from(p) == id));
        let unused = ports.iter().enumerate().filter(|(id, _)| !used(*id));
        unused.map(|(_, p)| format!("the port `{}` is in no chain: what it receives is dropped", p.name)).collect()
    }

    fn hops(&mut self, wired: &[Wired<'a>], ports: &[PortPlan]) -> Vec<HopPlan> {
        let mut hops = Vec::new();
        for (chain_id, Wired { chain, ports: chain_ports }) in wired.iter().enumerate() {
            let first = hops.len();
            let count = chain.functions.len();
            // A function would blame its own configuration for ports that have been reported already.
            let all_known = chain.form.as_ref().is_some_and(|f| f.ports.len() == chain_ports.len());
            let init_ports = all_known.then(|| dummy_ports(chain_ports, ports));
            let hop_id = |i: usize| u16::try_from(first + i).unwrap_or(u16::MAX);
            for (i, entry) in chain.functions.iter().enumerate() {
                self.check_entry(chain, entry);
                let outputs = self.outputs(chain, entry, chain_ports, ports, first);
                let placement = self.placement(chain, entry);
                self.check_function(entry, init_ports.clone(), outputs.iter().map(|(n, _)| n.clone()).collect());
                let function = match &entry.options.run {
                    Some(run) => resolve(self.surroundings.folder(), run).to_string_lossy().into_owned(),
                    None => entry.function.clone(),
                };
                hops.push(HopPlan {
                    name: entry.name.clone(),
                    function,
                    config: entry.config_json(),
                    placement,
                    replicas: if placement == Placement::Inline { 1 } else { entry.options.replicas.unwrap_or(1) },
                    on_failure: entry.options.on_failure.unwrap_or_default().into(),
                    chain: u16::try_from(chain_id).unwrap_or(u16::MAX),
                    next_forward: if i + 1 < count { Target::Hop(hop_id(i + 1)) } else { Target::Egress },
                    next_reverse: if i > 0 { Target::Hop(hop_id(i - 1)) } else { Target::Egress },
                    outputs,
                });
            }
        }
        if hops.len() > HOP_LIMIT {
            let message = format!("{} functions, but a run has at most {HOP_LIMIT}", hops.len());
            self.problem(self.manifest.key_span("chains"), message, None);
        }
        hops
    }

    fn check_entry(&mut self, chain: &Chain, entry: &FunctionEntry) {
        let twins = chain.functions.iter().filter(|f| f.name == entry.name);
        if twins.take_while(|f| f.name_span != entry.name_span).next().is_some() {
            let message = format!("the chain `{}` has two functions called `{}`", chain.name, entry.name);
            let hint = format!(
                "give this one a name of its own: `{}-2: {{ use: {}, config: {{ ... }} }}`",
                entry.name, entry.function
            );
            self.problem(entry.name_span.clone(), message, Some(hint));
        }
        if chain.form.as_ref().is_some_and(|f| f.ports.contains(&entry.name)) {
            let message = format!("`{}` is the name of a port of this chain as well", entry.name);
            self.problem(
                entry.name_span.clone(),
                message,
                Some("outputs could not tell them apart: rename one".into()),
            );
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
            if options.replicas.is_some_and(|n| n > 1) {
                let message = "replicas are processes, but this function is placed inline";
                let hint = "add `placement: process`, or remove `replicas`";
                self.problem(entry.option_span(&["replicas"]), message, Some(hint.into()));
            }
            if options.cores.is_some() {
                let message = "an inline function runs on the manager's cores";
                let hint = "add `placement: process`, or remove `cores`";
                self.problem(entry.option_span(&["cores"]), message, Some(hint.into()));
            }
        }
    }

    fn placement(&self, chain: &Chain, entry: &FunctionEntry) -> Placement {
        if entry.options.run.is_some() {
            return Placement::Process;
        }
        if matches!(self.traffic, Traffic::Captures(_)) {
            return Placement::Inline;
        }
        let of_chain = chain.form.as_ref().and_then(|f| f.placement);
        entry.options.placement.or(of_chain).unwrap_or(self.manifest.placement).into()
    }

    fn outputs(
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

    fn chains(&self, wired: &[Wired<'a>], hops: &[HopPlan]) -> Vec<ChainPlan> {
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

    fn processes(
        &mut self,
        wired: &[Wired<'a>],
        hops: &[HopPlan],
        workers: &[usize],
        notes: &mut Vec<String>,
    ) -> Vec<ProcessPlan> {
        let pool = self.function_cores(workers);
        let mut given = 0;
        let mut processes: Vec<ProcessPlan> = Vec::new();
        let entries = wired.iter().flat_map(|w| w.chain.functions.iter().map(move |f| (w, f)));
        for (id, ((wired, entry), hop)) in entries.zip(hops).enumerate() {
            if hop.placement != Placement::Process {
                continue;
            }
            let own_cores = self.entry_cores(entry);
            for replica in 0..hop.replicas {
                let cores = own_cores.clone().unwrap_or_else(|| {
                    given += 1;
                    vec![pool[(given - 1) % pool.len()]]
                });
                let number = if hop.replicas > 1 { format!("#{replica}") } else { String::new() };
                processes.push(ProcessPlan {
                    hop: u16::try_from(id).unwrap_or(u16::MAX),
                    replica,
                    label: format!("{}/{}{number}", wired.chain.name, hop.name),
                    program: match entry.options.run {
                        Some(_) => Program::External(hop.function.clone().into()),
                        None => Program::BuiltIn(hop.function.clone()),
                    },
                    ports: wired.ports.clone(),
                    wait: wired.chain.form.as_ref().and_then(|f| f.wait).unwrap_or(self.manifest.wait),
                    cores,
                    shares_core: false,
                });
            }
        }
        for i in 0..processes.len() {
            let mine = &processes[i].cores;
            let overlaps = |other: &[usize]| other.iter().any(|c| mine.contains(c));
            let others = processes.iter().enumerate().filter(|(j, p)| *j != i && overlaps(&p.cores)).count();
            processes[i].shares_core = overlaps(workers) || others >= mine.len();
        }
        if !processes.is_empty() && processes.iter().any(|p| p.cores.iter().any(|c| workers.contains(c))) {
            notes.push(
                "functions share a core with the manager: both yield to each other, which costs throughput".into(),
            );
        }
        processes
    }

    /// Workers serve all chains: they wait as the most eager one asks.
    fn manager_wait(&self) -> Wait {
        let of_chain = |c: &Chain| c.form.as_ref().and_then(|f| f.wait).unwrap_or(self.manifest.wait);
        let mut waits: Vec<Wait> = self.manifest.chains.iter().map(of_chain).collect();
        waits.sort_by_key(|wait| match wait {
            Wait::Poll => 0,
            Wait::Auto => 1,
            Wait::Event => 2,
        });
        waits.first().copied().unwrap_or(self.manifest.wait)
    }

    /// What an external binary says of itself.
    fn describe(&mut self, entry: &FunctionEntry, program: &Path) -> Option<Description> {
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

/// The manager's end of a veth pair.
fn inner_interface(interface: &str) -> String {
    let whole = format!("mn-{interface}");
    if whole.len() <= INTERFACE_CHARACTERS {
        return whole;
    }
    // FNV-1a: short, and the same in every run, so that leftovers are recognised.
    let hash =
        interface.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    format!("mn-{:012x}", hash & 0xffff_ffff_ffff)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, prefix)) = text.split_once('/') else { return false };
    let Ok(prefix) = prefix.parse::<u8>() else { return false };
    match address.parse::<std::net::IpAddr>() {
        Ok(std::net::IpAddr::V4(_)) => prefix <= 32,
        Ok(std::net::IpAddr::V6(_)) => prefix <= 128,
        Err(_) => false,
    }
}
