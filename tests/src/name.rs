//! Names that carry the pid of their owner, so that what a dead owner left behind can be told from what is in use.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A number that no other call in this process gets.
pub(crate) fn next() -> u32 {
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Whether a process with this pid exists.
///
/// A pid that was used again keeps a stale name alive until that process ends too; nothing in use is ever removed.
pub(crate) fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// The pid in a namespace name `mn-PREFIX-PID-N`; `None` if the name is not one of ours.
pub(crate) fn namespace_owner(name: &str) -> Option<u32> {
    let mut parts = name.strip_prefix("mn-")?.rsplitn(3, '-');
    parts.next()?.parse::<u32>().ok()?;
    let pid = parts.next()?.parse().ok()?;
    parts.next().map(|_| pid)
}

/// The pid in a folder name `mn-scratch-PID-N`; `None` if the name is not one of ours.
pub(crate) fn scratch_owner(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix("mn-scratch-")?.split_once('-')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

/// The pid in a device name `mnvPID.N`; `None` if the name is not one of ours.
pub(crate) fn device_owner(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix("mnv")?.split_once('.')?;
    number.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_of_a_namespace_is_read_from_its_name() {
        assert_eq!(namespace_owner("mn-client-77-3"), Some(77));
        assert_eq!(namespace_owner("mn-a-b-77-3"), Some(77));
        assert_eq!(namespace_owner("mn-77-3"), None);
        assert_eq!(namespace_owner("mn-client-x-3"), None);
        assert_eq!(namespace_owner("client-77-3"), None);
    }

    #[test]
    fn the_owner_of_a_device_is_read_from_its_name() {
        assert_eq!(device_owner("mnv4194304.12"), Some(4_194_304));
        assert_eq!(device_owner("mnv.1"), None);
        assert_eq!(device_owner("veth0"), None);
    }

    #[test]
    fn the_owner_of_a_folder_is_read_from_its_name() {
        assert_eq!(scratch_owner("mn-scratch-77-3"), Some(77));
        assert_eq!(scratch_owner("mn-scratch-77"), None);
        assert_eq!(scratch_owner("mn-client-77-3"), None);
    }

    #[test]
    fn this_process_is_alive() {
        assert!(is_alive(std::process::id()));
        assert!(!is_alive(u32::MAX));
    }
}
