//! Requests whose time runs out while functions have them, or while they wait for one: their clients are told, and what comes
//! back later does no harm to the requests that follow on the same connections.

use std::time::{Duration, Instant};

use middlenet_tests::{Asks, Error, Load, Runtime, Web, require_root};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

const SOON: Duration = Duration::from_secs(20);
const CLIENTS: usize = 32;

fn send(signal: Signal, pid: u32) {
    kill(Pid::from_raw(pid.cast_signed()), signal).expect("a process of the run takes a signal");
}

fn start(web: &Web, hop: &str, timeouts: &str) -> Result<Runtime, Error> {
    let how = format!("{}    timeouts: {timeouts}\n", Web::processes(hop));
    Runtime::start(&web.host, &Web::manifest(&how, &[Web::PROXY, Web::REWRITE, Web::EDIT]))
}

fn finish(run: Runtime, load: Load, statuses: &[u16]) -> Result<(), Error> {
    load.wait_for(500, SOON)?;
    let seen = load.stop();
    assert_eq!((&seen.wrong, seen.hung, seen.cut), (&vec![], 0, 0), "{seen:?}");
    assert!(seen.refused.keys().all(|status| statuses.contains(status)), "{seen:?}");
    assert!(seen.failed() > 0, "nothing happened: {seen:?}");
    let account = run.wait_for_requests_to_rest()?.account("web");
    assert_eq!((account.received, account.answered, account.failed), (seen.asked, seen.fine, seen.failed()));
    run.stop_requests()?;
    Ok(())
}

/// Deaths so close together that the next start is later than requests want to wait.
fn waiting_in_vain(hop: &str) -> Result<(), Error> {
    let web = Web::new()?;
    let run = start(&web, hop, "{ function_ms: 100 }")?;
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
    load.wait_for(300, SOON)?;
    for function in ["url-rewrite", "header-edit"] {
        for _ in 0..4 {
            let pid = run.wait_for("a process", SOON, |s| s.serves_requests())?.pid(function).expect("it runs");
            send(Signal::SIGKILL, pid);
            run.wait_for("another", SOON, |s| s.serves_requests() && s.pid(function).is_some_and(|now| now != pid))?;
            load.wait_for(50, SOON)?;
        }
    }
    finish(run, load, &[502, 503, 504])
}

#[test]
fn waiting_in_vain_on_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    waiting_in_vain("skmsg")
}

#[test]
fn waiting_in_vain_on_rings() -> Result<(), Error> {
    require_root!(Ok(()));
    waiting_in_vain("ring")
}

/// Functions that stand still for a while and then go on with what they have.
fn late_answers(hop: &str, timeouts: &str) -> Result<(), Error> {
    let web = Web::new()?;
    let run = start(&web, hop, timeouts)?;
    let load = Load::start(&web.host, Web::ADDRESS, CLIENTS, Asks::REWRITTEN)?;
    load.wait_for(300, SOON)?;
    let status = run.status()?;
    for function in ["url-rewrite", "header-edit", "reverse-proxy"] {
        let pid = status.pid(function).expect("it runs");
        let (refused, began) = (load.seen().failed(), Instant::now());
        send(Signal::SIGSTOP, pid);
        let late = middlenet_tests::wait_until("answers of who waits no longer", SOON, || {
            load.seen().failed() >= refused + CLIENTS as u64
        });
        send(Signal::SIGCONT, pid);
        late?;
        println!("{hop}: all were told after {:?}", began.elapsed());
        load.wait_for(300, SOON)?;
    }
    let status = run.status()?;
    for function in ["url-rewrite", "header-edit", "reverse-proxy"] {
        assert_eq!(status.restarts(function), 0);
    }
    finish(run, load, &[504])
}

#[test]
fn late_answers_on_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    late_answers("skmsg", "{ function_ms: 300 }")
}

#[test]
fn late_answers_on_rings() -> Result<(), Error> {
    require_root!(Ok(()));
    late_answers("ring", "{ function_ms: 300 }")
}

/// The same where not the functions' time runs out but that of the request as a whole.
#[test]
fn no_time_left_on_skmsg() -> Result<(), Error> {
    require_root!(Ok(()));
    late_answers("skmsg", "{ function_ms: 5000, total_ms: 400 }")
}

#[test]
fn no_time_left_on_rings() -> Result<(), Error> {
    require_root!(Ok(()));
    late_answers("ring", "{ function_ms: 5000, total_ms: 400 }")
}
