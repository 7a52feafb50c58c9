//! The hop over rings.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use middlenet_sdk::middlebox::MAX_GROUP;
use middlenet_sdk::shm::{
    Buffers, Consumer, ControlGeometry, ControlRegion, Descriptor, Doorbell, EventDoorbell, Ledger, Meta, Pages,
    Producer, Region, receive, send, socket_pair,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::laps::Laps;
use super::{Function, HopResult, RING, failed};
use crate::BenchError;

const BUFFER_BYTES: u32 = 2048;
/// A function sleeps no longer than this at a stretch.
const PATIENCE: Duration = Duration::from_millis(100);
/// How often a party gives its processor away before it sleeps; the three share fewer processors than they are.
const YIELDS: u32 = 16;

/// The broker's side of a function.
struct Lane {
    holder: u16,
    control: ControlRegion,
    to: Producer,
    from: Consumer,
    bell: Doorbell,
    own_bell: EventDoorbell,
    function: Function,
}

impl Lane {
    fn new(holder: u16, slots: u32, event: &EventFd) -> Result<Self, BenchError> {
        let control =
            ControlRegion::create("hop", ControlGeometry { workers: 1, slots }).map_err(failed("a region"))?;
        let (ours, theirs) = socket_pair().map_err(failed("a pair of sockets"))?;
        send(ours.as_fd(), &[0], &[control.fd(), event.as_fd()]).map_err(failed("passing a region"))?;
        let own = event.as_fd().try_clone_to_owned().map_err(failed("an eventfd"))?;
        Ok(Self {
            holder,
            to: control.to_function_producer(0).map_err(failed("a ring"))?,
            from: control.from_function_consumer(0).map_err(failed("a ring"))?,
            bell: control.function_doorbell(),
            own_bell: control.manager_doorbell(0, Some(own)).map_err(failed("a doorbell"))?,
            control,
            function: Function::start(RING, theirs)?,
        })
    }

    /// Hands buffers over.
    fn give(&mut self, descriptors: &mut [Descriptor], ledger: &Ledger) {
        for descriptor in &mut *descriptors {
            descriptor.generation = ledger.give(descriptor.index, self.holder, 0, Meta::default());
        }
        let given = self.to.enqueue(descriptors);
        assert_eq!(given, descriptors.len(), "a ring has room for all that is in flight");
        self.bell.ring();
    }

    /// Takes back what comes, checked.
    fn take(&mut self, into: &mut [Descriptor; MAX_GROUP], ledger: &Ledger, buffers: &Buffers) -> usize {
        let n = self.from.dequeue(into);
        for descriptor in &into[..n] {
            ledger.take(descriptor, self.holder, 0, buffers).expect("the function gives back what it was given");
        }
        n
    }
}

pub(super) fn run(in_flight: usize, seconds: f64) -> Result<HopResult, BenchError> {
    let length = in_flight * BUFFER_BYTES as usize;
    let region = Arc::new(Region::create("hops", length, Pages::Auto).map_err(failed("a region"))?);
    let buffers = Buffers::new(region, BUFFER_BYTES).map_err(failed("buffers"))?;
    let ledger = Ledger::new(buffers.count());
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(failed("an eventfd"))?;
    let slots = (in_flight as u32 + 1).next_power_of_two().max(64);
    let (mut a, mut b) = (Lane::new(1, slots, &event)?, Lane::new(2, slots, &event)?);

    let mut laps = Laps::new(in_flight, seconds, [a.function.pid(), b.function.pid()]);
    let mut descriptors = [Descriptor::default(); MAX_GROUP];
    for index in 0..in_flight as u32 {
        a.give(&mut [Descriptor { index, length: 64, ..Descriptor::default() }], &ledger);
    }
    let mut idle = 0;
    loop {
        let from_a = a.take(&mut descriptors, &ledger, &buffers);
        if from_a > 0 {
            b.give(&mut descriptors[..from_a], &ledger);
        }
        let from_b = b.take(&mut descriptors, &ledger, &buffers);
        if from_b > 0 {
            if !laps.came_back(&descriptors[..from_b]) {
                break;
            }
            a.give(&mut descriptors[..from_b], &ledger);
        }
        if from_a + from_b > 0 {
            idle = 0;
        } else if idle < YIELDS {
            idle += 1;
            thread::yield_now();
        } else {
            idle = 0;
            sleep(&mut a, &mut b, &event)?;
        }
    }
    let result = laps.result();
    for lane in [a, b] {
        lane.control.stop().store(1, std::sync::atomic::Ordering::Relaxed);
        lane.bell.ring();
    }
    Ok(result)
}

/// Until one of them rings.
fn sleep(a: &mut Lane, b: &mut Lane, event: &EventFd) -> Result<(), BenchError> {
    for lane in [&*a, &*b] {
        lane.own_bell.announce();
    }
    if a.from.is_empty() && b.from.is_empty() {
        let timeout = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::ZERO);
        poll(&mut [PollFd::new(event.as_fd(), PollFlags::POLLIN)], timeout).map_err(failed("poll"))?;
    }
    for lane in [a, b] {
        lane.own_bell.retract();
    }
    Ok(())
}

/// A function that gives everything back.
pub(super) fn serve() -> Result<(), BenchError> {
    let (_, descriptors) = receive(io::stdin().as_fd(), 1).map_err(failed("standard input"))?;
    let Ok([control, event]) = <[OwnedFd; 2]>::try_from(descriptors) else {
        return Err(BenchError::Failed("a region and an eventfd were to come".to_owned()));
    };
    let control = ControlRegion::open(control).map_err(failed("a region"))?;
    let mut from = control.to_function_consumer(0).map_err(failed("a ring"))?;
    let mut to = control.from_function_producer(0).map_err(failed("a ring"))?;
    let bell = control.function_doorbell();
    let manager = control.manager_doorbell(0, Some(event)).map_err(failed("a doorbell"))?;
    let mut descriptors = [Descriptor::default(); MAX_GROUP];
    let mut idle = 0;
    while control.stop().load(std::sync::atomic::Ordering::Relaxed) == 0 {
        let n = from.dequeue(&mut descriptors);
        if n > 0 {
            to.enqueue(&descriptors[..n]);
            manager.ring();
            idle = 0;
        } else if idle < YIELDS {
            idle += 1;
            thread::yield_now();
        } else {
            idle = 0;
            bell.park(Some(PATIENCE), || !from.is_empty());
        }
    }
    Ok(())
}
