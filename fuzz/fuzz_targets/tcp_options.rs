//! Options are walked in bounded steps, and a clamped segment size leaves the checksum as right as it was.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_wire::checksum::Sum;
use middlenet_wire::{TcpMut, TcpOptions};

fuzz_target!(|input: (u16, Vec<u8>)| {
    let (mss, mut segment) = input;
    assert!(TcpOptions::new(&segment).count() <= segment.len() / 2);
    let Ok(mut tcp) = TcpMut::parse(&mut segment) else { return };
    tcp.fill_checksum(Sum::new());
    tcp.clamp_mss(mss);
    assert!(tcp.view().options().mss().is_none_or(|now| now <= mss));
    tcp.view().verify_checksum(Sum::new()).unwrap();
});
