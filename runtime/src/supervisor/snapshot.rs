//! The state of everything at a moment, for those who ask.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use middlenet_plan::{HopStats, Placement, Request as ManagerRequest};
use middlenet_sdk::DropReason;
use middlenet_sdk::protocol::ToFunction;
use serde_json::Value;

use super::instance::{Instance, Slot, Stage};
use super::manager::Expected;
use super::{Phase, Supervisor};
use crate::api::{ChainStatus, CounterStatus, FunctionStatus, ProcessStatus, Response, Status};

/// How long statistics and reports may take; whatever has not come by then is left out.
const PATIENCE: Duration = Duration::from_millis(800);

/// Somebody waits for a [`Status`].
#[derive(Debug)]
pub(super) struct StatusJob {
    /// Nobody in particular at the end of a run over captures.
    client: Option<u64>,
    pub(super) deadline: Instant,
    /// Statistics after this one are new enough.
    serial: u64,
    reports: bool,
}

impl Supervisor {
    /// Begins to gather a status.
    pub(super) fn begin_status(&mut self, client: Option<u64>, reports: bool) {
        let job = StatusJob { client, deadline: Instant::now() + PATIENCE, serial: self.stats_serial, reports };
        if self.manager.is_up() && !self.manager.expects(Expected::Stats) {
            self.ask_manager(&ManagerRequest::Stats, &[], Expected::Stats);
        }
        if reports {
            let running = self.slots.iter_mut().filter_map(|s| s.current.as_mut());
            // One question at a time: a function that does not answer must not fill its socket.
            for instance in running.filter(|i| i.stage == Stage::Running && !i.reporting) {
                instance.reporting = instance.tell(&ToFunction::Report, &[]);
            }
        }
        self.status_jobs.push(job);
    }

    pub(super) fn advance_status_jobs(&mut self, now: Instant) {
        let reporting = self.slots.iter().filter_map(|s| s.current.as_ref()).any(|i| i.reporting);
        let up = self.manager.is_up();
        let serial = self.stats_serial;
        let done =
            |job: &StatusJob| now >= job.deadline || ((!up || serial > job.serial) && !(job.reports && reporting));
        let (ready, waiting) = std::mem::take(&mut self.status_jobs).into_iter().partition(done);
        self.status_jobs = waiting;
        let ready: Vec<StatusJob> = ready;
        if ready.is_empty() {
            return;
        }
        let status = self.status();
        for job in ready {
            match job.client {
                Some(client) => self.answer(client, &Response::Status(Box::new(status.clone()))),
                None => self.stop(),
            }
        }
    }

    /// The captures are read and every packet has left: the last reports are gathered, then the run ends.
    pub(super) fn captures_finished(&mut self) {
        self.begin_status(None, true);
    }

    /// What is known now.
    pub(super) fn status(&self) -> Status {
        let plan = &self.plan.manager;
        let mut data_plane = self.stats.clone();
        for hop in data_plane.iter_mut().flat_map(|d| d.hops.iter_mut().enumerate()) {
            self.name_drops(hop.0, hop.1);
        }
        let chains = plan.chains.iter().enumerate();
        let chains = chains.map(|(id, c)| ChainStatus { name: c.name.clone(), lines: self.plan.chain_lines(id) });
        let mut notes = self.plan.runtime.notes.clone();
        notes.extend(self.manager.notes.iter().cloned());
        Status {
            name: plan.name.clone(),
            manifest: self.setup.manifest.clone(),
            pid: std::process::id(),
            state: self.state().into(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            manager: self.manager.status(),
            chains: chains.collect(),
            functions: (0..plan.hops.len()).flat_map(|hop| self.functions_of(hop)).collect(),
            data_plane,
            notes,
        }
    }

    fn state(&self) -> &'static str {
        match self.phase {
            Phase::Starting => "starting",
            Phase::Running if self.all_running() => "running",
            Phase::Running => "degraded",
            Phase::Stopping(_) => "stopping",
            Phase::Over => "stopped",
        }
    }

    /// The manager numbers a function's own drop reasons; their names are known here.
    fn name_drops(&self, hop: usize, stats: &mut HopStats) {
        let slots = self.slots.iter().filter(|s| usize::from(s.plan.hop) == hop);
        let Some(instance) = slots.filter_map(|s| s.current.as_ref()).find(|i| !i.drop_reasons.is_empty()) else {
            return;
        };
        for (_, reason, _) in &mut stats.drops {
            let number = reason.strip_prefix('#').and_then(|n| n.parse::<usize>().ok());
            let own = number.and_then(|n| n.checked_sub(usize::from(DropReason::FIRST_OWN)));
            if let Some(info) = own.and_then(|i| instance.drop_reasons.get(i)) {
                reason.clone_from(&info.name);
            }
        }
    }

    fn functions_of(&self, hop: usize) -> Vec<FunctionStatus> {
        let plan = &self.plan.manager.hops[hop];
        let stats = self.stats.as_ref().and_then(|s| s.hops.get(hop));
        let base = FunctionStatus {
            hop: u16::try_from(hop).unwrap_or(u16::MAX),
            chain: self.plan.manager.chains.get(usize::from(plan.chain)).map(|c| c.name.clone()).unwrap_or_default(),
            name: plan.name.clone(),
            function: plan.function.clone(),
            ..FunctionStatus::default()
        };
        if plan.placement == Placement::Inline {
            let instance = stats.and_then(|s| s.instances.first());
            let counters = instance.map(|i| i.counters.as_slice()).unwrap_or_default();
            return vec![FunctionStatus {
                placement: "inline".into(),
                process: self.manager.status(),
                cores: self.plan.manager.workers.clone(),
                counters: counters.iter().map(|(info, value)| counter(info, *value)).collect(),
                report: instance.map(|i| i.report.clone()).unwrap_or_default(),
                held_pkts: instance.map_or(0, |i| i.held_pkts),
                ..base
            }];
        }
        let slots = self.slots.iter().filter(|s| usize::from(s.plan.hop) == hop);
        let status = |slot: &Slot| {
            let replica = usize::from(slot.plan.replica);
            let current = slot.current.as_ref();
            FunctionStatus {
                placement: "process".into(),
                replica: slot.plan.replica,
                process: process_status(slot),
                cores: slot.plan.cores.clone(),
                counters: current.map(counters).unwrap_or_default(),
                report: current.map(|i| i.report.clone()).unwrap_or(Value::Null),
                held_pkts: stats.and_then(|s| s.instances.get(replica)).map_or(0, |i| i.held_pkts),
                ..base.clone()
            }
        };
        slots.map(status).collect()
    }
}

fn counter(info: &middlenet_sdk::CounterInfo, value: u64) -> CounterStatus {
    CounterStatus { name: info.name.clone(), help: info.help.clone(), kind: info.kind, value }
}

fn counters(instance: &Instance) -> Vec<CounterStatus> {
    let Some(control) = &instance.control else { return Vec::new() };
    let values = control.counters().iter().map(|c| c.load(Ordering::Relaxed));
    instance.counters.iter().zip(values).map(|(info, value)| counter(info, value)).collect()
}

fn process_status(slot: &Slot) -> ProcessStatus {
    let state = match slot.current.as_ref().map(|i| i.stage) {
        Some(Stage::Running) => "running",
        Some(_) => "starting",
        None => "restarting",
    };
    ProcessStatus {
        pid: slot.current.as_ref().map(|i| i.process.pid()),
        state: state.into(),
        restarts: slot.restarts,
        last_exit: slot.last_exit.clone(),
    }
}
