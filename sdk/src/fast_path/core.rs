//! The maps of one fast path and what this side knows of them. An instance and the one that replaces it have the same.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
#[cfg(feature = "testkit")]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use middlenet_fast_path::{
    Action, Counted, FLOW_BYTES, FlowRule, FlowState, KEY_BYTES, MapKind, Mode, Service, ServiceRule, Shape, flow_key,
    read_flow_key,
};
use middlenet_steer::Flow;

use super::FastPathError;
use super::rules::{RuleTable, Rules};
use super::store::{LEAST, MOST, Page, Store, read_all};

/// Where the number of the instance lies that installed a flow, in `struct fast_flow`.
const OWNER: std::ops::Range<usize> = 110..112;

/// The clock by which flows end.
#[derive(Debug, Clone)]
pub(super) enum Clock {
    Monotonic,
    /// Moved by a test.
    #[cfg(feature = "testkit")]
    Fake(Arc<AtomicU64>),
}

impl Clock {
    pub(super) fn now_ns(&self) -> u64 {
        match self {
            Self::Monotonic => nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC)
                .map_or(0, |now| now.tv_sec().unsigned_abs() * 1_000_000_000 + now.tv_nsec().unsigned_abs()),
            #[cfg(feature = "testkit")]
            Self::Fake(ns) => ns.load(Ordering::Relaxed),
        }
    }
}

/// What the counters show.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) entries: u64,
    pub(super) installed: u64,
    pub(super) removed: u64,
    pub(super) expired: u64,
    pub(super) evicted: u64,
    pub(super) failed: u64,
}

#[derive(Debug)]
pub(super) struct Core {
    pub(super) mode: Mode,
    pub(super) shape: Shape,
    /// Which of the function's instances this is: replica or worker.
    owner: u16,
    pub(super) store: Box<dyn Store>,
    pub(super) clock: Clock,
    pub(super) tally: Tally,
    rules: Option<Rules>,
    /// Once the function looks for ended flows: those it has installed, by hash, and the last pass that knew of each.
    known: Option<HashMap<u64, u32>>,
    hasher: RandomState,
    page: Page,
    pass: u32,
    entries_in_pass: u64,
}

impl Core {
    pub(super) fn new(mode: Mode, shape: Shape, owner: u16, store: Box<dyn Store>, clock: Clock) -> Self {
        Self {
            mode,
            shape,
            owner,
            store,
            clock,
            tally: Tally::default(),
            rules: None,
            known: None,
            hasher: RandomState::new(),
            page: Page::default(),
            pass: 0,
            entries_in_pass: 0,
        }
    }

    fn has(&self, kind: MapKind) -> bool {
        self.shape.maps().any(|map| map == kind)
    }

    /// Makes this another instance that knows nothing yet.
    #[cfg(test)]
    pub(super) fn forget(&mut self, owner: u16) {
        (self.owner, self.rules, self.known, self.page) = (owner, None, None, Page::default());
    }

    #[cfg(test)]
    pub(super) fn pass(&self) -> u32 {
        self.pass
    }

    #[cfg(test)]
    pub(super) fn rules_there(&self) -> usize {
        self.rules.as_ref().map_or(0, Rules::count)
    }

    /// Whether this instance writes what all instances of a function have in common.
    pub(super) fn is_first(&self) -> bool {
        self.owner == 0
    }

    pub(super) fn generation(&mut self) -> u32 {
        self.settings().0
    }

    /// `struct fast_settings`: the generation, and which policy the flows are of.
    fn settings(&mut self) -> (u32, u32) {
        let settings = self.store.get(MapKind::Settings, &0_u32.to_ne_bytes()).ok().flatten().unwrap_or_default();
        let words = settings.as_chunks::<4>().0;
        let word = |at: usize| words.get(at).map_or(0, |bytes| u32::from_ne_bytes(*bytes));
        (word(0), word(1))
    }

    /// Installs flows and removes those without a rule. How many of the rules are in place.
    pub(super) fn write_flows<'a>(
        &mut self,
        flows: impl Iterator<Item = ([u8; KEY_BYTES], Option<&'a FlowRule>)>,
    ) -> usize {
        if !self.has(MapKind::Flows) {
            self.tally.failed += flows.filter(|(_, rule)| rule.is_some()).count() as u64;
            return 0;
        }
        let generation = self.generation();
        let now_ns = self.clock.now_ns();
        let owner = self.owner.to_ne_bytes();
        let (mut keys, mut values, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (key, rule) in flows {
            let Some(rule) = rule else {
                gone.extend(key);
                continue;
            };
            let mut value = rule.encode(now_ns, generation);
            value[OWNER].copy_from_slice(&owner);
            keys.extend(key);
            values.extend(value);
        }
        let mut written = 0;
        if !keys.is_empty() {
            let result;
            (written, result) = self.store.put(MapKind::Flows, &keys, &values);
            let asked = keys.len() / KEY_BYTES;
            self.tally.installed += written as u64;
            if result.is_err() {
                self.tally.failed += (asked - written) as u64;
            }
            if let Some(known) = &mut self.known {
                known.extend(
                    keys.chunks_exact(KEY_BYTES).take(written).map(|key| (self.hasher.hash_one(key), self.pass)),
                );
            }
        }
        if !gone.is_empty() {
            match self.store.delete(MapKind::Flows, &gone) {
                Ok(removed) => self.tally.removed += removed as u64,
                Err(_) => self.tally.failed += (gone.len() / KEY_BYTES) as u64,
            }
            if let Some(known) = &mut self.known {
                for key in gone.chunks_exact(KEY_BYTES) {
                    known.remove(&self.hasher.hash_one(key));
                }
            }
        }
        written
    }

    pub(super) fn query(&mut self, flow: &Flow) -> Option<(Action, FlowState)> {
        let key = flow_key(flow).filter(|_| self.has(MapKind::Flows))?;
        let value: [u8; FLOW_BYTES] = self.store.get(MapKind::Flows, &key).ok()??.try_into().ok()?;
        let state = FlowState::decode(&value);
        let is_over = state.is_over(self.clock.now_ns(), self.generation());
        FlowState::action(&value).filter(|_| !is_over).map(|action| (action, state))
    }

    /// How a flow stands, over or not.
    pub(super) fn state(&mut self, flow: &Flow) -> Option<FlowState> {
        let key = flow_key(flow).filter(|_| self.has(MapKind::Flows))?;
        let value = self.store.get(MapKind::Flows, &key).ok()??;
        value.first_chunk().map(FlowState::decode)
    }

    pub(super) fn clear(&mut self) -> Result<(), FastPathError> {
        let (generation, policy) = self.settings();
        self.begin_generation(generation.wrapping_add(1), policy)
    }

    /// The same, unless flows are of this policy already; later ones are.
    pub(super) fn clear_unless(&mut self, policy: u32) -> Result<(), FastPathError> {
        let (generation, before) = self.settings();
        if before == policy { Ok(()) } else { self.begin_generation(generation.wrapping_add(1), policy) }
    }

    fn begin_generation(&mut self, generation: u32, policy: u32) -> Result<(), FastPathError> {
        let value = [generation.to_ne_bytes(), policy.to_ne_bytes()].concat();
        self.store.put(MapKind::Settings, &0_u32.to_ne_bytes(), &value).1.map_err(FastPathError::map(MapKind::Settings))
    }

    /// Looks at up to `most` more flows and removes those of this instance that are over.
    pub(super) fn sweep(&mut self, most: usize, ended: &mut Vec<(Flow, FlowState)>) {
        if !self.has(MapKind::Flows) || most == 0 {
            return;
        }
        let most = most.clamp(LEAST, MOST);
        let pass = self.pass;
        self.page.keys.clear();
        self.page.values.clear();
        if self.store.read(MapKind::Flows, most, &mut self.page).is_err() {
            // The next sweep begins anew.
            self.page = Page::default();
            self.entries_in_pass = 0;
            return;
        }
        let page = std::mem::take(&mut self.page);
        let (now_ns, generation) = (self.clock.now_ns(), self.generation());
        let known = self.known.get_or_insert_default();
        let mut over = Vec::new();
        for (key, value) in page.keys.as_chunks::<KEY_BYTES>().0.iter().zip(page.values.as_chunks::<FLOW_BYTES>().0) {
            if value[OWNER] != self.owner.to_ne_bytes() {
                continue;
            }
            let state = FlowState::decode(value);
            let hash = self.hasher.hash_one(&key[..]);
            // The fast path may have begun the flow anew since it was read.
            let is_over = state.is_over(now_ns, generation)
                && match self.store.get(MapKind::Flows, key) {
                    Ok(Some(value)) => {
                        value.first_chunk().is_some_and(|value| FlowState::decode(value).is_over(now_ns, generation))
                    }
                    Ok(None) | Err(_) => true,
                };
            if is_over {
                over.extend(key);
                known.remove(&hash);
                ended.extend(read_flow_key(key).map(|flow| (flow, state)));
            } else {
                self.entries_in_pass += 1;
                known.insert(hash, pass);
            }
        }
        match self.store.delete(MapKind::Flows, &over) {
            Ok(removed) => self.tally.expired += removed as u64,
            Err(_) => self.tally.failed += 1,
        }
        if page.is_last {
            // Those that this pass has not met made room for others.
            let before = known.len();
            known.retain(|_, &mut last| last == pass);
            self.tally.evicted += (before - known.len()) as u64;
            self.tally.entries = std::mem::take(&mut self.entries_in_pass);
            self.pass = pass.wrapping_add(1);
        }
        self.page = page;
        self.page.is_last = false;
    }

    fn with_rules<T>(
        &mut self,
        act: impl FnOnce(&mut Rules, &mut dyn Store, &Shape) -> Result<T, FastPathError>,
    ) -> Result<T, FastPathError> {
        let mut rules = match self.rules.take() {
            Some(rules) => rules,
            None => Rules::read(&mut *self.store, &self.shape)?,
        };
        let result = act(&mut rules, &mut *self.store, &self.shape);
        self.rules = Some(rules);
        result
    }

    pub(super) fn set_rules(&mut self, table: &RuleTable) -> Result<(), FastPathError> {
        self.with_rules(|rules, store, shape| rules.replace(store, shape, table))
    }

    pub(super) fn set_slots(&mut self, first: u32, slots: &[u32]) -> Result<(), FastPathError> {
        self.with_rules(|rules, store, _| rules.set_slots(store, first, slots))
    }

    pub(super) fn rule_counts(&mut self, rule: u32) -> Counted {
        self.with_rules(|rules, store, _| rules.counted(store, rule)).unwrap_or_default()
    }

    pub(super) fn class_counts(&mut self, class: u16) -> Counted {
        let values = self.store.get(MapKind::Classes, &u32::from(class).to_ne_bytes()).ok().flatten();
        values.map(|values| Counted::sum(&values)).unwrap_or_default()
    }

    pub(super) fn set_service(&mut self, service: &Service, rule: &ServiceRule) -> Result<(), FastPathError> {
        let written = self.store.put(MapKind::Services, &service.encode(), &rule.encode());
        written.1.map_err(FastPathError::map(MapKind::Services))
    }

    pub(super) fn remove_service(&mut self, service: &Service) -> Result<(), FastPathError> {
        let removed = self.store.delete(MapKind::Services, &service.encode());
        removed.map(|_| ()).map_err(FastPathError::map(MapKind::Services))
    }

    pub(super) fn services(&mut self) -> Vec<Service> {
        if !self.has(MapKind::Services) {
            return Vec::new();
        }
        let page = read_all(&mut *self.store, MapKind::Services).unwrap_or_default();
        page.keys.as_chunks().0.iter().filter_map(Service::decode).collect()
    }
}
