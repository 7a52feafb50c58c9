//! What the host lacks, what that costs, and the command that mends it.

mod confinement;
mod host;
#[cfg(test)]
mod tests;

pub use host::{Host, LOW_PORTS, first_free_port};

use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

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

/// Draws conclusions.
pub fn examine(host: &Host) -> Vec<Finding> {
    let mut findings = vec![privileges(host), cores(host), huge_pages(host), manager(host), broker(host)];
    findings.extend([bpf(host), xdp_sockets(host), skmsg(host), low_ports(host), memlock(host)]);
    findings.extend(confinement::findings(host));
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
    let remedy = "install middlenet-nf-manager beside middlenet, or name it in MIDDLENET_NF_MANAGER";
    let cost = "no chain of layer l2l3 can be run";
    binary("nf-manager", (&host.manager, &host.manager_version), cost, remedy, "apt install libdpdk-dev dpdk")
}

fn broker(host: &Host) -> Finding {
    let remedy = "install middlenet-message-broker beside middlenet, or name it in MIDDLENET_MESSAGE_BROKER";
    let cost = "no chain of layer l4l7 can be run";
    binary("message-broker", (&host.broker, &host.broker_version), cost, remedy, "apt install libelf1 zlib1g")
}

fn binary(
    subject: &str,
    (path, version): (&Path, &Result<String, String>),
    cost: &str,
    install: &str,
    libraries: &str,
) -> Finding {
    match version {
        Ok(version) => Finding::ok(subject, version.clone()),
        Err(reason) if !path.is_file() => {
            let found = format!("{} is not there ({reason})", path.display());
            Finding::bad(Severity::Broken, subject, found, cost, install)
        }
        Err(reason) => {
            let found = format!("{} does not start: {reason}", path.display());
            let remedy = if reason.contains("shared librar") { libraries } else { "build it anew on this host" };
            Finding::bad(Severity::Broken, subject, found, cost, remedy)
        }
    }
}

/// Whether functions of messages can be reached through eBPF. Whether this kernel's sockmap works, the broker tries out when
/// it starts.
fn skmsg(host: &Host) -> Finding {
    let cost = "functions of chains of layer l4l7 are reached through rings, by way of the broker";
    let (major, minor) = host.kernel;
    if host.kernel < (5, 15) {
        let found = format!("the kernel is {major}.{minor}");
        return Finding::bad(Severity::Costs, "skmsg", found, cost, "use a kernel from 5.15 on");
    }
    if !host.may_load_bpf {
        let found = "this user may not load BPF programs";
        return Finding::bad(Severity::Costs, "skmsg", found, cost, "run middlenet with sudo");
    }
    Finding::ok("skmsg", format!("kernel {major}.{minor}, and BPF programs may be loaded"))
}

fn low_ports(host: &Host) -> Finding {
    let first = host.first_free_port;
    if host.is_root || first <= 80 {
        return Finding::ok("low ports", "chains of layer l4l7 may listen on any port from 80 on");
    }
    let found = format!("only root may listen on ports below {first}");
    let cost = "chains of layer l4l7 cannot listen on ports 80 and 443";
    Finding::bad(Severity::Costs, "low ports", found, cost, format!("sysctl -w {LOW_PORTS}=80"))
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
