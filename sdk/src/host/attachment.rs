//! The regions a function works on, and one turn of its loop: rings in, function, rings out.

use super::HostError;
use super::instance::Instance;
use crate::{BURST, Burst, BurstState, SteeredFlow, Verdict};
use middlenet_shm::{Buffers, Consumer, ControlRegion, Descriptor, Doorbell, EventDoorbell, Producer, Region, State};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// Below this many empty buffers, more are taken from the supply ring.
const SPARE_LOW: usize = 16;
/// The ingress port of a packet that a function made.
const NO_PORT: u8 = u8::MAX;
/// How long the manager may leave a return ring full before the process gives up on it.
const RETURN_PATIENCE: Duration = Duration::from_secs(2);

/// The rings shared with one worker of the manager.
struct Lane {
    receive: Consumer,
    give_back: Producer,
    supply: Consumer,
    bell: EventDoorbell,
    state: BurstState,
}

/// Everything mapped at one [`crate::protocol::ToFunction::Attach`].
pub(super) struct Attachment {
    buffers: Buffers,
    control: ControlRegion,
    doorbell: Doorbell,
    lanes: Vec<Lane>,
    beats: u64,
}

impl Attachment {
    /// Maps the regions. `fds`: packets region, control region, one eventfd per worker.
    pub(super) fn new(fds: Vec<OwnedFd>, buffer_bytes: u32) -> Result<Self, HostError> {
        let mut fds = fds.into_iter();
        let (Some(packets), Some(control)) = (fds.next(), fds.next()) else {
            return Err(HostError::Protocol("`attach` without its regions"));
        };
        let buffers = Buffers::new(Arc::new(Region::open(packets)?), buffer_bytes)?;
        let control = ControlRegion::open(control)?;
        let lanes = (0..control.geometry().workers)
            .map(|worker| {
                Ok(Lane {
                    receive: control.to_function_consumer(worker)?,
                    give_back: control.from_function_producer(worker)?,
                    supply: control.supply_consumer(worker)?,
                    bell: control.manager_doorbell(worker, fds.next())?,
                    state: BurstState::default(),
                })
            })
            .collect::<Result<_, HostError>>()?;
        control.state().store(State::Running as u32, Ordering::Release);
        Ok(Self { doorbell: control.function_doorbell(), buffers, control, lanes, beats: 0 })
    }

    pub(super) fn control(&self) -> &ControlRegion {
        &self.control
    }

    /// Whether the runtime says that a message waits on the socket.
    #[inline]
    pub(super) fn called(&self) -> bool {
        let attention = self.control.attention();
        attention.load(Ordering::Relaxed) != 0 && attention.swap(0, Ordering::Relaxed) != 0
    }

    /// Takes up to a burst from each worker's ring. Returns the packets taken.
    #[inline]
    pub(super) fn turn(&mut self, instance: &mut Instance<'_>, logical_clock: bool) -> usize {
        let mut descriptors = [Descriptor::default(); BURST];
        let mut taken = 0;
        for at in 0..self.lanes.len() {
            let n = self.lanes[at].receive.dequeue(&mut descriptors);
            if n > 0 {
                taken += n;
                let burst = &mut descriptors[..n];
                for descriptor in burst.iter_mut() {
                    descriptor.source = at as u16;
                    self.buffers.prefetch(descriptor);
                }
                self.run(instance, at, burst, logical_clock, false);
            }
        }
        self.beats += 1;
        self.control.heartbeat().store(self.beats, Ordering::Relaxed);
        taken
    }

    /// Whether the function has steered flows.
    #[inline]
    pub(super) fn steers(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.state.steered.is_empty())
    }

    /// What the function has steered since the last call, from one lane, and how many wishes found no room before.
    pub(super) fn take_steered(&mut self) -> Option<(Vec<SteeredFlow>, u64)> {
        let lane = self.lanes.iter_mut().find(|lane| !lane.state.steered.is_empty())?;
        Some((std::mem::take(&mut lane.state.steered), std::mem::take(&mut lane.state.unheard)))
    }

    /// Calls the function's `tick`.
    pub(super) fn tick(&mut self, instance: &mut Instance<'_>, logical_clock: bool) {
        self.run(instance, 0, &mut [], logical_clock, true);
        self.give_back_abandoned();
        self.beats += 1;
        self.control.heartbeat().store(self.beats, Ordering::Relaxed);
    }

    #[inline]
    fn run(
        &mut self,
        instance: &mut Instance<'_>,
        at: usize,
        descriptors: &mut [Descriptor],
        logical_clock: bool,
        tick: bool,
    ) {
        let lane = &mut self.lanes[at];
        if lane.state.spare.len() < SPARE_LOW {
            lane.refill(at as u16);
        }
        lane.state.begin();
        if logical_clock {
            lane.state.set_logical_clock(self.control.clock_ns().load(Ordering::Relaxed));
        }
        let mut burst = Burst::new(&self.buffers, descriptors, &mut lane.state);
        if tick {
            instance.function.tick(&mut burst);
        } else {
            instance.function.process(&mut burst);
        }
        instance.flush_fast_path();
        let kept = keep_back(descriptors);
        if kept < descriptors.len() {
            self.count_held((descriptors.len() - kept) as u64);
        }
        self.give_back(at, &descriptors[..kept]);
        if !self.lanes[at].state.emitted.is_empty() {
            self.give_back_emitted(at);
        }
    }

    /// Publishes how many packets the function keeps back on purpose, before any of them is given back.
    #[cold]
    fn count_held(&mut self, more: u64) {
        let held = self.control.held();
        held.store(held.load(Ordering::Relaxed).wrapping_add(more), Ordering::Release);
    }

    /// Packets that the function made or resumed go back on the lane whose worker lent the buffer.
    #[cold]
    fn give_back_emitted(&mut self, at: usize) {
        let mut emitted = std::mem::take(&mut self.lanes[at].state.emitted);
        let resumed = emitted.iter().filter(|d| d.port != NO_PORT).count() as u64;
        self.count_held(resumed.wrapping_neg());
        for descriptor in &emitted {
            let lane = usize::from(descriptor.source).min(self.lanes.len() - 1);
            if Verdict::decode(descriptor.verdict, descriptor.argument) == Some(Verdict::Hold) {
                continue;
            }
            self.give_back(lane, std::slice::from_ref(descriptor));
        }
        emitted.clear();
        self.lanes[at].state.emitted = emitted;
    }

    /// Packets whose `Held` the function dropped go back as dropped.
    fn give_back_abandoned(&mut self) {
        let abandoned = crate::take_abandoned();
        if !abandoned.is_empty() {
            self.count_held((abandoned.len() as u64).wrapping_neg());
        }
        for mut descriptor in abandoned {
            (descriptor.verdict, descriptor.argument) = Verdict::Drop(crate::DropReason::ABANDONED).encode();
            let lane = usize::from(descriptor.source).min(self.lanes.len() - 1);
            self.give_back(lane, &[descriptor]);
        }
    }

    #[inline]
    fn give_back(&mut self, at: usize, mut descriptors: &[Descriptor]) {
        let lane = &mut self.lanes[at];
        if descriptors.is_empty() {
            return;
        }
        let sent = lane.give_back.enqueue(descriptors);
        lane.bell.ring();
        descriptors = &descriptors[sent..];
        if !descriptors.is_empty() {
            lane.give_back_slowly(descriptors);
        }
    }

    /// Sleeps until a worker or the runtime rings, at most `timeout`.
    pub(super) fn park(&mut self, timeout: Duration) {
        let (lanes, control) = (&mut self.lanes, &self.control);
        self.doorbell.park(Some(timeout.max(Duration::from_micros(50))), || {
            control.attention().load(Ordering::Relaxed) != 0 || lanes.iter_mut().any(|lane| !lane.receive.is_empty())
        });
    }

    /// Works until its rings are empty: the runtime has already turned the traffic away.
    pub(super) fn drain(&mut self, instance: &mut Instance<'_>, logical_clock: bool) {
        self.control.state().store(State::Draining as u32, Ordering::Release);
        while self.turn(instance, logical_clock) > 0 {}
        self.control.state().store(State::Stopped as u32, Ordering::Release);
    }
}

impl Lane {
    #[cold]
    fn refill(&mut self, at: u16) {
        let mut empty = [Descriptor::default(); SPARE_LOW];
        let n = self.supply.dequeue(&mut empty);
        for descriptor in &mut empty[..n] {
            descriptor.source = at;
        }
        self.state.spare.extend_from_slice(&empty[..n]);
    }

    /// The return ring is full: the manager is behind. Packets are its buffers, so they wait rather than vanish.
    #[cold]
    fn give_back_slowly(&mut self, mut descriptors: &[Descriptor]) {
        let deadline = Instant::now() + RETURN_PATIENCE;
        while !descriptors.is_empty() && Instant::now() < deadline {
            std::thread::yield_now();
            descriptors = &descriptors[self.give_back.enqueue(descriptors)..];
            self.bell.ring();
        }
    }
}

/// Moves descriptors whose verdict is not `Hold` to the front, in order, and returns how many there are.
#[inline]
fn keep_back(descriptors: &mut [Descriptor]) -> usize {
    let hold = Verdict::Hold.encode().0;
    let Some(first) = descriptors.iter().position(|d| d.verdict == hold) else { return descriptors.len() };
    let mut kept = first;
    for at in first..descriptors.len() {
        if descriptors[at].verdict != hold {
            descriptors[kept] = descriptors[at];
            kept += 1;
        }
    }
    kept
}
