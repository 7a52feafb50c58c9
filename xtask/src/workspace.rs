//! The workspace as cargo describes it.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use serde_json::Value;

use crate::error::Error;
use crate::process;

/// The directory of the root manifest.
///
/// `cargo run` names the crate's own directory. What was compiled in may be another checkout's, if two share a target
/// directory, or the place from which this one was moved.
pub(crate) fn root() -> &'static Path {
    static ROOT: LazyLock<PathBuf> = LazyLock::new(|| {
        let xtask = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
        let mut root = PathBuf::from(xtask);
        root.pop();
        root
    });
    &ROOT
}

/// The members of the workspace and where cargo builds them.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) target_directory: PathBuf,
    pub(crate) packages: Vec<Package>,
}

#[derive(Debug)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest: PathBuf,
    /// The direct dependencies, members of the workspace or not.
    pub(crate) dependencies: Vec<Dependency>,
    /// Root files of the libraries and programs; not of tests, benchmarks, examples and build scripts.
    pub(crate) crate_roots: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// For tests, benchmarks and examples only.
    pub(crate) dev: bool,
}

impl Metadata {
    /// Asks cargo, for the direct dependencies only: nothing is downloaded.
    pub(crate) fn load() -> Result<Self, Error> {
        let mut command = process::cargo(["metadata", "--no-deps", "--format-version=1"]);
        let text = process::output(&mut command)?;
        Self::parse(&text).map_err(|reason| Error::Answer { command: process::line(&command), reason })
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
        let packages = array(&value, "packages")?.iter().map(Package::parse).collect::<Result<_, _>>()?;
        Ok(Self { target_directory: PathBuf::from(string(&value, "target_directory")?), packages })
    }
}

impl Package {
    fn parse(value: &Value) -> Result<Self, String> {
        let mut dependencies = Vec::new();
        for dependency in array(value, "dependencies")? {
            let dev = dependency["kind"].as_str() == Some("dev");
            dependencies.push(Dependency { name: string(dependency, "name")?.to_owned(), dev });
        }
        let mut crate_roots = Vec::new();
        for target in array(value, "targets")? {
            let kinds = array(target, "kind")?;
            if kinds.iter().any(|kind| matches!(kind.as_str(), Some("lib" | "rlib" | "bin" | "proc-macro"))) {
                crate_roots.push(PathBuf::from(string(target, "src_path")?));
            }
        }
        Ok(Self {
            name: string(value, "name")?.to_owned(),
            manifest: PathBuf::from(string(value, "manifest_path")?),
            dependencies,
            crate_roots,
        })
    }
}

fn array<'a>(value: &'a Value, key: &str) -> Result<&'a Vec<Value>, String> {
    value[key].as_array().ok_or_else(|| format!("`{key}` is not a list"))
}

fn string<'a>(value: &'a Value, key: &str) -> Result<&'a str, String> {
    value[key].as_str().ok_or_else(|| format!("`{key}` is not a string"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_read() {
        let metadata = Metadata::parse(
            r#"{"target_directory": "/t", "packages": [{
                "name": "a", "manifest_path": "/w/a/Cargo.toml",
                "dependencies": [{"name": "b", "kind": null}, {"name": "b", "kind": "dev"}, {"name": "c", "kind": "build"}],
                "targets": [
                    {"kind": ["lib"], "src_path": "/w/a/src/lib.rs"},
                    {"kind": ["test"], "src_path": "/w/a/tests/t.rs"},
                    {"kind": ["custom-build"], "src_path": "/w/a/build.rs"}
                ]}]}"#,
        )
        .unwrap();
        assert_eq!(metadata.target_directory, Path::new("/t"));
        let package = &metadata.packages[0];
        assert_eq!((package.name.as_str(), package.manifest.as_path()), ("a", Path::new("/w/a/Cargo.toml")));
        let dependencies: Vec<_> = package.dependencies.iter().map(|found| (found.name.as_str(), found.dev)).collect();
        assert_eq!(dependencies, [("b", false), ("b", true), ("c", false)]);
        assert_eq!(package.crate_roots, [Path::new("/w/a/src/lib.rs")]);
    }

    #[test]
    fn what_is_missing_is_named() {
        assert_eq!(Metadata::parse(r#"{"packages": []}"#).unwrap_err(), "`target_directory` is not a string");
        assert_eq!(Metadata::parse("{}").unwrap_err(), "`packages` is not a list");
    }
}
