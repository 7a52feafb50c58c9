//! Rules about texts: length, words, paths, unfinished work, licences.

use super::Finding;
use super::code::split;

/// Beyond this a file holds more than one idea.
const MAX_LINES: usize = 600;
/// Beyond this it soon will.
const LONG_LINES: usize = 500;

/// Words that promise or belittle where a document should state.
const BANNED_WORDS: &[&str] = &["simply", "just", "blazing", "blazingly", "zero-cost"];

/// Directories of somebody's machine.
const MACHINE_PATHS: &[&str] = &[concat!("/wo", "rk/"), concat!("/ro", "ot/")];

const UNFINISHED: &[&str] = &["TODO", "FIXME", "XXX"];
/// An explanation of what breaks meanwhile has at least this many words.
const EXPLANATION_WORDS: usize = 5;

pub(crate) fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    if is_generated(text) {
        return findings;
    }
    findings.extend(length(path, text));
    findings.extend(machine_paths(path, text));
    findings.extend(unfinished(path, text));
    if path.ends_with(".md") {
        findings.extend(words(path, text));
    }
    if path.ends_with(".bpf.c") && !text.lines().take(3).any(|line| line.contains("SPDX-License-Identifier:")) {
        findings.push(Finding::new(path, 1, "lacks `SPDX-License-Identifier:` in its first lines"));
    }
    findings
}

/// Whether the first lines say that a program wrote the file, or that `bpftool` did.
fn is_generated(text: &str) -> bool {
    text.lines().take(5).any(|line| line.contains(concat!("@gene", "rated")) || line.contains("__VMLINUX_H__"))
}

fn is_code(path: &str) -> bool {
    [".rs", ".c", ".h", ".sh", ".py"].iter().any(|end| path.ends_with(end))
}

fn length(path: &str, text: &str) -> Option<Finding> {
    let lines = text.lines().count();
    if !is_code(path) || lines <= LONG_LINES {
        None
    } else if lines > MAX_LINES {
        Some(Finding::new(path, 0, format!("{lines} lines, at most {MAX_LINES}: split it by idea")))
    } else {
        Some(Finding::warning(path, format!("{lines} lines: soon too long")))
    }
}

fn machine_paths(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (index, line) in text.lines().enumerate() {
        for machine_path in MACHINE_PATHS {
            // Within a longer path, such as a URL, it is somebody else's directory.
            let begins_here =
                |at: usize| !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-}".contains(before));
            if line.match_indices(machine_path).any(|(at, _)| begins_here(at)) {
                findings.push(Finding::new(path, index + 1, format!("a path of one machine: {machine_path}")));
            }
        }
    }
    findings
}

fn unfinished(path: &str, text: &str) -> Vec<Finding> {
    // In code only comments count, so that a program may speak of such a mark.
    let comments = if path.ends_with(".rs") || path.ends_with(".c") || path.ends_with(".h") {
        split(text).comments
    } else if path.ends_with(".sh") || path.ends_with(".toml") || path.ends_with(".yaml") || path.ends_with(".yml") {
        text.to_owned()
    } else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for (index, line) in comments.lines().enumerate() {
        let mark = UNFINISHED.iter().find(|mark| super::code::has_word(line, mark));
        if let Some(mark) = mark
            && line.split(mark).nth(1).unwrap_or_default().split_whitespace().count() < EXPLANATION_WORDS
        {
            let message = format!("{mark} without an explanation of what breaks meanwhile");
            findings.push(Finding::new(path, index + 1, message));
        }
    }
    findings
}

/// Looks for banned words outside quotations and code.
fn words(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut in_code = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        } else if !in_code {
            // Every second part of a line is between backquotes.
            let prose = line.split('`').step_by(2).collect::<Vec<_>>().join("`").to_lowercase();
            let is_part = |letter: char| letter.is_alphanumeric() || letter == '-' || letter == '_';
            for word in prose.split(|letter| !is_part(letter)).filter(|word| BANNED_WORDS.contains(word)) {
                findings.push(Finding::new(path, index + 1, format!("the word \"{word}\": say what is so, and why")));
            }
        }
    }
    findings
}

/// Whether a manifest takes the lints of the workspace.
pub(crate) fn inherits_lints(manifest: &str) -> bool {
    let mut section = "";
    manifest.lines().map(str::trim).any(|line| {
        if line.starts_with('[') {
            section = line;
        }
        let setting: String = line.split_whitespace().collect();
        (section == "[lints]" && setting == "workspace=true") || setting == "lints.workspace=true"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(path, text).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn long_files_are_named_and_too_long_ones_refused() {
        assert!(found("a.rs", &"x\n".repeat(500)).is_empty());
        assert_eq!(found("a.rs", &"x\n".repeat(501)), ["warning: a.rs: 501 lines: soon too long"]);
        assert_eq!(found("a.rs", &"x\n".repeat(601)), ["error: a.rs: 601 lines, at most 600: split it by idea"]);
        assert!(found("a.md", &"x\n".repeat(601)).is_empty());
        let generated = format!("// {}\n{}", concat!("@gene", "rated"), "x\n".repeat(601));
        assert!(found("a.rs", &generated).is_empty());
    }

    #[test]
    fn banned_words_are_found_in_prose_only() {
        assert_eq!(
            found("a.md", "One\nSimply do it.\n"),
            ["error: a.md:2: the word \"simply\": say what is so, and why"]
        );
        assert_eq!(found("a.md", "It is zero-cost, just so.").len(), 2);
        assert!(found("a.md", "`just` a just-in-time adjustment of the justice\n```\njust code\n```\n").is_empty());
        assert!(found("a.rs", "// just").is_empty());
    }

    #[test]
    fn machine_paths_are_found_where_they_begin() {
        let (first, second) = (MACHINE_PATHS[0], MACHINE_PATHS[1]);
        assert_eq!(found("a.sh", &format!("cd {first}x\ncd '{second}y'\n")).len(), 2);
        assert!(found("a.sh", &format!("see example.org{first}x and $dir{second}y ${{dir}}{second}")).is_empty());
    }

    #[test]
    fn unfinished_work_says_what_breaks() {
        assert_eq!(
            found("a.rs", "// TODO: later\n"),
            ["error: a.rs:1: TODO without an explanation of what breaks meanwhile"]
        );
        assert!(found("a.rs", "// TODO: fragments after the first are counted as other.\n").is_empty());
        assert!(found("a.rs", "let mark = \"TODO\";\n").is_empty());
        assert_eq!(found("a.sh", "# FIXME\n").len(), 1);
    }

    #[test]
    fn bpf_programs_carry_their_licence() {
        assert_eq!(found("bpf/src/x.bpf.c", "int x;\n").len(), 1);
        assert!(found("bpf/src/x.bpf.c", "// SPDX-License-Identifier: GPL-2.0\nint x;\n").is_empty());
        assert!(found("bpf/src/x.c", "int x;\n").is_empty());
    }

    #[test]
    fn lints_are_inherited_in_their_own_section() {
        assert!(inherits_lints("[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n"));
        assert!(!inherits_lints("[dependencies.x]\nworkspace = true\n\n[lints]\n"));
        assert!(!inherits_lints("[lints.rust]\n"));
    }
}
