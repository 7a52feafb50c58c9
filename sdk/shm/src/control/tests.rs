use super::*;
use crate::Descriptor;

const GEOMETRY: ControlGeometry = ControlGeometry { workers: 2, slots: 64 };

fn both() -> (ControlRegion, ControlRegion) {
    let manager = ControlRegion::create("control", GEOMETRY).unwrap();
    let function = ControlRegion::open(manager.fd().try_clone_to_owned().unwrap()).unwrap();
    (manager, function)
}

#[test]
fn both_sides_see_the_same_words() {
    let (manager, function) = both();
    assert_eq!(function.geometry(), GEOMETRY);
    function.heartbeat().store(11, Ordering::Relaxed);
    function.held().store(12, Ordering::Relaxed);
    function.state().store(State::Draining as u32, Ordering::Relaxed);
    manager.stop().store(1, Ordering::Relaxed);
    manager.attention().store(2, Ordering::Relaxed);
    manager.clock_ns().store(3, Ordering::Relaxed);
    for (n, counter) in function.counters().iter().enumerate() {
        counter.store(n as u64 + 1, Ordering::Relaxed);
    }

    assert_eq!(manager.heartbeat().load(Ordering::Relaxed), 11);
    assert_eq!(manager.held().load(Ordering::Relaxed), 12);
    assert_eq!(State::from_word(manager.state().load(Ordering::Relaxed)), Some(State::Draining));
    assert_eq!(State::from_word(99), None);
    assert_eq!(function.stop().load(Ordering::Relaxed), 1);
    assert_eq!(function.attention().load(Ordering::Relaxed), 2);
    assert_eq!(function.clock_ns().load(Ordering::Relaxed), 3);
    assert_eq!(manager.counters().len(), COUNTERS);
    assert_eq!(manager.counters().iter().map(|c| c.load(Ordering::Relaxed)).sum::<u64>(), 256 * 257 / 2);
    assert!(ControlRegion::open(manager.fd().try_clone_to_owned().unwrap()).is_ok(), "the header is untouched");
}

#[test]
fn every_ring_of_every_worker_connects_its_two_ends() {
    let (manager, function) = both();
    let mut out = [Descriptor::default(); 64];
    let mut ends = Vec::new();
    for worker in 0..2 {
        ends.push((manager.to_function_producer(worker).unwrap(), function.to_function_consumer(worker).unwrap()));
        ends.push((function.from_function_producer(worker).unwrap(), manager.from_function_consumer(worker).unwrap()));
        ends.push((manager.supply_producer(worker).unwrap(), function.supply_consumer(worker).unwrap()));
    }
    for (n, (producer, _)) in ends.iter_mut().enumerate() {
        assert_eq!(producer.enqueue(&vec![Descriptor { index: n as u32, ..Descriptor::default() }; 100]), 63);
    }
    for (n, (_, consumer)) in ends.iter_mut().enumerate() {
        assert_eq!(consumer.dequeue(&mut out), 63);
        assert!(out[..63].iter().all(|d| d.index == n as u32));
    }
}

#[test]
fn an_end_is_taken_once_and_by_its_side() {
    let (manager, function) = both();
    assert!(manager.to_function_producer(0).is_ok());
    assert!(matches!(manager.to_function_producer(0), Err(ShmError::Taken { worker: 0, .. })));
    assert!(matches!(manager.to_function_consumer(0), Err(ShmError::OtherSide { .. })));
    assert!(matches!(manager.from_function_producer(0), Err(ShmError::OtherSide { .. })));
    assert!(matches!(function.supply_producer(0), Err(ShmError::OtherSide { .. })));
    assert!(function.to_function_consumer(0).is_ok());
    assert!(matches!(function.to_function_consumer(0), Err(ShmError::Taken { .. })));
    assert!(matches!(manager.to_function_producer(2), Err(ShmError::NoWorker(2))));
    assert!(matches!(manager.manager_doorbell(2, None), Err(ShmError::NoWorker(2))));
}

#[test]
fn doorbells_are_apart() {
    let (manager, function) = both();
    let worker = manager.manager_doorbell(1, None).unwrap();
    worker.announce();
    assert!(!manager.function_doorbell().ring(), "nobody sleeps on the function's");
    assert!(!function.manager_doorbell(0, None).unwrap().ring(), "nor on worker 0's");
    assert_eq!(manager.region().word32(layout::manager_doorbell(1)).unwrap().load(Ordering::Relaxed), 2);
    worker.retract();
}

#[test]
fn a_geometry_out_of_range_is_refused() {
    for (workers, slots) in [(0, 64), (65, 64), (1, 0), (1, 100), (1, 1 << 21)] {
        assert!(ControlRegion::create("control", ControlGeometry { workers, slots }).is_err(), "{workers} {slots}");
    }
    assert!(ControlRegion::create("control", ControlGeometry { workers: MAX_WORKERS, slots: 2 }).is_ok());
}

#[test]
fn a_header_that_does_not_fit_its_memory_is_refused() {
    let corrupt = |at: usize, value: u32| {
        let (manager, _) = both();
        manager.region().word32(at).unwrap().store(value, Ordering::Relaxed);
        ControlRegion::open(manager.fd().try_clone_to_owned().unwrap()).map(|c| c.geometry())
    };
    assert_eq!(corrupt(12, 1).unwrap().workers, 1, "fewer fit");
    for (at, value) in [(0, 0), (8, 2), (12, 0), (12, 3), (12, 1 << 16), (16, 128), (16, 63), (16, 0), (16, 1 << 31)] {
        assert!(matches!(corrupt(at, value), Err(ShmError::Header { .. })), "{value} at {at}");
    }
    let other = Region::create("other", 100, Pages::Small).unwrap();
    let error = ControlRegion::open(other.fd().try_clone_to_owned().unwrap()).unwrap_err();
    assert!(error.to_string().contains("4096 bytes"), "{error}");
}

#[test]
fn the_manager_s_side_can_be_adopted_without_reading_the_header() {
    let (made, function) = both();
    function.region().word32(16).unwrap().store(u32::MAX, Ordering::Relaxed); // the function tampers with the geometry
    let manager = ControlRegion::adopt(made.fd().try_clone_to_owned().unwrap(), GEOMETRY).unwrap();
    let mut producer = manager.to_function_producer(1).unwrap();
    let mut consumer = function.to_function_consumer(1).unwrap();
    assert_eq!(producer.enqueue(&[Descriptor::default(); 3]), 3);
    assert_eq!(consumer.len(), 3);
    let larger = ControlGeometry { workers: 2, slots: 1024 };
    let error = ControlRegion::adopt(made.fd().try_clone_to_owned().unwrap(), larger).unwrap_err();
    assert!(matches!(error, ShmError::Header { .. }));
}
