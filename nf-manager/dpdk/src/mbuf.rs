//! The fields of an mbuf header that are read and written per packet, at the offsets the C compiler gave.

use std::ptr::NonNull;

use dpdk_sys as sys;

const BUF_ADDR: usize = sys::DPDK_SYS_MBUF_BUF_ADDR as usize;
const BUF_IOVA: usize = sys::DPDK_SYS_MBUF_BUF_IOVA as usize;
const DATA_OFF: usize = sys::DPDK_SYS_MBUF_DATA_OFF as usize;
const NB_SEGS: usize = sys::DPDK_SYS_MBUF_NB_SEGS as usize;
const PORT: usize = sys::DPDK_SYS_MBUF_PORT as usize;
const OL_FLAGS: usize = sys::DPDK_SYS_MBUF_OL_FLAGS as usize;
const PKT_LEN: usize = sys::DPDK_SYS_MBUF_PKT_LEN as usize;
const DATA_LEN: usize = sys::DPDK_SYS_MBUF_DATA_LEN as usize;
const BUF_LEN: usize = sys::DPDK_SYS_MBUF_BUF_LEN as usize;

/// Size of an mbuf header in bytes.
pub(crate) const BYTES: usize = sys::DPDK_SYS_MBUF_BYTES as usize;

// data_off, refcnt, nb_segs and port are one aligned word, which is written with one store. It is read field by field: a
// driver may just have written the fields one by one, and a wider load would wait for all of those stores.
const _: () = assert!(DATA_OFF.is_multiple_of(8));
const _: () = assert!(sys::DPDK_SYS_MBUF_REFCNT as usize == DATA_OFF + 2);
const _: () = assert!(NB_SEGS == DATA_OFF + 4);
const _: () = assert!(PORT == DATA_OFF + 6);
const _: () = assert!(OL_FLAGS.is_multiple_of(8) && PKT_LEN.is_multiple_of(4));
const _: () = assert!(cfg!(target_endian = "little"));

/// In `port` while a descriptor of the buffer is above this crate. DPDK's ports end at `RTE_MAX_ETHPORTS`.
const OUT: u16 = 0x4d4e;
/// In `port` otherwise: RTE_MBUF_PORT_INVALID.
const IN: u16 = 0xffff;

const _: () = assert!(OUT as u32 >= sys::RTE_MAX_ETHPORTS);

/// refcnt 1, nb_segs 1 and port [`IN`] in the word that starts with data_off.
const REARMED: u64 = 1 << 16 | 1 << 32 | (IN as u64) << 48;

/// A pointer to an mbuf header of a live pool.
#[derive(Clone, Copy)]
pub(crate) struct Mbuf(NonNull<u8>);

impl Mbuf {
    /// # Safety
    /// `pointer` is the header of an mbuf of a pool that outlives every use of the value.
    #[inline(always)]
    pub(crate) unsafe fn new(pointer: NonNull<u8>) -> Mbuf {
        Mbuf(pointer)
    }

    #[inline(always)]
    pub(crate) fn as_ptr(self) -> *mut sys::rte_mbuf {
        self.0.as_ptr().cast()
    }

    #[inline(always)]
    fn read<T: Copy>(self, offset: usize) -> T {
        debug_assert!(offset + size_of::<T>() <= BYTES);
        // SAFETY: the offsets are those of aligned integer fields of the header, which `new` promises to be there. Every
        // byte of a header was initialised when its pool was.
        unsafe { self.0.add(offset).cast::<T>().read() }
    }

    #[inline(always)]
    fn write<T: Copy>(self, offset: usize, value: T) {
        debug_assert!(offset + size_of::<T>() <= BYTES);
        // SAFETY: as for `read`; the header is private to this process, and the holder of the buffer alone writes it.
        unsafe { self.0.add(offset).cast::<T>().write(value) }
    }

    #[inline(always)]
    pub(crate) fn buffer_address(self) -> usize {
        self.read(BUF_ADDR)
    }

    #[inline(always)]
    pub(crate) fn data_offset(self) -> u16 {
        self.read(DATA_OFF)
    }

    #[inline(always)]
    pub(crate) fn segments(self) -> u16 {
        self.read(NB_SEGS)
    }

    /// Whether a descriptor of the buffer is out.
    #[inline(always)]
    pub(crate) fn is_out(self) -> bool {
        self.read::<u16>(PORT) == OUT
    }

    #[inline(always)]
    pub(crate) fn data_length(self) -> u16 {
        self.read(DATA_LEN)
    }

    /// Marks that a descriptor of the buffer is out.
    #[inline(always)]
    pub(crate) fn mark_out(self) {
        self.write(PORT, OUT);
    }

    /// Marks that no descriptor of the buffer is out; the rest of the header is as allocating wants it.
    #[inline(always)]
    pub(crate) fn mark_in(self) {
        self.write(PORT, IN);
    }

    /// A packet of one segment, no descriptor out. `ol_flags` stays: nobody here sets a transmit flag, and drivers ignore
    /// receive flags when they send.
    #[inline(always)]
    pub(crate) fn set_packet(self, data_offset: u16, length: u16) {
        self.write(DATA_OFF, u64::from(data_offset) | REARMED);
        self.write(PKT_LEN, u32::from(length));
        self.write(DATA_LEN, length);
    }

    /// Lets the buffer begin `bytes` earlier.
    #[cold]
    pub(crate) fn lower_buffer(self, bytes: u16) {
        self.write(BUF_ADDR, self.read::<usize>(BUF_ADDR) - usize::from(bytes));
        self.write(BUF_IOVA, self.read::<u64>(BUF_IOVA) - u64::from(bytes));
    }

    /// Points the header at a buffer outside of it.
    pub(crate) fn set_buffer(self, address: usize, iova: u64, bytes: u16) {
        self.write(BUF_ADDR, address);
        self.write(BUF_IOVA, iova);
        self.write(BUF_LEN, bytes);
    }
}
