//! Interfaces that the runtime makes for `kernel` ports, by iproute2 and ethtool.

use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::plan::KernelPort;

/// Why an interface could not be made.
#[derive(Debug, thiserror::Error)]
pub enum KernelPortError {
    /// A tool is missing.
    #[error("`{tool}` is not there, but `kernel` ports need it")]
    Missing {
        /// `ip` or `ethtool`.
        tool: &'static str,
        /// The Debian package that has it.
        package: &'static str,
    },
    /// A tool refused.
    #[error("cannot {what}: {reason}")]
    Refused {
        /// What was tried.
        what: String,
        /// The tool's words.
        reason: String,
    },
}

/// The interfaces of a run; they go when this goes.
#[derive(Debug, Default)]
pub struct KernelPorts(Vec<String>);

impl KernelPorts {
    /// Makes all of them, or none.
    ///
    /// # Errors
    /// [`KernelPortError`].
    pub fn create(ports: &[KernelPort]) -> Result<Self, KernelPortError> {
        let mut made = Self::default();
        for port in ports {
            made.0.push(port.inner.clone());
            let KernelPort { inner, interface, addresses, .. } = port;
            let mut batch = format!("link add {inner} type veth peer name {interface}\n");
            for address in addresses {
                batch.push_str(&format!("address add {address} dev {interface}\n"));
            }
            batch.push_str(&format!("link set {inner} up\nlink set {interface} up\n"));
            let what = format!("make the interface `{interface}`");
            run("ip", "iproute2", &["-batch", "-"], &batch, &what)?;
            // The stack leaves L4 checksums to the device, and behind this one there is none.
            let what = format!("turn checksum offload of `{interface}` off");
            run("ethtool", "ethtool", &["-K", interface, "tx", "off"], "", &what)?;
        }
        Ok(made)
    }

    /// Removes what a crashed run left, by the manager's ends; the host's ends go with them.
    pub fn remove_stale(interfaces: &[String]) {
        drop(Self(interfaces.to_vec()));
    }
}

impl Drop for KernelPorts {
    fn drop(&mut self) {
        for interface in self.0.iter().filter(|i| exists(i)) {
            let _ = run("ip", "iproute2", &["link", "delete", interface], "", "");
        }
    }
}

/// Whether the host has an interface of this name.
pub fn exists(interface: &str) -> bool {
    Path::new("/sys/class/net").join(interface).exists()
}

fn run(
    tool: &'static str,
    package: &'static str,
    arguments: &[&str],
    input: &str,
    what: &str,
) -> Result<(), KernelPortError> {
    let refused = |reason: String| KernelPortError::Refused { what: what.into(), reason };
    let mut child = Command::new(tool)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => KernelPortError::Missing { tool, package },
            _ => refused(e.to_string()),
        })?;
    if let Some(mut stdin) = child.stdin.take() {
        // A tool that does not read its input says why on its way out.
        let _ = stdin.write_all(input.as_bytes());
    }
    let Output { status, stderr, .. } = child.wait_with_output().map_err(|e| refused(e.to_string()))?;
    if status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&stderr);
    Err(refused(words.lines().next().map_or_else(|| status.to_string(), |l| l.trim().to_owned())))
}
