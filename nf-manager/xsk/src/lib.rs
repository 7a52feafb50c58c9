//! AF_XDP sockets over a shared packet region.
//!
//! ```text
//!            packet region (memfd) = UMEM, one for every socket of the process
//!   buffers:  | 0 | 1 | 2 | 3 | ...                       a buffer's index is its chunk number
//!
//!   caller's pool --fill--> [fill] --kernel writes a packet--> [rx] --receive--> caller
//!   caller        --send--> [tx]   --kernel sends it-------> [completion] --completed--> caller's pool
//! ```
//!
//! [`Umem`] stands for the region, [`XskQueue`] for one receive and transmit queue of one interface with its four rings,
//! and [`Interface`] tells what there is to know of an interface before it is used. Which buffers are free is the
//! caller's business: a queue is given buffers by [`XskQueue::fill`] and [`XskQueue::send`], gives them back by
//! [`XskQueue::receive`] and [`XskQueue::completed`], and [`XskQueue::close`] returns the rest, so that at every moment
//! each buffer is in exactly one place.
//!
//! Order of setting up a port: attach the XDP program (`middlenet-bpf`), bind a queue, fill it, enter its descriptor in
//! the program's socket map. Buffers that were sent go back to a pool that all ports share, never to the port that sent
//! them: traffic that flows one way would starve the port that receives.
//!
//! **Architecture invariant:** per packet there is no allocation, lock or system call; [`XskQueue::kick`] makes the
//! system calls of a burst. Nothing that a packet holds is looked at.

mod error;
mod held;
mod interface;
mod queue;
mod ring;
mod socket;
mod umem;

pub use error::Error;
pub use interface::{Interface, Promiscuous};
pub use queue::{XskQueue, XskStatistics};
pub use socket::{BusyPoll, CopyMode, XskConfig};
pub use umem::Umem;

/// The outcome of this crate's operations.
pub type Result<T> = std::result::Result<T, Error>;
