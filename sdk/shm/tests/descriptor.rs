//! The descriptor as C sees it and as Rust sees it.

#[path = "support/c_peer.rs"]
mod c_peer;

use std::mem::offset_of;
use std::path::Path;
use std::process::Command;

use middlenet_shm::Descriptor;
use zerocopy::{FromBytes, IntoBytes};

#[test]
fn c_and_rust_agree_on_every_field() {
    let program = c_peer::build("descriptor_layout", Path::new(env!("CARGO_TARGET_TMPDIR")), &[]);
    let output = Command::new(program).output().unwrap();
    let ours = [
        ("index", offset_of!(Descriptor, index), 4),
        ("offset", offset_of!(Descriptor, offset), 2),
        ("length", offset_of!(Descriptor, length), 2),
        ("argument", offset_of!(Descriptor, argument), 2),
        ("source", offset_of!(Descriptor, source), 2),
        ("generation", offset_of!(Descriptor, generation), 2),
        ("verdict", offset_of!(Descriptor, verdict), 1),
        ("port", offset_of!(Descriptor, port), 1),
        ("all", size_of::<Descriptor>(), align_of::<Descriptor>()),
    ];
    let ours: String = ours.iter().map(|(name, at, bytes)| format!("{name} {at} {bytes}\n")).collect();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), ours);
}

#[test]
fn the_bytes_are_little_endian_in_order() {
    let d = Descriptor {
        index: 0x0403_0201,
        offset: 0x0605,
        length: 0x0807,
        argument: 0x0a09,
        source: 0x0c0b,
        generation: 0x0e0d,
        verdict: 0x0f,
        port: 0x10,
    };
    let bytes: Vec<u8> = (1..=16).collect();
    assert_eq!(d.as_bytes(), bytes);
    assert_eq!(Descriptor::read_from_bytes(&bytes).unwrap(), d);
}
