//! Maps for tests, which the nf-manager makes otherwise.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Kinds of maps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapType {
    /// `BPF_MAP_TYPE_HASH`
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`
    PerProcessorArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`
    Trie = 11,
}

const CREATE: u32 = 0;
const NO_PREALLOCATION: u32 = 1;

/// Makes a map. Nothing, and a word about it, for those who may not.
///
/// # Panics
/// When the kernel refuses it to root.
pub fn create(kind: MapType, key_bytes: u32, value_bytes: u32, entries: u32) -> Option<OwnedFd> {
    let flags = if kind == MapType::Trie { NO_PREALLOCATION } else { 0 };
    let mut attributes = [kind as u32, key_bytes, value_bytes, entries, flags, 0, 0, 0];
    // SAFETY: BPF_MAP_CREATE reads the attributes, which are as large as said.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, CREATE, attributes.as_mut_ptr(), size_of_val(&attributes)) };
    match i32::try_from(fd) {
        // SAFETY: a new descriptor that nobody else owns.
        Ok(fd @ 0..) => Some(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => {
            let error = io::Error::last_os_error();
            assert!(!nix::unistd::geteuid().is_root(), "root may make maps: {error}");
            eprintln!("SKIPPED: needs root ({error})");
            None
        }
    }
}
