//! What becomes of rules when maps refuse, and when the kernel is at work between two calls.

use super::*;
use middlenet_fast_path::{Settings, SettingsOf};
use std::sync::atomic::AtomicU64;
use store::{Page, Store};

mod refusals;
mod successors;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    Get,
    Put,
    Delete,
    Take,
    PutBack,
    Read,
}

/// What the kernel does between two calls.
type Act = Box<dyn FnOnce(&mut Memory) + Send>;

/// What maps are to do otherwise than they would, and what was asked of them.
#[derive(Default)]
struct Plan {
    calls: Vec<(Call, MapKind)>,
    refused: BTreeSet<(u8, String)>,
    /// Entries that can be written until there is no room for more.
    room: Option<usize>,
    /// Flows that cannot be written.
    unwritable: Vec<[u8; 40]>,
    /// What happens before the next entry is taken out.
    before_take: Option<Act>,
}

impl Plan {
    fn refuse(&mut self, call: Call, kind: MapKind) {
        self.refused.insert((call as u8, format!("{kind:?}")));
    }

    fn begin(&mut self, call: Call, kind: MapKind) -> std::io::Result<()> {
        self.calls.push((call, kind));
        match self.refused.contains(&(call as u8, format!("{kind:?}"))) {
            true => Err(std::io::ErrorKind::ResourceBusy.into()),
            false => Ok(()),
        }
    }
}

/// Maps in memory that a plan interferes with.
struct Faulty {
    memory: Arc<Mutex<Memory>>,
    plan: Arc<Mutex<Plan>>,
}

impl std::fmt::Debug for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        lock(&self.memory).fmt(f)
    }
}

impl Store for Faulty {
    fn get(&mut self, kind: MapKind, key: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        lock(&self.plan).begin(Call::Get, kind)?;
        lock(&self.memory).get(kind, key)
    }

    fn put(&mut self, kind: MapKind, keys: &[u8], values: &[u8]) -> (usize, std::io::Result<()>) {
        let mut plan = lock(&self.plan);
        if let Err(e) = plan.begin(Call::Put, kind) {
            return (0, Err(e));
        }
        let asked = keys.len() / kind.key_bytes();
        let refused = keys.chunks(kind.key_bytes()).position(|key| plan.unwritable.iter().any(|other| other == key));
        let fits = plan.room.unwrap_or(asked).min(refused.unwrap_or(asked)).min(asked);
        plan.room = plan.room.map(|room| room - fits);
        let (keys, values) = (&keys[..fits * kind.key_bytes()], &values[..fits * kind.value_bytes()]);
        match lock(&self.memory).put(kind, keys, values) {
            (written, Ok(())) if fits < asked => (written, Err(std::io::ErrorKind::ResourceBusy.into())),
            result => result,
        }
    }

    fn delete(&mut self, kind: MapKind, keys: &[u8]) -> std::io::Result<usize> {
        lock(&self.plan).begin(Call::Delete, kind)?;
        lock(&self.memory).delete(kind, keys)
    }

    fn take(&mut self, kind: MapKind, key: &[u8]) -> std::io::Result<Option<Vec<u8>>> {
        let mut plan = lock(&self.plan);
        plan.begin(Call::Take, kind)?;
        if let Some(act) = plan.before_take.take() {
            act(&mut lock(&self.memory));
        }
        lock(&self.memory).take(kind, key)
    }

    fn put_back(&mut self, kind: MapKind, key: &[u8], value: &[u8]) -> std::io::Result<()> {
        lock(&self.plan).begin(Call::PutBack, kind)?;
        lock(&self.memory).put_back(kind, key, value)
    }

    fn read(&mut self, kind: MapKind, most: usize, page: &mut Page) -> std::io::Result<()> {
        lock(&self.plan).begin(Call::Read, kind)?;
        lock(&self.memory).read(kind, most, page)
    }
}

const SECOND: u64 = 1_000_000_000;

/// A fast path with such maps, at 100 seconds by its clock.
struct Bench {
    path: FastPath,
    memory: Arc<Mutex<Memory>>,
    plan: Arc<Mutex<Plan>>,
    now_ns: Arc<AtomicU64>,
}

impl Bench {
    fn new() -> Self {
        let bench = Self::draft(0);
        bench.path.begin();
        bench
    }

    /// Of an instance that has not begun.
    fn draft(instance: u16) -> Self {
        let (memory, now_ns) = (Arc::new(Mutex::new(Memory::new(SHAPE))), Arc::new(AtomicU64::new(100 * SECOND)));
        Self::on(memory, Arc::default(), now_ns, instance)
    }

    fn on(memory: Arc<Mutex<Memory>>, plan: Arc<Mutex<Plan>>, now_ns: Arc<AtomicU64>, instance: u16) -> Self {
        let store = Faulty { memory: memory.clone(), plan: plan.clone() };
        let core = Core::new(Mode::Reactive, SHAPE, instance, Box::new(store), Clock::Fake(now_ns.clone()));
        Self { path: FastPath::from_core(core), memory, plan, now_ns }
    }

    /// Another process with the same maps, as the same instance or another one. It has not begun.
    fn beside(&self, instance: u16) -> Self {
        Self::on(self.memory.clone(), self.plan.clone(), self.now_ns.clone(), instance)
    }

    fn install(&self, number: u32) {
        self.path.install(&flow(number), &lasting(1000));
        self.path.flush();
    }

    fn advance(&self, ns: u64) {
        self.now_ns.fetch_add(ns, Ordering::Relaxed);
    }

    /// What ended in a round.
    fn sweep(&self) -> Vec<(Flow, FlowState)> {
        let mut ended = Vec::new();
        self.path.sweep(4096, &mut |flow, state| ended.push((*flow, *state)));
        ended
    }

    /// What was asked of the maps since the last call.
    fn calls(&self) -> Vec<(Call, MapKind)> {
        std::mem::take(&mut lock(&self.plan).calls)
    }

    fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut lock(&self.plan));
    }
}

/// Writes a value over that of a flow, as the fast path may at any time.
fn begin_anew(number: u32, rule: FlowRule, now_ns: u64, generation: u32) -> Act {
    Box::new(move |memory| {
        let key = flow_key(&flow(number)).unwrap();
        memory.put(MapKind::Flows, &key, &rule.encode(now_ns, generation)).1.unwrap();
    })
}

#[test]
fn a_flow_is_swept_when_it_has_been_over_for_two_seconds() {
    let bench = Bench::new();
    let idle = FlowRule { idle: Some(Duration::from_secs(5)), ..lasting(1000) };
    bench.path.install_all(&[(flow(1), lasting(10)), (flow(2), idle)]);
    bench.advance(7 * SECOND);
    assert_eq!(bench.path.query(&flow(2)), None, "it is over at once");
    assert_eq!(bench.sweep(), []);
    bench.advance(1);
    assert_eq!(bench.sweep().iter().map(|(flow, _)| *flow).collect::<Vec<_>>(), [flow(2)]);
    bench.advance(5 * SECOND - 2);
    assert_eq!(bench.sweep(), []);
    bench.advance(1);
    assert_eq!(bench.sweep().iter().map(|(flow, _)| *flow).collect::<Vec<_>>(), [flow(1)]);
    // What is void by another generation goes at once.
    bench.path.install_all(&[(flow(3), lasting(10))]);
    bench.path.clear();
    assert_eq!(bench.sweep().len(), 1);
}

#[test]
fn a_flow_that_cannot_be_taken_out_stays_and_is_told_of_once() {
    let bench = Bench::new();
    bench.path.install_all(&[(flow(1), lasting(1))]);
    bench.advance(10 * SECOND);
    bench.change(|plan| plan.refuse(Call::Take, MapKind::Flows));
    assert_eq!(bench.sweep(), []);
    assert_eq!((tally(&bench.path).failed, tally(&bench.path).expired, tally(&bench.path).entries), (1, 0, 1));
    assert!(bench.path.entry(&flow(1)).unwrap().is_over);
    bench.change(|plan| plan.refused.clear());
    assert_eq!((bench.sweep().len(), bench.sweep().len()), (1, 0));
    assert_eq!((tally(&bench.path).expired, tally(&bench.path).evicted), (1, 0));
}

#[test]
fn a_flow_that_is_gone_when_it_is_to_be_taken_out_was_evicted() {
    let bench = Bench::new();
    bench.path.install_all(&[(flow(1), lasting(1)), (flow(2), lasting(1000))]);
    bench.advance(10 * SECOND);
    bench.change(|plan| {
        plan.before_take = Some(Box::new(|memory| {
            memory.take(MapKind::Flows, &flow_key(&flow(1)).unwrap()).unwrap();
        }));
    });
    for _ in 0..3 {
        assert_eq!(bench.sweep(), []);
    }
    let expected = core::Tally { entries: 1, installed: 2, evicted: 1, ..core::Tally::default() };
    assert_eq!(tally(&bench.path), expected);
}

#[test]
fn a_flow_that_begins_anew_in_between_is_kept() {
    // By a connection to a service from the same port, in this generation or in a new one; by another instance.
    let other_instance = || -> Act {
        Box::new(|memory| {
            let mut value = lasting(1).encode(100 * SECOND, 0);
            value[110] = 7;
            memory.put(MapKind::Flows, &flow_key(&flow(1)).unwrap(), &value).1.unwrap();
        })
    };
    let anew = |generation| begin_anew(1, lasting(77), 110 * SECOND, generation);
    for (act, expires_ns) in [(anew(0), 187 * SECOND), (anew(1), 187 * SECOND), (other_instance(), 101 * SECOND)] {
        let bench = Bench::new();
        bench.path.install_all(&[(flow(1), lasting(1))]);
        bench.advance(10 * SECOND);
        bench.change(|plan| plan.before_take = Some(act));
        assert_eq!(bench.sweep(), []);
        assert_eq!(bench.path.entry(&flow(1)).map(|entry| entry.state.expires_ns), Some(expires_ns));
        assert_eq!((tally(&bench.path).expired, tally(&bench.path).failed), (0, 0));
    }
}

#[test]
fn what_a_flow_counted_last_is_told_of() {
    let bench = Bench::new();
    bench.path.install_all(&[(flow(1), lasting(1))]);
    bench.advance(10 * SECOND);
    bench.change(|plan| {
        plan.before_take = Some(Box::new(|memory| {
            let key = flow_key(&flow(1)).unwrap();
            let mut value = memory.get(MapKind::Flows, &key).unwrap().unwrap();
            value[88] = 9;
            memory.put(MapKind::Flows, &key, &value).1.unwrap();
        }));
    });
    let ended = bench.sweep();
    assert_eq!((ended[0].0, ended[0].1.packets), (flow(1), 9));
}

#[test]
fn a_look_up_is_one_call_and_so_is_a_burst_of_rules() {
    let bench = Bench::new();
    bench.path.install_all(&[(flow(1), lasting(100))]);
    bench.calls();
    for number in 0..100 {
        bench.path.install(&flow(number), &lasting(100));
    }
    bench.path.flush();
    assert_eq!(bench.calls(), [(Call::Put, MapKind::Flows)]);
    assert!(bench.path.query(&flow(5)).is_some());
    assert!(!bench.path.entry(&flow(6)).unwrap().is_over);
    assert_eq!(bench.calls(), [(Call::Get, MapKind::Flows); 2]);
    // What another instance may have done, and whether this one was replaced, is asked for once in a while.
    bench.advance(10_000_000);
    assert!(bench.path.query(&flow(5)).is_some() && bench.path.query(&flow(6)).is_some());
    assert_eq!(bench.calls().iter().filter(|call| **call == (Call::Get, MapKind::Settings)).count(), 2);
}

#[test]
fn the_generation_is_known_at_once_here_and_soon_elsewhere() {
    let bench = Bench::new();
    bench.path.install_all(&[(flow(1), lasting(1000))]);
    bench.path.clear();
    assert!(bench.path.entry(&flow(1)).unwrap().is_over);
    bench.path.install_all(&[(flow(1), lasting(1000))]);
    assert!(bench.path.query(&flow(1)).is_some());
    // Another instance clears.
    let set = |generation: u32| {
        let value = Settings { generation, ..Settings::default() }.encode();
        lock(&bench.memory).put(MapKind::Settings, &SettingsOf::Flows.key(), &value).1.unwrap();
    };
    set(2);
    assert!(bench.path.query(&flow(1)).is_some());
    bench.advance(10_000_000);
    assert_eq!(bench.path.query(&flow(1)), None);
    // A flow of a generation that is not known yet counts, and is not swept away.
    set(3);
    begin_anew(2, lasting(1000), 100 * SECOND, 3)(&mut lock(&bench.memory));
    assert!(bench.path.query(&flow(2)).is_some());
    set(4);
    begin_anew(2, lasting(1000), 100 * SECOND, 4)(&mut lock(&bench.memory));
    assert_eq!(bench.sweep().iter().map(|(flow, _)| *flow).collect::<Vec<_>>(), [flow(1)]);
    // Two that clear do not meet on one number: what is here was installed after the other's.
    set(5);
    bench.advance(1);
    begin_anew(3, lasting(1000), 100 * SECOND, 5)(&mut lock(&bench.memory));
    bench.path.clear();
    assert_eq!(bench.path.query(&flow(3)), None);
}
