//! Running other programs: with our output, with their output kept, or both.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Sender, channel};

use crate::error::Error;
use crate::workspace;

/// A cargo command in the root of the workspace.
///
/// `cargo run`, which started xtask, describes the crate xtask in the environment. That is not passed on: build scripts
/// that look at it would run again.
pub(crate) fn cargo<I, S>(arguments: I) -> Command
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    let mut command = Command::new("cargo");
    command.args(arguments).current_dir(workspace::root()).env("CARGO_TERM_COLOR", "never");
    for (name, _) in std::env::vars_os() {
        let name_text = name.to_string_lossy();
        if name_text.starts_with("CARGO_PKG_") || name_text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

/// Runs to the end with our output, and wants success.
pub(crate) fn run(command: &mut Command) -> Result<(), Error> {
    let status = command.status().map_err(|source| Error::Start { command: line(command), source })?;
    success(command, status)
}

/// Runs to the end, and returns the standard output of a success.
pub(crate) fn output(command: &mut Command) -> Result<String, Error> {
    let output =
        command.stdin(Stdio::null()).output().map_err(|source| Error::Start { command: line(command), source })?;
    if !output.status.success() {
        io::stderr().write_all(&output.stderr).map_err(Error::file(Path::new("/dev/stderr")))?;
    }
    success(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether the program can be started and says yes; its output is thrown away.
pub(crate) fn says_yes(command: &mut Command) -> bool {
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    silent.status().is_ok_and(|status| status.success())
}

/// Runs to the end, shows every line of both streams on our standard output, and hands it to `see` as well.
pub(crate) fn watch(command: &mut Command, mut see: impl FnMut(&str)) -> Result<(), Error> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|source| Error::Start { command: line(command), source })?;
    let (lines, seen) = channel();
    if let Some(stdout) = child.stdout.take() {
        forward(stdout, lines.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        forward(stderr, lines.clone());
    }
    drop(lines);
    for text in seen {
        println!("{text}");
        see(&text);
    }
    let status = child.wait().map_err(|source| Error::Start { command: line(command), source })?;
    success(command, status)
}

/// Reads a stream to its end on a thread of its own, so that neither stream can block the other.
fn forward(stream: impl Read + Send + 'static, lines: Sender<String>) {
    std::thread::spawn(move || {
        let mut stream = BufReader::new(stream);
        let mut bytes = Vec::new();
        while matches!(stream.read_until(b'\n', &mut bytes), Ok(1..)) {
            let text = String::from_utf8_lossy(&bytes).trim_end_matches(['\n', '\r']).to_owned();
            if lines.send(text).is_err() {
                return;
            }
            bytes.clear();
        }
    });
}

fn success(command: &Command, status: ExitStatus) -> Result<(), Error> {
    if status.success() { Ok(()) } else { Err(Error::Failed { command: line(command), status }) }
}

/// The command line, for people.
pub(crate) fn line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn watch_sees_both_streams_and_the_status() {
        let mut seen = Vec::new();
        let result =
            watch(&mut shell("echo out; echo err >&2; printf last; exit 4"), |line| seen.push(line.to_owned()));
        seen.sort();
        assert_eq!(seen, ["err", "last", "out"]);
        assert_eq!(
            result.unwrap_err().to_string(),
            "`sh -c echo out; echo err >&2; printf last; exit 4` ended with exit status: 4"
        );
    }

    #[test]
    fn a_missing_program_is_an_error_and_says_no() {
        assert!(matches!(run(&mut Command::new("middlenet-no-such-program")), Err(Error::Start { .. })));
        assert!(!says_yes(&mut Command::new("middlenet-no-such-program")));
        assert!(says_yes(&mut shell("exit 0")));
    }
}
