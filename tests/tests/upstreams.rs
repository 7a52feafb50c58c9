//! Upstream connections and upstream health.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use middlenet_tests::{Error, Netns, Proxy, Transport, Upstream, Wire, over, require_root, wait_until};

const FIRST: &str = "127.0.0.1:9001";
const SECOND: &str = "127.0.0.1:9002";
const BOTH: &str = "reverse-proxy: { upstreams: ['127.0.0.1:9001', '127.0.0.1:9002'] }";
const FUNCTIONS: [&str; 3] = [Proxy::EDIT, Proxy::REWRITE, BOTH];
const SOON: Duration = Duration::from_secs(10);

fn ask(client: &mut Wire, method: &str) -> Result<u16, Error> {
    client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"))?;
    Ok(client.response()?.status())
}

/// A request of each client at the same time; answers with the statuses.
fn ask_all(clients: &mut [Wire]) -> Result<Vec<u16>, Error> {
    clients.iter_mut().try_for_each(|c| c.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))?;
    clients.iter_mut().map(|c| c.response().map(|r| r.status())).collect()
}

#[test]
fn idle_connections_are_used_again_and_given_up_in_time() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, FIRST)?;
        let proxy = Proxy::three(netns, transport, FIRST, &["upstream: { idle_ms: 3000, idle_connections: 2 }"])?;
        for _ in 0..5 {
            proxy.serves_well()?;
        }
        assert_eq!(upstream.connections(), 1, "clients come and go, the connection stays");
        wait_until("the idle connection's end", SOON, || upstream.open() == 0)?;
        proxy.serves_well()?;
        assert_eq!(upstream.connections(), 2);
        let account = proxy.stop()?;
        let counted = account.upstream(FIRST);
        assert_eq!((counted["connects"].as_u64(), counted["reuses"].as_u64()), (Some(2), Some(4)));
        Ok(())
    })
}

/// The upstream closes a connection when the second request has arrived on it.
fn closes_second_time(netns: &Netns) -> Result<Upstream, Error> {
    Upstream::start(netns, FIRST, |visit| {
        visit.request()?;
        visit.answer("ok")?;
        while visit.request()?.is_some() && visit.number > 0 {
            visit.answer("ok")?;
        }
        Ok(())
    })
}

#[test]
fn a_request_that_met_a_dying_connection_is_sent_again_if_that_is_safe() -> Result<(), Error> {
    require_root!(Ok(()));
    for (method, status, retries) in [("GET", 200, 1), ("DELETE", 200, 1), ("POST", 502, 0), ("PATCH", 502, 0)] {
        over(&Transport::ALL, |netns, transport| {
            let upstream = closes_second_time(netns)?;
            let proxy = Proxy::three(netns, transport, FIRST, &[])?;
            let mut client = proxy.client()?;
            assert_eq!(ask(&mut client, "GET")?, 200);
            assert_eq!(ask(&mut client, method)?, status, "{method}");
            assert_eq!(upstream.requests().len(), 2 + retries, "{method}");
            let account = proxy.stop()?;
            assert_eq!(account.count("retries"), retries as u64);
            assert_eq!(account.upstream(FIRST)["failures"], 0, "a stale connection says nothing of its health");
            Ok(())
        })?;
    }
    Ok(())
}

/// Of many stale connections none is tried after the first: the next try is a new one.
#[test]
fn an_upstream_that_was_restarted_costs_no_request() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let dead = Arc::new(AtomicBool::new(false));
        let dying = Arc::clone(&dead);
        let upstream = Upstream::start(netns, FIRST, move |visit| {
            let old = !dying.load(Ordering::SeqCst);
            while visit.request()?.is_some() {
                if old && dying.load(Ordering::SeqCst) {
                    return Ok(());
                }
                // So that all of them are under way at the same time.
                visit.wire.stays_silent(Duration::from_millis(250));
                visit.answer("ok")?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, FIRST, &["upstream: { retries: 1 }"])?;
        let mut clients = (0..8).map(|_| proxy.client()).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(ask_all(&mut clients)?, [200; 8]);
        assert!(upstream.connections() > 4);
        dead.store(true, Ordering::SeqCst);
        for client in &mut clients {
            assert_eq!(ask(client, "GET")?, 200);
        }
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn an_upstream_that_is_down_is_left_out_and_tried_again_later() -> Result<(), Error> {
    require_root!(Ok(()));
    let settings = ["upstream: { retries: 1, health: { fall: 2, eject_ms: 600 } }"];
    over(&Transport::ALL, |netns, transport| {
        let second = Upstream::plain(netns, SECOND)?;
        let proxy = Proxy::start(netns, transport, &FUNCTIONS, &settings)?;
        let mut client = proxy.client()?;
        for _ in 0..20 {
            assert_eq!(ask(&mut client, "POST")?, 200, "what could not be sent may go elsewhere, whatever its method");
        }
        assert_eq!(second.requests().len(), 20);
        let account = proxy.account()?;
        let down = account.upstream(FIRST);
        assert!(down["failures"].as_u64() < Some(10) && down["ejections"].as_u64() >= Some(1), "{down:#}");
        // It comes back, is tried, and stays.
        let first = Upstream::plain(netns, FIRST)?;
        let tried = || ask(&mut client, "GET").is_ok_and(|_| !first.requests().is_empty());
        wait_until("a request at the first", SOON, tried)?;
        let before = first.requests().len();
        for _ in 0..10 {
            ask(&mut client, "GET")?;
        }
        assert_eq!(first.requests().len() - before, 5);
        let account = proxy.stop()?;
        assert_eq!(account.count("answered"), account.count("received"));
        Ok(())
    })
}

#[test]
fn when_all_upstreams_are_down_all_are_tried() -> Result<(), Error> {
    require_root!(Ok(()));
    let settings = ["upstream: { retries: 0, health: { fall: 1, eject_ms: 60000 } }"];
    over(&Transport::ALL, |netns, transport| {
        let proxy = Proxy::start(netns, transport, &FUNCTIONS, &settings)?;
        let mut client = proxy.client()?;
        for _ in 0..4 {
            assert_eq!(ask(&mut client, "GET")?, 502);
        }
        let account = proxy.account()?;
        assert!(
            [FIRST, SECOND].iter().all(|u| account.upstream(u)["healthy"] == false),
            "{:#}",
            account.0["upstreams"]
        );
        let _upstreams = [Upstream::plain(netns, FIRST)?, Upstream::plain(netns, SECOND)?];
        for _ in 0..6 {
            assert_eq!(ask(&mut client, "GET")?, 200, "fail open");
        }
        let account = proxy.stop()?;
        assert_eq!((account.count("answered"), account.reason("failed", "connect")), (6, 4));
        Ok(())
    })
}

/// Time-outs count against an upstream also where its connections are old.
#[test]
fn an_upstream_that_stops_answering_is_left_out() -> Result<(), Error> {
    require_root!(Ok(()));
    let settings =
        ["upstream: { retries: 0, health: { fall: 2, eject_ms: 60000 } }", "timeouts: { first_byte_ms: 1000 }"];
    over(&Transport::ALL, |netns, transport| {
        let hangs = Arc::new(AtomicBool::new(false));
        let hung = Arc::clone(&hangs);
        let _first = Upstream::start(netns, FIRST, move |visit| {
            while visit.request()?.is_some() {
                if hung.load(Ordering::SeqCst) {
                    return visit.wire.rest().map(drop);
                }
                visit.answer("ok")?;
            }
            Ok(())
        })?;
        let second = Upstream::plain(netns, SECOND)?;
        let proxy = Proxy::start(netns, transport, &FUNCTIONS, &settings)?;
        let mut clients = (0..4).map(|_| proxy.client()).collect::<Result<Vec<_>, _>>()?;
        assert_eq!(ask_all(&mut clients)?, [200; 4]);
        hangs.store(true, Ordering::SeqCst);
        assert_eq!(ask_all(&mut clients)?.iter().filter(|s| **s == 504).count(), 2);
        let account = proxy.wait_for("the first to be out", |a| a.upstream(FIRST)["healthy"] == false)?;
        assert_eq!(account.upstream(FIRST)["failures"], 2);
        let before = second.requests().len();
        assert_eq!(ask_all(&mut clients)?, [200; 4]);
        assert_eq!(second.requests().len() - before, 4);
        let account = proxy.stop()?;
        assert_eq!(account.reason("failed", "first-byte-timeout"), 2);
        Ok(())
    })
}

#[test]
fn checks_take_an_upstream_out_and_bring_it_back() -> Result<(), Error> {
    require_root!(Ok(()));
    let health = "health: { interval_ms: 50, timeout_ms: 2000, path: '/health?deep', rise: 3, fall: 2, eject_ms: 1 }";
    let settings = [&*format!("upstream: {{ {health} }}")];
    over(&Transport::ALL, |netns, transport| {
        let status = Arc::new(AtomicU32::new(200));
        let told = Arc::clone(&status);
        let first = Upstream::start(netns, FIRST, move |visit| {
            while let Some(request) = visit.request()? {
                let status = if request.target() == "/health?deep" { told.load(Ordering::SeqCst) } else { 200 };
                visit.wire.send(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"))?;
            }
            Ok(())
        })?;
        let second = Upstream::plain(netns, SECOND)?;
        let proxy = Proxy::start(netns, transport, &FUNCTIONS, &settings)?;
        let served = || first.targets().iter().filter(|t| *t == "/").count();
        let mut client = proxy.client()?;
        let rounds = |client: &mut Wire| (0..10).try_for_each(|_| ask(client, "GET").map(|s| assert_eq!(s, 200)));
        rounds(&mut client)?;
        assert_eq!(served(), 5);
        status.store(503, Ordering::SeqCst);
        let account = proxy.wait_for("the first to be out", |a| a.upstream(FIRST)["healthy"] == false)?;
        assert_eq!(account.upstream(FIRST)["ejections"], 1);
        // Functions hear of it in the same moment or at the next tick.
        wait_until("the function to know", SOON, || {
            let before = served();
            rounds(&mut client).is_ok() && served() == before
        })?;
        // Hysteresis: one good check does not bring it back.
        let before = served();
        let good = |a: &middlenet_tests::Account| a.upstream(FIRST)["checks"][0].as_u64().unwrap_or_default();
        let checked = good(&proxy.account()?);
        status.store(302, Ordering::SeqCst);
        let account = proxy.wait_for("the first to be back", |a| a.upstream(FIRST)["healthy"] == true)?;
        assert!(good(&account) >= checked + 3, "{} good checks", good(&account) - checked);
        wait_until("requests at the first", SOON, || rounds(&mut client).is_ok() && served() > before)?;
        assert!(second.targets().iter().any(|t| t == "/health?deep"));
        assert_eq!(proxy.stop()?.count("retries"), 0);
        Ok(())
    })
}

/// Checks of an upstream that takes connections and says nothing end, and count as failures.
#[test]
fn a_check_that_hangs_is_a_failure_and_delays_nobody() -> Result<(), Error> {
    require_root!(Ok(()));
    let health = "upstream: { health: { interval_ms: 50, timeout_ms: 1000, path: /health, fall: 2 } }";
    // The function may hear of it a tick later.
    let settings = [health, "timeouts: { first_byte_ms: 1000 }"];
    over(&[Transport::Inline], |netns, transport| {
        let _first = Upstream::start(netns, FIRST, |visit| visit.wire.rest().map(drop))?;
        let _second = Upstream::plain(netns, SECOND)?;
        let proxy = Proxy::start(netns, transport, &[BOTH], &settings)?;
        proxy.wait_for("the first to be out", |a| a.upstream(FIRST)["healthy"] == false)?;
        let began = Instant::now();
        for _ in 0..10 {
            proxy.serves_well()?;
        }
        assert!(began.elapsed() < Duration::from_secs(5));
        proxy.stop()?;
        Ok(())
    })
}
