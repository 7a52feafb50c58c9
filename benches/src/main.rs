//! `middlenet-bench`: benchmarks and the demo. `cargo xtask bench` and `cargo xtask demo` build and start it.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use middlenet_bench::bench::Options;
use middlenet_bench::{BenchError, demo, hybrid, l2l3, l4l7, run, unified};

/// Measures MiddleNet beside its peers, and shows it at work.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// L2/L3 chains: throughput, latency, overload, idling, start and restart of functions.
    L2l3(Measured),
    /// L4/L7 chains as reverse proxies, beside nginx, HAProxy and a chain of nginx over a Linux bridge.
    L4l7(Measured),
    /// Packets and requests on one interface: the cost of steering rules, both loads together and apart, one joining the other.
    Unified(Measured),
    /// Functions with a fast path in the kernel, beside iptables, HAProxy and nDPI: requests, latency, processor time.
    Hybrid(Measured),
    /// Packets and requests through functions, apart and by one interface: real traffic, a blocked port, killed functions, a
    /// killed server, a flow that moves into the kernel.
    Demo(Demo),
}

#[derive(Debug, Args)]
struct Measured {
    /// Fewer points, shorter: about a minute.
    #[arg(long)]
    quick: bool,
    /// Also write the results as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the results, as SVG and PNG.
    #[arg(long, value_name = "FOLDER")]
    charts: Option<PathBuf>,
    /// Only cases whose name begins like this, such as `inline/router+l2fwd/64` or `peer/`.
    #[arg(long, value_name = "CASE", default_value = "")]
    only: String,
}

impl From<Measured> for Options {
    fn from(Measured { quick, json, charts, only }: Measured) -> Self {
        Self { quick, only, json, charts }
    }
}

#[derive(Debug, Args)]
struct Demo {
    /// Also write what was seen as one JSON object.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    // The hop benchmark starts this program again as its functions.
    match middlenet_bench::hops::serve_if_asked() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("middlenet-bench: {e}");
            return ExitCode::FAILURE;
        }
    }
    let arguments = Arguments::parse();
    match run::catch_interrupts().and_then(|()| carry_out(arguments.command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("middlenet-bench: {}", error.sentence());
            ExitCode::FAILURE
        }
    }
}

fn carry_out(command: Command) -> Result<(), BenchError> {
    match command {
        Command::L2l3(measured) => l2l3::run(&measured.into()),
        Command::L4l7(measured) => l4l7::run(&measured.into()),
        Command::Unified(measured) => unified::run(&measured.into()),
        Command::Hybrid(measured) => hybrid::run(&measured.into()),
        Command::Demo(Demo { json }) => demo::run(json.as_deref()),
    }
}
