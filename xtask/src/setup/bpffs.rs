//! The file system on which BPF links and maps are pinned.

use std::fs;

use super::privilege::Privilege;
use super::{Options, Outcome};
use crate::process;

const MOUNT_POINT: &str = "/sys/fs/bpf";

/// Mounts bpffs on `/sys/fs/bpf`.
pub(super) fn mount(options: Options, privilege: Privilege) -> Outcome {
    if is_mounted(&fs::read_to_string("/proc/mounts").unwrap_or_default()) {
        return Outcome::Ok(format!("mounted on {MOUNT_POINT}"));
    }
    let script = format!("mount -t bpf bpf {MOUNT_POINT}");
    if options.dry_run {
        return Outcome::WouldDo(script);
    }
    let ran = privilege.shell(&script).is_some_and(|mut command| process::says_yes(&mut command));
    if ran && is_mounted(&fs::read_to_string("/proc/mounts").unwrap_or_default()) {
        return Outcome::Done(format!("mounted on {MOUNT_POINT}"));
    }
    Outcome::Cannot {
        why: format!("bpffs is not mounted on {MOUNT_POINT}, and this user may not mount it"),
        hint: format!("as root: {script}; without, nothing that is pinned outlives its process"),
    }
}

fn is_mounted(mounts: &str) -> bool {
    mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        (fields.next(), fields.next()) == (Some(MOUNT_POINT), Some("bpf"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_counts_not_the_name_of_the_device() {
        assert!(is_mounted("proc /proc proc rw 0 0\nnone /sys/fs/bpf bpf rw,relatime 0 0\n"));
        assert!(!is_mounted("bpf /sys/fs/bpf tmpfs rw 0 0\n"));
        assert!(!is_mounted("bpf /run/bpf bpf rw 0 0\n"));
        assert!(!is_mounted(""));
    }
}
