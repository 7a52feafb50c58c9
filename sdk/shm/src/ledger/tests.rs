use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{Pages, Region};

const META: Meta = Meta { ingress: 3, egress: 0xff, reverse: true, sampled: false, hops: 5 };
const FUNCTION: u16 = 7;
const WORKER: u8 = 1;

fn buffers(count: usize) -> Buffers {
    Buffers::new(Arc::new(Region::create("packets", count * 2048, Pages::Small).unwrap()), 2048).unwrap()
}

fn descriptor(index: u32, generation: u16) -> Descriptor {
    Descriptor { index, offset: 128, length: 64, generation, ..Descriptor::default() }
}

#[test]
fn what_was_given_comes_back_once_with_its_meta() {
    let (ledger, buffers) = (Ledger::new(4), buffers(4));
    for meta in [META, Meta { ingress: 0xff, egress: 0, reverse: false, sampled: true, hops: Meta::MAX_HOPS }] {
        let d = descriptor(2, ledger.give(2, FUNCTION, WORKER, meta));
        assert_eq!(ledger.held_by(FUNCTION, WORKER), 1);
        assert_eq!(ledger.take(&d, FUNCTION, WORKER, &buffers), Ok(meta));
        assert_eq!(ledger.held_by(FUNCTION, WORKER), 0);
        assert_eq!(ledger.take(&d, FUNCTION, WORKER, &buffers), Err(Reject::Holder), "returned twice");
    }
}

#[test]
fn hops_stop_at_their_limit_and_spill_into_nothing() {
    let (ledger, buffers) = (Ledger::new(1), buffers(2));
    let meta = Meta { hops: u8::MAX, ..Meta::default() };
    let d = descriptor(0, ledger.give(0, FUNCTION, WORKER, meta));
    let expected = Meta { hops: Meta::MAX_HOPS, ..Meta::default() };
    assert_eq!(ledger.take(&d, FUNCTION, WORKER, &buffers), Ok(expected));
}

#[test]
fn what_another_holds_is_rejected_and_stays_where_it_is() {
    let (ledger, buffers) = (Ledger::new(4), buffers(4));
    let d = descriptor(0, ledger.give(0, FUNCTION, WORKER, META));
    assert_eq!(ledger.take(&d, FUNCTION + 1, WORKER, &buffers), Err(Reject::Holder), "another function");
    assert_eq!(ledger.take(&d, FUNCTION, WORKER + 1, &buffers), Err(Reject::Holder), "another worker");
    assert_eq!(ledger.take(&descriptor(1, 0), FUNCTION, WORKER, &buffers), Err(Reject::Holder), "never given");
    assert_eq!(ledger.take(&descriptor(1, 0), 0, 0, &buffers), Err(Reject::Holder), "the manager holds, never returns");
    assert_eq!(ledger.take(&descriptor(4, 0), FUNCTION, WORKER, &buffers), Err(Reject::Index));
    assert_eq!(ledger.take(&descriptor(u32::MAX, 0), FUNCTION, WORKER, &buffers), Err(Reject::Index));
    assert_eq!(ledger.take(&d, FUNCTION, WORKER, &buffers), Ok(META));
}

#[test]
fn an_old_descriptor_is_rejected_and_the_new_one_still_good() {
    let (ledger, buffers) = (Ledger::new(4), buffers(4));
    let old = descriptor(0, ledger.give(0, FUNCTION, WORKER, META));
    assert_eq!(ledger.take(&old, FUNCTION, WORKER, &buffers), Ok(META));
    let new = descriptor(0, ledger.give(0, FUNCTION, WORKER, META));
    assert_eq!(ledger.take(&old, FUNCTION, WORKER, &buffers), Err(Reject::Generation));
    assert_eq!(ledger.take(&new, FUNCTION, WORKER, &buffers), Ok(META));
}

#[test]
fn the_generation_wraps() {
    let (ledger, buffers) = (Ledger::new(1), buffers(2));
    for n in 1..=70_000u32 {
        let generation = ledger.give(0, FUNCTION, WORKER, META);
        assert_eq!(generation, n as u16);
        assert_eq!(ledger.take(&descriptor(0, generation), FUNCTION, WORKER, &buffers), Ok(META));
    }
}

#[test]
fn a_packet_outside_its_buffer_is_rejected_but_its_buffer_is_back() {
    let (ledger, buffers) = (Ledger::new(4), buffers(4));
    let mut d = descriptor(3, ledger.give(3, FUNCTION, WORKER, META));
    d.offset = 2000;
    assert_eq!(ledger.take(&d, FUNCTION, WORKER, &buffers), Err(Reject::Bounds));
    assert_eq!(ledger.held_by(FUNCTION, WORKER), 0);
    assert_ne!(ledger.give(3, FUNCTION, WORKER, META), d.generation);
}

#[test]
fn reclaim_takes_back_all_of_one_holder_on_one_worker() {
    let (ledger, buffers) = (Ledger::new(10), buffers(10));
    let mut last = Descriptor::default();
    for index in 0..10 {
        let (holder, worker) = if index % 2 == 0 { (FUNCTION, WORKER) } else { (FUNCTION, WORKER + 1) };
        last = descriptor(index, ledger.give(index, holder, worker, META));
    }
    let mut back = Vec::new();
    ledger.reclaim(FUNCTION, WORKER, |index| back.push(index));
    assert_eq!(back, [0, 2, 4, 6, 8]);
    assert_eq!((ledger.held_by(FUNCTION, WORKER), ledger.held_by(FUNCTION, WORKER + 1)), (0, 5));
    ledger.reclaim(FUNCTION, WORKER, |index| panic!("{index} was back already"));
    ledger.reclaim(0, 0, |index| panic!("{index} is held by nobody"));
    assert_eq!(ledger.take(&last, FUNCTION, WORKER + 1, &buffers), Ok(META), "others keep theirs");
}

proptest! {
    /// Against a plain map: whatever is given and returned, a buffer comes back exactly once, to whom it was given.
    #[test]
    fn the_ledger_is_a_map_of_holders(steps in proptest::collection::vec((0..8u32, 1..4u16, 0..3u8, any::<bool>(), 0..4u16), 1..200)) {
        let (ledger, buffers) = (Ledger::new(6), buffers(6));
        let mut model = std::collections::HashMap::new();
        let mut generations = [0u16; 8];
        for (index, holder, worker, give, age) in steps {
            if give {
                if index < 6 && !model.contains_key(&index) {
                    generations[index as usize] = ledger.give(index, holder, worker, META);
                    model.insert(index, (holder, worker));
                }
            } else {
                let d = descriptor(index, generations[index as usize].wrapping_sub(age));
                let expected = match model.get(&index) {
                    _ if index >= 6 => Err(Reject::Index),
                    Some(&who) if who != (holder, worker) => Err(Reject::Holder),
                    None => Err(Reject::Holder),
                    Some(_) if age != 0 => Err(Reject::Generation),
                    Some(_) => {
                        model.remove(&index);
                        Ok(META)
                    }
                };
                prop_assert_eq!(ledger.take(&d, holder, worker, &buffers), expected);
            }
            let held = model.values().filter(|who| **who == (holder, worker)).count();
            prop_assert_eq!(ledger.held_by(holder, worker) as usize, held);
        }
    }
}
