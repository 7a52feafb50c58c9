//! Upstreams that break the rules, or off in the middle.

use std::time::Duration;

use middlenet_tests::{Ended, Error, Proxy, Transport, Upstream, over, require_root};

const UPSTREAM: &str = "127.0.0.1:9001";
const MOMENT: Duration = Duration::from_millis(100);

/// An upstream that answers the request for `/N` with the `N`th of these, and closes; `/well` it answers well.
fn answering(netns: &middlenet_tests::Netns, responses: Vec<Vec<u8>>, abort: bool) -> Result<Upstream, Error> {
    Upstream::start(netns, UPSTREAM, move |visit| {
        while let Some(request) = visit.request()? {
            let number = request.target().trim_start_matches('/').parse::<usize>();
            let Some(response) = number.ok().and_then(|n| responses.get(n)) else {
                visit.answer("ok")?;
                continue;
            };
            visit.wire.send(response)?;
            if abort {
                // Until what was sent has been read, so that the reset does not overtake it.
                visit.wire.stays_silent(MOMENT);
                visit.wire.abort();
            }
            return Ok(());
        }
        Ok(())
    })
}

#[test]
fn a_bad_head_is_answered_502() -> Result<(), Error> {
    require_root!(Ok(()));
    let rows: Vec<Vec<u8>> = [
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 99 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 200 O\u{1}K\r\n\r\n",
        "\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        "HTTP/2 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 2\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 0\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-OpenSSH_9.6\r\n",
        // The head is not complete.
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        "HTT",
    ]
    .iter()
    .map(|r| r.as_bytes().to_vec())
    .chain([
        format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "v".repeat(100_000)).into_bytes(),
        format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(500)).into_bytes(),
    ])
    .collect();
    over(&Transport::ALL, |netns, transport| {
        let _upstream = answering(netns, rows.clone(), false)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["upstream: { health: { fall: 1000 } }"])?;
        let mut client = proxy.client()?;
        for (n, row) in rows.iter().enumerate() {
            let shown: String = String::from_utf8_lossy(row).chars().take(100).collect();
            client.send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
            let response = client.response().map_err(|e| panic!("{shown:?}: {e}"))?;
            assert_eq!((response.status(), response.closes()), (502, false), "{shown:?}");
        }
        proxy.serves_well()?;
        let account = proxy.stop()?;
        let failed = account.reason("failed", "bad-response") + account.reason("failed", "response-cut");
        assert_eq!(failed, rows.len() as u64, "{:#}", account.0["chains"][0]["failed"]);
        Ok(())
    })
}

/// Each version of the client, since HTTP/1.0 gets other framings.
fn never_whole(responses: &[&str], abort: bool) -> Result<(), Error> {
    let rows: Vec<Vec<u8>> = responses.iter().map(|r| r.as_bytes().to_vec()).collect();
    over(&Transport::ALL, |netns, transport| {
        let _upstream = answering(netns, rows.clone(), abort)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["upstream: { retries: 0 }"])?;
        for (n, row) in responses.iter().enumerate() {
            for version in ["1.1", "1.0"] {
                let mut client = proxy.client()?;
                client.send(format!("GET /{n} HTTP/{version}\r\nHost: a\r\n\r\n"))?;
                match client.response() {
                    // The broken part was there before anything was passed on.
                    Ok(response) => assert_eq!(response.status(), 502, "{row:?} HTTP/{version}: {response:?}"),
                    Err(Error::TimedOut { .. }) => panic!("{row:?} HTTP/{version} hangs"),
                    Err(_) => {}
                }
            }
        }
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!(account.all_reasons("failed"), responses.len() as u64 * 2, "{:#}", account.0["chains"][0]);
        Ok(())
    })
}

#[test]
fn a_body_that_is_cut_short_or_malformed_is_never_passed_on_as_whole() -> Result<(), Error> {
    require_root!(Ok(()));
    never_whole(
        &[
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloo\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nbad trailer\r\n\r\n",
        ],
        false,
    )
}

/// A reset is no end, not even where the end of the connection is the end of the body.
#[test]
fn a_body_that_ends_in_a_reset_is_never_passed_on_as_whole() -> Result<(), Error> {
    require_root!(Ok(()));
    never_whole(
        &[
            "HTTP/1.1 200 OK\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        ],
        true,
    )
}

/// Bytes behind a response are for nobody: neither this client nor the next one may get them.
#[test]
fn extra_bytes_behind_a_response_reach_nobody() -> Result<(), Error> {
    require_root!(Ok(()));
    let extra = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen";
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, move |visit| {
            while let Some(request) = visit.request()? {
                match request.target() {
                    "/length" => visit.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{extra}"))?,
                    "/chunked" => visit.wire.send(format!(
                        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{extra}"
                    ))?,
                    "/none" => visit.wire.send(format!("HTTP/1.1 304 Not Modified\r\n\r\n{extra}"))?,
                    "/head" => visit.wire.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{extra}"))?,
                    "/204" => {
                        visit.wire.send(format!("HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok{extra}"))?
                    }
                    "/later" => {
                        visit.answer("ok")?;
                        visit.wire.send(extra)?;
                    }
                    _ => visit.answer("honest")?,
                }
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        // So that there is a connection in the pool.
        proxy.serves_well()?;
        let mut client = proxy.client()?;
        for (method, target) in [
            ("GET", "/length"),
            ("GET", "/chunked"),
            ("GET", "/none"),
            ("HEAD", "/head"),
            ("GET", "/204"),
            ("GET", "/later"),
        ] {
            let connections = upstream.connections();
            client.send(format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
            let mut first = client.response_head()?;
            if !["/none", "/head", "/204"].contains(&target) {
                client.body(&mut first, false)?;
                assert_eq!(first.text(), "ok", "{target}");
            }
            if target == "/later" {
                assert!(client.stays_silent(MOMENT));
            }
            client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(client.response()?.text(), "honest", "after {target}");
            assert_eq!(upstream.connections(), connections + 1, "after {target}");
        }
        proxy.stop()?;
        Ok(())
    })
}

/// An upstream that answers an upload early, and goes on to read or closes: the client gets that answer.
#[test]
fn an_early_answer_to_an_upload_reaches_the_client() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.head()? {
                let close = request.target() == "/close";
                let connection = if close { "close" } else { "keep-alive" };
                visit.wire.send(format!(
                    "HTTP/1.1 413 Content Too Large\r\nConnection: {connection}\r\nContent-Length: 6\r\n\r\ntoobig"
                ))?;
                if close {
                    // With bytes unread, which makes it a reset.
                    return Ok(());
                }
                let (_, ended) = visit.wire.rest()?;
                assert_eq!(ended, Ended::Closed);
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        for target in ["/stay", "/close"] {
            for round in 0..5 {
                let mut client = proxy.client()?;
                client.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 8000000\r\n\r\n"))?;
                let piece = [b'x'; 40_000];
                let mut sent = 0;
                // It goes on sending until it is told.
                while sent < 8_000_000 && client.send(piece).is_ok() {
                    sent += piece.len();
                    if sent > 400_000 && !client.stays_silent(Duration::from_millis(1)) {
                        break;
                    }
                }
                let response = client.response().map_err(|e| panic!("{target}, round {round}: {e}"))?;
                assert_eq!((response.status(), response.text().as_str()), (413, "toobig"), "{target}");
            }
        }
        assert_eq!(upstream.requests().len(), 10, "an upload is never sent twice");
        let account = proxy.stop()?;
        assert_eq!((account.count("answered"), account.count("received")), (10, 10));
        Ok(())
    })
}

/// The whole upload is read and thrown away, and then the connection serves the next request.
#[test]
fn after_an_early_answer_the_connection_goes_on() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.head()? {
                if request.target() == "/next" {
                    visit.answer("next")?;
                    continue;
                }
                visit.wire.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno")?;
                visit.wire.rest()?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        for framing in ["Content-Length: 300000", "Transfer-Encoding: chunked"] {
            let mut client = proxy.client()?;
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"))?;
            let response = client.response()?;
            assert_eq!(response.status(), 401);
            let body = vec![b'x'; 300_000];
            if framing.starts_with('C') {
                client.send(&body)?;
            } else {
                client.send([format!("{:x}\r\n", body.len()).as_bytes(), &body, b"\r\n0\r\n\r\n"].concat())?;
            }
            client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(client.response()?.text(), "next");
        }
        assert_eq!(upstream.targets(), ["/", "/next", "/", "/next"]);
        proxy.stop()?;
        Ok(())
    })
}
