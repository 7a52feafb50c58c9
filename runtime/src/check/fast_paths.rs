//! Fast paths of functions: whether there can be any, and which packets reach them.

use middlenet_fast_path::{Mode, Shape};
use middlenet_plan::{ChainPlan, FastPathPlan, HopPlan, ManagerPlan, PortKind, PortPlan, Target};

use super::resources::mib;
use super::steering::implicit_steering;
use super::{Checker, Traffic};
use crate::diagnostic::one_of;
use crate::machine::resolve;
use crate::manifest::FunctionEntry;

/// What maps have room for at most, in entries: the kernel allocates most of them at once. 4 Mi flows are some 900 MiB.
const MOST_FLOWS: u32 = 1 << 22;
const MOST_OTHERS: u32 = 1 << 20;
/// And what all maps of a function may take together, in bytes.
const MOST_BYTES: u64 = 1 << 30;

/// Fast paths of a chain: the kernel takes a packet from program to program 33 times, and the first is the port's own.
const CHAIN_LIMIT: usize = 32;

impl Checker<'_> {
    /// The fast path that an entry turns on.
    pub(super) fn fast_path(
        &mut self,
        entry: &FunctionEntry,
        chain_ports: &[u8],
        ports: &[PortPlan],
    ) -> Option<FastPathPlan> {
        let mode = entry.options.mode?;
        let span = entry.option_span(&["mode"]);
        // Who is not there has been reported already.
        let shape = match &entry.options.run {
            Some(run) => {
                let program = resolve(self.surroundings.folder(), run);
                let description = self.surroundings.describe(&program).ok()?;
                let Some(shape) = description.fast_path else { return Some(FastPathPlan { mode, shape: Shape::NONE }) };
                shape
            }
            None => self.registry.iter().find(|r| r.name == entry.function)?.fast_path,
        };
        if !shape.exists() {
            let hint = "remove `mode`; `middlenet functions` tells which functions have one";
            self.problem(span, format!("`{}` has no fast path", entry.name), Some(hint.into()));
            return None;
        }
        if !shape.works(mode) {
            let modes: Vec<_> = shape.modes().map(Mode::name).collect();
            let message = format!("the fast path of `{}` does not work in mode `{}`", entry.name, mode.name());
            self.problem(span, message, Some(format!("it works in {}", one_of(modes))));
            return None;
        }
        if let Some((what, entries, most)) = too_large(&shape) {
            let message =
                format!("the fast path of `{}` wants room for {entries} {what}, more than {most}", entry.name);
            self.problem(
                span,
                message,
                Some("its author has to ask for less: the host's memory is taken at once".into()),
            );
            return None;
        }
        if let Some((what, missing)) = shape.lacks() {
            let message = format!("the fast path of `{}` has {what}, but no room for {missing}", entry.name);
            let hint = format!("its author has to ask for both in the function's `FAST_PATH`: {what} need {missing}");
            self.problem(span, message, Some(hint));
            return None;
        }
        let (bytes, processors) = (shape.memory_bytes(self.machine.processors), self.machine.processors);
        if bytes > MOST_BYTES {
            let message = format!(
                "the fast path of `{}` would take {} of the kernel's memory, more than {}",
                entry.name,
                mib(bytes),
                mib(MOST_BYTES)
            );
            let hint = format!(
                "its author has to ask for less; each of the host's {processors} processors has counts of its own of all rules and classes"
            );
            self.problem(span, message, Some(hint));
            return None;
        }
        if mode == Mode::Offloading {
            for port in chain_ports.iter().map(|&port| usize::from(port)) {
                let Some((what, _)) = self.no_kernel_behind(ports, port) else { continue };
                let message = format!(
                    "`{}` leaves packets to the kernel's own stack, but the port `{}` is {what}",
                    entry.name, ports[port].name
                );
                let hint = "all ports of its chain must be `xdp` ports; or take another mode";
                self.problem(span.clone(), message, Some(hint.into()));
            }
        }
        // Time stands still between the packets of captures, and no kernel is there.
        let captures = matches!(self.traffic, Traffic::Captures(_));
        (!captures).then_some(FastPathPlan { mode, shape })
    }

    /// What becomes of the modes of functions over captures: packets that the kernel would deal with are not its own there, so functions
    /// deal with all of them.
    fn left_out(&self) -> Option<String> {
        let entries = self.manifest.chains.iter().flat_map(|chain| &chain.functions);
        let left_out: Vec<_> = entries
            .filter(|entry| entry.options.mode.is_some() && matches!(self.traffic, Traffic::Captures(_)))
            .map(|entry| format!("`{}`", entry.name))
            .collect();
        (!left_out.is_empty()).then(|| {
            format!(
                "captures do not pass through the kernel: `mode` counts for nothing, and the functions' own code deals with all packets of {}",
                left_out.join(", ")
            )
        })
    }

    /// Refuses a chain that leaves packets to the kernel from one function and takes them to user space for another: there, the kernel's
    /// rules and routes would be passed by.
    fn only_offloading(&mut self, plan: &ManagerPlan, id: usize) {
        let offloads = |hop: &&HopPlan| hop.fast_path.is_some_and(|fast_path| fast_path.mode == Mode::Offloading);
        let (some, others): (Vec<_>, Vec<_>) =
            plan.hops.iter().filter(|hop| usize::from(hop.chain) == id).partition(offloads);
        let (Some(hop), Some(other)) = (some.first(), others.first()) else { return };
        let name = &plan.chains[id].name;
        let message = format!(
            "`{}` leaves packets of the chain `{name}` to the kernel's own stack, which those of `{}` would pass by",
            hop.name, other.name
        );
        let hint = "all functions of a chain work in mode `offloading`, or none: take another mode, or make two chains";
        self.problem(self.manifest.span(["chains", name.as_str()]), message, Some(hint.into()));
    }

    /// Finds what keeps packets from fast paths, and gives ports rules whose packets are to meet some.
    pub(super) fn fast_paths(&mut self, plan: &mut ManagerPlan, notes: &mut Vec<String>) {
        notes.extend(self.left_out());
        for id in 0..plan.chains.len() {
            let of_chain = |hop: &&HopPlan| usize::from(hop.chain) == id && hop.fast_path.is_some();
            let count = plan.hops.iter().filter(of_chain).count();
            if count == 0 {
                continue;
            }
            let name = &plan.chains[id].name;
            if count > CHAIN_LIMIT {
                let message = format!("{count} functions of the chain `{name}` have fast paths");
                let hint =
                    format!("the kernel goes through {CHAIN_LIMIT}: leave out `mode` of some, or make two chains");
                self.problem(self.manifest.span(["chains", name.as_str()]), message, Some(hint));
            }
            self.only_offloading(plan, id);
            notes.extend(unreached(plan, &plan.chains[id]));
            let ports = std::iter::once(plan.chains[id].left).chain(plan.chains[id].right.clone());
            for port in ports.collect::<Vec<_>>() {
                if matches!(plan.ports[usize::from(port)].kind, PortKind::Xdp { .. }) {
                    implicit_steering(plan, port);
                }
            }
        }
    }
}

/// A map that is larger than any may be: what it holds, how many of it, and how many there may be.
fn too_large(shape: &Shape) -> Option<(&'static str, u32, u32)> {
    let sizes = [
        ("flows", shape.flows, MOST_FLOWS),
        ("source prefixes", shape.src_prefixes, MOST_OTHERS),
        ("destination prefixes", shape.dst_prefixes, MOST_OTHERS),
        ("rules", shape.rules, MOST_OTHERS),
        ("services", shape.services, MOST_OTHERS),
        ("slots", shape.slots, MOST_OTHERS),
        ("classes", shape.classes, MOST_OTHERS),
    ];
    sizes.into_iter().find(|(_, entries, most)| entries > most)
}

/// What keeps packets of a chain from its fast paths, a sentence each.
fn unreached(plan: &ManagerPlan, chain: &ChainPlan) -> Vec<String> {
    let name = |port: u8| plan.ports[usize::from(port)].name.as_str();
    let mut notes = Vec::new();
    for port in std::iter::once(chain.left).chain(chain.right.iter().copied()) {
        if !matches!(plan.ports[usize::from(port)].kind, PortKind::Xdp { .. }) {
            notes.push(format!(
                "no packet of the port `{}` takes a fast path of the chain `{}`: only `xdp` ports have fast paths",
                name(port),
                chain.name
            ));
        }
    }
    let reverse = (!chain.right.is_empty()).then_some((chain.entry_reverse, true));
    for (entry, is_reverse) in [(chain.entry_forward, false)].into_iter().chain(reverse) {
        let way = way(plan, entry, is_reverse);
        let Some(first) = way.iter().position(|hop| hop.fast_path.is_none()) else { continue };
        let jumped = jumps(plan, &way[..first], is_reverse);
        let misses =
            |hop: &&&HopPlan| hop.fast_path.is_some() && !jumped.iter().any(|other| std::ptr::eq(*other, **hop));
        let behind: Vec<_> = way[first..].iter().filter(misses).collect();
        if behind.is_empty() {
            continue;
        }
        let from =
            if is_reverse { chain.right.iter().map(|&port| name(port)).collect() } else { vec![name(chain.left)] };
        notes.push(format!(
            "chain `{}`: packets from {} meet `{}`, which has no fast path, before those of {}: they take the slow path from there on",
            chain.name,
            from.join(", "),
            way[first].name,
            behind.iter().map(|hop| format!("`{}`", hop.name)).collect::<Vec<_>>().join(", "),
        ));
    }
    notes
}

/// The hops with fast paths to which outputs of the first ones lead, and where packets go from there.
fn jumps<'p>(plan: &'p ManagerPlan, from: &[&'p HopPlan], is_reverse: bool) -> Vec<&'p HopPlan> {
    let mut found: Vec<&HopPlan> = Vec::new();
    let mut from = from.to_vec();
    while let Some(hop) = from.pop() {
        let next = if is_reverse { hop.next_reverse } else { hop.next_forward };
        for target in hop.outputs.iter().map(|(_, target)| *target).chain([next]) {
            let Target::Hop(id) = target else { continue };
            let Some(hop) = plan.hops.get(usize::from(id)).filter(|hop| hop.fast_path.is_some()) else { continue };
            if !found.iter().any(|other| std::ptr::eq(*other, hop)) {
                found.push(hop);
                from.push(hop);
            }
        }
    }
    found
}

/// The hops that packets pass on which no function has another say.
fn way(plan: &ManagerPlan, entry: Target, is_reverse: bool) -> Vec<&HopPlan> {
    let mut hops = Vec::new();
    let mut target = entry;
    while let Target::Hop(hop) = target
        && let Some(hop) = plan.hops.get(usize::from(hop))
        && hops.len() < plan.hops.len()
    {
        hops.push(hop);
        target = if is_reverse { hop.next_reverse } else { hop.next_forward };
    }
    hops
}
