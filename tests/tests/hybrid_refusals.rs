//! Fast paths that no kernel could have: the run does not start, and says why before it has touched anything.

use std::time::Duration;

use middlenet_tests::{Error, Line, Runtime, require_root};

const SOON: Duration = Duration::from_secs(20);

fn unloadable(mode: &str) -> String {
    format!("refused: {{ run: {}, mode: {mode} }}", env!("CARGO_BIN_EXE_middlenet-test-unloadable"))
}

fn marker(mode: &str) -> String {
    let run = env!("CARGO_BIN_EXE_middlenet-test-marker");
    format!("a: {{ run: {run}, config: {{ field: src }}, mode: {mode} }}")
}

#[test]
fn a_run_does_not_start_with_a_fast_path_that_cannot_be() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    line.route_in_the_kernel()?;
    let before = line.interfaces()?;
    for functions in [
        [unloadable("reactive"), marker("reactive")],
        [unloadable("offloading"), marker("offloading")],
        [marker("offloading"), unloadable("offloading")],
    ] {
        let manifest = Line::manifest(&functions.each_ref().map(String::as_str));
        let refused = Runtime::start(&line.middle, &manifest).err();
        let Some(Error::EndedEarly { output, .. }) = refused else { panic!("it runs: {refused:?}") };
        assert!(output.contains("the fast path of `refused` has services, but no room for flows"), "{output}");
        assert!(output.contains("services need flows"), "a remedy: {output}");
        assert_eq!(line.interfaces()?, before, "as it was");
        line.client.wait_for_ping("10.2.0.2", SOON)?;
    }
    Ok(())
}
