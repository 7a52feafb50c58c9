//! What is wanted and not in the maps yet, because they refused it.
//!
//! An instance goes on when the kernel refuses a write: there is no memory at the moment, or a bucket is locked. So whatever was asked
//! for last is kept and tried again, less often each time, until it is there or something else is asked for. What depends on
//! other things waits for them: slots name rules, services have slots.

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasher;
use std::io;

use middlenet_fast_path::{FLOW_BYTES, FlowState, KEY_BYTES, MapKind, Service, ServiceRule, Settings, SettingsOf};

use super::super::queue::Op;
use super::super::rules::settings;
use super::super::store::MOST;
use super::{Core, FastPathError, RuleTable};

/// The wait after a first refusal, a tick; it doubles with each further one up to the longest.
const FIRST_WAIT_NS: u64 = 100_000_000;
const LONGEST_WAIT_NS: u64 = 10_000_000_000;

/// Flows that are refused in one go before the rest waits.
const REFUSALS: usize = 8;

/// Bytes of a flow's key.
type Key = [u8; KEY_BYTES];

#[derive(Debug, Default)]
pub(super) struct Pending {
    /// Flows as they were to be written, so that they end when they would have; nothing: to be taken out.
    flows: HashMap<Key, Option<[u8; FLOW_BYTES]>>,
    clears: bool,
    policy: Option<u32>,
    rules: Option<RuleTable>,
    /// Rules of that table, or of the one that is there, by slot.
    slots: BTreeMap<u32, u32>,
    /// Nothing: to be removed.
    services: Vec<(Service, Option<ServiceRule>)>,
    /// The program is to be told that all of this is there, once it is.
    tells_ready: bool,
    /// How long the last wait was, and when it is over.
    wait_ns: u64,
    due_ns: u64,
}

impl Pending {
    fn add(&mut self, op: Op) {
        match op {
            Op::Clear => {
                self.flows.clear();
                self.clears = true;
            }
            Op::ClearUnless(policy) => self.policy = Some(policy),
            // Slots that wait name rules of the table before.
            Op::Rules(table) => {
                self.slots.clear();
                self.rules = Some(table);
            }
            Op::Slots(first, rules) => self.slots.extend((first..).zip(rules)),
            Op::Service(service, rule) => self.add_service(service, Some(rule)),
            Op::RemoveService(service) => self.add_service(service, None),
        }
    }

    fn add_service(&mut self, service: Service, rule: Option<ServiceRule>) {
        self.services.retain(|(other, _)| *other != service);
        self.services.push((service, rule));
    }

    fn len(&self) -> usize {
        self.flows.len() + self.common() + usize::from(self.tells_ready)
    }

    /// The same of what all instances have in common.
    fn common(&self) -> usize {
        let ones = [self.clears, self.policy.is_some(), self.rules.is_some()].map(usize::from);
        ones.iter().sum::<usize>() + self.slots.len() + self.services.len()
    }
}

impl Core {
    /// How many changes are wanted and not there yet.
    pub(in super::super) fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Does what was asked for, or keeps it. Later things prevail over earlier ones.
    pub(in super::super) fn want(&mut self, ops: impl IntoIterator<Item = Op>) -> Result<(), FastPathError> {
        if self.look_for_successor() {
            return Ok(());
        }
        let is_first = self.is_first();
        // The first instance does what all have in common.
        ops.into_iter()
            .filter(|op| is_first || matches!(op, Op::Clear | Op::ClearUnless(_)))
            .for_each(|op| self.pending.add(op));
        self.pending.tells_ready = is_first && !self.is_ready;
        let result = self.settle();
        self.tally.failed += u64::from(result.is_err());
        self.put_off();
        result
    }

    /// Tries once more what was refused, if its time has come.
    pub(in super::super) fn retry(&mut self) {
        if self.pending.len() == 0 {
            return self.put_off();
        }
        if self.clock.now_ns() < self.pending.due_ns {
            return;
        }
        if self.look_for_successor() {
            self.pending = Pending::default();
            return;
        }
        let flows = std::mem::take(&mut self.pending.flows);
        if !flows.is_empty() {
            let now_ns = self.clock.now_ns();
            let generation = self.generation();
            let is_over = |value: &[u8; FLOW_BYTES]| FlowState::decode(value).is_over(now_ns, generation);
            let counting = flows.into_iter().filter(|(_, value)| !value.as_ref().is_some_and(is_over));
            let (put, gone): (Vec<_>, Vec<_>) = counting.partition(|(_, value)| value.is_some());
            let keys: Vec<u8> = put.iter().flat_map(|(key, _)| *key).collect();
            let values: Vec<u8> = put.iter().filter_map(|(_, value)| *value).flatten().collect();
            let gone: Vec<u8> = gone.iter().flat_map(|(key, _)| *key).collect();
            self.put_flows(&keys, &values);
            self.delete_flows(&gone);
        }
        // Whoever asked has had the first answer.
        let _ = self.settle();
        self.pending.due_ns = 0;
        self.put_off();
    }

    /// Sets when the next try is, if there is anything to be tried.
    fn put_off(&mut self) {
        let pending = &mut self.pending;
        if pending.len() == 0 {
            (pending.wait_ns, pending.due_ns) = (0, 0);
        } else if pending.due_ns == 0 {
            pending.wait_ns = (pending.wait_ns * 2).clamp(FIRST_WAIT_NS, LONGEST_WAIT_NS);
            pending.due_ns = self.clock.now_ns().saturating_add(pending.wait_ns);
        }
    }

    /// Another wish for a flow is no more.
    pub(super) fn forget_pending(&mut self, key: &Key) {
        if !self.pending.flows.is_empty() {
            self.pending.flows.remove(key);
        }
    }

    /// Writes flows; those that are refused are kept, as far as there is room. How many are in place, and how many are not.
    pub(super) fn put_flows(&mut self, keys: &[u8], values: &[u8]) -> (usize, usize) {
        let (mut written, mut refused) = (0, Vec::new());
        let (keys, values) = (keys.as_chunks::<KEY_BYTES>().0, values.as_chunks::<FLOW_BYTES>().0);
        let mut at = 0;
        while at < keys.len() && refused.len() < REFUSALS {
            let (done, result) = self.store.put(MapKind::Flows, keys[at..].as_flattened(), values[at..].as_flattened());
            if let Some(known) = &mut self.known {
                known.extend(keys[at..at + done].iter().map(|key| (self.hasher.hash_one(&key[..]), self.pass)));
            }
            written += done;
            at += done;
            if result.is_err() && at < keys.len() {
                refused.push(at);
                at += 1;
            }
        }
        refused.extend(at..keys.len());
        refused.iter().for_each(|&at| self.keep(keys[at], Some(values[at])));
        self.tally.installed += written as u64;
        (written, refused.len())
    }

    /// Takes flows out; those that are refused are kept. How many are.
    pub(super) fn delete_flows(&mut self, keys: &[u8]) -> usize {
        if keys.is_empty() {
            return 0;
        }
        let result = self.store.delete(MapKind::Flows, keys);
        let keys = keys.as_chunks::<KEY_BYTES>().0;
        if let Some(known) = &mut self.known {
            for key in keys {
                known.remove(&self.hasher.hash_one(&key[..]));
            }
        }
        match result {
            Ok(removed) => {
                self.tally.removed += removed as u64;
                0
            }
            Err(_) => {
                keys.iter().for_each(|key| self.keep(*key, None));
                keys.len()
            }
        }
    }

    /// Keeps what was refused. A flow that stays in the fast path does harm, one that is not there only takes longer: those are
    /// forgotten first.
    fn keep(&mut self, key: Key, value: Option<[u8; FLOW_BYTES]>) {
        let flows = &mut self.pending.flows;
        if flows.len() >= MOST && value.is_none() {
            let install = flows.iter().find(|(_, value)| value.is_some()).map(|(key, _)| *key);
            install.and_then(|key| flows.remove(&key));
        }
        if flows.len() < MOST {
            flows.insert(key, value);
        }
        self.put_off();
    }

    /// Does all that waits, as far as it is possible: what does not depend on anything, rules, slots, services.
    fn settle(&mut self) -> Result<(), FastPathError> {
        let mut result = Ok(());
        if self.pending.clears {
            let cleared = self.clear();
            self.pending.clears = cleared.is_err();
            result = result.and(cleared);
        }
        if let Some(policy) = self.pending.policy.take() {
            match self.clear_unless(policy) {
                Ok(true) => self.pending.flows.clear(),
                Ok(false) => {}
                Err(error) => {
                    self.pending.policy = Some(policy);
                    result = result.and(Err(error));
                }
            }
        }
        result = result.and(self.settle_services(false));
        if let Some(table) = self.pending.rules.take() {
            let set = self.set_rules(&table);
            // Anything else than the kernel would say the same each time.
            if let Err(FastPathError::Map { .. }) = set {
                self.pending.rules = Some(table);
            }
            result = result.and(set);
        }
        if self.pending.rules.is_none() {
            result = result.and(self.settle_slots());
        }
        if self.pending.rules.is_none() && self.pending.slots.is_empty() {
            result = result.and(self.settle_services(true));
        }
        if self.pending.tells_ready && self.pending.common() == 0 {
            result = result.and(self.tell_ready());
        }
        result
    }

    /// Until the program knows that the function has written what it has, it leaves nothing to the kernel in mode `offloading`.
    fn tell_ready(&mut self) -> Result<(), FastPathError> {
        let there = settings(&mut *self.store, SettingsOf::Rules)?;
        if there.ready == 0 {
            let value = Settings { ready: 1, ..there }.encode();
            let written = self.store.put(MapKind::Settings, &SettingsOf::Rules.key(), &value).1;
            written.map_err(FastPathError::map(MapKind::Settings))?;
        }
        (self.is_ready, self.pending.tells_ready) = (true, false);
        Ok(())
    }

    /// Writes slots, as many at once as are beside one another.
    fn settle_slots(&mut self) -> Result<(), FastPathError> {
        let slots: Vec<(u32, u32)> = std::mem::take(&mut self.pending.slots).into_iter().collect();
        let mut result = Ok(());
        for run in slots.chunk_by(|(a, _), (b, _)| a + 1 == *b) {
            let rules: Vec<u32> = run.iter().map(|(_, rule)| *rule).collect();
            let set = self.set_slots(run[0].0, &rules);
            if let Err(FastPathError::Map { .. }) = set {
                self.pending.slots.extend(run.iter().copied());
            }
            result = result.and(set);
        }
        result
    }

    /// Writes services, or removes them.
    fn settle_services(&mut self, writes: bool) -> Result<(), FastPathError> {
        let mut result: io::Result<()> = Ok(());
        let services = std::mem::take(&mut self.pending.services);
        for (service, rule) in services {
            if rule.is_some() != writes {
                self.pending.services.push((service, rule));
                continue;
            }
            let done = match &rule {
                Some(rule) => self.store.put(MapKind::Services, &service.encode(), &rule.encode()).1,
                None => self.store.delete(MapKind::Services, &service.encode()).map(|_| ()),
            };
            if done.is_err() {
                self.pending.services.push((service, rule));
            }
            result = result.and(done);
        }
        result.map_err(FastPathError::map(MapKind::Services))
    }
}
