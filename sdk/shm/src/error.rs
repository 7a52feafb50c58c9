use std::io;

/// Why shared memory could not be made, opened or used.
#[derive(Debug, thiserror::Error)]
pub enum ShmError {
    /// Cannot create the shared memory `name`.
    #[error("cannot create the shared memory {name:?} of {length} bytes")]
    Create {
        /// Name given to the memory (seen in `/proc/PID/maps`).
        name: String,
        /// Bytes asked for.
        length: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The host has too few free huge pages.
    #[error("cannot reserve {length} bytes of 2 MiB pages for {name:?}: the host has too few free huge pages")]
    HugePages {
        /// Name given to the memory.
        name: String,
        /// Bytes asked for, rounded up to whole huge pages.
        length: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// Cannot map shared memory.
    #[error("cannot map {length} bytes of shared memory")]
    Map {
        /// Bytes asked for.
        length: usize,
        /// What the kernel said.
        source: io::Error,
    },
    /// The file descriptor is not memory of a domain.
    #[error("the file descriptor is not a memfd")]
    NotMemory(#[source] io::Error),
    /// The memory could be truncated by whoever holds it, which would kill its readers.
    #[error("the memory is not sealed against truncation (seals {0:#x})")]
    NotSealed(i32),
    /// The memory is empty.
    #[error("the memory has no bytes")]
    Empty,
    /// Buffers are 2048 or 4096 bytes.
    #[error("buffers of {0} bytes are not supported, only 2048 or 4096")]
    BufferBytes(u32),
    /// The region does not hold a single buffer, or more than an index can name.
    #[error("a region of {0} bytes holds no buffer, or more than a descriptor can name")]
    BufferCount(usize),
    /// A ring has a power of two of slots, from 2 to 2^20.
    #[error("a ring of {0} slots is not supported, only powers of two from 2 to 2^20")]
    Slots(u32),
    /// A ring or a word lies outside its region or off its alignment.
    #[error("{bytes} bytes at offset {offset} do not fit the region")]
    Place {
        /// Offset of the ring or word in its region, in bytes.
        offset: usize,
        /// Its size in bytes.
        bytes: usize,
    },
    /// The region was not written by a manager of this version.
    #[error("the region is not a control region of version {expected}: {found}")]
    Header {
        /// Version this crate reads.
        expected: u32,
        /// What was found instead.
        found: String,
    },
    /// A control region serves 1 to [`MAX_WORKERS`](crate::MAX_WORKERS) workers.
    #[error("{0} workers are not supported, only 1 to 64")]
    Workers(u16),
    /// The control region has no such worker.
    #[error("the control region has no worker {0}")]
    NoWorker(u16),
    /// A ring has one producer and one consumer, and this end is in use.
    #[error("this end of the {ring} ring of worker {worker} was taken before")]
    Taken {
        /// Which ring.
        ring: &'static str,
        /// Of which worker.
        worker: u16,
    },
    /// The end of the ring belongs to the peer.
    #[error("this end of the {ring} ring belongs to the other side")]
    OtherSide {
        /// Which ring.
        ring: &'static str,
    },
}
