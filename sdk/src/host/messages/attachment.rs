//! The regions and the socket a function works on, and one turn of its loop.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use middlenet_shm::{Buffers, Consumer, ControlRegion, Descriptor, Doorbell, EventDoorbell, Producer, Region, State};
use nix::errno::Errno;

use super::skmsg::{Received, SkmsgSocket};
use crate::host::HostError;
use crate::middlebox::{
    self, Board, Context, DynMiddlebox, MAX_GROUP, MAX_ROUTE, MESSAGE_BYTES, Message, Onward, Timers, UNDELIVERED,
};

/// How long the broker may leave a return ring full before the process gives up on it.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);

/// The rings shared with one worker of the broker.
struct Lane {
    receive: Consumer,
    give_back: Producer,
    bell: EventDoorbell,
}

/// Everything mapped at one [`crate::protocol::ToFunction::Attach`].
pub(super) struct MessageAttachment {
    buffers: Buffers,
    control: Arc<ControlRegion>,
    board: Board,
    doorbell: Doorbell,
    lanes: Vec<Lane>,
    socket: Option<SkmsgSocket>,
    timers: Timers,
    made: Instant,
    beats: u64,
    /// What one receive brought.
    batch: Vec<Descriptor>,
    /// What is to be sent, by destination; a handful of destinations at most.
    outgoing: Vec<(u8, Vec<Descriptor>)>,
}

impl MessageAttachment {
    /// Maps the regions. `fds`: messages region, control region, one eventfd per worker, and the socket if `skmsg` says so.
    pub(super) fn new(fds: Vec<OwnedFd>, buffer_bytes: u32, skmsg: bool) -> Result<Self, HostError> {
        let mut fds = fds.into_iter();
        let (Some(messages), Some(control)) = (fds.next(), fds.next()) else {
            return Err(HostError::Protocol("`attach` without its regions"));
        };
        if buffer_bytes as usize != MESSAGE_BYTES {
            return Err(HostError::Protocol("`attach` with buffers that hold no messages"));
        }
        let buffers = Buffers::new(Arc::new(Region::open(messages)?), buffer_bytes)?;
        let control = Arc::new(ControlRegion::open(control)?);
        let lanes = (0..control.geometry().workers)
            .map(|worker| {
                Ok(Lane {
                    receive: control.to_function_consumer(worker)?,
                    give_back: control.from_function_producer(worker)?,
                    bell: control.manager_doorbell(worker, fds.next())?,
                })
            })
            .collect::<Result<_, HostError>>()?;
        let socket = match skmsg.then(|| fds.next()) {
            None => None,
            Some(Some(socket)) => Some(SkmsgSocket::new(socket)?),
            Some(None) => return Err(HostError::Protocol("`attach` without its socket")),
        };
        control.state().store(State::Running as u32, Ordering::Release);
        Ok(Self {
            doorbell: control.function_doorbell(),
            board: Board::Shared(control.clone()),
            buffers,
            control,
            lanes,
            socket,
            timers: Timers::default(),
            made: Instant::now(),
            beats: 0,
            batch: Vec::with_capacity(super::CELLS),
            outgoing: Vec::new(),
        })
    }

    /// Goes on where an earlier attachment of the same instance was: its clock and its timers.
    pub(super) fn continue_from(&mut self, earlier: &mut Self) {
        self.made = earlier.made;
        self.timers = std::mem::take(&mut earlier.timers);
    }

    pub(super) fn control(&self) -> &ControlRegion {
        &self.control
    }

    pub(super) fn has_socket(&self) -> bool {
        self.socket.as_ref().is_some_and(|socket| !socket.has_ended())
    }

    /// Whether the runtime says that a message waits on the control socket.
    pub(super) fn called(&self) -> bool {
        let attention = self.control.attention();
        attention.load(Ordering::Relaxed) != 0 && attention.swap(0, Ordering::Relaxed) != 0
    }

    /// Waits on the socket. When its other end is closed, the rings are used from now on.
    pub(super) fn receive(&mut self) -> Received {
        let Some(socket) = &mut self.socket else { return Received::Closed };
        let received = socket.receive(&mut self.batch);
        self.control.late_wakeups().store(socket.late(), Ordering::Relaxed);
        if matches!(received, Received::Garbled) {
            self.socket = None;
        }
        received
    }

    /// What another function had begun to send when the other end was closed can still come: it is looked for now and then.
    pub(super) fn serve_rest(&mut self, function: &mut Box<dyn DynMiddlebox>) {
        let Some(socket) = self.socket.as_mut().filter(|socket| socket.has_ended()) else { return };
        match socket.receive(&mut self.batch) {
            Received::Some => {}
            Received::Garbled => self.socket = None,
            Received::Nothing | Received::Closed => return,
        }
        self.serve_socket(function);
    }

    /// Shows the function what the socket brought, and sends it on.
    pub(super) fn serve_socket(&mut self, function: &mut Box<dyn DynMiddlebox>) {
        let now = self.made.elapsed();
        for at in 0..self.batch.len() {
            let mut descriptor = self.batch[at];
            let destination = self.call(function, &mut descriptor, now);
            match self.outgoing.iter_mut().find(|(key, _)| *key == destination) {
                Some((_, group)) => group.push(descriptor),
                None => self.outgoing.push((destination, vec![descriptor])),
            }
        }
        self.batch.clear();
        for at in 0..self.outgoing.len() {
            let destination = self.outgoing[at].0;
            let group = std::mem::take(&mut self.outgoing[at].1);
            for part in group.chunks(MAX_GROUP) {
                let sent = self.socket.as_ref().map_or(Err(Errno::EPIPE), |s| s.send(destination, part));
                if let Err(errno) = sent {
                    self.return_undelivered(part, errno);
                }
            }
            self.outgoing[at].1 = group;
            self.outgoing[at].1.clear();
        }
        self.beat();
    }

    /// Takes up to a burst from each worker's ring. Returns the messages taken.
    pub(super) fn serve_rings(&mut self, function: &mut Box<dyn DynMiddlebox>) -> usize {
        let mut descriptors = [Descriptor::default(); MAX_GROUP];
        let mut taken = 0;
        for at in 0..self.lanes.len() {
            let n = self.lanes[at].receive.dequeue(&mut descriptors);
            if n == 0 {
                continue;
            }
            taken += n;
            let now = self.made.elapsed();
            for descriptor in &mut descriptors[..n] {
                self.call(function, descriptor, now);
            }
            self.give_back(at, &descriptors[..n]);
        }
        self.beat();
        taken
    }

    /// Shows the function one message; where it goes next.
    #[inline]
    fn call(&mut self, function: &mut Box<dyn DynMiddlebox>, descriptor: &mut Descriptor, now: Duration) -> u8 {
        let room = self.buffers.room_mut(descriptor);
        if room.len() != MESSAGE_BYTES {
            return 0;
        }
        let mut message = Message::new(room);
        let header = message.header();
        let cursor = usize::from(header.cursor).min(MAX_ROUTE - 1);
        let position = header.route[cursor].position;
        let mut context = Context::of(header, now, &self.board, &mut self.timers);
        let verdict = function.handle(&mut message, &mut context);
        let onward = message.apply(verdict, position);
        next_stop(&mut message, cursor, onward)
    }

    /// Tells the broker of messages that the next hop did not take.
    #[cold]
    fn return_undelivered(&mut self, descriptors: &[Descriptor], errno: Errno) {
        for descriptor in descriptors {
            let mut returned = *descriptor;
            (returned.verdict, returned.argument) = (UNDELIVERED, errno as u16);
            let room = self.buffers.room_mut(&mut returned);
            let worker = if room.len() == MESSAGE_BYTES { Message::new(room).header().worker } else { 0 };
            self.give_back(usize::from(worker).min(self.lanes.len() - 1), &[returned]);
        }
    }

    fn give_back(&mut self, at: usize, descriptors: &[Descriptor]) {
        let lane = &mut self.lanes[at];
        let mut left = &descriptors[lane.give_back.enqueue(descriptors)..];
        lane.bell.ring();
        if left.is_empty() {
            return;
        }
        // The ring is full: the broker is behind. Messages are its buffers, so they wait rather than vanish.
        let deadline = Instant::now() + RETURN_PATIENCE;
        while !left.is_empty() && Instant::now() < deadline {
            std::thread::yield_now();
            left = &left[lane.give_back.enqueue(left)..];
            lane.bell.ring();
        }
    }

    /// Calls the function's timers and its tick.
    pub(super) fn tick(&mut self, function: &mut Box<dyn DynMiddlebox>) {
        middlebox::tick(&mut **function, self.made.elapsed(), &self.board, &mut self.timers);
        self.beat();
    }

    fn beat(&mut self) {
        self.beats += 1;
        self.control.heartbeat().store(self.beats, Ordering::Relaxed);
    }

    /// Sleeps until a worker or the runtime rings, at most `timeout`.
    pub(super) fn park(&mut self, timeout: Duration) {
        let (lanes, control) = (&mut self.lanes, &self.control);
        self.doorbell.park(Some(timeout.max(Duration::from_micros(50))), || {
            control.attention().load(Ordering::Relaxed) != 0 || lanes.iter_mut().any(|lane| !lane.receive.is_empty())
        });
    }

    /// Works until nothing more comes: the broker has already turned to another instance.
    pub(super) fn drain(&mut self, function: &mut Box<dyn DynMiddlebox>) {
        self.control.state().store(State::Draining as u32, Ordering::Release);
        while self.has_socket() && matches!(self.receive(), Received::Some) {
            self.serve_socket(function);
        }
        while self.serve_rings(function) > 0 {}
        self.control.state().store(State::Stopped as u32, Ordering::Release);
    }
}

/// Moves the cursor to the next stop and returns its key.
#[inline]
fn next_stop(message: &mut Message<'_>, cursor: usize, onward: Onward) -> u8 {
    let header = message.header_mut();
    let last = usize::from(header.stops).clamp(1, MAX_ROUTE) - 1;
    let next = match onward {
        Onward::Next => (cursor + 1).min(last),
        Onward::Home => last,
        // The broker knows where outputs lead.
        Onward::Output(output) => {
            (header.jump, header.jumper) = (output, header.route[cursor].position);
            last
        }
    };
    header.cursor = next as u8;
    header.route[next].key
}
