//! Steering: the rules of ports, and the flows that functions send elsewhere. Carried out by an XDP program where a port has
//! one, else by the workers.

mod flows;
mod rules;

pub(crate) use flows::{Diversion, Diverted};
pub(crate) use rules::RuleSet;

use crate::command::Command;
use crate::fast_path::destinations;
use crate::open::{Opened, XdpProgram};
use crate::port::Steering;
use crate::running::Running;
use crate::{ManagerError, sentence};
use flows::{FLOWS, Ledger, Shown};
use middlenet_bpf::{SteerCounters, SteeredAttachment};
use middlenet_plan::{
    ManagerPlan, SteerTargetPlan, SteeredFlow as SteeredFlowStats, SteeredStats, SteeringPlan, SteeringStats,
};
use middlenet_sdk::SteeredFlow;
use middlenet_sdk::fast_path::flow_of;
use middlenet_steer::{Action, Rule, Tables};
use middlenet_wire::FlowKey;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest that a function may steer a flow for.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// A port's rules and flows, as the control thread holds them.
#[derive(Debug)]
pub(crate) struct Steered {
    plan: SteeringPlan,
    /// As the workers carry them out, where no XDP program does or where it could not mark a packet.
    rules: Arc<RuleSet>,
    by: By,
    /// What rules of the same name decided about before the last replacement by the workers, or by programs that went with
    /// their interface: packets and bytes, the default last.
    before: Vec<(u64, u64)>,
    /// What programs that went with their interface did otherwise than rules say.
    otherwise_before: Otherwise,
    flows: Ledger,
    /// No flow was there at the last sweep.
    swept_empty: bool,
}

/// Who carries a port's rules out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// An XDP program; workers where it could not mark a packet.
    Xdp,
    /// The device, which takes in what is not the kernel's and is not dropped, and the workers who tell that apart.
    NicFlows,
    /// The workers.
    Manager,
}

/// A port's rules as tables.
pub(crate) fn tables(port: &str, plan: &SteeringPlan) -> Result<Tables, ManagerError> {
    Tables::compile(&plan.rules, plan.default).map_err(|e| sentence(port, &e))
}

impl Steered {
    /// The steering of a port that is open; none without rules.
    pub(crate) fn of(plan: &ManagerPlan, id: u8, opened: &Opened, tables: Option<Tables>) -> Option<Self> {
        let rules = Arc::new(RuleSet::new(tables?, plan.workers.len(), targets(plan, id)));
        let port = &plan.ports[usize::from(id)];
        let (plan, isolated) = (port.steering.clone()?, port.isolated);
        let before = vec![(0, 0); plan.to.len()];
        let by = match opened {
            Opened::Xdp { .. } => By::Xdp,
            Opened::Dpdk { .. } if isolated => By::NicFlows,
            _ => By::Manager,
        };
        let (otherwise_before, flows) = (Otherwise::default(), Ledger::default());
        Some(Self { plan, rules, by, before, otherwise_before, flows, swept_empty: true })
    }

    /// Its rules.
    pub(crate) fn tables(&self) -> &Tables {
        self.rules.tables()
    }

    /// How a worker tells the packets of the port apart.
    pub(crate) fn of_worker(steered: Option<&Self>) -> Steering {
        match steered {
            None => Steering::None,
            Some(Self { rules, by: By::Xdp, .. }) => Steering::Marked(Arc::clone(rules)),
            Some(Self { rules, .. }) => Steering::Rules(Arc::clone(rules)),
        }
    }

    /// Takes new rules; what workers decided about by the old ones stays with rules of the same name and match.
    fn replace(&mut self, plan: SteeringPlan, rules: Arc<RuleSet>) {
        let old = self.decided();
        let default = old.last().copied().unwrap_or_default();
        let known = &self.plan.rules;
        let same = |a: &Rule, b: &Rule| a.name == b.name && a.matches == b.matches;
        let kept = |rule: &Rule| known.iter().position(|k| same(k, rule)).and_then(|at| old.get(at)).copied();
        self.before = plan.rules.iter().map(|rule| kept(rule).unwrap_or_default()).chain([default]).collect();
        (self.plan, self.rules) = (plan, rules);
    }

    /// Packets and bytes by rule, the default last, but for what the present XDP program counts.
    fn decided(&self) -> Vec<(u64, u64)> {
        // What workers decide about where there is a program, it has counted as well: it only could not mark it.
        let by_workers = if self.by == By::Xdp { vec![(0, 0); self.before.len()] } else { self.rules.counts() };
        plus(by_workers, &self.before)
    }
}

/// Where packets of a port may go beside where its rules lead: where functions may steer flows, and where fast paths leave them.
fn targets(plan: &ManagerPlan, port: u8) -> impl Iterator<Item = Action> + '_ {
    let of_hops = plan.hops.iter().flat_map(|hop| &hop.steering);
    let steered = of_hops.filter(move |target| target.ports.contains(&port)).map(|target| target.action);
    let left = destinations(plan, port).into_iter().map(|destination| Action::Tag(destination.tag()));
    steered.chain(left)
}

/// Packets and bytes, added up rule by rule.
fn plus(mut sums: Vec<(u64, u64)>, more: &[(u64, u64)]) -> Vec<(u64, u64)> {
    for ((pkts, bytes), (p, b)) in sums.iter_mut().zip(more) {
        (*pkts, *bytes) = (*pkts + p, *bytes + b);
    }
    sums
}

/// What an XDP program decided about, by rule, the default last.
fn by_program(counters: &SteerCounters) -> Vec<(u64, u64)> {
    counters.rules.iter().chain([&counters.default]).map(|rule| (rule.packets, rule.bytes)).collect()
}

/// What an XDP program did otherwise than its rules say, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Otherwise {
    rules_gone: u64,
    without_socket: u64,
    unmarked: u64,
    runts: u64,
}

impl Otherwise {
    fn of(counters: &SteerCounters) -> Self {
        let totals = counters.totals;
        Self {
            rules_gone: counters.retired.packets,
            without_socket: totals.missing_pkts,
            unmarked: totals.untagged_pkts,
            runts: totals.short_pkts,
        }
    }

    fn plus(self, more: Self) -> Self {
        Self {
            rules_gone: self.rules_gone + more.rules_gone,
            without_socket: self.without_socket + more.without_socket,
            unmarked: self.unmarked + more.unmarked,
            runts: self.runts + more.runts,
        }
    }

    fn named(self) -> [(&'static str, u64); 4] {
        [
            ("rules-gone", self.rules_gone),
            ("queue-without-socket", self.without_socket),
            ("unmarked", self.unmarked),
            ("runts", self.runts),
        ]
    }
}

impl Running {
    /// The program of a port goes with its interface, and with it its flows; what it counted stays.
    pub(crate) fn keep_counts(&mut self, port: usize) {
        let counted = self.xdp(port).and_then(|attachment| attachment.steering().counters().ok());
        if let Some(Some(steered)) = self.steered.get_mut(port) {
            if let Some(counters) = counted {
                steered.before = plus(std::mem::take(&mut steered.before), &by_program(&counters));
                steered.otherwise_before = steered.otherwise_before.plus(Otherwise::of(&counters));
            }
            steered.flows.clear();
        }
    }

    fn xdp_mut(&mut self, port: u8) -> Option<&mut SteeredAttachment> {
        match self.opened.get_mut(usize::from(port)) {
            Some(Opened::Xdp { program: XdpProgram::Steered(attachment), .. }) => Some(attachment),
            _ => None,
        }
    }

    fn xdp(&self, port: usize) -> Option<&SteeredAttachment> {
        match self.opened.get(port) {
            Some(Opened::Xdp { program: XdpProgram::Steered(attachment), .. }) => Some(attachment),
            _ => None,
        }
    }

    /// Replaces the rules of a port; no packet is lost by it, and each is decided about by the old rules or by the new. Where the device
    /// carries them out, packets that change sides with the kernel at this moment may be lost, and are counted.
    pub(crate) fn steer(&mut self, port: u8, plan: SteeringPlan) -> Result<(), ManagerError> {
        let at = usize::from(port);
        let Some(name) = self.plan.ports.get(at).map(|p| p.name.clone()) else {
            return Err(ManagerError::new(format!("there is no port {port}")));
        };
        if self.steered.get(at).is_none_or(Option::is_none) {
            return Err(ManagerError::new(format!("port `{name}` has no steering rules to replace")));
        }
        let tables = tables(&name, &plan)?;
        if let Some(attachment) = self.xdp_mut(port) {
            match attachment.steering_mut().replace(&tables) {
                // The new rules are in place, and so they must be everywhere.
                Err(e @ middlenet_bpf::Error::SteerCounters { .. }) => eprintln!("middlenet-nf-manager: {e}"),
                other => other.map_err(|e| sentence(&name, &e))?,
            }
        }
        // The device is asked for what is new first, and lets go of what is old last: it may refuse, and all stays as it was.
        let wanted = match &mut self.opened[at] {
            Opened::Dpdk { flows, port: device } if self.plan.ports[at].isolated => {
                Some(flows.add(device, &name, &plan)?)
            }
            _ => None,
        };
        let rules = Arc::new(RuleSet::new(tables, self.counters.len(), targets(&self.plan, port)));
        self.all(|_, done| Ok(Command::Steer { port, rules: Arc::clone(&rules), done }))?;
        if let (Some(wanted), Opened::Dpdk { flows, .. }) = (wanted, &mut self.opened[at]) {
            flows.keep(&wanted);
        }
        // For an interface that comes back later.
        self.plan.ports[at].steering = Some(plan.clone());
        if let Some(Some(steered)) = self.steered.get_mut(at) {
            // No worker uses the old rules any more, so their counts are final.
            steered.replace(plan, rules);
        }
        Ok(())
    }

    /// Lets a function of this hop steer flows, as far as the manifest allows.
    pub(crate) fn steer_flows(&mut self, hop: u16, flows: &[SteeredFlow]) -> Result<(), ManagerError> {
        let Some(plan) = self.plan.hops.get(usize::from(hop)) else {
            return Err(ManagerError::new(format!("there is no hop {hop}")));
        };
        let by = format!("{}/{}", self.plan.chains[usize::from(plan.chain)].name, plan.name);
        let targets = plan.steering.clone();
        let everywhere: Vec<u8> = targets.iter().flat_map(|target| target.ports.clone()).collect();
        let mut diverted: Vec<(u8, Diverted)> = Vec::new();
        for flow in flows {
            let Some(key) = flows::key(flow) else {
                everywhere.first().into_iter().for_each(|&port| self.refuse(port));
                continue;
            };
            match flow.to {
                None => everywhere.iter().for_each(|&port| diverted.extend(self.release(port, key, &by))),
                Some(to) => match targets.get(usize::from(to)) {
                    Some(target) => {
                        let lifetime = Duration::from_millis(flow.lifetime_ms).min(LONGEST);
                        let ports = target.ports.iter();
                        diverted.extend(ports.filter_map(|&port| self.divert(port, key, target, &by, lifetime)));
                    }
                    // Out of the manifest's bounds: a function's mistake, or malice.
                    None => everywhere.first().into_iter().for_each(|&port| self.refuse(port)),
                },
            }
        }
        if diverted.is_empty() {
            return Ok(());
        }
        let diverted = Arc::new(diverted);
        self.all(|_, done| Ok(Command::Divert { flows: Arc::clone(&diverted), done }))
    }

    /// Counts wishes of a function of this hop that nobody heard, at the first port that it may steer flows of.
    pub(crate) fn count_unheard(&mut self, hop: u16, wishes: u64) {
        let port = self.first_port(usize::from(hop)).map(usize::from);
        if let Some(Some(steered)) = port.and_then(|port| self.steered.get_mut(port)) {
            steered.flows.unheard = steered.flows.unheard.saturating_add(wishes);
        }
    }

    fn first_port(&self, hop: usize) -> Option<u8> {
        self.plan.hops.get(hop)?.steering.iter().flat_map(|target| &target.ports).next().copied()
    }

    /// Wishes of functions that nobody heard, counted at this port.
    fn unheard(&self, port: usize, steered: &Steered) -> u64 {
        let hops = (0..self.plan.hops.len()).filter(|&hop| self.first_port(hop).map(usize::from) == Some(port));
        let of_hop = |hop: usize| self.counters.iter().map(|worker| worker.hops[hop].unheard.get()).sum::<u64>();
        hops.map(of_hop).sum::<u64>().saturating_add(steered.flows.unheard)
    }

    fn refuse(&mut self, port: u8) {
        if let Some(Some(steered)) = self.steered.get_mut(usize::from(port)) {
            steered.flows.refused += 1;
        }
    }

    /// Steers a flow at one port. What is returned is for the workers, where they carry it out.
    fn divert(
        &mut self,
        port: u8,
        key: FlowKey,
        target: &SteerTargetPlan,
        by: &str,
        lifetime: Duration,
    ) -> Option<(u8, Diverted)> {
        let is_gone = matches!(self.opened.get(usize::from(port)), Some(Opened::Gone));
        let steered = self.steered.get_mut(usize::from(port))?.as_mut()?;
        if is_gone || !steered.flows.has_room(&key, FLOWS) {
            steered.flows.full += 1;
            return None;
        }
        if steered.flows.is_of_another(&key, by) {
            steered.flows.refused += 1;
            return None;
        }
        let pkts = steered.flows.note(key, &target.to, by, lifetime);
        let Some(attachment) = self.xdp_mut(port) else {
            let diversion = Diversion { action: target.action, expires: Instant::now() + lifetime, pkts };
            return Some((port, (flow_of(&key), Some(diversion))));
        };
        let installed = attachment.steering_mut().install_flow(&flow_of(&key), target.action, lifetime);
        if installed.is_err()
            && let Some(Some(steered)) = self.steered.get_mut(usize::from(port))
        {
            steered.flows.forget(&key);
            steered.flows.full += 1;
        }
        None
    }

    /// Leaves a flow to the rules again.
    fn release(&mut self, port: u8, key: FlowKey, by: &str) -> Option<(u8, Diverted)> {
        let steered = self.steered.get_mut(usize::from(port))?.as_mut()?;
        if steered.flows.is_of_another(&key, by) {
            steered.flows.refused += 1;
            return None;
        }
        steered.flows.forget(&key);
        let Some(attachment) = self.xdp_mut(port) else { return Some((port, (flow_of(&key), None))) };
        // One that has expired and been swept is gone already.
        let _ = attachment.steering_mut().remove_flow(&flow_of(&key));
        None
    }

    /// Makes room in the tables of flows. Now and then, not per packet.
    pub(crate) fn sweep_flows(&mut self) {
        for port in 0..self.steered.len() {
            let Some(steered) = &mut self.steered[port] else { continue };
            // Once more after the last one has gone: the kernel's clock is a little behind.
            let were_there = std::mem::replace(&mut steered.swept_empty, steered.flows.is_empty());
            if were_there && steered.swept_empty {
                continue;
            }
            steered.flows.sweep();
            if let Some(attachment) = u8::try_from(port).ok().and_then(|port| self.xdp_mut(port)) {
                // Those not swept now are swept next time; packets do not meet them meanwhile.
                let _ = attachment.steering_mut().sweep_flows();
            }
        }
    }

    pub(crate) fn steering_stats(&self, port: usize) -> Option<SteeringStats> {
        let steered = self.steered.get(port)?.as_ref()?;
        let mut decided = steered.decided();
        let mut irregular = vec![
            ("refused-flows", steered.flows.refused),
            ("flows-without-room", steered.flows.full),
            ("flows-unheard", self.unheard(port, steered)),
        ];
        let mut otherwise = steered.otherwise_before;
        let mut of_xdp = None;
        if let Some(attachment) = self.xdp(port) {
            let steering = attachment.steering();
            if let Ok(counters) = steering.counters() {
                decided = plus(decided, &by_program(&counters));
                otherwise = otherwise.plus(Otherwise::of(&counters));
            }
            let flows = steering.flows().unwrap_or_default();
            of_xdp = Some(flows.into_iter().map(|entry| (entry.flow, entry.packets)).collect::<HashMap<_, _>>());
        }
        irregular.extend(otherwise.named());
        let flows = steered.flows.alive().map(|(key, entry)| SteeredFlowStats {
            flow: Shown(key).to_string(),
            to: entry.to.clone(),
            by: entry.by.clone(),
            remaining_s: entry.expires.saturating_duration_since(Instant::now()).as_secs_f64(),
            pkts: match &of_xdp {
                Some(flows) => flows.get(&flow_of(key)).copied().unwrap_or_default(),
                None => entry.pkts(),
            },
        });
        let names = steered.plan.rules.iter().map(|rule| rule.name.as_str()).chain(["else"]);
        let actions = steered.plan.rules.iter().map(|rule| rule.action).chain([steered.plan.default]);
        let rules = names.zip(actions).zip(&steered.plan.to).zip(decided);
        let rules = rules.map(|(((name, action), to), (pkts, bytes))| SteeredStats {
            name: name.into(),
            to: to.clone(),
            pkts,
            bytes,
            uncounted: steered.by == By::NicFlows && !matches!(action, Action::Tag(_)),
        });
        Some(SteeringStats {
            by: match steered.by {
                By::Xdp => "xdp",
                By::NicFlows => "nic flows",
                By::Manager => "manager",
            }
            .into(),
            rules: rules.collect(),
            flows: flows.collect(),
            irregular: irregular.into_iter().filter(|(_, n)| *n > 0).map(|(what, n)| (what.into(), n)).collect(),
        })
    }
}
