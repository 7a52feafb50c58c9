//! Builds the C programs of the tests.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const CRATE: &str = env!("CARGO_MANIFEST_DIR");

/// Compiles `tests/c/NAME.c` with `flags` into the directory `out`, and returns the program.
pub(crate) fn build(name: &str, out: &Path, flags: &[String]) -> PathBuf {
    let program = out.join(format!("{name}-{}", std::process::id()));
    let status = Command::new("cc")
        .args(["-O3", "-std=gnu11", "-Wall", "-Werror", "-I"])
        .arg(format!("{CRATE}/include"))
        .arg(format!("{CRATE}/tests/c/{name}.c"))
        .args(flags)
        .arg("-o")
        .arg(&program)
        .status()
        .expect("a C compiler named cc");
    assert!(status.success(), "cc {name}.c: {status}");
    program
}

/// The program that runs DPDK's `rte_ring`, or `None`, and a line on the terminal, where libdpdk is not installed.
#[allow(dead_code, reason = "each user of this file needs a part of it")]
pub(crate) fn rte_ring_peer(out: &Path) -> Option<PathBuf> {
    let Some(mut flags) = pkg_config(&["--cflags", "--libs-only-L"]) else {
        // Past the capture of the test harness: a test that did not run must not look as if it had.
        let _ = writeln!(std::io::stderr(), "SKIPPED: libdpdk is not installed, so rte_ring is not on the other side");
        return None;
    };
    flags.extend(["-lrte_ring", "-lrte_eal", "-lpthread"].map(String::from));
    Some(build("rte_ring_peer", out, &flags))
}

fn pkg_config(what: &[&str]) -> Option<Vec<String>> {
    let output = Command::new("pkg-config").args(what).arg("libdpdk").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.split_whitespace().map(String::from).collect())
}
