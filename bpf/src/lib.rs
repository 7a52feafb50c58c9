//! BPF programs of MiddleNet and their attachment.
//!
//! Every `*.bpf.c` of the product lives in `src/bpf`; `build.rs` compiles each with clang into a skeleton, which is part
//! of the binary. What callers see are typed guards: a program is attached while its guard lives, and no longer.
//!
//! ```text
//! XdpPort::load --set_socket(queue, xsk)--> attach --> XdpAttachment: packets of that queue reach the socket
//!                                                           |
//!                                                           +--drop, or death of the process--> the interface is as it was
//! ```
//!
//! ```text
//! SteeredPort::load(tables) --as above--> SteeredAttachment --replace(tables)--> each packet meets the old rules or the new ones
//!                                              |
//!                                              +--install_flow(flow, action, lifetime)--> goes before the rules until it expires
//! ```
//!
//! ```text
//! FastPaths::new --load_stage(hop, plan)--> the fast path of a function, and the maps that they share
//!      |
//!      +--port(port, entries)--> SteeredPort::load_fast: packets of a chain go through its fast paths by tail calls, and to the
//!                                socket of their queue where these end
//! ```
//!
//! ```text
//! Skmsg::load --enter(key, socket)--> groups of descriptors sent on that socket are checked against the ledger
//!      |                              and arrive at the socket of their destination
//!      +--drop, or death of the process and of the sockets--> nothing is left
//! ```
//!
//! For measurements there are [`Trial`], a program on one packet without an interface, and [`Flood`], packets as fast as a core makes them.
//!
//! **Invariant:** attachments are BPF links or belong to maps, and nothing is pinned, so the kernel detaches even when the
//! process dies by SIGKILL.

mod counters;
mod error;
mod fast;
mod flood;
mod log;
mod skeletons;
mod skmsg;
mod steer;
mod trial;
mod xdp;

pub use error::Error;
pub use fast::{
    Entry, FastPaths, FastPort, HopMaps, KernelReason, PortDevice, SlowReason, SourceCheck, StageCounters, StagePlan,
    Target,
};
pub use flood::Flood;
pub use skmsg::{
    Check, Filter, KeySet, SelfTest, SharedLedger, Skmsg, SkmsgCounters, entry, generation, holder, self_test,
    socket_pair,
};
pub use steer::{
    FlowEntry, META_BYTES, Mark, RuleCounters, SteerCounters, SteerTotals, SteeredAttachment, SteeredPort, Steering,
    take_mark, take_tag,
};
pub use trial::{Outcome, Run, Trial, Verdict};
pub use xdp::{Mode, XdpAttachment, XdpCounters, XdpHook, XdpMode, XdpPort};

/// The outcome of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
