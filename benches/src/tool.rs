//! Programs of the host: servers, clients, load generators.

use std::path::{Path, PathBuf};

use crate::BenchError;

/// A program of the host.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Tool {
    pub(crate) program: &'static str,
    /// The Debian package that brings it.
    pub(crate) package: &'static str,
}

impl Tool {
    /// Its path. Daemons are in directories that not everybody's `PATH` has.
    ///
    /// # Errors
    /// When it is not installed.
    pub(crate) fn path(self) -> Result<PathBuf, BenchError> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain(["/usr/sbin", "/sbin"].map(|name| Path::new(name).to_owned()));
        folders.map(|folder| folder.join(self.program)).find(|path| path.is_file()).ok_or_else(|| {
            let Self { program, package } = self;
            BenchError::Host(format!("{program} is not installed; `cargo xtask setup` installs it (package {package})"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tool_that_is_missing_is_named_with_its_remedy() {
        let tool = Tool { program: "middlenet-no-such-program", package: "no-such-package" };
        let sentence = tool.path().unwrap_err().to_string();
        assert_eq!(
            sentence,
            "middlenet-no-such-program is not installed; `cargo xtask setup` installs it (package no-such-package)"
        );
    }
}
