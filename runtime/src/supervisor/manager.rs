//! The nf-manager: start, requests in order, death and restart.

use std::collections::VecDeque;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use middlenet_plan::{Reply, Request};
use middlenet_sdk::{ChannelError, PortInfo};
use middlenet_shm::{Pages, Region, ShmError};

use super::backoff::Backoff;
use super::process::{Process, describe_exit};
use super::{Phase, RunError, Supervisor, log};
use crate::api::ProcessStatus;
use crate::manifest::Hugepages;

/// How long the manager may take to open its ports; DPDK probes devices meanwhile.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long any other answer may take; draining an instance is the longest.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer that is awaited. The manager answers in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Started,
    Joined { slot: usize, instance: u64 },
    Detached,
    Reconfigured { hop: u16 },
    Stats,
    Stopped,
}

/// The data plane, open.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) region: Region,
    pub(super) ports: Vec<PortInfo>,
    /// One per worker.
    pub(super) events: Vec<OwnedFd>,
}

#[derive(Debug, Default)]
pub(super) struct Manager {
    process: Option<Process>,
    /// Made before the manager starts, moved into `up` when it has.
    region: Option<Region>,
    up: Option<Up>,
    expected: VecDeque<(Expected, Instant)>,
    retry: Option<Instant>,
    backoff: Backoff,
    restarts: u64,
    last_exit: Option<String>,
    /// What it said about its ports.
    pub(super) notes: Vec<String>,
    hung: bool,
}

impl Manager {
    pub(super) fn process(&self) -> Option<&Process> {
        self.process.as_ref()
    }

    pub(super) fn up(&self) -> Option<&Up> {
        self.up.as_ref()
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    pub(super) fn expects(&self, what: Expected) -> bool {
        self.expected.iter().any(|(expected, _)| *expected == what)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let deadline = self.expected.front().map(|(expected, since)| *since + patience(*expected));
        deadline.into_iter().chain(self.retry).min()
    }

    pub(super) fn finish(&mut self, deadline: Instant) {
        if let Some(process) = &mut self.process {
            process.finish(deadline);
        }
    }

    pub(super) fn status(&self) -> ProcessStatus {
        let state = match (&self.process, &self.up) {
            (Some(_), Some(_)) => "running",
            (Some(_), None) => "starting",
            (None, _) => "restarting",
        };
        ProcessStatus {
            pid: self.process.as_ref().map(Process::pid),
            state: state.into(),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}

fn patience(expected: Expected) -> Duration {
    match expected {
        Expected::Started | Expected::Stopped => START_PATIENCE,
        _ => PATIENCE,
    }
}

impl Supervisor {
    pub(super) fn advance_manager(&mut self, now: Instant) {
        let may_start = matches!(self.phase, Phase::Starting | Phase::Running);
        if self.manager.process.is_none() && may_start && self.manager.retry.is_none_or(|at| now >= at) {
            self.manager.retry = None;
            if let Err(e) = self.start_manager() {
                self.manager_failed(e, now);
            }
        }
        if let Some(&(expected, since)) = self.manager.expected.front()
            && now >= since + patience(expected)
            && !self.manager.hung
        {
            log(format_args!("the nf-manager has not answered for {} s: killing it", patience(expected).as_secs()));
            self.manager.hung = true;
            if let Some(process) = &mut self.manager.process {
                process.kill();
            }
        }
    }

    fn start_manager(&mut self) -> Result<(), RunError> {
        let region = self.packets_region()?;
        let path = &self.setup.manager;
        let process = Process::spawn(Command::new(path)).map_err(|e| {
            RunError::new(format!("cannot start {}: {e}", path.display()))
                .with_hint("install it beside `middlenet`, or name it in MIDDLENET_NF_MANAGER")
        })?;
        self.manager.process = Some(process);
        self.manager.hung = false;
        let plan = self.plan.manager.clone();
        let fd = [region.fd()];
        let sent = match &self.manager.process {
            Some(process) => process.send(&Request::Start { plan }, &fd),
            None => Ok(()),
        };
        self.manager.region = Some(region);
        // A manager that is gone already shows by its pidfd.
        if sent.is_ok() {
            self.manager.expected.push_back((Expected::Started, Instant::now()));
        }
        Ok(())
    }

    fn packets_region(&mut self) -> Result<Region, RunError> {
        let pages = match self.plan.runtime.hugepages {
            Hugepages::Auto => Pages::Auto,
            Hugepages::Require => Pages::Huge,
            Hugepages::Never => Pages::Small,
        };
        let bytes = usize::try_from(self.plan.packet_bytes()).unwrap_or(usize::MAX);
        let name = format!("middlenet-{}-packets", self.plan.manager.name);
        let region = Region::create(&name, bytes, pages).map_err(|e| match &e {
            ShmError::HugePages { .. } => RunError::new(e.to_string())
                .with_hint(format!("echo {} > /proc/sys/vm/nr_hugepages", (bytes >> 21).next_multiple_of(64))),
            _ => {
                let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
                RunError::new(format!("{e}{cause}")).with_hint("ask for fewer buffers: `memory: { buffers: 8192 }`")
            }
        })?;
        if pages == Pages::Auto && region.page_bytes() < middlenet_shm::HUGE_PAGE_BYTES {
            let pages = bytes >> 21;
            let note = format!(
                "packets lie in 4 KiB pages, which costs throughput: `echo {} > /proc/sys/vm/nr_hugepages` before the next run",
                pages.next_multiple_of(64)
            );
            if !self.plan.runtime.notes.contains(&note) {
                log(format_args!("note: {note}"));
                self.plan.runtime.notes.push(note);
            }
        }
        Ok(region)
    }

    /// Sends a request; `false` if the manager is going away, which its pidfd will show.
    pub(super) fn ask_manager(&mut self, request: &Request, fds: &[BorrowedFd<'_>], expected: Expected) -> bool {
        let Some(process) = &self.manager.process else { return false };
        let sent = process.send(request, fds).is_ok();
        if sent {
            self.manager.expected.push_back((expected, Instant::now()));
        }
        sent
    }

    pub(super) fn take_manager_messages(&mut self) {
        while let Some(process) = &self.manager.process {
            match process.channel().readable(Duration::ZERO) {
                Ok(true) => {}
                _ => return,
            }
            match process.channel().receive::<Reply>() {
                Ok((reply, fds)) => self.take_reply(reply, fds),
                // The pidfd says so as well, in a moment.
                Err(ChannelError::Closed | ChannelError::Io(_)) => return self.take_manager_exit(),
                Err(e) => {
                    log(format_args!("the nf-manager cannot be understood: {e}: killing it"));
                    if let Some(process) = &mut self.manager.process {
                        process.kill();
                    }
                    return self.take_manager_exit();
                }
            }
        }
    }

    fn take_reply(&mut self, reply: Reply, fds: Vec<OwnedFd>) {
        if let Reply::Finished = reply {
            return self.captures_finished();
        }
        let Some((expected, _)) = self.manager.expected.pop_front() else {
            return log("the nf-manager answered what nobody asked");
        };
        match (expected, reply) {
            (Expected::Started, Reply::Started { ports, notes }) => self.manager_started(ports, notes, fds),
            (Expected::Started, Reply::Failed { message, hint }) => {
                let error = RunError { message, hint };
                if let Some(process) = &mut self.manager.process {
                    process.kill();
                }
                self.manager_failed(error, Instant::now());
            }
            (Expected::Joined { slot, instance }, Reply::Done) => self.instance_joined(slot, instance),
            (Expected::Joined { slot, instance }, Reply::Failed { message, .. }) => {
                self.instance_rejected(slot, instance, &message);
            }
            (Expected::Detached, Reply::Done) => {}
            (Expected::Reconfigured { hop }, Reply::Done) => self.change_taken(hop, None, Ok(())),
            (Expected::Reconfigured { hop }, Reply::Failed { message, hint }) => {
                self.change_taken(hop, None, Err((message, hint)));
            }
            (Expected::Stats, Reply::Stats(stats)) => {
                self.stats = Some(*stats);
                self.stats_serial += 1;
            }
            (Expected::Stopped, Reply::Stopped(mut stats)) => {
                self.keep_reports(&mut stats);
                self.stats = Some(*stats);
                self.phase = Phase::Over;
            }
            (expected, Reply::Failed { message, .. }) => {
                log(format_args!("the nf-manager failed ({expected:?}): {message}"));
                if expected == Expected::Stopped {
                    self.phase = Phase::Over;
                }
            }
            (expected, _) => log(format_args!("the nf-manager gave another answer than {expected:?}")),
        }
    }

    /// Functions are gone by the time of the last statistics: what they reported before still stands.
    fn keep_reports(&self, last: &mut middlenet_plan::Stats) {
        let earlier = self.stats.iter().flat_map(|s| &s.hops).flat_map(|h| &h.instances);
        for (instance, earlier) in last.hops.iter_mut().flat_map(|h| &mut h.instances).zip(earlier) {
            if instance.report.is_null() {
                instance.report.clone_from(&earlier.report);
            }
        }
    }

    fn manager_started(&mut self, ports: Vec<PortInfo>, notes: Vec<String>, events: Vec<OwnedFd>) {
        let Some(region) = self.manager.region.take() else { return };
        for note in notes.iter().filter(|n| !self.manager.notes.contains(n)) {
            log(format_args!("note: {note}"));
        }
        self.manager.notes = notes;
        if self.manager.restarts > 0 {
            log("the nf-manager is up again");
        }
        self.manager.up = Some(Up { region, ports, events });
    }

    pub(super) fn take_manager_exit(&mut self) {
        let now = Instant::now();
        // Its last words first: they may say why.
        while let Some(process) = &self.manager.process
            && process.channel().readable(Duration::ZERO).unwrap_or(false)
        {
            let Ok((reply, fds)) = process.channel().receive::<Reply>() else { break };
            self.take_reply(reply, fds);
        }
        let Some(process) = &mut self.manager.process else { return };
        let Some(status) = process.ended() else {
            // It closed its socket but lives: it is of no more use.
            process.kill();
            return;
        };
        if matches!(self.phase, Phase::Stopping(_) | Phase::Over) {
            self.phase = Phase::Over;
            self.manager.process = None;
            return;
        }
        let reason = if self.manager.hung { "did not answer".to_owned() } else { describe_exit(status) };
        self.manager_failed(RunError::new(format!("the nf-manager {reason}")), now);
    }

    /// The manager is lost, or could not be started. At the start that ends the run; later it is started again.
    fn manager_failed(&mut self, error: RunError, now: Instant) {
        let started = self.manager.process.take().map_or(now, |p| p.started);
        self.manager.up = None;
        self.manager.region = None;
        self.manager.expected.clear();
        self.stats = None;
        self.manager.last_exit = Some(error.message.clone());
        if self.phase == Phase::Starting && self.manager.restarts == 0 {
            self.fatal = Some(error);
            return;
        }
        let retry = self.manager.backoff.next(started, now);
        self.manager.retry = Some(retry);
        self.manager.restarts += 1;
        let wait = retry.saturating_duration_since(now);
        log(format_args!("{error}; restarting {}", super::instances::when(wait)));
        self.fail_change("the nf-manager was lost meanwhile");
        self.orphan_instances();
    }
}
