//! A key and its reverse are one flow, and both ways to a key lead to the same one.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_wire::{FlowKey, Layers};

fuzz_target!(|frame: &[u8]| {
    let layers = Layers::parse(frame);
    let _ = layers.map(|layers| FlowKey::of_quoted(&layers, frame));
    assert_eq!(FlowKey::parse(frame), layers.and_then(|layers| FlowKey::of(&layers, frame)).ok());
    let Some(key) = FlowKey::parse(frame) else { return };
    assert_eq!(key.reverse().reverse(), key);
    assert_eq!(key.symmetric_hash(), key.reverse().symmetric_hash());
    assert_eq!(key.canonical().0, key.reverse().canonical().0);
});
