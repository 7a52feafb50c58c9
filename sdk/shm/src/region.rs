use std::ffi::CString;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64};

use memmap2::{MmapOptions, MmapRaw};
use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::fstat;
use nix::sys::statfs::fstatfs;
use nix::unistd::ftruncate;

use crate::ShmError;

/// Size of the huge pages that regions use, in bytes.
pub const HUGE_PAGE_BYTES: usize = 2 << 20;

/// Size of ordinary pages, in bytes; regions are rounded up to it.
const SMALL_PAGE_BYTES: usize = 4096;

/// Which pages back a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 2 MiB pages where the host has enough free and the region fills at least half of one, else 4 KiB pages.
    Auto,
    /// 2 MiB pages or an error.
    Huge,
    /// 4 KiB pages.
    Small,
}

/// One piece of a domain's memory: a memfd and its mapping in this process.
///
/// The memfd is the capability: who was not handed it cannot map the memory, and nothing stays behind when its holders
/// exit. It is sealed against shrinking and growing, so that no holder can truncate it and kill the others with SIGBUS.
///
/// What the seals do not stop is a holder punching holes (`fallocate`, `MADV_REMOVE`): it zeroes the bytes, as writing
/// zeroes would, and on huge pages may leave too few free pages to fault the hole back in. Whoever confines a function
/// must deny it those two calls.
#[derive(Debug)]
pub struct Region {
    map: MmapRaw,
    fd: OwnedFd,
    page_bytes: usize,
}

impl Region {
    /// Makes a region of at least `length` bytes, zeroed, all pages present. `name` is what `/proc/PID/maps` shows.
    ///
    /// # Errors
    /// [`ShmError::HugePages`] when `pages` is [`Pages::Huge`] and the host has too few free; [`ShmError::Create`] and
    /// [`ShmError::Map`] when memory is short.
    pub fn create(name: &str, length: usize, pages: Pages) -> Result<Region, ShmError> {
        if length == 0 {
            return Err(ShmError::Empty);
        }
        match pages {
            Pages::Small => create_small(name, length),
            Pages::Huge => create_huge(name, length),
            Pages::Auto if length < HUGE_PAGE_BYTES / 2 => create_small(name, length),
            Pages::Auto => create_huge(name, length).or_else(|_| create_small(name, length)),
        }
    }

    /// Maps a region that another process made.
    ///
    /// # Errors
    /// [`ShmError::NotMemory`] when `fd` is not a memfd, [`ShmError::NotSealed`] when a holder could truncate it.
    pub fn open(fd: OwnedFd) -> Result<Region, ShmError> {
        let seals = fcntl(&fd, FcntlArg::F_GET_SEALS).map_err(|e| ShmError::NotMemory(e.into()))?;
        if !SealFlag::from_bits_retain(seals).contains(seals_wanted()) {
            return Err(ShmError::NotSealed(seals));
        }
        let length = fstat(&fd).map_err(|e| ShmError::NotMemory(e.into()))?.st_size;
        let length = usize::try_from(length).ok().filter(|&l| l > 0).ok_or(ShmError::Empty)?;
        // Both hugetlbfs and shmem report their page size as the block size.
        let page_bytes = fstatfs(&fd).map_err(|e| ShmError::NotMemory(e.into()))?.block_size();
        let page_bytes = usize::try_from(page_bytes).unwrap_or(SMALL_PAGE_BYTES);
        let map = map(&fd, length).map_err(|source| ShmError::Map { length, source })?;
        Ok(Region { map, fd, page_bytes })
    }

    /// The file descriptor to pass to a peer.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Bytes in the region, a whole number of pages.
    pub fn length(&self) -> usize {
        self.map.len()
    }

    /// Size of the pages behind the region, in bytes: 2 MiB or 4 KiB.
    pub fn page_bytes(&self) -> usize {
        self.page_bytes
    }

    /// First byte of the mapping; it stays mapped for [`length`](Self::length) bytes while the region lives.
    pub fn as_ptr(&self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// Checks that `bytes` bytes at `offset` lie inside, aligned to `align`.
    pub(crate) fn check(&self, offset: usize, bytes: usize, align: usize) -> Result<*mut u8, ShmError> {
        let fits = offset.checked_add(bytes).is_some_and(|end| end <= self.length()) && offset.is_multiple_of(align);
        if !fits {
            return Err(ShmError::Place { offset, bytes });
        }
        Ok(self.as_ptr().wrapping_add(offset))
    }

    /// The 32-bit word at `offset`, shared with the peers.
    pub(crate) fn word32(&self, offset: usize) -> Result<&AtomicU32, ShmError> {
        let at = self.check(offset, 4, 4)?;
        // SAFETY: `check` found the word inside the mapping, which lives as long as `self`, and aligned; all accesses
        // to it, here and in the peers, are atomic.
        Ok(unsafe { AtomicU32::from_ptr(at.cast()) })
    }

    /// `count` 64-bit words at `offset`, shared with the peers.
    pub(crate) fn words64(&self, offset: usize, count: usize) -> Result<&[AtomicU64], ShmError> {
        let at = self.check(offset, count.saturating_mul(8), 8)?;
        // SAFETY: as in `word32`, for `count` words; AtomicU64 has the layout of u64 and allows any bits.
        Ok(unsafe { std::slice::from_raw_parts(at.cast::<AtomicU64>(), count) })
    }
}

fn seals_wanted() -> SealFlag {
    SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

fn create_small(name: &str, length: usize) -> Result<Region, ShmError> {
    create(name, length, SMALL_PAGE_BYTES, MFdFlags::empty()).map_err(|source| ShmError::Create {
        name: name.to_owned(),
        length,
        source,
    })
}

fn create_huge(name: &str, length: usize) -> Result<Region, ShmError> {
    create(name, length, HUGE_PAGE_BYTES, MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB)
        .map_err(|source| ShmError::HugePages { name: name.to_owned(), length, source })
}

fn create(name: &str, length: usize, page_bytes: usize, flags: MFdFlags) -> io::Result<Region> {
    let length = length.checked_next_multiple_of(page_bytes).ok_or(io::ErrorKind::InvalidInput)?;
    let size = i64::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
    let name = CString::new(name)?;
    let fd = memfd(&name, flags)?;
    ftruncate(&fd, size)?;
    // Memory that is short shows here as an error, not later as a signal. On huge pages the mapping reserves them.
    if page_bytes == SMALL_PAGE_BYTES {
        fallocate(&fd, FallocateFlags::empty(), 0, size)?;
    }
    let map = map(&fd, length)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals_wanted()))?;
    Ok(Region { map, fd, page_bytes })
}

fn memfd(name: &CString, flags: MFdFlags) -> nix::Result<OwnedFd> {
    let flags = flags | MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let not_executable = MFdFlags::from_bits_retain(libc::MFD_NOEXEC_SEAL);
    match memfd_create(name.as_c_str(), flags | not_executable) {
        Err(Errno::EINVAL) => memfd_create(name.as_c_str(), flags), // kernels before 6.3
        other => other,
    }
}

fn map(fd: &OwnedFd, length: usize) -> io::Result<MmapRaw> {
    let length = NonZeroUsize::new(length).ok_or(io::ErrorKind::InvalidInput)?;
    MmapOptions::new().len(length.get()).populate().map_raw(fd)
}
