//! `cargo xtask bench`: measures the release build.

use std::process::ExitCode;

use crate::error::Error;
use crate::programs::{self, Profile};
use crate::setup;

/// Sets up, builds, and becomes `middlenet-bench NAME ...`.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, Error> {
    if arguments.first().is_none_or(|name| name.starts_with('-')) {
        return Err(Error::Usage(String::from(
            "`cargo xtask bench` needs the name of a benchmark, such as `cargo xtask bench l2l3 --quick`",
        )));
    }
    setup::run(setup::Options::default())?;
    Err(programs::build_and_become(Profile::Release, "middlenet-bench", arguments))
}
