//! What a developer types: set-up, tests, demo, benchmarks and the checks of the workspace's own rules.

#![forbid(unsafe_code)]

mod bench;
mod demo;
mod error;
mod process;
mod programs;
mod setup;
mod test;
mod tidy;
mod workspace;

use std::process::ExitCode;

use error::Error;

const USAGE: &str = "\
usage: cargo xtask COMMAND

  setup [--dry-run]    install missing packages, reserve hugepages, mount bpffs; safe to repeat
        [--sriov]      also an emulator and a small system for the test of virtual functions
  demo [ARGUMENTS]     set up, build, and show real traffic through the runtime
  test [NAME...]       set up and run every check and test; with names, only the tests whose name contains one
  test --sriov         only the test of virtual functions, in a virtual machine
  test --fast          formatting, tidy, clippy and the unit tests: no set-up, no root
  bench NAME [--quick] [--json FILE] [ARGUMENTS]
                       set up, build the release profile and measure
  tidy                 check the rules of the workspace that the compiler does not know
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(code) => code,
        Err(error @ Error::Usage(_)) => {
            eprintln!("{error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &[String]) -> Result<ExitCode, Error> {
    let Some((command, rest)) = arguments.split_first() else {
        return Err(Error::Usage(USAGE.to_owned()));
    };
    match command.as_str() {
        "setup" => setup::run(setup::Options::parse(rest)?).map(|()| ExitCode::SUCCESS),
        "test" => Ok(test::run(&test::Options::parse(rest)?)),
        "demo" => demo::run(rest),
        "bench" => bench::run(rest),
        "tidy" if rest.is_empty() => tidy::run().map(|()| ExitCode::SUCCESS),
        "help" | "--help" | "-h" => {
            print!("{USAGE}");
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(Error::Usage(format!("`{}` is not a command of xtask\n\n{USAGE}", arguments.join(" ")))),
    }
}
