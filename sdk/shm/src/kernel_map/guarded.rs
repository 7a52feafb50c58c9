//! Memory that ends where nothing can be written.

use std::io;
use std::ptr::NonNull;

/// Some pages, and behind them one without access.
#[derive(Debug)]
pub(super) struct Guarded {
    start: NonNull<u8>,
    /// Without the page behind.
    bytes: usize,
    page_bytes: usize,
}

// SAFETY: the memory is this value's own, as a Box's.
unsafe impl Send for Guarded {}

impl Guarded {
    /// Room for this many bytes, zeroed.
    pub(super) fn new(bytes: usize) -> io::Result<Self> {
        // SAFETY: sysconf only reads.
        let page_bytes = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096);
        let bytes = bytes.max(1).next_multiple_of(page_bytes);
        let (protection, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping at an address of the kernel's choice.
        let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes + page_bytes, protection, flags, -1, 0) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let guarded = Self { start, bytes, page_bytes };
        // SAFETY: the last page of the mapping, to which nobody has a reference.
        if unsafe { libc::mprotect(start.as_ptr().add(bytes).cast(), page_bytes, libc::PROT_NONE) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(guarded)
    }

    /// Where the last `bytes` begin, for the kernel to write: what it writes more does not go anywhere.
    pub(super) fn last(&mut self, bytes: usize) -> *mut u8 {
        let at = self.bytes - bytes.min(self.bytes);
        // SAFETY: `at` lies in the mapping, or at its end.
        unsafe { self.start.as_ptr().add(at) }
    }

    /// The first `count` bytes of what [`last`](Self::last) gave for `bytes`.
    pub(super) fn read(&self, bytes: usize, count: usize) -> &[u8] {
        let at = self.bytes - bytes.min(self.bytes);
        // SAFETY: in the mapping, which is initialized (with zeros, and by the kernel) and which nobody writes as long as this
        // reference lives: that needs `&mut self`.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr().add(at), count.min(self.bytes - at)) }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; references into it have ended.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.bytes + self.page_bytes) };
    }
}
