//! Rules that workers carry out.

use crate::counters::Count;
use crossbeam_utils::CachePadded;
use middlenet_steer::{Action, Head, Tables};

/// What a rule decided about.
#[derive(Debug, Default)]
struct Decided {
    pkts: Count,
    bytes: Count,
}

/// A rule set and what each worker did by it.
#[derive(Debug)]
pub(crate) struct RuleSet {
    tables: Tables,
    /// Tags that packets of the port can bear, in order: those of rules, default and flows.
    tags: Vec<u16>,
    /// By worker, then by rule, the default last.
    decided: Vec<CachePadded<Box<[Decided]>>>,
}

impl RuleSet {
    /// `targets`: where functions may steer flows of the port.
    pub(crate) fn new(tables: Tables, workers: usize, targets: impl Iterator<Item = Action>) -> Self {
        let rules = tables.rules().len();
        let decided = || CachePadded::new((0..=rules).map(|_| Decided::default()).collect());
        let actions = tables.rules().iter().map(|rule| rule.action).chain([tables.default_action()]).chain(targets);
        let tag = |action| match action {
            Action::Tag(tag) => Some(tag),
            Action::Drop | Action::Kernel => None,
        };
        let mut tags: Vec<u16> = actions.filter_map(tag).collect();
        tags.sort_unstable();
        tags.dedup();
        Self { decided: (0..workers).map(|_| decided()).collect(), tables, tags }
    }

    pub(crate) fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Decides about a packet, and counts it.
    #[inline]
    pub(crate) fn decide(&self, worker: u8, head: &Head, packet: &[u8]) -> Action {
        let rules = self.tables.rules();
        let rule = self.tables.first_match(head);
        if let Some(decided) = self.decided[usize::from(worker)].get(rule.unwrap_or(rules.len())) {
            decided.pkts.add(1);
            decided.bytes.add(packet.len() as u64);
        }
        rule.map_or(self.tables.default_action(), |rule| rules[rule].action)
    }

    /// Whether a packet of the port can bear this tag. Tags lie in memory that functions can write, so they are asked for.
    #[inline]
    pub(crate) fn knows(&self, tag: u16) -> bool {
        self.tags.binary_search(&tag).is_ok()
    }

    /// Packets and bytes by rule, the default last.
    pub(crate) fn counts(&self) -> Vec<(u64, u64)> {
        let sum = |rule: usize, count: fn(&Decided) -> &Count| -> u64 {
            self.decided.iter().map(|worker| count(&worker[rule]).get()).sum()
        };
        (0..=self.tables.rules().len()).map(|rule| (sum(rule, |d| &d.pkts), sum(rule, |d| &d.bytes))).collect()
    }
}
