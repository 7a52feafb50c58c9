//! Steering: the rules of ports, and the flows that functions send elsewhere. Carried out by an XDP program where a port has
//! one, else by the workers.

mod flows;
mod rules;

pub(crate) use flows::{Diversion, Diverted};
pub(crate) use rules::RuleSet;

use crate::command::Command;
use crate::open::Opened;
use crate::port::Steering;
use crate::running::Running;
use crate::{ManagerError, sentence};
use flows::Ledger;
use middlenet_bpf::XdpAttachment;
use middlenet_plan::{PortPlan, SteeredStats, SteeringPlan, SteeringStats};
use middlenet_sdk::SteeredFlow;
use middlenet_steer::Tables;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A port's rules and flows, as the control thread holds them.
#[derive(Debug)]
pub(crate) struct Steered {
    plan: SteeringPlan,
    /// Where the workers carry them out.
    rules: Option<Arc<RuleSet>>,
    /// What the rules of the same name decided about before the last replacement.
    before: Vec<(u64, u64)>,
    flows: Ledger,
}

/// The plan's rules as tables.
pub(crate) fn tables(port: &str, plan: &SteeringPlan) -> Result<Tables, ManagerError> {
    Tables::compile(&plan.rules, plan.default).map_err(|e| sentence(port, &e))
}

impl Steered {
    /// The steering of a port that is open; none without rules.
    pub(crate) fn of(port: &PortPlan, opened: &Opened, workers: usize) -> Result<Option<Self>, ManagerError> {
        let Some(plan) = port.steering.clone() else { return Ok(None) };
        let rules = match opened {
            Opened::Xdp { .. } => None,
            Opened::Dpdk(_) | Opened::Capture => Some(Arc::new(RuleSet::new(tables(&port.name, &plan)?, workers))),
        };
        let before = vec![(0, 0); plan.to.len()];
        Ok(Some(Self { plan, rules, before, flows: Ledger::default() }))
    }

    /// How a worker tells the packets of the port apart.
    pub(crate) fn of_worker(steered: Option<&Self>) -> Steering {
        match steered {
            None => Steering::None,
            Some(Self { rules: Some(rules), .. }) => Steering::Rules(Arc::clone(rules)),
            Some(Self { rules: None, .. }) => Steering::Marked,
        }
    }

    /// Takes new rules; `counts` are those of the old ones, and stay with rules of the same name.
    fn replace(&mut self, plan: SteeringPlan, rules: Option<Arc<RuleSet>>, counts: &[(u64, u64)]) {
        let old = self.total(counts);
        let names = |plan: &SteeringPlan| plan.rules.iter().map(|rule| rule.name.clone()).collect::<Vec<_>>();
        let (known, default) = (names(&self.plan), old.last().copied().unwrap_or_default());
        let kept = |name: &String| known.iter().position(|n| n == name).and_then(|at| old.get(at)).copied();
        self.before = names(&plan).iter().map(|name| kept(name).unwrap_or_default()).chain([default]).collect();
        (self.plan, self.rules) = (plan, rules);
    }

    fn total(&self, counts: &[(u64, u64)]) -> Vec<(u64, u64)> {
        let sum = |(&(pkts, bytes), &(p, b)): (&(u64, u64), &(u64, u64))| (pkts + p, bytes + b);
        counts.iter().zip(&self.before).map(sum).collect()
    }
}

impl Running {
    fn steered(&mut self, port: u8) -> Result<&mut Steered, ManagerError> {
        let steered = self.steered.get_mut(usize::from(port)).and_then(Option::as_mut);
        steered.ok_or_else(|| ManagerError::new(format!("port {port} has no steering rules")))
    }

    fn attachment(&self, port: u8) -> Option<&XdpAttachment> {
        match self.opened.get(usize::from(port)) {
            Some(Opened::Xdp { attachment, .. }) => Some(attachment),
            _ => None,
        }
    }
}
