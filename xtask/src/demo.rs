//! `cargo xtask demo`: from a fresh host to real traffic through the runtime.

use std::process::ExitCode;

use crate::error::Error;
use crate::programs::{self, Profile};
use crate::setup;

/// Sets up, builds, and becomes `middlenet-bench demo`, which lays the stage, sends the traffic and says what happened.
pub(crate) fn run(arguments: &[String]) -> Result<ExitCode, Error> {
    setup::run(setup::Options::default())?;
    let arguments: Vec<String> = [String::from("demo")].into_iter().chain(arguments.iter().cloned()).collect();
    Err(programs::build_and_become(Profile::Fast, "middlenet-bench", &arguments))
}
