mod model;
mod queue;

use std::sync::Arc;

use super::RingArea;
use crate::{Descriptor, Pages, Region, ShmError};

/// An empty ring in memory of its own.
pub(super) fn ring(slots: u32) -> RingArea {
    let region = Region::create("ring", RingArea::bytes(slots), Pages::Small).unwrap();
    let area = RingArea::new(Arc::new(region), 0, slots).unwrap();
    area.init("test");
    area
}

/// A descriptor of which every field depends on `n`.
pub(super) fn descriptor(n: u32) -> Descriptor {
    Descriptor {
        index: n,
        offset: n as u16 ^ 0x1111,
        length: n as u16 ^ 0x2222,
        argument: n as u16 ^ 0x3333,
        source: n as u16 ^ 0x4444,
        generation: n as u16 ^ 0x5555,
        verdict: n as u8 ^ 0x66,
        port: n as u8 ^ 0x77,
    }
}

#[test]
fn a_place_that_does_not_fit_is_refused() {
    let region = Arc::new(Region::create("ring", 4096, Pages::Small).unwrap());
    assert!(matches!(RingArea::new(region.clone(), 0, 100), Err(ShmError::Slots(100))));
    assert!(matches!(RingArea::new(region.clone(), 0, 1), Err(ShmError::Slots(1))));
    assert!(matches!(RingArea::new(region.clone(), 0, 256), Err(ShmError::Place { .. })), "384 + 4096 bytes in 4096");
    assert!(matches!(RingArea::new(region.clone(), 32, 64), Err(ShmError::Place { .. })), "off its alignment");
    assert!(matches!(RingArea::new(region.clone(), usize::MAX - 63, 64), Err(ShmError::Place { .. })));
    assert!(RingArea::new(region.clone(), 4096 - RingArea::bytes(64), 64).is_ok(), "to the last byte");
    assert!(RingArea::new(region, 4096 - RingArea::bytes(64) + 64, 64).is_err());
}

#[test]
fn an_end_taken_over_goes_on_where_it_was() {
    let area = ring(8);
    let (mut producer, mut consumer) = (area.producer(), area.consumer());
    assert_eq!(producer.enqueue(&[descriptor(1), descriptor(2), descriptor(3)]), 3);
    let mut out = [Descriptor::default(); 1];
    assert_eq!(consumer.dequeue(&mut out), 1);
    drop((producer, consumer));

    let (mut producer, mut consumer) = (area.producer_here(), area.consumer_here());
    assert_eq!(producer.enqueue(&[descriptor(4)]), 1);
    assert_eq!(producer.used(), 3);
    let mut out = [Descriptor::default(); 8];
    assert_eq!(consumer.dequeue(&mut out), 3);
    assert_eq!(out[..3], [descriptor(2), descriptor(3), descriptor(4)]);
}
