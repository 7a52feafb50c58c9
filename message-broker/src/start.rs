//! Starting: memory, SK_MSG, listeners, inline functions, workers.

use std::collections::VecDeque;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::unbounded;
use middlenet_bpf::{Filter, Skmsg};
use middlenet_http::{HeaderSpan, MAX_HEADERS};
use middlenet_plan::{BrokerPlan, Transport};
use middlenet_sdk::middlebox::{Interests, MESSAGE_BYTES};
use middlenet_sdk::protocol::Wait;
use middlenet_sdk::{Init, Registration};
use middlenet_shm::{Buffers, Region};
use rustix::event::{EventfdFlags, epoll, eventfd};

use crate::chain::Chain;
use crate::control::{Broker, BrokerError, HopControl, WorkerHandle};
use crate::counters::WorkerCounters;
use crate::custody::Custody;
use crate::health::Checks;
use crate::hop::{Hop, Inline, Place};
use crate::lane::SkmsgLane;
use crate::pool::Pool;
use crate::slab::{Key, Slab};
use crate::socket;
use crate::worker::{Listener, Origin, SCRATCH_BYTES, TICK, Worker, token};

/// Fewest buffers a worker can work with.
const BUFFERS_LOW: u32 = 16;

fn io(what: &str) -> impl Fn(std::io::Error) -> BrokerError + '_ {
    move |e| BrokerError::new(format!("{what}: {e}"))
}

impl Broker {
    /// Starts what the plan says.
    pub(crate) fn start(
        plan: BrokerPlan,
        region: OwnedFd,
        registry: &'static [Registration],
    ) -> Result<Self, BrokerError> {
        let region = Region::open(region).map_err(|e| BrokerError::new(e.to_string()))?;
        let buffers =
            Buffers::new(Arc::new(region), MESSAGE_BYTES as u32).map_err(|e| BrokerError::new(e.to_string()))?;
        let workers = plan.workers.len().max(1);
        let share = buffers.count().min(plan.buffers) / workers as u32;
        if share < BUFFERS_LOW {
            return Err(BrokerError::new(format!(
                "{} message buffers are too few for {workers} workers",
                plan.buffers
            ))
            .with_hint(format!("`memory: {{ messages: {} }}`", BUFFERS_LOW as usize * workers * 4)));
        }
        let began = Instant::now();
        let mut broker = Broker::new(plan, registry, buffers.count(), began)?;
        let listeners = broker.listen(workers)?;
        for chain in 0..broker.plan.chains.len() {
            for address in broker.plan.chains[chain].upstreams.clone() {
                broker.upstream(chain as u16, &address)?;
            }
        }
        let mut made = Vec::new();
        for (number, listeners) in listeners.into_iter().enumerate() {
            made.push(broker.worker(number as u8, listeners, &buffers, share, began)?);
        }
        // Upstreams are known when every worker's functions have declared theirs.
        for (number, mut worker) in made.into_iter().enumerate() {
            worker.idle.resize_with(broker.upstreams.len(), VecDeque::new);
            worker.readers.resize_with(broker.upstreams.len(), Vec::new);
            worker.upstreams.clone_from(&broker.upstreams);
            for hop in 0..worker.hops.len() {
                let list = worker.hops[hop].upstreams.clone();
                worker.read_upstreams(hop, &list);
            }
            worker.listen_if_ready();
            let core = broker.plan.workers.get(number).copied();
            let thread = std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
                if let Some(core) = core {
                    pin(core);
                }
                worker.run();
            });
            broker.workers[number].thread = Some(thread.map_err(io("a worker could not be started"))?);
        }
        Ok(broker)
    }

    fn new(
        plan: BrokerPlan,
        registry: &'static [Registration],
        buffers: u32,
        began: Instant,
    ) -> Result<Self, BrokerError> {
        let mut notes = Vec::new();
        let wanted = plan.hops.iter().any(|h| h.transport == Transport::Skmsg);
        let (skmsg, skmsg_state) = match wanted.then(|| try_skmsg(buffers)) {
            None => (None, "not asked for".to_owned()),
            Some(Ok(skmsg)) => (Some(Arc::new(skmsg)), "works".to_owned()),
            Some(Err(why)) => {
                notes.push(format!("SK_MSG is not used on this kernel, messages go by rings: {why}"));
                (None, why)
            }
        };
        let custody = match &skmsg {
            Some(skmsg) => Custody::Shared(skmsg.ledger().clone()),
            None => Custody::private(buffers),
        };
        let hops = plan
            .hops
            .iter()
            .map(|h| HopControl { instances: (0..h.replicas).map(|_| None).collect(), ..HopControl::default() });
        Ok(Broker {
            hops: hops.collect(),
            registry,
            workers: Vec::new(),
            upstreams: Vec::new(),
            custody,
            skmsg,
            given_up: None,
            skmsg_state,
            listening: Vec::new(),
            checks: Checks::start(began).map_err(io("the health checks could not be started"))?,
            began,
            notes,
            next_key: plan.workers.len().max(1) as u8,
            lost_since: None,
            plan,
        })
    }

    /// By worker: its listeners.
    fn listen(&mut self, workers: usize) -> Result<Vec<Vec<Listener>>, BrokerError> {
        let mut all: Vec<Vec<Listener>> = (0..workers).map(|_| Vec::new()).collect();
        for (id, chain) in self.plan.chains.iter().enumerate() {
            for &address in &chain.listen {
                let (sockets, resolved) = socket::listen(address, workers).map_err(|e| {
                    let error = BrokerError::new(format!("`{}` cannot listen on {address}: {e}", chain.name));
                    match e.kind() {
                        std::io::ErrorKind::AddrInUse => error.with_hint(format!(
                            "another program listens there; see it with `ss -ltnp 'sport = :{}'`",
                            address.port()
                        )),
                        std::io::ErrorKind::AddrNotAvailable => {
                            error.with_hint("give an address that this host has: `ip address`")
                        }
                        std::io::ErrorKind::PermissionDenied => {
                            error.with_hint("ports below 1024 need root or CAP_NET_BIND_SERVICE")
                        }
                        _ => error,
                    }
                })?;
                self.listening.push((id as u16, resolved.to_string()));
                for (own, socket) in all.iter_mut().zip(sockets) {
                    let address = (!resolved.ip().is_unspecified()).then_some(resolved);
                    own.push(Listener { socket, chain: id as u16, address, paused_until: 0 });
                }
            }
        }
        Ok(all)
    }

    fn worker(
        &mut self,
        number: u8,
        listeners: Vec<Listener>,
        buffers: &Buffers,
        share: u32,
        began: Instant,
    ) -> Result<Worker, BrokerError> {
        let failed = "a worker could not be made";
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(|e| io(failed)(e.into()))?;
        let called = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| io(failed)(e.into()))?;
        let called = Arc::new(called);
        let nothing = Key { slot: 0, generation: 0 };
        let flags = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&epoll, &called, token(Origin::Called, nothing), flags).map_err(|e| io(failed)(e.into()))?;
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|e| io(failed)(e.into()))?;
        epoll::add(&epoll, &bell, token(Origin::Command, nothing), flags).map_err(|e| io(failed)(e.into()))?;
        let lane = match &self.skmsg {
            None => None,
            Some(skmsg) => {
                let (socket, peer) = middlenet_bpf::socket_pair().map_err(io(failed))?;
                skmsg.enter(number, socket.as_fd()).map_err(|e| BrokerError::new(e.to_string()))?;
                rustix::io::ioctl_fionbio(&socket, true).map_err(|e| io(failed)(e.into()))?;
                // Level-triggered: what one read leaves brings another event.
                epoll::add(&epoll, &socket, token(Origin::Skmsg, nothing), epoll::EventFlags::IN)
                    .map_err(|e| io(failed)(e.into()))?;
                Some(SkmsgLane::new(socket, peer))
            }
        };
        let hops = (0..self.plan.hops.len()).map(|hop| self.hop(hop)).collect::<Result<Vec<_>, _>>()?;
        let chains =
            (0..self.plan.chains.len()).map(|chain| self.chain(chain, &hops)).collect::<Result<Vec<_>, _>>()?;
        let counters = Arc::new(WorkerCounters::new(chains.len(), hops.len()));
        let chain_count = chains.len();
        let (sender, commands) = unbounded();
        self.workers.push(WorkerHandle {
            commands: sender,
            called: called.clone(),
            bell,
            counters: counters.clone(),
            thread: None,
        });
        let first = u32::from(number) * share;
        (first..first + share).for_each(|index| self.custody.seize(index, number));
        let now = Instant::now();
        let worker = Worker {
            number,
            epoll,
            commands,
            called,
            listeners,
            listening: false,
            chains,
            hops,
            upstreams: Vec::new(),
            idle: Vec::new(),
            readers: Vec::new(),
            sessions: Slab::new(),
            conns: Slab::new(),
            pool: Pool::new(buffers.clone(), first, share, chain_count),
            custody: self.custody.clone(),
            lane,
            starved: VecDeque::new(),
            ready: VecDeque::new(),
            scratch: vec![0; SCRATCH_BYTES + MESSAGE_BYTES],
            head_out: Vec::with_capacity(SCRATCH_BYTES),
            spans: Box::new([HeaderSpan::EMPTY; MAX_HEADERS]),
            counters,
            began,
            now,
            now_ms: now.saturating_duration_since(began).as_millis() as u64,
            next_tick: now + TICK,
            next_session: 0,
            next_request: 0,
            stopping: None,
            polls: self.plan.wait == Wait::Poll && self.plan.hops.iter().any(|h| h.transport == Transport::Ring),
            received: Vec::new(),
            unsent: Vec::new(),
            rings_waiting: false,
            leaving: Vec::new(),
            parked_at: (0, 0),
        };
        worker.count_buffers();
        Ok(worker)
    }

    fn chain(&mut self, chain: usize, hops: &[Hop]) -> Result<Chain, BrokerError> {
        let mut plan = self.plan.chains[chain].clone();
        // Each worker accepts its share.
        plan.limits.connections = plan.limits.connections.div_ceil(self.plan.workers.len().max(1) as u32);
        let upstreams = plan.upstreams.iter().map(|a| self.upstream(chain as u16, a)).collect::<Result<Vec<_>, _>>()?;
        let own: Vec<usize> = (0..hops.len()).filter(|&h| usize::from(hops[h].chain) == chain).collect();
        let interests: Vec<Interests> = own.iter().map(|&h| hops[h].interests).collect();
        let mut chain = Chain::new(plan, own, upstreams);
        chain.arrange(&interests);
        Ok(chain)
    }

    fn hop(&mut self, hop: usize) -> Result<Hop, BrokerError> {
        let plan = self.plan.hops[hop].clone();
        let first = self.plan.hops.iter().position(|h| h.chain == plan.chain).unwrap_or(hop);
        let mut interests = Interests::NONE;
        let mut upstreams = Vec::new();
        let mut alike = false;
        let place = if plan.transport == Transport::Inline {
            let registration = self.registry.iter().find(|r| r.name == plan.function);
            let registration =
                registration.ok_or_else(|| BrokerError::new(format!("there is no function `{}`", plan.function)))?;
            let mut init = Init::new(Vec::new(), plan.outputs.iter().map(|(name, _)| name.clone()).collect());
            let function = registration
                .create_middlebox(plan.config.clone(), &mut init)
                .map_err(|e| BrokerError { message: format!("`{}`: {}", plan.name, e.message), hint: e.hint })?;
            interests = function.interests();
            upstreams = self.upstreams_of(hop, init.upstreams())?;
            alike = init.are_upstreams_alike();
            Place::Inline(Box::new(Inline::new(function, init)))
        } else {
            Place::Process { instances: (0..plan.replicas).map(|_| None).collect(), declared: false }
        };
        Ok(Hop {
            chain: plan.chain,
            on_loss: plan.on_failure,
            outputs: plan.outputs.iter().map(|&(_, target)| (usize::from(target) - first) as u8).collect(),
            interests,
            place,
            upstreams,
            alike,
            waiting: VecDeque::new(),
        })
    }
}

/// Tries SK_MSG on this kernel, then loads it.
fn try_skmsg(buffers: u32) -> Result<Skmsg, String> {
    middlenet_bpf::self_test().map_err(|e| e.to_string())?;
    Skmsg::load(buffers, Filter::Checked).map_err(|e| e.to_string())
}

/// Pins the calling thread; a host without that core schedules it as it likes.
fn pin(core: usize) {
    let mut set = nix::sched::CpuSet::new();
    if set.set(core).is_ok() {
        let _ = nix::sched::sched_setaffinity(nix::unistd::Pid::from_raw(0), &set);
    }
}
