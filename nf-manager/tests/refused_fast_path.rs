//! Fast paths that the kernel refuses: the data plane says so in the kernel's words, and goes on without, or does not start where nobody
//! would filter or route.

mod support;

use middlenet_fast_path::{Mode, Shape};
use middlenet_plan::{FastPathPlan, HopPlan, ManagerPlan, Placement};
use middlenet_tests::require_root;
use serde_json::json;
use support::{Manager, hop, null, plan};

/// What libbpf puts before the words of the verifier.
const LOG: &str = "PROG LOAD LOG";

/// A function whose fast path no kernel takes: connections to its services are remembered among flows, and it has none.
fn of(mode: Mode) -> ManagerPlan {
    let shape = Shape::of(&[mode]).rules(4).services(4, 4);
    let refused = HopPlan {
        name: "refused".into(),
        fast_path: Some(FastPathPlan { mode, shape }),
        ..hop("monitor", Placement::Process, json!({}))
    };
    plan(null(0, 64), null(1, 64), vec![refused])
}

#[test]
fn a_chain_runs_without_a_fast_path_that_the_verifier_refuses() {
    require_root!();
    let manager = Manager::start(of(Mode::Reactive));
    let note = manager.notes.iter().find(|note| note.contains("the function `refused` runs without its fast path"));
    assert!(note.is_some_and(|note| note.contains(LOG)), "{:?}", manager.notes);
    assert!(manager.stats().hops[0].fast_path.is_none());
    manager.stop();
}

/// Behind an offloading function there is the kernel alone, which nobody would lead packets to.
#[test]
fn a_run_does_not_start_without_an_offloading_fast_path() {
    require_root!();
    let (message, hint) = Manager::try_start(of(Mode::Offloading)).err().expect("it does not start");
    assert!(message.contains("the function `refused` cannot do without its fast path"), "{message}");
    assert!(message.contains(LOG), "the words of the verifier: {message}");
    assert!(hint.is_some_and(|hint| hint.contains("remove its `mode: offloading`")), "a remedy");
}
