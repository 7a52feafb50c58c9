//! Setting up an AF_XDP socket: the system calls, once each.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use middlenet_shm::Buffers;

use crate::ring::{Consumer, Producer};
use crate::umem::TAG_BYTES;
use crate::{Error, Result};

/// `SO_PREFER_BUSY_POLL` and `SO_BUSY_POLL_BUDGET` of the generic `asm/socket.h`, which `libc` does not have yet.
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;

/// `XDP_MAX_TX_SKB_BUDGET` of `linux/if_xdp.h` since Linux 6.17.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;

/// How long the kernel may take to let go of a queue after its socket was closed: it does so in a work queue.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Whether the driver writes packets into the region itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyMode {
    /// Zero-copy where the driver has it, else copy.
    #[default]
    Auto,
    /// Zero-copy or an error.
    ForceZeroCopy,
    /// Copy.
    Copy,
}

/// Busy polling of the device from the socket's system calls (`Documentation/networking/napi.rst` of Linux).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BusyPoll {
    /// How long one system call polls an idle device, in microseconds (`SO_BUSY_POLL`).
    pub interval_us: u32,
    /// The most packets that one system call takes from the device (`SO_BUSY_POLL_BUDGET`).
    pub budget_pkts: u32,
}

/// What a queue is bound with. Every ring's slots must be a power of two.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XskConfig {
    /// Slots of the receive ring.
    pub rx_slots: u32,
    /// Slots of the transmit ring.
    pub tx_slots: u32,
    /// Slots of the fill ring: the most empty buffers that wait for packets.
    pub fill_slots: u32,
    /// Slots of the completion ring; not fewer than the transmit ring's, or sending stalls.
    pub completion_slots: u32,
    /// Whether the driver writes packets into the region itself.
    pub zero_copy: CopyMode,
    /// Polls the device from the system calls of [`kick`](crate::XskQueue::kick) instead of waiting for its interrupts.
    pub busy_poll: Option<BusyPoll>,
}

impl Default for XskConfig {
    fn default() -> Self {
        Self {
            rx_slots: 2048,
            tx_slots: 2048,
            fill_slots: 2048,
            completion_slots: 2048,
            zero_copy: CopyMode::Auto,
            busy_poll: None,
        }
    }
}

impl XskConfig {
    pub(crate) fn check(&self) -> Result<()> {
        for (ring, slots) in [
            ("receive", self.rx_slots),
            ("transmit", self.tx_slots),
            ("fill", self.fill_slots),
            ("completion", self.completion_slots),
        ] {
            if !slots.is_power_of_two() {
                return Err(Error::RingSize { ring, slots });
            }
        }
        Ok(())
    }
}

/// The queue a socket is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) interface: &'a str,
    pub(crate) ifindex: u32,
    pub(crate) queue: u32,
}

impl Place<'_> {
    fn failed(&self, step: &'static str) -> impl FnOnce(io::Error) -> Error {
        let (interface, queue) = (self.interface.to_owned(), self.queue);
        move |source| {
            let hint = hint(step, &source);
            Error::Socket { step, interface, queue, source, hint }
        }
    }
}

const BIND: &str = "bind";
const REGISTER: &str = "register the packet region";

/// What usually mends a refusal.
fn hint(step: &str, source: &io::Error) -> &'static str {
    match (step, source.raw_os_error()) {
        (BIND, Some(libc::EINVAL)) => "; the interface may have fewer queues (`ethtool -l`)",
        (BIND, Some(libc::ENETDOWN)) => "; the interface is down (`ip link set dev NAME up`)",
        (BIND, Some(libc::EOPNOTSUPP)) => "; the driver has no zero-copy AF_XDP: allow copy mode",
        (REGISTER, Some(libc::ENOBUFS | libc::ENOMEM)) => {
            "; raise the locked-memory limit (`ulimit -l`) or grant CAP_IPC_LOCK"
        }
        (_, Some(libc::EPERM)) => "; CAP_NET_RAW is needed",
        (_, Some(libc::EAFNOSUPPORT)) => "; this kernel is built without CONFIG_XDP_SOCKETS",
        _ => "",
    }
}

/// A bound socket and its rings.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) socket: OwnedFd,
    pub(crate) rx: Consumer<libc::xdp_desc>,
    pub(crate) tx: Producer<libc::xdp_desc>,
    pub(crate) fill: Producer<u64>,
    pub(crate) completion: Consumer<u64>,
    pub(crate) zero_copy: bool,
}

/// Makes a socket, gives it its rings and binds it in one mode; `sharing` is a bound socket with the same region.
pub(crate) fn open(
    place: Place<'_>,
    buffers: &Buffers,
    config: &XskConfig,
    zero_copy: bool,
    sharing: Option<&Arc<OwnedFd>>,
) -> Result<Bound> {
    // SAFETY: socket(2) takes no pointers.
    let raw = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(place.failed("make a socket")(io::Error::last_os_error()));
    }
    // SAFETY: the call succeeded, so this is an open descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let fd = socket.as_fd();

    if sharing.is_none() {
        register(fd, buffers).map_err(place.failed(REGISTER))?;
    }
    for (option, slots) in [
        (libc::XDP_UMEM_FILL_RING, config.fill_slots),
        (libc::XDP_UMEM_COMPLETION_RING, config.completion_slots),
        (libc::XDP_RX_RING, config.rx_slots),
        (libc::XDP_TX_RING, config.tx_slots),
    ] {
        set_option(fd, libc::SOL_XDP, option, &slots).map_err(place.failed("make the rings"))?;
    }
    if let Some(busy_poll) = config.busy_poll {
        for (option, value) in [
            (SO_PREFER_BUSY_POLL, 1),
            (libc::SO_BUSY_POLL, busy_poll.interval_us),
            (SO_BUSY_POLL_BUDGET, busy_poll.budget_pkts),
        ] {
            set_option(fd, libc::SOL_SOCKET, option, &value).map_err(place.failed("set up busy polling"))?;
        }
    }
    // In copy mode one call sends 32 packets unless the kernel can be told otherwise; where it cannot, `kick` repeats.
    let _ = set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &config.tx_slots);

    let mut offsets = libc::xdp_mmap_offsets { rx: NO_OFFSETS, tx: NO_OFFSETS, fr: NO_OFFSETS, cr: NO_OFFSETS };
    get_option(fd, libc::XDP_MMAP_OFFSETS, &mut offsets).map_err(place.failed("find the rings"))?;
    let mapped = place.failed("map the receive ring");
    let rx = Consumer::map(fd, libc::XDP_PGOFF_RX_RING, &offsets.rx, config.rx_slots).map_err(mapped)?;
    let mapped = place.failed("map the transmit ring");
    let tx = Producer::map(fd, libc::XDP_PGOFF_TX_RING, &offsets.tx, config.tx_slots).map_err(mapped)?;
    let mapped = place.failed("map the fill ring");
    let page_offset = libc::XDP_UMEM_PGOFF_FILL_RING as i64;
    let fill = Producer::map(fd, page_offset, &offsets.fr, config.fill_slots).map_err(mapped)?;
    let mapped = place.failed("map the completion ring");
    let page_offset = libc::XDP_UMEM_PGOFF_COMPLETION_RING as i64;
    let completion = Consumer::map(fd, page_offset, &offsets.cr, config.completion_slots).map_err(mapped)?;

    bind(fd, place, zero_copy, sharing.map(|sharing| sharing.as_fd())).map_err(place.failed(BIND))?;

    let mut options = libc::xdp_options { flags: 0 };
    get_option(fd, libc::XDP_OPTIONS, &mut options).map_err(place.failed("read the mode"))?;
    let zero_copy = options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0;
    Ok(Bound { socket, rx, tx, fill, completion, zero_copy })
}

const NO_OFFSETS: libc::xdp_ring_offset = libc::xdp_ring_offset { producer: 0, consumer: 0, desc: 0, flags: 0 };

/// Gives the region to the kernel, chunk by buffer.
fn register(socket: BorrowedFd<'_>, buffers: &Buffers) -> io::Result<()> {
    let region = libc::xdp_umem_reg {
        addr: buffers.region().as_ptr() as u64,
        len: u64::from(buffers.count()) * u64::from(buffers.buffer_bytes()),
        chunk_size: buffers.buffer_bytes(),
        headroom: TAG_BYTES,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(socket, libc::SOL_XDP, libc::XDP_UMEM_REG, &region)
}

fn bind(socket: BorrowedFd<'_>, place: Place<'_>, zero_copy: bool, sharing: Option<BorrowedFd<'_>>) -> io::Result<()> {
    // A sharer takes its mode from the socket it shares with, and may not name one.
    let flags = match (sharing, zero_copy) {
        (Some(_), _) => libc::XDP_SHARED_UMEM,
        (None, true) => libc::XDP_ZEROCOPY | libc::XDP_USE_NEED_WAKEUP,
        (None, false) => libc::XDP_COPY | libc::XDP_USE_NEED_WAKEUP,
    };
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: place.ifindex,
        sxdp_queue_id: place.queue,
        sxdp_shared_umem_fd: sharing.map_or(0, |sharing| sharing.as_raw_fd() as u32),
    };
    // SAFETY: the address outlives the call and its true size is given.
    let bound = unsafe {
        libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size_of::<libc::sockaddr_xdp>() as libc::socklen_t)
    };
    if bound == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Repeats `attempt` while the kernel still holds the queue for a socket that was closed a moment ago.
pub(crate) fn patiently<T>(mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let began = Instant::now();
    loop {
        match attempt() {
            Err(Error::Socket { step: BIND, source, .. })
                if source.raw_os_error() == Some(libc::EBUSY) && began.elapsed() < RELEASE_LIMIT =>
            {
                thread::sleep(Duration::from_millis(5));
            }
            outcome => return outcome,
        }
    }
}

/// Waits until the kernel has let go of a queue whose socket was closed: only then can another socket be bound to it.
pub(crate) fn await_release(ifindex: u32, queue: u32, buffers: &Buffers) {
    let config = XskConfig { rx_slots: 1, tx_slots: 1, fill_slots: 1, completion_slots: 1, ..XskConfig::default() };
    let place = Place { interface: "", ifindex, queue };
    // Another failure than "busy" says that the interface is gone, and the driver's use of the region with it.
    let _ = patiently(|| open(place, buffers, &config, false, None));
}

/// Whether a bind failed because the driver does not do what was asked, so that the other mode may still work.
pub(crate) fn mode_refused(error: &Error) -> bool {
    matches!(error, Error::Socket { step: BIND, source, .. }
        if !matches!(source.raw_os_error(), Some(libc::EBUSY | libc::ENETDOWN | libc::ENODEV | libc::EPERM)))
}

/// Whether a bind failed because the queue has a socket.
pub(crate) fn queue_busy(error: &Error) -> bool {
    matches!(error, Error::Socket { step: BIND, source, .. } if source.raw_os_error() == Some(libc::EBUSY))
}

fn set_option<T>(socket: BorrowedFd<'_>, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value outlives the call and its true size is given.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const *value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads an option of the level SOL_XDP whose kernel struct is made of integers only, as `T` is.
fn get_option<T: Copy>(socket: BorrowedFd<'_>, option: libc::c_int, value: &mut T) -> io::Result<()> {
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: the value outlives the call, its true size is given, and any bytes the kernel writes are valid integers.
    let got = unsafe {
        libc::getsockopt(socket.as_raw_fd(), libc::SOL_XDP, option, (&raw mut *value).cast(), &raw mut length)
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    if length as usize != size_of::<T>() {
        return Err(io::Error::other("this kernel is too old: it fills only part of the answer"));
    }
    Ok(())
}

/// A socket's statistics as the kernel has them.
pub(crate) fn statistics(socket: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    // SAFETY: the struct is made of integers, for which zero is a value.
    let mut statistics: libc::xdp_statistics = unsafe { MaybeUninit::zeroed().assume_init() };
    get_option(socket, libc::XDP_STATISTICS, &mut statistics)?;
    Ok(statistics)
}

/// Asks the kernel to send what is in the transmit ring.
pub(crate) fn wake_transmit(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an empty message without an address reads no memory.
    let sent =
        unsafe { libc::sendto(socket.as_raw_fd(), std::ptr::null(), 0, libc::MSG_DONTWAIT, std::ptr::null(), 0) };
    if sent >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Asks the kernel to look at the fill ring, and to poll the device when busy polling is on.
pub(crate) fn wake_receive(socket: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: an empty buffer without room for an address is written to by nobody.
    let received = unsafe {
        libc::recvfrom(
            socket.as_raw_fd(),
            std::ptr::null_mut(),
            0,
            libc::MSG_DONTWAIT,
            std::ptr::null_mut(),
            std::ptr::null_mut(),
        )
    };
    if received >= 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
