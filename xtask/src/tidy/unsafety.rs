//! Where `unsafe` may stand, and that each use says why it is sound.

use super::Finding;
use super::code::{has_word, split};

/// The folders that own all of it: shared memory, DPDK, AF_XDP rings, BPF maps, nDPI.
const HOMES: &[&str] = &["sdk/shm/", "nf-manager/dpdk/", "nf-manager/xsk/", "bpf/", "functions/ndpi/"];

/// How far above an `unsafe` its reason may begin.
const REASON_LINES: usize = 12;

/// Whether a file may hold unsafe code.
pub(crate) fn is_home(path: &str) -> bool {
    HOMES.iter().any(|home| path.starts_with(home))
}

pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    if !path.ends_with(".rs") {
        return Vec::new();
    }
    let parts = split(text);
    let code: Vec<&str> = parts.code.lines().collect();
    let comments: Vec<&str> = parts.comments.lines().collect();
    let mut findings = Vec::new();
    for index in (0..code.len()).filter(|&index| has_word(code[index], "unsafe")) {
        if !is_home(path) {
            let message = format!("unsafe outside {}", HOMES.join(", "));
            findings.push(Finding::new(path, index + 1, message));
        } else if needs_reason(&code, index) && !has_reason(&code, &comments, index) {
            findings.push(Finding::new(
                path,
                index + 1,
                "unsafe without a `// SAFETY:` comment that says why it is sound",
            ));
        }
    }
    findings
}

/// A block or an implementation vouches for something; `unsafe fn` and `unsafe extern` hand the duty on.
fn needs_reason(code: &[&str], index: usize) -> bool {
    let after = code[index].split("unsafe").skip(1);
    let next_line = code.get(index + 1).copied().unwrap_or_default();
    after.into_iter().any(|rest| {
        let rest = if rest.trim().is_empty() { next_line } else { rest };
        rest.trim_start().starts_with('{') || has_word(rest.split('{').next().unwrap_or_default(), "impl")
    })
}

/// The reason is on the line itself or above it, with no other statement in between.
fn has_reason(code: &[&str], comments: &[&str], index: usize) -> bool {
    if comments[index].contains("SAFETY:") {
        return true;
    }
    for above in (index.saturating_sub(REASON_LINES)..index).rev() {
        if comments[above].contains("SAFETY:") {
            return true;
        }
        if code[above].trim_end().ends_with([';', '}']) {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(path, text).iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn unsafe_has_homes() {
        let text = "fn f() {\n    // SAFETY: p is valid.\n    unsafe { *p };\n}\n";
        assert!(lines("sdk/shm/src/ring.rs", text).is_empty());
        assert!(lines("nf-manager/dpdk/sys/src/lib.rs", text).is_empty());
        assert!(lines("functions/ndpi/src/flow.rs", text).is_empty());
        assert_eq!(lines("nf-manager/src/lib.rs", text), [3]);
        assert_eq!(lines("functions/src/lib.rs", text), [3]);
        assert_eq!(lines("sdk/src/lib.rs", "unsafe impl Send for X {}\n"), [1]);
    }

    #[test]
    fn the_word_elsewhere_is_no_use() {
        let text = "#![forbid(unsafe_code)]\n// unsafe { }\nlet x = \"unsafe {\";\n";
        assert!(lines("sdk/src/lib.rs", text).is_empty());
    }

    #[test]
    fn each_use_has_its_own_reason() {
        let two = "// SAFETY: a.\nunsafe { a() };\nunsafe { b() };\n";
        assert_eq!(lines("bpf/src/lib.rs", two), [3]);
        assert_eq!(lines("bpf/src/lib.rs", "unsafe impl Sync for X {}\n"), [1]);
        assert_eq!(lines("bpf/src/lib.rs", "let a = unsafe\n{ 1 };\n"), [1]);
    }

    #[test]
    fn a_reason_may_stand_above_the_statement() {
        let text = "// SAFETY: the region\n// outlives it.\nlet x =\n    map(unsafe { y });\n";
        assert!(lines("bpf/src/lib.rs", text).is_empty());
        assert!(lines("bpf/src/lib.rs", "unsafe { x } // SAFETY: aligned.\n").is_empty());
    }

    #[test]
    fn a_declaration_hands_the_duty_on() {
        let text = "/// # Safety\npub unsafe fn f() {}\nunsafe extern \"C\" {\n}\ntype F = unsafe extern \"C\" fn();\n";
        assert!(lines("bpf/src/lib.rs", text).is_empty());
    }
}
