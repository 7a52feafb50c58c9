//! Processes that end with the test that started them.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::{Error, wait_until};

/// What a finished command left.
#[derive(Debug, Clone)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Its standard error; bytes that are not UTF-8 are replaced.
    pub stderr: String,
}

/// A running process whose output is kept. Dropping it kills it by its pid and reaps it.
#[derive(Debug)]
pub struct Process {
    command: String,
    child: Child,
    stdout: Captured,
    stderr: Captured,
}

impl Process {
    /// Starts `command` with no input.
    ///
    /// # Errors
    ///
    /// [`Error::Start`] if the program cannot be started.
    pub fn spawn(command: &mut Command) -> Result<Self, Error> {
        let line = command_line(command);
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| Error::Start { command: line.clone(), source })?;
        let stdout = Captured::of(child.stdout.take());
        let stderr = Captured::of(child.stderr.take());
        Ok(Self { command: line, child, stdout, stderr })
    }

    /// The pid.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written to its standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        self.stdout.text().clone()
    }

    /// What it has written to its standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        self.stderr.text().clone()
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// How it ended; nothing while it runs.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits until a line of its output, standard or error, contains `text`.
    ///
    /// # Errors
    ///
    /// [`Error::EndedEarly`] if it ends without such a line, [`Error::TimedOut`] if neither happens within `deadline`.
    pub fn wait_for_output(&mut self, text: &str, deadline: Duration) -> Result<(), Error> {
        let what = format!("output of `{}` with \"{text}\"", self.command);
        let mut ended = None;
        wait_until(&what, deadline, || {
            let status = self.child.try_wait().ok().flatten();
            if status.is_some() {
                // What was written before the end may still be in the pipe.
                self.stdout.finish();
                self.stderr.finish();
            }
            if self.stdout.text().contains(text) || self.stderr.text().contains(text) {
                return true;
            }
            ended = status;
            ended.is_some()
        })?;
        match ended {
            None => Ok(()),
            Some(status) => Err(Error::EndedEarly {
                command: self.command.clone(),
                status,
                output: format!("{}{}", self.stdout(), self.stderr()),
            }),
        }
    }

    /// Sends a signal by pid. A process that has already ended is left alone.
    pub fn signal(&mut self, signal: Signal) {
        if self.is_running() {
            // Not reaped yet, so the pid is still this process and no other.
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    /// Waits for the end.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it still runs after `deadline`; it is then killed.
    pub fn wait(mut self, deadline: Duration) -> Result<Output, Error> {
        let mut status = None;
        wait_until(&format!("the end of `{}`", self.command), deadline, || {
            status = self.child.try_wait().ok().flatten();
            status.is_some()
        })?;
        self.stdout.finish();
        self.stderr.finish();
        let status = match status {
            Some(status) => status,
            None => unreachable!("wait_until returns once there is a status"),
        };
        Ok(Output { status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Asks it to end with `SIGTERM`, and waits.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`] if it still runs after `deadline`; it is then killed.
    pub fn stop(mut self, deadline: Duration) -> Result<Output, Error> {
        self.signal(Signal::SIGTERM);
        self.wait(deadline)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended, and then wait() reaps it all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `command` to its end, and wants success.
///
/// # Errors
///
/// Like [`Process::spawn`] and [`Process::wait`], and [`Error::Failed`] if it does not end with success.
pub(crate) fn run(command: &mut Command, deadline: Duration) -> Result<Output, Error> {
    let line = command_line(command);
    let output = Process::spawn(command)?.wait(deadline)?;
    if output.status.success() {
        return Ok(output);
    }
    Err(Error::Failed { command: line, status: output.status, stderr: output.stderr.trim().to_owned() })
}

fn command_line(command: &Command) -> String {
    let mut line = command.get_program().to_string_lossy().into_owned();
    for argument in command.get_args() {
        line.push(' ');
        line.push_str(&argument.to_string_lossy());
    }
    line
}

/// One output stream, read by a thread of its own so that the process never blocks on a full pipe.
#[derive(Debug)]
struct Captured {
    text: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Captured {
    fn of(stream: Option<impl Read + Send + 'static>) -> Self {
        let text = Arc::new(Mutex::new(String::new()));
        let reader = stream.map(|stream| {
            let text = Arc::clone(&text);
            std::thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                let mut line = Vec::new();
                while matches!(stream.read_until(b'\n', &mut line), Ok(1..)) {
                    lock(&text).push_str(&String::from_utf8_lossy(&line));
                    line.clear();
                }
            })
        });
        Self { text, reader }
    }

    fn text(&self) -> MutexGuard<'_, String> {
        lock(&self.text)
    }

    /// Waits a moment for the rest of the stream. A grandchild that inherited the pipe may hold it open for ever, so this
    /// does not join unconditionally.
    fn finish(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = wait_until("the end of the stream", Duration::from_millis(500), || reader.is_finished());
        }
    }
}

fn lock(text: &Mutex<String>) -> MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(10);

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(script);
        command
    }

    #[test]
    fn both_streams_are_kept() {
        let output = run(&mut shell("echo one; echo two >&2"), SOON).unwrap();
        assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("one\n", "two\n"));
    }

    #[test]
    fn failure_carries_the_standard_error() {
        let error = run(&mut shell("echo no such luck >&2; exit 3"), SOON).unwrap_err();
        assert!(error.to_string().contains("exit status: 3: no such luck"), "{error}");
    }

    #[test]
    fn a_program_that_does_not_exist_is_named() {
        let error = run(&mut Command::new("middlenet-no-such-program"), SOON).unwrap_err();
        assert!(matches!(error, Error::Start { .. }), "{error}");
    }

    #[test]
    fn drop_kills_and_reaps() {
        let process = Process::spawn(&mut shell("exec sleep 60")).unwrap();
        let pid = process.pid();
        assert!(crate::name::is_alive(pid));
        drop(process);
        assert!(!crate::name::is_alive(pid));
    }

    #[test]
    fn a_process_that_does_not_end_is_killed_at_the_deadline() {
        let process = Process::spawn(&mut shell("exec sleep 60")).unwrap();
        let pid = process.pid();
        assert!(matches!(process.wait(Duration::from_millis(50)), Err(Error::TimedOut { .. })));
        assert!(!crate::name::is_alive(pid));
    }

    #[test]
    fn stop_lets_the_process_end_by_itself() {
        let mut process =
            Process::spawn(&mut shell("trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"))
                .unwrap();
        process.wait_for_output("ready", SOON).unwrap();
        let output = process.stop(SOON).unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, "ready\nbye\n");
    }

    #[test]
    fn an_early_end_is_told_with_its_output() {
        let mut process = Process::spawn(&mut shell("echo broken; exit 1")).unwrap();
        let error = process.wait_for_output("ready", SOON).unwrap_err();
        assert!(matches!(&error, Error::EndedEarly { output, .. } if output == "broken\n"), "{error}");
    }
}
