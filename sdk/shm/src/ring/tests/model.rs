//! Loom runs every interleaving and every allowed reordering of the algorithm in `index.rs`. Slots are loom cells, so a
//! slot that is read and written without an order between the two fails the model.

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU32;
use loom::thread;

use super::descriptor;
use crate::Descriptor;
use crate::ring::index::{End, Reader, Slots, Writer};

struct Modelled {
    heads: [AtomicU32; 2],
    tails: [AtomicU32; 2],
    slots: Vec<UnsafeCell<Descriptor>>,
}

fn modelled(slots: u32, start: u32) -> Arc<Modelled> {
    let index = || [AtomicU32::new(start), AtomicU32::new(start)];
    let slots = (0..slots).map(|_| UnsafeCell::new(Descriptor::default())).collect();
    Arc::new(Modelled { heads: index(), tails: index(), slots })
}

impl Slots for Arc<Modelled> {
    type Index = AtomicU32;

    fn tail(&self, end: End) -> &AtomicU32 {
        &self.tails[(end == End::Consumer) as usize]
    }

    fn head(&self, end: End) -> &AtomicU32 {
        &self.heads[(end == End::Consumer) as usize]
    }

    fn write(&self, at: usize, from: &[Descriptor]) {
        for (slot, descriptor) in self.slots[at..][..from.len()].iter().zip(from) {
            // SAFETY: loom fails the model if another thread may access the cell meanwhile.
            slot.with_mut(|p| unsafe { *p = *descriptor });
        }
    }

    fn read(&self, at: usize, to: &mut [Descriptor]) {
        for (slot, descriptor) in self.slots[at..][..to.len()].iter().zip(to) {
            // SAFETY: as in `write`.
            *descriptor = slot.with(|p| unsafe { *p });
        }
    }
}

/// Sends `count` descriptors in bursts through a ring of `slots`, its indexes starting at `start`.
fn pass(slots: u32, start: u32, count: u32, in_burst: usize, out_burst: usize) {
    loom::model(move || {
        let shared = modelled(slots, start);
        let mut writer = Writer::new(shared.clone(), slots, start);
        let producer = thread::spawn(move || {
            let all: Vec<Descriptor> = (0..count).map(descriptor).collect();
            let mut sent = 0;
            while sent < all.len() {
                let burst = &all[sent..all.len().min(sent + in_burst)];
                match writer.enqueue(burst) {
                    0 => thread::yield_now(),
                    n => sent += n,
                }
            }
            assert_eq!(writer.garbled(), 0);
        });
        let mut reader = Reader::new(shared, slots, start);
        let mut out = vec![Descriptor::default(); out_burst];
        let mut received = 0;
        while received < count {
            match reader.dequeue(&mut out) {
                0 => thread::yield_now(),
                n => {
                    for got in &out[..n] {
                        assert_eq!(*got, descriptor(received));
                        received += 1;
                    }
                }
            }
        }
        assert_eq!(reader.garbled(), 0);
        producer.join().unwrap();
    });
}

#[test]
fn order_holds_one_by_one() {
    pass(2, 0, 3, 1, 1);
}

#[test]
fn order_holds_in_bursts_that_wrap() {
    pass(4, 0, 5, 2, 3);
}

#[test]
fn order_holds_when_the_index_overflows() {
    pass(4, u32::MAX - 1, 4, 3, 2);
}
