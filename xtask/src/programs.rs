//! The programs of the workspace, built together so that each use finds what another has built.

use std::os::unix::process::CommandExt;
use std::process::Command;

use crate::error::Error;
use crate::process;
use crate::workspace::{self, Metadata};

/// How the programs are optimised.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Profile {
    /// For the demo and the end-to-end tests: nearly the speed of a release, a fraction of its build time.
    Fast,
    /// For measuring.
    Release,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Release => "release",
        }
    }
}

/// The command that builds all programs. Always the same selection of packages: another one would give the dependencies
/// other features, and cargo would build them again.
pub(crate) fn build_command(profile: Profile) -> Command {
    let packages = [
        "middlenet-runtime",
        "middlenet-nf-manager",
        "middlenet-message-broker",
        "middlenet-bench",
        // The test of virtual functions is a program: it runs here and in a virtual machine.
        "middlenet-tests",
    ];
    let mut command = process::cargo(["build", "--profile", profile.name()]);
    command.args(packages.iter().flat_map(|package| ["-p", package]));
    command
}

/// Builds the programs and becomes one of them; returns only if that fails.
pub(crate) fn build_and_become(profile: Profile, program: &str, arguments: &[String]) -> Error {
    println!("building the programs (profile {}); the first time takes some minutes", profile.name());
    let build = process::run(&mut build_command(profile)).and_then(|()| Metadata::load());
    let metadata = match build {
        Ok(metadata) => metadata,
        Err(error) => return error,
    };
    let mut command = Command::new(metadata.target_directory.join(profile.name()).join(program));
    command.args(arguments).current_dir(workspace::root());
    let source = command.exec();
    Error::Start { command: process::line(&command), source }
}
