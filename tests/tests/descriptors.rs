//! Descriptors: a run takes as many as the host allows, not as many as the shell that started it.

use middlenet_tests::{Error, Line, Runtime, require_root};

/// The soft and the hard limit of a process.
fn limits(pid: u32) -> Result<[u64; 2], Error> {
    let path = format!("/proc/{pid}/limits");
    let text = std::fs::read_to_string(&path).map_err(|source| Error::File { path: path.into(), source })?;
    let line = text.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap_or_default();
    let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
    Ok([numbers.next(), numbers.next()].map(Option::unwrap_or_default))
}

/// With the few of the shell, neither the run nor its processes would come up: each function takes several of the supervisor's.
#[test]
fn a_run_has_as_many_descriptors_as_the_host_allows() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = Line::new()?;
    let mut run = Runtime::prepare(&Line::manifest(&["monitor: { config: {}, replicas: 8 }"]))?;
    run.launch_under(&line.middle, "prlimit", &["--nofile=32:2000"])?;
    let status = run.status()?;
    let supervisor = status.0["pid"].as_u64().expect("the supervisor has a process");
    let manager = status.manager_pid().expect("the manager has a process");
    for pid in [supervisor as u32, manager] {
        assert_eq!(limits(pid)?, [2000, 2000], "process {pid}");
    }
    run.stop()?;
    Ok(())
}
