//! Groups between sockets: what passes, what is refused, and what the ledger says afterwards.

use middlenet_tests::require_root;

#[test]
fn the_self_test_passes() {
    require_root!();
    let test = middlenet_bpf::self_test().expect("this kernel's sockmap works");
    println!("{test:#?}");
    assert!(test.took.as_millis() < 100, "{test:?}");
}
