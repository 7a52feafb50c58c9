//! `cargo xtask tidy`: the rules of the workspace that the compiler does not know.
//!
//! Each check is a pure function of names and texts, so it is tested on texts; this file alone touches the host.

mod code;
mod crates;
mod layers;
mod text;
mod unsafety;

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::error::Error;
use crate::process;
use crate::workspace::{self, Metadata};

/// A place that breaks a rule, or comes near.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Relative to the root of the workspace.
    path: String,
    /// From 1; 0 if the file as a whole is meant.
    line: usize,
    message: String,
    /// Said, but not a failure.
    warning: bool,
}

impl Finding {
    fn new(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { path: path.to_owned(), line, message: message.into(), warning: false }
    }

    fn warning(path: &str, message: impl Into<String>) -> Self {
        Self { warning: true, ..Self::new(path, 0, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = if self.warning { "warning" } else { "error" };
        match self.line {
            0 => write!(out, "{word}: {}: {}", self.path, self.message),
            line => write!(out, "{word}: {}:{line}: {}", self.path, self.message),
        }
    }
}

/// Checks every file that belongs to the repository, and the dependencies between its crates.
pub(crate) fn run() -> Result<(), Error> {
    let root = workspace::root();
    let files = files(root)?;
    let mut findings = Vec::new();
    let mut checked = 0;
    for name in &files {
        let path = root.join(name);
        // A file that is deleted but still in the index, or a link.
        if !path.symlink_metadata().is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        let bytes = fs::read(&path).map_err(Error::file(&path))?;
        // The rules are about texts; captures and the like have none.
        let Ok(text) = String::from_utf8(bytes) else { continue };
        checked += 1;
        findings.extend(text::check(name, &text));
        findings.extend(unsafety::check(name, &text));
    }
    let metadata = Metadata::load()?;
    findings.extend(layers::check(&metadata.packages));
    for package in &metadata.packages {
        findings.extend(crates::check(root, package)?);
    }

    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|finding| !finding.warning).count();
    println!("tidy: {checked} files, {errors} errors, {} warnings", findings.len() - errors);
    if errors == 0 { Ok(()) } else { Err(Error::Untidy { findings: errors }) }
}

/// The files of the repository, also those that are new and not ignored.
fn files(root: &Path) -> Result<Vec<String>, Error> {
    let git = |arguments: &[&str]| {
        let mut command = Command::new("git");
        command.args(arguments).current_dir(root);
        command
    };
    if process::says_yes(&mut git(&["rev-parse", "--is-inside-work-tree"])) {
        let list = process::output(&mut git(&["ls-files", "-z", "--cached", "--others", "--exclude-standard"]))?;
        return Ok(list.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect());
    }
    // An unpacked archive has no index: everything but what cargo built.
    let mut files = Vec::new();
    walk(root, "", &mut files)?;
    Ok(files)
}

fn walk(directory: &Path, prefix: &str, files: &mut Vec<String>) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(Error::file(directory))? {
        let entry = entry.map_err(Error::file(directory))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().map_err(Error::file(&entry.path()))?;
        if kind.is_file() {
            files.push(name);
        } else if kind.is_dir() && !matches!(entry.file_name().to_str(), Some("target" | ".git")) {
            walk(&entry.path(), &format!("{name}/"), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_walked_without_what_cargo_built() {
        let root = std::env::temp_dir().join(format!("middlenet-tidy-{}", std::process::id()));
        for directory in ["src/inner", "target/debug", ".git"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        for file in ["README.md", "src/inner/a.rs", "target/debug/b.rs", ".git/config"] {
            fs::write(root.join(file), "").unwrap();
        }
        let mut files = Vec::new();
        walk(&root, "", &mut files).unwrap();
        fs::remove_dir_all(&root).unwrap();
        files.sort();
        assert_eq!(files, ["README.md", "src/inner/a.rs"]);
    }

    #[test]
    fn a_finding_names_its_place() {
        assert_eq!(Finding::new("a/b.rs", 7, "no").to_string(), "error: a/b.rs:7: no");
        assert_eq!(Finding::warning("a/b.rs", "long").to_string(), "warning: a/b.rs: long");
    }
}
