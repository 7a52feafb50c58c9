//! Fast paths that the kernel refuses: the run says so in the kernel's words, and goes on without, or does not start where nobody would
//! filter or route.

use std::time::Duration;

use middlenet_tests::{By, Error, Line, Marked, Runtime, Sent, require_root};

const SOON: Duration = Duration::from_secs(20);
/// What libbpf puts before the words of the verifier.
const LOG: &str = "PROG LOAD LOG";

fn unloadable(mode: &str) -> String {
    format!("refused: {{ run: {}, mode: {mode} }}", env!("CARGO_BIN_EXE_middlenet-test-unloadable"))
}

fn marker(mode: &str) -> String {
    let run = env!("CARGO_BIN_EXE_middlenet-test-marker");
    format!("a: {{ run: {run}, config: {{ field: src }}, mode: {mode} }}")
}

/// Its packets take the slow path there; what comes through the fast paths of others does so from there on.
#[test]
fn a_chain_runs_without_a_fast_path_that_the_verifier_refuses() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    line.let_packets_leave_directly()?;
    let mut packets = Marked::on(&line)?;
    let run = Runtime::start(&line.middle, &Line::manifest(&[&unloadable("reactive"), &marker("reactive")]))?;
    let log = run.log();
    let note =
        log.find("the function `refused` runs without its fast path").unwrap_or_else(|| panic!("no note: {log}"));
    assert!(log[note..].contains(LOG), "the note has the words of the verifier: {log}");
    for _ in 0..4 {
        let arrived = packets.send(&Sent::to_port(1), false).expect("the packet");
        assert_eq!((arrived.marks[1], arrived.functions), (By::Function, 1));
    }
    for by in [By::Function, By::FastPath, By::FastPath] {
        let arrived = packets.send(&Sent::to_port(2), true).expect("the packet");
        assert_eq!((arrived.marks[1], arrived.functions), (by, 1));
    }
    let status = run.wait_for("all packets", SOON, |status| status.counter("refused", "without") >= 7)?;
    assert!(status.hop("refused")["fast_path"].is_null(), "{:#}", status.hop("refused"));
    assert_eq!((status.fast("a", "hits"), status.left("a", "slow", "end")), (2, 2));
    run.wait_for_rest()?.assert_fast_paths_conserve();
    run.stop()?;
    Ok(())
}

/// Behind an offloading function there is the kernel alone, which nobody would lead packets to.
#[test]
fn a_run_does_not_start_without_an_offloading_fast_path() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    line.route_in_the_kernel()?;
    let before = line.interfaces()?;
    for functions in
        [[unloadable("offloading"), marker("offloading")], [marker("offloading"), unloadable("offloading")]]
    {
        let manifest = Line::manifest(&functions.each_ref().map(String::as_str));
        let refused = Runtime::start(&line.middle, &manifest).err();
        let Some(Error::EndedEarly { output, .. }) = refused else { panic!("it runs: {refused:?}") };
        assert!(output.contains("the function `refused` cannot do without its fast path"), "{output}");
        assert!(output.contains(LOG), "the words of the verifier: {output}");
        assert!(output.contains("remove its `mode: offloading`"), "a remedy: {output}");
        assert_eq!(line.interfaces()?, before, "as it was");
        line.client.wait_for_ping("10.2.0.2", SOON)?;
    }
    Ok(())
}
