//! Every phase of a request has its time-out, and every time-out its answer.

use std::time::{Duration, Instant};

use middlenet_tests::{End, Ended, Error, Netns, Proxy, Transport, Upstream, Veth, Wire, over, require_root};

const UPSTREAM: &str = "127.0.0.1:9001";

/// A cable to a host that is not there: what is sent to 192.0.2.9 is lost.
fn black_hole(netns: &Netns) -> Result<(Netns, Veth), Error> {
    let nobody = Netns::new("hole")?;
    let end = End::new(netns, "hole").address("192.0.2.1/24");
    let cable = Veth::between(&end, &End::new(&nobody, "eth0"))?;
    netns.exec("ip", ["neigh", "replace", "192.0.2.9", "lladdr", "02:00:00:00:00:99", "dev", "hole"])?;
    Ok((nobody, cable))
}

/// Sends `piece` again and again until there is an answer.
fn trickle(client: &mut Wire, piece: &str) -> Result<Duration, Error> {
    let began = Instant::now();
    while client.stays_silent(Duration::from_millis(60)) {
        assert!(began.elapsed() < Duration::from_secs(15), "nobody minds");
        // It may have been closed in between.
        let _ = client.send(piece);
    }
    Ok(began.elapsed())
}

#[test]
fn an_upstream_that_cannot_be_reached_is_given_up() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _hole = black_hole(netns)?;
        let settings = ["timeouts: { connect_ms: 200 }", "upstream: { retries: 1 }"];
        let proxy = Proxy::three(netns, transport, "192.0.2.9:80", &settings)?;
        let mut client = proxy.client()?;
        let began = Instant::now();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        assert_eq!(client.response()?.status(), 504);
        assert!(began.elapsed() > Duration::from_millis(350), "two tries");
        let account = proxy.stop()?;
        assert_eq!((account.reason("failed", "connect-timeout"), account.count("retries")), (1, 1));
        Ok(())
    })
}

#[test]
fn another_upstream_answers_when_one_is_in_a_black_hole() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _hole = black_hole(netns)?;
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let balance = format!("reverse-proxy: {{ upstreams: ['192.0.2.9:80', '{UPSTREAM}'] }}");
        let settings = ["timeouts: { connect_ms: 500 }"];
        let proxy = Proxy::start(netns, transport, &[Proxy::EDIT, &balance], &settings)?;
        let mut client = proxy.client()?;
        for _ in 0..4 {
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc")?;
            assert_eq!(client.response()?.text(), "POST / 3");
        }
        assert_eq!(upstream.requests().len(), 4);
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn a_slow_head_is_answered_408_and_a_silent_client_is_left() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["timeouts: { head_ms: 1000, idle_ms: 2000 }"])?;
        let mut slow = proxy.client()?;
        let mut silent = proxy.client()?;
        let mut idle = proxy.client()?;
        idle.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
        assert_eq!(idle.response()?.status(), 200);
        // Lines that keep coming do not help.
        slow.send("GET / HTTP/1.1\r\n")?;
        trickle(&mut slow, "X: y\r\n")?;
        let response = slow.response()?;
        assert_eq!((response.status(), response.closes()), (408, true));
        slow.end()?;
        // Who has not begun a request, or not another one, is told nothing.
        assert_eq!(silent.end()?, Ended::Closed);
        assert_eq!(idle.end()?, Ended::Closed);
        let account = proxy.stop()?;
        assert_eq!((account.reason("rejected", "head-timeout"), account.count("received")), (1, 2));
        Ok(())
    })
}

#[test]
fn a_body_that_stops_is_answered_408() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["timeouts: { body_ms: 400 }"])?;
        for begun in ["Content-Length: 10\r\n\r\nabc", "Transfer-Encoding: chunked\r\n\r\n5\r\nabc"] {
            let mut client = proxy.client()?;
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{begun}"))?;
            let response = client.response()?;
            assert_eq!((response.status(), response.closes()), (408, true));
            client.end()?;
        }
        assert!(upstream.requests().is_empty(), "no half request was taken for a whole one");
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!(account.reason("rejected", "body-timeout"), 2);
        Ok(())
    })
}

/// Pieces that come in time keep a request alive, up to its total.
#[test]
fn a_body_in_small_pieces_may_take_as_long_as_the_total_allows() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["timeouts: { body_ms: 1000, total_ms: 5000 }"])?;
        let mut client = proxy.client()?;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n")?;
        trickle(&mut client, "x")?;
        assert_eq!(client.response()?.text(), "POST / 20");
        let mut slow = proxy.client()?;
        slow.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")?;
        assert!(trickle(&mut slow, "x")? > Duration::from_millis(4500));
        assert_eq!(slow.response()?.status(), 408);
        assert_eq!(upstream.requests().len(), 1);
        let account = proxy.stop()?;
        assert_eq!(account.reason("rejected", "total-timeout"), 1);
        Ok(())
    })
}

#[test]
fn an_upstream_that_says_nothing_or_half_a_head_is_given_up() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                match request.target() {
                    "/nothing" => {}
                    "/half" => visit.wire.send("HTTP/1.1 200 OK\r\nContent-Le")?,
                    "/interim" => visit.wire.send("HTTP/1.1 102 Processing\r\n\r\n")?,
                    _ => visit.answer("ok")?,
                }
            }
            Ok(())
        })?;
        let settings = ["timeouts: { first_byte_ms: 700 }", "upstream: { retries: 0 }"];
        let proxy = Proxy::three(netns, transport, UPSTREAM, &settings)?;
        for target in ["/nothing", "/half", "/interim"] {
            let mut client = proxy.client()?;
            client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
            assert_eq!(client.response()?.status(), 504, "{target}");
        }
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!(account.reason("failed", "first-byte-timeout"), 3);
        Ok(())
    })
}

/// The head is out: all that is left is to cut the response so that nobody takes it for whole.
#[test]
fn a_response_that_stops_is_cut() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                match request.target() {
                    "/length" => visit.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc")?,
                    "/chunked" => {
                        visit.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")?
                    }
                    "/close" => visit.wire.send("HTTP/1.1 200 OK\r\n\r\nabc")?,
                    _ => visit.answer("ok")?,
                }
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["timeouts: { body_ms: 300 }"])?;
        for target in ["/length", "/chunked", "/close"] {
            for version in ["1.1", "1.0"] {
                let mut client = proxy.client()?;
                client.send(format!("GET {target} HTTP/{version}\r\nHost: a\r\n\r\n"))?;
                let response = client.response();
                assert!(response.is_err(), "{target} HTTP/{version}: {response:?}");
            }
        }
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!(account.reason("failed", "response-timeout"), 6);
        Ok(())
    })
}

#[test]
fn a_tunnel_in_which_nothing_moves_is_closed() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            visit.wire.send("HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")?;
            loop {
                let bytes = visit.wire.take(1)?;
                visit.wire.send(bytes)?;
            }
        })?;
        let settings = ["timeouts: { idle_ms: 2000, body_ms: 200, first_byte_ms: 2000 }"];
        let proxy = Proxy::three(netns, transport, UPSTREAM, &settings)?;
        let mut client = proxy.client()?;
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")?;
        assert_eq!(client.response_head()?.status(), 101);
        let began = Instant::now();
        for _ in 0..12 {
            client.send("x")?;
            assert_eq!(client.take(1)?, b"x");
            assert!(client.stays_silent(Duration::from_millis(200)), "traffic keeps it open");
        }
        assert_eq!(client.end()?, Ended::Closed);
        assert!(began.elapsed() > Duration::from_millis(4100));
        proxy.stop()?;
        Ok(())
    })
}
