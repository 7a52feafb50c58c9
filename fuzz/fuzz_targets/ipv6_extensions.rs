//! The walk over extension headers ends, within the payload, at something that is no extension header or in a fragment.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_wire::ipv6::walk_extensions;
use middlenet_wire::protocol::is_ipv6_extension;

fuzz_target!(|input: (u8, &[u8])| {
    let (first, payload) = input;
    let Ok(found) = walk_extensions(first, payload) else { return };
    assert!(found.offset <= payload.len());
    let is_later = found.fragment.is_some_and(|fragment| !fragment.is_first());
    assert!(is_later || !is_ipv6_extension(found.protocol));
});
