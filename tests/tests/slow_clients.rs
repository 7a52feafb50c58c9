//! Clients that are slow on purpose: `slowhttptest`, and its like by hand.

use std::time::{Duration, Instant};

use middlenet_tests::{Account, Error, Netns, Process, Proxy, Transport, Upstream, over, require_root};

const UPSTREAM: &str = "127.0.0.1:9001";
/// Attackers at the same time.
const CLIENTS: u64 = 300;
const SETTINGS: [&str; 1] = ["timeouts: { head_ms: 1500, body_ms: 1500, idle_ms: 1500, total_ms: 3000 }"];
/// What a run may gain in memory from all of them, in KiB: sockets' memory is the kernel's.
const GAIN_KIB: u64 = 40 * 1024;

fn attack(netns: &Netns, arguments: &[&str]) -> Result<Process, Error> {
    let clients = CLIENTS.to_string();
    let mut all = vec!["-c", &clients, "-r", &clients, "-l", "12", "-p", "3", "-u", "http://127.0.0.1:8080/"];
    all.extend(arguments);
    netns.spawn("slowhttptest", all)
}

/// Serves others well while it lasts; until all attackers have been left, which they are before they give up by themselves.
fn outlasts(proxy: &Proxy<'_>, attack: Process, began: impl Fn(&Account) -> bool) -> Result<(), Error> {
    let before = proxy.resident_kib()?;
    proxy.wait_for("the attack", |a| a.count("open_connections") > CLIENTS / 2 && began(a))?;
    let started = Instant::now();
    let mut served = 0;
    let mut most = before;
    while started.elapsed() < Duration::from_secs(9) && proxy.account()?.count("open_connections") > 0 {
        let asked = Instant::now();
        proxy.serves_well()?;
        assert!(asked.elapsed() < Duration::from_secs(2), "others wait for {:?}", asked.elapsed());
        most = most.max(proxy.resident_kib()?);
        served += 1;
    }
    assert!(served > 10, "{served} requests were served meanwhile");
    assert_eq!(proxy.account()?.count("open_connections"), 0, "nobody stays");
    assert!(most < before + GAIN_KIB, "memory grew from {before} KiB to {most} KiB");
    drop(attack);
    Ok(())
}

#[test]
fn slow_heads_are_ended() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &SETTINGS)?;
        let attack = attack(netns, &["-H", "-i", "1", "-x", "24"])?;
        outlasts(&proxy, attack, |a| a.count("in_progress") > CLIENTS / 2)?;
        let account = proxy.stop()?;
        assert!(account.reason("rejected", "head-timeout") > CLIENTS / 2, "{:#}", account.0["chains"][0]["rejected"]);
        Ok(())
    })
}

#[test]
fn slow_bodies_are_ended() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &SETTINGS)?;
        let attack = attack(netns, &["-B", "-i", "1", "-s", "8192", "-x", "10"])?;
        outlasts(&proxy, attack, |a| a.count("in_progress") > CLIENTS / 2)?;
        let account = proxy.stop()?;
        let late = account.reason("rejected", "body-timeout") + account.reason("rejected", "total-timeout");
        assert!(late + account.count("aborted") > CLIENTS / 2, "{:#}", account.0["chains"][0]);
        Ok(())
    })
}

#[test]
fn slow_readers_are_ended() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                visit.answer(vec![b'x'; if request.target() == "/well" { 2 } else { 1_000_000 }])?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &SETTINGS)?;
        let attack = attack(netns, &["-X", "-w", "1", "-y", "10", "-n", "5", "-z", "1", "-k", "1"])?;
        outlasts(&proxy, attack, |_| true)?;
        let account = proxy.stop()?;
        assert!(account.balances());
        Ok(())
    })
}
