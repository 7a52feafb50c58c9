//! The protocol of sleeping and waking, and of the rings, between two processes.

#[path = "support/child.rs"]
mod child;

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use middlenet_shm::{ControlGeometry, ControlRegion, Descriptor, State, Wake};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

const GEOMETRY: ControlGeometry = ControlGeometry { workers: 1, slots: 64 };
const LIMIT: Duration = Duration::from_secs(60);

/// Sends descriptors one by one to a child that parks after each and sends it back; both sides sleep every time, so a
/// lost wake-up stops everything. `sleep` is how this side sleeps.
fn ping_pong(count: u32, event: Option<OwnedFd>) {
    let control = ControlRegion::create("ping-pong", GEOMETRY).unwrap();
    let mut fds = vec![control.fd()];
    fds.extend(event.as_ref().map(AsFd::as_fd));
    let (child, _socket) = child::start("child_that_echoes", &fds);
    let ours = control.manager_doorbell(0, event.as_ref().map(|e| e.try_clone().unwrap())).unwrap();
    let theirs = control.function_doorbell();
    let mut there = control.to_function_producer(0).unwrap();
    let mut back = control.from_function_consumer(0).unwrap();
    let mut out = [Descriptor::default(); 4];
    let start = Instant::now();
    for index in 0..count {
        assert_eq!(there.enqueue(&[Descriptor { index, ..Descriptor::default() }]), 1);
        theirs.ring();
        while back.is_empty() {
            match ours.event() {
                None => drop(ours.park(Some(LIMIT), || !back.is_empty())),
                Some(event) => {
                    ours.announce();
                    if back.is_empty() {
                        poll(&mut [PollFd::new(event, PollFlags::POLLIN)], PollTimeout::from(60_000u16)).unwrap();
                    }
                    ours.retract();
                }
            }
            assert!(start.elapsed() < LIMIT, "a wake-up was lost at {index}");
        }
        assert_eq!((back.dequeue(&mut out), out[0].index), (1, index));
    }
    eprintln!("{} ns per round trip", start.elapsed().as_nanos() / u128::from(count));
    control.stop().store(1, Ordering::Release);
    theirs.ring();
    child::finish(child, LIMIT);
    assert_eq!(State::from_word(control.state().load(Ordering::Acquire)), Some(State::Stopped));
    assert_eq!(control.heartbeat().load(Ordering::Acquire), u64::from(count));
}

#[test]
#[ignore = "runs in a process of its own, started by the other tests"]
fn child_that_echoes() {
    let Some(mut fds) = child::handed() else { return };
    let control = ControlRegion::open(fds.remove(0)).unwrap();
    control.state().store(State::Running as u32, Ordering::Release);
    let manager = control.manager_doorbell(0, fds.pop()).unwrap();
    let doorbell = control.function_doorbell();
    let mut there = control.to_function_consumer(0).unwrap();
    let mut back = control.from_function_producer(0).unwrap();
    let mut burst = [Descriptor::default(); 4];
    loop {
        let n = there.dequeue(&mut burst);
        if n > 0 {
            control.heartbeat().fetch_add(n as u64, Ordering::Relaxed);
            assert_eq!(back.enqueue(&burst[..n]), n);
            manager.ring();
        } else if control.stop().load(Ordering::Acquire) != 0 {
            break;
        } else {
            let stop = || control.stop().load(Ordering::Acquire) != 0;
            assert_ne!(doorbell.park(Some(LIMIT), || !there.is_empty() || stop()), Wake::TimedOut);
        }
    }
    control.state().store(State::Stopped as u32, Ordering::Release);
}

#[test]
fn two_processes_wake_each_other_on_futexes() {
    ping_pong(20_000, None);
}

#[test]
fn a_function_wakes_a_manager_that_polls_an_eventfd() {
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
    ping_pong(20_000, Some(event.into()));
}

/// The memory belongs to whoever holds it, not to the child that died in the middle of it.
#[test]
fn a_child_that_is_killed_leaves_the_memory_usable() {
    let control = ControlRegion::create("killed", GEOMETRY).unwrap();
    let (mut child, _socket) = child::start("child_that_echoes", &[control.fd()]);
    let start = Instant::now();
    while State::from_word(control.state().load(Ordering::Acquire)) != Some(State::Running) {
        assert!(start.elapsed() < LIMIT, "the child did not start");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let mut there = control.to_function_producer(0).unwrap();
    assert_eq!(there.enqueue(&[Descriptor::default(); 100]), 63, "nobody reads: the ring fills and no more");
    control.function_doorbell().ring();
}
