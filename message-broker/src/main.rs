//! The message broker's process. The runtime starts it; standard input is the control socket.

#![forbid(unsafe_code)]

use middlenet_sdk::{Channel, protocol};
use std::os::fd::AsFd;
use std::process::ExitCode;

fn main() -> ExitCode {
    if std::env::args().any(|argument| argument == "--version") {
        println!("middlenet-message-broker {} (protocol {})", env!("CARGO_PKG_VERSION"), protocol::VERSION);
        return ExitCode::SUCCESS;
    }
    if std::env::var_os(protocol::SOCKET_VARIABLE).is_none() {
        eprintln!("middlenet-message-broker is started by `middlenet run`; alone it does nothing");
        return ExitCode::from(2);
    }
    // A terminal's Ctrl-C reaches every process; the runtime decides when the data plane stops.
    if let Err(e) = ignore_terminal_signals() {
        eprintln!("middlenet-message-broker: signals: {e}");
        return ExitCode::FAILURE;
    }
    let socket = match std::io::stdin().as_fd().try_clone_to_owned() {
        Ok(socket) => Channel::from_fd(socket),
        Err(e) => {
            eprintln!("middlenet-message-broker: the control socket: {e}");
            return ExitCode::FAILURE;
        }
    };
    match middlenet_message_broker::serve(&socket, middlenet_functions::registry()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("middlenet-message-broker: {e}");
            ExitCode::FAILURE
        }
    }
}

fn ignore_terminal_signals() -> nix::Result<()> {
    use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
    let mut set = SigSet::empty();
    set.add(Signal::SIGINT);
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)
}
