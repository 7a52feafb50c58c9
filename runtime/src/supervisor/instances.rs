//! Function processes: their way to the data plane, their deaths, their successors.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use middlenet_plan::{Declared, Request};
use middlenet_sdk::protocol::{FromFunction, Start, StartFastPath, ToFunction, VERSION};
use middlenet_sdk::{ChannelError, PortInfo, STEERED};
use middlenet_shm::ControlGeometry;

use super::changes::{Taker, Who};
use super::instance::{Instance, Stage};
use super::plane::Expected;
use super::process::{Process, describe_exit};
use super::{Phase, RunError, Supervisor, log};
use crate::confine::{self, Confinement};
use crate::plan::{Hop, Plane};

/// Messages of an instance that are taken in a row.
const MESSAGES_PER_TURN: usize = 64;
/// Why an instance is started anew that has done no wrong.
const PORTS_CHANGED: &str = "has ports that changed";
const FAST_PATH_CHANGED: &str = "has a fast path that was made anew";
const FAST_PATH_TAKEN: &str = "had its fast path taken over by a successor that ended";

/// How often heartbeats are looked at, at most and at least.
const LOOK_INTERVALS: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(250));

impl Supervisor {
    /// Starts what is to be started, and moves each instance on as far as it can go.
    pub(super) fn advance_instances(&mut self, now: Instant) {
        if matches!(self.phase, Phase::Stopping(_) | Phase::Over) {
            return;
        }
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.current.is_none() && slot.retry.is_none_or(|retry| now >= retry) {
                slot.retry = None;
                match self.spawn(at) {
                    Ok(instance) => self.slots[at].current = Some(instance),
                    Err(error) => self.spawn_failed(at, error, now),
                }
            }
            for id in self.slots[at].instances().map(|i| i.id).collect::<Vec<_>>() {
                self.advance_instance(at, id, now);
            }
        }
    }

    pub(super) fn spawn(&mut self, at: usize) -> Result<Instance, RunError> {
        let slot = &self.slots[at];
        let fail =
            |e: &dyn std::fmt::Display| RunError::new(format!("cannot start the function `{}`: {e}", slot.plan.label));
        let maps = self.plan.fast_path(slot.plan.hop).is_some();
        let confinement = Confinement { user: self.setup.user, files: slot.plan.files.clone(), maps };
        let command =
            confine::command(&self.setup.middlenet, &slot.plan.program, &confinement).map_err(|e| fail(&e))?;
        let process = Process::spawn(command).map_err(|e| fail(&e))?;
        self.next_instance += 1;
        Ok(Instance::new(self.next_instance, process))
    }

    fn spawn_failed(&mut self, at: usize, error: RunError, now: Instant) {
        if self.phase == Phase::Starting {
            self.fatal = Some(error);
            return;
        }
        let slot = &mut self.slots[at];
        let retry = slot.backoff.next(now, now);
        log(format_args!("{error}; trying again {}", when(retry.saturating_duration_since(now))));
        slot.retry = Some(retry);
        slot.last_exit = Some(error.message);
    }

    /// Ends the instances that were told of ports which are others now; those that come after them are told anew.
    pub(super) fn restart_those_with_old_ports(&mut self, plane: Plane) {
        let Some(up) = self.planes.up(plane) else { return };
        for slot in self.slots.iter_mut().filter(|slot| slot.plan.hop.plane == plane) {
            let ports: Vec<PortInfo> = up.ports.iter().filter(|p| slot.plan.ports.contains(&p.id)).cloned().collect();
            let told = |instance: &&mut Instance| !matches!(instance.stage, Stage::Spawned | Stage::Leaving);
            let instances = slot.current.iter_mut().chain(&mut slot.successor).filter(told);
            instances.filter(|instance| instance.ports != ports).for_each(|instance| instance.kill(PORTS_CHANGED));
        }
    }

    fn advance_instance(&mut self, at: usize, id: u64, now: Instant) {
        let hop = self.slots[at].plan.hop;
        let Some(up) = self.planes.up(hop.plane) else { return };
        let slot = &mut self.slots[at];
        let Some(Hop { name, config, outputs, steering, skmsg, .. }) = self.plan.hop(hop) else { return };
        let plan = &slot.plan;
        let ports: Vec<PortInfo> = up.ports.iter().filter(|p| plan.ports.contains(&p.id)).cloned().collect();
        let maps = up.fast_paths.iter().find(|maps| hop.plane == Plane::Packets && maps.hop == hop.hop);
        let mode = self.plan.fast_path(hop).map(|fast_path| fast_path.mode);
        let start = Start {
            version: VERSION,
            name: name.to_owned(),
            config: config.clone(),
            ports: ports.clone(),
            outputs: outputs.into_iter().map(str::to_owned).collect(),
            steering: steering.into_iter().map(str::to_owned).collect(),
            fast_path: maps.zip(mode).map(|(maps, mode)| StartFastPath {
                mode,
                maps: maps.kinds.clone(),
                instance: slot.plan.replica,
            }),
            wait: plan.wait,
            cores: plan.cores.clone(),
            shares_core: plan.shares_core,
            logical_clock: hop.plane == Plane::Packets && self.plan.is_lockstep(),
        };
        let restarts = self.planes.get(hop.plane).map_or(0, |data| data.restarts);
        let label = plan.label.clone();
        let Some(instance) = slot.instance_mut(id) else { return };
        if instance.deadline().is_some_and(|deadline| now >= deadline) {
            let what = format!("did not get beyond {:?} in time", instance.stage).to_lowercase();
            instance.kill(what);
            return;
        }
        match instance.stage {
            Stage::Spawned => {
                instance.ports = ports;
                instance.maps_of = start.fast_path.is_some().then_some(restarts);
                let fds: Vec<_> = maps.iter().flat_map(|maps| &maps.maps).map(AsFd::as_fd).collect();
                let sent = instance.tell(&ToFunction::Start(start), &fds);
                instance.enter(Stage::Starting);
                if !sent && !instance.leaving {
                    instance.kill("takes no messages");
                }
            }
            // A restarted manager, or an interface that came back, may have other link addresses: a function must not keep the old ones.
            Stage::Ready if instance.ports != ports => instance.kill(PORTS_CHANGED),
            // Its fast path went with the manager that had made it.
            Stage::Ready if instance.maps_of != start.fast_path.is_some().then_some(restarts) => {
                instance.kill(FAST_PATH_CHANGED);
            }
            Stage::Ready => {
                let geometry = ControlGeometry {
                    workers: u16::try_from(self.plan.workers(hop.plane).len()).unwrap_or(u16::MAX),
                    slots: self.plan.ring_slots(hop.plane),
                };
                let buffer_bytes = self.plan.buffer_bytes(hop.plane);
                if let Err(reason) = instance.attach(&label, up, geometry, buffer_bytes, skmsg) {
                    instance.kill(reason);
                }
            }
            _ => {}
        }
    }

    pub(super) fn take_function_messages(&mut self, at: usize, id: u64) {
        // One that writes without end waits for its next turn like everybody.
        for _ in 0..MESSAGES_PER_TURN {
            let Some(instance) = self.slots[at].instance_mut(id) else { return };
            if instance.deaf
                || instance.steering
                || !instance.process.channel().readable(Duration::ZERO).unwrap_or(false)
            {
                return;
            }
            match instance.process.channel().receive::<FromFunction>() {
                Ok((message, _)) => self.take_function_message(at, id, message),
                // It is about to exit, perhaps without having read everything; its pidfd says when.
                Err(ChannelError::Closed | ChannelError::Io(_)) => instance.deaf = true,
                Err(e) => {
                    instance.deaf = true;
                    instance.kill(format!("could not be understood: {e}"));
                }
            }
        }
    }

    fn take_function_message(&mut self, at: usize, id: u64, message: FromFunction) {
        let slot = &mut self.slots[at];
        let hop = slot.plan.hop;
        let Some(instance) = slot.instance_mut(id) else { return };
        match (message, instance.stage) {
            (
                FromFunction::Ready { version, counters, drop_reasons, interests, upstreams, upstreams_alike, .. },
                Stage::Starting,
            ) => {
                if version != VERSION {
                    instance.kill(format!("was built for protocol {version}, but this is {VERSION}: build it anew"));
                    return;
                }
                (instance.counters, instance.drop_reasons) = (counters, drop_reasons);
                instance.declared = Declared { interests, upstreams, alike: upstreams_alike };
                instance.enter(Stage::Ready);
                self.advance_instance(at, id, Instant::now());
            }
            (FromFunction::Attached, Stage::Attaching) => self.join(at, id),
            (FromFunction::Refused { message, hint, .. }, Stage::Starting) => {
                let hint = hint.map(|h| format!(" ({h})")).unwrap_or_default();
                instance.kill(format!("refused its configuration: {message}{hint}"));
            }
            (FromFunction::Refused { change: None, .. }, _) => {}
            (FromFunction::Refused { message, hint, change: Some(change) }, _) => {
                self.change_taken(Taker { change, who: Who::Function(hop, Some(id)) }, Err((message, hint)));
            }
            (FromFunction::Reconfigured { change }, _) => {
                self.change_taken(Taker { change, who: Who::Function(hop, Some(id)) }, Ok(()));
            }
            (FromFunction::Steer { mut flows, unheard }, _) => {
                flows.truncate(STEERED);
                // One without targets in the manifest asks in vain.
                let may = self.plan.hop(hop).is_some_and(|h| !h.steering.is_empty());
                let up = may && self.planes.get(hop.plane).is_some_and(|data| data.is_up());
                let request = Request::SteerFlows { hop: hop.hop, flows, unheard };
                let asked = up && self.ask(hop.plane, &request, &[], Expected::Steered { slot: at, instance: id });
                if let Some(instance) = self.slots[at].instance_mut(id) {
                    instance.steering = asked;
                }
            }
            (FromFunction::Dial { peer }, _) => self.dial(at, id, peer),
            (FromFunction::Report { value }, _) => {
                instance.reporting = false;
                instance.report = value;
            }
            // An answer to a step that the data plane's death undid.
            (FromFunction::Attached, _) => {}
            (FromFunction::Ready { .. }, _) => instance.kill("said `ready` out of turn"),
        }
    }

    /// Tells the data plane of an instance that has its memory.
    fn join(&mut self, at: usize, id: u64) {
        let slot = &mut self.slots[at];
        let (hop, replica) = (slot.plan.hop, slot.plan.replica);
        let Some(instance) = slot.instance_mut(id) else { return };
        let Some(control) = &instance.control else { return };
        let Ok(control) = control.fd().try_clone_to_owned() else {
            return instance.kill("no descriptor was left for it");
        };
        let declared = (hop.plane == Plane::Messages).then(|| instance.declared.clone());
        // The socket closes here when the broker has it, so that it really closes when the function dies.
        let socket = instance.socket.take();
        instance.enter(Stage::Joining);
        let mut fds = vec![control.as_fd()];
        fds.extend(socket.iter().flat_map(|s| [s.function.as_fd(), s.broker.as_fd()]));
        let request = Request::Attach { hop: hop.hop, replica, declared };
        self.ask(hop.plane, &request, &fds, Expected::Joined { slot: at, instance: id });
    }

    pub(super) fn instance_joined(&mut self, at: usize, id: u64) {
        let now = Instant::now();
        let slot = &mut self.slots[at];
        let Some(instance) = slot.instance_mut(id) else { return };
        if instance.stage != Stage::Joining {
            return;
        }
        instance.enter(Stage::Running);
        let beats = instance.control.as_ref().map_or(0, |c| c.heartbeat().load(Ordering::Relaxed));
        instance.pulse.reset(beats, now);
        if let Some(died) = slot.died.take() {
            let ms = now.saturating_duration_since(died).as_millis();
            log(format_args!("{} is back after {ms} ms", slot.plan.label));
        }
        if slot.successor.as_ref().is_some_and(|s| s.id == id) {
            let old = slot.current.take();
            slot.current = slot.successor.take();
            if let Some(mut old) = old {
                old.tell(&ToFunction::Stop, &[]);
                old.enter(Stage::Leaving);
                slot.retired.push(old);
            }
        }
    }

    pub(super) fn instance_rejected(&mut self, at: usize, id: u64, message: &str) {
        let process = self.slots[at].plan.hop.plane.process();
        if let Some(instance) = self.slots[at].instance_mut(id) {
            instance.kill(format!("was not taken by the {process}: {message}"));
        }
    }

    pub(super) fn take_function_exit(&mut self, at: usize, id: u64) {
        // Its last words first: they may say why.
        self.take_function_messages(at, id);
        let now = Instant::now();
        let slot = &mut self.slots[at];
        let Some(status) = slot.instance_mut(id).and_then(|i| i.process.ended()) else { return };
        if let Some(place) = slot.retired.iter().position(|i| i.id == id) {
            slot.retired.remove(place);
            return;
        }
        if slot.successor.as_ref().is_some_and(|i| i.id == id) {
            let successor = slot.successor.take();
            let stage = successor.as_ref().map(|s| s.stage);
            // One that was told to attach has taken over the fast path.
            let has_fast_path = self.plan.fast_path(slot.plan.hop).is_some();
            let joining = stage == Some(Stage::Joining) || (has_fast_path && stage == Some(Stage::Attaching));
            let reason = successor.and_then(|i| i.end).unwrap_or_else(|| describe_exit(status));
            let old = if joining && has_fast_path { "is started anew" } else { "stays" };
            log(format_args!("the successor of {} {reason}: the old instance {old}", slot.plan.label));
            if joining {
                self.rejoin(at, has_fast_path);
            }
            self.fail_change(&format!("the new instance {reason}"));
            return;
        }
        let Some(instance) = slot.current.take().filter(|i| i.id == id) else { return };
        if matches!(self.phase, Phase::Stopping(_) | Phase::Over) {
            return;
        }
        let reason = instance.end.clone().unwrap_or_else(|| describe_exit(status));
        let label = slot.plan.label.clone();
        slot.last_exit = Some(reason.clone());
        if self.phase == Phase::Starting {
            self.fatal = Some(RunError::new(format!("the function `{label}` {reason}")));
            return;
        }
        self.replace_dead(at, &instance, &reason, now);
    }

    fn replace_dead(&mut self, at: usize, instance: &Instance, reason: &str, now: Instant) {
        let slot = &mut self.slots[at];
        let (hop, replica) = (slot.plan.hop, slot.plan.replica);
        let known = instance.is_known_to_plane();
        let detach = Request::Detach { hop: hop.hop, replica, drain: false };
        slot.died.get_or_insert(now);
        slot.restarts += 1;
        // Whoever was about to take over takes over now; if the data plane has been told so, it has let go of the dead one.
        if let Some(successor) = slot.successor.take() {
            log(format_args!("{} {reason}; its successor takes over", slot.plan.label));
            let told = successor.is_known_to_plane();
            slot.current = Some(successor);
            if known && !told {
                self.ask(hop.plane, &detach, &[], Expected::Detached);
            }
            return;
        }
        let retry = match reason {
            // Not its fault.
            PORTS_CHANGED | FAST_PATH_CHANGED | FAST_PATH_TAKEN => now,
            _ => slot.backoff.next(instance.process.started, now),
        };
        slot.retry = Some(retry);
        let pid = instance.process.pid();
        let wait = retry.saturating_duration_since(now);
        log(format_args!("{} (process {pid}) {reason}; restarting {}", slot.plan.label, when(wait)));
        if known {
            self.ask(hop.plane, &detach, &[], Expected::Detached);
        }
        let taker = self.taker(Who::Function(hop, Some(instance.id)));
        self.change_taken(taker, Err((format!("the function {reason}"), None)));
    }

    /// A successor died after the data plane was told of it: its predecessor's rings may have been let go, so it gets new ones. One with a
    /// fast path does not know what is in it now: another takes its place.
    fn rejoin(&mut self, at: usize, has_fast_path: bool) {
        let slot = &mut self.slots[at];
        let hop = slot.plan.hop;
        let detach = Request::Detach { hop: hop.hop, replica: slot.plan.replica, drain: false };
        if let Some(current) = slot.current.as_mut().filter(|c| c.stage == Stage::Running) {
            if has_fast_path {
                return current.kill(FAST_PATH_TAKEN);
            }
            current.enter(Stage::Ready);
            self.ask(hop.plane, &detach, &[], Expected::Detached);
        }
    }

    /// A data plane is gone: whoever was attached waits for the next one.
    pub(super) fn orphan_instances(&mut self, plane: Plane) {
        for slot in self.slots.iter_mut().filter(|s| s.plan.hop.plane == plane) {
            for instance in slot.instances_mut() {
                if matches!(instance.stage, Stage::Attaching | Stage::Joining | Stage::Running) {
                    instance.socket = None;
                    instance.enter(Stage::Ready);
                }
            }
        }
    }

    pub(super) fn look_interval(&self) -> Duration {
        (self.plan.runtime.heartbeat / 4).clamp(LOOK_INTERVALS.0, LOOK_INTERVALS.1)
    }

    /// Kills functions that show no sign of life. A function that idles still beats several times a second.
    pub(super) fn look_at_heartbeats(&mut self, now: Instant) {
        let interval = self.look_interval();
        let gap = now.saturating_duration_since(self.last_look);
        if gap < interval {
            return;
        }
        self.last_look = now;
        // After a pause of our own (a stopped process, a suspended host) silence proves nothing.
        let paused = gap > interval * 4 + super::LONGEST_SLEEP;
        let limit = self.plan.runtime.heartbeat;
        let running = self.slots.iter_mut().filter_map(|s| s.current.as_mut()).filter(|i| i.stage == Stage::Running);
        for instance in running {
            let Some(control) = &instance.control else { continue };
            let beats = control.heartbeat().load(Ordering::Relaxed);
            let silence = instance.pulse.silence(beats, now);
            if paused {
                instance.pulse.reset(beats, now);
            } else if silence >= limit && instance.end.is_none() && !instance.pulse.starves(instance.process.pid()) {
                instance.kill(format!("hung: no sign of life for {} ms", silence.as_millis()));
            }
        }
    }
}

/// `at once`, `in 200 ms`.
pub(super) fn when(wait: Duration) -> String {
    if wait.is_zero() { "at once".into() } else { format!("in {} ms", wait.as_millis()) }
}
