//! What the maps refuse is there in the end.

use super::*;

impl Bench {
    fn pending(&self) -> usize {
        lock(&self.path.0.as_ref().unwrap().core).pending()
    }

    fn failed(&self) -> u64 {
        tally(&self.path).failed
    }

    /// The next tick.
    fn tick(&self) {
        self.advance(100_000_000);
        self.path.flush();
    }

    fn refuse(&self, call: Call, kind: MapKind) {
        self.change(|plan| plan.refuse(call, kind));
    }

    fn allow(&self) {
        self.change(|plan| (plan.refused, plan.room) = Default::default());
    }

    /// Waits longer than any wait lasts.
    fn wait_long(&self) {
        self.advance(11 * SECOND);
        self.path.flush();
    }

    fn decides(&self, table: &RuleTable) -> bool {
        let is_right = |(prefix, rule): &(Prefix, u32)| {
            let flow = Flow { src: prefix.address(), ..flow(0) };
            self.path.view().unwrap().decide(&flow) == Some(table.rules[*rule as usize])
        };
        table.src.iter().all(is_right)
    }
}

#[test]
fn flows_that_were_refused_are_tried_again_and_end_when_they_would_have() {
    let bench = Bench::new();
    bench.refuse(Call::Put, MapKind::Flows);
    bench.path.install(&flow(1), &lasting(100));
    bench.path.install(&flow(2), &lasting(1));
    bench.path.flush();
    assert_eq!((bench.pending(), bench.failed()), (2, 2));
    bench.calls();
    bench.path.flush();
    assert_eq!(bench.calls(), [], "not before its time");
    bench.allow();
    bench.advance(2 * SECOND);
    bench.path.flush();
    assert_eq!((bench.pending(), bench.failed(), tally(&bench.path).installed), (0, 2, 1));
    assert_eq!(bench.path.query(&flow(1)).unwrap().1.expires_ns, 200 * SECOND);
    assert_eq!(bench.path.entry(&flow(2)), None, "it is over");
}

#[test]
fn flows_that_are_refused_hinder_no_others() {
    let bench = Bench::new();
    let rules: Vec<_> = (0..100).map(|n| (flow(n), lasting(100))).collect();
    bench.change(|plan| plan.unwritable = [3, 7].map(|n| flow_key(&flow(n)).unwrap()).into());
    assert_eq!(bench.path.install_all(&rules), 98);
    assert_eq!((bench.pending(), bench.failed(), tally(&bench.path).installed), (2, 2, 98));
    bench.change(|plan| plan.unwritable.clear());
    bench.tick();
    assert_eq!((bench.pending(), bench.failed(), tally(&bench.path).installed), (0, 2, 100));
    // When all are, it is not asked about each.
    bench.path.clear();
    bench.refuse(Call::Put, MapKind::Flows);
    bench.calls();
    assert_eq!(bench.path.install_all(&rules), 0);
    assert_eq!((bench.calls().len(), bench.pending()), (8, 100));
}

#[test]
fn the_last_wish_for_a_flow_prevails() {
    let bench = Bench::new();
    let install = |number| {
        bench.path.install(&flow(number), &lasting(100));
        bench.path.flush();
    };
    bench.refuse(Call::Put, MapKind::Flows);
    install(1);
    bench.path.remove(&flow(1));
    bench.path.flush();
    assert_eq!(bench.pending(), 0);
    install(2);
    bench.path.clear();
    assert_eq!(bench.pending(), 0);
    // What stays against the function's will is taken out later.
    bench.allow();
    install(3);
    bench.refuse(Call::Delete, MapKind::Flows);
    bench.path.remove(&flow(3));
    bench.path.flush();
    assert!(bench.path.query(&flow(3)).is_some() && bench.pending() == 1);
    bench.allow();
    bench.tick();
    assert_eq!((bench.path.query(&flow(3)), bench.pending(), tally(&bench.path).removed), (None, 0, 1));
    // No more than so much is kept, and that by which flows go before that by which they come.
    bench.refuse(Call::Put, MapKind::Flows);
    bench.refuse(Call::Delete, MapKind::Flows);
    bench.path.install_all(&(0..5000).map(|n| (flow(n), lasting(100))).collect::<Vec<_>>());
    (9000..9100).for_each(|n| bench.path.remove(&flow(n)));
    bench.path.flush();
    assert_eq!(bench.pending(), 4096);
    bench.allow();
    bench.calls();
    bench.tick();
    assert_eq!((bench.pending(), bench.path.view().unwrap().flows().len()), (0, 3996));
}

#[test]
fn a_table_that_got_stuck_anywhere_is_finished() {
    let mut other = table(10);
    other.rules.iter_mut().rev().for_each(|action| action.class = action.class.map(|class| class + 100));
    for room in 0.. {
        let bench = Bench::new();
        bench.path.set_rules(&table(8)).unwrap();
        bench.change(|plan| plan.room = Some(room));
        bench.path.set_rules(&other).unwrap();
        let is_there = bench.pending() == 0;
        assert_eq!(bench.failed(), u64::from(!is_there));
        // A little more each time: each try goes on where the one before got stuck.
        let mut tries = 0;
        while bench.pending() > 0 {
            bench.change(|plan| plan.room = Some(12));
            bench.wait_long();
            tries += 1;
            assert!(tries < 10);
        }
        bench.allow();
        assert!(bench.decides(&other), "{room}");
        assert_eq!(bench.path.view().unwrap().decide(&flow(10)), None);
        if is_there {
            assert!(room > 10 + 8);
            return;
        }
    }
}

#[test]
fn a_new_table_takes_the_place_of_one_that_got_stuck() {
    let bench = Bench::new();
    let coloured = |round: u16| {
        let mut table = table(50);
        table.rules.iter_mut().for_each(|action| action.class = action.class.map(|class| class + 100 * round));
        table
    };
    bench.path.set_rules(&coloured(0)).unwrap();
    // Numbers do not run out, though each leaves some of its own behind.
    for round in 1..20 {
        bench.change(|plan| plan.room = Some(55 + usize::from(round)));
        bench.path.set_rules(&coloured(round)).unwrap();
        assert_eq!(bench.pending(), 1);
    }
    bench.allow();
    bench.wait_long();
    assert!(bench.pending() == 0 && bench.decides(&coloured(19)));
    bench.refuse(Call::Put, MapKind::Rules);
    bench.path.set_rules(&coloured(20)).unwrap();
    assert_eq!(bench.pending(), 1);
    bench.allow();
    bench.path.set_rules(&coloured(21)).unwrap();
    bench.wait_long();
    assert!(bench.decides(&coloured(21)));
}

#[test]
fn slots_wait_for_rules_and_services_for_slots() {
    let bench = Bench::new();
    let next = bench.path.renewed();
    let rule = ServiceRule { first: 0, count: 2, idle: Duration::from_secs(9), closing: Duration::from_secs(1) };
    next.set_rules(&table(3)).unwrap();
    next.set_slots(0, &[1, 2]).unwrap();
    next.set_service(&service(80), &rule).unwrap();
    bench.refuse(Call::Put, MapKind::Rules);
    bench.path.end();
    next.begin();
    assert_eq!((bench.pending(), bench.failed()), (4, 1));
    let there =
        |bench: &Bench, kind| store::read_all(&mut *lock(&bench.memory), kind).unwrap().values.iter().any(|b| *b > 0);
    let bench = Bench { path: next, ..bench };
    assert!(!there(&bench, MapKind::Slots) && bench.path.services().is_empty());
    bench.allow();
    bench.refuse(Call::Put, MapKind::Slots);
    bench.wait_long();
    assert!(there(&bench, MapKind::Rules) && bench.path.services().is_empty() && bench.pending() == 3);
    bench.allow();
    bench.wait_long();
    assert_eq!((bench.pending(), bench.path.services()), (0, vec![service(80)]));
    assert!(matches!(bench.path.view().unwrap().decide(&flow(7)).unwrap().class, Some(1 | 2)));
    // A service that is to be removed goes in the end, and one that is set again stays.
    bench.refuse(Call::Delete, MapKind::Services);
    bench.path.remove_service(&service(80));
    assert_eq!((bench.pending(), bench.path.services().len()), (1, 1));
    bench.allow();
    bench.wait_long();
    assert_eq!((bench.pending(), bench.path.services().len()), (0, 0));
}

#[test]
fn all_are_void_in_the_end() {
    let bench = Bench::new();
    bench.path.install_all(&[(flow(1), lasting(100))]);
    bench.refuse(Call::Put, MapKind::Settings);
    bench.path.clear();
    assert!(bench.pending() == 1 && bench.path.query(&flow(1)).is_some());
    bench.allow();
    bench.tick();
    assert!(bench.pending() == 0 && bench.path.query(&flow(1)).is_none());
    // Another instance was faster, and this one cannot see it: it waits until it can.
    let value = Settings { generation: 2, ..Settings::default() }.encode();
    lock(&bench.memory).put(MapKind::Settings, &SettingsOf::Flows.key(), &value).1.unwrap();
    begin_anew(2, lasting(100), 100 * SECOND, 2)(&mut lock(&bench.memory));
    bench.refuse(Call::Get, MapKind::Settings);
    bench.path.clear();
    assert_eq!(bench.pending(), 1);
    bench.allow();
    bench.tick();
    assert!(bench.pending() == 0 && bench.path.query(&flow(2)).is_none());
}

#[test]
fn the_program_is_told_when_all_is_there() {
    let is_ready = |bench: &Bench| rules::settings(&mut *lock(&bench.memory), SettingsOf::Rules).unwrap().ready == 1;
    for kind in [MapKind::Rules, MapKind::DstPorts, MapKind::Slots, MapKind::Services] {
        let bench = Bench::draft(0);
        bench.path.set_rules(&table(3)).unwrap();
        bench.path.set_slots(0, &[1, 2]).unwrap();
        let times = (Duration::from_secs(9), Duration::from_secs(1));
        let rule = ServiceRule { first: 0, count: 2, idle: times.0, closing: times.1 };
        bench.path.set_service(&service(80), &rule).unwrap();
        bench.refuse(Call::Put, kind);
        bench.path.begin();
        assert!(!is_ready(&bench) && bench.pending() > 1, "{kind:?}");
        bench.wait_long();
        assert!(!is_ready(&bench), "{kind:?}");
        bench.allow();
        bench.wait_long();
        assert!(is_ready(&bench) && bench.pending() == 0, "{kind:?}");
        // It stays so, whatever is refused later.
        bench.refuse(Call::Put, kind);
        bench.path.set_rules(&table(5)).unwrap();
        assert!(is_ready(&bench), "{kind:?}");
    }
    // Who has nothing to write has written it, and the first instance speaks for all.
    for (instance, is_first) in [(0, true), (1, false)] {
        let bench = Bench::draft(instance);
        bench.refuse(Call::Put, MapKind::Settings);
        bench.path.begin();
        assert_eq!((is_ready(&bench), bench.pending()), (false, usize::from(is_first)));
        bench.allow();
        bench.wait_long();
        assert_eq!((is_ready(&bench), bench.pending()), (is_first, 0));
    }
}

#[test]
fn tries_become_rare() {
    let bench = Bench::new();
    bench.refuse(Call::Put, MapKind::Flows);
    bench.path.install(&flow(1), &lasting(10_000));
    bench.path.flush();
    bench.calls();
    let tries = |seconds: u64| {
        (0..10 * seconds).for_each(|_| bench.tick());
        bench.calls().iter().filter(|call| **call == (Call::Put, MapKind::Flows)).count()
    };
    assert_eq!(tries(1), 3, "after 100, 300, 700 ms");
    tries(60);
    assert_eq!(tries(100), 10);
    bench.allow();
    assert_eq!((tries(10), bench.pending()), (1, 0));
    // The next one is tried again as soon as the first was.
    bench.refuse(Call::Put, MapKind::Flows);
    bench.path.install(&flow(2), &lasting(10_000));
    bench.path.flush();
    bench.calls();
    assert_eq!(tries(1), 3);
}
