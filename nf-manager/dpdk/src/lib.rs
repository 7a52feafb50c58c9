//! Safe DPDK: the EAL, the buffer pool on a domain's shared memory, and Ethernet ports.
//!
//! ```text
//!   EalConfig --Eal::init--> Eal ---launch(lcore, closure)---> &Worker   (on that lcore; the token of the hot path)
//!                             |
//!       shm Buffers --Pool::create--> Arc<Pool>     one private mbuf per shared buffer, index <-> mbuf by arithmetic
//!                             |           |
//!                 "net_null0" |           |
//!                 "0000:3b:00.1" --Port::open--> Port --start--> RxQueue, TxQueue
//!                                                                 |          ^
//!                                             receive(&Worker) -> [Descriptor] -> send(&Worker)
//! ```
//!
//! Everything above this crate handles 16-byte [`Descriptor`](middlenet_shm::Descriptor)s. mbuf headers lie in memory of
//! this process alone; a function that maps the packets cannot reach them.
//!
//! **Architecture invariants**
//! - A [`Worker`] exists only on an EAL lcore. Allocating, freeing, receiving and sending ask for one, so that no other
//!   thread ever touches a mempool cache.
//! - Every DPDK return value becomes a [`DpdkError`] in one place, `error.rs`.
//! - Per packet there are loads and stores; calls into DPDK are per burst.

mod dma;
mod eal;
mod error;
mod event;
mod flow;
mod launch;
mod mbuf;
mod pool;
mod port;
mod queue;
mod stats;
pub mod tsc;

pub use eal::{Eal, EalConfig, Lcore, LogLevel, Memory};
pub use error::DpdkError;
pub use event::Events;
pub use flow::Flow;
pub use launch::{Launched, Worker};
pub use pool::{Pool, PoolConfig};
pub use port::{Capabilities, Link, Port, PortConfig, Queues};
pub use queue::{MAX_BURST, RxQueue, TxQueue};
pub use stats::{Stats, Xstat};
