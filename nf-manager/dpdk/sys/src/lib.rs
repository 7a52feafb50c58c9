//! Raw bindings to the host's libdpdk (22.11 or newer) and nothing else.
//!
//! Written at build time by bindgen from the headers that pkg-config names. DPDK's static inline functions are reached
//! through a small C shim, one call each, so callers use them per burst and never per packet. `middlenet-dpdk` holds the
//! safe types; nothing else depends on this crate.
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unreachable_pub,
    unused_imports,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    reason = "generated from C headers"
)]

include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
