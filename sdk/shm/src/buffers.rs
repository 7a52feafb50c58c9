use std::sync::Arc;

use crate::{Descriptor, Region, ShmError};

/// The packet or message buffers of a region: buffer `i` is the bytes `i * buffer_bytes .. (i + 1) * buffer_bytes`.
///
/// **Who may touch a buffer.** A buffer is held by one party at a time; its descriptor is the token. That is why
/// [`bytes_mut`](Self::bytes_mut) borrows the descriptor mutably: within a process, whoever holds the descriptor holds
/// the bytes, and two descriptors of one buffer come only from someone who copied one and kept the copy after handing it on.
/// Between processes the manager's [`Ledger`](crate::Ledger) enforces the same: it hands a buffer to one holder, and
/// takes back only what that holder was given.
///
/// **What a peer that breaks the rule can do.** A peer maps the same memory and may write to a packet while it is being
/// read here. No lock can prevent that, so readers see torn or changing *bytes*. They never see anything else: bounds
/// are computed from the caller's own copy of the descriptor, and any byte is a valid `u8`. Code above must not rely on
/// reading the same byte twice: take a length from a header once, check that copy, and use that copy. The Rust memory
/// model has no word for memory shared with a hostile process; as everywhere in this field, references to it are sound in
/// so far as the machine code is correct for any bytes at any time.
#[derive(Clone, Debug)]
pub struct Buffers {
    base: *mut u8,
    count: u32,
    shift: u32,
    region: Arc<Region>,
}

// SAFETY: the pointer is into `region`, which is Send + Sync and kept alive by the Arc; who may access which bytes is
// settled by descriptors, as the type's documentation says, and not by the thread.
unsafe impl Send for Buffers {}
// SAFETY: as for Send.
unsafe impl Sync for Buffers {}

impl Buffers {
    /// Divides `region` into buffers of `buffer_bytes`: 2048 or 4096 for packets, 16384 for messages.
    ///
    /// # Errors
    /// [`ShmError::BufferBytes`] for another size, [`ShmError::BufferCount`] when not one fits.
    pub fn new(region: Arc<Region>, buffer_bytes: u32) -> Result<Self, ShmError> {
        if !matches!(buffer_bytes, 2048 | 4096 | 16384) {
            return Err(ShmError::BufferBytes(buffer_bytes));
        }
        let count = region.length() / buffer_bytes as usize;
        let count = u32::try_from(count).ok().filter(|&c| c > 0).ok_or(ShmError::BufferCount(region.length()))?;
        Ok(Buffers { base: region.as_ptr(), count, shift: buffer_bytes.trailing_zeros(), region })
    }

    /// Buffers in the region.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Size of one buffer in bytes.
    pub fn buffer_bytes(&self) -> u32 {
        1 << self.shift
    }

    /// The memory behind the buffers.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// Whether the packet that `d` names lies inside one buffer of this region.
    #[inline(always)]
    pub fn fits(&self, d: &Descriptor) -> bool {
        d.index < self.count && u32::from(d.offset) + u32::from(d.length) <= 1 << self.shift
    }

    /// Bytes of the packet; empty when index, offset or length do not fit.
    #[inline(always)]
    pub fn bytes(&self, d: &Descriptor) -> &[u8] {
        if !self.fits(d) {
            return &[];
        }
        // SAFETY: `fits` found index, offset and length inside the mapping, which `region` keeps alive. For what else
        // may touch these bytes, see the type's documentation.
        unsafe { std::slice::from_raw_parts(self.first(d.index).add(d.offset.into()), d.length.into()) }
    }

    /// Bytes of the packet, to change; empty when index, offset or length do not fit.
    #[inline(always)]
    pub fn bytes_mut<'a>(&'a self, d: &'a mut Descriptor) -> &'a mut [u8] {
        if !self.fits(d) {
            return &mut [];
        }
        // SAFETY: bounds as in `bytes`; the mutably borrowed descriptor is the token of holding the buffer alone.
        unsafe { std::slice::from_raw_parts_mut(self.first(d.index).add(d.offset.into()), d.length.into()) }
    }

    /// The whole buffer that `d` names, to write a packet into; empty when the index does not fit.
    #[inline(always)]
    pub fn room_mut<'a>(&'a self, d: &'a mut Descriptor) -> &'a mut [u8] {
        if d.index >= self.count {
            return &mut [];
        }
        // SAFETY: the index was found in range; the mutably borrowed descriptor is the token of holding the buffer.
        unsafe { std::slice::from_raw_parts_mut(self.first(d.index), 1 << self.shift) }
    }

    /// Asks the processor to load the first line of the packet. A descriptor that fits no buffer costs a useless request.
    #[inline(always)]
    pub fn prefetch(&self, d: &Descriptor) {
        #[cfg(target_arch = "x86_64")]
        {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: a hint that accesses nothing and faults at no address; SSE is part of x86-64.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(self.first(d.index).wrapping_add(d.offset.into()).cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = d;
    }

    /// First byte of buffer `index`, which the caller has checked.
    #[inline(always)]
    fn first(&self, index: u32) -> *mut u8 {
        self.base.wrapping_add((index as usize) << self.shift)
    }
}
