//! What rules counted, over all rule sets.

use std::collections::HashMap;
use std::io;

use libbpf_rs::MapHandle;
use middlenet_steer::{Action, Rule};

use crate::counters::per_cpu_sums;

/// Packets that a rule decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RuleCounters {
    /// How many.
    pub packets: u64,
    /// Their bytes, as they arrived.
    pub bytes: u64,
}

/// What a rule of the present set counted, or its default: `struct rule_counters` in `steer_rules.bpf.c`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    pub(super) action: Action,
    pub(super) done_pkts: u64,
    pub(super) bytes: u64,
    pub(super) missing_pkts: u64,
}

impl Counted {
    fn sum(self) -> RuleCounters {
        RuleCounters { packets: self.done_pkts + self.missing_pkts, bytes: self.bytes }
    }
}

impl RuleCounters {
    fn plus(self, other: Self) -> Self {
        Self { packets: self.packets + other.packets, bytes: self.bytes + other.bytes }
    }
}

/// What the program did with the packets of its interface since it was loaded.
///
/// `redirected_pkts + passed_pkts + dropped_pkts` is every packet that the program saw, and so is the sum over all rules, the
/// default, retired rules, `by_flow_pkts` and `short_pkts`; exact when no packet is under way. A redirected
/// packet may still be dropped by the socket, whose own statistics count that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SteerTotals {
    /// Packets handed to an AF_XDP socket.
    pub redirected_pkts: u64,
    /// Packets handed to the kernel's own stack, for any reason.
    pub passed_pkts: u64,
    /// Packets dropped.
    pub dropped_pkts: u64,
    /// Of those passed: packets for a receive queue without a socket.
    pub missing_pkts: u64,
    /// Of those redirected: packets without a tag, since the driver has no room for metadata.
    pub untagged_pkts: u64,
    /// Of all: packets that a flow decided.
    pub by_flow_pkts: u64,
    /// Of those dropped: packets shorter than an Ethernet header.
    pub short_pkts: u64,
    /// Flows that were not installed because the table was full.
    pub flows_refused: u64,
}

impl SteerTotals {
    /// What was decided by flows, and what no rule counts.
    pub(super) fn read(map: &MapHandle, flows_refused: u64) -> io::Result<Self> {
        let [redirected_pkts, passed_pkts, dropped_pkts, missing_pkts, untagged_pkts, short_pkts] =
            per_cpu_sums(map, 0)?;
        Ok(Self {
            redirected_pkts,
            passed_pkts: passed_pkts + missing_pkts,
            dropped_pkts: dropped_pkts + short_pkts,
            missing_pkts,
            untagged_pkts,
            by_flow_pkts: redirected_pkts + passed_pkts + dropped_pkts + missing_pkts,
            short_pkts,
            flows_refused,
        })
    }

    /// The same with what these rules decided.
    fn with_rules(mut self, counted: &[Counted]) -> Self {
        for of_rule in counted {
            let by_verdict = match of_rule.action {
                Action::Tag(_) => &mut self.redirected_pkts,
                Action::Kernel => &mut self.passed_pkts,
                Action::Drop => &mut self.dropped_pkts,
            };
            *by_verdict += of_rule.done_pkts;
            self.passed_pkts += of_rule.missing_pkts;
            self.missing_pkts += of_rule.missing_pkts;
        }
        self
    }

    fn plus(self, other: Self) -> Self {
        Self {
            redirected_pkts: self.redirected_pkts + other.redirected_pkts,
            passed_pkts: self.passed_pkts + other.passed_pkts,
            dropped_pkts: self.dropped_pkts + other.dropped_pkts,
            missing_pkts: self.missing_pkts + other.missing_pkts,
            untagged_pkts: self.untagged_pkts + other.untagged_pkts,
            by_flow_pkts: self.by_flow_pkts + other.by_flow_pkts,
            short_pkts: self.short_pkts + other.short_pkts,
            flows_refused: self.flows_refused + other.flows_refused,
        }
    }
}

/// What rules and program counted. No sum ever goes backwards.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SteerCounters {
    /// By the program.
    pub totals: SteerTotals,
    /// By rule of the present set, in order. A rule that was in the set before under the same name and with the same match
    /// goes on from there.
    pub rules: Vec<RuleCounters>,
    /// Packets that no rule matched, over all rule sets.
    pub default: RuleCounters,
    /// By rules that are in the set no more.
    pub retired: RuleCounters,
}

/// What earlier rule sets counted, for each rule of the present one, the default and those that are gone.
#[derive(Debug)]
pub(super) struct Kept {
    rules: Vec<RuleCounters>,
    default: RuleCounters,
    retired: RuleCounters,
    /// By all their rules.
    totals: SteerTotals,
}

impl Kept {
    pub(super) fn new(rules: usize) -> Self {
        let none = RuleCounters::default();
        Self { rules: vec![none; rules], default: none, retired: none, totals: SteerTotals::default() }
    }

    /// The sums with what the present rule set counted, its rules in order and the default behind them, and what no rule did.
    pub(super) fn sums(&self, counted: &[Counted], totals: SteerTotals) -> SteerCounters {
        let rules = self.rules.iter().zip(counted).map(|(kept, &counted)| kept.plus(counted.sum())).collect();
        let default = self.default.plus(counted.last().map_or_else(RuleCounters::default, |counted| counted.sum()));
        let totals = self.totals.plus(totals).with_rules(counted);
        SteerCounters { totals, rules, default, retired: self.retired }
    }

    /// What is kept when `new` rules take the place of `old` ones that counted this much.
    pub(super) fn carried_over(&self, old: &[Rule], counted: &[Counted], new: &[Rule]) -> Self {
        let SteerCounters { totals, rules, default, mut retired } = self.sums(counted, SteerTotals::default());
        let mut by_name: HashMap<&str, Vec<usize>> = HashMap::new();
        for (index, rule) in new.iter().enumerate() {
            by_name.entry(&rule.name).or_default().push(index);
        }
        let mut kept = Self::new(new.len());
        for (rule, sum) in old.iter().zip(rules) {
            let same_name = by_name.get_mut(rule.name.as_str());
            // Each is continued by one: rules may be there twice.
            let same = same_name.and_then(|indices| {
                let at = indices.iter().position(|&index| new[index].matches == rule.matches)?;
                Some(indices.remove(at))
            });
            match same {
                Some(index) => kept.rules[index] = sum,
                None => retired = retired.plus(sum),
            }
        }
        Self { default, retired, totals, ..kept }
    }
}
