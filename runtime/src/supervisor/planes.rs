//! The life of the data planes: start, requests in order, death and restart, the end.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::process::Command;
use std::time::{Duration, Instant};

use middlenet_plan::{BrokerStats, ManagerPlan, PortKind, Reply, Request, Stats};
use middlenet_sdk::{ChannelError, PortInfo};
use middlenet_shm::{Pages, Region, ShmError};
use middlenet_sriov::Vfs;

use super::instance::Slot;
use super::plane::{End, Expected, SharedMaps, Up};
use super::process::{Process, describe_exit};
use super::{Phase, RunError, STOP_GRACE, Supervisor, log};
use crate::manifest::Hugepages;
use crate::plan::Plane;

impl Supervisor {
    pub(super) fn advance_planes(&mut self, now: Instant) {
        let may_start = matches!(self.phase, Phase::Starting | Phase::Running);
        for plane in Plane::ALL {
            let Some(data) = self.planes.get_mut(plane) else { continue };
            if data.process.is_none() && may_start && data.retry.is_none_or(|at| now >= at) {
                data.retry = None;
                if let Err(e) = self.start_plane(plane) {
                    self.plane_failed(plane, e, now);
                }
            }
            let Some(data) = self.planes.get_mut(plane) else { continue };
            if let Some(&(expected, since)) = data.expected.front()
                && now >= since + expected.patience()
                && !data.hung
            {
                let seconds = expected.patience().as_secs();
                log(format_args!("the {} has not answered for {seconds} s: killing it", plane.process()));
                data.hung = true;
                data.kill();
            }
        }
    }

    fn start_plane(&mut self, plane: Plane) -> Result<(), RunError> {
        let region = self.region(plane)?;
        let (path, variable) = match plane {
            Plane::Packets => (&self.setup.manager, "MIDDLENET_NF_MANAGER"),
            Plane::Messages => (&self.setup.broker, "MIDDLENET_MESSAGE_BROKER"),
        };
        let process = Process::spawn(Command::new(path)).map_err(|e| {
            RunError::new(format!("cannot start {}: {e}", path.display()))
                .with_hint(format!("install it beside `middlenet`, or name it in {variable}"))
        })?;
        let packets = self.manager_plan().map(|plan| Request::Start { plan });
        let messages = self.plan.broker.clone().map(|plan| Request::StartBroker { plan });
        let request = match plane {
            Plane::Packets => packets,
            Plane::Messages => messages,
        };
        let sent = request.is_some_and(|request| process.send(&request, &[region.fd()]).is_ok());
        let Some(data) = self.planes.get_mut(plane) else { return Ok(()) };
        data.process = Some(process);
        data.hung = false;
        data.region = Some(region);
        // A process that is gone already shows by its pidfd.
        if sent {
            data.expected.push_back((Expected::Started, Instant::now()));
        }
        Ok(())
    }

    /// The manager's plan, with the PCI addresses of virtual functions.
    fn manager_plan(&self) -> Option<ManagerPlan> {
        let mut plan = self.plan.manager.clone()?;
        let ready = self.setup.taken.vfs.as_ref().map(Vfs::ready).unwrap_or_default();
        for of_port in &self.plan.runtime.vf_ports {
            let vf = ready.iter().find(|vf| vf.name == of_port.vf);
            if let (Some(vf), Some(port)) = (vf, plan.ports.get_mut(usize::from(of_port.port))) {
                port.kind = PortKind::Dpdk { device: vf.pci.to_string() };
            }
        }
        Some(plan)
    }

    /// The memory of a data plane.
    fn region(&mut self, plane: Plane) -> Result<Region, RunError> {
        let pages = match self.plan.runtime.hugepages {
            Hugepages::Auto => Pages::Auto,
            Hugepages::Require => Pages::Huge,
            Hugepages::Never => Pages::Small,
        };
        let (what, fewer) = match plane {
            Plane::Packets => ("packets", "ask for fewer buffers: `memory: { buffers: 8192 }`"),
            Plane::Messages => ("messages", "ask for fewer buffers: `memory: { messages: 2048 }`"),
        };
        let bytes = usize::try_from(self.plan.region_bytes(plane)).unwrap_or(usize::MAX);
        let name = format!("middlenet-{}-{what}", self.plan.name);
        let region = Region::create(&name, bytes, pages).map_err(|e| match &e {
            ShmError::HugePages { .. } => RunError::new(e.to_string())
                .with_hint(format!("echo {} > /proc/sys/vm/nr_hugepages", (bytes >> 21).next_multiple_of(64))),
            _ => {
                let cause = std::error::Error::source(&e).map(|c| format!(": {c}")).unwrap_or_default();
                RunError::new(format!("{e}{cause}")).with_hint(fewer)
            }
        })?;
        // A request costs so much more than a packet that the pages of messages do not show.
        let is_costly = plane == Plane::Packets && pages == Pages::Auto;
        if is_costly && region.page_bytes() < middlenet_shm::HUGE_PAGE_BYTES {
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

    /// Sends a request; `false` if the data plane is going away, which its pidfd will show.
    pub(super) fn ask(&mut self, plane: Plane, request: &Request, fds: &[BorrowedFd<'_>], expected: Expected) -> bool {
        let Some(data) = self.planes.get_mut(plane) else { return false };
        let sent = data.process.as_ref().is_some_and(|process| process.send(request, fds).is_ok());
        if sent {
            data.expected.push_back((expected, Instant::now()));
        }
        sent
    }

    pub(super) fn take_plane_messages(&mut self, plane: Plane) {
        while let Some(process) = self.planes.get(plane).and_then(|data| data.process.as_ref()) {
            match process.channel().readable(Duration::ZERO) {
                Ok(true) => {}
                _ => return,
            }
            match process.channel().receive::<Reply>() {
                Ok((reply, fds)) => self.take_reply(plane, reply, fds),
                // The pidfd says so as well, in a moment.
                Err(ChannelError::Closed | ChannelError::Io(_)) => return self.take_plane_exit(plane),
                Err(e) => {
                    log(format_args!("the {} cannot be understood: {e}: killing it", plane.process()));
                    if let Some(data) = self.planes.get_mut(plane) {
                        data.kill();
                    }
                    return self.take_plane_exit(plane);
                }
            }
        }
    }

    fn take_reply(&mut self, plane: Plane, reply: Reply, fds: Vec<OwnedFd>) {
        if let Reply::Finished = reply {
            return self.captures_finished();
        }
        let Some(data) = self.planes.get_mut(plane) else { return };
        if let Reply::FastPath { hop, maps: kinds } = reply {
            return data.fast_paths.push(SharedMaps { hop, kinds, maps: fds });
        }
        if let Reply::PortsChanged { ports } = reply {
            if let Some(up) = &mut data.up {
                up.ports = ports;
            }
            return self.restart_those_with_old_ports(plane);
        }
        let Some((expected, _)) = data.expected.pop_front() else {
            return log(format_args!("the {} answered what nobody asked", plane.process()));
        };
        match (expected, reply) {
            (Expected::Started, Reply::Started { ports, notes }) => self.plane_started(plane, ports, notes, fds),
            (Expected::Started, Reply::Failed { message, hint }) => {
                data.kill();
                self.plane_failed(plane, RunError { message, hint }, Instant::now());
            }
            (Expected::Joined { slot, instance }, Reply::Done) => self.instance_joined(slot, instance),
            (Expected::Joined { slot, instance }, Reply::Failed { message, .. }) => {
                self.instance_rejected(slot, instance, &message);
            }
            (Expected::Detached, Reply::Done) => {}
            (Expected::Steered { slot, instance }, reply) => {
                if let Reply::Failed { message, .. } = reply {
                    log(format_args!("flows were not steered: {message}"));
                }
                if let Some(instance) = self.slots[slot].instance_mut(instance) {
                    instance.steering = false;
                }
            }
            (Expected::Changed(taker), Reply::Done) => self.change_taken(taker, Ok(())),
            (Expected::Changed(taker), Reply::Failed { message, hint }) => {
                self.change_taken(taker, Err((message, hint)));
            }
            (Expected::Stats, Reply::Stats(stats)) => {
                data.serial += 1;
                self.stats = Some(*stats);
            }
            (Expected::Stats, Reply::BrokerStats(stats)) => {
                data.serial += 1;
                self.messages = Some(*stats);
            }
            (Expected::Stopped, Reply::Stopped(stats)) => {
                self.keep_last(*stats);
                self.plane_stopped(plane);
            }
            (Expected::Stopped, Reply::BrokerStopped(stats)) => {
                self.keep_last_messages(*stats);
                self.plane_stopped(plane);
            }
            (expected, Reply::Failed { message, .. }) => {
                log(format_args!("the {} failed ({expected:?}): {message}", plane.process()));
                if expected == Expected::Stopped {
                    self.plane_stopped(plane);
                }
            }
            (expected, _) => {
                log(format_args!("the {} gave another answer than {expected:?}", plane.process()));
            }
        }
    }

    /// Functions are gone by the time of the last statistics: what they reported before still stands.
    fn keep_last(&mut self, mut last: Stats) {
        let earlier = self.stats.iter().flat_map(|s| &s.hops).flat_map(|h| &h.instances);
        for (instance, earlier) in last.hops.iter_mut().flat_map(|h| &mut h.instances).zip(earlier) {
            if instance.report.is_null() {
                instance.report.clone_from(&earlier.report);
            }
        }
        self.stats = Some(last);
    }

    /// The same for messages.
    fn keep_last_messages(&mut self, mut last: BrokerStats) {
        let earlier = self.messages.iter().flat_map(|s| &s.hops).flat_map(|h| &h.instances);
        for (instance, earlier) in last.hops.iter_mut().flat_map(|h| &mut h.instances).zip(earlier) {
            if instance.report.is_null() {
                instance.report.clone_from(&earlier.report);
            }
        }
        self.messages = Some(last);
    }

    fn plane_started(&mut self, plane: Plane, ports: Vec<PortInfo>, notes: Vec<String>, events: Vec<OwnedFd>) {
        let Some(data) = self.planes.get_mut(plane) else { return };
        let Some(region) = data.region.take() else { return };
        for note in notes.iter().filter(|n| !data.notes.contains(n)) {
            log(format_args!("note: {note}"));
        }
        data.notes = notes;
        if data.restarts > 0 {
            log(format_args!("the {} is up again", plane.process()));
        }
        let fast_paths = std::mem::take(&mut data.fast_paths);
        data.up = Some(Up { region, ports, events, fast_paths });
    }

    pub(super) fn take_plane_exit(&mut self, plane: Plane) {
        let now = Instant::now();
        // Its last words first: they may say why.
        while let Some(process) = self.planes.get(plane).and_then(|data| data.process.as_ref())
            && process.channel().readable(Duration::ZERO).unwrap_or(false)
        {
            let Ok((reply, fds)) = process.channel().receive::<Reply>() else { break };
            self.take_reply(plane, reply, fds);
        }
        let Some(data) = self.planes.get_mut(plane) else { return };
        let Some(process) = &mut data.process else { return };
        let Some(status) = process.ended() else {
            // It closed its socket but lives: it is of no more use.
            process.kill();
            return;
        };
        if matches!(self.phase, Phase::Stopping(_) | Phase::Over) {
            (data.process, data.up) = (None, None);
            return self.plane_stopped(plane);
        }
        let reason = if data.hung { "did not answer".to_owned() } else { describe_exit(status) };
        self.plane_failed(plane, RunError::new(format!("the {} {reason}", plane.process())), now);
    }

    /// A data plane is lost, or could not be started. At the start that ends the run; later it is started again.
    fn plane_failed(&mut self, plane: Plane, error: RunError, now: Instant) {
        match plane {
            Plane::Packets => self.stats = None,
            Plane::Messages => self.messages = None,
        }
        let Some(data) = self.planes.get_mut(plane) else { return };
        let started = data.process.take().map_or(now, |p| p.started);
        (data.up, data.region) = (None, None);
        data.fast_paths.clear();
        data.expected.clear();
        // What was on its way is lost with it; the flows go by the rules.
        for instance in self.slots.iter_mut().filter(|slot| slot.plan.hop.plane == plane).flat_map(Slot::instances_mut)
        {
            instance.steering = false;
        }
        data.last_exit = Some(error.message.clone());
        if self.phase == Phase::Starting && data.restarts == 0 {
            self.fatal = Some(error);
            return;
        }
        let retry = data.backoff.next(started, now);
        data.retry = Some(retry);
        data.restarts += 1;
        let wait = retry.saturating_duration_since(now);
        log(format_args!("{error}; restarting {}", super::instances::when(wait)));
        self.fail_change(&format!("the {} was lost meanwhile", plane.process()));
        self.orphan_instances(plane);
    }

    /// Lets the next data plane drain that has not yet; when none is left, the run is over. Requests end first: packets may
    /// be on their way to them.
    pub(super) fn stop_next(&mut self) {
        if self.planes.iter().any(|data| data.end == End::Asked) {
            return;
        }
        let drain = self.plan.runtime.drain;
        let request = Request::Stop { drain_ms: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX) };
        for plane in Plane::ALL.into_iter().rev() {
            let Some(data) = self.planes.get_mut(plane).filter(|data| data.end == End::No) else { continue };
            data.end = End::Asked;
            if data.is_up() && self.ask(plane, &request, &[], Expected::Stopped) {
                self.phase = Phase::Stopping(Instant::now() + drain + STOP_GRACE);
                return;
            }
            if let Some(data) = self.planes.get_mut(plane) {
                data.end = End::Done;
            }
        }
        self.phase = Phase::Over;
    }

    fn plane_stopped(&mut self, plane: Plane) {
        if let Some(data) = self.planes.get_mut(plane) {
            data.end = End::Done;
        }
        if self.phase != Phase::Over {
            self.stop_next();
        }
    }

    /// The data plane that drains has taken too long.
    pub(super) fn give_up_drain(&mut self) {
        for data in self.planes.iter_mut().filter(|data| data.end == End::Asked) {
            log(format_args!("the {} did not drain in time", data.plane.process()));
            data.end = End::Done;
        }
        self.stop_next();
    }
}
