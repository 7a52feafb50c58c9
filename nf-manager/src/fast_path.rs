//! Fast paths of functions: what of a chain's work the kernel does before a packet comes to a worker, if it comes at all.
//!
//! The manager owns the programs and maps, so that a function's death changes nothing for the flows that its fast path knows. Functions
//! get descriptors of their own maps. Where the kernel refuses a fast path, the chain runs without: the program before it leaves the
//! hop's packets to the workers.

mod reach;

pub(crate) use reach::destinations;

use crate::{ManagerError, with_causes};
use middlenet_bpf::{Entry, FastPort, HopMaps, KernelReason, PortDevice, SlowReason, StageCounters, StagePlan};
use middlenet_fast_path::{MapKind, Mode};
use middlenet_plan::{ChainPlan, FastPathStats, HopPlan, ManagerPlan, Target};
use std::os::fd::OwnedFd;

/// The fast paths of a run.
#[derive(Debug)]
pub(crate) struct FastPaths {
    kernel: middlenet_bpf::FastPaths,
    /// By hop: what its fast path shares with its function, where there is one.
    maps: Vec<Option<HopMaps>>,
    /// By port: its interface, as the kernel's programs know it.
    devices: Vec<Option<PortDevice>>,
}

impl FastPaths {
    /// Loads the fast paths of a plan; nothing if it has none, or none that the kernel takes. What it refuses goes to `notes`, but for a
    /// function in mode `offloading`: what it leaves to the kernel would pass by the kernel's own rules.
    pub(crate) fn load(plan: &ManagerPlan, notes: &mut Vec<String>) -> Result<Option<Self>, ManagerError> {
        if !plan.hops.iter().any(|hop| hop.fast_path.is_some()) {
            return Ok(None);
        }
        let needed = |hop: &HopPlan, e: &middlenet_bpf::Error| {
            let message = format!("the function `{}` cannot do without its fast path: {}", hop.name, with_causes(e));
            ManagerError::new(message)
                .hint("remove its `mode: offloading`; all of its packets then go through the function itself")
        };
        let counts = (plan.hops.len() as u16, plan.ports.len() as u8);
        let kernel = match middlenet_bpf::FastPaths::new(counts.0, counts.1) {
            Ok(kernel) => kernel,
            Err(e) => {
                if let Some(hop) = plan.hops.iter().find(|hop| offloads(hop)) {
                    return Err(needed(hop, &e));
                }
                notes.push(format!("all functions run without their fast paths: {}", with_causes(&e)));
                return Ok(None);
            }
        };
        let maps = (0..).zip(&plan.hops).map(|(id, hop)| {
            let Some(stage) = stage(plan, hop) else { return Ok(None) };
            match kernel.load_stage(id, &stage) {
                Ok(maps) => Ok(Some(maps)),
                Err(e) if offloads(hop) => Err(needed(hop, &e)),
                Err(e) => {
                    notes.push(format!("the function `{}` runs without its fast path: {}", hop.name, with_causes(&e)));
                    Ok(None)
                }
            }
        });
        let maps = maps.collect::<Result<_, _>>()?;
        Ok(Some(Self { kernel, maps, devices: vec![None; plan.ports.len()] }))
    }

    /// What leads from a port's rules to the fast paths of its chains; nothing if no chain of the port begins with one.
    pub(crate) fn port(&self, plan: &ManagerPlan, port: u8) -> Result<Option<FastPort>, middlenet_bpf::Error> {
        let entry = |(id, chain): (u16, &ChainPlan)| {
            let reverse = chain.left != port;
            if reverse && !chain.right.contains(&port) {
                return None;
            }
            let Target::Hop(hop) = (if reverse { chain.entry_reverse } else { chain.entry_forward }) else {
                return None;
            };
            self.maps.get(usize::from(hop))?.as_ref()?;
            Some(Entry { chain: id, hop, reverse })
        };
        let entries: Vec<_> = (0..).zip(&plan.chains).filter_map(entry).collect();
        if entries.is_empty() { Ok(None) } else { self.kernel.port(port, &entries).map(Some) }
    }

    /// Looks how packets can leave by a port whose interface is this one, or gone. It can change at any time: what a veth takes
    /// depends on its peer.
    pub(crate) fn connect(&mut self, port: u8, ifindex: Option<u32>) {
        let device = ifindex.and_then(|ifindex| PortDevice::find(ifindex).ok());
        let Some(known) = self.devices.get_mut(usize::from(port)).filter(|known| **known != device) else { return };
        // An interface that went meanwhile is seen to at the next look; until then its packets go to the workers.
        if self.kernel.set_port(port, device).is_ok() {
            *known = device;
        } else if self.kernel.set_port(port, None).is_ok() {
            *known = None;
        }
    }

    /// Whether packets can leave by a port without a worker.
    pub(crate) fn is_direct(&self, port: usize) -> bool {
        self.devices.get(port).is_some_and(|device| device.is_some_and(|device| device.takes_redirects))
    }

    /// The maps of a hop's fast path, where it is in the kernel.
    pub(crate) fn maps(&self, hop: usize) -> Option<&HopMaps> {
        self.maps.get(hop)?.as_ref()
    }

    /// The maps of a hop's fast path as somebody else may have them.
    pub(crate) fn copies(&self, hop: usize) -> std::io::Result<Option<Vec<(MapKind, OwnedFd)>>> {
        let Some(maps) = self.maps(hop) else { return Ok(None) };
        maps.iter().map(|(kind, map)| Ok((kind, map.try_clone()?))).collect::<std::io::Result<_>>().map(Some)
    }

    /// What a hop's fast path has counted.
    pub(crate) fn counters(&self, hop: usize) -> Option<StageCounters> {
        self.maps(hop)?;
        self.kernel.counters(hop as u16).ok()
    }
}

fn offloads(hop: &HopPlan) -> bool {
    hop.fast_path.is_some_and(|fast_path| fast_path.mode == Mode::Offloading)
}

/// What the fast path of a hop is made with.
fn stage(plan: &ManagerPlan, hop: &HopPlan) -> Option<StagePlan> {
    let fast_path = hop.fast_path?;
    let chain = plan.chains.get(usize::from(hop.chain))?;
    let of_chain = plan.hops.iter().filter(|other| other.chain == hop.chain);
    let target = |target: &Target| match *target {
        Target::Hop(hop) => middlenet_bpf::Target::Hop(hop),
        Target::Port(port) => middlenet_bpf::Target::Port(port),
        Target::Egress => middlenet_bpf::Target::Egress,
        Target::Drop => middlenet_bpf::Target::Drop,
    };
    Some(StagePlan {
        shape: fast_path.shape,
        misses_to_kernel: offloads(hop),
        ends_by_kernel: of_chain.into_iter().any(offloads),
        next_forward: target(&hop.next_forward),
        next_reverse: target(&hop.next_reverse),
        outputs: hop.outputs.iter().map(|(_, to)| target(to)).collect(),
        left: chain.left,
        right: chain.right.clone(),
    })
}

/// What a fast path did, for reports.
pub(crate) fn stats(mode: Mode, counters: &StageCounters) -> FastPathStats {
    let slow = SlowReason::ALL.map(|reason| (reason.name().to_owned(), counters.slow(reason)));
    let kernel = KernelReason::ALL.map(|reason| (reason.name().to_owned(), counters.kernel(reason)));
    let some = |counts: &mut dyn Iterator<Item = (String, u64)>| counts.filter(|(_, n)| *n > 0).collect();
    FastPathStats {
        mode: mode.name().into(),
        entered: counters.entered_pkts,
        hits: counters.hit_pkts,
        sent: counters.sent_pkts,
        dropped: counters.dropped_pkts.iter().sum::<u64>()
            + counters.discarded_pkts
            + counters.no_socket_pkts
            + counters.untagged_pkts,
        slow: some(&mut slow.into_iter()),
        kernel: some(&mut kernel.into_iter()),
        learned: counters.learned,
    }
}
