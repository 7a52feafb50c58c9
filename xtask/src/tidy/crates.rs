//! What every crate of the workspace says of itself.

use std::fs;
use std::path::Path;

use super::code::split;
use super::unsafety::is_home;
use super::{Finding, text};
use crate::error::Error;
use crate::workspace::Package;

pub(crate) fn check(root: &Path, package: &Package) -> Result<Vec<Finding>, Error> {
    let mut findings = Vec::new();
    for path in &package.crate_roots {
        let name = relative(root, path);
        let Ok(source) = fs::read_to_string(path) else {
            findings.push(Finding::new(&name, 0, format!("{} names this file, and it cannot be read", package.name)));
            continue;
        };
        if !is_home(&name) && !forbids_unsafe(&source) {
            findings.push(Finding::new(&name, 0, "the crate root lacks `#![forbid(unsafe_code)]`"));
        }
    }
    let manifest = fs::read_to_string(&package.manifest).map_err(Error::file(&package.manifest))?;
    if !text::inherits_lints(&manifest) {
        let name = relative(root, &package.manifest);
        findings.push(Finding::new(&name, 0, "lacks `[lints]` with `workspace = true`: one table of lints for all"));
    }
    Ok(findings)
}

fn relative(root: &Path, path: &Path) -> String {
    path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned()
}

fn forbids_unsafe(source: &str) -> bool {
    let code: String = split(source).code.split_whitespace().collect();
    code.contains("#![forbid(unsafe_code")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_attribute_counts_and_not_its_mention() {
        assert!(forbids_unsafe("//! Doc.\n#![forbid(unsafe_code)]\n"));
        assert!(forbids_unsafe("#![forbid( unsafe_code, missing_docs )]\n"));
        assert!(!forbids_unsafe("// #![forbid(unsafe_code)]\n"));
        assert!(!forbids_unsafe("#![deny(unsafe_code)]\n"));
    }

    #[test]
    fn a_crate_is_read_from_its_files() {
        let root = std::env::temp_dir().join(format!("middlenet-crates-{}", std::process::id()));
        fs::create_dir_all(root.join("a/src")).unwrap();
        let package = Package {
            name: String::from("a"),
            manifest: root.join("a/Cargo.toml"),
            dependencies: Vec::new(),
            crate_roots: vec![root.join("a/src/lib.rs")],
        };
        fs::write(&package.manifest, "[package]\nname = \"a\"\n").unwrap();
        fs::write(&package.crate_roots[0], "//! A.\n").unwrap();
        let bad = check(&root, &package).unwrap();
        fs::write(&package.manifest, "[package]\nname = \"a\"\n\n[lints]\nworkspace = true\n").unwrap();
        fs::write(&package.crate_roots[0], "#![forbid(unsafe_code)]\n").unwrap();
        let good = check(&root, &package).unwrap();
        fs::remove_dir_all(&root).unwrap();
        let paths: Vec<&str> = bad.iter().map(|finding| finding.path.as_str()).collect();
        assert_eq!(paths, ["a/src/lib.rs", "a/Cargo.toml"]);
        assert!(good.is_empty(), "{good:?}");
    }
}
