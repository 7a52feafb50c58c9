//! Loom runs every interleaving and allowed reordering of `announce.rs`. A lost wake-up is a deadlock, which loom reports.

use std::time::Duration;

use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

use crate::wake::Wake;
use crate::wake::announce::{AWAKE, ON_EVENT, ON_FUTEX, Word, announce, park, retract, ring};

/// The kernel's part: a futex compares the word and queues the sleeper under one lock; an eventfd keeps a count.
struct Modelled {
    word: AtomicU32,
    queue: Mutex<u64>,
    wakes: Condvar,
}

fn modelled_word() -> Modelled {
    Modelled { word: AtomicU32::new(AWAKE), queue: Mutex::new(0), wakes: Condvar::new() }
}

fn modelled() -> Arc<Modelled> {
    Arc::new(modelled_word())
}

impl Word for Modelled {
    type Atomic = AtomicU32;

    fn word(&self) -> &AtomicU32 {
        &self.word
    }

    fn sleep(&self, expected: u32, _: Option<Duration>) -> bool {
        let queue = self.queue.lock().unwrap();
        if self.word.load(Ordering::Relaxed) == expected {
            drop(self.wakes.wait(queue).unwrap());
        }
        true
    }

    fn wake(&self, on: u32) -> bool {
        let mut count = self.queue.lock().unwrap();
        if on == ON_EVENT {
            *count += 1;
        }
        self.wakes.notify_all();
        true
    }
}

#[test]
fn a_parked_reader_is_always_woken() {
    loom::model(|| {
        let bell = modelled();
        let work = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let (bell, work) = (bell.clone(), work.clone());
            move || {
                work.store(true, Ordering::Release);
                ring(&*bell);
            }
        });
        while !work.load(Ordering::Acquire) {
            let wake = park(&*bell, None, || work.load(Ordering::Acquire));
            assert_ne!(wake, Wake::TimedOut);
        }
        writer.join().unwrap();
    });
}

#[test]
fn a_reader_with_two_writers_gets_the_work_of_both() {
    // Every schedule of three threads is too many: those with up to two preemptions.
    let mut bounded = loom::model::Builder::new();
    bounded.preemption_bound = Some(2);
    bounded.check(|| {
        let bell = modelled();
        let work = Arc::new(AtomicU32::new(0));
        let writers: Vec<_> = (0..2)
            .map(|_| {
                let (bell, work) = (bell.clone(), work.clone());
                thread::spawn(move || {
                    work.fetch_add(1, Ordering::Release);
                    ring(&*bell);
                })
            })
            .collect();
        let mut seen = 0;
        while seen < 2 {
            park(&*bell, None, || work.load(Ordering::Acquire) != seen);
            seen = work.load(Ordering::Acquire);
        }
        writers.into_iter().for_each(|w| w.join().unwrap());
    });
}

#[test]
fn a_reader_on_an_eventfd_is_always_woken() {
    loom::model(|| {
        let bell = modelled();
        let work = Arc::new(AtomicBool::new(false));
        let writer = thread::spawn({
            let (bell, work) = (bell.clone(), work.clone());
            move || {
                work.store(true, Ordering::Release);
                ring(&*bell);
            }
        });
        while !work.load(Ordering::Acquire) {
            announce(&*bell, ON_EVENT);
            if !work.load(Ordering::Acquire) {
                let mut count = bell.queue.lock().unwrap();
                while *count == 0 {
                    count = bell.wakes.wait(count).unwrap();
                }
                *count = 0;
            }
            retract(&*bell);
        }
        writer.join().unwrap();
    });
}

/// The model can see the bug it is there for: with nothing between announcement and look, a wake-up is lost.
#[test]
#[should_panic(expected = "deadlock")]
fn without_the_last_look_a_wake_up_is_lost() {
    loom::model(|| {
        // Leaked: loom's Arc cannot be dropped while the panic that reports the deadlock unwinds.
        let bell: &Modelled = Box::leak(Box::new(modelled_word()));
        let work: &AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
        thread::spawn(|| {
            work.store(true, Ordering::Release);
            ring(bell);
        });
        while !work.load(Ordering::Acquire) {
            announce(bell, ON_FUTEX);
            bell.sleep(ON_FUTEX, None);
            retract(bell);
        }
    });
}
