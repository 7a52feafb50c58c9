//! Who holds which buffer: one word a buffer, shared with the program.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw};

/// The word of a buffer that `holder` holds in this generation.
pub const fn entry(holder: u16, generation: u16) -> u64 {
    holder as u64 | (generation as u64) << 16
}

/// The holder that a word names.
pub const fn holder(entry: u64) -> u16 {
    entry as u16
}

/// The generation that a word names.
pub const fn generation(entry: u64) -> u16 {
    (entry >> 16) as u16
}

/// The ledger, mapped into this process. Clones are the same memory, which lives as long as one of them.
///
/// The program changes a word from [`entry`]`(sender, generation)` to `entry(receiver, generation)` by compare-and-swap, and
/// in no other way. Holders above 255 are no keys, so the program never touches what they hold. Use compare-and-swap as
/// well for words that a party may hold.
#[derive(Clone)]
pub struct SharedLedger {
    map: Arc<MmapRaw>,
    buffers: usize,
}

impl SharedLedger {
    pub(super) fn map(ledger: BorrowedFd<'_>, buffers: u32) -> io::Result<Self> {
        let buffers = buffers as usize;
        let map = MmapOptions::new().len(buffers * size_of::<AtomicU64>()).map_raw(ledger.as_raw_fd())?;
        Ok(Self { map: Arc::new(map), buffers })
    }

    /// The words, by buffer index.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping is page-aligned, has `buffers` words, can be read and written, and lives while `self` does,
        // for which the slice borrows it. Every access on this side is atomic by the slice's type, the program's are by
        // its instructions, and any bits are a word. A BPF array never shrinks, so no page of it goes away.
        unsafe { slice::from_raw_parts(self.map.as_ptr().cast(), self.buffers) }
    }
}

impl fmt::Debug for SharedLedger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedLedger").field("buffers", &self.buffers).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_gives_back_what_was_put_in() {
        for (by, of) in [(0, 0), (255, 1), (0xffff, 0xffff), (7, 0x8000)] {
            let word = entry(by, of);
            assert_eq!((holder(word), generation(word)), (by, of));
            assert_eq!(word >> 32, 0);
        }
    }
}
