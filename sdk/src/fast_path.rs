//! The fast path of a hybrid function: rules that an XDP program carries out in the kernel, before packets reach the function
//! (eVNF, section III).
//!
//! The function is the slow path. It says what its fast path can hold ([`NetworkFunction::FAST_PATH`](crate::NetworkFunction::FAST_PATH)),
//! and installs rules: for flows whose packets it has seen (reactive), or from its configuration before any packet comes
//! (proactive). What no rule matches comes to [`process`](crate::NetworkFunction::process) as ever. Without `mode:` in the manifest there is no fast
//! path; then every call does nothing, and the function needs no second way of working.
//!
//! ```
//! use middlenet_sdk::fast_path::{Action, Ends, FastPath, FlowRule, Mode, Rewrite, Shape, flow_of};
//! use middlenet_sdk::prelude::*;
//! use middlenet_sdk::testkit::Testkit;
//! use middlenet_sdk::wire::{FlowKey, PacketBuilder};
//! use std::time::Duration;
//!
//! /// Lowers the TTL, as a router would.
//! struct Lower(FastPath);
//!
//! middlenet_sdk::config! { struct Config {} }
//!
//! impl NetworkFunction for Lower {
//!     type Config = Config;
//!     const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(65_536);
//!
//!     fn new(_: Config, init: &mut Init) -> Result<Self, ConfigError> {
//!         Ok(Self(init.fast_path()))
//!     }
//!
//!     fn process(&mut self, burst: &mut Burst<'_>) {
//!         for mut packet in burst.iter_mut() {
//!             let Some(flow) = packet.flow_key() else { continue };
//!             let Some(mut ip) = packet.ipv4_mut() else { continue };
//!             if ip.ttl() <= 1 {
//!                 packet.drop(DropReason::TTL_EXPIRED);
//!                 continue;
//!             }
//!             ip.set_ttl(ip.ttl() - 1);
//!             // The next packets of this flow do not come here.
//!             self.0.install(&flow_of(&flow), &FlowRule {
//!                 action: Action { rewrite: Rewrite { lower_ttl: true, ..Rewrite::default() }, ..Action::default() },
//!                 lifetime: Duration::from_secs(3600),
//!                 idle: Some(Duration::from_secs(60)),
//!                 ends: Ends::Ignored,
//!             });
//!         }
//!     }
//!
//!     fn tick(&mut self, _: &mut Burst<'_>) {
//!         self.0.sweep(1024, &mut |_flow, _state| {});
//!     }
//! }
//!
//! let mut kit = Testkit::<Lower>::with_fast_path(serde_json::json!({}), Mode::Reactive).unwrap();
//! let (a, b) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
//! let packet = PacketBuilder::new().ipv4(a, b).udp(1000, 53).build();
//! kit.run("left", &[&packet]);
//! let flow = flow_of(&FlowKey::parse(&packet).unwrap());
//! assert!(kit.fast_path().decide(&flow).unwrap().rewrite.lower_ttl);
//! assert_eq!(kit.counter("fast_installed"), 1);
//! ```
//!
//! **When calls take effect.** In `new`, everything is kept until the instance takes over: until then the rules in the kernel are those
//! of the instance it replaces. Later, flows that are [installed](FastPath::install) and [removed](FastPath::remove) are
//! queued and in the kernel when `process` or `tick` returns, with one system call for all of a burst; all other calls work
//! at once.
//!
//! **What the kernel refuses** (it is out of memory, or a map is full) is counted, kept, and tried again after calls of `process` and `tick`, from
//! 100 ms to 10 s apart, until it is there or the function asks for something else. A new table takes the place of one that waits,
//! and of slots that wait. Up to 4096 flows are kept; they end when they would have ended. The gauge `fast_pending` says how much waits.
//!
//! **What stays.** Rules outlive the function: while it is restarted, the fast path goes on with what it knows. An instance that
//! starts finds them: [`FastPath::set_rules`] makes the difference; flows of a configuration that is no more are its own
//! to [clear](FastPath::clear), services to [remove](FastPath::remove_service).
//!
//! **Several instances** of one function (replicas, or workers of the nf-manager) share a fast path. Each has the flows that it
//! installed; rules, slots and services are written by the first one and must be the same in all.

mod core;
mod difference;
mod error;
mod handle;
mod kernel;
mod queue;
mod rules;
mod store;
mod survey;
#[cfg(feature = "testkit")]
mod view;

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use middlenet_fast_path::{
    Action, Counted, Ends, FlowRule, FlowState, MapKind, Mode, Rewrite, Service, ServiceRule, Shape, Then, slot_of,
};
pub use middlenet_steer::{Flow, Prefix};

use self::core::{Clock, Core};
use crate::Counter;
use crate::wire::FlowKey;
pub use error::FastPathError;
pub(crate) use handle::COUNTERS;
use kernel::Kernel;
use middlenet_fast_path::flow_key;
use queue::{Op, Queue};
pub use rules::RuleTable;
use store::Memory;
pub use survey::{Round, Survey};
#[cfg(feature = "testkit")]
pub use view::View;

/// The flow that a packet with this key belongs to.
pub fn flow_of(key: &FlowKey) -> Flow {
    Flow {
        vlan: key.vid,
        src: key.src_ip(),
        dst: key.dst_ip(),
        protocol: key.protocol,
        src_port: key.src_port,
        dst_port: key.dst_port,
    }
}

/// An instance's handle on its fast path, from [`Init::fast_path`](crate::Init::fast_path); cheap to clone. See the
/// [module](self).
#[derive(Debug, Clone, Default)]
pub struct FastPath(Option<Arc<Handle>>);

/// What is installed for a flow, from [`FastPath::entry`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// What is done with its packets.
    pub action: Action,
    /// How it stands.
    pub state: FlowState,
    /// It counts no more: by its lifetime, by idleness, or by [`FastPath::clear`].
    pub is_over: bool,
}

/// How an instance stands towards the maps.
const DRAFT: u8 = 0;
const LIVE: u8 = 1;
const REPLACED: u8 = 2;

#[derive(Debug)]
struct Handle {
    core: Arc<Mutex<Core>>,
    mode: Mode,
    shape: Shape,
    stage: AtomicU8,
    /// Something is queued, or waits for another try.
    is_queued: AtomicBool,
    queue: Mutex<Queue>,
    counters: Mutex<Vec<Counter>>,
}

/// A panic elsewhere leaves nothing half-done that matters here: what is in the maps is noted after each write.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl FastPath {
    /// For hosts: the fast path with these maps, passed by the nf-manager. `instance` is which of the function's it is, replica or worker,
    /// from 0.
    ///
    /// # Errors
    /// [`FastPathError::Missing`] if the shape has a map that is not among them, [`FastPathError::Map`] if there is no memory.
    pub fn open(mode: Mode, shape: Shape, maps: Vec<(MapKind, OwnedFd)>, instance: u16) -> Result<Self, FastPathError> {
        let kernel = Kernel::open(&shape, maps)?;
        Ok(Self::from_core(Core::new(mode, shape, instance, Box::new(kernel), Clock::Monotonic)))
    }

    /// A fast path whose maps are in memory, where no packet meets them: to try out a configuration.
    pub fn in_memory(mode: Mode, shape: Shape) -> Self {
        Self::from_core(Core::new(mode, shape, 0, Box::new(Memory::new(shape)), Clock::Monotonic))
    }

    /// The same with a clock that a test moves.
    #[cfg(feature = "testkit")]
    pub(crate) fn in_memory_at(mode: Mode, shape: Shape, now_ns: Arc<std::sync::atomic::AtomicU64>) -> Self {
        Self::from_core(Core::new(mode, shape, 0, Box::new(Memory::new(shape)), Clock::Fake(now_ns)))
    }

    /// Moves that clock.
    #[cfg(feature = "testkit")]
    pub(crate) fn set_clock(&self, now_ns: u64) {
        if let Some(handle) = &self.0
            && let Clock::Fake(ns) = &lock(&handle.core).clock
        {
            ns.store(now_ns, Ordering::Relaxed);
        }
    }

    /// What is in the maps, for tests.
    #[cfg(feature = "testkit")]
    pub(crate) fn view(&self) -> Option<View> {
        self.0.as_ref().map(|handle| View(handle.core.clone()))
    }

    fn from_core(core: Core) -> Self {
        let (mode, shape) = (core.mode, core.shape);
        Self::with_core(Arc::new(Mutex::new(core)), mode, shape)
    }

    fn with_core(core: Arc<Mutex<Core>>, mode: Mode, shape: Shape) -> Self {
        Self(Some(Arc::new(Handle {
            core,
            mode,
            shape,
            stage: AtomicU8::new(DRAFT),
            is_queued: AtomicBool::new(false),
            queue: Mutex::default(),
            counters: Mutex::default(),
        })))
    }

    /// For hosts: the handle of the instance that is to replace this one's. What it asks for is kept until it takes over.
    pub fn renewed(&self) -> Self {
        self.0.as_ref().map_or_else(Self::default, |of| Self::with_core(of.core.clone(), of.mode, of.shape))
    }

    pub(crate) fn count_with(&self, counters: [Counter; COUNTERS.len()]) {
        if let Some(handle) = &self.0 {
            *lock(&handle.counters) = counters.into();
        }
    }

    /// For hosts: the instance works from now on, and what it asked for in `new` is done. The one that had the same maps and number in another
    /// process has no say any more.
    pub fn begin(&self) {
        let Some(handle) = &self.0 else { return };
        let before = handle.stage.swap(LIVE, Ordering::Relaxed);
        lock(&handle.core).take_turn();
        if before == DRAFT {
            let ops = std::mem::take(&mut lock(&handle.queue).ops);
            // Nobody who asked waits for an answer: the configuration has been taken.
            if let Err(e) = handle.want(ops) {
                eprintln!("fast path: {e}");
            }
        }
        self.flush();
    }

    /// For hosts: the instance works no more; its calls do nothing.
    pub fn end(&self) {
        if let Some(handle) = &self.0 {
            handle.stage.store(REPLACED, Ordering::Relaxed);
        }
    }

    /// For hosts, before the instance is dropped: looks whether another process has taken its place. Then its calls do nothing from here on, so
    /// that what the fast path has counted is told of by one of them.
    pub fn look_for_successor(&self) {
        if let Some(handle) = self.usable() {
            let mut core = lock(&handle.core);
            core.look_for_successor();
            handle.show(&core);
        }
    }

    /// For hosts, after each call of the function: writes what it has queued, and tries what failed once more. Costs a load if there
    /// is nothing.
    #[inline]
    pub fn flush(&self) {
        if let Some(handle) = &self.0
            && handle.is_queued.load(Ordering::Relaxed)
        {
            handle.flush();
        }
    }

    /// Whether another instance has taken this one's place: what is in the fast path is for that one to tell of and to remove, and calls here do
    /// nothing. To be asked when the function is dropped.
    pub fn has_successor(&self) -> bool {
        self.0.is_some() && self.usable().is_none()
    }

    /// How it works; nothing if there is no fast path here.
    pub fn mode(&self) -> Option<Mode> {
        self.0.as_ref().map(|handle| handle.mode)
    }

    /// Whether there is one.
    pub fn is_active(&self) -> bool {
        self.0.is_some()
    }

    /// The clock of [`FlowState`]: CLOCK_MONOTONIC.
    pub fn now(&self) -> Duration {
        self.0.as_ref().map_or(Duration::ZERO, |handle| Duration::from_nanos(lock(&handle.core).clock.now_ns()))
    }

    /// Installs a rule for a flow, in place of one that is there. Queued: it is in the kernel when `process` or `tick` returns. For
    /// new flows, not for every packet. The flow that was not used for longest makes room for one too many. A flow
    /// whose addresses are of different versions is none, and counted as failed.
    pub fn install(&self, flow: &Flow, rule: &FlowRule) {
        self.queue(flow, Some(*rule));
    }

    /// Removes the rule of a flow. Queued as well.
    pub fn remove(&self, flow: &Flow) {
        self.queue(flow, None);
    }

    fn queue(&self, flow: &Flow, rule: Option<FlowRule>) {
        let Some(handle) = self.usable() else { return };
        match flow_key(flow) {
            Some(key) => {
                let is_full = lock(&handle.queue).add(key, rule);
                handle.is_queued.store(true, Ordering::Relaxed);
                if is_full {
                    handle.flush();
                }
            }
            None => handle.fail(),
        }
    }

    /// Installs rules for many flows, now and in bulk. How many are in place.
    pub fn install_all(&self, rules: &[(Flow, FlowRule)]) -> usize {
        let Some(handle) = self.usable() else { return 0 };
        if handle.is_draft() {
            rules.iter().for_each(|(flow, rule)| self.install(flow, rule));
            return rules.len();
        }
        // Later calls prevail over earlier ones.
        self.flush();
        let mut core = lock(&handle.core);
        let keyed = rules.iter().filter_map(|(flow, rule)| Some((flow_key(flow)?, Some(rule))));
        let installed = core.write_flows(keyed);
        core.tally.failed += rules.iter().filter(|(flow, _)| flow_key(flow).is_none()).count() as u64;
        handle.show(&core);
        installed
    }

    /// What is installed for a flow, and how it stands; nothing if it is over. A system call: for new flows and ticks, not per packet. What
    /// is queued is not seen, and that another instance has [cleared](Self::clear) all flows some milliseconds later.
    pub fn query(&self, flow: &Flow) -> Option<(Action, FlowState)> {
        lock(&self.usable()?.core).query(flow)
    }

    /// The same, also of a flow that is over and not swept away yet: what it counted until then.
    pub fn entry(&self, flow: &Flow) -> Option<Entry> {
        lock(&self.usable()?.core).entry(flow)
    }

    /// Makes all flows void at once, those of other instances too. What is queued is forgotten. Other instances see it up to 10 ms
    /// later: what they install until then is void as well.
    pub fn clear(&self) {
        let Some(handle) = self.usable() else { return };
        lock(&handle.queue).forget_flows();
        // Void flows are as good as none: `sweep` takes them out.
        let _ = handle.act(Op::Clear);
    }

    /// The same, unless the flows that are there were installed under this policy, and notes that those to come are: for `new`, where
    /// what an instance before this one has decided may stay, but not what another configuration has. `policy` is a hash of all that
    /// decides about flows, alike in every process; it may be any number, all instances of a function must give the same.
    pub fn clear_unless(&self, policy: u32) {
        let Some(handle) = self.usable() else { return };
        // Maps that nobody has written say 0.
        let _ = handle.act(Op::ClearUnless(policy.max(1)));
    }

    /// Looks at about `most` more flows (256 at least, 4096 at most), removes those of this instance that have been over for two seconds
    /// or are void by [`clear`](Self::clear), and tells of each and of what it counted to the last. From `tick`; it goes round and round.
    /// One that cannot be taken out stays for the next round. A flow that made room for others is not told of, but counted as evicted when
    /// a round is done.
    pub fn sweep(&self, most: usize, ended: &mut dyn FnMut(&Flow, &FlowState)) {
        let Some(handle) = self.usable().filter(|handle| !handle.is_draft()) else { return };
        let mut over = Vec::new();
        {
            let mut core = lock(&handle.core);
            core.sweep(most, &mut over);
            handle.show(&core);
        }
        over.iter().for_each(|(flow, state)| ended(flow, state));
    }

    /// Replaces all rules, and the prefixes and ports that name them, by difference. At no moment does a packet meet a rule that is
    /// neither the one before nor the one after, but for one whose own look-ups are just going on; and there is no gap. A
    /// rule that is in both tables keeps its counts. Slots keep the rules they had until they are [set](Self::set_slots).
    ///
    /// # Errors
    /// When the shape has no room for it, or a rule is named that is not there. What the kernel refuses is no error, but tried again.
    pub fn set_rules(&self, rules: &RuleTable) -> Result<(), FastPathError> {
        let Some(handle) = self.usable() else { return Ok(()) };
        rules.check(&handle.shape)?;
        lock(&handle.queue).rules = rules.rules.len();
        handle.act(Op::Rules(rules.clone()))
    }

    /// What a rule of the table counted.
    pub fn rule_counts(&self, rule: u32) -> Counted {
        self.usable().map(|handle| lock(&handle.core).rule_counts(rule)).unwrap_or_default()
    }

    /// What a class counted since the fast path is there.
    pub fn class_counts(&self, class: u16) -> Counted {
        self.usable().map(|handle| lock(&handle.core).class_counts(class)).unwrap_or_default()
    }

    /// Sets slots, from `first` on, to rules of the table.
    ///
    /// # Errors
    /// As [`set_rules`](Self::set_rules).
    pub fn set_slots(&self, first: u32, rules: &[u32]) -> Result<(), FastPathError> {
        let Some(handle) = self.usable() else { return Ok(()) };
        check_slots(&handle.shape, first, rules.len())?;
        let there = lock(&handle.queue).rules;
        if let Some(&rule) = rules.iter().find(|&&rule| rule as usize >= there) {
            return Err(FastPathError::NoRule { rule, rules: there });
        }
        handle.act(Op::Slots(first, rules.to_vec()))
    }

    /// Sets where new connections to a service go; its slots are set before.
    ///
    /// # Errors
    /// As [`set_rules`](Self::set_rules).
    pub fn set_service(&self, service: &Service, rule: &ServiceRule) -> Result<(), FastPathError> {
        let Some(handle) = self.usable() else { return Ok(()) };
        check_slots(&handle.shape, rule.first, rule.count as usize)?;
        if !matches!(service.protocol, 6 | 17) {
            return Err(FastPathError::Protocol(service.protocol));
        }
        handle.act(Op::Service(*service, *rule))
    }

    /// Removes a service. Its connections go on as long as they last.
    pub fn remove_service(&self, service: &Service) {
        if let Some(handle) = self.usable() {
            // Nothing can be wrong with it.
            let _ = handle.act(Op::RemoveService(*service));
        }
    }

    /// The services in the fast path now, in any order: those of an earlier instance too.
    pub fn services(&self) -> Vec<Service> {
        self.usable().map(|handle| lock(&handle.core).services()).unwrap_or_default()
    }

    fn usable(&self) -> Option<&Handle> {
        self.0.as_deref().filter(|handle| handle.stage.load(Ordering::Relaxed) != REPLACED)
    }
}

fn check_slots(shape: &Shape, first: u32, count: usize) -> Result<(), FastPathError> {
    let end = (first as usize).saturating_add(count);
    if end > shape.slots as usize {
        return Err(FastPathError::TooMany { what: "slots", count: end, most: shape.slots });
    }
    Ok(())
}

#[cfg(test)]
mod tests;
