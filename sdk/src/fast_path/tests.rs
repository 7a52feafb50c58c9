use super::*;
use middlenet_shm::testkit::{MapType, create};
use std::collections::BTreeSet;

#[cfg(feature = "testkit")]
mod faults;

const SHAPE: Shape = Shape::of(&[Mode::Proactive, Mode::Reactive])
    .flows(200_000)
    .prefixes(1000, 1000)
    .ports(true, true)
    .rules(50)
    .services(10, 100)
    .classes(10);

fn kernel_maps(shape: &Shape) -> Option<Vec<(MapKind, OwnedFd)>> {
    let make = |kind: MapKind| {
        let of = match kind {
            MapKind::Flows => MapType::LruHash,
            MapKind::SrcPrefixes | MapKind::DstPrefixes => MapType::Trie,
            MapKind::Services => MapType::Hash,
            MapKind::RuleCounts | MapKind::Classes => MapType::PerProcessorArray,
            _ => MapType::Array,
        };
        let bytes = |bytes: usize| u32::try_from(bytes).unwrap();
        Some((kind, create(of, bytes(kind.key_bytes()), bytes(kind.value_bytes()), shape.entries(kind))?))
    };
    shape.maps().map(make).collect()
}

fn same(maps: &[(MapKind, OwnedFd)]) -> Vec<(MapKind, OwnedFd)> {
    maps.iter().map(|(kind, fd)| (*kind, fd.try_clone().unwrap())).collect()
}

/// The same test on maps in memory and in the kernel. `again` opens them for another instance, as after a restart.
fn on_both(test: impl Fn(FastPath, &dyn Fn(u16) -> FastPath)) {
    let memory = FastPath::in_memory(Mode::Reactive, SHAPE);
    memory.begin();
    let core = memory.0.as_ref().unwrap().core.clone();
    // Maps in memory cannot be opened twice: what this side knows of them is forgotten instead.
    let again = |instance| {
        lock(&core).forget(instance);
        let again = FastPath::with_core(core.clone(), Mode::Reactive, SHAPE);
        again.begin();
        again
    };
    test(memory, &again);
    let Some(maps) = kernel_maps(&SHAPE) else { return };
    let open = |instance| {
        let opened = FastPath::open(Mode::Reactive, SHAPE, same(&maps), instance).unwrap();
        opened.begin();
        opened
    };
    test(open(0), &open);
}

fn flow(number: u32) -> Flow {
    Flow {
        vlan: 0,
        src: std::net::IpAddr::V4((0x0a00_0000 + number).into()),
        dst: "192.0.2.1".parse().unwrap(),
        protocol: 6,
        src_port: 1000,
        dst_port: 80,
    }
}

fn class(class: u16) -> Action {
    Action { class: Some(class), ..Action::default() }
}

fn lasting(seconds: u64) -> FlowRule {
    let lifetime = Duration::from_secs(seconds);
    FlowRule { action: class(1), lifetime, idle: None, ends: Ends::Ignored }
}

fn prefix(text: &str) -> Prefix {
    text.parse().unwrap()
}

fn tally(fast_path: &FastPath) -> core::Tally {
    lock(&fast_path.0.as_ref().unwrap().core).tally
}

/// Some seconds pass, by the instance's clock.
#[cfg(feature = "testkit")]
fn wait(fast_path: &FastPath, seconds: u64) {
    let mut core = lock(&fast_path.0.as_ref().unwrap().core);
    let now_ns = core.clock.now_ns() + seconds * 1_000_000_000;
    core.clock = Clock::Fake(Arc::new(now_ns.into()));
}

/// What packets meet, by the same look-ups as in the kernel's program.
#[cfg(feature = "testkit")]
fn decide(fast_path: &FastPath, flow: &Flow) -> Option<u16> {
    fast_path.view().unwrap().decide(flow).and_then(|action| action.class)
}

#[test]
fn flows_are_queued_until_the_burst_is_over() {
    on_both(|fast_path, _| {
        fast_path.install(&flow(1), &lasting(1));
        fast_path.install(&flow(1), &lasting(100));
        fast_path.install(&flow(2), &lasting(100));
        fast_path.remove(&flow(2));
        assert_eq!(fast_path.query(&flow(1)), None);
        fast_path.flush();
        let (action, state) = fast_path.query(&flow(1)).unwrap();
        assert_eq!(action, class(1));
        assert_eq!((state.packets, state.is_closing), (0, false));
        let left = Duration::from_nanos(state.expires_ns) - fast_path.now();
        assert!(left > Duration::from_secs(90) && left <= Duration::from_secs(100), "the last one asked for: {left:?}");
        assert_eq!(fast_path.query(&flow(2)), None);
        fast_path.remove(&flow(1));
        fast_path.remove(&flow(3));
        fast_path.flush();
        assert_eq!(fast_path.query(&flow(1)), None);
        let odd = Flow { dst: "2001:db8::1".parse().unwrap(), ..flow(1) };
        fast_path.install(&odd, &lasting(1));
        assert_eq!(fast_path.query(&odd), None);
        let expected = core::Tally { installed: 1, removed: 1, failed: 1, ..core::Tally::default() };
        assert_eq!(tally(&fast_path), expected);
    });
}

#[cfg(feature = "testkit")]
#[test]
fn many_flows_are_installed_at_once_and_swept_when_they_are_over() {
    on_both(|fast_path, _| {
        let rules: Vec<_> = (0..20_000).map(|n| (flow(n), lasting(if n % 4 == 0 { 0 } else { 1000 }))).collect();
        assert_eq!(fast_path.install_all(&rules), 20_000);
        assert!(fast_path.query(&flow(1)).is_some());
        assert_eq!(fast_path.query(&flow(4)), None, "it is there, but over");
        wait(&fast_path, 2);
        let mut ended = BTreeSet::new();
        for _ in 0..400 {
            fast_path.sweep(1000, &mut |flow, state| {
                assert!(state.expires_ns > 0 && ended.insert(*flow));
            });
            if tally(&fast_path).entries > 0 {
                break;
            }
        }
        assert_eq!(ended, (0..5000).map(|n| flow(4 * n)).collect());
        let after = core::Tally { entries: 15_000, installed: 20_000, expired: 5000, ..core::Tally::default() };
        assert_eq!(tally(&fast_path), after);
        // All are void in an instant, and go one by one.
        fast_path.clear();
        assert_eq!(fast_path.query(&flow(1)), None);
        fast_path.install(&flow(1), &lasting(100));
        fast_path.flush();
        assert!(fast_path.query(&flow(1)).is_some(), "what comes later counts");
        let mut gone = 0;
        while gone < 14_999 {
            fast_path.sweep(4096, &mut |_, _| gone += 1);
        }
        assert!(fast_path.query(&flow(1)).is_some());
    });
}

#[test]
fn flows_that_made_room_for_others_are_counted() {
    let shape = Shape::of(&[Mode::Reactive]).flows(1000);
    let mut paths = vec![FastPath::in_memory(Mode::Reactive, shape)];
    paths.extend(kernel_maps(&shape).map(|maps| FastPath::open(Mode::Reactive, shape, maps, 0).unwrap()));
    for fast_path in paths {
        fast_path.begin();
        let sweep_all = || {
            let pass = || lock(&fast_path.0.as_ref().unwrap().core).pass();
            let before = pass();
            while pass() == before {
                fast_path.sweep(4096, &mut |_, _| panic!("none has ended"));
            }
        };
        sweep_all();
        let rules: Vec<_> = (0..5000).map(|n| (flow(n), lasting(1000))).collect();
        assert_eq!(fast_path.install_all(&rules), 5000);
        sweep_all();
        let now = tally(&fast_path);
        assert!((1..=1000).contains(&now.entries), "{now:?}");
        sweep_all();
        let now = tally(&fast_path);
        assert_eq!(now.entries + now.evicted, 5000, "{now:?}");
    }
}

#[cfg(feature = "testkit")]
#[test]
fn instances_have_flows_of_their_own() {
    on_both(|first, again| {
        first.install_all(&[(flow(1), lasting(0))]);
        let second = again(1);
        second.install_all(&[(flow(2), lasting(0))]);
        let mut ended = Vec::new();
        wait(&second, 2);
        second.sweep(4096, &mut |flow, _| ended.push(*flow));
        assert_eq!(ended, [flow(2)]);
        // The first one writes what all have in common.
        second.set_rules(&table(3)).unwrap();
        second.set_rules(&RuleTable { src: vec![(prefix("10.0.0.0/8"), 7)], ..RuleTable::default() }).unwrap_err();
        let first = again(0);
        let prefixes =
            store::read_all(&mut *lock(&first.0.as_ref().unwrap().core).store, MapKind::SrcPrefixes).unwrap();
        assert!(prefixes.keys.is_empty());
        let mut ended = Vec::new();
        wait(&first, 2);
        first.sweep(4096, &mut |flow, _| ended.push(*flow));
        assert_eq!(ended, [flow(1)]);
    });
}

/// Rules of classes 0, 1, …, by source prefixes 10.0.0.0/32, 10.0.0.1/32, …; odd ones by a destination port as well.
fn table(rules: u16) -> RuleTable {
    let all = || (0..u32::from(rules)).map(|n| (flow(n).src, n));
    RuleTable {
        rules: (0..rules).map(class).collect(),
        src: all().map(|(src, n)| (Prefix::from(src), n)).collect(),
        dst_ports: all().filter(|(_, n)| n % 2 == 1).map(|(_, n)| (6, 5000 + n as u16, n)).collect(),
        ..RuleTable::default()
    }
}

#[cfg(feature = "testkit")]
#[test]
fn tables_are_replaced_by_difference() {
    on_both(|fast_path, again| {
        fast_path.set_rules(&table(40)).unwrap();
        for n in 0..40 {
            assert_eq!(decide(&fast_path, &flow(n)), Some(n as u16));
        }
        assert_eq!(decide(&fast_path, &flow(40)), None);
        let by_port = Flow { dst_port: 5003, ..flow(1000) };
        assert_eq!(decide(&fast_path, &by_port), Some(3));
        assert_eq!(decide(&fast_path, &Flow { protocol: 17, ..by_port }), None, "a port of TCP");
        // The lowest number decides.
        assert_eq!(decide(&fast_path, &Flow { dst_port: 5003, ..flow(2) }), Some(2));
        assert_eq!(decide(&fast_path, &Flow { dst_port: 5003, ..flow(9) }), Some(3));

        // One rule less in the midst: the others are what they were, by other numbers of the author's.
        let mut fewer = table(40);
        fewer.rules.remove(7);
        fewer.src.retain(|(_, n)| *n != 7);
        fewer.dst_ports.retain(|(.., n)| *n != 7);
        let numbers = fewer.src.iter_mut().map(|(_, n)| n).chain(fewer.dst_ports.iter_mut().map(|(.., n)| n));
        numbers.filter(|n| **n > 7).for_each(|n| *n -= 1);
        fast_path.set_rules(&fewer).unwrap();
        assert_eq!(decide(&fast_path, &flow(7)), None);
        assert_eq!(decide(&fast_path, &flow(8)), Some(8));

        // An instance that starts finds them, and others take their place, often.
        let next = again(0);
        assert_eq!(decide(&next, &flow(8)), Some(8));
        for round in 0..20_u16 {
            let mut other = table(50);
            other.rules.iter_mut().for_each(|action| action.class = action.class.map(|c| c + 100 * (round % 3)));
            next.set_rules(&other).unwrap();
            assert_eq!(decide(&next, &flow(49)), Some(49 + 100 * (round % 3)));
        }
        next.set_rules(&RuleTable::default()).unwrap();
        for n in 0..50 {
            assert_eq!(decide(&next, &flow(n)), None);
        }
        assert_eq!(decide(&next, &by_port), None);
    });
}

/// The lowest number that a port names in the maps, and one, and what the settings say of it.
fn first_port_rule(fast_path: &FastPath) -> (u32, u32) {
    let mut core = lock(&fast_path.0.as_ref().unwrap().core);
    let mut values = |kind| store::read_all(&mut *core.store, kind).unwrap().values;
    let ports = [MapKind::SrcPorts, MapKind::DstPorts].map(&mut values).concat();
    let named = ports.as_chunks().0.iter().map(|value| u32::from_ne_bytes(*value)).filter(|value| *value > 0);
    let settings = rules::settings(&mut *core.store, middlenet_fast_path::SettingsOf::Rules).unwrap();
    (named.min().unwrap_or(0), settings.first_port_rule)
}

#[test]
fn which_rule_of_a_port_comes_first_is_told() {
    on_both(|fast_path, again| {
        let check = |fast_path: &FastPath, table: &RuleTable, is_there| {
            fast_path.set_rules(table).unwrap();
            let (first, told) = first_port_rule(fast_path);
            assert_eq!((first, first > 0), (told, is_there));
        };
        check(&fast_path, &table(1), false);
        check(&fast_path, &table(9), true);
        let mut later = table(9);
        later.dst_ports.retain(|(.., rule)| *rule > 5);
        check(&fast_path, &later, true);
        later.src_ports = vec![(17, 53, 4)];
        // Another instance finds it.
        let next = again(0);
        check(&next, &later, true);
        // All flows are void, but the rules are what they were.
        next.clear();
        assert_eq!(first_port_rule(&next).0, first_port_rule(&next).1);
        check(&next, &table(1), false);
    });
}

#[cfg(feature = "testkit")]
#[test]
fn rules_that_stay_keep_their_counts() {
    let fast_path = FastPath::in_memory(Mode::Proactive, SHAPE);
    fast_path.begin();
    fast_path.set_rules(&table(5)).unwrap();
    let view = fast_path.view().unwrap();
    (0..4).for_each(|_| assert_eq!(view.pass(&flow(3), 100), Some(class(3))));
    view.pass(&flow(1), 60);
    view.pass(&flow(99), 60);
    assert_eq!(fast_path.rule_counts(3), Counted { packets: 4, bytes: 400 });
    assert_eq!(fast_path.class_counts(3), Counted { packets: 4, bytes: 400 });
    // Rule 3 becomes rule 0; what was 1 is another one.
    let mut after = RuleTable { rules: vec![class(3), class(9)], ..RuleTable::default() };
    after.src = vec![(Prefix::from(flow(3).src), 0), (Prefix::from(flow(1).src), 1)];
    after.dst_ports = vec![(6, 5003, 0)];
    fast_path.set_rules(&after).unwrap();
    assert_eq!(fast_path.rule_counts(0), Counted { packets: 4, bytes: 400 });
    assert_eq!(fast_path.rule_counts(1), Counted::default());
    view.pass(&flow(1), 60);
    assert_eq!((fast_path.rule_counts(1).packets, fast_path.rule_counts(2).packets), (1, 0));
}

#[test]
fn a_table_that_does_not_fit_is_refused() {
    on_both(|fast_path, _| {
        let error = |table: RuleTable| fast_path.set_rules(&table).unwrap_err().to_string();
        assert_eq!(error(table(51)), "the fast path has room for 50 rules, not for 51");
        let no_rule = RuleTable { dst: vec![(prefix("10.0.0.0/8"), 2)], ..table(2) };
        assert_eq!(error(no_rule), "rule 2 is named, but there are 2 rules, from 0 on");
        let ports = RuleTable { src_ports: vec![(132, 80, 0)], ..table(1) };
        assert_eq!(error(ports), "protocol 132 has no ports that a fast path looks at, only 6 (TCP) and 17 (UDP) have");
        assert!(matches!(fast_path.set_slots(99, &[0, 0]), Err(FastPathError::TooMany { count: 101, most: 100, .. })));
        assert!(matches!(fast_path.set_slots(0, &[0]), Err(FastPathError::NoRule { rule: 0, rules: 0 })));
    });
    let narrow = FastPath::in_memory(Mode::Proactive, Shape::of(&[Mode::Proactive]).rules(1));
    let with_port = RuleTable { rules: vec![class(0)], dst_ports: vec![(6, 80, 0)], ..RuleTable::default() };
    assert!(matches!(narrow.set_rules(&with_port), Err(FastPathError::TooMany { most: 0, .. })));
}

fn service(port: u16) -> Service {
    Service { address: flow(0).dst, port, protocol: 6 }
}

#[cfg(feature = "testkit")]
#[test]
fn services_select_rules_by_slots() {
    let to = |server: &str| Action {
        rewrite: Rewrite { dst: Some(server.parse().unwrap()), dst_port: Some(8080), ..Rewrite::default() },
        ..class(2)
    };
    on_both(|fast_path, again| {
        let servers = ["10.1.0.1", "10.1.0.2"];
        fast_path.set_rules(&RuleTable { rules: servers.map(to).into(), ..RuleTable::default() }).unwrap();
        fast_path.set_slots(10, &[0, 1, 0, 1]).unwrap();
        let rule = ServiceRule { first: 10, count: 4, idle: Duration::from_secs(60), closing: Duration::from_secs(1) };
        fast_path.set_service(&service(80), &rule).unwrap();
        assert_eq!(fast_path.services(), [service(80)]);
        let view = fast_path.view().unwrap();
        let chosen = |view: &View, n| view.decide(&flow(n)).unwrap().rewrite.dst.unwrap().to_string();
        for n in 0..100 {
            let slot = slot_of(flow(n).src, 1000, 4) as usize;
            assert_eq!(chosen(&view, n), servers[slot % 2]);
        }
        // A connection stays with its server, in both directions, whatever becomes of the slots.
        view.pass(&flow(5), 60);
        let server = chosen(&view, 5);
        // Another table: slots keep what they had until they are set.
        fast_path.set_rules(&RuleTable { rules: vec![to("10.1.0.9")], ..RuleTable::default() }).unwrap();
        assert!((0..100).all(|n| servers.contains(&&chosen(&view, n)[..])));
        fast_path.set_slots(10, &[0; 4]).unwrap();
        assert_eq!(chosen(&view, 6), "10.1.0.9");
        assert_eq!(chosen(&view, 5), server);
        let back = Flow { src: server.parse().unwrap(), src_port: 8080, dst: flow(5).src, dst_port: 1000, ..flow(5) };
        let reply = view.decide(&back).unwrap().rewrite;
        assert_eq!((reply.src, reply.src_port), (Some(flow(5).dst), Some(80)));
        let next = again(0);
        assert_eq!(next.services(), [service(80)]);
        next.remove_service(&service(80));
        next.remove_service(&service(81));
        assert_eq!(next.services(), []);
        assert_eq!(next.view().unwrap().decide(&flow(6)), None);
    });
}

#[test]
fn a_replacement_is_kept_back_until_it_takes_over() {
    on_both(|old, _| {
        old.set_rules(&table(2)).unwrap();
        old.install_all(&[(flow(100), lasting(100))]);
        let new = old.renewed();
        new.clear();
        new.set_rules(&table(7)).unwrap();
        new.set_slots(0, &[6]).unwrap();
        assert_eq!(new.install_all(&[(flow(200), lasting(100))]), 1);
        new.flush();
        assert!(old.query(&flow(100)).is_some() && old.query(&flow(200)).is_none());
        let rules = |path: &FastPath| lock(&path.0.as_ref().unwrap().core).rules_there();
        assert_eq!(rules(&old), 2);
        old.end();
        new.begin();
        assert!(new.query(&flow(100)).is_none() && new.query(&flow(200)).is_some());
        assert_eq!(rules(&new), 7);
        // The old one has no say any more.
        old.set_rules(&table(1)).unwrap();
        old.clear();
        assert_eq!(old.install_all(&[(flow(300), lasting(100))]), 0);
        assert_eq!(rules(&new), 7);
        assert!(new.query(&flow(200)).is_some() && new.query(&flow(300)).is_none());
    });
}

#[test]
fn without_a_fast_path_nothing_happens() {
    let none = FastPath::default();
    none.begin();
    none.install(&flow(1), &lasting(1));
    none.flush();
    none.clear();
    none.sweep(100, &mut |_, _| panic!("there are no flows"));
    none.set_rules(&table(1000)).unwrap();
    none.set_slots(1000, &[1]).unwrap();
    assert_eq!((none.mode(), none.is_active(), none.install_all(&[(flow(1), lasting(1))])), (None, false, 0));
    assert_eq!((none.query(&flow(1)), none.rule_counts(0), none.services()), (None, Counted::default(), vec![]));
}

#[test]
fn maps_that_were_not_passed_are_named() {
    let missing = FastPath::open(Mode::Reactive, SHAPE, Vec::new(), 0).unwrap_err();
    assert_eq!(missing.to_string(), "the fast path has no map for Settings");
}

#[test]
fn flows_of_another_policy_are_void() {
    on_both(|first, again| {
        first.clear_unless(7);
        first.install_all(&[(flow(1), lasting(60))]);
        // As after a restart, and of another instance.
        for instance in [0, 1] {
            let next = again(instance);
            next.clear_unless(7);
            assert!(next.query(&flow(1)).is_some());
        }
        // Which policy it is stays known when all flows are void.
        let next = again(0);
        next.clear();
        next.install_all(&[(flow(1), lasting(60))]);
        let next = again(0);
        next.clear_unless(7);
        assert!(next.query(&flow(1)).is_some());
        let next = again(0);
        next.clear_unless(8);
        assert_eq!(next.query(&flow(1)), None);
        next.install_all(&[(flow(1), lasting(60))]);
        let next = again(0);
        next.clear_unless(8);
        assert!(next.query(&flow(1)).is_some());
        let last = again(0);
        last.clear_unless(0);
        assert_eq!(last.query(&flow(1)), None);
    });
}
