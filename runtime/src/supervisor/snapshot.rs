//! The state of everything at a moment, for those who ask.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use middlenet_plan::{HopStats, MessageInstanceStats, Request as PlaneRequest};
use middlenet_sdk::DropReason;
use middlenet_sdk::protocol::ToFunction;
use serde_json::Value;

use super::instance::{Instance, Slot, Stage};
use super::plane::Expected;
use super::standing;
use super::{Phase, Supervisor};
use crate::api::{ChainStatus, CounterStatus, FunctionStatus, ProcessStatus, Response, Status};
use crate::plan::{HopId, Plane};

/// How long statistics and reports may take; whatever has not come by then is left out.
const PATIENCE: Duration = Duration::from_millis(800);

/// Somebody waits for a [`Status`].
#[derive(Debug)]
pub(super) struct StatusJob {
    /// Nobody in particular at the end of a run over captures.
    client: Option<u64>,
    pub(super) deadline: Instant,
    /// Of each data plane that is asked: statistics after this one are new enough.
    serials: Vec<(Plane, u64)>,
    reports: bool,
}

impl Supervisor {
    /// Begins to gather a status.
    pub(super) fn begin_status(&mut self, client: Option<u64>, reports: bool) {
        let serials = self.planes.iter().map(|data| (data.plane, data.serial)).collect();
        let job = StatusJob { client, deadline: Instant::now() + PATIENCE, serials, reports };
        for plane in Plane::ALL {
            if self.planes.get(plane).is_some_and(|data| data.is_up() && !data.expects(Expected::Stats)) {
                self.ask(plane, &PlaneRequest::Stats, &[], Expected::Stats);
            }
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
        let planes = &self.planes;
        let is_new = |(plane, serial): &(Plane, u64)| {
            planes.get(*plane).is_none_or(|data| !data.is_up() || data.serial > *serial)
        };
        let done =
            |job: &StatusJob| now >= job.deadline || (job.serials.iter().all(is_new) && !(job.reports && reporting));
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
        let mut data_plane = self.stats.clone();
        for (hop, stats) in data_plane.iter_mut().flat_map(|d| d.hops.iter_mut().enumerate()) {
            self.name_drops(HopId::new(Plane::Packets, hop), stats);
        }
        let chains = self.plan.drawn_chains().into_iter();
        let layer = |plane: Plane| plane.layer().name().to_owned();
        let chains = chains.map(|c| ChainStatus { name: c.name, layer: layer(c.plane), lines: c.lines });
        let mut notes = self.plan.runtime.notes.clone();
        notes.extend(self.planes.iter().flat_map(|data| data.notes.clone()));
        let unused = || ProcessStatus { state: "unused".into(), ..ProcessStatus::default() };
        Status {
            name: self.plan.name.clone(),
            manifest: self.setup.manifest.clone(),
            pid: std::process::id(),
            state: self.state().into(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            manager: self.planes.get(Plane::Packets).map_or_else(unused, |data| data.status()),
            broker: self.planes.get(Plane::Messages).map(|data| data.status()),
            chains: chains.collect(),
            functions: self.plan.hops().into_iter().flat_map(|hop| self.functions_of(hop)).collect(),
            data_plane,
            messages: self.messages.clone(),
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
    fn name_drops(&self, hop: HopId, stats: &mut HopStats) {
        let slots = self.slots.iter().filter(|s| s.plan.hop == hop);
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

    /// A function's processes, each by itself, or an inline function as a whole.
    fn functions_of(&self, id: HopId) -> Vec<FunctionStatus> {
        let Some(hop) = self.plan.hop(id) else { return Vec::new() };
        let instances = self.instance_stats(id);
        let base = FunctionStatus {
            hop: id.hop,
            layer: id.plane.layer().name().into(),
            chain: hop.chain.to_owned(),
            name: hop.name.to_owned(),
            function: hop.function.to_owned(),
            ..FunctionStatus::default()
        };
        if hop.inline {
            let whole = Whole::of(instances);
            return vec![FunctionStatus {
                placement: "inline".into(),
                process: self.planes.get(id.plane).map(|data| data.status()).unwrap_or_default(),
                cores: self.plan.workers(id.plane).to_vec(),
                counters: whole.counters,
                report: whole.report,
                held_pkts: whole.held,
                ..base
            }];
        }
        let slots = self.slots.iter().filter(|s| s.plan.hop == id);
        let status = |slot: &Slot| {
            let current = slot.current.as_ref();
            let seen = current.map(|i| standing::of(i.process.pid())).unwrap_or_default();
            FunctionStatus {
                placement: "process".into(),
                replica: slot.plan.replica,
                process: process_status(slot),
                cores: slot.plan.cores.clone(),
                user: seen.user,
                confined: seen.confined,
                counters: current.map(counters).unwrap_or_default(),
                report: current.map(|i| i.report.clone()).unwrap_or(Value::Null),
                held_pkts: instances.get(usize::from(slot.plan.replica)).map_or(0, |i| i.held),
                ..base.clone()
            }
        };
        slots.map(status).collect()
    }

    /// What the data plane last said of a hop's instances.
    fn instance_stats(&self, id: HopId) -> Vec<MessageInstanceStats> {
        let at = usize::from(id.hop);
        match id.plane {
            Plane::Messages => {
                self.messages.as_ref().and_then(|s| s.hops.get(at)).map(|h| h.instances.clone()).unwrap_or_default()
            }
            Plane::Packets => {
                let instances = self.stats.iter().filter_map(|s| s.hops.get(at)).flat_map(|h| &h.instances);
                let common = |i: &middlenet_plan::InstanceStats| MessageInstanceStats {
                    attached: i.attached,
                    held: i.held_pkts,
                    counters: i.counters.clone(),
                    report: i.report.clone(),
                };
                instances.map(common).collect()
            }
        }
    }
}

/// An inline function, of which every worker calls an instance.
#[derive(Debug, Default, PartialEq)]
struct Whole {
    held: u64,
    counters: Vec<CounterStatus>,
    report: Value,
}

impl Whole {
    /// Adds up what its instances say. While they are being replaced, some may have other counters than the rest: each has its place by its
    /// name.
    fn of(instances: Vec<MessageInstanceStats>) -> Self {
        let mut whole = Self::default();
        let mut reports = Vec::new();
        for instance in instances {
            whole.held += instance.held;
            for (info, value) in &instance.counters {
                match whole.counters.iter_mut().find(|sum| sum.name == info.name) {
                    Some(sum) => sum.value = sum.value.wrapping_add(*value),
                    None => whole.counters.push(counter(info, *value)),
                }
            }
            reports.push(instance.report);
        }
        whole.report = match reports.len() {
            1 => reports.remove(0),
            _ if reports.iter().all(Value::is_null) => Value::Null,
            _ => Value::Array(reports),
        };
        whole
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

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_sdk::{CounterInfo, Kind};
    use serde_json::json;

    fn instance(held: u64, counters: &[(&str, Kind, u64)], report: Value) -> MessageInstanceStats {
        let info = |name: &str, kind| CounterInfo { name: name.into(), help: format!("{name} of it"), kind };
        let counters = counters.iter().map(|(name, kind, value)| (info(name, *kind), *value)).collect();
        MessageInstanceStats { attached: true, held, counters, report }
    }

    fn values(whole: &Whole) -> Vec<(&str, Kind, u64)> {
        whole.counters.iter().map(|counter| (counter.name.as_str(), counter.kind, counter.value)).collect()
    }

    #[test]
    fn an_inline_function_on_one_worker_is_its_instance() {
        let seen = [("seen", Kind::Counter, 4), ("flows", Kind::Gauge, 2)];
        let whole = Whole::of(vec![instance(3, &seen, json!({ "top": [1] }))]);
        assert_eq!((whole.held, values(&whole)), (3, seen.to_vec()));
        assert_eq!(whole.report, json!({ "top": [1] }));
        assert_eq!(whole.counters[0].help, "seen of it");
        // The data plane is down.
        assert_eq!(Whole::of(Vec::new()), Whole::default());
    }

    #[test]
    fn an_inline_function_on_several_workers_is_all_of_its_instances() {
        let first = [("seen", Kind::Counter, 4), ("flows", Kind::Gauge, 2)];
        let second = [("seen", Kind::Counter, 30), ("flows", Kind::Gauge, 0)];
        // It was replaced by one of another configuration a moment ago.
        let third = [("flows", Kind::Gauge, 7), ("logged", Kind::Counter, 1)];
        let reports = [json!({ "top": [1] }), Value::Null, json!({ "top": [] })];
        let instances = [&first[..], &second, &third].into_iter().zip(reports.clone());
        let whole = Whole::of(instances.map(|(counters, report)| instance(5, counters, report)).collect());
        let sums = [("seen", Kind::Counter, 34), ("flows", Kind::Gauge, 9), ("logged", Kind::Counter, 1)];
        assert_eq!((whole.held, values(&whole)), (15, sums.to_vec()));
        assert_eq!(whole.report, json!(reports), "worker by worker");
        // Nobody asked for reports.
        let silent = Whole::of(vec![instance(0, &first, Value::Null), instance(0, &second, Value::Null)]);
        assert_eq!((silent.report, silent.counters[0].value), (Value::Null, 34));
    }
}
