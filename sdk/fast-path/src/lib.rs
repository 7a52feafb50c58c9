//! What a hybrid function and its fast path say to each other: which matchers there are, what rules do, and how both lie in the
//! kernel's maps (eVNF, section III).
//!
//! A hop's fast path is one XDP program (`fast_path.bpf.c`) that is verified with the function's [`Shape`]: what the shape leaves
//! out is no part of it. It looks a packet up in the matchers that are there, in this order:
//!
//! 1. **flows**, by the exact [`Flow`](middlenet_steer::Flow): what functions install while packets pass;
//! 2. **services**, by destination address, port and protocol: a slot is selected by a hash of the source, the slot names a
//!    rule, and the connection is remembered among the flows, in both directions;
//! 3. **prefixes** of source and destination, and **ports** of TCP and UDP: each names a rule; of those that match the lowest
//!    number decides, so that rules are ordered. A packet that may have ports and does not show them, as a fragment, meets no
//!    rule of a port; where one has a lower number than the rule of its prefixes, this decides only if it drops.
//!
//! The packet that nothing matches goes to the slow path: to the function itself, or to the kernel's own stack in
//! [`Mode::Offloading`].
//!
//! The layouts here are those of `fast_path.h`; numbers are in the processor's order, addresses in network order, IPv4 ones mapped
//! into IPv6.
#![forbid(unsafe_code)]

mod action;
mod flow;
mod rule;
mod select;
mod settings;
mod shape;

pub use action::{Action, Rewrite, Then};
pub use flow::{Ends, FLOW_BYTES, FlowRule, FlowState, KEY_BYTES, flow_key, read_flow_key};
pub use rule::{
    COUNT_BYTES, Counted, NO_RULE, PREFIX_BYTES, SERVICE_BYTES, SERVICE_KEY_BYTES, Service, ServiceRule, port_slot,
    prefix_key,
};
pub use select::slot_of;
pub use settings::{MOST_INSTANCES, Settings, SettingsOf};
pub use shape::{MapKind, Mode, Shape};

/// An address as it lies in the maps.
pub(crate) fn octets(address: std::net::IpAddr) -> [u8; 16] {
    match address {
        std::net::IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        std::net::IpAddr::V6(v6) => v6.octets(),
    }
}
