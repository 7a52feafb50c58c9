//! The memory layer: everything that two processes of one domain share.
//!
//! ```text
//!   manager                                             function
//!   Region packets ---- memfd, sealed ---- passed fd --> Region packets
//!   Buffers::bytes_mut                                   Buffers::bytes_mut
//!        |                                                    |
//!   Producer  ==== to_function ring of Descriptor ====>  Consumer
//!   Consumer  <=== from_function ring =================  Producer
//!   Producer  ==== supply ring (empty buffers) =======>  Consumer
//!        |                                                    |
//!   Ledger (private)        ControlRegion: doorbells, heartbeat, counters
//! ```
//!
//! This is the only unsafe code that a function links.
//!
//! **Soundness.** Every word that a peer may change under our feet (ring indexes, ring slots, doorbells, header fields)
//! is read and written with atomic operations, has no invalid bit pattern, and is range-checked before it is used as a
//! size or an index; the mask and capacity of a ring and the geometry of a control region are private copies. Packet bytes are
//! the one exception: [`Buffers`] says what holds there and why.
//!
//! **Architecture invariant:** nothing here knows of packets' contents, chains or verdicts; a descriptor's meaning
//! belongs to the SDK and the manager.

mod atomic;
mod buffers;
mod control;
mod descriptor;
mod error;
mod fd;
mod kernel_map;
mod ledger;
mod region;
mod ring;
mod wake;

pub use buffers::Buffers;
pub use control::{BOARD, COUNTERS, ControlGeometry, ControlRegion, MAX_WORKERS, State};
pub use descriptor::Descriptor;
pub use error::ShmError;
pub use fd::{MAX_FDS, receive, send, socket_pair};
#[cfg(any(test, feature = "testkit"))]
pub use kernel_map::testkit;
pub use kernel_map::{Batch, Elements, KernelMap, MapSizes, Write, command};
pub use ledger::{Ledger, Meta, Reject};
pub use region::{HUGE_PAGE_BYTES, Pages, Region};
pub use ring::{Consumer, Producer, RingArea};
pub use wake::{Doorbell, EventDoorbell, Wake, drain_event};
