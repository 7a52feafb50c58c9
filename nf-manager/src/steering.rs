//! The steering rules of ports: carried out by an XDP program where a port has one, else by the workers.

use crate::ManagerError;
use crate::command::Command;
use crate::counters::Count;
use crate::port::Steering;
use crate::running::Running;
use crossbeam_utils::CachePadded;
use middlenet_plan::{SteeredStats, SteeringPlan, SteeringStats};
use middlenet_steer::{Action, Head, Rule};
use std::sync::Arc;

/// What a rule decided about.
#[derive(Debug, Default)]
struct Decided {
    pkts: Count,
    bytes: Count,
}

/// Rules that workers carry out.
#[derive(Debug)]
pub(crate) struct RuleSet {
    rules: Vec<Rule>,
    default: Action,
    /// By worker, then by rule, the default last.
    decided: Vec<CachePadded<Box<[Decided]>>>,
}

impl RuleSet {
    pub(crate) fn new(plan: &SteeringPlan, workers: usize) -> Self {
        let decided = || CachePadded::new((0..=plan.rules.len()).map(|_| Decided::default()).collect());
        Self { rules: plan.rules.clone(), default: plan.default, decided: (0..workers).map(|_| decided()).collect() }
    }

    /// Decides about a packet, and counts it.
    #[inline]
    pub(crate) fn decide(&self, worker: u8, packet: &[u8]) -> Action {
        let head = Head::parse(packet).unwrap_or_default();
        let rule = self.rules.iter().position(|rule| rule.matches.matches(&head));
        if let Some(decided) = self.decided[usize::from(worker)].get(rule.unwrap_or(self.rules.len())) {
            decided.pkts.add(1);
            decided.bytes.add(packet.len() as u64);
        }
        rule.map_or(self.default, |rule| self.rules[rule].action)
    }

    /// Packets and bytes by rule, the default last.
    fn counts(&self) -> Vec<(u64, u64)> {
        let sum = |rule: usize, count: fn(&Decided) -> &Count| -> u64 {
            self.decided.iter().map(|worker| count(&worker[rule]).get()).sum()
        };
        (0..=self.rules.len()).map(|rule| (sum(rule, |d| &d.pkts), sum(rule, |d| &d.bytes))).collect()
    }
}

/// A port's rules, as the control thread holds them.
#[derive(Debug)]
pub(crate) struct Steered {
    pub(crate) plan: SteeringPlan,
    /// Where the workers carry them out.
    pub(crate) rules: Option<Arc<RuleSet>>,
    /// What the rules of the same name decided about before the last replacement.
    before: Vec<(u64, u64)>,
}

impl Steered {
    pub(crate) fn new(plan: SteeringPlan, rules: Option<Arc<RuleSet>>) -> Self {
        let before = vec![(0, 0); plan.to.len()];
        Self { plan, rules, before }
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
    /// Replaces the rules of a port; no packet is lost by it, and each is decided about by the old rules or by the new.
    pub(crate) fn steer(&mut self, port: u8, plan: SteeringPlan) -> Result<(), ManagerError> {
        let at = usize::from(port);
        let Some(steered) = self.steered.get_mut(at).and_then(Option::as_mut) else {
            return Err(ManagerError::new(format!("port {port} has no steering rules to replace")));
        };
        let Some(old) = steered.rules.clone() else {
            return Err(ManagerError::new(format!("port {port} cannot change its rules")));
        };
        let rules = Arc::new(RuleSet::new(&plan, self.counters.len()));
        self.all(|_, done| Ok(Command::Steer { port, rules: Arc::clone(&rules), done }))?;
        if let Some(Some(steered)) = self.steered.get_mut(at) {
            // No worker uses the old rules any more, so their counts are final.
            steered.replace(plan, Some(rules), &old.counts());
        }
        Ok(())
    }

    pub(crate) fn steering_stats(&self, port: usize) -> Option<SteeringStats> {
        let steered = self.steered.get(port)?.as_ref()?;
        let (by, counts) = match &steered.rules {
            Some(rules) => ("manager", rules.counts()),
            None => ("xdp", Vec::new()),
        };
        let names = steered.plan.rules.iter().map(|rule| rule.name.as_str()).chain(["else"]);
        let rules = names
            .zip(&steered.plan.to)
            .zip(steered.total(&counts))
            .map(|((name, to), (pkts, bytes))| SteeredStats { name: name.into(), to: to.clone(), pkts, bytes });
        Some(SteeringStats { by: by.into(), rules: rules.collect(), ..SteeringStats::default() })
    }
}
