//! Why a socket or an interface could not be used for AF_XDP.

use std::io;

/// Why a socket or an interface could not be used for AF_XDP.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A ring's slots must be a power of two.
    #[error("the {ring} ring cannot have {slots} slots: a power of two is needed")]
    RingSize {
        /// Which ring.
        ring: &'static str,
        /// The slots asked for.
        slots: u32,
    },

    /// The interface's packets may be longer than a buffer has room for.
    #[error(
        "interface {interface} has an MTU of {mtu_bytes} bytes, but a buffer of {buffer_bytes} bytes holds an MTU of at \
         most {limit_bytes} (the rest is kept free); lower it with `ip link set dev {interface} mtu \
         {limit_bytes}` or use larger buffers"
    )]
    Mtu {
        /// Name of the interface.
        interface: String,
        /// The interface's MTU.
        mtu_bytes: u32,
        /// The size of a buffer.
        buffer_bytes: u32,
        /// The largest MTU that fits.
        limit_bytes: u32,
    },

    /// This process already has a socket on the queue, or another one has.
    #[error("queue {queue} of interface {interface} already has an AF_XDP socket; each queue takes one")]
    QueueBusy {
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
    },

    /// The kernel refused a step of setting up an AF_XDP socket.
    #[error("cannot {step} for an AF_XDP socket on queue {queue} of interface {interface}: {source}{hint}")]
    Socket {
        /// What was tried.
        step: &'static str,
        /// Name of the interface.
        interface: String,
        /// The queue.
        queue: u32,
        /// What the kernel answered.
        source: io::Error,
        /// What usually mends it; empty, or led by a semicolon.
        hint: &'static str,
    },

    /// The kernel did not tell a socket's statistics.
    #[error("cannot read the statistics of an AF_XDP socket: {0}")]
    Statistics(io::Error),

    /// There is no such interface in the caller's network namespace.
    #[error("there is no interface {interface} in this network namespace")]
    NoInterface {
        /// Its name, or its index as `#N`.
        interface: String,
    },

    /// The kernel refused to tell or change a property of an interface.
    #[error("cannot {step} of interface {interface}: {source}")]
    Interface {
        /// What was tried.
        step: &'static str,
        /// Name of the interface.
        interface: String,
        /// What the kernel answered.
        source: io::Error,
    },
}
