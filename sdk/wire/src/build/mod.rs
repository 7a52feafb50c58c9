//! Builders of whole packets, for tests and for functions that originate packets.

mod packet;
mod writer;

pub use packet::PacketBuilder;
pub(crate) use writer::Writer;
