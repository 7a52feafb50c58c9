//! An error about any frame is a right frame itself, within its limit, and never answered by another error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_wire::build::icmp_error::{self, MAX_FRAME_LEN};
use middlenet_wire::{IcmpError, IcmpErrorRefused, Layers, MacAddr};

fuzz_target!(|frame: &[u8]| {
    let Ok(layers) = Layers::parse(frame) else { return };
    let src = if layers.is_ipv6() { [0xfd; 16].into() } else { [10, 0, 0, 1].into() };
    let mut out = [0; MAX_FRAME_LEN];
    let Ok(len) = icmp_error::emit(IcmpError::TimeExceeded, frame, &layers, MacAddr::ZERO, src, &mut out) else {
        return;
    };
    let answer = &out[..len];
    let layers = Layers::parse(answer).unwrap();
    layers.verify_checksums(answer).unwrap();
    let again = icmp_error::permitted(IcmpError::TimeExceeded, answer, &layers);
    assert_eq!(again, Err(IcmpErrorRefused::AboutIcmpError));
});
