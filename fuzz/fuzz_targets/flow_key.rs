//! A key and its reverse are one flow, and a frame has a key only if it can be walked.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_wire::{FlowKey, Layers};

fuzz_target!(|frame: &[u8]| {
    if let Ok(layers) = Layers::parse(frame) {
        let _ = FlowKey::of_quoted(&layers, frame);
    }
    let Some(key) = FlowKey::parse(frame) else { return };
    assert!(Layers::parse(frame).unwrap().is_ip());
    assert_eq!(key.reverse().reverse(), key);
    assert_eq!(key.symmetric_hash(), key.reverse().symmetric_hash());
    assert_eq!(key.canonical().0, key.reverse().canonical().0);
});
