//! A run of the runtime, started and asked as an operator would.

use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use middlenet_plan::Stats;
use middlenet_runtime::api::{Client, FunctionStatus, IDLE, Request, Response, Status};
use middlenet_runtime::run_folder;
use middlenet_tests::{Netns, Process};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::BenchError;
use crate::programs::Programs;
use crate::work_folder::WorkFolder;

/// How long a run may take until all functions are attached.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to drain and end.
const STOP_PATIENCE: Duration = Duration::from_secs(15);
/// Between two questions when something is timed.
pub const POLL: Duration = Duration::from_millis(1);

static NEXT: AtomicU32 = AtomicU32::new(0);

/// Makes Ctrl-C and SIGTERM end what runs in order, so that nothing is left behind.
///
/// # Errors
/// When the signals cannot be caught.
pub fn catch_interrupts() -> Result<(), BenchError> {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // Whoever asks twice does not want to wait.
        signal_hook::flag::register_conditional_default(signal as i32, flag())
            .and_then(|_| signal_hook::flag::register(signal as i32, flag()))
            .map_err(|e| BenchError::Failed(format!("cannot catch {signal}: {e}")))?;
    }
    Ok(())
}

fn flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    FLAG.get_or_init(Default::default).clone()
}

/// Ends what is going on if somebody pressed Ctrl-C.
///
/// # Errors
/// [`BenchError::Interrupted`].
pub fn go_on() -> Result<(), BenchError> {
    if flag().load(Ordering::Relaxed) {
        return Err(BenchError::Interrupted);
    }
    Ok(())
}

/// Sleeps, but not through a Ctrl-C.
///
/// # Errors
/// [`BenchError::Interrupted`].
pub fn pause(time: Duration) -> Result<(), BenchError> {
    let until = Instant::now() + time;
    loop {
        go_on()?;
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        std::thread::sleep(left.min(Duration::from_millis(50)));
    }
}

/// A run. Dropping it stops it and waits.
#[derive(Debug)]
pub struct Run {
    name: String,
    process: Option<Process>,
    /// With the time of its last question.
    client: Option<(Client, Instant)>,
}

impl Run {
    /// Starts a manifest, to which a name is added, on the host or in a namespace; returns once every function is attached.
    ///
    /// # Errors
    /// When it does not get there; what it said is in the error.
    pub fn start(
        programs: &Programs,
        folder: &WorkFolder,
        netns: Option<&Netns>,
        mut manifest: Value,
    ) -> Result<Self, BenchError> {
        go_on()?;
        let name = format!("bench-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        manifest["name"] = Value::from(name.clone());
        // JSON is YAML.
        let text = serde_json::to_string_pretty(&manifest).map_err(|e| BenchError::Failed(e.to_string()))?;
        let file = folder.write(&format!("{name}.yaml"), text.as_bytes())?;
        let middlenet = programs.path("middlenet")?;
        let mut command = netns.map_or_else(|| Command::new(&middlenet), |netns| netns.command(&middlenet));
        // A terminal's Ctrl-C is for us: we say when it stops.
        let process = Process::spawn(command.arg("run").arg(file).process_group(0))?;
        let mut run = Self { name, process: Some(process), client: None };
        run.wait_until("a run with all functions attached", START_PATIENCE, |status| status.state == "running")?;
        Ok(run)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The supervisor's pid.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        self.process.as_ref().map(|p| p.stderr() + &p.stdout()).unwrap_or_default()
    }

    /// Everything that is known of the run.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status(&mut self) -> Result<Status, BenchError> {
        self.status_with(false)
    }

    /// The same, with what functions report of themselves.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn status_with_reports(&mut self) -> Result<Status, BenchError> {
        self.status_with(true)
    }

    fn status_with(&mut self, reports: bool) -> Result<Status, BenchError> {
        match self.ask(&Request::Status { reports })? {
            Response::Status(status) => Ok(*status),
            other => Err(unexpected(&other)),
        }
    }

    /// The counters of the data plane.
    ///
    /// # Errors
    /// When the run does not answer, or its manager is down.
    pub fn stats(&mut self) -> Result<Stats, BenchError> {
        let status = self.status()?;
        status.data_plane.ok_or_else(|| BenchError::Failed("the data plane gives no counters".into()))
    }

    /// Changes what can be changed to that of a manifest, to which the run's name is added.
    ///
    /// # Errors
    /// When it is refused, or asks for more than that.
    pub fn apply(&mut self, mut manifest: Value) -> Result<(), BenchError> {
        manifest["name"] = Value::from(self.name.clone());
        match self.ask(&Request::Apply { manifest: manifest.to_string(), folder: "/".into() })? {
            Response::Applied { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Starts new instances of a function; returns when they have taken over.
    ///
    /// # Errors
    /// When they do not.
    pub fn replace(&mut self, chain: &str, function: &str) -> Result<(), BenchError> {
        match self.ask(&Request::Replace { chain: chain.into(), function: function.into() })? {
            Response::Replaced { .. } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Asks for the state about once a millisecond until `done` likes one, which is returned.
    ///
    /// # Errors
    /// After `patience`, when the run ends, or on Ctrl-C.
    pub fn wait_until(
        &mut self,
        what: &str,
        patience: Duration,
        mut done: impl FnMut(&Status) -> bool,
    ) -> Result<Status, BenchError> {
        let start = Instant::now();
        loop {
            go_on()?;
            let asked = Instant::now();
            let ended = self.process.as_mut().is_none_or(|p| !p.is_running());
            if ended {
                return Err(BenchError::Failed(format!(
                    "`middlenet run` ended while {what} was awaited: {}",
                    self.last_words()
                )));
            }
            if let Ok(status) = self.status()
                && done(&status)
            {
                return Ok(status);
            }
            if start.elapsed() >= patience {
                let words = self.last_words();
                return Err(BenchError::Failed(format!(
                    "no {what} within {patience:?}; `middlenet run` said: {words}"
                )));
            }
            std::thread::sleep(POLL.saturating_sub(asked.elapsed()));
        }
    }

    /// Stops it and waits for its end; returns what it wrote to its standard output.
    ///
    /// # Errors
    /// When it does not end in time, or not with success.
    pub fn stop(mut self) -> Result<String, BenchError> {
        let Some(process) = self.process.take() else { return Ok(String::new()) };
        self.client = None;
        let output = process.stop(STOP_PATIENCE)?;
        if output.status.success() {
            return Ok(output.stdout);
        }
        let said = output.stderr.trim().to_owned();
        Err(BenchError::Failed(format!("`middlenet run` ended with {}: {said}", output.status)))
    }

    /// Pids of the supervisor, the manager and the functions.
    ///
    /// # Errors
    /// When it does not answer.
    pub fn pids(&mut self) -> Result<Vec<u32>, BenchError> {
        let status = self.status()?;
        let functions = status.functions.iter().filter(|f| f.placement == "process").filter_map(|f| f.process.pid);
        Ok([Some(status.pid), status.manager.pid].into_iter().flatten().chain(functions).collect())
    }

    fn ask(&mut self, request: &Request) -> Result<Response, BenchError> {
        let mut client = match self.client.take() {
            // One that is silent for longer is cut off.
            Some((client, last)) if last.elapsed() < IDLE / 2 => client,
            _ => Client::connect(&run_folder::socket(&self.name))?,
        };
        let response = client.ask(request)?;
        self.client = Some((client, Instant::now()));
        Ok(response)
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(6)..].join("\n")
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // Killed after its patience, which is all that can be done here.
            let _ = process.stop(STOP_PATIENCE);
        }
        // The runtime keeps the lock's file for the next run of the name; of ours there is none.
        let _ = std::fs::remove_file(run_folder::path().join(format!("{}.lock", self.name)));
    }
}

fn unexpected(response: &Response) -> BenchError {
    match response {
        Response::Failed { message, hint } => {
            let hint = hint.as_ref().map(|h| format!(" ({h})")).unwrap_or_default();
            BenchError::Failed(format!("{message}{hint}"))
        }
        other => BenchError::Failed(format!("the run answered out of turn: {other:?}")),
    }
}

/// The pid of a function's instance that gets traffic.
pub fn running_pid(function: &FunctionStatus) -> Option<u32> {
    function.process.pid.filter(|_| function.process.state == "running")
}
