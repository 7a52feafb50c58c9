//! A cable whose packets go through one XDP program to an AF_XDP socket, with all that is needed to measure it.
//!
//! ```text
//!   core 1                                core 0                                   core 1
//!   a sender, see source.rs --veth--> a kernel thread: XDP program, AF_XDP --> taken from the socket
//! ```
//!
//! The device's NAPI runs in a thread of its own (`/sys/class/net/DEV/threaded`) that has core 0 for itself, so that nothing but
//! receiving, the program and the delivery to the socket is the limit. What takes packets from the socket sleeps between its
//! turns and needs no wake-up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use middlenet_bpf::{Mode, SteeredAttachment, SteeredPort, XdpAttachment, XdpPort};
use middlenet_sdk::shm::{Buffers, Descriptor, Pages, Region};
use middlenet_steer::Tables;
use middlenet_tests::{End, Netns, Veth};
use middlenet_xsk::{CopyMode, Interface, Umem, XskConfig, XskQueue};

use super::rules::Packet;
use super::source::{Kind, Source};
use super::{BOX_CORE, LOAD_CORE};
use crate::BenchError;
use crate::cpu::CpuTime;
use crate::run::go_on;
use crate::{napi, priority};

/// Packets that wait in the socket while nobody takes them: more than come in any pause of the taker.
const SLOTS: u32 = 8192;
const BUFFERS: usize = 2 * SLOTS as usize;
const BUFFER_BYTES: u32 = 2048;
/// Between two turns of the taker.
const NAP: Duration = Duration::from_micros(50);
/// What the device is told: to receive in a thread; and, when it has found nothing, to look again by itself every 20 us, 50
/// times, before it waits to be woken. A wake-up from another core costs the sender microseconds on a virtual host, and a sender that
/// has to wake for each burst never offers enough to keep the thread awake.
const SETTINGS: [(&str, u32); 3] = [("napi_defer_hard_irqs", 50), ("gro_flush_timeout", 20_000), ("threaded", 1)];
/// Until the first packets arrive.
const ARRIVAL_PATIENCE: Duration = Duration::from_secs(2);

/// The program of a lane.
#[derive(Debug)]
enum Program {
    /// Hands over every packet.
    Redirect { _attachment: XdpAttachment },
    /// Looks at rules first.
    Steer { _attachment: Box<SteeredAttachment> },
}

/// It goes with its namespaces when this goes.
#[derive(Debug)]
pub(super) struct Lane {
    queue: XskQueue,
    free: Vec<u32>,
    source: Source,
    /// The thread that receives.
    thread: u32,
    _program: Program,
    client: Netns,
    _middle: Netns,
    _cable: Veth,
}

/// What was seen in a time.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Seen {
    /// Packets that arrived at the socket, per second.
    pub(super) delivered_pps: f64,
    /// Of the receiving thread, for each packet that arrived.
    pub(super) ns_per_packet: f64,
    /// Cores that the receiving thread had; near 1 it was the limit.
    pub(super) cpu: f64,
    /// Cores that the receiving thread waited for while others had them.
    pub(super) waited: f64,
    /// Packets that the socket had no room for.
    pub(super) missed_pkts: u64,
}

pub(super) fn failed(error: impl std::fmt::Display) -> BenchError {
    BenchError::Failed(error.to_string())
}

impl Lane {
    /// Lays it: with rules, or with a program that hands over everything. The packets are those that will be sent.
    ///
    /// # Errors
    /// Without the privilege, or when the kernel refuses anything.
    pub(super) fn lay(
        device: &str,
        tables: Option<&Tables>,
        kind: Kind,
        packets: &[Packet],
    ) -> Result<Self, BenchError> {
        let (client, middle) = (Netns::new("flood")?, Netns::new("lane")?);
        let cable =
            Veth::between(&End::new(&client, "eth0").without_ipv6(), &End::new(&middle, device).without_ipv6())?;
        let region = Region::create("bench-lane", BUFFERS * BUFFER_BYTES as usize, Pages::Small).map_err(failed)?;
        let buffers = Buffers::new(Arc::new(region), BUFFER_BYTES).map_err(failed)?;
        let mut free: Vec<u32> = (0..buffers.count()).collect();
        let (program, mut queue) = middle.enter(|| open(device, tables, &Umem::new(buffers)))??;
        let taken = queue.fill(&free[free.len() - SLOTS as usize..]);
        free.truncate(free.len() - taken);
        let moderate =
            SETTINGS.map(|(name, value)| format!("echo {value} > /sys/class/net/{device}/{name}")).join(" && ");
        middle.exec("sh", ["-c", &moderate])?;
        let thread = napi::thread(device)?;
        napi::pin(thread, BOX_CORE)?;
        priority::raise(thread)?;
        let source = Source::open(kind, &client, packets)?;
        let mut lane = Self { queue, free, source, thread, _program: program, client, _middle: middle, _cable: cable };
        // The source finds its speed.
        lane.measure(Duration::ZERO, Duration::from_millis(10))?;
        Ok(lane)
    }

    /// Sends as much as it can for a time, after another that does not count.
    ///
    /// # Errors
    /// On Ctrl-C, or when the kernel takes no frames.
    pub(super) fn measure(&mut self, settle: Duration, time: Duration) -> Result<Seen, BenchError> {
        go_on()?;
        let Self { queue, free, source, client, thread, .. } = self;
        // What came after the last measurement ended.
        while turns(queue, free, Duration::ZERO)? > 0 {}
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| client.enter(|| source.send(LOAD_CORE, &stop, settle + time)));
            let seen = scope.spawn(|| take(queue, free, *thread, settle, time)).join();
            stop.store(true, Ordering::Relaxed);
            sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))??;
            seen.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn open(device: &str, tables: Option<&Tables>, umem: &Arc<Umem>) -> Result<(Program, XskQueue), BenchError> {
    let ifindex = Interface::lookup(device).map_err(failed)?.ifindex;
    let config = XskConfig { rx_slots: SLOTS, fill_slots: SLOTS, zero_copy: CopyMode::Copy, ..XskConfig::default() };
    let bind = || XskQueue::bind(umem, ifindex, 0, &config).map_err(failed);
    Ok(match tables {
        None => {
            let attachment = XdpPort::load(ifindex).and_then(|port| port.attach(Mode::Native)).map_err(failed)?;
            let queue = bind()?;
            attachment.set_socket(0, &queue).map_err(failed)?;
            (Program::Redirect { _attachment: attachment }, queue)
        }
        Some(tables) => {
            let attachment =
                SteeredPort::load(ifindex, tables).and_then(|port| port.attach(Mode::Native)).map_err(failed)?;
            let queue = bind()?;
            attachment.set_socket(0, &queue).map_err(failed)?;
            (Program::Steer { _attachment: Box::new(attachment) }, queue)
        }
    })
}

/// Takes packets as they come; counts those of the second time.
fn take(
    queue: &mut XskQueue,
    free: &mut Vec<u32>,
    thread: u32,
    settle: Duration,
    time: Duration,
) -> Result<Seen, BenchError> {
    napi::pin(0, LOAD_CORE)?;
    let start = Instant::now();
    while turns(queue, free, Duration::ZERO)? == 0 {
        if start.elapsed() > ARRIVAL_PATIENCE {
            return Err(BenchError::Failed("none of the packets arrive".into()));
        }
    }
    turns(queue, free, settle)?;
    let read = |queue: &XskQueue| -> Result<_, BenchError> {
        let counted = queue.statistics().map_err(failed)?;
        let cpu = CpuTime::of(thread).ok_or_else(|| BenchError::Failed("the device's thread ended".into()))?;
        // In copy mode, what found the fill ring empty is among those dropped.
        Ok((counted.rx_dropped + counted.rx_ring_full, cpu))
    };
    let (missed_before, before) = read(queue)?;
    let start = Instant::now();
    let packets = turns(queue, free, time)?;
    let (seconds, (missed, after)) = (start.elapsed().as_secs_f64(), read(queue)?);
    let busy_ns = after.busy_ns.saturating_sub(before.busy_ns) as f64;
    Ok(Seen {
        delivered_pps: packets as f64 / seconds,
        ns_per_packet: busy_ns / packets as f64,
        cpu: busy_ns / 1e9 / seconds,
        waited: after.waiting_ns.saturating_sub(before.waiting_ns) as f64 / 1e9 / seconds,
        missed_pkts: missed.saturating_sub(missed_before),
    })
}

fn turns(queue: &mut XskQueue, free: &mut Vec<u32>, time: Duration) -> Result<u64, BenchError> {
    let mut burst = [Descriptor::default(); 64];
    let (start, mut packets) = (Instant::now(), 0);
    loop {
        loop {
            let count = queue.receive(&mut burst);
            packets += count as u64;
            free.extend(burst[..count].iter().map(|descriptor| descriptor.index));
            let least = free.len().saturating_sub(queue.fill_room());
            let taken = queue.fill(&free[least..]);
            debug_assert_eq!(taken, free.len() - least);
            free.truncate(least);
            if count < burst.len() {
                break;
            }
        }
        if start.elapsed() >= time {
            return Ok(packets);
        }
        go_on()?;
        std::thread::sleep(NAP);
    }
}
