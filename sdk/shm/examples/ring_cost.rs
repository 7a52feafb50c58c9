//! What a descriptor costs in the ring, in cycles of the time-stamp counter, beside DPDK's `rte_ring` and a plain copy.
//!
//! `cargo run --release -p middlenet-shm --example ring_cost`. Threads are pinned to processors 0 and 1; the best of many
//! short rounds is shown, because whatever else runs on the host only ever adds.

#[path = "../tests/support/c_peer.rs"]
mod c_peer;

use std::hint::{black_box, spin_loop};
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Instant;

use middlenet_shm::{Buffers, ControlGeometry, ControlRegion, Descriptor, Ledger, Meta, Pages, Region, RingArea};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

const BURST: usize = 32;
const SLOTS: u32 = 1024;

fn cycles() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 processor has the instruction.
    return unsafe { core::arch::x86_64::_rdtsc() };
    #[cfg(not(target_arch = "x86_64"))]
    return std::time::UNIX_EPOCH.elapsed().map_or(0, |t| t.as_nanos() as u64);
}

fn pin(cpu: usize) {
    let mut set = CpuSet::new();
    let pinned = set.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &set));
    if let Err(error) = pinned {
        eprintln!("cannot pin to processor {cpu}: {error}");
    }
}

/// Cycles per descriptor of `burst`, which handles `BURST` of them: the best of 50 rounds.
fn best(mut burst: impl FnMut()) -> f64 {
    const TIMES: u64 = 20_000;
    let round = |_| {
        let start = cycles();
        (0..TIMES).for_each(|_| burst());
        (cycles() - start) as f64 / (TIMES * BURST as u64) as f64
    };
    (0..50).map(round).fold(f64::INFINITY, f64::min)
}

fn ring() -> RingArea {
    let region = Region::create("ring", RingArea::bytes(SLOTS), Pages::Auto).expect("memory");
    let area = RingArea::new(Arc::new(region), 0, SLOTS).expect("fits");
    area.init("cost");
    area
}

fn one_thread() {
    let area = ring();
    let (mut producer, mut consumer) = (area.producer(), area.consumer());
    let (from, mut to) = ([Descriptor { index: 7, ..Descriptor::default() }; BURST], [Descriptor::default(); BURST]);
    let cost = best(|| {
        producer.enqueue(black_box(&from));
        consumer.dequeue(black_box(&mut to));
    });
    println!("one thread, enqueue and dequeue: {cost:.2} cycles per descriptor");

    let mut slots = vec![[Descriptor::default(); BURST]; SLOTS as usize / BURST];
    let mut at = 0;
    let cost = best(|| {
        black_box(&mut slots[at]).copy_from_slice(black_box(&from));
        black_box(&mut to).copy_from_slice(black_box(&slots[at]));
        at = (at + 1) % slots.len();
    });
    println!("one thread, copied in and out with memcpy: {cost:.2} cycles per descriptor");

    let buffers = 8192;
    let region = Region::create("packets", buffers * 2048, Pages::Auto).expect("memory");
    let buffers = Buffers::new(Arc::new(region), 2048).expect("fits");
    let ledger = Ledger::new(buffers.count());
    let mut next = 0;
    let cost = best(|| {
        for _ in 0..BURST {
            let generation = ledger.give(next, 1, 0, Meta::default());
            let d = Descriptor { index: next, offset: 128, length: 64, generation, ..Descriptor::default() };
            let _ = black_box(ledger.take(black_box(&d), 1, 0, &buffers));
            next = (next + 1) % buffers.count();
        }
    });
    println!("one thread, ledger give and take: {cost:.2} cycles per descriptor");

    let control = ControlRegion::create("bell", ControlGeometry { workers: 1, slots: 64 }).expect("memory");
    let bell = control.function_doorbell();
    let mut woken = false;
    let cost = best(|| woken |= black_box(bell.ring())) * BURST as f64;
    assert!(!woken);
    println!("ring of a doorbell whose reader is awake: {cost:.1} cycles per burst");
}

/// The best and the middle of many windows of `WINDOW` descriptors: both threads must run for a window to be short.
fn two_cores() {
    const WINDOW: usize = 2_000 * BURST;
    const WINDOWS: usize = 1_000;
    let area = ring();
    let (mut producer, mut consumer) = (area.producer(), area.consumer());
    let sender = thread::spawn(move || {
        pin(1);
        let from = [Descriptor { index: 7, ..Descriptor::default() }; BURST];
        let mut sent = 0;
        while sent < WINDOW * WINDOWS {
            let n = producer.enqueue(black_box(&from[..BURST.min(WINDOW * WINDOWS - sent)]));
            if n == 0 {
                spin_loop();
            }
            sent += n;
        }
    });
    let mut to = [Descriptor::default(); BURST];
    let (first, started) = (cycles(), Instant::now());
    let mut windows = Vec::with_capacity(WINDOWS);
    for _ in 0..WINDOWS {
        let (start, mut received) = (cycles(), 0);
        while received < WINDOW {
            let n = consumer.dequeue(black_box(&mut to[..BURST.min(WINDOW - received)]));
            if n == 0 {
                spin_loop();
            }
            received += n;
        }
        windows.push((cycles() - start) as f64 / WINDOW as f64);
    }
    let per_second = (cycles() - first) as f64 / started.elapsed().as_secs_f64();
    sender.join().expect("the sender does not panic");
    windows.sort_by(f64::total_cmp);
    let rate = |cost: f64| per_second / cost / 1e6;
    let (least, middle) = (windows[0], windows[WINDOWS / 2]);
    println!("two cores, best: {least:.2} cycles per descriptor, {:.0} M/s", rate(least));
    println!("two cores, median: {middle:.2} cycles per descriptor, {:.0} M/s", rate(middle));
}

fn main() {
    pin(0);
    println!("this crate, bursts of {BURST}, {SLOTS} slots");
    one_thread();
    two_cores();
    if let Some(peer) = c_peer::rte_ring_peer(&std::env::temp_dir()) {
        println!("rte_ring in C, gcc -O3");
        let status = Command::new(&peer).arg("speed").status();
        println!("{}", status.map_or_else(|e| e.to_string(), |s| s.to_string()));
        let _ = std::fs::remove_file(peer);
    }
}
