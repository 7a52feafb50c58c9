//! Groups between sockets: what passes, what is refused, who is told, and what the ledger says afterwards.

mod domain;
mod lifetime;
mod pressure;
mod refusals;
mod traffic;

use std::time::Duration;

use middlenet_tests::require_root;

const SOON: Duration = Duration::from_secs(10);

#[test]
fn the_self_test_passes_in_a_tenth_of_a_second() {
    require_root!();
    // The best of a few: the host may be busy.
    let tests: Vec<_> = (0..5).map(|_| middlenet_bpf::self_test().expect("this kernel's sockmap works")).collect();
    let best = tests.iter().min_by_key(|test| test.took).expect("there are five");
    assert!(best.took < Duration::from_millis(100), "{best:?}");
    assert!(best.checks.len() >= 8, "{best:?}");
}
