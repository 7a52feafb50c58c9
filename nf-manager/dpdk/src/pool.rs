use std::ffi::{CString, c_char, c_uint, c_void};
use std::fmt;
use std::mem::MaybeUninit;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use dpdk_sys as sys;
use middlenet_shm::Buffers;

use crate::eal::Alive;
use crate::error::{check, errno, failed};
use crate::mbuf::{self, Mbuf};
use crate::queue::MAX_BURST;
use crate::{DpdkError, Eal, Worker};

/// How to make a pool.
#[derive(Clone, Debug)]
pub struct PoolConfig {
    /// Name of the mempool, unique in the process, at most 25 bytes.
    pub name: String,
    /// Buffers an lcore keeps for itself, at most 512 and at most two thirds of all.
    pub cache: u32,
}

impl Default for PoolConfig {
    fn default() -> Self {
        PoolConfig { name: "packets".into(), cache: sys::RTE_MEMPOOL_CACHE_MAX_SIZE }
    }
}

/// A mempool with one mbuf per buffer of a shared region.
///
/// The mbuf headers are private to this process and contiguous, so buffer `i` belongs to the header at `first + i *
/// stride`. They are direct mbufs whose `buf_addr` points into the region: freeing and allocating take the shortest path of
/// DPDK's, which mbufs with attached external buffers do not.
///
/// A buffer belongs to one holder at a time. Indices are plain numbers, so the type system cannot see a copy; the pool marks
/// buffers whose index is out and ignores (and [counts](Pool::refused)) the return of one that is not. The manager's
/// ledger is what stops functions from trying.
pub struct Pool {
    mempool: NonNull<sys::rte_mempool>,
    layout: Layout,
    buffers: Buffers,
    refused: AtomicU64,
    /// Ports for which the region is mapped for DMA.
    pub(crate) dma_ports: AtomicUsize,
    _alive: Arc<Alive>,
}

/// Step by which the data of successive buffers is shifted.
///
/// Without it every packet starts at the same place modulo the buffer's size, and all of them share two of the 64 sets of
/// the first-level cache. Seen on the host: with 3,900 packets of a capture file in the pool, forwarding took 41-43 cycles
/// a packet instead of 43-45; between null ports 28.5 instead of 29.3. The number of shifts is odd: the second-level cache
/// sees a buffer's index modulo 64 too, and an even number would give each of those places one or few shifts of its own.
const COLOUR_BYTES: u32 = 64;

/// How many shifts there are. What the largest takes is lost to every buffer, and 2 KiB have to hold a full Ethernet frame
/// with room to grow.
fn colours(buffer_bytes: u32) -> u32 {
    if buffer_bytes < 4096 { 5 } else { 15 }
}

/// How buffers and mbuf headers lie in memory.
///
/// The loops over a burst work on a copy: through a reference, the compiler would load each field again after every
/// store to a header.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    /// Header of buffer 0.
    first: NonNull<u8>,
    /// Distance of the headers in bytes.
    stride: usize,
    /// Address of buffer 0.
    base: usize,
    /// Binary logarithm of the size of a buffer.
    shift: u32,
    /// Number of buffers.
    count: u32,
}

impl Layout {
    /// The mbuf of a buffer whose index is out.
    #[inline(always)]
    pub(crate) fn out(self, index: u32) -> Option<Mbuf> {
        if index >= self.count {
            return None;
        }
        let mbuf = self.mbuf(index);
        mbuf.is_out().then_some(mbuf)
    }

    /// The mbuf of buffer `index`, which is in range.
    #[inline(always)]
    pub(crate) fn mbuf(self, index: u32) -> Mbuf {
        debug_assert!(index < self.count);
        // SAFETY: there are `count` headers, `stride` apart; callers have checked the index.
        unsafe { Mbuf::new(self.first.add(index as usize * self.stride)) }
    }

    /// The buffer of an mbuf of this pool, and the offset of its packet in that.
    #[inline(always)]
    pub(crate) fn place_of(self, mbuf: Mbuf) -> (u32, u16) {
        let at = mbuf.buffer_address().wrapping_sub(self.base);
        // Shifting by a variable costs three operations, choosing between two constants one that is predicted.
        let index = if self.shift == 11 { at >> 11 } else { at >> 12 };
        (index as u32, (at as u16 & self.mask()).wrapping_add(mbuf.data_offset()))
    }

    /// The offset of a packet counted from where the header says its buffer begins.
    #[inline(always)]
    pub(crate) fn data_offset(self, mbuf: Mbuf, offset: u16) -> u16 {
        // The base is aligned to a page, so the low bits are the colour.
        let colour = mbuf.buffer_address() as u16 & self.mask();
        if offset < colour {
            mbuf.lower_buffer(colour);
            return offset;
        }
        offset - colour
    }

    #[inline(always)]
    fn mask(self) -> u16 {
        ((1u32 << self.shift) - 1) as u16
    }

    /// Size of a buffer in bytes.
    #[inline(always)]
    pub(crate) fn buffer_bytes(self) -> u32 {
        1 << self.shift
    }
}

// SAFETY: the mempool is made for use from many lcores; its per-lcore caches are reached only with a `Worker`, which
// stays on its lcore. The other fields are plain values, or Send and Sync by themselves.
unsafe impl Send for Pool {}
// SAFETY: as for Send.
unsafe impl Sync for Pool {}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("count", &self.layout.count).finish_non_exhaustive()
    }
}

/// Owns the mempool while it is being made.
struct Unfinished(NonNull<sys::rte_mempool>);

impl Drop for Unfinished {
    fn drop(&mut self) {
        // SAFETY: made by rte_mempool_create_empty and used by nobody yet.
        unsafe { sys::rte_mempool_free(self.0.as_ptr()) }
    }
}

/// Owns the registration of the region while the pool is being made.
struct Registered<'a>(&'a Buffers);

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        unregister(self.0);
    }
}

fn unregister(buffers: &Buffers) {
    let region = buffers.region();
    // SAFETY: this region was registered with this address and length.
    unsafe { sys::rte_extmem_unregister(region.as_ptr().cast(), region.length()) };
}

impl Pool {
    /// Registers the region with DPDK and makes an mbuf for each of its buffers.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when DPDK's memory is short, the name is taken, or the region is registered already.
    pub fn create(eal: &Eal, buffers: Buffers, config: &PoolConfig) -> Result<Arc<Pool>, DpdkError> {
        let count = buffers.count();
        let cache = config.cache.min(sys::RTE_MEMPOOL_CACHE_MAX_SIZE).min(count * 2 / 3);
        let iovas = register(&buffers)?;
        let registered = Registered(&buffers);
        let colours = colours(buffers.buffer_bytes());
        // The same for all, so that a device may take any of them.
        let buffer_length = (buffers.buffer_bytes() - (colours - 1) * COLOUR_BYTES) as u16;
        let (mempool, first, stride) = create_mempool(config, count, cache, buffer_length)?;
        let base = buffers.region().as_ptr() as usize;
        let shift = buffers.buffer_bytes().trailing_zeros();

        let page_bytes = buffers.region().page_bytes();
        for index in 0..count as usize {
            // SAFETY: `create_mempool` made `count` headers, `stride` apart, and initialised them.
            let mbuf = unsafe { Mbuf::new(first.add(index * stride)) };
            let at = (index << shift) + index % colours as usize * COLOUR_BYTES as usize;
            mbuf.set_buffer(base + at, iovas[at / page_bytes] + (at % page_bytes) as u64, buffer_length);
        }
        std::mem::forget(registered);
        let mempool = {
            let pointer = mempool.0;
            std::mem::forget(mempool);
            pointer
        };
        Ok(Arc::new(Pool {
            mempool,
            layout: Layout { first, stride, base, shift, count },
            buffers,
            refused: AtomicU64::new(0),
            dma_ports: AtomicUsize::new(0),
            _alive: eal.alive(),
        }))
    }

    /// Buffers in the pool, free or not.
    pub fn count(&self) -> u32 {
        self.layout.count
    }

    /// The packet bytes.
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Bytes kept free before a received packet, at least.
    pub fn headroom_bytes(&self) -> u32 {
        sys::RTE_PKTMBUF_HEADROOM
    }

    /// Largest packet that a port can receive into one buffer, in bytes.
    pub fn room_bytes(&self) -> u32 {
        let buffer_bytes = self.buffers.buffer_bytes();
        buffer_bytes - (colours(buffer_bytes) - 1) * COLOUR_BYTES - self.headroom_bytes()
    }

    /// Free buffers, those in the lcores' caches included. Exact when no lcore is at work.
    pub fn available(&self) -> u32 {
        // SAFETY: the mempool lives as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.mempool.as_ptr()) }
    }

    /// Buffers that are not free: in a port, or out as a descriptor. Exact when no lcore is at work.
    pub fn in_use(&self) -> u32 {
        self.count() - self.available().min(self.count())
    }

    /// Buffers in the queues of ports: neither free nor out as a descriptor. Looks at every buffer's header; exact when no
    /// lcore is at work.
    pub fn in_ports(&self) -> u32 {
        let out = (0..self.count()).filter(|index| self.layout.mbuf(*index).is_out()).count() as u32;
        self.in_use().saturating_sub(out)
    }

    /// How often somebody gave back, or sent, a buffer that was not out.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Takes buffers and writes their indices to the front of `indices`. Returns how many: all, or what is left.
    #[inline]
    pub fn allocate(&self, _: &Worker, indices: &mut [u32]) -> usize {
        let mut taken = 0;
        for chunk in indices.chunks_mut(MAX_BURST) {
            let got = self.allocate_chunk(chunk);
            taken += got;
            if got < chunk.len() {
                break;
            }
        }
        taken
    }

    fn allocate_chunk(&self, indices: &mut [u32]) -> usize {
        let mut objects = [const { MaybeUninit::<*mut c_void>::uninit() }; MAX_BURST];
        let mut want = indices.len().min(MAX_BURST);
        // A mempool gives all or nothing; towards its end, less may still be had.
        while want > 0 {
            // SAFETY: `objects` has room for `want` pointers; the caller's Worker stands for the lcore's cache.
            let ret = unsafe {
                sys::rte_mempool_get_bulk(self.mempool.as_ptr(), objects.as_mut_ptr().cast(), want as c_uint)
            };
            if ret == 0 {
                break;
            }
            want /= 2;
        }
        let layout = self.layout;
        for (index, object) in indices.iter_mut().zip(&objects[..want]) {
            // SAFETY: the mempool wrote `want` pointers, to mbufs of this pool.
            let mbuf = unsafe { Mbuf::new(NonNull::new_unchecked(object.assume_init().cast())) };
            mbuf.mark_out();
            *index = layout.place_of(mbuf).0;
        }
        want
    }

    /// Gives buffers back. An index that is not out is ignored and counted.
    #[inline]
    pub fn free(&self, _: &Worker, indices: &[u32]) {
        self.free_all(indices.iter().copied());
    }

    /// [`free`](Self::free) for the buffers that descriptors name.
    #[inline]
    pub fn free_descriptors(&self, _: &Worker, descriptors: &[middlenet_shm::Descriptor]) {
        self.free_all(descriptors.iter().map(|d| d.index));
    }

    #[inline]
    fn free_all(&self, indices: impl Iterator<Item = u32>) {
        let mut objects = [null_mut::<c_void>(); MAX_BURST];
        let layout = self.layout;
        let mut filled = 0;
        for index in indices {
            let Some(mbuf) = layout.out(index) else {
                self.refuse(1);
                continue;
            };
            // refcnt 1, one segment, no next: receive and allocate hand out nothing else, and nobody writes them.
            mbuf.mark_in();
            objects[filled] = mbuf.as_ptr().cast();
            filled += 1;
            if filled == MAX_BURST {
                self.put(&objects);
                filled = 0;
            }
        }
        if filled > 0 {
            self.put(&objects[..filled]);
        }
    }

    #[inline]
    fn put(&self, objects: &[*mut c_void]) {
        // SAFETY: every pointer is an mbuf of this pool that was out; a Worker stands for the lcore's cache.
        unsafe { sys::rte_mempool_put_bulk(self.mempool.as_ptr(), objects.as_ptr(), objects.len() as c_uint) };
    }

    #[inline(always)]
    pub(crate) fn layout(&self) -> Layout {
        self.layout
    }

    #[cold]
    pub(crate) fn refuse(&self, times: u64) {
        self.refused.fetch_add(times, Ordering::Relaxed);
    }

    pub(crate) fn mempool(&self) -> *mut sys::rte_mempool {
        self.mempool.as_ptr()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: ports and queues hold the pool, so none is left; the mempool's memory is freed with it.
        unsafe { sys::rte_mempool_free(self.mempool.as_ptr()) };
        unregister(&self.buffers);
    }
}

/// Makes the region known to DPDK. Returns the IO address of each page.
fn register(buffers: &Buffers) -> Result<Vec<u64>, DpdkError> {
    let region = buffers.region();
    let (base, bytes, page_bytes) = (region.as_ptr(), region.length(), region.page_bytes());
    // SAFETY: reads what the EAL chose at start.
    let virtual_addresses = unsafe { sys::rte_eal_iova_mode() } == sys::RTE_IOVA_VA;
    let mut iovas: Vec<u64> = (0..bytes / page_bytes)
        .map(|page| {
            let address = base.wrapping_add(page * page_bytes);
            if virtual_addresses {
                return address as u64;
            }
            // SAFETY: the page is mapped and, regions being populated, present; the call only looks its address up.
            unsafe { sys::rte_mem_virt2iova(address.cast()) }
        })
        .collect();
    // SAFETY: the region stays mapped while the pool holds `buffers`; there is one address per page.
    let ret =
        unsafe { sys::rte_extmem_register(base.cast(), bytes, iovas.as_mut_ptr(), iovas.len() as c_uint, page_bytes) };
    check("rte_extmem_register", ret)?;
    Ok(iovas)
}

/// An initialised mempool of `count` mbuf headers, the first of them, and their distance in bytes.
fn create_mempool(
    config: &PoolConfig,
    count: u32,
    cache: u32,
    buffer_length: u16,
) -> Result<(Unfinished, NonNull<u8>, usize), DpdkError> {
    // Headers alone are never the target of DMA, so they need not be contiguous for a device; that lets DPDK lay them
    // out without gaps at page boundaries, and gives buffer index and header address a fixed relation.
    let flags = sys::RTE_MEMPOOL_F_NO_IOVA_CONTIG | sys::RTE_MEMPOOL_F_NO_SPREAD;
    let name = CString::new(config.name.as_str()).map_err(|_| DpdkError::Nul(config.name.clone()))?;
    let element_bytes = mbuf::BYTES as c_uint;
    // SAFETY: plain values and a NUL-terminated name.
    let mempool = unsafe {
        sys::rte_mempool_create_empty(
            name.as_ptr(),
            count,
            element_bytes,
            cache,
            size_of::<sys::rte_pktmbuf_pool_private>() as c_uint,
            sys::SOCKET_ID_ANY,
            flags,
        )
    };
    let mempool = Unfinished(NonNull::new(mempool).ok_or_else(|| failed("rte_mempool_create_empty", errno()))?);
    let pool = mempool.0.as_ptr();

    // SAFETY: `pool` is a mempool without objects, which is when its operations and private data are set; the private
    // data is large enough for `room`, which is read before the calls return.
    unsafe {
        check(
            "rte_mempool_set_ops_byname",
            sys::rte_mempool_set_ops_byname(pool, sys::rte_mbuf_best_mempool_ops(), null_mut()),
        )?;
        let mut room: sys::rte_pktmbuf_pool_private = std::mem::zeroed();
        room.mbuf_data_room_size = buffer_length;
        sys::rte_pktmbuf_pool_init(pool, (&raw mut room).cast());
    }

    let mut sizes = MaybeUninit::<sys::rte_mempool_objsz>::zeroed();
    // SAFETY: `sizes` is a structure for the call to fill.
    let stride = unsafe { sys::rte_mempool_calc_obj_size(element_bytes, flags, sizes.as_mut_ptr()) } as usize;
    let bytes = stride * count as usize;
    // SAFETY: plain values. The memory belongs to the mempool from rte_mempool_populate_iova on, which frees it.
    let memory = unsafe {
        sys::rte_zmalloc_socket(c"mbuf headers".as_ptr(), bytes, sys::RTE_CACHE_LINE_SIZE, sys::SOCKET_ID_ANY)
    };
    if memory.is_null() {
        return Err(failed("rte_zmalloc_socket of the mbuf headers", libc::ENOMEM));
    }
    // SAFETY: `memory` is `bytes` bytes that nothing else uses; `free_headers` matches how they were allocated.
    let populated = unsafe {
        sys::rte_mempool_populate_iova(
            pool,
            memory.cast::<c_char>(),
            u64::MAX, // RTE_BAD_IOVA: no device addresses the headers
            bytes,
            Some(free_headers),
            memory,
        )
    };
    if populated <= 0 {
        // SAFETY: the mempool did not take the memory.
        unsafe { sys::rte_free(memory) };
        return Err(failed("rte_mempool_populate_iova", if populated == 0 { libc::ENOMEM } else { -populated }));
    }

    let mut walk = Walk { first: null_mut(), previous: null_mut(), stride, even: true };
    // SAFETY: rte_pktmbuf_init is the initialiser of this kind of mempool; `check_header` gets the `Walk` it expects.
    let (initialised, walked) = unsafe {
        (
            sys::rte_mempool_obj_iter(pool, Some(sys::rte_pktmbuf_init), null_mut()),
            sys::rte_mempool_obj_iter(pool, Some(check_header), (&raw mut walk).cast()),
        )
    };
    match NonNull::new(walk.first) {
        Some(first) if initialised == count && walked == count && walk.even => Ok((mempool, first, stride)),
        _ => Err(failed("laying out the mbuf headers", libc::ENOMEM)),
    }
}

unsafe extern "C" fn free_headers(_: *mut sys::rte_mempool_memhdr, memory: *mut c_void) {
    // SAFETY: what rte_zmalloc_socket returned, passed through the mempool.
    unsafe { sys::rte_free(memory) }
}

/// Sees whether the headers lie where `Pool::mbuf` will look for them.
struct Walk {
    first: *mut u8,
    previous: *mut u8,
    stride: usize,
    even: bool,
}

unsafe extern "C" fn check_header(_: *mut sys::rte_mempool, walk: *mut c_void, object: *mut c_void, index: c_uint) {
    // SAFETY: `create_mempool` passes a `Walk` that lives through the iteration.
    let walk = unsafe { &mut *walk.cast::<Walk>() };
    let object = object.cast::<u8>();
    if index == 0 {
        walk.first = object;
    } else if object as usize != walk.previous as usize + walk.stride {
        walk.even = false;
    }
    walk.previous = object;
    if let Some(header) = NonNull::new(object) {
        // SAFETY: `object` is an initialised header of this mempool.
        unsafe { Mbuf::new(header) }.mark_in();
    }
}
