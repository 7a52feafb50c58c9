//! The `middlenet` command.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    // A function process must be up in milliseconds: nothing else is looked at before.
    if let (Some("fn"), Some(name)) = (arguments.next().as_deref(), arguments.next()) {
        return middlenet_runtime::cli::function_process(&name);
    }
    middlenet_runtime::cli::main()
}
