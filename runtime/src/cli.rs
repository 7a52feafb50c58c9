//! The command line. Data goes to standard output, everything else to standard error.

mod ask;
mod binaries;
mod check;
mod devices;
mod functions;
mod ports;
mod run;

use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::{confine, doctor};

/// One runtime for network functions on a Linux host.
#[derive(Debug, Parser)]
#[command(name = "middlenet", version, max_term_width = 100, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check a manifest, and print what would run; nothing is touched
    Check {
        /// The manifest
        manifest: PathBuf,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Run a manifest in the foreground; Ctrl-C drains and stops, twice stops at once
    Run {
        /// The manifest
        manifest: PathBuf,
        /// Run over a capture in place of the ports: no privileges, no network. Without PORT it enters by the first port
        #[arg(long, value_name = "[PORT=]FILE")]
        pcap: Vec<String>,
        /// Write what leaves to a capture; without PORT, what leaves by any port
        #[arg(long, value_name = "[PORT=]FILE", requires = "pcap")]
        write: Vec<String>,
        /// With --pcap: print the summary as JSON
        #[arg(long, requires = "pcap")]
        json: bool,
    },
    /// List the network devices of this host, what each can be used for, and why not
    Ports {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show ports, functions, processes and counters of a run
    Status(Watch),
    /// Show where and why packets are dropped, most first
    Drops(Watch),
    /// Drain and end a run
    Stop {
        /// Name of the run; not needed when there is one
        name: Option<String>,
    },
    /// Change a run to a new manifest, as far as configurations of functions go; or replace a function's process
    Apply {
        /// The new manifest
        #[arg(required_unless_present = "replace")]
        manifest: Option<PathBuf>,
        /// Start a new instance of this function beside the old one, let it take over, and stop the old one
        #[arg(long, value_name = "CHAIN/FUNCTION", conflicts_with = "manifest")]
        replace: Option<String>,
        /// With --replace: name of the run; not needed when there is one
        #[arg(long, requires = "replace")]
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List the built-in functions, or explain one and its configuration
    Functions {
        /// The function
        name: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print the JSON schema of manifests, for editors
    Schema,
    /// Say what this host lacks, what that costs, and how to mend it
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Be a function process; started by `run`
    #[command(hide = true)]
    Fn {
        /// The function
        name: String,
        /// How it is confined
        confinement: Option<String>,
    },
    /// Confine this process and make it a function's program; started by `run`
    #[command(hide = true)]
    Confine {
        /// How
        confinement: String,
        /// The program
        program: PathBuf,
        /// Its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, clap::Args)]
struct Watch {
    /// Name of the run; not needed when there is one
    name: Option<String>,
    /// Print JSON; with --watch, a line each time
    #[arg(long)]
    json: bool,
    /// Show it anew every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "1")]
    watch: Option<f64>,
}

/// Why a command failed: what to print, and the code to exit with.
#[derive(Debug)]
struct Failure {
    message: String,
    hint: Option<String>,
    code: u8,
}

impl Failure {
    /// The host or a run is the reason.
    fn new(message: impl Into<String>, hint: Option<String>) -> Self {
        Self { message: message.into(), hint, code: 1 }
    }

    /// The manifest is the reason; it has been printed already.
    fn reported() -> Self {
        Self { message: String::new(), hint: None, code: 2 }
    }
}

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(error.to_string(), None)
    }
}

/// Runs the command line.
pub fn main() -> ExitCode {
    let result = match Arguments::parse().command {
        Command::Check { manifest, json } => check::check(&manifest, json),
        Command::Run { manifest, pcap, write, json } => run::run(&manifest, &pcap, &write, json),
        Command::Ports { json } => ports::ports(json),
        Command::Status(watch) => ask::watch(&watch, ask::View::Status),
        Command::Drops(watch) => ask::watch(&watch, ask::View::Drops),
        Command::Stop { name } => ask::stop(name.as_deref()),
        Command::Apply { manifest: Some(manifest), json, .. } => ask::apply(&manifest, json),
        Command::Apply { replace, name, json, .. } => ask::replace(&replace.unwrap_or_default(), name.as_deref(), json),
        Command::Functions { name, json } => functions::functions(name.as_deref(), json),
        Command::Schema => {
            let schema = crate::schema::manifest_schema(middlenet_functions::registry());
            print_data(&format!("{schema:#}\n"));
            Ok(())
        }
        Command::Doctor { json } => {
            let findings = doctor::examine(&doctor::Host::here(binaries::manager(), binaries::broker()));
            let text = if json { format!("{:#}\n", serde_json::json!(findings)) } else { doctor::text(&findings) };
            print_data(&text);
            return if doctor::is_well(&findings) { ExitCode::SUCCESS } else { ExitCode::from(1) };
        }
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "middlenet", &mut out);
            print_data(&String::from_utf8_lossy(&out));
            Ok(())
        }
        Command::Fn { name, confinement } => return function_process(&name, confinement.as_deref()),
        Command::Confine { confinement, program, arguments } => {
            return confined_program(&confinement, &program, &arguments);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !failure.message.is_empty() {
                let hint = failure.hint.map(|h| format!("\n\nhint: {h}")).unwrap_or_default();
                let _ = writeln!(std::io::stderr(), "middlenet: {}{hint}", failure.message);
            }
            ExitCode::from(failure.code)
        }
    }
}

/// The `main` of a built-in function's process.
pub fn function_process(name: &str, confinement: Option<&str>) -> ExitCode {
    if let Some(Err(error)) = confinement.map(confine::enter) {
        return not_confined(&error);
    }
    match middlenet_functions::registry().iter().find(|r| r.name == name) {
        Some(registration) => middlenet_sdk::host::main(registration),
        None => {
            let _ = writeln!(std::io::stderr(), "middlenet: there is no function `{name}`; see `middlenet functions`");
            ExitCode::from(2)
        }
    }
}

/// The `main` of the process of another's function, until it is that.
pub fn confined_program(confinement: &str, program: &Path, arguments: &[OsString]) -> ExitCode {
    match confine::execute(confinement, program, arguments) {
        Ok(never) => match never {},
        Err(error) => not_confined(&error),
    }
}

fn not_confined(error: &confine::ConfineError) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "middlenet: the function is not started: {error}");
    ExitCode::from(1)
}

/// Writes to standard output; whoever closed it does not want the rest.
fn print_data(text: &str) {
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Whether people read what goes to standard error.
fn stderr_is_terminal() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}
