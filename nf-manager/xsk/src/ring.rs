//! The kernel's single-producer, single-consumer rings, mapped from an AF_XDP socket.
//!
//! Both indices run freely over 32 bits; their difference is the number of entries in flight. The kernel is the peer and
//! is trusted to write valid memory, but its index is still clamped to the ring, so that no value leads outside it.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU32, Ordering};

/// A mapping that ends with its owner.
#[derive(Debug)]
struct Mapping {
    base: NonNull<u8>,
    length_bytes: usize,
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `map` made this mapping with this length, and the ring that points into it goes with it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length_bytes) };
    }
}

/// What both ends share: where the indices, the flags and the entries are.
#[derive(Debug)]
struct Ring<T> {
    mapping: Mapping,
    producer: usize,
    consumer: usize,
    flags: usize,
    entries: usize,
    slots: u32,
    _entry: PhantomData<T>,
}

// SAFETY: a ring owns its mapping, which is not tied to a thread; it is not Sync, so one thread uses it at a time.
unsafe impl<T: Send> Send for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// Maps the ring that the socket offers at `page_offset`; `slots` is what the socket was told.
    fn map(socket: BorrowedFd<'_>, page_offset: i64, offsets: &libc::xdp_ring_offset, slots: u32) -> io::Result<Self> {
        let [producer, consumer, flags, entries] =
            [offsets.producer, offsets.consumer, offsets.flags, offsets.desc].map(|offset| offset as usize);
        let length_bytes = entries + slots as usize * size_of::<T>();
        let fits = |offset: usize| offset.is_multiple_of(align_of::<AtomicU32>()) && offset + 4 <= length_bytes;
        if ![producer, consumer, flags].into_iter().all(fits) || !entries.is_multiple_of(align_of::<T>()) {
            return Err(io::Error::other("the kernel describes a ring layout that is not usable"));
        }
        // SAFETY: a new shared mapping at an address of the kernel's choice touches no memory of ours.
        let base = unsafe {
            libc::mmap(
                ptr::null_mut(),
                length_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_POPULATE,
                socket.as_raw_fd(),
                page_offset,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap returned the null address"))?;
        let mapping = Mapping { base, length_bytes };
        Ok(Self { mapping, producer, consumer, flags, entries, slots, _entry: PhantomData })
    }

    #[inline]
    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: `map` checked that the offset is aligned and lies within the mapping, which lives as long as self;
        // the kernel accesses these words atomically too.
        unsafe { &*self.mapping.base.as_ptr().add(offset).cast::<AtomicU32>() }
    }

    #[inline]
    fn entry(&self, position: u32) -> *mut T {
        let slot = (position & (self.slots - 1)) as usize;
        // SAFETY: the mapping has `slots` entries from the offset `entries` on, and the mask keeps `slot` below `slots`.
        unsafe { self.mapping.base.as_ptr().add(self.entries).cast::<T>().add(slot) }
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        self.word(self.flags).load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

/// Our end of a ring that the kernel empties: fill and transmit.
#[derive(Debug)]
pub(crate) struct Producer<T> {
    ring: Ring<T>,
    /// Entries written, published or not.
    written: u32,
    /// The kernel's index when last looked at.
    consumed: u32,
}

impl<T: Copy> Producer<T> {
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: &libc::xdp_ring_offset,
        slots: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, page_offset, offsets, slots)?, written: 0, consumed: 0 })
    }

    /// Slots free as of the last look at the kernel's index.
    #[inline]
    fn known_room(&self) -> u32 {
        self.ring.slots.saturating_sub(self.written.wrapping_sub(self.consumed))
    }

    /// Slots free; looks at the kernel's index only when fewer than `wanted` are known to be.
    #[inline]
    pub(crate) fn room(&mut self, wanted: u32) -> u32 {
        let known = self.known_room();
        if known >= wanted {
            return known;
        }
        // Acquire: the kernel has read the entries before this index, so they may be written over.
        self.consumed = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.known_room()
    }

    /// Writes an entry; the caller has seen room for it.
    #[inline]
    pub(crate) fn write(&mut self, value: T) {
        debug_assert!(self.known_room() > 0);
        // SAFETY: `entry` is inside the mapping and aligned; the slot is free, so the kernel does not read it now.
        unsafe { self.ring.entry(self.written).write(value) };
        self.written = self.written.wrapping_add(1);
    }

    /// Shows the kernel what was written.
    #[inline]
    pub(crate) fn publish(&mut self) {
        // Release: the entries become visible before the index that covers them.
        self.ring.word(self.ring.producer).store(self.written, Ordering::Release);
    }

    /// Entries that the kernel has not taken yet.
    #[inline]
    pub(crate) fn pending(&mut self) -> u32 {
        self.consumed = self.ring.word(self.ring.consumer).load(Ordering::Acquire);
        self.written.wrapping_sub(self.consumed).min(self.ring.slots)
    }

    /// Whether the kernel waits for a system call before it looks at this ring.
    #[inline]
    pub(crate) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// Our end of a ring that the kernel fills: receive and completion.
#[derive(Debug)]
pub(crate) struct Consumer<T> {
    ring: Ring<T>,
    read: u32,
    /// The kernel's index when last looked at.
    produced: u32,
}

impl<T: Copy> Consumer<T> {
    pub(crate) fn map(
        socket: BorrowedFd<'_>,
        page_offset: i64,
        offsets: &libc::xdp_ring_offset,
        slots: u32,
    ) -> io::Result<Self> {
        Ok(Self { ring: Ring::map(socket, page_offset, offsets, slots)?, read: 0, produced: 0 })
    }

    /// Entries to read; looks at the kernel's index only when fewer than `wanted` are known to be there.
    #[inline]
    pub(crate) fn available(&mut self, wanted: u32) -> u32 {
        let known = self.produced.wrapping_sub(self.read);
        if known < wanted {
            // Acquire: the entries before this index are visible once it is.
            self.produced = self.ring.word(self.ring.producer).load(Ordering::Acquire);
        }
        self.produced.wrapping_sub(self.read).min(self.ring.slots)
    }

    /// Reads the next entry; the caller has seen that it is available.
    #[inline]
    pub(crate) fn next(&mut self) -> T {
        debug_assert!(self.produced != self.read);
        // SAFETY: `entry` is inside the mapping and aligned; the kernel published it and leaves it until `release`.
        let value = unsafe { self.ring.entry(self.read).read() };
        self.read = self.read.wrapping_add(1);
        value
    }

    /// Gives the slots of what was read back to the kernel.
    #[inline]
    pub(crate) fn release(&mut self) {
        // Release: our reads happen before the kernel may write the slots again.
        self.ring.word(self.ring.consumer).store(self.read, Ordering::Release);
    }
}
