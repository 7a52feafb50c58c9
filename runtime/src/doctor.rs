//! What the host lacks, what that costs, and the command that mends it.

use serde::Serialize;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::machine::Machine;

/// The kernel's setting of the first port that is not root's.
pub const LOW_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

/// The first port that others than root may listen on.
pub fn first_free_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(1024)
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// All is well.
    Ok,
    /// It works, at a cost.
    Costs,
    /// Something will not run.
    Broken,
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How bad it is.
    pub severity: Severity,
    /// What is there.
    pub finding: String,
    /// What that costs.
    pub cost: Option<String>,
    /// The command or step that mends it.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(subject: &str, finding: impl Into<String>) -> Self {
        Self { subject: subject.into(), severity: Severity::Ok, finding: finding.into(), cost: None, remedy: None }
    }

    fn bad(
        severity: Severity,
        subject: &str,
        finding: impl Into<String>,
        cost: &str,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            subject: subject.into(),
            severity,
            finding: finding.into(),
            cost: Some(cost.into()),
            remedy: Some(remedy.into()),
        }
    }
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
    /// Tools that `kernel` ports need, and whether they are there.
    pub tools: Vec<(&'static str, bool)>,
    /// Interfaces: name, MTU, receive queues, whether up.
    pub interfaces: Vec<(String, u32, usize, bool)>,
}

impl Host {
    /// Looks at this host.
    pub fn here(manager: PathBuf) -> Self {
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
            tools: ["ip", "ethtool"].map(|tool| (tool, is_on_path(tool))).to_vec(),
            interfaces: interfaces(),
        }
    }
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

/// Draws conclusions.
pub fn examine(host: &Host) -> Vec<Finding> {
    let mut findings = vec![privileges(host), cores(host), huge_pages(host), manager(host)];
    findings.extend([bpf(host), xdp_sockets(host), memlock(host)]);
    findings.extend(host.tools.iter().map(|&(name, there)| tool(name, there)));
    findings.extend(host.interfaces.iter().map(|i| interface(i, host)));
    findings
}

fn privileges(host: &Host) -> Finding {
    if host.is_root {
        return Finding::ok("privileges", "root");
    }
    let cost = "no xdp, kernel or PCI ports; `middlenet run --pcap` and DPDK's virtual devices work";
    Finding::bad(Severity::Costs, "privileges", "not root", cost, "run middlenet with sudo")
}

fn cores(host: &Host) -> Finding {
    match host.machine.cores.len() {
        1 => {
            let cost = "the nf-manager and function processes take turns, which costs more than half of the rate";
            Finding::bad(
                Severity::Costs,
                "cores",
                "1 core",
                cost,
                "give the host a second core, or place functions inline",
            )
        }
        n => Finding::ok("cores", format!("{n} cores")),
    }
}

fn huge_pages(host: &Host) -> Finding {
    let free = host.machine.huge_pages;
    let cost = "packets lie in 4 KiB pages, so the CPU's TLB misses more often and the rate falls";
    match host.huge_pages_total {
        None => Finding::bad(
            Severity::Costs,
            "hugepages",
            "the kernel has no 2 MiB pages",
            cost,
            "use a kernel with HUGETLBFS",
        ),
        Some(total) if free < 16 => {
            let found = format!("{free} of {total} pages of 2 MiB are free; a default run takes 16 and a few more");
            let remedy = format!("echo {} > /proc/sys/vm/nr_hugepages", total - free.min(total) + 64);
            Finding::bad(Severity::Costs, "hugepages", found, cost, remedy)
        }
        Some(total) => Finding::ok("hugepages", format!("{free} of {total} pages of 2 MiB are free")),
    }
}

fn manager(host: &Host) -> Finding {
    let subject = "nf-manager";
    match &host.manager_version {
        Ok(version) => Finding::ok(subject, version.clone()),
        Err(reason) if !host.manager.is_file() => {
            let found = format!("{} is not there ({reason})", host.manager.display());
            let remedy = "install middlenet-nf-manager beside middlenet, or name it in MIDDLENET_NF_MANAGER";
            Finding::bad(Severity::Broken, subject, found, "nothing can be run", remedy)
        }
        Err(reason) => {
            let found = format!("{} does not start: {reason}", host.manager.display());
            let remedy = if reason.contains("shared librar") {
                "apt install libdpdk-dev dpdk"
            } else {
                "build it anew on this host"
            };
            Finding::bad(Severity::Broken, subject, found, "nothing can be run", remedy)
        }
    }
}

fn bpf(host: &Host) -> Finding {
    if !host.has_btf {
        let cost = "XDP programs may not load, so xdp and kernel ports fail";
        return Finding::bad(
            Severity::Costs,
            "bpf",
            "the kernel has no BTF",
            cost,
            "use a kernel with CONFIG_DEBUG_INFO_BTF",
        );
    }
    if !host.has_bpffs {
        let cost = "nothing now: XDP programs are held by links; tools that look for pinned programs find none";
        return Finding::bad(
            Severity::Costs,
            "bpf",
            "no BPF file system is mounted",
            cost,
            "mount -t bpf none /sys/fs/bpf",
        );
    }
    Finding::ok("bpf", "BTF and a BPF file system are there")
}

fn xdp_sockets(host: &Host) -> Finding {
    if host.has_xdp_sockets {
        return Finding::ok("af_xdp", "the kernel has XDP sockets");
    }
    let cost = "no xdp and kernel ports; DPDK and capture ports work";
    Finding::bad(
        Severity::Broken,
        "af_xdp",
        "the kernel has no XDP sockets",
        cost,
        "use a kernel with CONFIG_XDP_SOCKETS",
    )
}

fn memlock(host: &Host) -> Finding {
    match host.memlock_bytes {
        // Root has CAP_IPC_LOCK, to which the limit does not apply.
        Some(bytes) if !host.is_root && bytes < 64 << 20 => {
            let found = format!("{} KiB of memory may be locked", bytes >> 10);
            Finding::bad(
                Severity::Costs,
                "memlock",
                found,
                "AF_XDP cannot pin its buffers without root",
                "ulimit -l unlimited",
            )
        }
        _ => Finding::ok("memlock", "memory can be locked"),
    }
}

fn tool(name: &str, there: bool) -> Finding {
    if there {
        return Finding::ok(name, "is installed");
    }
    let package = if name == "ip" { "iproute2" } else { name };
    Finding::bad(Severity::Costs, name, "is not installed", "no kernel ports", format!("apt install {package}"))
}

fn interface((name, mtu, queues, up): &(String, u32, usize, bool), host: &Host) -> Finding {
    let subject = format!("interface {name}");
    let found = format!("MTU {mtu}, {queues} receive queue{}", if *queues == 1 { "" } else { "s" });
    if *mtu > 1790 {
        let cost = "packets above about 1790 bytes do not fit buffers of 2048 bytes and are dropped";
        let remedy = format!("ip link set {name} mtu 1500, or `memory: {{ buffer_bytes: 4096 }}`");
        return Finding::bad(Severity::Costs, &subject, found, cost, remedy);
    }
    if !up {
        let cost = "as an xdp port it would receive nothing";
        return Finding::bad(
            Severity::Costs,
            &subject,
            format!("{found}, down"),
            cost,
            format!("ip link set {name} up"),
        );
    }
    if *queues == 1 && host.machine.cores.len() > 2 {
        return Finding::ok(&subject, format!("{found}: one worker can receive from it"));
    }
    Finding::ok(&subject, found)
}

/// Whether everything can run.
pub fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|f| f.severity != Severity::Broken)
}

/// The findings for people.
pub fn text(findings: &[Finding]) -> String {
    let mut out = String::new();
    for f in findings {
        let mark = match f.severity {
            Severity::Ok => "ok    ",
            Severity::Costs => "costs ",
            Severity::Broken => "BROKEN",
        };
        let _ = writeln!(out, "{mark}  {}: {}", f.subject, f.finding);
        if let Some(cost) = &f.cost {
            let _ = writeln!(out, "        cost: {cost}");
        }
        if let Some(remedy) = &f.remedy {
            let _ = writeln!(out, "        mend: {remedy}");
        }
    }
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let _ = writeln!(
        out,
        "\n{} fine, {} at a cost, {} broken",
        count(Severity::Ok),
        count(Severity::Costs),
        count(Severity::Broken)
    );
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        Host {
            machine: Machine { cores: vec![0, 1], memory_bytes: 1 << 33, huge_pages: 512 },
            is_root: true,
            huge_pages_total: Some(512),
            has_bpffs: true,
            has_btf: true,
            has_xdp_sockets: true,
            memlock_bytes: Some(8 << 20),
            manager: "/usr/bin/middlenet-nf-manager".into(),
            manager_version: Ok("middlenet-nf-manager 0.1.0".into()),
            tools: vec![("ip", true), ("ethtool", true)],
            interfaces: vec![("eth0".into(), 1500, 2, true)],
        }
    }

    #[test]
    fn a_well_equipped_host_has_no_complaints() {
        assert!(examine(&host()).iter().all(|f| f.severity == Severity::Ok));
    }

    #[test]
    fn every_complaint_has_its_cost_and_remedy() {
        let poor = Host {
            machine: Machine { cores: vec![0], memory_bytes: 1 << 30, huge_pages: 0 },
            is_root: false,
            huge_pages_total: Some(0),
            has_bpffs: false,
            has_xdp_sockets: false,
            manager_version: Err("error while loading shared libraries: librte_eal.so.23".into()),
            tools: vec![("ip", false), ("ethtool", false)],
            interfaces: vec![("eth0".into(), 9000, 1, true), ("eth1".into(), 1500, 1, false)],
            ..host()
        };
        let findings = examine(&poor);
        let complaints: Vec<_> = findings.iter().filter(|f| f.severity != Severity::Ok).collect();
        assert_eq!(complaints.len(), findings.len(), "{findings:#?}");
        assert!(complaints.iter().all(|f| f.cost.is_some() && f.remedy.is_some()));
        assert!(!is_well(&findings));
        assert!(text(&findings).contains("mend: echo 64 > /proc/sys/vm/nr_hugepages"));
    }
}
