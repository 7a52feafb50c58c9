//! A place for a function process, and the process in it.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use middlenet_plan::Declared;
use middlenet_sdk::protocol::ToFunction;
use middlenet_sdk::{ChannelError, CounterInfo, DropReasonInfo, PortInfo};
use middlenet_shm::{ControlGeometry, ControlRegion};
use serde_json::Value;

use super::backoff::Backoff;
use super::dialing::Allowance;
use super::loopback::Loopback;
use super::plane::Up;
use super::process::Process;
use crate::plan::ProcessPlan;

/// How long an instance may take to make itself ready; large tables are read meanwhile.
const READY_PATIENCE: Duration = Duration::from_secs(30);
/// How long any other step may take.
const STEP_PATIENCE: Duration = Duration::from_secs(5);

/// Where an instance is in its life; see the module's picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Spawned,
    Starting,
    Ready,
    Attaching,
    Joining,
    Running,
    Leaving,
}

/// One function process.
#[derive(Debug)]
pub(super) struct Instance {
    pub(super) id: u64,
    pub(super) process: Process,
    pub(super) stage: Stage,
    pub(super) since: Instant,
    pub(super) control: Option<ControlRegion>,
    pub(super) counters: Vec<CounterInfo>,
    pub(super) drop_reasons: Vec<DropReasonInfo>,
    /// The messages it wants and the upstreams it may route to.
    pub(super) declared: Declared,
    /// The connection it was given, until the broker has it as well: as long as it is here, it does not close when the
    /// function ends.
    pub(super) socket: Option<Loopback>,
    /// The ports it was told of.
    pub(super) ports: Vec<PortInfo>,
    /// Whose maps it has, if it has a fast path: how often the data plane had been restarted.
    pub(super) maps_of: Option<u64>,
    /// Sockets that it may still have made for it.
    pub(super) dials: Allowance,
    pub(super) pulse: Pulse,
    /// A report has been asked for and not come.
    pub(super) reporting: bool,
    pub(super) report: Value,
    /// Flows that it steers are on their way to the data plane: it is heard again when they are there, so that one that steers
    /// without end waits for its turn like everybody.
    pub(super) steering: bool,
    /// Its socket is closed or garbled: only its end is awaited.
    pub(super) deaf: bool,
    /// It has closed its socket, though perhaps not all that it said has been read: how it ends says more than that it takes
    /// no messages.
    pub(super) leaving: bool,
    pub(super) end: Option<String>,
}

impl Instance {
    pub(super) fn new(id: u64, process: Process) -> Self {
        let now = Instant::now();
        Self {
            id,
            process,
            stage: Stage::Spawned,
            since: now,
            control: None,
            counters: Vec::new(),
            drop_reasons: Vec::new(),
            declared: Declared::default(),
            socket: None,
            ports: Vec::new(),
            maps_of: None,
            dials: Allowance::new(now),
            pulse: Pulse { beats: 0, since: now, ran_ns: None },
            reporting: false,
            report: Value::Null,
            steering: false,
            deaf: false,
            leaving: false,
            end: None,
        }
    }

    pub(super) fn enter(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    /// Sends a message and wakes the function to read it; `false` if it does not take it.
    pub(super) fn tell(&mut self, message: &ToFunction, fds: &[BorrowedFd<'_>]) -> bool {
        let sent = match self.process.send(message, fds) {
            Ok(()) => true,
            Err(e) => {
                self.leaving |= matches!(&e, ChannelError::Io(io) if io.kind() == ErrorKind::BrokenPipe);
                false
            }
        };
        if sent && let Some(control) = &self.control {
            control.attention().store(1, Ordering::Release);
            control.function_doorbell().ring();
        }
        sent
    }

    /// Gives it the memory of its data plane, a control region of its own, and a socket if messages reach it over one.
    pub(super) fn attach(
        &mut self,
        label: &str,
        up: &Up,
        geometry: ControlGeometry,
        buffer_bytes: u32,
        skmsg: bool,
    ) -> Result<(), String> {
        let control = ControlRegion::create(&format!("middlenet-{label}"), geometry)
            .map_err(|e| format!("has no control region: {e}"))?;
        let socket = match skmsg {
            true => Some(Loopback::new().map_err(|e| {
                format!("has no socket: {e} (it needs the loopback interface: `ip link set lo up`, or `hop: ring`)")
            })?),
            false => None,
        };
        let mut fds = vec![up.region.fd(), control.fd()];
        fds.extend(up.events.iter().map(|e| e.as_fd()));
        fds.extend(socket.iter().map(|s| s.function.as_fd()));
        // It still sleeps on its old region, if it has one.
        let sent = self.tell(&ToFunction::Attach { buffer_bytes, skmsg }, &fds);
        (self.control, self.socket) = (Some(control), socket);
        self.enter(Stage::Attaching);
        if sent || self.leaving { Ok(()) } else { Err("takes no messages".into()) }
    }

    /// Kills it; what follows happens when its end shows.
    pub(super) fn kill(&mut self, why: impl Into<String>) {
        self.end.get_or_insert(why.into());
        self.process.kill();
    }

    /// When it has been in its stage for too long.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self.stage {
            Stage::Starting => Some(self.since + READY_PATIENCE),
            Stage::Attaching | Stage::Leaving => Some(self.since + STEP_PATIENCE),
            // The data plane's own deadline covers `Joining`.
            Stage::Spawned | Stage::Ready | Stage::Joining | Stage::Running => None,
        }
    }

    /// Whether the data plane knows it.
    pub(super) fn is_known_to_plane(&self) -> bool {
        matches!(self.stage, Stage::Joining | Stage::Running)
    }
}

/// Signs of life.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pulse {
    beats: u64,
    since: Instant,
    /// CPU time it had at the last look while it was silent, in ns.
    ran_ns: Option<u64>,
}

impl Pulse {
    /// Begins to listen.
    pub(super) fn reset(&mut self, beats: u64, now: Instant) {
        *self = Self { beats, since: now, ran_ns: None };
    }

    /// Takes a reading; for how long there has been no change.
    pub(super) fn silence(&mut self, beats: u64, now: Instant) -> Duration {
        if beats != self.beats {
            self.reset(beats, now);
        }
        now.saturating_duration_since(self.since)
    }
}

impl Pulse {
    /// Whether a silent process wants to run and gets no CPU: then its silence says nothing of the function. One that
    /// runs is judged at the second look, when it is known whether it got any.
    pub(super) fn starves(&mut self, pid: u32) -> bool {
        let Some((runnable, ran_ns)) = scheduling(pid) else { return false };
        let before = self.ran_ns.replace(ran_ns);
        runnable && before.is_none_or(|before| before == ran_ns)
    }
}

/// Whether the process is runnable, and the CPU time it has had, in ns.
fn scheduling(pid: u32) -> Option<(bool, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may contain anything.
    let (_, fields) = stat.rsplit_once(')')?;
    let runnable = fields.trim_start().starts_with('R');
    let schedstat = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    Some((runnable, schedstat.split_whitespace().next()?.parse().ok()?))
}

/// The place of one replica.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) plan: ProcessPlan,
    pub(super) current: Option<Instance>,
    /// It takes over when it is ready.
    pub(super) successor: Option<Instance>,
    /// They have been taken over from and are to exit.
    pub(super) retired: Vec<Instance>,
    pub(super) retry: Option<Instant>,
    pub(super) backoff: Backoff,
    pub(super) restarts: u64,
    pub(super) last_exit: Option<String>,
    /// When the last instance died, until another runs.
    pub(super) died: Option<Instant>,
}

impl Slot {
    pub(super) fn new(plan: ProcessPlan) -> Self {
        Self {
            plan,
            current: None,
            successor: None,
            retired: Vec::new(),
            retry: None,
            backoff: Backoff::default(),
            restarts: 0,
            last_exit: None,
            died: None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|i| i.stage == Stage::Running)
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = &Instance> {
        self.current.iter().chain(&self.successor).chain(&self.retired)
    }

    pub(super) fn instances_mut(&mut self) -> impl Iterator<Item = &mut Instance> {
        self.current.iter_mut().chain(&mut self.successor).chain(&mut self.retired)
    }

    pub(super) fn instance_mut(&mut self, id: u64) -> Option<&mut Instance> {
        self.instances_mut().find(|i| i.id == id)
    }

    /// When something is to be done here at the latest.
    pub(super) fn due(&self) -> Option<Instant> {
        let retry = self.retry.filter(|_| self.current.is_none());
        self.instances().filter_map(Instance::deadline).chain(retry).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_grows_until_the_next_beat() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut pulse = Pulse { beats: 0, since: start, ran_ns: None };
        assert_eq!(pulse.silence(0, at(400)).as_millis(), 400);
        assert_eq!(pulse.silence(1, at(500)).as_millis(), 0);
        assert_eq!(pulse.silence(1, at(1600)).as_millis(), 1100);
    }
}
