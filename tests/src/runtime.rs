//! Runs of `middlenet` inside a namespace.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::Value;

pub use std::process::Command;

use crate::run_status::{Conservation, RunStatus};
use crate::{Error, Netns, Output, Process, Scratch, binary, name, wait_until};

/// How long a run may take to start on a busy host.
const START: Duration = Duration::from_secs(60);
/// How long it may take to end.
const STOP: Duration = Duration::from_secs(30);
/// How long one command may take.
const COMMAND: Duration = Duration::from_secs(60);
/// How long the last packets may take to come to rest.
const REST: Duration = Duration::from_secs(20);

/// Runs the command line on the host, to its end, whatever that is.
///
/// # Errors
///
/// [`Error::NotBuilt`], [`Error::Start`] or [`Error::TimedOut`].
pub fn middlenet(arguments: &[&str]) -> Result<Output, Error> {
    Process::spawn(Command::new(binary("middlenet")?).args(arguments))?.wait(COMMAND)
}

/// A run in the foreground. Dropping it kills the supervisor, and with it all it started; [`Runtime::stop`] ends it in peace
/// and looks whether every packet is accounted for.
#[derive(Debug)]
pub struct Runtime {
    name: String,
    manifest: PathBuf,
    process: Option<Process>,
    scratch: Scratch,
}

/// What a run said when it ended.
#[derive(Debug, Clone)]
pub struct Summary {
    /// The last status before the end.
    pub status: RunStatus,
    /// The balance after the end.
    pub conservation: Conservation,
    /// Everything it wrote for people.
    pub log: String,
}

impl Runtime {
    /// Starts a run of this manifest inside `netns` and waits until all its processes do their work. The manifest's name is
    /// added; no other test has it.
    ///
    /// # Errors
    ///
    /// [`Error::EndedEarly`] with what the run said if it does not start.
    pub fn start(netns: &Netns, manifest: &str) -> Result<Self, Error> {
        let mut run = Self::prepare(manifest)?;
        run.launch(netns)?;
        Ok(run)
    }

    /// Writes the manifest, but starts nothing.
    ///
    /// # Errors
    ///
    /// [`Error::File`].
    pub fn prepare(manifest: &str) -> Result<Self, Error> {
        let name = format!("test-{}-{}", std::process::id(), name::next());
        let scratch = Scratch::new()?;
        let manifest = scratch.write("manifest.yaml", named(&name, manifest))?;
        Ok(Self { name, manifest, process: None, scratch })
    }

    /// Starts the run, or starts it again after its end.
    ///
    /// # Errors
    ///
    /// As [`Runtime::start`].
    pub fn launch(&mut self, netns: &Netns) -> Result<(), Error> {
        self.launch_under(netns, "env", &[])
    }

    /// The same, by a program that prepares the process for it, such as `prlimit`.
    ///
    /// # Errors
    ///
    /// As [`Runtime::start`].
    pub fn launch_under(&mut self, netns: &Netns, program: &str, arguments: &[&str]) -> Result<(), Error> {
        let mut command = netns.command(program);
        command.args(arguments).arg(binary("middlenet")?).arg("run").arg(&self.manifest);
        let mut process = Process::spawn(&mut command)?;
        let result = process.wait_for_output(&format!("`{}` runs:", self.name), START);
        self.process = Some(process);
        result
    }

    /// The name of the run.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the manifest.
    #[must_use]
    pub fn manifest(&self) -> &Path {
        &self.manifest
    }

    /// The folder of the manifest.
    #[must_use]
    pub fn folder(&self) -> &Scratch {
        &self.scratch
    }

    /// The supervisor's process.
    ///
    /// # Panics
    ///
    /// If the run has not been launched.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the run has been launched")
    }

    /// What the run has written for people so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.as_ref().map(Process::stderr).unwrap_or_default()
    }

    /// Sends one line to the control socket and returns the answer.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] if it is refused or not answered.
    pub fn ask(&self, request: &Value) -> Result<Value, Error> {
        let fail = |what: String| Error::Run { name: self.name.clone(), what };
        let answer = || -> std::io::Result<Value> {
            let mut stream = UnixStream::connect(format!("/run/middlenet/{}.sock", self.name))?;
            stream.set_read_timeout(Some(COMMAND))?;
            stream.write_all(format!("{request}\n").as_bytes())?;
            let mut line = String::new();
            BufReader::new(stream).read_line(&mut line)?;
            Ok(serde_json::from_str(&line)?)
        };
        answer().map_err(|error| fail(format!("no answer to {request}: {error}")))
    }

    /// The status now, with reports.
    ///
    /// # Errors
    ///
    /// As [`Runtime::ask`].
    pub fn status(&self) -> Result<RunStatus, Error> {
        self.ask(&serde_json::json!({ "type": "status", "reports": true })).map(RunStatus)
    }

    /// Waits until the status is as wanted, and returns it.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] with the last status and the log if it is not within `deadline`.
    pub fn wait_for(
        &self,
        what: &str,
        deadline: Duration,
        wanted: impl Fn(&RunStatus) -> bool,
    ) -> Result<RunStatus, Error> {
        let mut last = Err(Error::Run { name: self.name.clone(), what: "was not asked".into() });
        let met = wait_until(what, deadline, || {
            last = self.status();
            last.as_ref().is_ok_and(&wanted)
        });
        match (met, last) {
            (Ok(()), last) => last,
            (Err(late), Ok(last)) => {
                let what = format!("{late}; its log:\n{}\nits status: {:#}", self.log(), last.0);
                Err(Error::Run { name: self.name.clone(), what })
            }
            (Err(_), Err(error)) => Err(error),
        }
    }

    /// Waits until no packet is under way: all are accounted for, and all buffers are where they belong, twice in a row. What functions
    /// tell of themselves in the second status was asked for after the first, and so after the last packet.
    ///
    /// # Errors
    ///
    /// As [`Runtime::wait_for`].
    pub fn wait_for_rest(&self) -> Result<RunStatus, Error> {
        let before = Cell::new(None);
        self.wait_for("rest", REST, |status| {
            let conservation = status.conservation();
            let rests = status.is_running()
                && conservation.balances()
                && conservation.held == 0
                && status.buffers_astray() == 0;
            let now = rests.then_some(conservation);
            before.replace(now) == now && rests
        })
    }

    /// Waits until every process works and no request is under way: all are accounted for, and all buffers are free.
    ///
    /// # Errors
    ///
    /// As [`Runtime::wait_for`].
    pub fn wait_for_requests_to_rest(&self) -> Result<RunStatus, Error> {
        self.wait_for("rest", REST, |status| status.serves_requests() && status.requests_rest())
    }

    /// Waits for rest, ends a run of chains of requests, and asserts that it ended well and accounts for every request.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] if anything is not as it should be.
    pub fn stop_requests(mut self) -> Result<RunStatus, Error> {
        let status = self.wait_for_requests_to_rest()?;
        let output = self.end_with(Signal::SIGINT)?;
        let line = output.stderr.lines().rev().find_map(|line| line.split_once("stopped: ").map(|(_, rest)| rest));
        let even = line.is_some_and(|line| line.contains("received =") && line.ends_with(" 0 under way"));
        if output.status.success() && even {
            return Ok(status);
        }
        let what = format!("ended with {} and the account {line:?}; its log:\n{}", output.status, output.stderr);
        Err(Error::Run { name: self.name.clone(), what })
    }

    /// Runs `middlenet` with these arguments, to its end, whatever that is.
    ///
    /// # Errors
    ///
    /// As [`middlenet`].
    pub fn command(&self, arguments: &[&str]) -> Result<Output, Error> {
        middlenet(arguments)
    }

    /// Applies another manifest under the run's name; answers what the command printed.
    ///
    /// # Errors
    ///
    /// If the command cannot be run.
    pub fn apply(&self, manifest: &str) -> Result<Output, Error> {
        let path = self.scratch.write("next.yaml", named(&self.name, manifest))?;
        middlenet(&["apply", &path.display().to_string()])
    }

    /// Waits for rest, ends the run, and asserts that it ended well and accounts for every packet.
    ///
    /// # Errors
    ///
    /// [`Error::Run`] if anything is not as it should be.
    pub fn stop(mut self) -> Result<Summary, Error> {
        let status = self.wait_for_rest()?;
        let Some(mut process) = self.process.take() else { unreachable!("a run at rest has a process") };
        process.signal(Signal::SIGINT);
        let output = process.wait(STOP)?;
        let fail =
            |what: String| Error::Run { name: self.name.clone(), what: format!("{what}; its log:\n{}", output.stderr) };
        if !output.status.success() {
            return Err(fail(format!("ended with {}", output.status)));
        }
        let conservation = balance_line(&output.stderr).ok_or_else(|| fail("no balance at its end".into()))?;
        if !conservation.balances() || conservation.held != 0 {
            return Err(fail(format!("packets are missing: {conservation:?}")));
        }
        if conservation.received < status.conservation().received {
            return Err(fail(format!("counted backwards: {:?}", status.conservation())));
        }
        Ok(Summary { status, conservation, log: output.stderr })
    }

    /// Sends a signal to the supervisor and waits for its end, without any wish for success.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`].
    pub fn end_with(&mut self, signal: Signal) -> Result<Output, Error> {
        let Some(mut process) = self.process.take() else { unreachable!("the run has been launched") };
        process.signal(signal);
        process.wait(STOP)
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of the run `{}`:\n{}", self.name, self.log());
            if let Ok(status) = self.status() {
                eprintln!("its status: {:#}\n{:#}", status.0["data_plane"], status.0["messages"]);
            }
        }
        // Nobody runs under this name again, to clean up after a run that was killed.
        self.process = None;
        for kind in ["lock", "json", "sock"] {
            let _ = std::fs::remove_file(format!("/run/middlenet/{}.{kind}", self.name));
        }
    }
}

/// A manifest with its name. Unless it says otherwise, functions may be silent for long: on a busy host one may wait for its
/// core for longer than the default allows.
fn named(name: &str, manifest: &str) -> String {
    let heartbeat = if manifest.contains("heartbeat_ms:") { "" } else { "heartbeat_ms: 10000\n" };
    format!("name: {name}\n{heartbeat}{manifest}")
}

/// `stopped: 4 received + 0 made = 3 sent + 1 dropped + 0 held`.
fn balance_line(log: &str) -> Option<Conservation> {
    // A run of both layers has a line for requests, too.
    let mut lines = log.lines().rev().filter_map(|line| line.split_once("stopped: ").map(|(_, rest)| rest));
    let line = lines.find(|line| line.ends_with(" held"))?;
    let count = |word: &str| {
        let before = line.split_once(&format!(" {word}"))?.0;
        before.rsplit(' ').next()?.parse().ok()
    };
    Some(Conservation {
        received: count("received")?,
        made: count("made")?,
        sent: count("sent")?,
        dropped: count("dropped")?,
        held: count("held")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_balance_is_read_from_the_log() {
        let log = "middlenet: draining\nmiddlenet: stopped: 40 received + 2 made = 31 sent + 10 dropped + 1 held\n";
        let expected = Conservation { received: 40, made: 2, sent: 31, dropped: 10, held: 1 };
        assert_eq!(balance_line(log), Some(expected));
        assert!(expected.balances());
        assert_eq!(balance_line("middlenet: draining\n"), None);
    }
}
