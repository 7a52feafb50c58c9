//! The data plane from start to stop, as the control thread holds it.

use crate::command::Command;
use crate::counters::WorkerCounters;
use crate::graph::Graph;
use crate::open::{Opened, Opener, Ports, XdpOpener};
use crate::port::{Clock, Queue};
use crate::steering::Steered;
use crate::watch::Watch;
use crate::worker::{AskedFlows, HopParts, Parts, Shared, Worker};
use crate::{ManagerError, sentence};
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use middlenet_dpdk::{Eal, EalConfig, Launched, LogLevel, Memory, Pool, PoolConfig, tsc};
use middlenet_plan::{ManagerPlan, Placement, PortKind};
use middlenet_sdk::fast_path::FastPath;
use middlenet_sdk::{Counter, CounterInfo, DropReasonInfo, PortInfo, Registration};
use middlenet_shm::{Buffers, ControlGeometry, ControlRegion, Ledger, Region};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// DPDK's own memory when there are no huge pages, in MiB: mbuf headers, device state.
const NO_HUGE_MIB: u32 = 256;
/// How long a worker may take for a command. It answers between two bursts; more means that it is stuck.
pub(crate) const COMMAND_LIMIT: Duration = Duration::from_secs(5);

/// Bursts in which inline functions steered flows, waiting for the control thread.
const STEERED_BURSTS: usize = 256;

/// How many of these bursts are dealt with at once.
const STEERED_PER_LOOK: usize = 16;

/// Pauses between restarts of an inline function that panics again and again.
const MEND_MIN: Duration = Duration::from_millis(100);
pub(crate) const MEND_MAX: Duration = Duration::from_secs(5);

/// The counters of one inline function on one worker.
pub(crate) type InlineCounters = Vec<(CounterInfo, Counter)>;

pub(crate) struct Thread {
    launched: Launched<Vec<Option<Queue>>>,
    commands: Sender<Command>,
    called: Arc<AtomicBool>,
    event: Arc<EventFd>,
    ended: Arc<AtomicBool>,
}

/// Says that a worker has come to its end, however it did.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Ports open, workers at work.
pub(crate) struct Running {
    pub(crate) plan: ManagerPlan,
    pub(crate) started: Instant,
    pub(crate) tsc_hz: u64,
    pub(crate) opened: Vec<Opened>,
    /// By port: its steering rules.
    pub(crate) steered: Vec<Option<Steered>>,
    /// By port.
    pub(crate) watches: Vec<Watch>,
    pub(crate) xdp: XdpOpener,
    pub(crate) counters: Vec<Arc<WorkerCounters>>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) infos: Vec<PortInfo>,
    /// Some of `infos` are others than the runtime was told.
    pub(crate) infos_changed: bool,
    pub(crate) notes: Vec<String>,
    /// By hop, then by worker.
    pub(crate) inline: Vec<Vec<InlineCounters>>,
    /// The fast paths of inline functions: by hop, then by worker.
    pub(crate) fast_paths: Vec<Vec<FastPath>>,
    /// The drop reasons that inline functions declared, by hop.
    pub(crate) reasons: Vec<Vec<DropReasonInfo>>,
    /// The ledger's name for each attached instance: by hop, then by replica.
    pub(crate) holders: Vec<Vec<Option<u16>>>,
    next_holder: u16,
    pub(crate) registry: &'static [Registration],
    /// When a hop whose inline function panicked may be mended next, and how long to wait after that.
    pub(crate) mending: Vec<(Instant, Duration)>,
    pub(crate) threads: Vec<Thread>,
    /// Flows that inline functions steer.
    asked: (Sender<AskedFlows>, Receiver<AskedFlows>),
    eal: Eal,
}

impl Running {
    /// Opens everything and starts the workers.
    pub(crate) fn start(
        plan: ManagerPlan,
        region: OwnedFd,
        registry: &'static [Registration],
    ) -> Result<Self, ManagerError> {
        let memory_error = |e| ManagerError::new(format!("the packets region cannot be used: {e}"));
        let region = Arc::new(Region::open(region).map_err(memory_error)?);
        let huge = region.page_bytes() > 4096;
        let buffers = Buffers::new(region, plan.buffer_bytes).map_err(memory_error)?;
        let eal = start_eal(&plan, huge)?;
        let pool = Pool::create(&eal, buffers, &PoolConfig::default())
            .map_err(|e| ManagerError::new(format!("the packet pool cannot be made: {e}")))?;
        let clock = Clock::default();
        let Ports { opened, infos, mut notes, queues, tables, xdp } =
            Opener::new(&eal, &pool, plan.workers.len(), Arc::clone(&clock)).open(&plan)?;
        if !huge && !plan.unprivileged {
            notes
                .push("no huge pages: packet memory is on 4 KiB pages, which costs up to a quarter of the rate".into());
        }
        let with_tables = opened.iter().zip(tables);
        let steered = (0..).zip(with_tables).map(|(id, (o, tables))| Steered::of(&plan, id, o, tables)).collect();
        let shared = Arc::new(Shared {
            ledger: Ledger::new(pool.count()),
            graph: Graph::new(&plan),
            wait: plan.wait,
            shares_core: plan.shares_core,
            // A ring holds one less than its slots.
            budget: plan.ring_slots - 1,
            lockstep: plan.lockstep,
            clock,
            tsc_hz: tsc::hz(&eal),
            pool: Arc::clone(&pool),
        });
        let mut running = Self {
            started: Instant::now(),
            tsc_hz: shared.tsc_hz,
            xdp,
            watches: opened.iter().map(|_| Watch::new()).collect(),
            opened,
            steered,
            counters: Vec::new(),
            pool,
            infos,
            infos_changed: false,
            notes,
            inline: plan.hops.iter().map(|_| Vec::new()).collect(),
            fast_paths: plan.hops.iter().map(|_| Vec::new()).collect(),
            reasons: plan.hops.iter().map(|_| Vec::new()).collect(),
            holders: plan.hops.iter().map(|hop| vec![None; usize::from(hop.replicas)]).collect(),
            next_holder: 1,
            registry,
            mending: plan.hops.iter().map(|_| (Instant::now(), MEND_MIN)).collect(),
            threads: Vec::new(),
            asked: bounded(STEERED_BURSTS),
            eal,
            plan,
        };
        for (worker, queues) in queues.into_iter().enumerate() {
            running.start_worker(worker, queues, &shared)?;
        }
        Ok(running)
    }

    fn start_worker(
        &mut self,
        worker: usize,
        queues: Vec<Option<Queue>>,
        shared: &Arc<Shared>,
    ) -> Result<(), ManagerError> {
        let system = |e: &dyn std::fmt::Display| ManagerError::new(format!("worker {worker} cannot be started: {e}"));
        let counters = Arc::new(WorkerCounters::new(self.plan.hops.len(), self.plan.ports.len()));
        let mut hops = Vec::new();
        for hop in 0..self.plan.hops.len() {
            let inline = match self.plan.hops[hop].placement {
                Placement::Process => None,
                Placement::Inline => {
                    let fast_path = self.open_fast_path(hop, worker as u16)?;
                    self.fast_paths[hop].push(fast_path);
                    let made = self.make(hop, worker, self.plan.hops[hop].config.clone(), false)?;
                    made.init.begin();
                    self.inline[hop].push(made.init.counters().to_vec());
                    self.reasons[hop] = made.init.drop_reasons().to_vec();
                    Some(made)
                }
            };
            let plan = &self.plan.hops[hop];
            let processes = if inline.is_some() { 0 } else { plan.replicas };
            hops.push(HopParts { on_failure: plan.on_failure, processes, inline });
        }
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(|e| system(&e))?;
        let event = Arc::new(event);
        let (sender, commands) = unbounded();
        let called = Arc::new(AtomicBool::new(false));
        let parts = Parts {
            shared: Arc::clone(shared),
            id: worker as u8,
            counters: Arc::clone(&counters),
            queues,
            steering: self.steered.iter().map(|steered| Steered::of_worker(steered.as_ref())).collect(),
            hops,
            chains: self.plan.chains.len(),
            commands,
            called: Arc::clone(&called),
            event: event.as_fd().try_clone_to_owned().map_err(|e| system(&e))?,
            steered: self.asked.0.clone(),
        };
        let lcore = self.eal.workers()[worker];
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Ending(Arc::clone(&ended));
        let work = move |token: &middlenet_dpdk::Worker| {
            let _ending = ending;
            Worker::new(token, parts).run()
        };
        let launched = self.eal.launch(lcore, work).map_err(|e| system(&e))?;
        self.counters.push(counters);
        self.threads.push(Thread { launched, commands: sender, called, event, ended });
        Ok(())
    }

    /// The eventfds of the workers, for functions' doorbells.
    pub(crate) fn events(&self) -> Vec<BorrowedFd<'_>> {
        self.threads.iter().map(|thread| thread.event.as_fd()).collect()
    }

    /// A worker that has ended though nobody told it to: it panicked.
    pub(crate) fn dead_worker(&self) -> Option<usize> {
        self.threads.iter().position(|thread| thread.ended.load(Ordering::Acquire))
    }

    /// Returns buffers to the pool from the control thread.
    pub(crate) fn free_from_control(&self, buffers: &[u32]) {
        self.pool.free(&self.eal.main_worker(), buffers);
    }

    pub(crate) fn send(&self, worker: usize, command: Command) {
        let thread = &self.threads[worker];
        // That a worker is gone the control thread finds out by itself.
        let _ = thread.commands.send(command);
        thread.called.store(true, Ordering::Release);
        let _ = thread.event.write(1);
    }

    /// Sends a command to every worker and waits until all have carried it out.
    pub(crate) fn all(
        &self,
        mut command: impl FnMut(usize, Sender<()>) -> Result<Command, ManagerError>,
    ) -> Result<(), ManagerError> {
        let mut answers = Vec::new();
        for worker in 0..self.threads.len() {
            let (done, answer) = bounded(1);
            self.send(worker, command(worker, done)?);
            answers.push(answer);
        }
        for answer in answers {
            answer.recv_timeout(COMMAND_LIMIT).map_err(|_| ManagerError::new("a worker does not answer"))?;
        }
        Ok(())
    }

    /// Gives an instance its traffic.
    pub(crate) fn attach(&mut self, hop: u16, replica: u16, control: OwnedFd) -> Result<(), ManagerError> {
        self.check(hop, replica)?;
        let geometry = ControlGeometry { workers: self.threads.len() as u16, slots: self.plan.ring_slots };
        let control = ControlRegion::adopt(control, geometry)
            .map_err(|e| ManagerError::new(format!("the control region of hop {hop} cannot be used: {e}")))?;
        let control = Arc::new(control);
        let holder = self.next_holder;
        self.next_holder = self.next_holder.checked_add(1).unwrap_or(1);
        self.all(|worker, done| {
            let event = self.threads[worker].event.as_fd().try_clone_to_owned();
            let event = event.map_err(|e| ManagerError::new(format!("out of descriptors: {e}")))?;
            Ok(Command::Attach { hop, replica, holder, control: Arc::clone(&control), event, done })
        })?;
        self.holders[usize::from(hop)][usize::from(replica)] = Some(holder);
        Ok(())
    }

    /// Takes an instance's traffic away, and what it holds.
    pub(crate) fn detach(&mut self, hop: u16, replica: u16, drain: bool) -> Result<(), ManagerError> {
        self.check(hop, replica)?;
        self.holders[usize::from(hop)][usize::from(replica)] = None;
        self.all(|_, done| Ok(Command::Detach { hop, replica, drain, done }))
    }

    fn check(&self, hop: u16, replica: u16) -> Result<(), ManagerError> {
        let known = self.plan.hops.get(usize::from(hop));
        match known.filter(|h| h.placement == Placement::Process && replica < h.replicas) {
            Some(_) => Ok(()),
            None => Err(ManagerError::new(format!("hop {hop} has no replica {replica} that is a process"))),
        }
    }

    /// Whether inline functions may steer flows.
    pub(crate) fn steers_inline(&self) -> bool {
        self.plan.hops.iter().any(|hop| hop.placement == Placement::Inline && !hop.steering.is_empty())
    }

    /// Steers what inline functions asked for since the last call.
    pub(crate) fn steer_asked(&mut self) {
        // Some at a time: the runtime has its questions as well.
        for (hop, flows) in self.asked.1.try_iter().take(STEERED_PER_LOOK).collect::<Vec<_>>() {
            if let Err(e) = self.steer_flows(hop, &flows) {
                eprintln!("middlenet-nf-manager: {e}");
            }
        }
    }

    /// Whether a lockstep run has come to its end.
    pub(crate) fn finished(&self) -> bool {
        self.counters.iter().all(|worker| worker.finished.get() > 0)
    }

    /// Stops receiving, waits for packets under way, stops the workers and closes the ports.
    pub(crate) fn stop(mut self, drain: Duration) -> Result<middlenet_plan::Stats, ManagerError> {
        for worker in 0..self.threads.len() {
            self.send(worker, Command::StopReceiving);
        }
        let deadline = Instant::now() + drain;
        // Workers publish what functions hold ten times a second; two rounds of nothing are nothing.
        let mut quiet = 0;
        while quiet < 2 && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(110).min(drain));
            quiet = if self.stats(false).conservation.held_pkts == 0 { quiet + 1 } else { 0 };
        }
        for worker in 0..self.threads.len() {
            self.send(worker, Command::Quit);
        }
        let token = self.eal.main_worker();
        for thread in std::mem::take(&mut self.threads) {
            let queues = thread.launched.join().map_err(|_| ManagerError::new("a worker panicked"))?;
            for queue in queues.into_iter().flatten() {
                if let Queue::Xdp(queues) = queue {
                    for queue in queues {
                        self.pool.free(&token, &queue.close());
                    }
                }
            }
        }
        for counters in self.counters.iter().flat_map(|worker| &worker.ports) {
            counters.buffers.set(0);
        }
        let kinds: Vec<String> = self.opened.iter().map(Opened::kind).collect();
        // Closing a device gives its buffers back.
        for opened in std::mem::take(&mut self.opened) {
            if let Opened::Dpdk { flows, mut port } = opened {
                drop(flows);
                port.stop().map_err(|e| sentence(port.name(), &e))?;
            }
        }
        let mut stats = self.stats(false);
        stats.ports.iter_mut().zip(kinds).for_each(|(port, kind)| port.kind = kind);
        Ok(stats)
    }
}

fn start_eal(plan: &ManagerPlan, huge: bool) -> Result<Eal, ManagerError> {
    let cpus = nix::sched::sched_getaffinity(nix::unistd::Pid::from_raw(0))
        .map_err(|e| ManagerError::new(format!("the process's cores cannot be told: {e}")))?;
    let main_cpus = (0..nix::sched::CpuSet::count())
        .filter(|&cpu| cpus.is_set(cpu).unwrap_or(false))
        .filter_map(|cpu| u32::try_from(cpu).ok())
        .collect();
    let pci = plan.ports.iter().filter_map(|port| match &port.kind {
        PortKind::Dpdk { device } if is_pci_address(device) => Some(device.clone()),
        _ => None,
    });
    let memory = if huge { Memory::HugePages { limit_mib: None } } else { Memory::NoHuge { mib: NO_HUGE_MIB } };
    let config = EalConfig {
        program: "middlenet-nf-manager".into(),
        main_cpus,
        worker_cpus: plan.workers.iter().map(|&core| core as u32).collect(),
        memory,
        in_memory: true,
        pci: pci.collect(),
        vdevs: Vec::new(),
        log_level: LogLevel::Error,
    };
    Eal::init(&config).map_err(|e| {
        ManagerError::new(format!("DPDK does not start: {e}")).hint("`middlenet doctor` tells what the host lacks")
    })
}

/// `0000:01:00.0` or `01:00.0`.
fn is_pci_address(device: &str) -> bool {
    let Some((rest, function)) = device.rsplit_once('.') else { return false };
    let hex = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_hexdigit());
    function.len() == 1 && hex(function) && rest.split(':').count() >= 2 && rest.split(':').all(hex)
}

#[cfg(test)]
mod tests {
    #[test]
    fn pci_addresses() {
        assert!(super::is_pci_address("0000:01:00.0") && super::is_pci_address("01:00.1"));
        assert!(!super::is_pci_address("net_null0,size=64") && !super::is_pci_address("net_pcap0,rx_pcap=a.0"));
    }
}
