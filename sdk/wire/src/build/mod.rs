//! Builders of whole packets, for tests and for functions that originate packets.
//!
//! [`PacketBuilder`] describes any packet; [`icmp_error`] answers a packet that cannot be delivered; [`neighbor`] speaks
//! IPv6 neighbor discovery.

mod emit;
pub mod icmp_error;
pub mod neighbor;
mod packet;
mod writer;

pub use icmp_error::{IcmpError, IcmpErrorRefused};
pub use neighbor::{NeighborAdvert, NeighborSolicit};
pub use packet::PacketBuilder;
