//! Debian packages.

use std::process::Command;

use super::privilege::{Privilege, is_on_path};
use super::{Options, Outcome};
use crate::error::Error;
use crate::process;

/// A package, and whether building and testing need it or only something beside.
#[derive(Debug, Clone, Copy)]
struct Package {
    name: &'static str,
    required: bool,
}

const fn required(name: &'static str) -> Package {
    Package { name, required: true }
}

const fn optional(name: &'static str) -> Package {
    Package { name, required: false }
}

const PACKAGES: &[Package] = &[
    // Rust's linker, and libbpf's C.
    required("build-essential"),
    required("pkg-config"),
    required("libelf-dev"),
    required("zlib1g-dev"),
    // BPF programs, and bindgen for the bindings to DPDK.
    required("clang"),
    required("llvm"),
    required("libclang-dev"),
    // Ports; brings the drivers.
    required("libdpdk-dev"),
    // What `edpi` recognises applications with.
    required("libndpi-dev"),
    // Namespaces, cables and traffic of the end-to-end tests and the demo.
    required("iproute2"),
    required("ethtool"),
    required("iputils-ping"),
    required("iperf3"),
    required("tcpdump"),
    // Servers and clients of the demo. The servers come with services, which the installation does not start.
    required("nginx-light"),
    required("apache2-utils"),
    required("curl"),
    // Clients that are slow on purpose.
    required("slowhttptest"),
    // testpmd, against which the benchmarks compare.
    optional("dpdk"),
    optional("dpdk-dev"),
    optional("libpcap-dev"),
    // What the benchmarks compare with beside nginx, and load it with beside ab.
    optional("haproxy"),
    optional("iptables"),
    optional("wrk"),
    // To look at what is loaded.
    optional("bpftool"),
];

/// Installs without starting a service: while apt runs, the answer to every package's question whether it may start its
/// own is no. `NAMES` stands for the packages.
pub(super) const INSTALL: &str = "\
export DEBIAN_FRONTEND=noninteractive
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\\nexit 101\\n' >$policy && chmod 755 $policy || exit 1
fi
apt-get install -y -q --no-install-recommends -o DPkg::Lock::Timeout=300 NAMES";

pub(super) const UPDATE: &str = "apt-get update -q -o DPkg::Lock::Timeout=300";

/// Whether packages are installed with apt here.
pub(super) fn is_debian_like() -> bool {
    is_on_path("apt-get") && is_on_path("dpkg-query")
}

/// Installs what is missing. Also returns the required packages that are still missing.
pub(super) fn install(options: Options, privilege: Privilege) -> Result<(Outcome, Vec<String>), Error> {
    let missing = missing()?;
    if missing.is_empty() {
        return Ok((Outcome::Ok(format!("all {} are installed", PACKAGES.len())), Vec::new()));
    }
    let by_hand = format!("as root: apt-get update && apt-get install --no-install-recommends {}", names(&missing));
    if options.dry_run {
        return Ok((Outcome::WouldDo(by_hand), required_names(&missing)));
    }
    if privilege == Privilege::None {
        let why = format!("{} missing, and neither root nor sudo to install them: {}", missing.len(), names(&missing));
        return Ok((Outcome::Cannot { why, hint: by_hand }, required_names(&missing)));
    }

    println!("{:<9} packages     installing {}: {}", "", missing.len(), names(&missing));
    // A host without network may still have what is needed in its cache: what the installation says decides.
    let updated = run_quietly(privilege, UPDATE);
    let wanted: Vec<Package> =
        missing.iter().copied().filter(|package| package.required || is_known(package)).collect();
    let installed = updated.and(run_quietly(privilege, &INSTALL.replace("NAMES", &names(&wanted))));

    let still_missing = self::missing()?;
    let lacking = required_names(&still_missing);
    if still_missing.is_empty() {
        return Ok((Outcome::Done(format!("installed {}", names(&missing))), lacking));
    }
    let why = match installed {
        Err(error) => format!("{} still missing: {} ({error})", still_missing.len(), names(&still_missing)),
        Ok(()) => format!("not known to apt here, and needed by benchmarks only: {}", names(&still_missing)),
    };
    Ok((Outcome::Cannot { why, hint: by_hand }, lacking))
}

/// Runs with privileges, and shows the output only of a failure.
pub(super) fn run_quietly(privilege: Privilege, script: &str) -> Result<(), Error> {
    match privilege.shell(script) {
        Some(mut command) => process::output(&mut command).map(drop).map_err(|error| match error {
            // The whole script is of no use to the reader; the command that failed is its last line.
            Error::Failed { status, .. } => {
                Error::Failed { command: script.lines().last().unwrap_or_default().to_owned(), status }
            }
            other => other,
        }),
        None => Ok(()),
    }
}

/// The packages of the list that are not installed.
fn missing() -> Result<Vec<Package>, Error> {
    let mut query = Command::new("dpkg-query");
    query.args(["-W", "-f", "${Package} ${db:Status-Status}\n"]).args(PACKAGES.iter().map(|package| package.name));
    // It also fails when it does not know one of the names; what it knows, it prints all the same.
    let output = query.output().map_err(|source| Error::Start { command: process::line(&query), source })?;
    Ok(not_installed(&String::from_utf8_lossy(&output.stdout)))
}

fn not_installed(answer: &str) -> Vec<Package> {
    let is_installed = |name: &str| answer.lines().any(|line| line.split_once(' ') == Some((name, "installed")));
    PACKAGES.iter().copied().filter(|package| !is_installed(package.name)).collect()
}

/// Whether apt has a version of the package to install.
fn is_known(package: &Package) -> bool {
    let policy = process::output(Command::new("apt-cache").args(["policy", package.name]).env("LC_ALL", "C"));
    policy.is_ok_and(|text| text.contains("Candidate:") && !text.contains("Candidate: (none)"))
}

fn names(packages: &[Package]) -> String {
    packages.iter().map(|package| package.name).collect::<Vec<_>>().join(" ")
}

fn required_names(packages: &[Package]) -> Vec<String> {
    packages.iter().filter(|package| package.required).map(|package| package.name.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_or_unknown_package_is_missing() {
        let mut answer: String = PACKAGES.iter().map(|package| format!("{} installed\n", package.name)).collect();
        assert!(not_installed(&answer).is_empty());
        answer = answer.replace("clang installed", "clang config-files").replace("bpftool installed\n", "");
        // "libclang-dev installed" ends in the same words, and is another package.
        answer.push_str("not-in-the-list not-installed\n");
        let missing = not_installed(&answer);
        assert_eq!(names(&missing), "clang bpftool");
        assert_eq!(required_names(&missing), ["clang"]);
    }

    #[test]
    fn no_package_is_named_twice() {
        for (index, package) in PACKAGES.iter().enumerate() {
            assert!(PACKAGES[..index].iter().all(|other| other.name != package.name), "{}", package.name);
        }
    }

    #[test]
    fn the_install_script_is_a_shell_script() {
        let script = INSTALL.replace("NAMES", "a b");
        assert!(process::says_yes(Command::new("sh").args(["-n", "-c", &script])));
        assert!(script.ends_with(" a b"));
    }
}
