//! The mapped ring against a queue of the standard library.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;

use super::{descriptor, ring};
use crate::Descriptor;
use crate::ring::{Consumer, Producer, RingArea};

#[derive(Clone, Debug)]
enum Step {
    Enqueue(usize),
    Dequeue(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![(0..80usize).prop_map(Step::Enqueue), (0..80usize).prop_map(Step::Dequeue)];
    proptest::collection::vec(step, 1..200)
}

fn index_word(area: &RingArea, at: usize) -> &AtomicU32 {
    // SAFETY: the area starts with a header of 384 bytes, and `at` is 4-byte aligned in it.
    unsafe { AtomicU32::from_ptr(area.base().add(at).cast()) }
}

proptest! {
    #[test]
    fn the_ring_is_a_bounded_queue(bits in 1..7u32, start: u32, steps in steps()) {
        let area = ring(1 << bits);
        for at in [128, 132, 256, 260] {
            index_word(&area, at).store(start, Ordering::Relaxed);
        }
        let (mut producer, mut consumer) = (Producer::new(&area, start), Consumer::new(&area, start));
        let (capacity, mut queue, mut next) = ((1 << bits) - 1, VecDeque::new(), 0u32);
        for step in steps {
            match step {
                Step::Enqueue(n) => {
                    let burst: Vec<Descriptor> = (next..next + n as u32).map(descriptor).collect();
                    let fits = n.min(capacity - queue.len());
                    prop_assert_eq!(producer.enqueue(&burst), fits);
                    queue.extend(&burst[..fits]);
                    next += fits as u32;
                }
                Step::Dequeue(n) => {
                    let mut out = vec![Descriptor::default(); n];
                    let there = n.min(queue.len());
                    prop_assert_eq!(consumer.dequeue(&mut out), there);
                    prop_assert_eq!(out[..there].to_vec(), queue.drain(..there).collect::<Vec<_>>());
                    prop_assert!(out[there..].iter().all(|d| *d == Descriptor::default()), "untouched");
                }
            }
            prop_assert_eq!(producer.used(), queue.len());
            prop_assert_eq!(producer.free(), capacity - queue.len());
            prop_assert_eq!(consumer.len(), queue.len());
            prop_assert_eq!(consumer.is_empty(), queue.is_empty());
        }
        prop_assert_eq!((producer.garbled(), consumer.garbled()), (0, 0));
    }

    /// Whatever the peer writes to its index, an end stays inside the ring and within its capacity.
    #[test]
    fn a_lying_peer_is_bounded(lies in proptest::collection::vec(any::<u32>(), 1..50), n in 0..80usize) {
        let area = ring(16);
        let (mut producer, mut consumer) = (area.producer(), area.consumer());
        let burst = vec![descriptor(7); n];
        let mut out = vec![Descriptor::default(); n];
        for lie in lies {
            index_word(&area, 260).store(lie, Ordering::Relaxed);
            prop_assert!(producer.free() <= 15);
            prop_assert!(producer.used() <= 15);
            prop_assert!(producer.enqueue(&burst) <= 15);
            index_word(&area, 132).store(lie, Ordering::Relaxed);
            prop_assert!(consumer.len() <= 15);
            prop_assert!(consumer.dequeue(&mut out) <= 15);
        }
    }
}

#[test]
fn an_index_out_of_range_counts_as_nothing_and_is_counted() {
    let area = ring(16);
    let (mut producer, mut consumer) = (area.producer(), area.consumer());
    index_word(&area, 260).store(1, Ordering::Relaxed); // more read than was ever written
    assert_eq!(producer.enqueue(&[descriptor(0); 4]), 0);
    assert_eq!(producer.garbled(), 1);
    index_word(&area, 260).store(0, Ordering::Relaxed);
    assert_eq!(producer.enqueue(&[descriptor(0); 4]), 4, "goes on when the peer comes to its senses");

    index_word(&area, 132).store(16, Ordering::Relaxed); // one more than fits
    assert_eq!(consumer.dequeue(&mut [Descriptor::default(); 4]), 0);
    assert_eq!(consumer.garbled(), 1);
    index_word(&area, 132).store(4, Ordering::Relaxed);
    assert_eq!(consumer.dequeue(&mut [Descriptor::default(); 4]), 4);
}
