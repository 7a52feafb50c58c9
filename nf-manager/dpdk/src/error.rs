use std::ffi::{CStr, c_int};

/// Why DPDK refused.
#[derive(Debug, thiserror::Error)]
pub enum DpdkError {
    /// A call into DPDK failed.
    #[error("{call} failed: {reason}")]
    Call {
        /// The C function.
        call: &'static str,
        /// Its error number, positive.
        errno: i32,
        /// The error number in words.
        reason: String,
    },

    /// The EAL does not start.
    #[error("DPDK's environment layer does not start with arguments `{arguments}`: {reason}")]
    Init {
        /// The arguments it was given.
        arguments: String,
        /// The error number in words.
        reason: String,
    },

    /// The EAL starts once per process.
    #[error("DPDK's environment layer was already started in this process, and it starts only once")]
    AlreadyInitialised,

    /// An argument holds a NUL byte, which C cannot express.
    #[error("`{0}` holds a NUL byte")]
    Nul(String),

    /// The worker lcore runs something already.
    #[error("lcore {0} is busy")]
    LcoreBusy(u32),

    /// The configuration names no such worker lcore.
    #[error("lcore {0} is not a worker lcore of this process")]
    NoSuchLcore(u32),

    /// No Ethernet port came of the device.
    #[error("DPDK cannot use the device `{device}`: {reason}")]
    Device {
        /// As it was given: a PCI address or a vdev string.
        device: String,
        /// The error number in words.
        reason: String,
    },

    /// The device is open.
    #[error("the device `{0}` is open already")]
    PortInUse(String),

    /// The device has fewer queues than asked for.
    #[error("port {port} has at most {most} {direction} queues, {asked} were asked for")]
    Queues {
        /// The port's name.
        port: String,
        /// "receive" or "transmit".
        direction: &'static str,
        /// What the device has.
        most: u16,
        /// What was asked for.
        asked: u16,
    },

    /// A port cannot stop while somebody may poll it.
    #[error("port {port} cannot change state while {queues} of its queues are in use")]
    QueuesInUse {
        /// The port's name.
        port: String,
        /// How many queues have not been dropped.
        queues: usize,
    },

    /// The pool's buffers are too small for the port.
    #[error(
        "port {port} needs buffers with room for {needs} bytes after {headroom} bytes of headroom, they have {room}"
    )]
    BufferTooSmall {
        /// The port's name.
        port: String,
        /// Smallest buffer the device receives into, in bytes.
        needs: u32,
        /// Bytes kept free before a received packet.
        headroom: u32,
        /// Bytes the buffers have after the headroom.
        room: u32,
    },

    /// The device does not do what is asked of it about flows.
    #[error("port {port} refuses {what}: {message}")]
    Flow {
        /// The port's name.
        port: String,
        /// What it was asked to do.
        what: &'static str,
        /// The driver's words.
        message: String,
        /// Its error number, positive; `ENOSYS` when it knows no rules at all.
        errno: i32,
    },

    /// A device that does DMA without an IOMMU needs memory that stays where it is.
    #[error("device {0} addresses physical memory, which needs packet memory on huge pages")]
    PhysicalAddresses(String),
}

/// An error number in words.
pub(crate) fn reason(errno: c_int) -> String {
    // SAFETY: rte_strerror takes any number and returns a string that lives as long as the thread; it is copied at once.
    unsafe { CStr::from_ptr(dpdk_sys::rte_strerror(errno)) }.to_string_lossy().into_owned()
}

/// `rte_errno` of this thread.
pub(crate) fn errno() -> c_int {
    // SAFETY: reads a thread-local integer.
    unsafe { dpdk_sys::dpdk_sys_errno() }
}

/// The error number behind a negative return: DPDK's functions return it negated, or -1 with `rte_errno` set.
pub(crate) fn errno_of(ret: c_int) -> c_int {
    match (ret, errno()) {
        (-1, errno) if errno > 0 => errno,
        (ret, _) => -ret,
    }
}

/// Turns the return value of a DPDK call into a result; zero and positive values pass.
pub(crate) fn check(call: &'static str, ret: c_int) -> Result<c_int, DpdkError> {
    if ret >= 0 {
        return Ok(ret);
    }
    Err(failed(call, errno_of(ret)))
}

/// The error of a call that says why by number.
pub(crate) fn failed(call: &'static str, errno: c_int) -> DpdkError {
    DpdkError::Call { call, errno, reason: reason(errno) }
}
