//! What the figures were measured on and with.

use serde::Serialize;
use std::fs;
use std::process::Command;

/// The machine.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Host {
    /// Model name of the first processor.
    pub cpu: String,
    /// Logical processors online.
    pub cores: usize,
    /// Kernel release.
    pub kernel: String,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Pages of 2 MiB set aside.
    pub hugepages_2mib: u64,
    /// Whether a hypervisor is underneath: then other guests take part in every figure.
    pub virtualised: bool,
    /// Threads that wanted to run in the last minute, on average, before anything was measured: 0 is a quiet host.
    pub load: f64,
}

/// The programs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Versions {
    /// This workspace.
    pub middlenet: String,
    /// The commit of the sources, with `-dirty` if they differ from it; nothing outside a checkout.
    pub commit: Option<String>,
    /// The compiler.
    pub rustc: Option<String>,
    /// libdpdk.
    pub dpdk: Option<String>,
    /// A peer of L4/L7 chains.
    pub nginx: Option<String>,
    /// Another.
    pub haproxy: Option<String>,
}

impl Host {
    /// This one.
    pub fn here() -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let (cpuinfo, meminfo) = (read("/proc/cpuinfo"), read("/proc/meminfo"));
        Self::from_texts(&cpuinfo, &meminfo, &read("/proc/sys/kernel/osrelease"), &read("/proc/loadavg"))
    }

    fn from_texts(cpuinfo: &str, meminfo: &str, release: &str, load: &str) -> Self {
        let memory = |key: &str| field(meminfo, key).and_then(|v| v.split_whitespace().next()?.parse::<u64>().ok());
        let flags = field(cpuinfo, "flags").unwrap_or_default();
        Self {
            cpu: field(cpuinfo, "model name").unwrap_or("unknown").into(),
            cores: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            kernel: release.trim().into(),
            memory_mib: memory("MemTotal").unwrap_or(0) / 1024,
            hugepages_2mib: memory("HugePages_Total").unwrap_or(0),
            virtualised: flags.split_whitespace().any(|flag| flag == "hypervisor"),
            load: load.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0.0),
        }
    }
}

/// The value of the first `key : value` line.
fn field<'t>(text: &'t str, key: &str) -> Option<&'t str> {
    text.lines().filter_map(|line| line.split_once(':')).find(|(k, _)| k.trim() == key).map(|(_, value)| value.trim())
}

impl Versions {
    /// As the tools say it.
    pub fn here() -> Self {
        Self {
            middlenet: env!("CARGO_PKG_VERSION").into(),
            commit: says("git", &["describe", "--always", "--dirty", "--abbrev=12", "--match="]),
            rustc: says("rustc", &["--version"]),
            dpdk: says("pkg-config", &["--modversion", "libdpdk"]),
            nginx: says("nginx", &["-v"]),
            haproxy: says("haproxy", &["-v"]),
        }
    }
}

fn says(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok().filter(|o| o.status.success())?;
    // nginx tells its version as an error.
    [output.stdout, output.stderr].iter().find_map(|text| first_line(&String::from_utf8_lossy(text)))
}

fn first_line(text: &str) -> Option<String> {
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_read_from_the_kernels_files() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Some CPU @ 2.00GHz\nflags\t\t: fpu hypervisor sse\n\n\
                       processor\t: 1\nmodel name\t: Some CPU @ 2.00GHz\n";
        let meminfo = "MemTotal:       24576000 kB\nHugePages_Total:     512\nHugePages_Free:        1\n";
        let expected = Host {
            cpu: "Some CPU @ 2.00GHz".into(),
            cores: 2,
            kernel: "6.18.0".into(),
            memory_mib: 24000,
            hugepages_2mib: 512,
            virtualised: true,
            load: 0.25,
        };
        assert_eq!(Host::from_texts(cpuinfo, meminfo, "6.18.0\n", "0.25 1.00 2.00 1/78 99\n"), expected);
    }

    #[test]
    fn a_version_is_the_first_line_that_says_something() {
        let said = "\nHAProxy version 2.6.12 - https://haproxy.org/\nStatus: long-term supported branch\n";
        assert_eq!(first_line(said).as_deref(), Some("HAProxy version 2.6.12 - https://haproxy.org/"));
        assert_eq!(first_line(" \n"), None);
    }

    #[test]
    fn an_unknown_host_is_said_to_be_unknown() {
        let host = Host::from_texts("", "", "", "");
        assert_eq!((host.cpu.as_str(), host.cores, host.virtualised), ("unknown", 0, false));
    }
}
