//! Who a process is to the kernel, and what it may still do: asked of the kernel, not of the plan.

use nix::unistd::{Uid, User};

/// What the kernel says of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Standing {
    /// The user, by name where there is one.
    pub(super) user: Option<String>,
    /// What has been taken from it.
    pub(super) confined: Vec<String>,
}

/// Looks at a process; nothing of one that has ended.
pub(super) fn of(pid: u32) -> Standing {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let (uid, confined) = read(&status);
    let name = |uid: u32| User::from_uid(Uid::from_raw(uid)).ok().flatten().map_or(uid.to_string(), |u| u.name);
    Standing { user: uid.map(name), confined: confined.into_iter().map(str::to_owned).collect() }
}

/// From the text of `/proc/PID/status`.
fn read(status: &str) -> (Option<u32>, Vec<&'static str>) {
    let value = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
        line.map(str::trim).unwrap_or_default()
    };
    // Real, effective, saved and of files: all are the same after `setresuid`.
    let mut users = value("Uid").split_whitespace();
    let first = users.next();
    let uid = first.filter(|_| users.all(|u| Some(u) == first)).and_then(|u| u.parse().ok());
    let is_zero = |hex: &str| !hex.is_empty() && hex.bytes().all(|b| b == b'0');
    let facts = [
        ("no-capabilities", ["CapInh", "CapPrm", "CapEff", "CapAmb"].iter().all(|set| is_zero(value(set)))),
        ("no-new-privileges", value("NoNewPrivs") == "1"),
        ("seccomp", value("Seccomp") == "2"),
    ];
    (uid, facts.into_iter().filter(|(_, holds)| *holds).map(|(fact, _)| fact).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_understood() {
        let caps = "CapInh:\t0000000000000000\nCapPrm:\t0000000000000000\nCapEff:\t0000000000000000\nCapAmb:\t0000000000000000\n";
        let confined = format!("Name:\tmiddlenet\nUid:\t1900\t1900\t1900\t1900\n{caps}NoNewPrivs:\t1\nSeccomp:\t2\n");
        assert_eq!(read(&confined), (Some(1900), vec!["no-capabilities", "no-new-privileges", "seccomp"]));
        let root = "Uid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\nNoNewPrivs:\t0\nSeccomp:\t0\n";
        assert_eq!(read(root), (Some(0), vec![]));
        assert_eq!(read("Uid:\t1900\t0\t1900\t1900\n"), (None, vec![]));
        assert_eq!(read(""), (None, vec![]));
    }
}
