//! The `middlenet` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use middlenet_runtime::cli;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let text = |at: usize| arguments.get(at).and_then(|a| a.to_str());
    // A function process must be up in milliseconds: nothing else is looked at before.
    match (text(0), text(1), arguments.get(2)) {
        (Some("fn"), Some(name), None) => cli::function_process(name, None),
        (Some("fn"), Some(name), Some(_)) if text(2).is_some() => cli::function_process(name, text(2)),
        (Some("confine"), Some(confinement), Some(program)) => {
            cli::confined_program(confinement, program.as_ref(), &arguments[3..])
        }
        _ => cli::main(),
    }
}
