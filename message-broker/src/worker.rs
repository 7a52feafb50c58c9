//! A worker: one thread, one event loop, its own connections and buffers.
//!
//! ```text
//!   wait -> clients, upstreams, functions' sockets -> rings -> send groups, ring bells -> tick, ten times a second
//! ```
//!
//! Sockets are registered once, edge-triggered; a flag on each side of a session remembers that there may be more to read.
//! A session is taken out of its slot while it is worked on, and driven as far as it goes ([`Worker::drive`]).

use std::collections::VecDeque;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use middlenet_http::{HeaderSpan, MAX_HEADERS};
use middlenet_plan::OnLoss;
use middlenet_sdk::Init;
use middlenet_sdk::middlebox::{DynMiddlebox, Interests};
use middlenet_shm::{Descriptor, drain_event};
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};

use crate::chain::Chain;
use crate::counters::WorkerCounters;
use crate::custody::Custody;
use crate::hop::{Hop, Instance, Place};
use crate::lane::SkmsgLane;
use crate::pool::Pool;
use crate::session::{End, Phase, Session};
use crate::slab::{Key, Slab};
use crate::upstream::{Conn, Upstream};

/// Events taken per wait.
const EVENTS: usize = 256;
/// How often sessions are looked through for what is overdue.
pub(crate) const TICK: Duration = Duration::from_millis(100);
/// The longest sleep, when nothing can be overdue.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);
/// Bytes read at a time where no function looks.
pub(crate) const SCRATCH_BYTES: usize = 64 << 10;
/// Connections accepted in a row before others get their turn.
const ACCEPTS: usize = 64;

/// What a token says of an event's origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Origin {
    Listener = 0,
    Client = 1,
    Upstream = 2,
    Skmsg = 3,
    Called = 4,
    Command = 5,
}

pub(crate) fn token(origin: Origin, key: Key) -> EventData {
    EventData::new_u64(((origin as u64) << 56) | (u64::from(key.generation) << 32) | u64::from(key.slot))
}

fn read_token(data: EventData) -> Option<(Origin, Key)> {
    let token = data.u64();
    let key = Key { slot: token as u32, generation: (token >> 32) as u32 & 0xff_ffff };
    let origins = [Origin::Listener, Origin::Client, Origin::Upstream, Origin::Skmsg, Origin::Called, Origin::Command];
    Some((*origins.get((token >> 56) as usize)?, key))
}

/// What the control thread asks of a worker; each is answered when it is done.
pub(crate) enum Command {
    /// A process is ready for messages.
    Attach { hop: usize, replica: usize, instance: Box<Instance>, interests: Interests, upstreams: Servers },
    /// A process gets no more messages; what it held is lost, unless it is given time to return it.
    Detach { hop: usize, replica: usize, drain: bool },
    /// An inline function is replaced.
    Replace { hop: usize, function: Box<dyn DynMiddlebox>, init: Box<Init>, upstreams: Servers },
    /// The report of an inline function.
    Report { hop: usize, to: Sender<InlineReport> },
    /// All upstreams there are.
    Upstreams(Vec<Arc<Upstream>>),
    /// SK_MSG is not to be trusted: rings from now on.
    UseRings,
    /// No more connections; end when all requests are done, at the latest in this time.
    Stop(Duration),
}

/// The upstreams of a hop.
#[derive(Debug, Clone, Default)]
pub(crate) struct Servers {
    /// In its own numbering, as ids of the broker's.
    pub(crate) ids: Vec<usize>,
    /// They are servers of one service.
    pub(crate) alike: bool,
}

/// Counters and report of an inline function.
pub(crate) type InlineReport = (Vec<(middlenet_sdk::CounterInfo, u64)>, serde_json::Value);

/// A socket that listens for a chain.
pub(crate) struct Listener {
    pub(crate) socket: OwnedFd,
    pub(crate) chain: u16,
    /// Its address, unless it is for any.
    pub(crate) address: Option<SocketAddr>,
    pub(crate) paused_until: u64,
}

/// Everything of one worker.
pub(crate) struct Worker {
    /// Its number, which is also its key.
    pub(crate) number: u8,
    pub(crate) epoll: OwnedFd,
    pub(crate) commands: Receiver<(Command, Sender<()>)>,
    /// What functions call it by; in their reach, so nothing depends on it.
    pub(crate) called: Arc<OwnedFd>,
    pub(crate) listeners: Vec<Listener>,
    pub(crate) listening: bool,
    pub(crate) chains: Vec<Chain>,
    pub(crate) hops: Vec<Hop>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    /// By upstream: connections that wait for a request.
    pub(crate) idle: Vec<VecDeque<Key>>,
    /// By upstream: hops that declared it, and its number there.
    pub(crate) readers: Vec<Vec<(usize, usize)>>,
    pub(crate) sessions: Slab<Session>,
    pub(crate) conns: Slab<Conn>,
    pub(crate) pool: Pool,
    pub(crate) custody: Custody,
    pub(crate) lane: Option<SkmsgLane>,
    /// Sessions that wait for a buffer.
    pub(crate) starved: VecDeque<Key>,
    /// Sessions to be driven before the worker sleeps.
    pub(crate) ready: VecDeque<Key>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) head_out: Vec<u8>,
    pub(crate) spans: Box<[HeaderSpan; MAX_HEADERS]>,
    pub(crate) counters: Arc<WorkerCounters>,
    pub(crate) began: Instant,
    pub(crate) now: Instant,
    pub(crate) now_ms: u64,
    pub(crate) next_tick: Instant,
    pub(crate) next_session: u64,
    pub(crate) next_request: u64,
    pub(crate) stopping: Option<Instant>,
    pub(crate) polls: bool,
    /// Descriptors that a read brought; kept for its memory.
    pub(crate) received: Vec<Descriptor>,
    /// Messages that could not be sent in this turn, and why.
    pub(crate) unsent: Vec<(u32, &'static str)>,
    /// A ring had something when the worker was about to sleep.
    pub(crate) rings_waiting: bool,
    /// Instances that were replaced and still return what they have: hop, instance, since.
    pub(crate) leaving: Vec<(usize, Instance, u64)>,
    /// Where the last message was parked: the hop, and the place in the order.
    pub(crate) parked_at: (usize, usize),
}

impl Worker {
    /// Runs until told to stop.
    pub(crate) fn run(mut self) {
        let mut events = [MaybeUninit::<Event>::uninit(); EVENTS];
        while !self.is_over() {
            self.announce();
            let sleep = self.sleep();
            let timeout = Timespec { tv_sec: sleep.as_secs() as i64, tv_nsec: sleep.subsec_nanos().into() };
            let happened = match epoll::wait(&self.epoll, &mut events[..], Some(&timeout)) {
                Ok((happened, _)) => happened,
                Err(_) => &mut [],
            };
            self.now = Instant::now();
            self.now_ms = self.now.saturating_duration_since(self.began).as_millis() as u64;
            self.counters.wakeups.inc();
            let happened: &[Event] = happened;
            for event in happened {
                self.dispatch(*event);
            }
            self.retract();
            self.serve_rings();
            self.turn();
            if self.now >= self.next_tick {
                self.tick();
                self.next_tick = self.now + TICK;
                self.turn();
            }
        }
        self.finish();
    }

    /// What is due now that the events are taken: sessions that can go on, and what is to be sent to functions.
    fn turn(&mut self) {
        // Sending to a function may fail, which makes sessions ready, and those may send.
        for _ in 0..4 {
            // Those that are ready once more have had their turn.
            for _ in 0..self.ready.len() {
                let Some(key) = self.ready.pop_front() else { break };
                if let Some(session) = self.sessions.get_mut(key) {
                    session.starved = false;
                }
                self.drive_key(key);
            }
            self.flush_groups();
            if !self.has_work() {
                break;
            }
        }
    }

    /// Something can go on without a further event.
    fn has_work(&self) -> bool {
        !self.ready.is_empty() || self.lane.as_ref().is_some_and(SkmsgLane::has_groups)
    }

    fn is_over(&self) -> bool {
        self.stopping.is_some_and(|until| self.sessions.len() == 0 || self.now >= until)
    }

    fn sleep(&self) -> Duration {
        if self.has_work() || self.polls || self.rings_waiting {
            return Duration::ZERO;
        }
        let quiet = self.sessions.len() == 0
            && self.conns.len() == 0
            && self.pool.away_count() == 0
            && self.stopping.is_none()
            && self.listeners.iter().all(|l| l.paused_until == 0)
            && !self.hops.iter().any(|h| matches!(h.place, Place::Inline(_)));
        let longest = if quiet { LONGEST_SLEEP } else { TICK };
        // The clock of the last turn will do, as turns are short.
        self.next_tick.saturating_duration_since(self.now).min(longest).max(Duration::from_millis(if quiet {
            LONGEST_SLEEP.as_millis() as u64
        } else {
            1
        }))
    }

    #[inline]
    fn dispatch(&mut self, event: Event) {
        let (data, flags) = (event.data, event.flags);
        let Some((origin, key)) = read_token(data) else { return };
        match origin {
            Origin::Client => self.client_event(key, flags),
            Origin::Upstream => self.upstream_event(key, flags),
            Origin::Skmsg => self.take_groups(),
            Origin::Listener => self.accept(key.slot as usize),
            // Functions on rings called: their rings are looked at in any case.
            Origin::Called => drain_event(&self.called),
            Origin::Command => self.obey(),
        }
    }

    fn client_event(&mut self, key: Key, flags: EventFlags) {
        let Some(mut session) = self.sessions.take(key) else { return };
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP) {
            session.readable = true;
        }
        session.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        // After both sides have closed there may still be bytes to read; after an error there are not.
        if flags.contains(EventFlags::ERR) {
            session.broken = true;
        }
        self.drive(&mut session);
        self.put_back(session);
    }

    fn upstream_event(&mut self, key: Key, flags: EventFlags) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::ERR | EventFlags::HUP) {
            conn.readable = true;
        }
        conn.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR);
        if flags.contains(EventFlags::OUT) {
            conn.writable = true;
        }
        let Some(session) = conn.session else { return self.idle_event(key) };
        self.drive_key(session);
    }

    /// Something happened on a connection that waits: it is of no more use, whatever it was.
    fn idle_event(&mut self, key: Key) {
        let Some(conn) = self.conns.get_mut(key) else { return };
        if !conn.readable {
            return;
        }
        let upstream = conn.upstream;
        self.idle[upstream].retain(|k| *k != key);
        self.drop_conn(key);
    }

    /// Closes a connection that nobody uses.
    pub(crate) fn drop_conn(&mut self, key: Key) {
        drop(self.conns.take(key));
        self.conns.release(key);
    }

    pub(crate) fn drive_key(&mut self, key: Key) {
        if let Some(mut session) = self.sessions.take(key) {
            self.drive(&mut session);
            self.put_back(session);
        }
    }

    pub(crate) fn put_back(&mut self, session: Box<Session>) {
        let key = session.key;
        if session.over {
            drop(session);
            self.sessions.release(key);
        } else {
            self.sessions.put(key, session);
        }
    }

    /// Registers a socket, edge-triggered, both ways.
    pub(crate) fn register(&self, socket: impl AsFd, origin: Origin, key: Key) -> bool {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, socket, token(origin, key), flags).is_ok()
    }

    fn accept(&mut self, at: usize) {
        for _ in 0..ACCEPTS {
            let Some(listener) = self.listeners.get(at) else { return };
            let chain = usize::from(listener.chain);
            let limit = self.chains[chain].plan.limits.connections;
            let full = limit > 0 && self.counters.chains[chain].open_connections.get() >= u64::from(limit);
            if full {
                return self.pause(at);
            }
            match crate::socket::accept(&listener.socket) {
                Ok(Some((socket, peer))) => {
                    let local = self.listeners[at].address;
                    self.open(socket, peer, local, chain as u16);
                }
                Ok(None) => return,
                Err(_) => return self.pause(at),
            }
        }
    }

    /// Takes no more connections for a tick: there are too many, or no descriptors left.
    fn pause(&mut self, at: usize) {
        self.listeners[at].paused_until = self.now_ms + TICK.as_millis() as u64;
        // A listener that cannot be removed is served on, which is no worse.
        let _ = epoll::delete(&self.epoll, &self.listeners[at].socket);
    }

    /// Begins to listen, once all functions are known; level-triggered, so that none is left waiting.
    pub(crate) fn listen_if_ready(&mut self) {
        if self.listening || self.stopping.is_some() || !self.hops.iter().all(Hop::is_declared) {
            return;
        }
        self.listening = true;
        for at in 0..self.listeners.len() {
            self.listen(at);
        }
    }

    fn listen(&self, at: usize) {
        let key = Key { slot: at as u32, generation: 0 };
        let socket = &self.listeners[at].socket;
        let _ = epoll::add(&self.epoll, socket, token(Origin::Listener, key), EventFlags::IN);
    }

    /// Does what the control thread asks.
    fn obey(&mut self) {
        while let Ok((command, done)) = self.commands.try_recv() {
            match command {
                Command::Attach { hop, replica, instance, interests, upstreams } => {
                    self.attach(hop, replica, *instance, interests, upstreams);
                }
                Command::Detach { hop, replica, drain } => self.detach(hop, replica, drain),
                Command::Replace { hop, function, init, upstreams } => self.replace(hop, function, *init, upstreams),
                Command::Report { hop, to } => {
                    if let Some(Hop { place: Place::Inline(inline), .. }) = self.hops.get(hop) {
                        let counters = inline.init.counters().iter().map(|(info, c)| (info.clone(), c.get()));
                        // Nobody waits only when the broker is ending.
                        let _ = to.send((counters.collect(), inline.function.report()));
                    }
                }
                Command::Upstreams(all) => self.upstreams_changed(all),
                Command::UseRings => self.use_rings(),
                Command::Stop(patience) => self.stop(patience),
            }
            let _ = done.send(());
        }
    }

    /// Replaces an inline function.
    fn replace(&mut self, at: usize, function: Box<dyn DynMiddlebox>, init: Init, upstreams: Servers) {
        let Some(hop) = self.hops.get_mut(at) else { return };
        let Place::Inline(inline) = &mut hop.place else { return };
        inline.replace(function, init);
        hop.interests = inline.function.interests();
        hop.upstreams.clone_from(&upstreams.ids);
        hop.alike = upstreams.alike;
        let chain = usize::from(hop.chain);
        self.read_upstreams(at, &upstreams.ids);
        self.arrange(chain);
        for upstream in upstreams.ids {
            self.publish(upstream);
        }
    }

    fn upstreams_changed(&mut self, all: Vec<Arc<Upstream>>) {
        self.idle.resize_with(all.len(), VecDeque::new);
        self.readers.resize_with(all.len(), Vec::new);
        self.upstreams = all;
    }

    /// What hops of a chain want has become known.
    pub(crate) fn arrange(&mut self, chain: usize) {
        let interests: Vec<Interests> = self.chains[chain].hops.iter().map(|&h| self.hops[h].interests).collect();
        self.chains[chain].arrange(&interests);
    }

    /// Tells the functions that declared an upstream how it is.
    #[inline]
    pub(crate) fn publish(&mut self, upstream: usize) {
        let Some(state) = self.upstreams.get(upstream) else { return };
        let (up, active) = (state.is_up(), state.active());
        for &(hop, number) in &self.readers[upstream] {
            self.hops[hop].publish(number, up, active);
        }
    }

    fn stop(&mut self, patience: Duration) {
        self.stopping = Some(self.now + patience);
        self.listeners.clear();
        let keys: Vec<Key> = self.sessions.keys().collect();
        for key in keys {
            let Some(mut session) = self.sessions.take(key) else { continue };
            session.closing = true;
            self.drive(&mut session);
            self.put_back(session);
        }
        for key in self.idle.iter_mut().flat_map(std::mem::take).collect::<Vec<_>>() {
            self.drop_conn(key);
        }
    }

    /// The last thing: whatever is left is cut off, so that the account is even.
    fn finish(&mut self) {
        let keys: Vec<Key> = self.sessions.keys().collect();
        for key in keys {
            if let Some(mut session) = self.sessions.take(key) {
                if session.phase != Phase::Tunnel {
                    self.end(&mut session, End::Failed("stopped"));
                }
                self.close(&mut session);
                self.put_back(session);
            }
        }
        self.flush_groups();
        self.wait_for_last_words();
        self.count_buffers();
    }

    pub(crate) fn count_buffers(&self) {
        self.counters.buffers_free.set(self.pool.free_count() as u64);
        self.counters.buffers_held.set(self.pool.away_count() as u64);
    }

    /// Ten times a second: what is overdue, what can be tried again.
    fn tick(&mut self) {
        self.obey();
        self.count_buffers();
        for at in 0..self.listeners.len() {
            if self.listeners[at].paused_until != 0 && self.now_ms >= self.listeners[at].paused_until {
                self.listeners[at].paused_until = 0;
                self.listen(at);
            }
        }
        for at in 0..self.upstreams.len() {
            self.upstreams[at].look(self.now_ms);
            self.publish(at);
        }
        // One that was woken for a buffer and did without it has woken nobody else.
        for _ in 0..self.pool.free_count().min(self.starved.len()) {
            self.ready.extend(self.starved.pop_front());
        }
        self.look_at_leaving();
        self.tick_functions();
        self.tick_sessions();
        self.tick_conns();
        self.look_for_lost_wakeups();
    }

    fn tick_functions(&mut self) {
        for (at, hop) in self.hops.iter_mut().enumerate() {
            if let Place::Inline(inline) = &mut hop.place
                && !inline.tick(self.now)
            {
                self.counters.hops[at].failed.inc("panicked");
            }
        }
        self.find_overdue_messages();
        self.resume_waiting();
    }

    fn tick_sessions(&mut self) {
        for slot in 0..self.sessions.slots() {
            let Some(session) = self.sessions.at(slot) else { continue };
            let total = session.exchange.deadline_total;
            let due = |deadline: u64| deadline != 0 && self.now_ms >= deadline;
            let waited = session.parked.iter().any(|p| due(p.until_ms));
            let overdue = due(session.deadline) || waited || (!session.exchange.done && due(total));
            if overdue {
                let key = session.key;
                let Some(mut session) = self.sessions.take(key) else { continue };
                self.overdue(&mut session);
                self.drive(&mut session);
                self.put_back(session);
            }
        }
    }

    /// Closes upstream connections that have waited too long.
    fn tick_conns(&mut self) {
        for at in 0..self.idle.len() {
            let Some(upstream) = self.upstreams.get(at) else { continue };
            let keep_ms = self.chains[usize::from(upstream.chain)].plan.upstream.idle_ms;
            // The one put aside first is in front.
            while let Some(&key) = self.idle[at].front() {
                let old = self.conns.get_mut(key).is_none_or(|c| self.now_ms.saturating_sub(c.idle_since) >= keep_ms);
                if !old {
                    break;
                }
                self.idle[at].pop_front();
                self.drop_conn(key);
            }
        }
    }

    /// A deadline of so many ms from now; none for 0.
    #[inline]
    pub(crate) fn deadline(&self, ms: u64) -> u64 {
        if ms == 0 { 0 } else { self.now_ms + ms }
    }

    pub(crate) fn on_loss(&self, hop: usize) -> OnLoss {
        self.hops[hop].on_loss
    }
}
