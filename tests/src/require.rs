//! Tests that this host or user cannot run say so and are counted as skipped.

use std::fs;
use std::io::Write;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;

/// Whether this process may make network namespaces and configure interfaces (`CAP_SYS_ADMIN` and `CAP_NET_ADMIN`).
#[must_use]
pub fn may_build_namespaces() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    has_capabilities(&status, &[CAP_NET_ADMIN, CAP_SYS_ADMIN])
}

fn has_capabilities(status: &str, wanted: &[u32]) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|effective| wanted.iter().all(|bit| effective >> bit & 1 == 1))
}

/// Says that the running test is skipped, and why.
///
/// The test harness has no verdict "skipped" at run time, so the caller returns and the harness counts a pass. When
/// `MIDDLENET_SKIP_LOG` names a file, one line goes there too, from which `cargo xtask test` corrects its count.
pub fn skip(reason: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    eprintln!("skipped: {test}: {reason}");
    if let Some(path) = std::env::var_os("MIDDLENET_SKIP_LOG") {
        let written = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .and_then(|mut log| log.write_all(format!("{test}: {reason}\n").as_bytes()));
        if let Err(error) = written {
            eprintln!("cannot note the skipped test in {}: {error}", path.to_string_lossy());
        }
    }
}

/// Returns from the calling test, as skipped, unless it may make network namespaces.
///
/// `require_root!()` returns `()`; a test with another return type names the value: `require_root!(Ok(()))`.
#[macro_export]
macro_rules! require_root {
    () => {
        $crate::require_root!(())
    };
    ($value:expr) => {
        if !$crate::may_build_namespaces() {
            $crate::skip("needs root: it makes network namespaces");
            return $value;
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_the_status_file() {
        let root = "Name:\tx\nCapInh:\t0000000000000000\nCapEff:\t000001fffeffffff\n";
        assert!(has_capabilities(root, &[CAP_NET_ADMIN, CAP_SYS_ADMIN]));
        assert!(!has_capabilities(root, &[24]));
        assert!(!has_capabilities("CapEff:\t0000000000000000\n", &[CAP_NET_ADMIN]));
        assert!(!has_capabilities("", &[CAP_NET_ADMIN]));
    }
}
