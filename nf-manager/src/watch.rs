//! Ports that go deaf, or go: found out, and restarted or taken up again.
//!
//! The queues of a virtual function end with a reset of its physical one (`ip link set PF down` and up again, a change of its
//! MTU or rings): from then on it neither receives nor sends until its driver has stopped and started it. Two signs tell: the
//! driver's word ([`middlenet_dpdk::Events`]), and a link that was gone and is back.
//!
//! A start that comes too early, while the physical function is still down, succeeds and mends nothing, and no driver says
//! so. Mended is therefore a port that receives again; until then it is restarted at intervals that double, or when there is
//! another sign. A port on which nothing comes is soon left alone by that.
//!
//! An interface that comes back may have another address or MTU: functions are told, by new instances.

use crate::command::Command;
use crate::nic::NicFlows;
use crate::open::{self, Opened, OpenedXdp};
use crate::port::Queue;
use crate::running::{COMMAND_LIMIT, Running};
use crate::steering::Steered;
use crate::{ManagerError, sentence};
use crossbeam_channel::bounded;
use middlenet_dpdk::{Port, Queues};
use middlenet_plan::{PortKind, PortPlan};
use middlenet_sdk::PortInfo;
use middlenet_steer::Tables;
use middlenet_xsk::Interface;
use std::time::{Duration, Instant};

/// How often links are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// From a sign of trouble to the restart: one reset may give several, and the physical function needs a moment.
const SETTLE: Duration = Duration::from_millis(300);
/// From one restart to the next, as long as nothing is received: a port may be idle rather than deaf, and each restart costs it
/// what comes meanwhile.
const PAUSE_MIN: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(3600);
/// What a restart does to the link itself is no sign of trouble: within this time after one, a sign counts only for a port that hears nothing until
/// the time is over.
const AFTER_RESTART: Duration = Duration::from_secs(5);

/// What is known of one port.
#[derive(Debug)]
pub(crate) struct Watch {
    pub(crate) link_up: Option<bool>,
    pub(crate) restarts: u64,
    pub(crate) trouble: Option<String>,
    /// When it is to be restarted.
    due: Option<Instant>,
    /// Packets that had been received when it was restarted last; nothing once it has received more.
    deaf_since: Option<u64>,
    pause: Duration,
    restarted: Option<Instant>,
    next_look: Instant,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self {
            link_up: None,
            restarts: 0,
            trouble: None,
            due: None,
            deaf_since: None,
            pause: PAUSE_MIN,
            restarted: None,
            next_look: Instant::now(),
        }
    }

    /// Notes how many packets have been received; true: it was deaf, and hears again.
    fn hears(&mut self, received_pkts: u64) -> bool {
        let mended = self.deaf_since.is_some_and(|before| received_pkts > before);
        if mended {
            (self.due, self.deaf_since, self.pause) = (None, None, PAUSE_MIN);
        }
        mended
    }

    /// Looks at the port, which has received so many packets; notes when it is to be restarted.
    fn look(&mut self, port: &Port, received_pkts: u64, now: Instant) {
        let events = port.take_events();
        if events.removed {
            self.trouble = Some("the device was taken out of the host".into());
        }
        if events.reset {
            self.suspect("its physical function was reset", received_pkts, now);
        }
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        // Only devices that do DMA have a link of their own.
        let link = port.capabilities().dma.then(|| port.link().ok()).flatten();
        let came_back = self.link_up == Some(false) && link.is_some_and(|link| link.up);
        self.link_up = link.map(|link| link.up);
        if came_back && port.capabilities().is_virtual_function {
            self.suspect("its link came back", received_pkts, now);
        }
    }

    fn suspect(&mut self, why: &str, received_pkts: u64, now: Instant) {
        if let Some(over) = self.restarted.map(|restarted| restarted + AFTER_RESTART).filter(|&over| now < over) {
            // It heard after the restart, so this may be another reset.
            if self.due.is_none() {
                (self.due, self.deaf_since) = (Some(over), Some(received_pkts));
            }
            return;
        }
        self.trouble = Some(why.to_owned());
        // However long the pause has become, here is a reason not to wait for its end.
        self.pause = PAUSE_MIN;
        self.due = Some(self.due.map_or(now + SETTLE, |due| due.min(now + SETTLE)));
    }

    fn is_due(&self, now: Instant) -> bool {
        self.due.is_some_and(|due| due <= now)
    }

    /// It has been restarted, or that was tried in vain. `received_pkts` had been received before.
    fn tried(&mut self, restarted: bool, received_pkts: u64, now: Instant) {
        if restarted {
            self.restarts += 1;
            self.deaf_since = Some(received_pkts);
            self.restarted = Some(now);
        }
        self.due = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

impl Running {
    /// Looks at the ports: restarts devices that have gone deaf, lets go of interfaces that are gone, and takes them up again.
    pub(crate) fn watch_ports(&mut self) {
        for id in 0..self.opened.len() {
            let now = Instant::now();
            if matches!(self.opened[id], Opened::Xdp { .. } | Opened::Gone) && self.watches[id].next_look <= now {
                self.watches[id].next_look = now + LOOK;
                self.look_at_interface(id);
            }
            let Opened::Dpdk { port, .. } = &self.opened[id] else { continue };
            let received_pkts = self.counters.iter().map(|worker| worker.ports[id].received_pkts.get()).sum();
            if self.watches[id].hears(received_pkts) {
                eprintln!("middlenet-nf-manager: port `{}` receives again", self.plan.ports[id].name);
            }
            self.watches[id].look(port, received_pkts, now);
            if !self.watches[id].is_due(now) {
                continue;
            }
            let first = self.watches[id].deaf_since.is_none();
            let result = self.restart_port(id);
            let name = &self.plan.ports[id].name;
            let watch = &mut self.watches[id];
            watch.tried(result.is_ok(), received_pkts, Instant::now());
            let why = watch.trouble.as_deref().unwrap_or_default();
            match result {
                Ok(()) if first => eprintln!("middlenet-nf-manager: port `{name}` restarted: {why}"),
                Ok(()) => {}
                Err(e) => eprintln!("middlenet-nf-manager: port `{name}` cannot be restarted ({why}): {e}"),
            }
        }
    }

    /// Lets go of an interface that is gone, so that nobody waits for it, or takes it up again when it is back.
    fn look_at_interface(&mut self, id: usize) {
        let plan = self.plan.ports[id].clone();
        let PortKind::Xdp { interface, .. } = &plan.kind else { return };
        let found = Interface::lookup(interface).ok();
        let seen = found.as_ref().map(|found| found.ifindex);
        match (&self.opened[id], found) {
            (Opened::Xdp { ifindex, .. }, found) if found.as_ref().is_none_or(|f| f.ifindex != *ifindex) => {
                let trouble = format!("its interface `{interface}` is gone");
                eprintln!("middlenet-nf-manager: port `{}`: {trouble}", plan.name);
                self.watches[id].trouble = Some(trouble);
                self.let_go(id);
            }
            (Opened::Gone, Some(found)) if found.up => match self.xdp.open(&self.plan, id as u8, self.tables(id)) {
                Ok(OpenedXdp { program, promiscuous, interface: found, queues, .. }) => {
                    self.opened[id] = Opened::Xdp { program, ifindex: found.ifindex, _promiscuous: promiscuous };
                    self.give_queues(id, queues);
                    self.watches[id].restarts += 1;
                    self.compare_info(id, open::info(id as u8, &plan, &found));
                    eprintln!("middlenet-nf-manager: port `{}`: its interface `{interface}` is back", plan.name);
                }
                // It may be half made yet; the next look comes soon.
                Err(e) => self.watches[id].trouble = Some(e.to_string()),
            },
            _ => {}
        }
        if let Some(fast_paths) = &mut self.xdp.fast_paths {
            fast_paths.connect(id as u8, seen.filter(|_| matches!(self.opened[id], Opened::Xdp { .. })));
        }
    }

    /// Tells functions if a port is another than it was.
    fn compare_info(&mut self, id: usize, info: PortInfo) {
        if self.infos[id] == info {
            return;
        }
        let mac = |info: &PortInfo| info.mac.map(|byte| format!("{byte:02x}")).join(":");
        let (was, is) = (&self.infos[id], &info);
        let trouble = format!(
            "its interface came back with address {} and MTU {}, instead of {} and {}",
            mac(is),
            is.mtu,
            mac(was),
            was.mtu
        );
        eprintln!("middlenet-nf-manager: port `{}`: {trouble}", info.name);
        self.watches[id].trouble = Some(trouble);
        self.infos[id] = info;
        self.infos_changed = true;
        self.renew_inline(id as u8);
    }

    /// The rules of a port, if it has some.
    fn tables(&self, id: usize) -> Option<&Tables> {
        self.steered.get(id)?.as_ref().map(Steered::tables)
    }

    /// Closes what an interface left behind: its sockets, whose buffers come back, and its program.
    fn let_go(&mut self, id: usize) {
        for worker in 0..self.counters.len() {
            if let Ok(Some(Queue::Xdp(queues))) = self.take_queue(worker, id) {
                for queue in queues {
                    self.free_from_control(&queue.close());
                }
                self.counters[worker].ports[id].buffers.set(0);
            }
        }
        self.keep_counts(id);
        self.opened[id] = Opened::Gone;
    }

    /// Takes the workers' queues, stops and starts the device, and deals out its queues again.
    fn restart_port(&mut self, id: usize) -> Result<(), ManagerError> {
        let mut taken = Queues { rx: Vec::new(), tx: Vec::new() };
        for worker in 0..self.counters.len() {
            // Nothing comes if an attempt before this one has taken it.
            if let Some(Queue::Dpdk { receive, send }) = self.take_queue(worker, id)? {
                taken.rx.extend(receive);
                taken.tx.push(send);
            }
        }
        let PortPlan { name, steering, isolated, .. } = &self.plan.ports[id];
        let Opened::Dpdk { flows, port } = &mut self.opened[id] else { return Ok(()) };
        // A device that stops forgets what it was asked.
        *flows = NicFlows::default();
        let queues = port.restart(taken).map_err(|e| sentence(name, &e))?;
        if let Some(steering) = steering.as_ref().filter(|_| *isolated) {
            flows.add(port, name, steering)?;
        }
        self.give_queues(id, open::deal(queues, self.counters.len()));
        Ok(())
    }

    /// Takes a worker's queue at a port away from it; nothing if it has none.
    fn take_queue(&self, worker: usize, port: usize) -> Result<Option<Queue>, ManagerError> {
        let (done, answer) = bounded(1);
        self.send(worker, Command::TakeQueue { port: port as u8, done });
        answer.recv_timeout(COMMAND_LIMIT).map_err(|_| ManagerError::new("a worker does not answer"))
    }

    /// Gives each worker its queue at a port.
    fn give_queues(&self, port: usize, queues: Vec<Queue>) {
        for (worker, queue) in queues.into_iter().enumerate() {
            self.send(worker, Command::GiveQueue { port: port as u8, queue });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_signs_are_one_restart() {
        let now = Instant::now();
        let mut watch = Watch::new();
        watch.suspect("first", 0, now);
        watch.suspect("second", 0, now + SETTLE / 2);
        assert!(!watch.is_due(now) && watch.is_due(now + SETTLE));
        watch.tried(true, 7, now + SETTLE);
        assert!(!watch.is_due(now + SETTLE) && !watch.hears(7));
        assert!(watch.hears(8) && !watch.hears(9));
        assert!(!watch.is_due(now + SETTLE * 100));
        assert_eq!((watch.restarts, watch.trouble.as_deref()), (1, Some("second")));
    }

    #[test]
    fn a_reset_soon_after_a_restart_counts_for_a_port_that_hears_no_more() {
        let start = Instant::now();
        for hears in [false, true] {
            let mut watch = Watch::new();
            watch.suspect("the wire", 0, start);
            watch.tried(true, 7, start);
            assert!(watch.hears(8) && watch.due.is_none());
            watch.suspect("its own doing, or another reset", 9, start + AFTER_RESTART / 2);
            assert!(!watch.is_due(start + AFTER_RESTART / 2) && !watch.hears(9));
            assert!(!hears || watch.hears(10));
            assert_eq!(watch.is_due(start + AFTER_RESTART), !hears);
            // What the next restart does to the link is nothing as long as it has not heard.
            watch.tried(true, 9, start + AFTER_RESTART);
            let due = watch.due;
            watch.suspect("its own doing", 9, start + AFTER_RESTART + SETTLE);
            assert_eq!(watch.due, due);
        }
    }

    #[test]
    fn a_port_that_stays_deaf_is_restarted_more_and_more_seldom() {
        let mut now = Instant::now();
        let mut watch = Watch::new();
        watch.suspect("reset", 0, now);
        let mut pauses = Vec::new();
        for attempt in 0..8 {
            let due = watch.due.unwrap();
            pauses.push(due - now);
            now = due;
            watch.tried(attempt != 3, 0, now);
        }
        assert!(pauses[1..].iter().zip(&pauses[2..]).all(|(a, b)| *a * 2 == *b) && pauses[1] == PAUSE_MIN);
        assert_eq!(watch.restarts, 7);
        for _ in 0..20 {
            now = watch.due.unwrap();
            watch.tried(true, 0, now);
        }
        assert_eq!(watch.due.unwrap() - now, PAUSE_MAX);
        // The restart took the link down for a moment; later, something else did.
        watch.suspect("its own doing", 0, now + SETTLE);
        assert_eq!(watch.due.unwrap() - now, PAUSE_MAX);
        now += AFTER_RESTART;
        watch.suspect("again", 0, now);
        assert_eq!(watch.due.unwrap() - now, SETTLE);
        watch.tried(true, 0, now + SETTLE);
        assert_eq!(watch.due.unwrap() - now, SETTLE + PAUSE_MIN);
        assert!(watch.hears(1) && watch.due.is_none());
        now += SETTLE + AFTER_RESTART;
        watch.suspect("again", 0, now);
        watch.tried(true, 1, now);
        assert_eq!(watch.due, Some(now + PAUSE_MIN));
    }
}
