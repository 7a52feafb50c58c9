//! Distributions without apt: nothing is installed, but what is missing is named by what it is for.

use std::fs;
use std::process::Command;

use super::privilege::is_on_path;
use super::{Outcome, report};
use crate::process;

/// How the presence of something is recognised.
enum Sign {
    Program(&'static str),
    /// A name that pkg-config knows.
    Library(&'static str),
}

/// What is needed, in words that hold on any distribution.
const NEEDS: &[(Sign, &str)] = &[
    (Sign::Program("cc"), "a C compiler and linker"),
    (Sign::Program("make"), "make"),
    (Sign::Program("pkg-config"), "pkg-config"),
    (Sign::Program("clang"), "clang with its library libclang, for BPF programs and bindings"),
    (Sign::Library("libelf"), "libelf with its headers"),
    (Sign::Library("zlib"), "zlib with its headers"),
    (Sign::Library("libdpdk"), "DPDK 22.11 or later with its headers"),
    (Sign::Program("ip"), "ip (iproute2), for the tests' network namespaces"),
    (Sign::Program("ethtool"), "ethtool, for the tests' interfaces"),
    (Sign::Program("ping"), "ping, for the tests' traffic"),
    (Sign::Program("iperf3"), "iperf3, for the tests' traffic"),
    (Sign::Program("tcpdump"), "tcpdump, for the tests' captures"),
    (Sign::Program("slowhttptest"), "slowhttptest, for the tests' slow clients"),
];

/// Prints one line per need; returns those that are not met.
pub(super) fn check() -> Vec<String> {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    println!("{} has no apt-get: nothing is installed here, only looked for", distribution(&release));
    let mut lacking = Vec::new();
    for (sign, what) in NEEDS {
        let outcome = if is_present(sign) {
            Outcome::Ok((*what).to_owned())
        } else {
            lacking.push((*what).to_owned());
            Outcome::Cannot {
                why: format!("{what}: not found"),
                hint: String::from("install it with this distribution's package manager"),
            }
        };
        report("package", &outcome);
    }
    lacking
}

fn is_present(sign: &Sign) -> bool {
    match sign {
        Sign::Program(name) => is_on_path(name),
        Sign::Library(name) => process::says_yes(Command::new("pkg-config").args(["--exists", name])),
    }
}

fn distribution(os_release: &str) -> &str {
    os_release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map_or("this distribution", |name| name.trim_matches('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distribution_is_named() {
        assert_eq!(distribution("ID=fedora\nPRETTY_NAME=\"Fedora Linux 42\"\n"), "Fedora Linux 42");
        assert_eq!(distribution("ID=x\n"), "this distribution");
    }

    #[test]
    fn programs_and_libraries_are_recognised() {
        assert!(is_present(&Sign::Program("sh")));
        assert!(!is_present(&Sign::Program("middlenet-no-such-program")));
        assert!(!is_present(&Sign::Library("middlenet-no-such-library")));
    }
}
