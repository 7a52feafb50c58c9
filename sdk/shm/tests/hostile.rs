//! A function that writes whatever it likes wherever it can, in bursts of honest work, and a manager that goes on.

#[path = "support/child.rs"]
mod child;

use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use middlenet_shm::{Buffers, ControlGeometry, ControlRegion, Descriptor, Ledger, Meta, Pages, Region, Reject, State};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

const WORKERS: u16 = 2;
const SLOTS: u32 = 128;
const GEOMETRY: ControlGeometry = ControlGeometry { workers: WORKERS, slots: SLOTS };
/// Where the rings begin in a control region.
const RINGS: usize = 8192;
const BUFFERS: usize = 512;
const HOLDER: u16 = 9;
/// The least time of hostility.
const LASTING: Duration = Duration::from_secs(2);
/// The most, where the host is so busy that little has been seen by then.
const PATIENCE: Duration = Duration::from_secs(120);

/// xorshift64: a test needs no better.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// The hostile function. Garbage over the whole region would stop all traffic for good, and the manager's ledger would
/// have nothing to judge, so it takes turns: some honest work, some forged descriptors, some garbage everywhere.
#[test]
#[ignore = "runs in a process of its own, started by the other test"]
fn child_that_is_hostile() {
    let Some(mut fds) = child::handed() else { return };
    let event = fds.pop().unwrap();
    let control = ControlRegion::open(fds.remove(0)).unwrap();
    let region = control.region().clone();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let mut ends: Vec<_> = (0..WORKERS)
        .map(|w| (control.to_function_consumer(w).unwrap(), control.from_function_producer(w).unwrap()))
        .collect();
    let mut burst = [Descriptor::default(); 32];
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        for _ in 0..200 {
            let from = random.below(ends.len());
            let to = if random.below(50) == 0 { random.below(ends.len()) } else { from };
            let n = ends[from].0.dequeue(&mut burst);
            for d in &mut burst[..n] {
                forge(d, &mut random);
            }
            ends[to].1.enqueue(&burst[..n]);
            if n > 0 && random.below(20) == 0 {
                ends[to].1.enqueue(&burst[..n]); // all of it twice
            }
        }
        let heads = ring_heads(&region).map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>();
        for _ in 0..random.below(2000) {
            garble(&region, &mut random);
        }
        // Rings whose indexes stay garbled carry nothing any more, and the ledger would have nothing to judge.
        ring_heads(&region).zip(heads).for_each(|(word, value)| word.store(value, Ordering::Relaxed));
        assert!(nix::unistd::ftruncate(region.fd(), 0).is_err());
        let _ = nix::unistd::write(&event, &random.next().to_ne_bytes());
        let flags = if random.below(2) == 0 { nix::fcntl::OFlag::O_NONBLOCK } else { nix::fcntl::OFlag::empty() };
        if flags.is_empty() {
            // Blocking: then the write above must not block us, who want to go on.
            nix::fcntl::fcntl(&event, nix::fcntl::FcntlArg::F_SETFL(flags)).unwrap();
            std::thread::sleep(Duration::from_micros(200));
            nix::fcntl::fcntl(&event, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
        }
        control.state().store(State::Running as u32, Ordering::Relaxed);
    }
}

/// Now and then changes one field of a descriptor.
fn forge(d: &mut Descriptor, random: &mut Random) {
    match random.below(40) {
        0 => d.index = random.next() as u32,
        1 => d.index = random.below(BUFFERS) as u32,
        2 => d.generation = d.generation.wrapping_sub(1),
        3 => d.length = u16::MAX,
        4 => d.offset = random.next() as u16,
        _ => {}
    }
}

/// The words of the rings' headers.
fn ring_heads(region: &Region) -> impl Iterator<Item = &AtomicU64> {
    (0..usize::from(WORKERS) * 3 * 48).map(|n| {
        let at = RINGS + n / 48 * (384 + 16 * SLOTS as usize) + n % 48 * 8;
        // SAFETY: the headers lie inside the region, aligned to 64 bytes; all accesses to them are atomic.
        unsafe { AtomicU64::from_ptr(region.as_ptr().add(at).cast()) }
    })
}

/// Writes one word somewhere: noise, or what nearly makes sense.
fn garble(region: &Region, random: &mut Random) {
    // Half of the writes go to the head of the region and of its rings, where a word can do harm.
    let at = match random.below(4) {
        0 => random.below(RINGS),
        1 => RINGS + random.below(usize::from(WORKERS) * 3) * (384 + 16 * SLOTS as usize) + random.below(384),
        _ => random.below(region.length()),
    };
    let at = at & !7;
    // SAFETY: 8 bytes inside the region, aligned; atomic, as all accesses to it.
    let word = unsafe { AtomicU64::from_ptr(region.as_ptr().add(at).cast()) };
    // SAFETY: as above.
    let half = unsafe { AtomicU32::from_ptr(region.as_ptr().add(at + 4).cast()) };
    match random.below(4) {
        0 => word.store(random.next(), Ordering::Relaxed),
        1 => word.store(u64::MAX, Ordering::Relaxed),
        2 => half.store(half.load(Ordering::Relaxed).wrapping_add(random.below(300) as u32), Ordering::Relaxed),
        _ => half.store(half.load(Ordering::Relaxed).wrapping_sub(random.below(300) as u32), Ordering::Relaxed),
    }
}

/// What the manager knows by itself of the buffers that one worker gave out: the truth that the ledger must agree with.
struct Truth {
    free: Vec<u32>,
    given: HashMap<u32, (u16, u8)>,
}

#[derive(Debug, Default)]
struct Seen {
    accepted: u64,
    index: u64,
    holder: u64,
    generation: u64,
    bounds: u64,
    reclaims: u64,
    rounds: u64,
    longest: Duration,
}

impl Seen {
    /// Whether everything that can happen has happened, and often enough.
    fn suffices(&self) -> bool {
        let rejected = [self.index, self.holder, self.generation, self.bounds];
        rejected.iter().all(|&n| n > 0) && self.accepted > 1000 && self.rounds > 100
    }
}

/// One worker's side of the manager: what outlives a function.
struct Worker {
    id: u8,
    truth: Truth,
}

#[test]
fn the_manager_outlives_a_hostile_function() {
    let buffers =
        Buffers::new(Arc::new(Region::create("packets", BUFFERS * 2048, Pages::Small).unwrap()), 2048).unwrap();
    let ledger = Ledger::new(BUFFERS as u32);
    let share = BUFFERS / usize::from(WORKERS);
    let mut workers: Vec<_> = (0..usize::from(WORKERS))
        .map(|w| {
            let free = (w * share..(w + 1) * share).map(|index| index as u32).collect();
            Worker { id: w as u8, truth: Truth { free, given: HashMap::new() } }
        })
        .collect();
    let mut seen = Seen::default();
    let (mut garbled, mut lives) = (0, 0);
    let start = Instant::now();
    while start.elapsed() < LASTING || !(garbled > 0 && seen.suffices()) {
        assert!(start.elapsed() < PATIENCE, "too little seen in {lives} lives: {seen:?}, garbled indexes: {garbled}");
        garbled += life(&ledger, &buffers, &mut workers, &mut seen);
        lives += 1;
        // The function is gone: every buffer that it kept comes back, and no other.
        for Worker { id, truth } in &mut workers {
            take_back_all(&ledger, truth, *id);
            assert_eq!((truth.given.len(), truth.free.len()), (0, share), "all are back");
        }
    }
    eprintln!("{lives} lives, {seen:?}, garbled indexes: {garbled}");
    assert!(seen.longest < Duration::from_secs(5), "no wait without bound");
}

/// One life of the function: until it has brought its own rings to a stand, as in the end it does, since a ring whose
/// index it has moved carries nothing more; or for long enough. Its manager starts it anew, with new rings. Returns how
/// many indexes were found garbled.
fn life(ledger: &Ledger, buffers: &Buffers, workers: &mut [Worker], seen: &mut Seen) -> u64 {
    let control = ControlRegion::create("hostile", GEOMETRY).unwrap();
    let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).unwrap();
    let (mut child, _socket) = child::start("child_that_is_hostile", &[control.fd(), event.as_fd()]);
    let mut sides: Vec<_> = (0..WORKERS)
        .map(|w| {
            let bell = control.manager_doorbell(w, Some(event.as_fd().try_clone_to_owned().unwrap())).unwrap();
            let rings = (
                control.to_function_producer(w).unwrap(),
                control.from_function_consumer(w).unwrap(),
                control.supply_producer(w).unwrap(),
            );
            (bell, rings)
        })
        .collect();
    let doorbell = control.function_doorbell();
    let mut burst = [Descriptor::default(); 32];
    let born = Instant::now();
    // A process takes its time to start where the host is busy.
    let (mut heard, mut patience) = (born, Duration::from_secs(10));
    while heard.elapsed() < patience && born.elapsed() < LASTING / 2 + patience {
        for (Worker { id, truth }, (bell, (there, back, supply))) in workers.iter_mut().zip(&mut sides) {
            let round = Instant::now();
            if truth.free.is_empty() {
                // It has lost them all in its own garbage.
                take_back_all(ledger, truth, *id);
                seen.reclaims += 1;
            }
            send(ledger, truth, *id, there);
            assert!(there.free() <= there.capacity() && there.used() <= there.capacity());
            assert!(supply.enqueue(&burst[..1]) <= 1);
            doorbell.ring();

            let n = back.dequeue(&mut burst);
            assert!(n <= burst.len() && back.len() <= back.capacity());
            let before = seen.accepted;
            for d in &burst[..n] {
                judge(d, ledger.take(d, HOLDER, *id, buffers), truth, seen);
            }
            if seen.accepted > before {
                (heard, patience) = (round, Duration::from_millis(200));
            }
            if n == 0 && seen.rounds.is_multiple_of(16) {
                bell.park(Some(Duration::from_micros(50)), || !back.is_empty());
                bell.announce();
                poll(&mut [PollFd::new(bell.event().unwrap(), PollFlags::POLLIN)], PollTimeout::ZERO).unwrap();
                bell.retract();
            }
            let _ = State::from_word(control.state().load(Ordering::Relaxed));
            let _ = control.counters().iter().fold(0, |sum, c| c.load(Ordering::Relaxed) ^ sum);
            seen.rounds += 1;
            seen.longest = seen.longest.max(round.elapsed());
        }
        std::thread::yield_now();
    }
    assert_eq!(child.try_wait().unwrap(), None, "it goes on until it is killed");
    child.kill().unwrap();
    child.wait().unwrap();
    sides.iter().map(|(_, (p, c, s))| p.garbled() + c.garbled() + s.garbled()).sum()
}

/// Reclaims, and sees that it is what the function held and nothing else.
fn take_back_all(ledger: &Ledger, truth: &mut Truth, worker: u8) {
    assert_eq!(ledger.held_by(HOLDER, worker) as usize, truth.given.len());
    ledger.reclaim(HOLDER, worker, |index| {
        assert!(truth.given.remove(&index).is_some());
        truth.free.push(index);
    });
    assert!(truth.given.is_empty());
}

/// Gives the function up to eight buffers.
fn send(ledger: &Ledger, truth: &mut Truth, worker: u8, there: &mut middlenet_shm::Producer) {
    let n = there.free().min(8).min(truth.free.len());
    let mut burst = [Descriptor::default(); 8];
    for d in &mut burst[..n] {
        let index = truth.free.pop().unwrap();
        let generation = ledger.give(index, HOLDER, worker, Meta { ingress: worker, ..Meta::default() });
        truth.given.insert(index, (generation, worker));
        *d = Descriptor { index, offset: 128, length: 64, generation, ..Descriptor::default() };
    }
    let sent = there.enqueue(&burst[..n]);
    for d in &burst[sent..n] {
        // The function holds it in the ledger, but never saw it: it comes back at the end, as if the function kept it.
        assert!(truth.given.contains_key(&d.index));
    }
}

/// Holds the ledger's answer against the truth.
fn judge(d: &Descriptor, answer: Result<Meta, Reject>, truth: &mut Truth, seen: &mut Seen) {
    match answer {
        Ok(meta) => {
            let (generation, worker) = truth.given.remove(&d.index).expect("accepted what was not given");
            assert_eq!((generation, worker), (d.generation, meta.ingress));
            assert!(u32::from(d.offset) + u32::from(d.length) <= 2048);
            truth.free.insert(0, d.index);
            seen.accepted += 1;
        }
        Err(Reject::Bounds) => {
            assert_eq!(truth.given.remove(&d.index).expect("released what was not given").0, d.generation);
            truth.free.insert(0, d.index);
            seen.bounds += 1;
        }
        Err(Reject::Index) => {
            assert!(d.index as usize >= BUFFERS);
            seen.index += 1;
        }
        Err(Reject::Generation) => {
            assert_ne!(truth.given[&d.index].0, d.generation);
            seen.generation += 1;
        }
        Err(Reject::Holder) => {
            assert!(!truth.given.contains_key(&d.index), "rejected what was given");
            seen.holder += 1;
        }
    }
}
