//! Fast paths of functions: a program for each hop that has one, and the maps that they share.

mod counters;
mod direct;
mod stage;

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags, MapHandle, MapType};

use crate::error::io_error;
use crate::xdp::QUEUES;
use crate::{Error, Result};

pub use counters::{KernelReason, SlowReason, StageCounters};
pub use direct::{PortDevice, SourceCheck};
pub use stage::{HopMaps, StagePlan, Target};

/// Bytes of `struct fast_packet` in `stages.h`, and of `struct port` in `way.h`.
const PACKET_BYTES: u32 = 96;
const PORT_BYTES: u32 = 16;

/// Bytes of an Ethernet header, and of a VLAN tag, which the kernel lets packets have beyond the MTU.
const ETHERNET_BYTES: u32 = 14;
const VLAN_BYTES: u32 = 4;

/// `ENTRY_REVERSE` in `stages.h`.
const ENTRY_REVERSE: u32 = 1 << 16;

/// The fast paths of a run, in the kernel. They go when this value and all that came of it are gone: programs and the map that holds them
/// name each other, so the kernel empties the map when no descriptor of it is left.
///
/// ```text
/// rules of a port (Steering::load_fast) --tail call--> first hop --tail call--> next hop ... --> port, kernel, slow path
/// ```
///
/// The slow path of a hop is the AF_XDP socket of the receive queue that the packet came by: the tag in front of the packet names the hop
/// ([`take_mark`](crate::take_mark)), as `Destination` in `middlenet-plan` has it. Packets whose end cannot be done here come
/// by the same way with the tag of a port.
#[derive(Debug)]
pub struct FastPaths {
    stages: MapHandle,
    packets: MapHandle,
    sockets: MapHandle,
    ports: MapHandle,
    devices: MapHandle,
    interfaces: MapHandle,
    hops: MapHandle,
}

/// Where packets of a chain begin at a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The chain.
    pub chain: u16,
    /// Its first hop from there, which has a fast path.
    pub hop: u16,
    /// The port is on the chain's right.
    pub reverse: bool,
}

/// What leads from a port's rules to fast paths.
#[derive(Debug)]
pub struct FastPort {
    pub(crate) port: u8,
    pub(crate) entries: MapHandle,
    /// A chain, and its entry.
    pub(crate) usual: (u32, u32),
    pub(crate) stages: MapHandle,
    pub(crate) packets: MapHandle,
    pub(crate) sockets: MapHandle,
}

impl FastPort {
    /// The slot of the port's queue 0 in the map of sockets.
    pub(crate) fn first_slot(&self) -> u32 {
        u32::from(self.port) * QUEUES
    }
}

impl FastPaths {
    /// Makes the maps for so many hops and ports; the fast paths themselves come by [`load_stage`](Self::load_stage).
    ///
    /// # Errors
    ///
    /// [`Error::FastPaths`] when the kernel refuses.
    pub fn new(hops: u16, ports: u8) -> Result<Self> {
        let (hops, ports) = (u32::from(hops).max(1), u32::from(ports).max(1));
        let map = |kind, name: &'static str, value_bytes, entries| {
            new_map(kind, name, value_bytes, entries).map_err(|source| Error::FastPaths { source })
        };
        let word = size_of::<u32>() as u32;
        Ok(Self {
            stages: map(MapType::ProgArray, "stages", word, hops)?,
            packets: map(MapType::PercpuArray, "packets", PACKET_BYTES, 1)?,
            sockets: map(MapType::Xskmap, "xsks", word, ports * QUEUES)?,
            ports: map(MapType::Array, "ports", PORT_BYTES, ports)?,
            devices: map(MapType::Devmap, "devices", word, ports)?,
            interfaces: map(MapType::Hash, "interfaces", word, ports)?,
            hops: map(MapType::PercpuArray, "hops", counters::BYTES, hops)?,
        })
    }

    /// Says which interface a port has: packets leave directly by it if it takes them. Otherwise, and as long as there is none, they leave by
    /// the slow path.
    ///
    /// # Errors
    ///
    /// [`Error::FastPaths`] when the kernel refuses: the interface takes no packets from programs, or is gone.
    pub fn set_port(&self, port: u8, device: Option<PortDevice>) -> Result<()> {
        let key = u32::from(port).to_ne_bytes();
        let failed = |error: libbpf_rs::Error| Error::FastPaths { source: io_error(&error) };
        let gone = |result: libbpf_rs::Result<()>| match result {
            Err(error) if error.kind() != libbpf_rs::ErrorKind::NotFound => Err(failed(error)),
            _ => Ok(()),
        };
        let before = self.ports.lookup(&key, MapFlags::ANY).map_err(failed)?.unwrap_or_default();
        let direct = device.filter(|device| device.takes_redirects);
        let new = direct.map_or(0, |direct| direct.ifindex).to_ne_bytes();
        if let Some(&old) = before.first_chunk::<4>().filter(|&&old| old != [0; 4] && old != new) {
            self.ports.update(&key, &[0; PORT_BYTES as usize], MapFlags::ANY).map_err(failed)?;
            gone(self.devices.delete(&key))?;
            gone(self.interfaces.delete(&old))?;
        }
        let Some(PortDevice { mac, source_check, .. }) = device else { return Ok(()) };
        let mut most_bytes = 0;
        if let Some(PortDevice { mtu, .. }) = direct {
            self.devices.update(&key, &new, MapFlags::ANY).map_err(failed)?;
            self.interfaces.update(&new, &key, MapFlags::ANY).map_err(failed)?;
            most_bytes = mtu.saturating_add(ETHERNET_BYTES + VLAN_BYTES);
        }
        let value = [&new[..], &most_bytes.to_ne_bytes(), &mac, &[source_check as u8, 0]].concat();
        self.ports.update(&key, &value, MapFlags::ANY).map_err(failed)
    }

    /// Loads the fast path of a hop; from now on packets go through it. One that is there already is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] when the kernel refuses the program, with the end of the verifier's log; [`Error::FastPaths`].
    pub fn load_stage(&self, hop: u16, plan: &StagePlan) -> Result<HopMaps> {
        let (program, maps) = stage::load(self, hop, plan)?;
        let entered = self.stages.update(
            &u32::from(hop).to_ne_bytes(),
            &program.as_fd().as_raw_fd().to_ne_bytes(),
            MapFlags::ANY,
        );
        entered.map_err(|error| Error::FastPaths { source: io_error(&error) })?;
        Ok(maps)
    }

    /// What leads from the rules of a port to the fast paths of its chains.
    ///
    /// # Errors
    ///
    /// [`Error::FastPaths`] when the kernel refuses.
    pub fn port(&self, port: u8, entries: &[Entry]) -> Result<FastPort> {
        let make = || -> io::Result<FastPort> {
            let chains = entries.iter().map(|entry| u32::from(entry.chain) + 1).max().unwrap_or(1);
            let table = new_map(MapType::Array, "fast_entries", size_of::<u32>() as u32, chains)?;
            let number = |entry: &Entry| (u32::from(entry.hop) + 1) | if entry.reverse { ENTRY_REVERSE } else { 0 };
            for entry in entries {
                let value = number(entry);
                let chain = u32::from(entry.chain).to_ne_bytes();
                table.update(&chain, &value.to_ne_bytes(), MapFlags::ANY).map_err(|error| io_error(&error))?;
            }
            Ok(FastPort {
                port,
                entries: table,
                usual: entries.first().map_or((0, 0), |entry| (entry.chain.into(), number(entry))),
                stages: again(&self.stages)?,
                packets: again(&self.packets)?,
                sockets: again(&self.sockets)?,
            })
        };
        make().map_err(|source| Error::FastPaths { source })
    }

    /// What the fast path of a hop has done.
    ///
    /// # Errors
    ///
    /// [`Error::FastPaths`] when the kernel refuses the look-up.
    pub fn counters(&self, hop: u16) -> Result<StageCounters> {
        counters::read(&self.hops, hop).map_err(|source| Error::FastPaths { source })
    }
}

fn again(map: &MapHandle) -> io::Result<MapHandle> {
    MapHandle::try_from(map).map_err(|error| io_error(&error))
}

fn new_map(kind: MapType, name: &str, value_bytes: u32, entries: u32) -> io::Result<MapHandle> {
    let options = libbpf_sys::bpf_map_create_opts {
        sz: size_of::<libbpf_sys::bpf_map_create_opts>() as libbpf_sys::size_t,
        ..Default::default()
    };
    MapHandle::create(kind, Some(name), size_of::<u32>() as u32, value_bytes, entries, &options)
        .map_err(|error| io_error(&error))
}

/// The descriptor of a map for somebody else.
fn descriptor(map: &impl AsFd) -> io::Result<OwnedFd> {
    map.as_fd().try_clone_to_owned()
}
