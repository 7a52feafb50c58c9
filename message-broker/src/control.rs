//! The control thread: the runtime's requests, one answer each.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use middlenet_bpf::{KeySet, Skmsg};
use middlenet_plan::{BrokerPlan, Declared, Reply, Request, Transport};
use middlenet_sdk::middlebox::Board;
use middlenet_sdk::{Channel, ChannelError, Init, Registration};
use middlenet_shm::{ControlGeometry, ControlRegion};
use rustix::net::Shutdown;

use crate::counters::WorkerCounters;
use crate::custody::Custody;
use crate::health::Checks;
use crate::hop::Instance;
use crate::upstream::Upstream;
use crate::worker::{Command, Servers};

/// How often lost wake-ups are counted.
const LOOK: Duration = Duration::from_millis(500);
/// So many lost wake-ups within [`LOST_WITHIN`] end the trust in SK_MSG.
const LOST_LIMIT: u64 = 5;
const LOST_WITHIN: Duration = Duration::from_secs(10);
/// How long a group may be on its way in the kernel.
const SETTLE: Duration = Duration::from_millis(20);
/// How long a worker may take to obey; its turns are short.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the broker cannot do what it is asked: one sentence and perhaps a remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BrokerError {
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
}

impl BrokerError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A worker as the control thread knows it.
pub(crate) struct WorkerHandle {
    pub(crate) commands: Sender<(Command, Sender<()>)>,
    /// What functions call the worker by.
    pub(crate) called: Arc<OwnedFd>,
    /// What it is called by for a command, out of the functions' reach.
    pub(crate) bell: OwnedFd,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Asks a worker and waits until it has obeyed.
    pub(crate) fn ask(&self, command: Command) -> bool {
        let (done, obeyed) = bounded(1);
        if self.commands.send((command, done)).is_err() {
            return false;
        }
        // It looks for commands ten times a second in any case.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
        obeyed.recv_timeout(PATIENCE).is_ok()
    }
}

/// An instance of a process hop as the control thread knows it.
pub(crate) struct Attached {
    pub(crate) key: u8,
    pub(crate) control: Arc<ControlRegion>,
    peer: Option<Arc<OwnedFd>>,
    /// What the filter had refused to earlier owners of the key.
    before: Refusals,
}

/// Refusals of the filter by reason.
pub(crate) type Refusals = BTreeMap<&'static str, u64>;

/// A hop as the control thread knows it.
#[derive(Default)]
pub(crate) struct HopControl {
    /// By replica.
    pub(crate) instances: Vec<Option<Attached>>,
    /// What the filter refused to instances that are gone.
    pub(crate) refused: Refusals,
}

/// Everything at work.
pub(crate) struct Broker {
    pub(crate) plan: BrokerPlan,
    pub(crate) registry: &'static [Registration],
    pub(crate) workers: Vec<WorkerHandle>,
    pub(crate) hops: Vec<HopControl>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) custody: Custody,
    pub(crate) skmsg: Option<Arc<Skmsg>>,
    /// What was given up: functions and workers still have to read what is on its way in there.
    pub(crate) given_up: Option<Arc<Skmsg>>,
    /// `works`, or why it is not used.
    pub(crate) skmsg_state: String,
    pub(crate) listening: Vec<(u16, String)>,
    pub(crate) checks: Checks,
    pub(crate) began: Instant,
    pub(crate) notes: Vec<String>,
    /// Keys of functions given out so far, so that one is not soon used again.
    pub(crate) next_key: u8,
    /// When lost wake-ups were first seen, and how many there were before.
    pub(crate) lost_since: Option<(Instant, u64)>,
}

/// Serves the runtime until it stops the broker or is gone.
///
/// # Errors
/// When the control socket fails.
pub fn serve(channel: &Channel, registry: &'static [Registration]) -> Result<(), ChannelError> {
    let mut broker: Option<Broker> = None;
    let mut looked = Instant::now();
    loop {
        while let Some(broker) = &mut broker {
            let readable = channel.readable(LOOK.saturating_sub(looked.elapsed()))?;
            // Also when somebody asks for statistics without pause.
            if looked.elapsed() >= LOOK {
                if broker.has_lost_a_worker() {
                    // Started anew, it serves again; like this it would only seem to.
                    return Err(std::io::Error::other("a worker has ended before its time").into());
                }
                broker.watch_wakeups();
                looked = Instant::now();
            }
            if readable {
                break;
            }
        }
        let (request, fds): (Request, Vec<OwnedFd>) = match channel.receive() {
            Ok(received) => received,
            Err(ChannelError::Form(e)) => {
                let message = format!("a request could not be read: {e}");
                channel.send(&Reply::Failed { message, hint: None }, &[])?;
                continue;
            }
            Err(e) => {
                if let Some(mut broker) = broker.take() {
                    broker.stop(Duration::ZERO);
                }
                return if matches!(e, ChannelError::Closed) { Ok(()) } else { Err(e) };
            }
        };
        let stopping = matches!(request, Request::Stop { .. });
        match carry_out(request, fds, &mut broker, registry) {
            Ok(reply) => {
                let called: Vec<BorrowedFd<'_>> = match (&reply, &broker) {
                    (Reply::Started { .. }, Some(broker)) => broker.workers.iter().map(|w| w.called.as_fd()).collect(),
                    _ => Vec::new(),
                };
                channel.send(&reply, &called)?;
            }
            Err(e) => channel.send(&Reply::Failed { message: e.message, hint: e.hint }, &[])?,
        }
        if stopping {
            return Ok(());
        }
    }
}

fn carry_out(
    request: Request,
    fds: Vec<OwnedFd>,
    broker: &mut Option<Broker>,
    registry: &'static [Registration],
) -> Result<Reply, BrokerError> {
    let mut fds = fds.into_iter();
    if let Request::StartBroker { plan } = request {
        if broker.is_some() {
            return Err(BrokerError::new("the broker runs already"));
        }
        let region = fds.next().ok_or_else(|| BrokerError::new("the start request came without its region"))?;
        let started = Broker::start(plan, region, registry)?;
        let reply = Reply::Started { ports: Vec::new(), notes: started.notes.clone() };
        *broker = Some(started);
        return Ok(reply);
    }
    let Some(at_work) = broker.as_mut() else {
        return match request {
            Request::Stop { .. } => Ok(Reply::BrokerStopped(Box::default())),
            _ => Err(BrokerError::new("the broker has not been started")),
        };
    };
    match request {
        Request::Start { .. } => Err(BrokerError::new("chains of layer l2l3 are the nf-manager's")),
        Request::StartBroker { .. } => Err(BrokerError::new("the broker runs already")),
        Request::Attach { hop, replica, declared } => {
            let control = fds.next().ok_or_else(|| BrokerError::new("the attach request came without its region"))?;
            let sockets = fds.next().zip(fds.next());
            at_work.attach(hop.into(), replica.into(), control, sockets, &declared.unwrap_or_default())?;
            Ok(Reply::Done)
        }
        Request::Detach { hop, replica, drain } => {
            at_work.detach(hop.into(), replica.into(), drain)?;
            Ok(Reply::Done)
        }
        Request::Steer { .. } | Request::SteerFlows { .. } => {
            Err(BrokerError::new("packets are steered by the nf-manager"))
        }
        Request::Reconfigure { hop, config } => at_work.reconfigure(hop.into(), &config).map(|()| Reply::Done),
        Request::Stats => Ok(Reply::BrokerStats(Box::new(at_work.stats()))),
        Request::Stop { drain_ms } => {
            at_work.stop(Duration::from_millis(drain_ms));
            Ok(Reply::BrokerStopped(Box::new(at_work.stats())))
        }
    }
}

impl Broker {
    fn place(&self, hop: usize, replica: usize) -> Result<(), BrokerError> {
        let plan = self.plan.hops.get(hop).ok_or_else(|| BrokerError::new(format!("there is no hop {hop}")))?;
        if plan.transport == Transport::Inline || replica >= usize::from(plan.replicas) {
            return Err(BrokerError::new(format!("`{}` has no replica {replica} that is a process", plan.name)));
        }
        Ok(())
    }

    fn attach(
        &mut self,
        hop: usize,
        replica: usize,
        control: OwnedFd,
        sockets: Option<(OwnedFd, OwnedFd)>,
        declared: &Declared,
    ) -> Result<(), BrokerError> {
        self.place(hop, replica)?;
        let geometry = ControlGeometry { workers: self.workers.len() as u16, slots: self.plan.ring_slots };
        let control = ControlRegion::adopt(control, geometry).map_err(|e| BrokerError::new(e.to_string()))?;
        let control = Arc::new(control);
        if declared.upstreams.len() > middlenet_shm::BOARD {
            return Err(BrokerError::new(format!("it declares more than {} upstreams", middlenet_shm::BOARD)));
        }
        let ids = self.upstreams_of(hop, &declared.upstreams)?;
        let upstreams = Servers { ids, alike: declared.alike };
        let key = self.free_key()?;
        let mut peer = None;
        if let (Some(skmsg), Some((socket, other))) = (&self.skmsg, sockets) {
            skmsg
                .enter(key, socket.as_fd())
                .map_err(|e| BrokerError::new(format!("the function's socket was not taken: {e}")))?;
            // The function's own end must be its alone: when it dies, the socket is to close.
            drop(socket);
            peer = Some(Arc::new(other));
        }
        // With an instance there already, it drains: the workers keep it until it has returned everything.
        self.forget(hop, replica);
        let skmsg = peer.is_some();
        let before = self.refusals_of(key);
        let attached = Attached { key, control: control.clone(), peer: peer.clone(), before };
        self.hops[hop].instances[replica] = Some(attached);
        self.set_edges();
        for (number, worker) in self.workers.iter().enumerate() {
            let ends = || -> Result<Instance, middlenet_shm::ShmError> {
                let number = number as u16;
                Ok(Instance {
                    key,
                    board: Board::Shared(control.clone()),
                    to: control.to_function_producer(number)?,
                    from: control.from_function_consumer(number)?,
                    bell: control.function_doorbell(),
                    own_bell: control.manager_doorbell(number, None)?,
                    skmsg,
                    to_ring: false,
                    peer: peer.clone(),
                })
            };
            let instance = Box::new(ends().map_err(|e| BrokerError::new(e.to_string()))?);
            let upstreams = upstreams.clone();
            if !worker.ask(Command::Attach { hop, replica, instance, interests: declared.interests, upstreams }) {
                return Err(BrokerError::new("a worker does not answer"));
            }
        }
        Ok(())
    }

    fn detach(&mut self, hop: usize, replica: usize, drain: bool) -> Result<(), BrokerError> {
        self.place(hop, replica)?;
        if let Some(gone) = self.forget(hop, replica)
            && !drain
            && let Some(skmsg) = &self.skmsg
        {
            // Its death has removed it already, as a rule.
            let _ = skmsg.remove(gone.key);
        }
        for worker in &self.workers {
            worker.ask(Command::Detach { hop, replica, drain });
        }
        Ok(())
    }

    /// Lets go of an instance; what was refused to it stays with the hop.
    fn forget(&mut self, hop: usize, replica: usize) -> Option<Attached> {
        let gone = self.hops[hop].instances[replica].take()?;
        for (reason, n) in self.refusals(&gone) {
            *self.hops[hop].refused.entry(reason).or_default() += n;
        }
        Some(gone)
    }

    /// What the filter has refused to an instance.
    pub(crate) fn refusals(&self, instance: &Attached) -> Refusals {
        let mut now = self.refusals_of(instance.key);
        for (reason, n) in &mut now {
            *n -= instance.before.get(reason).copied().unwrap_or(0).min(*n);
        }
        now
    }

    fn refusals_of(&self, key: u8) -> Refusals {
        let skmsg = self.skmsg.as_ref().or(self.given_up.as_ref());
        let counters = skmsg.and_then(|skmsg| skmsg.counters(key).ok());
        counters.iter().flat_map(|counters| counters.refusals()).filter(|(_, n)| *n > 0).collect()
    }

    /// The upstreams by these addresses in a hop's chain; those that are new begin to be checked.
    pub(crate) fn upstreams_of(&mut self, hop: usize, addresses: &[String]) -> Result<Vec<usize>, BrokerError> {
        let chain = self.plan.hops[hop].chain;
        let before = self.upstreams.len();
        let ids = addresses.iter().map(|a| self.upstream(chain, a)).collect::<Result<Vec<_>, _>>()?;
        if self.upstreams.len() > before {
            for worker in &self.workers {
                worker.ask(Command::Upstreams(self.upstreams.clone()));
            }
        }
        Ok(ids)
    }

    /// The upstream of that address in that chain, made if it is new.
    pub(crate) fn upstream(&mut self, chain: u16, address: &str) -> Result<usize, BrokerError> {
        let parsed = address.parse().map_err(|_| {
            BrokerError::new(format!("the upstream `{address}` is not an address and port"))
                .with_hint("write `10.0.0.1:80` or `[2001:db8::1]:80`")
        })?;
        if let Some(at) = self.upstreams.iter().position(|u| u.chain == chain && u.address == parsed) {
            return Ok(at);
        }
        let settings = self.plan.chains[usize::from(chain)].upstream.health.clone();
        let upstream = Arc::new(Upstream::new(parsed, chain, settings));
        self.checks.watch(&upstream);
        self.upstreams.push(upstream);
        Ok(self.upstreams.len() - 1)
    }

    fn free_key(&mut self) -> Result<u8, BrokerError> {
        let workers = self.workers.len() as u8;
        let used = |key: u8| self.hops.iter().flat_map(|h| &h.instances).flatten().any(|i| i.key == key);
        let span = u8::MAX - workers;
        for _ in 0..span {
            let key = self.next_key;
            self.next_key = if key + 1 == u8::MAX { workers } else { key + 1 };
            let free = !used(key) && self.skmsg.as_ref().is_none_or(|s| !s.has_socket(key));
            if free {
                return Ok(key);
            }
        }
        Err(BrokerError::new("there are more function processes than a broker has keys for"))
    }

    /// Allows what the manifest allows: within a chain from hop to hop, and home.
    fn set_edges(&self) {
        let Some(skmsg) = &self.skmsg else { return };
        let workers = 0..self.workers.len() as u8;
        let all = || {
            let hops = self.hops.iter().enumerate();
            hops.flat_map(|(hop, control)| control.instances.iter().flatten().map(move |i| (hop, i.key)))
        };
        let mut to_functions = KeySet::new();
        all().for_each(|(_, key)| to_functions.insert(key));
        for worker in workers.clone() {
            let _ = skmsg.set_edges(worker, &to_functions);
        }
        for (hop, key) in all() {
            let mut edges = KeySet::new();
            workers.clone().for_each(|worker| edges.insert(worker));
            let chain = self.plan.hops[hop].chain;
            let neighbours = all().filter(|&(other, _)| other != hop && self.plan.hops[other].chain == chain);
            neighbours.for_each(|(_, key)| edges.insert(key));
            let _ = skmsg.set_edges(key, &edges);
        }
    }

    fn reconfigure(&mut self, hop: usize, config: &serde_json::Value) -> Result<(), BrokerError> {
        let plan = self.plan.hops.get(hop).ok_or_else(|| BrokerError::new(format!("there is no hop {hop}")))?;
        if plan.transport != Transport::Inline {
            return Err(BrokerError::new(format!("`{}` is a process: the runtime changes it", plan.name)));
        }
        let registration = self.registry.iter().find(|r| r.name == plan.function);
        let registration =
            registration.ok_or_else(|| BrokerError::new(format!("there is no function `{}`", plan.function)))?;
        let outputs: Vec<String> = plan.outputs.iter().map(|(name, _)| name.clone()).collect();
        let mut made = Vec::new();
        for _ in &self.workers {
            let mut init = Init::new(Vec::new(), outputs.clone());
            let function = registration
                .create_middlebox(config.clone(), &mut init)
                .map_err(|e| BrokerError { message: e.message, hint: e.hint })?;
            made.push((function, init));
        }
        let addresses = made.first().map(|(_, init)| init.upstreams().to_vec()).unwrap_or_default();
        let alike = made.first().is_some_and(|(_, init)| init.are_upstreams_alike());
        let servers = Servers { ids: self.upstreams_of(hop, &addresses)?, alike };
        for (worker, (function, init)) in self.workers.iter().zip(made) {
            worker.ask(Command::Replace { hop, function, init: Box::new(init), upstreams: servers.clone() });
        }
        if let Some(plan) = self.plan.hops.get_mut(hop) {
            plan.config = config.clone();
        }
        Ok(())
    }

    /// Whether a worker has panicked: those that are told to stop are joined.
    fn has_lost_a_worker(&self) -> bool {
        self.workers.iter().any(|worker| worker.thread.as_ref().is_some_and(JoinHandle::is_finished))
    }

    /// Counts wake-ups that the kernel lost; several in a short time end the trust in SK_MSG.
    fn watch_wakeups(&mut self) {
        if self.skmsg.is_none() {
            return;
        }
        let workers: u64 = self.workers.iter().map(|w| w.counters.lost_wakeups.get()).sum();
        let instances = self.hops.iter().flat_map(|h| &h.instances).flatten();
        let told = instances.map(|i| u64::from(i.control.late_wakeups().load(std::sync::atomic::Ordering::Relaxed)));
        // One function alone is not believed, for it may write there what it likes.
        let mut told: Vec<u64> = told.collect();
        told.sort_unstable();
        told.pop();
        let lost = workers + told.iter().sum::<u64>();
        let now = Instant::now();
        let (since, before) = *self.lost_since.get_or_insert((now, lost));
        if lost >= before + LOST_LIMIT {
            self.use_rings("the kernel loses wake-ups of SK_MSG sockets");
        } else if lost < before || now.saturating_duration_since(since) > LOST_WITHIN {
            self.lost_since = Some((now, lost));
        }
    }

    /// Changes every hop on SK_MSG to rings, without a request lost.
    fn use_rings(&mut self, why: &str) {
        eprintln!("middlenet-message-broker: {why}: changing to rings");
        self.skmsg_state = format!("given up: {why}");
        for worker in &self.workers {
            worker.ask(Command::UseRings);
        }
        // Functions pass nothing on to each other any more, as who has seen the end of its connection would not read it.
        let home = (0..self.workers.len() as u8).fold(KeySet::new(), |mut home, worker| {
            home.insert(worker);
            home
        });
        for instance in self.hops.iter().flat_map(|h| &h.instances).flatten() {
            let _ = self.skmsg.as_ref().map(|skmsg| skmsg.set_edges(instance.key, &home));
        }
        // For groups that were allowed a moment ago.
        std::thread::sleep(SETTLE);
        for instance in self.hops.iter().flat_map(|h| &h.instances).flatten() {
            if let Some(peer) = &instance.peer {
                // The function reads what is left, sees the end, and turns to its rings.
                let _ = rustix::net::shutdown(peer, Shutdown::Both);
            }
        }
        self.given_up = self.skmsg.take();
    }

    /// Drains and ends the workers.
    fn stop(&mut self, patience: Duration) {
        for worker in &self.workers {
            worker.ask(Command::Stop(patience));
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                // A worker that panicked has said so.
                let _ = thread.join();
            }
        }
    }
}
