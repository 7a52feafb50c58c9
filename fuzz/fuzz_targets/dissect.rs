//! Any frame is walked, or refused with a reason; the offsets it gives are in order and within the frame.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_wire::Layers;

fuzz_target!(|frame: &[u8]| {
    let Ok(layers) = Layers::parse(frame) else { return };
    assert!(layers.l3_offset <= layers.l4_offset);
    assert!(layers.l4_offset <= layers.end && layers.end <= frame.len());
    let _ = layers.verify_checksums(frame);
});
