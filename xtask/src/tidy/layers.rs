//! Which crate may depend on which. The direction is what keeps a function free of DPDK and a header view free of everything.

use super::Finding;
use crate::workspace::{Dependency, Package, root};

/// What the tests of every crate may use: namespaces and cables, and packets to send through them.
const FOR_TESTS: &[&str] = &["middlenet-tests", "middlenet-wire"];

/// What a crate may use of the workspace.
enum May {
    Use(&'static [&'static str]),
    UseAllBut(&'static [&'static str]),
}

const LAYERS: &[(&str, May)] = &[
    ("middlenet-wire", May::Use(&[])),
    ("middlenet-http", May::Use(&[])),
    ("middlenet-shm", May::Use(&[])),
    ("middlenet-steer", May::Use(&[])),
    ("middlenet-fast-path", May::Use(&["middlenet-steer"])),
    ("middlenet-bpf", May::Use(&["middlenet-steer", "middlenet-fast-path"])),
    ("dpdk-sys", May::Use(&[])),
    ("middlenet-ndpi", May::Use(&[])),
    ("middlenet-sriov", May::Use(&["middlenet-steer"])),
    ("xtask", May::Use(&[])),
    (
        "middlenet-sdk",
        May::Use(&["middlenet-wire", "middlenet-http", "middlenet-shm", "middlenet-steer", "middlenet-fast-path"]),
    ),
    (
        "middlenet-plan",
        May::Use(&[
            "middlenet-sdk",
            "middlenet-wire",
            "middlenet-http",
            "middlenet-shm",
            "middlenet-steer",
            "middlenet-fast-path",
        ]),
    ),
    ("middlenet-dpdk", May::Use(&["dpdk-sys", "middlenet-shm", "middlenet-steer"])),
    ("middlenet-xsk", May::Use(&["middlenet-bpf", "middlenet-shm", "middlenet-steer"])),
    (
        "middlenet-functions",
        May::Use(&[
            "middlenet-sdk",
            "middlenet-wire",
            "middlenet-http",
            "middlenet-shm",
            "middlenet-steer",
            "middlenet-fast-path",
            "middlenet-bpf",
            "middlenet-ndpi",
        ]),
    ),
    (
        "middlenet-nf-manager",
        May::UseAllBut(&["dpdk-sys", "middlenet-runtime", "middlenet-bench", "middlenet-tests", "xtask"]),
    ),
    (
        "middlenet-message-broker",
        May::Use(&[
            "middlenet-sdk",
            "middlenet-http",
            "middlenet-shm",
            "middlenet-plan",
            "middlenet-bpf",
            "middlenet-functions",
        ]),
    ),
    (
        "middlenet-runtime",
        May::UseAllBut(&["dpdk-sys", "middlenet-dpdk", "middlenet-bench", "middlenet-tests", "xtask"]),
    ),
    ("middlenet-tests", May::UseAllBut(&["xtask"])),
    ("middlenet-bench", May::UseAllBut(&["xtask"])),
];

pub(crate) fn check(packages: &[Package]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let manifest = package.manifest.strip_prefix(root()).unwrap_or(&package.manifest).to_string_lossy();
        let Some((_, may)) = LAYERS.iter().find(|(name, _)| *name == package.name) else {
            let message = format!("{} has no place among the layers: give it one in {}", package.name, file!());
            findings.push(Finding::new(&manifest, 0, message));
            continue;
        };
        let members = packages.iter().map(|other| other.name.as_str());
        // A crate that tests itself through its public face names itself.
        for member in members.filter(|member| *member != package.name) {
            let allowed = match may {
                May::Use(names) => names.contains(&member),
                May::UseAllBut(names) => !names.contains(&member),
            };
            let uses =
                |dependency: &Dependency| dependency.name == member && !(dependency.dev && FOR_TESTS.contains(&member));
            if !allowed && package.dependencies.iter().any(uses) {
                let message = format!("{} may not depend on {member}", package.name);
                findings.push(Finding::new(&manifest, 0, message));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, dependencies: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            manifest: root().join(name).join("Cargo.toml"),
            dependencies: dependencies.iter().map(|&name| Dependency { name: name.to_owned(), dev: false }).collect(),
            crate_roots: Vec::new(),
        }
    }

    fn messages(packages: &[Package]) -> Vec<String> {
        check(packages).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_direction_is_down() {
        let packages = [
            package("middlenet-wire", &["zerocopy"]),
            package("middlenet-shm", &["libc"]),
            package("middlenet-sdk", &["middlenet-wire", "middlenet-shm", "serde"]),
            package("middlenet-nf-manager", &["middlenet-sdk", "middlenet-wire"]),
            package("middlenet-runtime", &["middlenet-nf-manager"]),
        ];
        assert!(messages(&packages).is_empty());
    }

    #[test]
    fn upwards_is_refused() {
        let packages = [
            package("middlenet-wire", &["middlenet-shm"]),
            package("middlenet-shm", &[]),
            package("middlenet-nf-manager", &["middlenet-runtime", "dpdk-sys"]),
            package("middlenet-runtime", &[]),
            package("dpdk-sys", &[]),
        ];
        assert_eq!(
            messages(&packages),
            [
                "error: middlenet-wire/Cargo.toml: middlenet-wire may not depend on middlenet-shm",
                "error: middlenet-nf-manager/Cargo.toml: middlenet-nf-manager may not depend on middlenet-runtime",
                "error: middlenet-nf-manager/Cargo.toml: middlenet-nf-manager may not depend on dpdk-sys",
            ]
        );
    }

    #[test]
    fn tests_may_use_what_is_for_tests() {
        let dev = |name: &str| Dependency { name: name.to_owned(), dev: true };
        let mut bpf = package("middlenet-bpf", &[]);
        bpf.dependencies = vec![dev("middlenet-tests"), dev("middlenet-wire")];
        let mut packages =
            [bpf, package("middlenet-tests", &[]), package("middlenet-wire", &[]), package("xtask", &[])];
        assert!(messages(&packages).is_empty());
        packages[0].dependencies = vec![dev("xtask"), Dependency { dev: false, ..dev("middlenet-tests") }];
        assert_eq!(messages(&packages).len(), 2);
    }

    #[test]
    fn a_new_crate_needs_a_place() {
        let found = messages(&[package("middlenet-new", &[])]);
        assert!(found[0].contains("middlenet-new has no place among the layers"), "{found:?}");
    }
}
