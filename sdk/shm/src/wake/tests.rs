mod model;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::*;
use crate::Pages;

fn doorbell() -> Doorbell {
    Doorbell::new(Arc::new(Region::create("bell", 4096, Pages::Small).unwrap()), 64).unwrap()
}

fn readable(event: BorrowedFd<'_>, timeout_ms: u16) -> bool {
    poll(&mut [PollFd::new(event, PollFlags::POLLIN)], PollTimeout::from(timeout_ms)).unwrap() > 0
}

#[test]
fn a_word_outside_its_region_is_refused() {
    let region = Arc::new(Region::create("bell", 4096, Pages::Small).unwrap());
    assert!(matches!(Doorbell::new(region.clone(), 4096), Err(ShmError::Place { .. })));
    assert!(matches!(Doorbell::new(region, 2), Err(ShmError::Place { .. })));
}

#[test]
fn who_has_work_does_not_sleep() {
    let bell = doorbell();
    assert_eq!(bell.park(None, || true), Wake::Work);
    assert!(!bell.ring(), "nobody sleeps");
}

#[test]
fn sleep_ends_with_its_time() {
    let bell = doorbell();
    let start = Instant::now();
    assert_eq!(bell.park(Some(Duration::from_millis(30)), || false), Wake::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(29));
    assert!(!bell.ring(), "nobody sleeps any more");
}

/// A reader that parks without a timeout after each item, and a writer that rings after each: one lost wake-up hangs it.
#[test]
fn no_wake_up_is_lost_between_threads() {
    let bell = doorbell();
    let work = Arc::new(AtomicU32::new(0));
    const ITEMS: u32 = 20_000;
    let reader = thread::spawn({
        let (bell, work) = (bell.clone(), work.clone());
        move || {
            let mut seen = 0;
            while seen < ITEMS {
                bell.park(None, || work.load(Ordering::Acquire) != seen);
                seen = work.load(Ordering::Acquire);
            }
        }
    });
    for item in 1..=ITEMS {
        work.store(item, Ordering::Release);
        bell.ring();
        if item % 64 == 0 {
            thread::yield_now();
        }
    }
    reader.join().unwrap();
}

#[test]
fn an_event_reader_is_woken_once_per_announcement() {
    let event: OwnedFd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap().into();
    let word = doorbell();
    let writer = EventDoorbell::new(word.clone(), Some(event.try_clone().unwrap()));
    let reader = EventDoorbell::new(word, Some(event));
    let fd = reader.event().unwrap();

    assert!(!writer.ring(), "the reader is awake");
    assert!(!readable(fd, 0));
    reader.announce();
    assert!(writer.ring());
    assert!(!writer.ring(), "woken already");
    assert!(readable(fd, 1000));
    reader.retract();
    assert!(!readable(fd, 0), "drained");

    reader.announce();
    reader.retract();
    assert!(!writer.ring(), "announcement retracted");
}

#[test]
fn a_writer_with_an_eventfd_wakes_a_reader_on_the_word() {
    let event: OwnedFd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap().into();
    let word = doorbell();
    let writer = EventDoorbell::new(word.clone(), Some(event));
    let reader = thread::spawn(move || word.park(Some(Duration::from_secs(10)), || false));
    // A ring between the announcement and the sleep keeps the reader awake, and finds nobody asleep.
    while !writer.ring() && !reader.is_finished() {
        thread::yield_now();
    }
    assert_eq!(reader.join().unwrap(), Wake::Rung);
}

/// The peer shares the open file: it can make it blocking, empty it and fill it.
#[test]
fn a_peer_that_tampers_with_the_eventfd_stops_nobody() {
    let event: OwnedFd = EventFd::from_flags(EfdFlags::EFD_NONBLOCK).unwrap().into();
    let reader = EventDoorbell::new(doorbell(), Some(event.try_clone().unwrap()));
    nix::fcntl::fcntl(&event, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::empty())).unwrap();
    let (done, finished) = std::sync::mpsc::channel();
    thread::spawn(move || {
        reader.announce();
        reader.retract();
        nix::unistd::write(reader.event().unwrap(), &(u64::MAX - 1).to_ne_bytes()).unwrap();
        reader.retract();
        done.send(readable(reader.event().unwrap(), 0)).unwrap();
    });
    assert!(!finished.recv_timeout(Duration::from_secs(10)).expect("retract must not block"));
}
