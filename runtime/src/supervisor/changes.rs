//! Changes to a running chain: configurations, and instances that take over from others.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use middlenet_fast_path::Shape;
use middlenet_plan::Request as PlaneRequest;
use middlenet_sdk::protocol::ToFunction;
use serde_json::Value;

use super::instance::Stage;
use super::plane::Expected;
use super::{Phase, Supervisor, log};
use crate::api::Response;
use crate::check::{self, Traffic};
use crate::diagnostic::Refusal;
use crate::domain::Ids;
use crate::machine::{Description, Surroundings};
use crate::manifest::Manifest;
use crate::plan::{Change, Difference, HopId, Piece, Plane};

/// How long a change may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// The change under way; there is one at a time.
#[derive(Debug)]
pub(super) struct Job {
    client: u64,
    pub(super) deadline: Instant,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Reconfigure {
        changes: Vec<Change>,
        /// What was there before, in the same order, to go back to.
        before: Vec<Piece>,
        /// Who has not answered.
        awaited: Vec<Taker>,
        refusal: Option<(String, Option<String>)>,
    },
    Replace {
        label: String,
        /// The successors.
        awaited: Vec<u64>,
    },
}

impl Job {
    /// Somebody answered, who may not be one of those awaited.
    fn taken(&mut self, taker: Taker, answer: Result<(), (String, Option<String>)>) {
        let Kind::Reconfigure { awaited, refusal, .. } = &mut self.kind else { return };
        let Some(place) = awaited.iter().position(|a| *a == taker) else { return };
        awaited.remove(place);
        if let Err(reason) = answer {
            refusal.get_or_insert(reason);
        }
    }
}

/// Who takes which change. What is brought back is a change of its own, so that a late answer to it, or to the change that was
/// given up for it, is not taken for one to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taker {
    /// The number of the change.
    pub(super) change: u64,
    pub(super) who: Who,
}

/// Who takes a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// An instance of a hop; none for the data plane, where the function is inline.
    Function(HopId, Option<u64>),
    /// The nf-manager, for this port.
    Port(u8),
}

/// A manifest's surroundings while a run goes on: external binaries were asked at its start, and judge for themselves now.
struct Live {
    folder: PathBuf,
    /// What fast paths of functions can hold, by program.
    fast_paths: Vec<(String, Shape)>,
}

impl Surroundings for Live {
    fn folder(&self) -> &Path {
        &self.folder
    }

    fn user(&self, user: &str) -> Option<Ids> {
        crate::machine::user(user)
    }

    fn describe(&self, program: &Path) -> Result<Description, (String, Option<String>)> {
        let name = program.display().to_string();
        let fast_path = self.fast_paths.iter().find(|(of, _)| *of == name).map(|(_, shape)| *shape);
        Ok(Description { name, layer: None, schema: Value::Bool(true), fast_path })
    }

    fn network(&self) -> Option<middlenet_sriov::Inventory> {
        middlenet_sriov::discover(&middlenet_sriov::Linux).ok()
    }
}

impl Supervisor {
    /// Begins to apply a manifest; an answer that is there at once is returned.
    pub(super) fn apply(&mut self, client: u64, manifest: &str, folder: &str) -> Option<Response> {
        if let Some(busy) = self.busy() {
            return Some(busy);
        }
        let hops = self.plan.manager.iter().flat_map(|manager| &manager.hops);
        let fast_paths = hops.filter_map(|hop| Some((hop.function.clone(), hop.fast_path?.shape))).collect();
        let surroundings = Live { folder: folder.into(), fast_paths };
        let registry = middlenet_functions::registry();
        let planned = Manifest::parse(manifest)
            .map_err(|d| vec![d])
            .and_then(|m| check::plan(&m, registry, &self.setup.machine, &surroundings, &Traffic::Ports));
        let plan = match planned {
            Ok(plan) => plan,
            Err(problems) => {
                let message = Refusal::new("the new manifest", manifest, problems).plain();
                return Some(Response::Failed { message, hint: None });
            }
        };
        let Difference { changes, structural } = Difference::between(&self.plan, &plan);
        if !structural.is_empty() {
            return Some(Response::NeedsRestart { differences: structural });
        }
        if changes.is_empty() {
            return Some(Response::Applied { changed: Vec::new() });
        }
        self.change += 1;
        let before = changes.iter().map(|change| self.current(&change.piece)).collect();
        let awaited = changes.iter().flat_map(|change| self.put(&change.piece)).collect();
        let kind = Kind::Reconfigure { changes, before, awaited, refusal: None };
        self.job = Some(Job { client, deadline: Instant::now() + PATIENCE, kind });
        None
    }

    /// What runs now in the place of a piece.
    fn current(&self, piece: &Piece) -> Piece {
        let mut current = piece.clone();
        match &mut current {
            Piece::Config { hop, config, peers } => {
                let now = self.plan.hop(*hop).map(|hop| (hop.config.clone(), hop.peers.to_vec()));
                (*config, *peers) = now.unwrap_or_default();
            }
            Piece::Steering { port, steering } => {
                let old = self.plan.steering(*port).cloned();
                *steering = old.unwrap_or_else(|| steering.clone());
            }
        }
        current
    }

    /// Puts a piece in its place; returns who will answer.
    fn put(&mut self, piece: &Piece) -> Vec<Taker> {
        match piece {
            Piece::Config { hop, config, peers } => {
                self.plan.set_peers(*hop, peers);
                self.reconfigure(*hop, config)
            }
            Piece::Steering { port, steering } => {
                self.plan.set_steering(*port, steering);
                let request = PlaneRequest::Steer { port: *port, steering: steering.clone() };
                let taker = self.taker(Who::Port(*port));
                self.ask(Plane::Packets, &request, &[], Expected::Changed(taker));
                vec![taker]
            }
        }
    }

    /// Sends a configuration to all instances of a hop; returns who will answer. Those started later get it as well.
    fn reconfigure(&mut self, hop: HopId, config: &Value) -> Vec<Taker> {
        self.plan.set_config(hop, config);
        if self.plan.hop(hop).is_some_and(|h| h.inline) {
            let request = PlaneRequest::Reconfigure { hop: hop.hop, config: config.clone() };
            let taker = self.taker(Who::Function(hop, None));
            self.ask(hop.plane, &request, &[], Expected::Changed(taker));
            return vec![taker];
        }
        let mut asked = Vec::new();
        let change = self.change;
        for slot in self.slots.iter_mut().filter(|s| s.plan.hop == hop) {
            for instance in slot.current.iter_mut().chain(&mut slot.successor) {
                match instance.stage {
                    // It will be started with what the plan says then.
                    Stage::Spawned | Stage::Leaving => {}
                    Stage::Running => {
                        if instance.tell(&ToFunction::Reconfigure { config: config.clone(), change }, &[]) {
                            asked.push(Taker { change, who: Who::Function(hop, Some(instance.id)) });
                        }
                    }
                    // On its way with the old configuration: let it start over.
                    _ => instance.kill("was started with a configuration that has changed since"),
                }
            }
        }
        asked
    }

    /// Somebody who takes the present change.
    pub(super) fn taker(&self, who: Who) -> Taker {
        Taker { change: self.change, who }
    }

    /// One of those awaited answered.
    pub(super) fn change_taken(&mut self, taker: Taker, answer: Result<(), (String, Option<String>)>) {
        if let Some(job) = &mut self.job {
            job.taken(taker, answer);
        }
    }

    /// Begins to replace the processes of a function; an answer that is there at once is returned.
    pub(super) fn replace(&mut self, client: u64, chain: &str, function: &str) -> Option<Response> {
        if let Some(busy) = self.busy() {
            return Some(busy);
        }
        let label = format!("{chain}/{function}");
        let Some(hop) = self.plan.find_hop(chain, function) else {
            return Some(Response::failed(format!("there is no function `{label}`")));
        };
        if self.plan.hop(hop).is_some_and(|h| h.inline) {
            let message = format!("`{label}` runs inline: it has no process to replace");
            let hint = Some("change its configuration with `middlenet apply`, or place it in a process".into());
            return Some(Response::Failed { message, hint });
        }
        let slots: Vec<usize> = (0..self.slots.len()).filter(|&s| self.slots[s].plan.hop == hop).collect();
        if let Some(&down) = slots.iter().find(|&&s| !self.slots[s].is_running()) {
            return Some(Response::failed(format!("{} is not running", self.slots[down].plan.label)));
        }
        let mut awaited = Vec::new();
        for at in slots {
            match self.spawn(at) {
                Ok(successor) => {
                    awaited.push(successor.id);
                    self.slots[at].successor = Some(successor);
                }
                Err(e) => {
                    self.job = Some(Job { client, deadline: Instant::now(), kind: Kind::Replace { label, awaited } });
                    self.fail_change(&e.message);
                    return None;
                }
            }
        }
        self.job = Some(Job { client, deadline: Instant::now() + PATIENCE, kind: Kind::Replace { label, awaited } });
        None
    }

    fn busy(&self) -> Option<Response> {
        if self.phase != Phase::Running {
            return Some(Response::failed("the run is starting or ending: nothing can be changed now"));
        }
        if let Some(down) = self.planes.iter().find(|data| !data.is_up()) {
            let message = format!("the {} is restarting: nothing can be changed now", down.plane.process());
            return Some(Response::failed(message));
        }
        self.job.is_some().then(|| Response::failed("another change is under way"))
    }

    /// Ends the change under way if it is done, or is taking too long.
    pub(super) fn advance_job(&mut self, now: Instant) {
        let Some(job) = &mut self.job else { return };
        match &mut job.kind {
            Kind::Reconfigure { awaited, refusal, .. } if awaited.is_empty() => match refusal.take() {
                Some((message, hint)) => self.revert(message, hint),
                None => self.finish_reconfigure(),
            },
            Kind::Replace { awaited, .. } => {
                let current: Vec<(u64, u32)> = self
                    .slots
                    .iter()
                    .filter_map(|s| s.current.as_ref().filter(|i| i.stage == Stage::Running))
                    .map(|i| (i.id, i.process.pid()))
                    .collect();
                let pids: Vec<u32> = awaited
                    .iter()
                    .filter_map(|id| current.iter().find(|(c, _)| c == id).map(|(_, pid)| *pid))
                    .collect();
                if pids.len() == awaited.len() {
                    self.finish_replace(pids);
                }
            }
            Kind::Reconfigure { .. } => {}
        }
        if self.job.as_ref().is_some_and(|job| now >= job.deadline) {
            self.fail_change("it took too long");
        }
    }

    fn finish_reconfigure(&mut self) {
        let Some(Job { client, kind: Kind::Reconfigure { changes, .. }, .. }) = self.job.take() else { return };
        let changed: Vec<String> = changes.into_iter().map(|c| c.label).collect();
        log(format_args!("new configuration in {}", changed.join(", ")));
        self.answer(client, &Response::Applied { changed });
    }

    fn finish_replace(&mut self, pids: Vec<u32>) {
        let Some(Job { client, kind: Kind::Replace { label, .. }, .. }) = self.job.take() else { return };
        let list: Vec<String> = pids.iter().map(u32::to_string).collect();
        log(format_args!("{label} is now process {}", list.join(", ")));
        self.answer(client, &Response::Replaced { pids });
    }

    /// Ends the change under way as failed.
    pub(super) fn fail_change(&mut self, reason: &str) {
        match self.job.as_ref().map(|job| &job.kind) {
            None => {}
            Some(Kind::Reconfigure { .. }) => self.revert(reason.to_owned(), None),
            Some(Kind::Replace { .. }) => {
                let Some(Job { client, .. }) = self.job.take() else { return };
                for slot in &mut self.slots {
                    if let Some(successor) = &mut slot.successor {
                        successor.kill("is not needed any more");
                    }
                }
                self.answer(client, &Response::failed(reason));
            }
        }
    }

    /// Brings the old configurations back, so that what runs is what the plan says.
    fn revert(&mut self, message: String, hint: Option<String>) {
        let Some(Job { client, kind: Kind::Reconfigure { before, .. }, .. }) = self.job.take() else { return };
        // Nobody waits for these answers: what is brought back was in use a moment ago.
        self.change += 1;
        before.iter().for_each(|piece| drop(self.put(piece)));
        self.answer(client, &Response::Failed { message, hint });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second of two changes is refused, whatever the first one, or the way back from it, is answered in the meantime.
    #[test]
    fn each_change_has_its_own_answers() {
        let ports = |change| [0, 1].map(|port| Taker { change, who: Who::Port(port) });
        let [first, way_back, second] = [ports(1), ports(2), ports(3)];
        let kind =
            Kind::Reconfigure { changes: Vec::new(), before: Vec::new(), awaited: second.to_vec(), refusal: None };
        let mut job = Job { client: 0, deadline: Instant::now(), kind };
        for late in first.into_iter().chain(way_back) {
            job.taken(late, Ok(()));
        }
        job.taken(second[0], Err(("no".into(), None)));
        let Kind::Reconfigure { awaited, refusal, .. } = &job.kind else { panic!("{job:?}") };
        assert_eq!((awaited.as_slice(), refusal.as_ref()), (&second[1..], Some(&("no".into(), None))));
    }
}
