//! A data thread: receives, runs packets through their chain, transmits; and gives way when there is nothing to do.

mod lanes;
mod route;
mod sleep;
mod steer;

use crate::command::{Command, Made};
use crate::counters::{HopDrop, WorkerCounters};
use crate::graph::{Entry, Graph};
use crate::lane::{Lane, Spread};
use crate::port::{Clock, Queue, Steering};
use crate::steering::Diversion;
use crossbeam_channel::{Receiver, Sender};
use middlenet_dpdk::{Pool, tsc};
use middlenet_plan::{OnFailure, Target, Wait};
use middlenet_sdk::{BURST, Burst, BurstState, DynFunction, Init, SteeredFlow};
use middlenet_shm::{Buffers, Descriptor, Ledger};
use middlenet_steer::Flow;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Packets taken from a port at once. Half a [`BURST`]: with more, what drivers touch per packet falls out of the first-level
/// cache (measured: 64 instead of 32 costs a tenth of the rate with `net_pcap`).
const RECEIVE_BURST: usize = 32;
/// Bursts taken from a port in one turn where they go to a process.
const BURSTS_TO_PROCESSES: u32 = 4;
/// Bursts taken back from a process in one turn.
const COLLECTS: u32 = 2;
/// Turns between two samples of hop latency.
const SAMPLE_TURNS: u64 = 64;
/// Empty buffers that an inline function has at hand.
const INLINE_SPARE: usize = 16;

/// Flows that an inline function steers, with its hop.
pub(crate) type AskedFlows = (u16, Vec<SteeredFlow>);

/// What all workers share.
pub(crate) struct Shared {
    pub(crate) pool: Arc<Pool>,
    pub(crate) ledger: Ledger,
    pub(crate) graph: Graph,
    pub(crate) wait: Wait,
    pub(crate) shares_core: bool,
    /// Packets that may be under way to functions per chain and worker. No more than a ring holds, so rings do not overflow.
    pub(crate) budget: u32,
    pub(crate) lockstep: bool,
    pub(crate) clock: Clock,
    pub(crate) tsc_hz: u64,
}

/// What one worker is made of.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) id: u8,
    pub(crate) counters: Arc<WorkerCounters>,
    /// By port id; a worker may have no queue at a port.
    pub(crate) queues: Vec<Option<Queue>>,
    /// By port id: how its packets are told apart.
    pub(crate) steering: Vec<Steering>,
    /// By hop id.
    pub(crate) hops: Vec<HopParts>,
    pub(crate) chains: usize,
    pub(crate) commands: Receiver<Command>,
    /// Set when a command waits.
    pub(crate) called: Arc<AtomicBool>,
    pub(crate) event: OwnedFd,
    /// To the control thread: flows that inline functions steer, with their hop.
    pub(crate) steered: Sender<AskedFlows>,
}

/// What one hop is made of on one worker.
pub(crate) struct HopParts {
    pub(crate) on_failure: OnFailure,
    /// Processes to wait for before the chain opens; 0 for an inline hop.
    pub(crate) processes: u16,
    /// The function, if its placement is inline.
    pub(crate) inline: Option<Made>,
}

enum Place {
    Inline(Box<Inline>),
    Process(Spread),
}

struct Inline {
    /// `None` after a panic.
    function: Option<Box<dyn DynFunction>>,
    init: Init,
    state: BurstState,
}

struct Hop {
    place: Place,
    on_failure: OnFailure,
    chain: u16,
}

/// A port this worker polls.
struct Source {
    port: u8,
    open: bool,
    /// Bursts per turn at most.
    bursts: u32,
    /// By chain; never empty.
    entries: Vec<Entry>,
    steering: Steering,
    /// Flows that go elsewhere than the rules say, where the worker carries them out.
    diverted: HashMap<Flow, Diversion>,
}

impl Source {
    fn entry(&self, chain: u16) -> Option<Entry> {
        self.entries.iter().find(|entry| entry.chain == chain).copied()
    }

    /// Whether none of its chains takes more.
    #[inline]
    fn is_full(&self, in_flight: &[u32], budget: u32) -> bool {
        self.entries.iter().all(|entry| is_full(in_flight, entry.chain, budget))
    }
}

/// A worker at work.
pub(crate) struct Worker<'t> {
    token: &'t middlenet_dpdk::Worker,
    shared: Arc<Shared>,
    buffers: Buffers,
    id: u8,
    counters: Arc<WorkerCounters>,
    queues: Vec<Option<Queue>>,
    sources: Vec<Source>,
    hops: Vec<Hop>,
    lanes: Vec<Lane>,
    /// Packets given to function processes, by chain.
    in_flight: Vec<u32>,
    /// Instances that have not come yet for the first time. Their chains do not receive until then, so that no packet passes
    /// a chain that is half there.
    awaited: Vec<(u16, u16)>,
    /// A function has used an empty buffer it was lent.
    supply_due: bool,
    /// When a sampled packet was handed over, by buffer.
    given_at: Vec<u64>,
    turns: u64,
    receiving: bool,
    commands: Receiver<Command>,
    called: Arc<AtomicBool>,
    event: OwnedFd,
    steered: Sender<AskedFlows>,
}

impl<'t> Worker<'t> {
    pub(crate) fn new(token: &'t middlenet_dpdk::Worker, parts: Parts) -> Self {
        let Parts { shared, id, counters, queues, steering, hops, chains, commands, called, event, steered } = parts;
        let sources = (0..)
            .zip(queues.iter().zip(steering))
            .filter(|(_, (queue, _))| queue.is_some())
            .map(|(port, (_, steering))| {
                let entries = shared.graph.entries(port).collect();
                Source { port, open: false, bursts: 1, entries, steering, diverted: HashMap::new() }
            })
            .filter(|source| !source.entries.is_empty())
            .collect();
        let awaited =
            (0..).zip(&hops).flat_map(|(hop, parts)| (0..parts.processes).map(move |replica| (hop, replica))).collect();
        let hops = (0..)
            .zip(hops)
            .map(|(id, parts)| Hop {
                place: match parts.inline {
                    Some(Made { function, init }) => {
                        init.begin();
                        Place::Inline(Box::new(Inline { function: Some(function), init, state: BurstState::default() }))
                    }
                    None => Place::Process(Spread::new()),
                },
                on_failure: parts.on_failure,
                chain: shared.graph.chain_of_hop(id),
            })
            .collect();
        let buffers = shared.pool.buffers().clone();
        let given_at = vec![0; buffers.count() as usize];
        let mut worker = Self {
            token,
            shared,
            buffers,
            id,
            counters,
            queues,
            sources,
            hops,
            lanes: Vec::new(),
            in_flight: vec![0; chains],
            awaited,
            supply_due: false,
            given_at,
            turns: 0,
            receiving: true,
            commands,
            called,
            event,
            steered,
        };
        worker.open_chains();
        worker
    }

    /// Lets chains receive whose functions have all come.
    fn open_chains(&mut self) {
        let process = |target| match target {
            Target::Hop(hop) => matches!(self.hops[usize::from(hop)].place, Place::Process(_)),
            _ => false,
        };
        for source in &mut self.sources {
            let to_processes = source.entries.iter().any(|entry| process(entry.target));
            source.bursts = if to_processes { BURSTS_TO_PROCESSES } else { 1 };
            let mut awaited = self.awaited.iter().map(|(hop, _)| self.hops[usize::from(*hop)].chain);
            source.open = !awaited.any(|chain| source.entry(chain).is_some());
        }
    }

    /// Runs until told to quit; returns the queues, to be closed by the control thread.
    pub(crate) fn run(mut self) -> Vec<Option<Queue>> {
        let mut pace = sleep::Idleness::new(self.shared.wait, self.shared.shares_core, self.shared.tsc_hz);
        let tick_cycles = self.shared.tsc_hz / 10;
        let mut began = tsc::now();
        let mut next_tick = began + tick_cycles;
        loop {
            self.turns += 1;
            let packets = self.turn();
            let now = tsc::now();
            if packets > 0 {
                self.counters.busy_turns.add(1);
                self.counters.busy_cycles.add(now - began);
                pace.busy();
            } else {
                self.counters.idle_turns.add(1);
                if pace.idle(now, || self.queues.iter().flatten().any(Queue::is_blind)) {
                    self.sleep(next_tick.saturating_sub(now));
                }
            }
            began = tsc::now();
            if began >= next_tick {
                next_tick = began + tick_cycles;
                self.tick();
            }
            if self.called.load(Ordering::Relaxed) && self.obey() {
                return self.finish();
            }
        }
    }

    /// One turn: ports in, rings in, doorbells, ports out. Returns the packets met.
    #[inline]
    fn turn(&mut self) -> usize {
        let mut packets = 0;
        if self.receiving {
            // The port served first changes each turn: what a full chain still takes is shared by its ports.
            let sources = self.sources.len();
            let mut at = if sources > 1 { self.turns as usize % sources } else { 0 };
            for _ in 0..sources {
                packets += self.receive_several(at);
                at = if at + 1 == sources { 0 } else { at + 1 };
            }
        }
        for lane in 0..self.lanes.len() {
            for _ in 0..COLLECTS {
                let n = self.collect(lane);
                packets += n;
                if n < BURST {
                    break;
                }
            }
        }
        if self.supply_due {
            self.supply_lanes();
        }
        for lane in &mut self.lanes {
            lane.ring();
        }
        for (queue, counters) in self.queues.iter_mut().zip(&self.counters.ports) {
            if let Some(queue) = queue
                && queue.service(self.token, &self.shared.pool, counters)
            {
                packets += 1;
            }
        }
        packets
    }

    /// Takes bursts from a port. Where packets go to a process, several: what a turn costs at the rings, mostly lines that the
    /// other core wrote last, is then shared by more packets.
    #[inline]
    fn receive_several(&mut self, at: usize) -> usize {
        let bursts = self.sources[at].bursts;
        let mut packets = 0;
        for _ in 0..bursts {
            let n = self.receive(at);
            packets += n;
            if n < RECEIVE_BURST {
                break;
            }
        }
        packets
    }

    /// Takes a burst from a port into its chain, unless the chain is full.
    #[inline]
    fn receive(&mut self, at: usize) -> usize {
        let source = &self.sources[at];
        if !source.open {
            return 0;
        }
        let port = source.port;
        let counters = &self.counters.ports[usize::from(port)];
        let full = source.is_full(&self.in_flight, self.shared.budget);
        if full || (self.shared.lockstep && !self.is_still()) {
            counters.held_back_polls.add(1);
            return 0;
        }
        let mut descriptors = [Descriptor::default(); RECEIVE_BURST];
        let Some(queue) = &mut self.queues[usize::from(port)] else { return 0 };
        let n = queue.receive(self.token, &self.shared.pool, &mut descriptors);
        if n == 0 {
            return 0;
        }
        let burst = &mut descriptors[..n];
        let mut bytes = 0;
        for descriptor in burst.iter() {
            bytes += u64::from(descriptor.length);
            self.buffers.prefetch(descriptor);
        }
        counters.received_pkts.add(n as u64);
        counters.received_bytes.add(bytes);
        if self.shared.lockstep {
            self.set_clock();
        }
        match self.sources[at].entries[..] {
            [only] if matches!(self.sources[at].steering, Steering::None) => self.enter(only, burst),
            _ => self.steer(at, burst),
        }
        n
    }

    /// Whether every packet that functions have is one they hold on purpose: the next burst of a lockstep run may come.
    #[cold]
    fn is_still(&self) -> bool {
        self.lanes.iter().all(|l| u64::from(l.in_flight) <= l.control.held().load(Ordering::Acquire))
    }

    /// Time stands at the packets' time.
    #[cold]
    fn set_clock(&mut self) {
        let now_ns = self.shared.clock.load(Ordering::Relaxed);
        for hop in &mut self.hops {
            if let Place::Inline(inline) = &mut hop.place {
                inline.state.set_logical_clock(now_ns);
            }
        }
        for lane in &self.lanes {
            lane.control.clock_ns().store(now_ns, Ordering::Relaxed);
        }
    }

    /// Ten times a second: the functions' own time, supplies, device counters.
    fn tick(&mut self) {
        for hop in 0..self.hops.len() as u16 {
            self.tick_inline(hop);
        }
        self.supply_lanes();
        self.end_drained_lanes();
        self.forget_diverted();
        self.count_queues();
        let at_end = self.queues.iter().flatten().all(Queue::at_end);
        if self.shared.lockstep && at_end && self.awaited.is_empty() && self.is_still() {
            self.counters.finished.set(1);
        }
    }

    fn count_queues(&self) {
        for (queue, counters) in self.queues.iter().zip(&self.counters.ports) {
            if let Some(queue) = queue {
                queue.count(counters);
            }
        }
    }

    fn tick_inline(&mut self, hop: u16) {
        let Place::Inline(inline) = &mut self.hops[usize::from(hop)].place else { return };
        let Some(function) = &mut inline.function else { return };
        inline.state.begin();
        let mut view = Burst::new(&self.buffers, &mut [], &mut inline.state);
        if catch_unwind(AssertUnwindSafe(|| function.tick(&mut view))).is_err() {
            inline.function = None;
            self.counters.hops[usize::from(hop)].failed.set(1);
        }
        inline.init.flush_fast_path();
        self.top_up(hop);
        self.after_emission(hop);
        self.drop_abandoned(hop);
    }

    /// Carries out what the control thread asked for; true: quit.
    #[cold]
    fn obey(&mut self) -> bool {
        self.called.store(false, Ordering::Relaxed);
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Attach { hop, replica, holder, control, event, done } => {
                    self.attach((hop, replica, holder), control, event, done);
                }
                Command::Detach { hop, replica, drain, done } => self.detach(hop, replica, drain, Some(done)),
                Command::Reconfigure { hop, made, done } => {
                    self.reconfigure(hop, *made);
                    let _ = done.send(());
                }
                Command::Report { hop, done } => {
                    let Place::Inline(inline) = &self.hops[usize::from(hop)].place else { continue };
                    let report = inline.function.as_ref().map_or(serde_json::Value::Null, |f| f.report());
                    let _ = done.send(report);
                }
                Command::Steer { port, rules, done } => {
                    for source in self.sources.iter_mut().filter(|source| source.port == port) {
                        if let Steering::Rules(old) | Steering::Marked(old) = &mut source.steering {
                            *old = Arc::clone(&rules);
                        }
                    }
                    let _ = done.send(());
                }
                Command::Divert { flows, done } => {
                    self.divert(&flows);
                    let _ = done.send(());
                }
                Command::TakeQueue { port, done } => {
                    let queue = self.queues.get_mut(usize::from(port)).and_then(Option::take);
                    let _ = done.send(queue);
                }
                Command::GiveQueue { port, queue } => {
                    if let Some(place) = self.queues.get_mut(usize::from(port)) {
                        *place = Some(queue);
                    }
                }
                Command::StopReceiving => self.receiving = false,
                Command::Quit => return true,
            }
        }
        false
    }

    fn reconfigure(&mut self, hop: u16, made: Made) {
        let Place::Inline(inline) = &mut self.hops[usize::from(hop)].place else { return };
        if let Some(previous) = inline.function.replace(made.function)
            && let Some(function) = &mut inline.function
        {
            function.inherit(previous);
        }
        made.init.continue_from(&inline.init);
        inline.init = made.init;
        self.counters.hops[usize::from(hop)].failed.set(0);
        self.drop_abandoned(hop);
    }

    /// Everything comes back: what functions hold, what they were lent.
    fn finish(mut self) -> Vec<Option<Queue>> {
        while let Some(lane) = self.lanes.pop() {
            self.reclaim(&lane, HopDrop::Stopped);
            if let Some(done) = lane.draining.and_then(|d| d.done) {
                let _ = done.send(());
            }
        }
        for hop in 0..self.hops.len() as u16 {
            if let Place::Inline(inline) = &mut self.hops[usize::from(hop)].place {
                inline.function = None;
                let spare: Vec<u32> = inline.state.spare.drain(..).map(|d| d.index).collect();
                self.shared.pool.free(self.token, &spare);
                self.counters.hops[usize::from(hop)].lent.set(0);
                self.drop_abandoned(hop);
            }
        }
        self.count_queues();
        std::mem::take(&mut self.queues)
    }
}

/// Whether a chain takes no more from its ports until functions have given packets back.
#[inline]
fn is_full(in_flight: &[u32], chain: u16, budget: u32) -> bool {
    in_flight[usize::from(chain)] + BURST as u32 > budget
}
