//! Sleeping when there is nothing to do, and being woken by whoever brings work.
//!
//! A reader that has spun in vain *announces* in a shared word that it will sleep, looks for work once more, and sleeps. A
//! writer first makes its work visible, then looks at the word, and wakes the reader only if it is announced.
//! Each side puts a full fence between its store and its load, so at least one of them sees the other: no wake-up is
//! lost (Dekker's argument; the model test runs this code under loom). A reader that is awake costs the writer one
//! fence and one load per burst.

mod announce;
#[cfg(test)]
mod tests;

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use crate::{Region, ShmError};
use announce::{ON_EVENT, ON_FUTEX, Word};

/// How a reader came out of [`Doorbell::park`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// It did not sleep: there was work at the last look.
    Work,
    /// It was woken, by a writer or by a signal: look for work.
    Rung,
    /// The time is over.
    TimedOut,
}

/// One shared word on which one reader sleeps and that any writer rings.
///
/// A peer that breaks the protocol can make `ring` do a system call for nothing or leave the reader asleep: a reader
/// that does not trust its writers parks with a timeout.
#[derive(Clone, Debug)]
pub struct Doorbell {
    region: Arc<Region>,
    offset: usize,
    word: *const AtomicU32,
}

// SAFETY: the pointer is into `region`, which the Arc keeps alive; the word is accessed atomically.
unsafe impl Send for Doorbell {}
// SAFETY: as for Send.
unsafe impl Sync for Doorbell {}

impl Doorbell {
    /// The doorbell at `offset` bytes in `region`, whose word starts as 0.
    ///
    /// # Errors
    /// [`ShmError::Place`] when the word lies outside or is not aligned to 4 bytes.
    pub fn new(region: Arc<Region>, offset: usize) -> Result<Self, ShmError> {
        let word: *const AtomicU32 = region.word32(offset)?;
        Ok(Doorbell { region, offset, word })
    }

    /// Sleeps until rung or until `timeout` is over, unless `has_work` says that there is work already.
    ///
    /// There is one reader at a time. `has_work` must look at the shared state itself (a ring's `is_empty` does).
    pub fn park(&self, timeout: Option<Duration>, has_work: impl FnMut() -> bool) -> Wake {
        announce::park(self, timeout, has_work)
    }

    /// Wakes the reader if it sleeps, and says whether it did. Call it once per burst, after the work is visible.
    #[inline]
    pub fn ring(&self) -> bool {
        announce::ring(self)
    }

    fn futex(&self, operation: i32, value: u32, timeout: *const libc::timespec) -> i64 {
        // SAFETY: the word is mapped and aligned; `timeout` is null or points to a timespec that outlives the call.
        unsafe { libc::syscall(libc::SYS_futex, self.word().as_ptr(), operation, value, timeout) }
    }
}

impl Word for Doorbell {
    type Atomic = AtomicU32;

    #[inline(always)]
    fn word(&self) -> &AtomicU32 {
        debug_assert!(self.offset + 4 <= self.region.length());
        // SAFETY: `new` got the pointer from a reference into the region, which the Arc keeps mapped.
        unsafe { &*self.word }
    }

    fn sleep(&self, expected: u32, timeout: Option<Duration>) -> bool {
        let timeout = timeout.map(|t| libc::timespec {
            tv_sec: libc::time_t::try_from(t.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: t.subsec_nanos().into(),
        });
        let timeout = timeout.as_ref().map_or(std::ptr::null(), |t| t as *const _);
        // FUTEX_WAIT without FUTEX_PRIVATE_FLAG: the writer is another process.
        self.futex(libc::FUTEX_WAIT, expected, timeout) == 0
            || io::Error::last_os_error().raw_os_error() != Some(libc::ETIMEDOUT)
    }

    fn wake(&self, on: u32) -> bool {
        on == ON_FUTEX && self.futex(libc::FUTEX_WAKE, 1, std::ptr::null()) > 0
    }
}

/// A doorbell whose reader may also sleep in `poll` or `epoll_wait`, beside sockets, on an eventfd.
///
/// The reader calls [`announce`](Self::announce), looks for work once more, sleeps on [`event`](Self::event) if there is none,
/// and calls [`retract`](Self::retract) in any case.
///
/// Several doorbells may share an eventfd. Its flags and count are in the peers' reach: neither side relies on them, and
/// a peer that breaks the protocol can only cause needless wake-ups.
#[derive(Debug)]
pub struct EventDoorbell {
    bell: Doorbell,
    event: Option<OwnedFd>,
}

impl EventDoorbell {
    /// Joins the word of `bell` with `event`, a non-blocking eventfd. Without one, only [`park`](Self::park) sleeps.
    ///
    /// A reader that announces itself needs writers that have its eventfd: a writer without one cannot wake it.
    pub fn new(bell: Doorbell, event: Option<OwnedFd>) -> Self {
        EventDoorbell { bell, event }
    }

    /// What the reader polls for input.
    pub fn event(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(AsFd::as_fd)
    }

    /// Announces that the reader is about to sleep on the eventfd. **Look for work once more after this.**
    pub fn announce(&self) {
        announce::announce(&self.bell, ON_EVENT);
    }

    /// Ends what [`announce`](Self::announce) began, slept or not, and drains the eventfd.
    pub fn retract(&self) {
        announce::retract(&self.bell);
        if let Some(event) = &self.event {
            drain_event(event);
        }
    }

    /// Sleeps on the word itself, as [`Doorbell::park`].
    pub fn park(&self, timeout: Option<Duration>, has_work: impl FnMut() -> bool) -> Wake {
        self.bell.park(timeout, has_work)
    }

    /// Wakes the reader, whichever way it sleeps, and says whether it slept. Call it once per burst, after the work is visible.
    #[inline]
    pub fn ring(&self) -> bool {
        announce::ring(self)
    }
}

impl Word for EventDoorbell {
    type Atomic = AtomicU32;

    #[inline(always)]
    fn word(&self) -> &AtomicU32 {
        self.bell.word()
    }

    fn sleep(&self, expected: u32, timeout: Option<Duration>) -> bool {
        self.bell.sleep(expected, timeout)
    }

    fn wake(&self, on: u32) -> bool {
        match (&self.event, on) {
            // The count is only ever full when the reader is awake already: a failed write changes nothing.
            (Some(event), ON_EVENT) => nix::unistd::write(event, &1u64.to_ne_bytes()).is_ok(),
            _ => self.bell.wake(on),
        }
    }
}

/// Resets the count of an eventfd. It does not block even if a peer, who shares the open file, made it blocking.
pub fn drain_event(event: &OwnedFd) {
    let mut count = 0u64;
    let part = libc::iovec { iov_base: (&raw mut count).cast(), iov_len: 8 };
    // SAFETY: one part that points to eight writable bytes. RWF_NOWAIT asks for no waiting in this call alone.
    unsafe { libc::preadv2(event.as_raw_fd(), &part, 1, -1, libc::RWF_NOWAIT) };
}
