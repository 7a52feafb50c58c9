//! What libbpf-cargo generates from `src/bpf`.

/// `src/bpf/xdp_redirect.bpf.c`.
// Generated: its style is its generator's.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
pub(crate) mod xdp_redirect {
    include!(concat!(env!("OUT_DIR"), "/xdp_redirect.skel.rs"));
}

/// `src/bpf/skmsg_route.bpf.c`.
// Generated: its style is its generator's.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
pub(crate) mod skmsg_route {
    include!(concat!(env!("OUT_DIR"), "/skmsg_route.skel.rs"));
}

/// `src/bpf/steer_rules.bpf.c`.
// Generated: its style is its generator's.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
pub(crate) mod steer_rules {
    include!(concat!(env!("OUT_DIR"), "/steer_rules.skel.rs"));
}

/// `src/bpf/fast_path.bpf.c`.
// Generated: its style is its generator's.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
pub(crate) mod fast_path {
    include!(concat!(env!("OUT_DIR"), "/fast_path.skel.rs"));
}

/// `src/bpf/xdp_flood.bpf.c`.
// Generated: its style is its generator's.
#[allow(
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    missing_docs,
    rust_2018_idioms,
    unreachable_pub,
    unsafe_op_in_unsafe_fn
)]
pub(crate) mod xdp_flood {
    include!(concat!(env!("OUT_DIR"), "/xdp_flood.skel.rs"));
}
