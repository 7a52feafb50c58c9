//! What an instance has asked for and is not done yet.

use std::collections::HashMap;

use middlenet_fast_path::{FlowRule, KEY_BYTES, Service, ServiceRule};

use super::RuleTable;

/// Flows that are queued at most before they are written, though the burst is not over.
const MOST: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// One entry per flow: the last that was asked for.
    pub(super) flows: HashMap<[u8; KEY_BYTES], Option<FlowRule>>,
    /// What an instance asked for that has not taken over yet.
    pub(super) ops: Vec<Op>,
    /// How many rules its table has.
    pub(super) rules: usize,
}

impl Queue {
    /// Whether it is full now.
    pub(super) fn add(&mut self, key: [u8; KEY_BYTES], rule: Option<FlowRule>) -> bool {
        self.flows.insert(key, rule);
        self.flows.len() >= MOST
    }

    pub(super) fn forget_flows(&mut self) {
        self.flows.clear();
    }
}

/// What changes more than flows.
#[derive(Debug)]
pub(super) enum Op {
    Rules(RuleTable),
    Slots(u32, Vec<u32>),
    Service(Service, ServiceRule),
    RemoveService(Service),
    Clear,
    ClearUnless(u32),
}
