//! The running system: one thread that starts the data planes and the functions, watches them, and does what it is asked.
//!
//! ```text
//!               pidfd, socket                pidfd, socket, heartbeat
//!   nf-manager <---------------> supervisor <-------------------------> functions
//!   message broker                 ^     ^
//!                           signals|     |control API (api.rs)
//! ```
//!
//! Life of a function process: `Spawned` - its data plane is up, `start` is sent - `Starting` - it is `ready` - `Ready` - its
//! control region is made and sent - `Attaching` - it is `attached`, the data plane is told - `Joining` - that is done -
//! `Running`. When its data plane dies, it goes back to `Ready` and stays alive; when a function dies, its slot starts another.
//!
//! **Architecture invariant:** nothing here waits for anybody: whatever takes time is a state and a deadline. The exceptions are
//! the first second and the last ones, when there is nothing else to do.

mod backoff;
mod changes;
mod dialing;
mod instance;
mod instances;
mod loopback;
mod plane;
mod planes;
mod process;
mod server;
mod signals;
mod snapshot;
mod standing;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use middlenet_plan::{BrokerStats, Stats};
use middlenet_sriov::Vfs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::api::Status;
use crate::claim::Claims;
use crate::domain::Ids;
use crate::kernel_port::KernelPorts;
use crate::machine::Machine;
use crate::other_runs::OtherRuns;
use crate::plan::{Plan, Plane};
use crate::run_folder::RunFolder;
use changes::Job;
use instance::Slot;
use plane::Planes;
use server::Server;
use signals::Signals;

/// Time beyond the drain for a data plane to stop.
const STOP_GRACE: Duration = Duration::from_secs(3);
/// Time for functions to exit when told to.
const EXIT_GRACE: Duration = Duration::from_secs(1);
/// Longest sleep of the loop.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// Why a run ended early or did not begin: one sentence and perhaps a remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct RunError {
    /// The sentence.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl RunError {
    /// A sentence.
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What a run needs besides its plan.
#[derive(Debug)]
pub struct Setup {
    /// Path of the manifest, for people.
    pub manifest: String,
    /// The `middlenet` binary, for built-in functions.
    pub middlenet: PathBuf,
    /// The nf-manager's binary.
    pub manager: PathBuf,
    /// The message broker's binary.
    pub broker: PathBuf,
    /// What the host had when the plan was made.
    pub machine: Machine,
    /// What was taken of the host.
    pub taken: Taken,
    /// Who the functions run as; nothing: as this process.
    pub user: Option<Ids>,
}

/// What a run has taken of the host; nothing for a run over captures. It is given back from the first to the last.
#[derive(Debug, Default)]
pub struct Taken {
    /// Interfaces that were made.
    pub kernel_ports: KernelPorts,
    /// Virtual functions that were made.
    pub vfs: Option<Vfs<OtherRuns>>,
    /// Devices that no other run may have.
    pub claims: Claims,
    /// The name.
    pub folder: Option<RunFolder>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        for problem in self.vfs.take().into_iter().flat_map(Vfs::release) {
            log(format_args!("not undone, but left for the next run of this name: {problem}"));
        }
    }
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    /// The last state of everything, after the drain.
    pub status: Status,
    /// Whether somebody did not want to wait for the drain.
    pub cut_short: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Starting,
    Running,
    /// A data plane drains; until then.
    Stopping(Instant),
    Over,
}

/// The supervisor of one run.
#[derive(Debug)]
pub struct Supervisor {
    plan: Plan,
    setup: Setup,
    phase: Phase,
    started: Instant,
    planes: Planes,
    slots: Vec<Slot>,
    next_instance: u64,
    server: Option<Server>,
    signals: Signals,
    status_jobs: Vec<snapshot::StatusJob>,
    job: Option<Job>,
    /// Counts changes, those of `job` and those that bring back what was there before.
    change: u64,
    /// The nf-manager's counters.
    stats: Option<Stats>,
    /// The message broker's counters.
    messages: Option<BrokerStats>,
    /// Why the run cannot go on.
    fatal: Option<RunError>,
    cut_short: bool,
    /// When heartbeats were last looked at.
    last_look: Instant,
}

/// What happened.
#[derive(Debug, Clone, Copy)]
enum Event {
    Signal,
    Connection,
    Client(u64),
    PlaneSocket(Plane),
    PlaneExit(Plane),
    FunctionSocket { slot: usize, instance: u64 },
    FunctionExit { slot: usize, instance: u64 },
}

/// A line for people, on standard error.
pub(crate) fn log(line: impl std::fmt::Display) {
    use std::io::Write;
    let _ = writeln!(io::stderr(), "middlenet: {line}");
}

impl Supervisor {
    /// Gets ready; nothing has been started yet.
    ///
    /// # Errors
    /// When signals cannot be caught or the control socket cannot be made.
    pub fn new(plan: Plan, setup: Setup) -> Result<Self, RunError> {
        let fail = |what: &str, e: io::Error| RunError::new(format!("cannot {what}: {e}"));
        let signals = Signals::catch().map_err(|e| fail("catch signals", e))?;
        let server = match &setup.taken.folder {
            Some(folder) => Some(Server::listen(&folder.socket()).map_err(|e| fail("make the control socket", e))?),
            None => None,
        };
        let slots = plan.runtime.processes.iter().cloned().map(Slot::new).collect();
        let now = Instant::now();
        let planes = Planes::of(&plan);
        Ok(Self {
            plan,
            setup,
            phase: Phase::Starting,
            started: now,
            planes,
            slots,
            next_instance: 0,
            server,
            signals,
            status_jobs: Vec::new(),
            job: None,
            change: 0,
            stats: None,
            messages: None,
            fatal: None,
            cut_short: false,
            last_look: now,
        })
    }

    /// Runs until told to stop, or until the captures are read. Every child has ended and every interface is as it was
    /// found when this returns.
    ///
    /// # Errors
    /// When something does not start; later failures are mended, not reported.
    pub fn run(mut self) -> Result<Outcome, RunError> {
        while self.phase != Phase::Over && self.fatal.is_none() {
            self.advance();
            if self.phase == Phase::Over || self.fatal.is_some() {
                break;
            }
            match self.wait() {
                Ok(events) => events.into_iter().for_each(|event| self.take(event)),
                Err(e) => self.fatal = Some(RunError::new(format!("cannot wait for events: {e}"))),
            }
        }
        self.end_children();
        let status = self.status();
        match self.fatal.take() {
            Some(error) => Err(error),
            None => Ok(Outcome { status, cut_short: self.cut_short }),
        }
    }

    /// Does what is due: starts, deadlines, heartbeats, answers.
    fn advance(&mut self) {
        let now = Instant::now();
        self.advance_planes(now);
        self.advance_instances(now);
        self.look_at_heartbeats(now);
        if self.phase == Phase::Starting && self.all_running() {
            self.phase = Phase::Running;
            self.announce();
        }
        self.advance_job(now);
        self.advance_status_jobs(now);
        for client in self.server.iter_mut().flat_map(|server| server.advance(now)).collect::<Vec<_>>() {
            self.take_client(client);
        }
        if let Phase::Stopping(deadline) = self.phase
            && now >= deadline
        {
            self.give_up_drain();
        }
    }

    fn all_running(&self) -> bool {
        self.planes.iter().all(|data| data.is_up()) && self.slots.iter().all(Slot::is_running)
    }

    fn announce(&self) {
        let ms = self.started.elapsed().as_millis();
        log(format_args!("`{}` runs: {}, up in {ms} ms", self.plan.name, self.plan.summary()));
    }

    /// Sleeps until something happens or is due.
    fn wait(&self) -> io::Result<Vec<Event>> {
        let input = PollFlags::POLLIN;
        let mut watched: Vec<(BorrowedFd<'_>, PollFlags, Event)> = vec![(self.signals.fd(), input, Event::Signal)];
        for (plane, process) in self.planes.iter().filter_map(|data| Some((data.plane, data.process.as_ref()?))) {
            watched.push((process.channel().fd(), input, Event::PlaneSocket(plane)));
            watched.push((process.pidfd(), input, Event::PlaneExit(plane)));
        }
        for (slot, instance) in self.slots.iter().enumerate().flat_map(|(i, s)| s.instances().map(move |p| (i, p))) {
            let id = instance.id;
            if !(instance.deaf || instance.steering) {
                watched.push((instance.process.channel().fd(), input, Event::FunctionSocket { slot, instance: id }));
            }
            watched.push((instance.process.pidfd(), input, Event::FunctionExit { slot, instance: id }));
        }
        if let Some(server) = &self.server {
            watched.push((server.fd(), input, Event::Connection));
            watched.extend(server.clients().map(|(id, fd, flags)| (fd, flags, Event::Client(id))));
        }
        let mut fds: Vec<PollFd<'_>> = watched.iter().map(|(fd, flags, _)| PollFd::new(*fd, *flags)).collect();
        let timeout = self.due().saturating_duration_since(Instant::now());
        // Round up: a wait that ends just before something is due would spin.
        let timeout = PollTimeout::try_from(timeout + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = fds.iter().map(|fd| fd.any().unwrap_or(false));
        Ok(watched.iter().zip(ready).filter(|(_, ready)| *ready).map(|((.., event), _)| *event).collect())
    }

    /// When the loop must run at the latest.
    fn due(&self) -> Instant {
        let longest = Instant::now() + LONGEST_SLEEP;
        let mut times = vec![longest];
        times.extend(self.planes.iter().filter_map(|data| data.due()));
        times.extend(self.slots.iter().filter_map(Slot::due));
        times.extend(self.status_jobs.iter().map(|job| job.deadline));
        times.extend(self.job.as_ref().map(|job| job.deadline));
        if self.slots.iter().any(|s| s.instances().next().is_some()) {
            times.push(self.last_look + self.look_interval());
        }
        if let Phase::Stopping(deadline) = self.phase {
            times.push(deadline);
        }
        times.into_iter().min().unwrap_or(longest)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Signal => self.take_signals(),
            Event::Connection => self.server.iter_mut().for_each(Server::accept),
            Event::Client(id) => self.take_client(id),
            Event::PlaneSocket(plane) => self.take_plane_messages(plane),
            Event::PlaneExit(plane) => self.take_plane_exit(plane),
            Event::FunctionSocket { slot, instance } => self.take_function_messages(slot, instance),
            Event::FunctionExit { slot, instance } => self.take_function_exit(slot, instance),
        }
    }

    fn take_signals(&mut self) {
        for _ in 0..self.signals.take() {
            match self.phase {
                Phase::Starting | Phase::Running => {
                    log("draining; once more to stop at once");
                    self.stop();
                }
                Phase::Stopping(_) | Phase::Over => {
                    self.cut_short = true;
                    self.phase = Phase::Over;
                }
            }
        }
    }

    /// Begins the end: receive no more, let packets leave and requests be answered.
    fn stop(&mut self) {
        if matches!(self.phase, Phase::Stopping(_) | Phase::Over) {
            return;
        }
        self.phase = Phase::Stopping(Instant::now() + STOP_GRACE);
        self.stop_next();
    }

    /// Ends every child, politely where that is possible.
    fn end_children(&mut self) {
        let patience = if self.cut_short { Duration::ZERO } else { EXIT_GRACE };
        let deadline = Instant::now() + patience;
        if !self.cut_short {
            for instance in self.slots.iter_mut().flat_map(Slot::instances_mut) {
                instance.tell(&middlenet_sdk::protocol::ToFunction::Stop, &[]);
            }
        }
        for instance in self.slots.iter_mut().flat_map(Slot::instances_mut) {
            instance.process.finish(deadline);
        }
        let deadline = deadline.max(Instant::now() + patience);
        for process in self.planes.iter_mut().filter_map(|data| data.process.as_mut()) {
            process.finish(deadline);
        }
    }
}

/// `1 port`, `2 ports`.
pub(crate) fn count(n: usize, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}
