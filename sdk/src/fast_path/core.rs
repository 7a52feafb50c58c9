//! The maps of one fast path and what this side knows of them. An instance and the one that replaces it have the same.

mod pending;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
#[cfg(feature = "testkit")]
use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use middlenet_fast_path::{
    Action, Counted, FLOW_BYTES, FlowRule, FlowState, KEY_BYTES, MapKind, Mode, Service, Settings, SettingsOf, Shape,
    flow_key, read_flow_key,
};
use middlenet_steer::Flow;

use super::rules::{RuleTable, Rules, settings};
use pending::Pending;

use super::store::{LEAST, MOST, Page, Store, read_all};
use super::{Entry, FastPathError};

/// Where the number of the instance lies that installed a flow, in `struct fast_flow`.
const OWNER: std::ops::Range<usize> = 110..112;

/// How long a flow is over before it is swept away. The program's clock is up to a jiffy (10 ms) behind this side's, and a packet counts
/// some time after it was looked up: until then it may still be in use, and what it counts last would be lost. Flows of an
/// earlier generation go at once, since the program asks for that with each packet.
const SETTLED_NS: u64 = 2_000_000_000;

/// For how long the generation is known without asking. Only `clear` of an instance changes it: one's own is known at once, that
/// of another so much later.
const GENERATION_NS: u64 = 10_000_000;

/// What became of a flow that looked over.
enum Swept {
    /// It counts again, or nobody knows.
    Stays,
    /// It was not there any more.
    Evicted,
    /// It was taken out, and how it stood then.
    Ended(FlowState),
}

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
    /// Which one of the processes this is that have followed each other as this instance, once it works.
    turn: Option<u32>,
    /// Another one has followed.
    is_superseded: bool,
    /// The generation, and when it was read.
    generation: Option<(u32, u64)>,
    pending: Pending,
    /// The program knows that what this instance has is written.
    is_ready: bool,
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
            turn: None,
            is_superseded: false,
            generation: None,
            pending: Pending::default(),
            is_ready: false,
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
        (self.owner, self.generation, self.rules, self.known, self.page) = (owner, None, None, None, Page::default());
        (self.turn, self.is_superseded) = (None, false);
    }

    /// This process works as its instance from now on, and no other.
    pub(super) fn take_turn(&mut self) {
        if self.turn.is_some() {
            return;
        }
        let of = SettingsOf::Instance(self.owner);
        let turn = settings(&mut *self.store, of).map_or(0, |last| last.generation).wrapping_add(1);
        let value = Settings { generation: turn, ..Settings::default() }.encode();
        // Where it cannot be written, nobody can follow unseen either: the successor's cannot.
        self.turn = self.store.put(MapKind::Settings, &of.key(), &value).1.ok().map(|()| turn);
    }

    /// Whether another process has taken this one's place. Asked for after the generation is read: as long as there is no successor, it
    /// cannot be one that the successor has begun.
    pub(super) fn look_for_successor(&mut self) -> bool {
        if let Some(turn) = self.turn
            && let Ok(last) = settings(&mut *self.store, SettingsOf::Instance(self.owner))
        {
            self.is_superseded |= last.generation != turn;
        }
        self.is_superseded
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.is_superseded
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
    fn is_first(&self) -> bool {
        self.owner == 0
    }

    /// The generation, and which policy the flows are of.
    fn settings(&mut self) -> Result<(u32, u32), FastPathError> {
        let Settings { generation, policy, .. } = settings(&mut *self.store, SettingsOf::Flows)?;
        self.generation = Some((generation, self.clock.now_ns()));
        self.look_for_successor();
        Ok((generation, policy))
    }

    /// The generation as it is in the map; as it was, if that cannot be read.
    pub(super) fn generation(&mut self) -> u32 {
        self.settings()
            .map(|(generation, _)| generation)
            .unwrap_or_else(|_| self.generation.map_or(0, |(generation, _)| generation))
    }

    /// The generation as it was a moment ago.
    fn recent_generation(&mut self, now_ns: u64) -> u32 {
        match self.generation {
            Some((generation, read_ns)) if now_ns.saturating_sub(read_ns) < GENERATION_NS => generation,
            _ => self.generation(),
        }
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
        let now_ns = self.clock.now_ns();
        // One that is late has the flows go with those that another instance has just cleared.
        let generation = self.recent_generation(now_ns);
        if self.is_superseded {
            return 0;
        }
        let owner = self.owner.to_ne_bytes();
        let (mut keys, mut values, mut gone) = (Vec::new(), Vec::new(), Vec::new());
        for (key, rule) in flows {
            self.forget_pending(&key);
            let Some(rule) = rule else {
                gone.extend(key);
                continue;
            };
            let mut value = rule.encode(now_ns, generation);
            value[OWNER].copy_from_slice(&owner);
            keys.extend(key);
            values.extend(value);
        }
        let (written, refused) = self.put_flows(&keys, &values);
        self.tally.failed += (refused + self.delete_flows(&gone)) as u64;
        written
    }

    /// What is installed for a flow, over or not.
    pub(super) fn entry(&mut self, flow: &Flow) -> Option<Entry> {
        let key = flow_key(flow).filter(|_| self.has(MapKind::Flows))?;
        let value: [u8; FLOW_BYTES] = self.store.get(MapKind::Flows, &key).ok()??.try_into().ok()?;
        let (action, state, now_ns) = (FlowState::action(&value)?, FlowState::decode(&value), self.clock.now_ns());
        let mut generation = self.recent_generation(now_ns);
        if state.generation != generation {
            // The flow or what is known is of yesterday.
            generation = self.generation();
        }
        if self.is_superseded {
            return None;
        }
        Some(Entry { action, state, is_over: state.is_over(now_ns, generation) })
    }

    pub(super) fn query(&mut self, flow: &Flow) -> Option<(Action, FlowState)> {
        self.entry(flow).filter(|entry| !entry.is_over).map(|entry| (entry.action, entry.state))
    }

    fn clear(&mut self) -> Result<(), FastPathError> {
        // Another instance may have cleared: one more than was known would be the number that is there.
        let (generation, policy) = self.settings()?;
        self.begin_generation(generation.wrapping_add(1), policy)
    }

    /// The same, unless flows are of this policy already; later ones are. Whether it did.
    fn clear_unless(&mut self, policy: u32) -> Result<bool, FastPathError> {
        let (generation, before) = self.settings()?;
        if before != policy {
            self.begin_generation(generation.wrapping_add(1), policy)?;
        }
        Ok(before != policy)
    }

    fn begin_generation(&mut self, generation: u32, policy: u32) -> Result<(), FastPathError> {
        let value = Settings { generation, policy, ..Settings::default() }.encode();
        let written = self.store.put(MapKind::Settings, &SettingsOf::Flows.key(), &value).1;
        written.map_err(FastPathError::map(MapKind::Settings))?;
        self.generation = Some((generation, self.clock.now_ns()));
        Ok(())
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
        // Read after the page: no flow in it is of a later generation.
        let generation = self.generation();
        if self.is_superseded {
            return;
        }
        let settled_ns = self.clock.now_ns().saturating_sub(SETTLED_NS);
        for (key, value) in page.keys.as_chunks::<KEY_BYTES>().0.iter().zip(page.values.as_chunks::<FLOW_BYTES>().0) {
            if value[OWNER] != self.owner.to_ne_bytes() {
                continue;
            }
            let state = FlowState::decode(value);
            let swept = match state.is_over(settled_ns, generation) {
                true => self.take_out(key, state.generation, settled_ns, generation),
                false => Swept::Stays,
            };
            let hash = self.hasher.hash_one(&key[..]);
            let known = self.known.get_or_insert_default();
            match swept {
                Swept::Stays => {
                    self.entries_in_pass += 1;
                    known.insert(hash, pass);
                }
                // Known as of an earlier pass: this one will not meet it, and counts it.
                Swept::Evicted => {
                    known.insert(hash, pass.wrapping_sub(1));
                }
                Swept::Ended(state) => {
                    self.tally.expired += 1;
                    known.remove(&hash);
                    ended.extend(read_flow_key(key).map(|flow| (flow, state)));
                }
            }
        }
        if page.is_last {
            // Those that this pass has not met made room for others.
            let known = self.known.get_or_insert_default();
            let before = known.len();
            known.retain(|_, &mut last| last == pass);
            self.tally.evicted += (before - known.len()) as u64;
            self.tally.entries = std::mem::take(&mut self.entries_in_pass);
            self.pass = pass.wrapping_add(1);
        }
        self.page = page;
        self.page.is_last = false;
    }

    /// Takes a flow out that was over when it was read, of the generation `seen` then, unless it has begun anew since. That can be at
    /// any time: the fast path writes a connection to a service over one that is over, and another instance may install what
    /// it likes. So the entry is read and deleted at once, and what turns out to count again is put back. A packet
    /// between the two finds nothing: it begins the connection once more, which is not written over then, or goes to the slow path.
    fn take_out(&mut self, key: &[u8; KEY_BYTES], seen: u32, settled_ns: u64, generation: u32) -> Swept {
        let value: [u8; FLOW_BYTES] = match self.store.take(MapKind::Flows, key) {
            Ok(Some(value)) => match value.try_into() {
                Ok(value) => value,
                Err(_) => return Swept::Evicted,
            },
            Ok(None) => return Swept::Evicted,
            Err(_) => {
                self.tally.failed += 1;
                return Swept::Stays;
            }
        };
        let state = FlowState::decode(&value);
        let is_ours = value[OWNER] == self.owner.to_ne_bytes();
        if is_ours && state.generation == seen && state.is_over(settled_ns, generation) {
            return Swept::Ended(state);
        }
        if self.store.put_back(MapKind::Flows, key, &value).is_err() {
            self.tally.failed += 1;
        }
        Swept::Stays
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

    fn set_rules(&mut self, table: &RuleTable) -> Result<(), FastPathError> {
        self.with_rules(|rules, store, shape| rules.replace(store, shape, table))
    }

    fn set_slots(&mut self, first: u32, slots: &[u32]) -> Result<(), FastPathError> {
        self.with_rules(|rules, store, _| rules.set_slots(store, first, slots))
    }

    pub(super) fn rule_counts(&mut self, rule: u32) -> Counted {
        self.with_rules(|rules, store, _| rules.counted(store, rule)).unwrap_or_default()
    }

    pub(super) fn class_counts(&mut self, class: u16) -> Counted {
        let values = self.store.get(MapKind::Classes, &u32::from(class).to_ne_bytes()).ok().flatten();
        values.map(|values| Counted::sum(&values)).unwrap_or_default()
    }

    pub(super) fn services(&mut self) -> Vec<Service> {
        if !self.has(MapKind::Services) {
            return Vec::new();
        }
        let page = read_all(&mut *self.store, MapKind::Services).unwrap_or_default();
        page.keys.as_chunks().0.iter().filter_map(Service::decode).collect()
    }
}
