//! The packet region as AF_XDP sees it: UMEM.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use middlenet_shm::Buffers;

/// Bytes that the kernel keeps free before each received packet (`XDP_PACKET_HEADROOM`).
const KERNEL_HEADROOM_BYTES: u32 = 256;

/// Bytes kept free on top of that. Without them a packet would begin with a cache line, and the tag that an XDP program puts in
/// front of it would take another one.
pub(crate) const TAG_BYTES: u32 = 8;

/// NICs are told in such units how long a packet may be; drivers round down.
const ROOM_UNIT_BYTES: u32 = 128;

/// Ethernet header and one VLAN tag, which an MTU does not count.
const LINK_HEADER_BYTES: u32 = 18;

/// A packet region given to the kernel for AF_XDP, shared by all sockets of the process.
///
/// The first socket registers the region; the others are bound as sharers of it, each with fill and completion rings of
/// its own. A sharer inherits zero-copy or copy mode, so a process whose interfaces differ in that has one registration
/// for each of the two modes, over the same memory.
#[derive(Debug)]
pub struct Umem {
    buffers: Buffers,
    members: Mutex<Vec<Member>>,
}

/// A live socket that others may share the region with.
#[derive(Debug)]
struct Member {
    socket: Weak<OwnedFd>,
    ifindex: u32,
    queue: u32,
    zero_copy: bool,
}

/// The sockets of a region while one of them is bound.
pub(crate) struct Members<'a>(MutexGuard<'a, Vec<Member>>);

impl Umem {
    /// Makes the region behind these buffers usable for AF_XDP. The kernel is told by the first [`XskQueue`] bound.
    ///
    /// [`XskQueue`]: crate::XskQueue
    pub fn new(buffers: Buffers) -> Arc<Self> {
        Arc::new(Self { buffers, members: Mutex::new(Vec::new()) })
    }

    /// The buffers of the region.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The largest MTU, in bytes, whose packets fit a buffer: 1,646 for buffers of 2 KiB.
    pub fn mtu_limit(&self) -> u32 {
        let room = self.buffers.buffer_bytes() - KERNEL_HEADROOM_BYTES - TAG_BYTES;
        room / ROOM_UNIT_BYTES * ROOM_UNIT_BYTES - LINK_HEADER_BYTES
    }

    pub(crate) fn members(&self) -> Members<'_> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        members.retain(|member| member.socket.strong_count() > 0);
        Members(members)
    }
}

impl Members<'_> {
    /// Whether a socket of this process is bound to the queue.
    pub(crate) fn occupied(&self, ifindex: u32, queue: u32) -> bool {
        self.0.iter().any(|member| member.ifindex == ifindex && member.queue == queue)
    }

    /// A bound socket of the wanted mode to share the region with.
    pub(crate) fn sharing(&self, zero_copy: bool) -> Option<Arc<OwnedFd>> {
        self.0.iter().filter(|member| member.zero_copy == zero_copy).find_map(|member| member.socket.upgrade())
    }

    pub(crate) fn join(&mut self, socket: &Arc<OwnedFd>, ifindex: u32, queue: u32, zero_copy: bool) {
        self.0.push(Member { socket: Arc::downgrade(socket), ifindex, queue, zero_copy });
    }
}
