//! One receive and transmit queue of one interface.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use middlenet_shm::Descriptor;

use crate::held::Held;
use crate::ring::{Consumer, Producer};
use crate::socket::{self, CopyMode, Place, XskConfig};
use crate::{Error, Interface, Result, Umem};

/// An Ethernet header: the kernel takes nothing shorter.
const SHORTEST_PACKET_BYTES: u16 = 14;

/// Packets that one call sends in copy mode when the kernel cannot be told otherwise (`TX_BATCH_SIZE`).
const KERNEL_BURST_PKTS: u32 = 32;

/// How long [`XskQueue::close`] waits for packets on their way out.
const DRAIN_LIMIT: Duration = Duration::from_millis(50);

/// What the kernel counted at a socket since it was bound (`XDP_STATISTICS`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XskStatistics {
    /// Received packets dropped for another reason than a full receive ring, such as a packet longer than a buffer. In copy mode
    /// those that found the fill ring empty are among them.
    pub rx_dropped: u64,
    /// Entries of the fill ring that named no buffer.
    pub rx_invalid_descs: u64,
    /// Entries of the transmit ring that named no packet.
    pub tx_invalid_descs: u64,
    /// Received packets dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// Times that the kernel found the fill ring empty; in copy mode, each is a packet.
    pub rx_fill_ring_empty_descs: u64,
    /// Times that the kernel found the transmit ring empty.
    pub tx_ring_empty_descs: u64,
}

/// One receive and transmit queue of one interface: an AF_XDP socket with its four rings.
///
/// It is used by one thread at a time and may move between threads. Dropping it closes the socket but forgets which
/// buffers it had; [`close`](Self::close) returns them.
#[derive(Debug)]
pub struct XskQueue {
    // The rings are unmapped before the socket is closed: a mapping keeps the kernel's socket alive.
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    socket: Arc<OwnedFd>,
    umem: Arc<Umem>,
    held: Held,
    /// Packets sent and not completed.
    outstanding: u32,
    /// Buffers that went in with a descriptor that names no packet; they come back with the completed ones.
    refused: Vec<u32>,
    refused_pkts: u64,
    /// log2 of the size of a buffer.
    shift: u32,
    fill_slots: u32,
    tx_slots: u32,
    ifindex: u32,
    /// Which queue of the interface.
    number: u32,
    zero_copy: bool,
    busy_poll: bool,
    trouble: Option<i32>,
}

impl XskQueue {
    /// Binds a socket to queue `queue` of an interface in the caller's network namespace.
    ///
    /// Packets flow once the interface is up, and an XDP program that has the socket in its map is attached to it.
    ///
    /// # Errors
    ///
    /// [`Error::Mtu`] when the interface's packets may not fit a buffer, [`Error::QueueBusy`] when the queue has a
    /// socket, [`Error::RingSize`], [`Error::NoInterface`] and [`Error::Socket`] as their names say.
    pub fn bind(umem: &Arc<Umem>, ifindex: u32, queue: u32, config: &XskConfig) -> Result<Self> {
        config.check()?;
        let interface = Interface::by_index(ifindex)?;
        let limit_bytes = umem.mtu_limit();
        if interface.mtu_bytes > limit_bytes {
            return Err(Error::Mtu {
                interface: interface.name,
                mtu_bytes: interface.mtu_bytes,
                buffer_bytes: umem.buffers().buffer_bytes(),
                limit_bytes,
            });
        }

        let mut members = umem.members();
        let place = Place { interface: &interface.name, ifindex, queue };
        let busy = || Error::QueueBusy { interface: interface.name.clone(), queue };
        if members.occupied(ifindex, queue) {
            return Err(busy());
        }
        let open = |zero_copy: bool| {
            let sharing = members.sharing(zero_copy);
            let bound = socket::patiently(|| socket::open(place, umem.buffers(), config, zero_copy, sharing.as_ref()));
            bound.map_err(|error| if socket::queue_busy(&error) { busy() } else { error })
        };
        let bound = match config.zero_copy {
            CopyMode::Copy => open(false),
            CopyMode::ForceZeroCopy => open(true),
            CopyMode::Auto => {
                open(true).or_else(|error| if socket::mode_refused(&error) { open(false) } else { Err(error) })
            }
        }?;
        let socket = Arc::new(bound.socket);
        members.join(&socket, ifindex, queue, bound.zero_copy);
        drop(members);

        Ok(Self {
            rx: bound.rx,
            tx: bound.tx,
            fill: bound.fill,
            completion: bound.completion,
            socket,
            held: Held::new(umem.buffers().count()),
            outstanding: 0,
            refused: Vec::with_capacity(config.tx_slots as usize),
            refused_pkts: 0,
            shift: umem.buffers().buffer_bytes().trailing_zeros(),
            umem: Arc::clone(umem),
            fill_slots: config.fill_slots,
            tx_slots: config.tx_slots,
            ifindex,
            number: queue,
            zero_copy: bound.zero_copy,
            busy_poll: config.busy_poll.is_some(),
            trouble: None,
        })
    }

    /// The socket: to enter in the XDP program's map, and to wait on with poll(2) for received packets (`POLLIN`).
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether the driver writes packets into the region itself.
    pub fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// How many empty buffers the fill ring has room for.
    #[inline]
    pub fn fill_room(&mut self) -> usize {
        self.fill.room(self.fill_slots) as usize
    }

    /// Gives empty buffers to the kernel to receive into, and says how many it took, from the first on.
    ///
    /// An index that names no buffer, or one that the queue has already, is taken and ignored.
    #[inline]
    pub fn fill(&mut self, indices: &[u32]) -> usize {
        let wanted = indices.len().min(self.fill_slots as usize) as u32;
        let taken = self.fill.room(wanted).min(wanted) as usize;
        for &index in &indices[..taken] {
            let fresh = self.held.take(index);
            debug_assert!(fresh, "buffer {index} is none, or given twice");
            if fresh {
                self.fill.write(u64::from(index) << self.shift);
            }
        }
        if taken > 0 {
            self.fill.publish();
        }
        taken
    }

    /// Takes received packets, as many as there are and fit, and says how many.
    ///
    /// `index`, `offset` and `length` of each descriptor are set, and lie inside one buffer; its other fields are left
    /// as they are. The buffers are the caller's from now on.
    #[inline]
    pub fn receive(&mut self, out: &mut [Descriptor]) -> usize {
        let wanted = u32::try_from(out.len()).unwrap_or(u32::MAX);
        let available = self.rx.available(wanted).min(wanted);
        let mut received = 0;
        for _ in 0..available {
            let entry = self.rx.next();
            let (index, offset) = self.split(entry.addr);
            // The kernel is trusted to name what it was given; that is checked all the same, as nothing else would.
            let Some(index) = index.filter(|&index| self.held.release(index)) else { continue };
            if u64::from(offset) + u64::from(entry.len) > 1 << self.shift {
                self.set_aside(index);
                continue;
            }
            let descriptor = &mut out[received];
            descriptor.index = index;
            descriptor.offset = offset;
            descriptor.length = entry.len as u16;
            received += 1;
        }
        if available > 0 {
            self.rx.release();
        }
        received
    }

    /// Gives packets to the kernel to send, and says how many it took, from the first on; [`kick`](Self::kick) sends
    /// them. A buffer comes back by [`completed`](Self::completed) when its packet has left.
    ///
    /// A descriptor that names no packet inside a buffer, or one shorter than an Ethernet header, is taken, counted by
    /// [`refused_pkts`](Self::refused_pkts) and not sent; its buffer, if it names one, comes back in the same way.
    #[inline]
    pub fn send(&mut self, descriptors: &[Descriptor]) -> usize {
        // Never more on their way than the completion ring surely takes, and a place for each that may be refused.
        let spare = (self.refused.capacity() - self.refused.len()) as u32;
        let wanted = descriptors.len().min(spare as usize) as u32;
        let taken = self.tx.room(wanted).min(wanted) as usize;
        for descriptor in &descriptors[..taken] {
            let fresh = self.held.take(descriptor.index);
            debug_assert!(fresh, "buffer {} is none, or given twice", descriptor.index);
            if !fresh {
                self.refused_pkts += 1;
                continue;
            }
            if descriptor.length < SHORTEST_PACKET_BYTES || !self.umem.buffers().fits(descriptor) {
                self.held.release(descriptor.index);
                self.set_aside(descriptor.index);
                self.refused_pkts += 1;
                continue;
            }
            self.tx.write(libc::xdp_desc {
                addr: (u64::from(descriptor.index) << self.shift) + u64::from(descriptor.offset),
                len: u32::from(descriptor.length),
                options: 0,
            });
            self.outstanding += 1;
        }
        if taken > 0 {
            self.tx.publish();
        }
        taken
    }

    /// Takes buffers whose packets have left, as many as there are and fit, and says how many. They belong in the pool
    /// that all ports share.
    #[inline]
    pub fn completed(&mut self, out: &mut [u32]) -> usize {
        let mut taken = 0;
        while taken < out.len() {
            let Some(index) = self.refused.pop() else { break };
            out[taken] = index;
            taken += 1;
        }
        let wanted = u32::try_from(out.len() - taken).unwrap_or(u32::MAX);
        let available = self.completion.available(wanted).min(wanted);
        for _ in 0..available {
            let address = self.completion.next();
            self.outstanding = self.outstanding.saturating_sub(1);
            let (index, _) = self.split(address);
            let Some(index) = index.filter(|&index| self.held.release(index)) else { continue };
            out[taken] = index;
            taken += 1;
        }
        if available > 0 {
            self.completion.release();
        }
        taken
    }

    /// Makes the system calls that the kernel waits for: to send what [`send`](Self::send) gave it, and to look at the
    /// fill ring. Does nothing when it waits for none. Call it once per burst, and again while
    /// [`unsent`](Self::unsent) is not zero.
    ///
    /// In copy mode the call itself sends the packets, so it is repeated until the ring is empty or the kernel takes no
    /// more for now.
    pub fn kick(&mut self) {
        if self.fill.needs_wakeup() || self.busy_poll {
            let woken = socket::wake_receive(self.fd());
            self.note(woken);
        }
        if self.outstanding == 0 || !self.tx.needs_wakeup() {
            return;
        }
        let mut pending = self.tx.pending();
        for _ in 0..=self.tx_slots / KERNEL_BURST_PKTS {
            if pending == 0 {
                return;
            }
            let woken = socket::wake_transmit(self.fd());
            let again = matches!(&woken, Err(error) if error.raw_os_error() == Some(libc::EAGAIN));
            self.note(woken);
            let left = self.tx.pending();
            if self.zero_copy || !again || left == pending {
                return;
            }
            pending = left;
        }
    }

    /// Packets given to [`send`](Self::send) that the kernel has not taken.
    pub fn unsent(&mut self) -> usize {
        self.tx.pending() as usize
    }

    /// Packets sent whose buffers have not come back.
    pub fn outstanding(&self) -> usize {
        self.outstanding as usize
    }

    /// Buffers that the queue has: in its rings or in the kernel.
    pub fn held(&self) -> usize {
        self.held.len() + self.refused.len()
    }

    /// Packets that [`send`](Self::send) refused because their descriptor named no packet.
    pub fn refused_pkts(&self) -> u64 {
        self.refused_pkts
    }

    /// Why the last system call of [`kick`](Self::kick) failed, if it did: the interface went down
    /// (`ErrorKind::NetworkDown`) or away. That the kernel is busy for the moment is no failure.
    pub fn trouble(&self) -> Option<io::Error> {
        self.trouble.map(io::Error::from_raw_os_error)
    }

    /// What the kernel counted at this socket.
    ///
    /// # Errors
    ///
    /// [`Error::Statistics`] when the kernel does not tell.
    pub fn statistics(&self) -> Result<XskStatistics> {
        let counted = socket::statistics(self.fd()).map_err(Error::Statistics)?;
        Ok(XskStatistics {
            rx_dropped: counted.rx_dropped,
            rx_invalid_descs: counted.rx_invalid_descs,
            tx_invalid_descs: counted.tx_invalid_descs,
            rx_ring_full: counted.rx_ring_full,
            rx_fill_ring_empty_descs: counted.rx_fill_ring_empty_descs,
            tx_ring_empty_descs: counted.tx_ring_empty_descs,
        })
    }

    /// Closes the socket and adds to `returned` every buffer that the queue had been given and not given back.
    ///
    /// Packets on their way out get 50 ms to leave; packets received and not taken are lost. When this returns, the
    /// kernel writes to none of these buffers any more.
    pub fn close(self, returned: &mut Vec<u32>) {
        let mut queue = self;
        let began = Instant::now();
        let mut burst = [0; 64];
        loop {
            queue.kick();
            loop {
                let count = queue.completed(&mut burst);
                returned.extend_from_slice(&burst[..count]);
                if count < burst.len() {
                    break;
                }
            }
            if queue.outstanding == 0 || began.elapsed() > DRAIN_LIMIT {
                break;
            }
            thread::sleep(Duration::from_micros(200));
        }
        let Self { rx, tx, fill, completion, socket, umem, mut held, refused, zero_copy, ifindex, number, .. } = queue;
        drop((rx, tx, fill, completion));
        // No bind borrows the socket meanwhile, so this closes it: the kernel takes it out of the program's map and
        // waits for packets in flight to it.
        let members = umem.members();
        drop(socket);
        drop(members);
        // A driver that writes into the region goes on until the kernel's work queue has told it to stop.
        if zero_copy {
            socket::await_release(ifindex, number, umem.buffers());
        }
        returned.extend(refused);
        held.drain(returned);
    }

    /// Buffer and offset of an address in the region; no buffer when it is outside.
    #[inline]
    fn split(&self, address: u64) -> (Option<u32>, u16) {
        let index = u32::try_from(address >> self.shift).ok();
        (index, (address & ((1 << self.shift) - 1)) as u16)
    }

    /// Keeps a buffer that is not to be used to be taken by `completed`; without a place for it, until `close`.
    fn set_aside(&mut self, index: u32) {
        if self.refused.len() < self.refused.capacity() {
            self.refused.push(index);
        } else {
            self.held.take(index);
        }
    }

    fn note(&mut self, woken: io::Result<()>) {
        self.trouble = match woken.map_err(|error| error.raw_os_error()) {
            Ok(()) | Err(Some(libc::EAGAIN | libc::EBUSY | libc::ENOBUFS | libc::EINTR)) => None,
            Err(code) => code,
        };
    }
}

impl AsFd for XskQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// A worker opens its queues on one thread and polls them on another.
const _: () = {
    const fn assert_send<T: Send>() {}
    assert_send::<XskQueue>();
};
