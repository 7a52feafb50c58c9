//! Checksums that were right are right after any rewrite, and a refused rewrite changes nothing.
#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use middlenet_wire::rewrite::{self, Side};
use middlenet_wire::{Layers, WireError};

fuzz_target!(|input: &[u8]| {
    // The last bytes choose what to do; they are as a rule payload or padding, so that frames are good seeds.
    let Some((_, &[ref address @ .., flags, high, low])) = input.split_last_chunk::<19>() else { return };
    let Ok(layers) = Layers::parse(input) else { return };
    let address = match layers.is_ipv6() {
        true => IpAddr::from(*address),
        false => IpAddr::from([address[0], address[1], address[2], address[3]]),
    };
    let port = (flags & 1 != 0).then_some(u16::from_be_bytes([high, low]));
    let side = if flags & 2 != 0 { Side::Source } else { Side::Destination };
    let call = if flags & 4 != 0 { rewrite::quoted_endpoint } else { rewrite::endpoint };

    let mut frame = input.to_vec();
    let _ = fill_checksums(&mut frame, &layers);
    let was_right = layers.verify_checksums(&frame).is_ok();
    let mut changed = frame.clone();
    match call(&mut changed, &layers, side, address, port) {
        Ok(()) => assert_eq!(layers.verify_checksums(&changed).is_ok(), was_right),
        Err(_) => assert_eq!(changed, frame),
    }
});

/// Without it nearly every frame the fuzzer makes would have a wrong checksum.
fn fill_checksums(frame: &mut [u8], layers: &Layers) -> Result<(), WireError> {
    let pseudo = layers.pseudo_header(frame)?;
    let _ = layers.ipv4_mut(frame).map(|mut ip| ip.fill_checksum());
    let _ = layers.tcp_mut(frame).map(|mut tcp| tcp.fill_checksum(pseudo));
    let _ = layers.udp_mut(frame).map(|mut udp| udp.fill_checksum(pseudo));
    let _ = layers.icmpv4_mut(frame).map(|mut icmp| icmp.fill_checksum());
    let _ = layers.icmpv6_mut(frame).map(|mut icmp| icmp.fill_checksum(pseudo));
    Ok(())
}
