//! Where a lane's packets come from.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use middlenet_bpf::Flood;
use middlenet_sdk::shm::{Buffers, Descriptor, Pages, Region};
use middlenet_tests::Netns;
use middlenet_xsk::{CopyMode, Interface, Umem, XskConfig, XskQueue};

use super::lane::failed;
use super::rules::{PACKET_BYTES, Packet};
use crate::{BenchError, napi};

const BUFFER_BYTES: u32 = 2048;
/// Packets of one call to the socket.
const BURST: usize = 32;
/// Frames of the first call. The kernel takes tens of milliseconds before it begins, so that one call must outlast a
/// measurement: how many that takes, the first one shows.
const FIRST_CALL_PKTS: u32 = 1_000_000;
/// What a call sends more than it has time for by the rate of the one before.
const SLACK: f64 = 1.3;

/// How packets are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// By a socket, as what other namespaces, containers and virtual machines send: each is an `sk_buff`.
    Socket,
    /// In the kernel, without `sk_buff`s, as a NIC's driver does.
    Frames,
}

impl Kind {
    pub(super) const ALL: [Self; 2] = [Self::Socket, Self::Frames];
}

/// A sender of the same packets in turn, as fast as a core can.
#[derive(Debug)]
pub(super) enum Source {
    Socket { queue: Box<XskQueue>, ready: Vec<Descriptor> },
    Frames { flood: Flood, pps: f64 },
}

impl Source {
    /// On `eth0` of a namespace.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub(super) fn open(kind: Kind, netns: &Netns, packets: &[Packet]) -> Result<Self, BenchError> {
        netns.enter(|| {
            let ifindex = Interface::lookup("eth0").map_err(failed)?.ifindex;
            Ok(match kind {
                Kind::Frames => Self::Frames { flood: Flood::new(ifindex, packets).map_err(failed)?, pps: 0.0 },
                Kind::Socket => {
                    let (umem, ready) = written(packets)?;
                    let config = XskConfig { zero_copy: CopyMode::Copy, ..XskConfig::default() };
                    let queue = Box::new(XskQueue::bind(&umem, ifindex, 0, &config).map_err(failed)?);
                    Self::Socket { queue, ready }
                }
            })
        })?
    }

    /// Sends until it is told to stop, or for somewhat more than a time, whichever this kind can do. The calling thread is in
    /// the namespace.
    ///
    /// # Errors
    /// When the kernel does not take packets.
    pub(super) fn send(&mut self, core: usize, stop: &AtomicBool, time: Duration) -> Result<(), BenchError> {
        napi::pin(0, core)?;
        match self {
            Self::Socket { queue, ready } => {
                let mut done = [0; 64];
                while !stop.load(Ordering::Relaxed) {
                    let burst = ready.len().saturating_sub(BURST);
                    let taken = queue.send(&ready[burst..]);
                    ready.drain(burst..burst + taken);
                    queue.kick();
                    let count = queue.completed(&mut done);
                    ready.extend(done[..count].iter().map(|&index| descriptor(index)));
                    if let Some(trouble) = queue.trouble() {
                        return Err(failed(trouble));
                    }
                }
            }
            Self::Frames { flood, pps } => {
                let pkts = (*pps * time.as_secs_f64() * SLACK) as u32;
                let pkts = pkts.max(FIRST_CALL_PKTS);
                let start = Instant::now();
                flood.send(PACKET_BYTES, pkts).map_err(failed)?;
                *pps = pps.max(f64::from(pkts) / start.elapsed().as_secs_f64());
            }
        }
        Ok(())
    }
}

/// Memory with the packets in it.
fn written(packets: &[Packet]) -> Result<(Arc<Umem>, Vec<Descriptor>), BenchError> {
    let region = Region::create("bench-source", packets.len() * BUFFER_BYTES as usize, Pages::Small).map_err(failed)?;
    let umem = Umem::new(Buffers::new(Arc::new(region), BUFFER_BYTES).map_err(failed)?);
    let mut ready: Vec<Descriptor> = (0..packets.len() as u32).map(descriptor).collect();
    for (packet, descriptor) in packets.iter().zip(&mut ready) {
        umem.buffers().bytes_mut(descriptor).copy_from_slice(packet);
    }
    Ok((umem, ready))
}

fn descriptor(index: u32) -> Descriptor {
    Descriptor { index, length: PACKET_BYTES as u16, ..Descriptor::default() }
}
