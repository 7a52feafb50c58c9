//! What is known of the host.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::machine::Machine;
use crate::{confine, domain};

/// The kernel's setting of the first port that is not root's.
pub const LOW_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

/// The first port that others than root may listen on.
pub fn first_free_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(1024)
}

/// What is known of the host.
#[derive(Debug, Clone)]
pub struct Host {
    /// Its means.
    pub machine: Machine,
    /// Whether this is root.
    pub is_root: bool,
    /// Pages of 2 MiB in all; nothing when the kernel has none.
    pub huge_pages_total: Option<u64>,
    /// Whether a BPF file system is mounted.
    pub has_bpffs: bool,
    /// Whether the kernel describes its types (BTF).
    pub has_btf: bool,
    /// Whether the kernel has AF_XDP sockets.
    pub has_xdp_sockets: bool,
    /// Limit of locked memory in bytes.
    pub memlock_bytes: Option<u64>,
    /// Where the manager is looked for.
    pub manager: PathBuf,
    /// What it answers to `--version`, or why it does not.
    pub manager_version: Result<String, String>,
    /// Where the message broker is looked for.
    pub broker: PathBuf,
    /// What it answers to `--version`, or why it does not.
    pub broker_version: Result<String, String>,
    /// The kernel's release, its first two numbers.
    pub kernel: (u32, u32),
    /// Whether this process may load BPF programs (CAP_BPF and CAP_NET_ADMIN, or CAP_SYS_ADMIN).
    pub may_load_bpf: bool,
    /// The first port that others than root may listen on.
    pub first_free_port: u16,
    /// The version of landlock, 0 for none.
    pub landlock: i32,
    /// Whether the kernel filters system calls.
    pub has_seccomp: bool,
    /// Whether there are numbers for users that only one run has.
    pub has_run_users: bool,
    /// Tools that `kernel` ports need, and whether they are there.
    pub tools: Vec<(&'static str, bool)>,
    /// Interfaces: name, MTU, receive queues, whether up.
    pub interfaces: Vec<(String, u32, usize, bool)>,
}

impl Host {
    /// Looks at this host.
    pub fn here(manager: PathBuf, broker: PathBuf) -> Self {
        let total = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages");
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let memlock = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_MEMLOCK);
        Self {
            machine: Machine::here(),
            is_root: nix::unistd::geteuid().is_root(),
            huge_pages_total: total.ok().and_then(|n| n.trim().parse().ok()),
            has_bpffs: mounts.lines().any(|l| l.split(' ').nth(2) == Some("bpf")),
            has_btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
            has_xdp_sockets: fs::read_to_string("/proc/net/protocols")
                .is_ok_and(|p| p.lines().any(|l| l.split_whitespace().next() == Some("XDP"))),
            memlock_bytes: memlock.ok().map(|(soft, _)| soft),
            manager_version: version(&manager),
            manager,
            broker_version: version(&broker),
            broker,
            kernel: kernel(),
            may_load_bpf: may_load_bpf(),
            first_free_port: first_free_port(),
            landlock: confine::landlock_version(),
            has_seccomp: confine::has_seccomp(),
            has_run_users: domain::has_numbers(),
            tools: ["ip", "ethtool"].map(|tool| (tool, is_on_path(tool))).to_vec(),
            interfaces: interfaces(),
        }
    }
}

/// The first two numbers of the kernel's release; zeroes where it says something else.
fn kernel() -> (u32, u32) {
    let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn may_load_bpf() -> bool {
    const NET_ADMIN: u64 = 1 << 12;
    const SYS_ADMIN: u64 = 1 << 21;
    const BPF: u64 = 1 << 39;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    let held = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    held & SYS_ADMIN != 0 || held & (BPF | NET_ADMIN) == BPF | NET_ADMIN
}

fn version(manager: &Path) -> Result<String, String> {
    let output = Command::new(manager).arg("--version").stdin(Stdio::null()).output();
    match output {
        Ok(output) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        Ok(output) => {
            let words = String::from_utf8_lossy(&output.stderr);
            Err(words.lines().next().unwrap_or("it failed without a word").to_owned())
        }
        Err(e) => Err(e.to_string()),
    }
}

fn is_on_path(tool: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let fixed = ["/sbin", "/usr/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(fixed).any(|folder| folder.join(tool).is_file())
}

fn interfaces() -> Vec<(String, u32, usize, bool)> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/net").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default().trim().to_owned();
        if name == "lo" {
            continue;
        }
        let queues = fs::read_dir(entry.path().join("queues")).into_iter().flatten().flatten();
        let queues = queues.filter(|q| q.file_name().to_string_lossy().starts_with("rx-")).count();
        found.push((name, read("mtu").parse().unwrap_or(0), queues, read("operstate") != "down"));
    }
    found.sort();
    found
}
