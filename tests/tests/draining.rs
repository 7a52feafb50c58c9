//! What becomes of requests and tunnels when a run is asked to end.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use middlenet_tests::{Ended, Error, Proxy, Transport, Upstream, over, require_root, wait_until};

const UPSTREAM: &str = "127.0.0.1:9001";
const SOON: Duration = Duration::from_secs(10);

/// Requests in flight are answered in full, idle connections are closed, new ones refused.
#[test]
fn a_request_in_flight_is_answered() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let go = Arc::new(AtomicBool::new(false));
        let may_go = Arc::clone(&go);
        let upstream = Upstream::start(netns, UPSTREAM, move |visit| {
            while let Some(request) = visit.request()? {
                if request.target() == "/begun" {
                    visit.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf")?;
                }
                if request.target() != "/well" {
                    wait_until("the word", SOON, || may_go.load(Ordering::SeqCst))?;
                }
                if request.target() == "/begun" { visit.wire.send("half")? } else { visit.answer("whole")? }
            }
            Ok(())
        })?;
        let functions = [Proxy::EDIT, Proxy::REWRITE, "reverse-proxy: { upstreams: ['127.0.0.1:9001'] }"];
        let mut proxy = Proxy::start_with(netns, transport, &functions, &[], "drain_ms: 20000")?;
        let mut idle = proxy.client()?;
        idle.send("GET /well HTTP/1.1\r\nHost: a\r\n\r\n")?;
        assert_eq!(idle.response()?.status(), 200);
        let mut waiting = proxy.client()?;
        waiting.send("POST /waiting HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nok")?;
        let mut begun = proxy.client()?;
        begun.send("GET /begun HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut uploading = proxy.client()?;
        uploading.send("POST /uploading HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello")?;
        let mut begun_head = begun.response_head()?;
        wait_until("all to be there", SOON, || upstream.connections() == 3)?;
        proxy.drain();
        idle.end()?;
        wait_until("the listener to be gone", SOON, || proxy.client().is_err())?;
        uploading.send("world")?;
        go.store(true, Ordering::SeqCst);
        for client in [&mut waiting, &mut uploading] {
            let response = client.response()?;
            assert_eq!((response.text().as_str(), response.closes()), ("whole", true));
            client.end()?;
        }
        begun.body(&mut begun_head, false)?;
        assert_eq!(begun_head.text(), "halfhalf");
        begun.end()?;
        let began = Instant::now();
        let line = proxy.end()?;
        assert!(began.elapsed() < SOON, "there was nothing left to wait for");
        assert!(line.starts_with("4 requests received = 4 answered"), "{line}");
        Ok(())
    })
}

/// A tunnel may go on for as long as the drain does, and is closed then.
#[test]
fn an_open_tunnel_lasts_until_the_end_of_the_drain() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            visit.wire.send("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")?;
            loop {
                let bytes = visit.wire.take(1)?;
                visit.wire.send(bytes)?;
            }
        })?;
        let functions = [Proxy::EDIT, Proxy::REWRITE, "reverse-proxy: { upstreams: ['127.0.0.1:9001'] }"];
        let mut proxy = Proxy::start_with(netns, transport, &functions, &[], "drain_ms: 1500")?;
        let mut client = proxy.client()?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")?;
        assert_eq!(client.response_head()?.status(), 101);
        proxy.drain();
        wait_until("the listener to be gone", SOON, || proxy.client().is_err())?;
        client.send("still here")?;
        assert_eq!(client.take(10)?, b"still here");
        assert_eq!(client.end()?, Ended::Closed);
        wait_until("the upstream to be left", SOON, || upstream.open() == 0)?;
        let line = proxy.end()?;
        assert!(line.starts_with("1 requests received = 1 answered"), "{line}");
        Ok(())
    })
}

/// A request that takes longer than the drain is cut off, and accounted for.
#[test]
fn a_request_that_does_not_end_is_cut_off() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            visit.wire.rest().map(drop)
        })?;
        let functions = [Proxy::EDIT, Proxy::REWRITE, "reverse-proxy: { upstreams: ['127.0.0.1:9001'] }"];
        let mut proxy = Proxy::start_with(netns, transport, &functions, &[], "drain_ms: 500")?;
        let mut client = proxy.client()?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\nGET /behind HTTP/1.1\r\nHost: a\r\n\r\n")?;
        let mut half = proxy.client()?;
        half.send("GET / HT")?;
        proxy.wait_for("both to have begun", |a| a.count("received") == 2)?;
        wait_until("the request to arrive", SOON, || upstream.requests().len() == 1)?;
        proxy.drain();
        client.end()?;
        half.end()?;
        let line = proxy.end()?;
        assert!(line.starts_with("2 requests received = ") && line.contains(" 2 failed"), "{line}");
        Ok(())
    })
}
