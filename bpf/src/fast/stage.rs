//! The fast path of one hop: its program, and the maps that it shares with its function.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::MapHandle;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use middlenet_fast_path::{MapKind, Shape};

use super::{FastPaths, descriptor};
use crate::skeletons::fast_path::{FastPathSkelBuilder, OpenFastPathSkel};
use crate::{Error, Result, log};

/// The name of the program, as `bpftool prog` shows it.
const PROGRAM: &str = "fast_path";

/// `parts` in `lookup.h`.
const HAS_FLOWS: u32 = 1 << 0;
const HAS_SRC_PREFIXES: u32 = 1 << 1;
const HAS_DST_PREFIXES: u32 = 1 << 2;
const HAS_SRC_PORTS: u32 = 1 << 3;
const HAS_DST_PORTS: u32 = 1 << 4;
const HAS_RULES: u32 = 1 << 5;
const HAS_SERVICES: u32 = 1 << 6;
const HAS_CLASSES: u32 = 1 << 7;

/// Where packets go on from a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// To a hop.
    Hop(u16),
    /// Out of a port.
    Port(u8),
    /// Out of the chain, at the end that the packet is heading for.
    Egress,
    /// Nowhere.
    Drop,
}

impl Target {
    fn number(self) -> u32 {
        match self {
            Self::Hop(hop) => u32::from(hop),
            Self::Port(port) => 1 << 16 | u32::from(port),
            Self::Egress => 2 << 16,
            Self::Drop => 3 << 16,
        }
    }
}

/// What the fast path of a hop is made with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// The function's matchers.
    pub shape: Shape,
    /// Packets that no rule matches go to the kernel's own stack instead of the slow path.
    pub misses_to_kernel: bool,
    /// Packets leave the chain as the kernel's routes and neighbours say, if no function has chosen a port.
    pub ends_by_kernel: bool,
    /// Where packets go on that travel forward.
    pub next_forward: Target,
    /// Where those go on that travel in the reverse direction.
    pub next_reverse: Target,
    /// The function's outputs, in the order that it knows them by.
    pub outputs: Vec<Target>,
    /// The chain's left port.
    pub left: u8,
    /// The chain's right ports.
    pub right: Vec<u8>,
}

/// The maps that a hop's fast path shares with its function. Each descriptor is one more way to them.
#[derive(Debug)]
pub struct HopMaps {
    maps: Vec<(MapKind, OwnedFd)>,
}

impl HopMaps {
    /// The maps, in the order of [`MapKind::ALL`].
    pub fn iter(&self) -> impl Iterator<Item = (MapKind, &OwnedFd)> {
        self.maps.iter().map(|(kind, map)| (*kind, map))
    }

    /// The same, to be handed over.
    pub fn into_vec(self) -> Vec<(MapKind, OwnedFd)> {
        self.maps
    }
}

pub(super) fn load(shared: &FastPaths, hop: u16, plan: &StagePlan) -> Result<(OwnedFd, HopMaps)> {
    let (loaded, log) = log::listen(|| -> libbpf_rs::Result<_> {
        let mut object = MaybeUninit::uninit();
        let mut open = FastPathSkelBuilder::default().open(&mut object)?;
        set_constants(&mut open, hop, plan)?;
        set_sizes(&mut open, &plan.shape)?;
        let maps = &mut open.maps;
        maps.stages.reuse_fd(shared.stages.as_fd())?;
        maps.packets.reuse_fd(shared.packets.as_fd())?;
        maps.xsks.reuse_fd(shared.sockets.as_fd())?;
        maps.ports.reuse_fd(shared.ports.as_fd())?;
        maps.devices.reuse_fd(shared.devices.as_fd())?;
        maps.interfaces.reuse_fd(shared.interfaces.as_fd())?;
        maps.hops.reuse_fd(shared.hops.as_fd())?;
        let skeleton = open.load()?;
        let maps = &skeleton.maps;
        let of = |kind| match kind {
            MapKind::Settings => MapHandle::try_from(&maps.settings),
            MapKind::Flows => MapHandle::try_from(&maps.flows),
            MapKind::SrcPrefixes => MapHandle::try_from(&maps.src_prefixes),
            MapKind::DstPrefixes => MapHandle::try_from(&maps.dst_prefixes),
            MapKind::SrcPorts => MapHandle::try_from(&maps.src_ports),
            MapKind::DstPorts => MapHandle::try_from(&maps.dst_ports),
            MapKind::Rules => MapHandle::try_from(&maps.rules),
            MapKind::RuleCounts => MapHandle::try_from(&maps.rule_counts),
            MapKind::Services => MapHandle::try_from(&maps.services),
            MapKind::Slots => MapHandle::try_from(&maps.slots),
            MapKind::Classes => MapHandle::try_from(&maps.classes),
        };
        let maps = plan.shape.maps().map(|kind| Ok((kind, descriptor(&of(kind)?)?)));
        let maps = maps.collect::<libbpf_rs::Result<Vec<_>>>()?;
        Ok((descriptor(&skeleton.progs.fast_path)?, HopMaps { maps }))
    });
    loaded.map_err(|error| Error::of_load(PROGRAM, &error, log))
}

/// The constants that the program is verified with.
fn set_constants(open: &mut OpenFastPathSkel<'_>, hop: u16, plan: &StagePlan) -> libbpf_rs::Result<()> {
    let invalid = || libbpf_rs::Error::from(io::Error::from(io::ErrorKind::InvalidData));
    let constants = open.maps.rodata_data.as_deref_mut().ok_or_else(invalid)?;
    let shape = &plan.shape;
    let parts = [
        (shape.flows > 0, HAS_FLOWS),
        (shape.src_prefixes > 0, HAS_SRC_PREFIXES),
        (shape.dst_prefixes > 0, HAS_DST_PREFIXES),
        (shape.src_ports, HAS_SRC_PORTS),
        (shape.dst_ports, HAS_DST_PORTS),
        (shape.rules > 0, HAS_RULES),
        (shape.services > 0, HAS_SERVICES),
        (shape.classes > 0, HAS_CLASSES),
    ];
    constants.parts = parts.iter().filter(|(is_there, _)| *is_there).fold(0, |parts, (_, part)| parts | part);
    constants.hop = hop.into();
    (constants.next_forward, constants.next_reverse) = (plan.next_forward.number(), plan.next_reverse.number());
    if plan.outputs.len() > constants.outputs.len() {
        return Err(invalid());
    }
    constants.output_count = plan.outputs.len() as u32;
    constants.outputs.iter_mut().zip(&plan.outputs).for_each(|(number, output)| *number = output.number());
    (constants.left, constants.right_count) = (plan.left.into(), plan.right.len() as u32);
    constants.right = plan.right.first().copied().unwrap_or(0).into();
    for port in [plan.left].iter().chain(&plan.right) {
        constants.chain_ports[usize::from(port / 64)] |= 1 << (port % 64);
    }
    constants.misses_to_kernel = plan.misses_to_kernel.into();
    constants.ends_by_kernel = plan.ends_by_kernel.into();
    Ok(())
}

/// Maps that the shape leaves out are not made: no part of the program uses them.
fn set_sizes(open: &mut OpenFastPathSkel<'_>, shape: &Shape) -> libbpf_rs::Result<()> {
    let maps = &mut open.maps;
    let sized = [
        (&mut maps.settings, shape.entries(MapKind::Settings)),
        (&mut maps.flows, shape.flows),
        (&mut maps.src_prefixes, shape.src_prefixes),
        (&mut maps.dst_prefixes, shape.dst_prefixes),
        (&mut maps.src_ports, u32::from(shape.src_ports) << 17),
        (&mut maps.dst_ports, u32::from(shape.dst_ports) << 17),
        (&mut maps.rules, shape.rules),
        (&mut maps.rule_counts, shape.rules),
        (&mut maps.services, shape.services),
        (&mut maps.slots, shape.slots),
        (&mut maps.classes, shape.classes),
    ];
    for (map, size) in sized {
        if size > 0 { map.set_max_entries(size)? } else { map.set_autocreate(false)? }
    }
    Ok(())
}
