//! Two processes of one instance: the old one goes on until it is told to stop, and must not undo what the new one does.

use super::*;

const A_MOMENT: u64 = 10_000_000;

fn is_there(bench: &Bench, number: u32) -> bool {
    bench.path.query(&flow(number)).is_some()
}

#[test]
fn a_process_that_was_replaced_has_no_say_any_more() {
    let old = Bench::new();
    old.install(1);
    let new = old.beside(0);
    new.path.clear();
    new.path.set_rules(&table(3)).unwrap();
    old.install(2);
    assert!(is_there(&old, 1) && is_there(&old, 2), "not before the new one begins");
    new.path.begin();
    new.install(3);
    // Up to a moment later it knows nothing yet: that is void.
    old.install(4);
    old.advance(A_MOMENT);
    old.install(5);
    old.path.remove(&flow(3));
    old.path.flush();
    old.path.set_rules(&table(1)).unwrap();
    old.path.clear();
    old.path
        .set_service(
            &service(80),
            &ServiceRule { first: 0, count: 0, idle: Duration::from_secs(1), closing: Duration::from_secs(1) },
        )
        .unwrap();
    let there: Vec<u32> = (0..10).filter(|&number| is_there(&new, number)).collect();
    assert_eq!((there, new.path.services()), (vec![3], Vec::new()));
    assert_eq!(decide(&new.path, &flow(2)), Some(2), "the rules of the new one");
    old.advance(10 * SECOND);
    assert_eq!((old.sweep(), old.path.query(&flow(3))), (Vec::new(), None));
    assert_eq!(tally(&old.path).failed, 0);
}

#[test]
fn a_process_that_is_to_stop_knows_at_once_that_it_was_replaced() {
    let old = Bench::new();
    old.install(1);
    let new = old.beside(0);
    new.path.begin();
    assert!(is_there(&old, 1));
    old.path.look_for_successor();
    old.path.remove(&flow(1));
    old.path.flush();
    assert_eq!((is_there(&old, 1), is_there(&new, 1)), (false, true));
    // Who has none may say its last words.
    new.path.look_for_successor();
    new.path.remove(&flow(1));
    new.path.flush();
    assert!(new.path.entry(&flow(1)).is_none());
}

#[test]
fn other_instances_go_on() {
    let first = Bench::new();
    let second = first.beside(1);
    second.path.begin();
    second.install(1);
    let new = first.beside(0);
    new.path.clear();
    new.path.begin();
    first.advance(A_MOMENT);
    second.install(2);
    second.path.clear();
    second.install(3);
    assert_eq!([1, 2, 3].map(|number| is_there(&second, number)), [false, false, true]);
    first.advance(A_MOMENT);
    assert!(is_there(&new, 3) && !is_there(&first, 3));
}
