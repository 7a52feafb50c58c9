//! Interim responses, `Expect`, and connections that stop being HTTP.

use std::time::Duration;

use middlenet_tests::{Ended, Error, Proxy, Transport, Upstream, Visit, over, require_root, wait_until};

const UPSTREAM: &str = "127.0.0.1:9001";
const MOMENT: Duration = Duration::from_millis(150);
const SOON: Duration = Duration::from_secs(15);
const UPGRADE: &str =
    "GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";
const SWITCHING: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\n";

#[test]
fn a_client_that_expects_100_gets_it_once_and_the_upstream_is_not_asked() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(mut request) = visit.head()? {
                if request.target() == "/chatty" {
                    visit.wire.send("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n")?;
                }
                visit.wire.body(&mut request, false)?;
                visit.answer(request.body)?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        let expecting = "Host: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
        for target in ["/", "/chatty"] {
            client.send(format!("POST {target} HTTP/1.1\r\n{expecting}"))?;
            let interim = client.response_head()?;
            assert_eq!((interim.status(), interim.headers.len()), (100, 0));
            client.send("hello")?;
            let response = client.response_head()?;
            assert_eq!(response.status(), 200, "one 100 and no other, {target}");
            assert_eq!(client.take(5)?, b"hello");
        }
        // The body is there already: no interim response is needed, but one does no harm.
        client.send(format!("POST / HTTP/1.1\r\n{expecting}hello"))?;
        assert_eq!(client.response()?.text(), "hello");
        // A client of HTTP/1.0 does not know them.
        client.send(format!("POST / HTTP/1.0\r\nConnection: keep-alive\r\n{expecting}"))?;
        assert!(client.stays_silent(MOMENT));
        client.send("hello")?;
        assert_eq!(client.response_head()?.status(), 200);
        assert!(upstream.requests().iter().all(|r| r.header("expect").is_none()));
        proxy.stop()?;
        Ok(())
    })
}

/// A client whose `Expect` is answered by a final response may leave its body out. What it sends next is not to be taken for
/// that body.
#[test]
fn a_refusal_instead_of_100_leaves_no_doubt_where_the_next_request_begins() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let router = "router: { rules: [{ path: /no, respond: { status: 403, body: 'no' } }] }";
        let proxy = format!("reverse-proxy: {{ upstreams: ['{UPSTREAM}'] }}");
        let proxy = Proxy::start(netns, transport, &[Proxy::EDIT, router, &proxy], &[])?;
        let mut client = proxy.client()?;
        client.send("POST /no HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 40\r\n\r\n")?;
        let response = client.response()?;
        assert_eq!((response.status(), response.text().as_str()), (403, "no"));
        assert!(response.closes(), "{response:?}");
        client.send("GET /next HTTP/1.1\r\nHost: a\r\n\r\nPOST /no HT")?;
        client.end()?;
        assert!(upstream.requests().is_empty());
        proxy.stop()?;
        Ok(())
    })
}

/// RFC 9110 15.2: a proxy forwards them, unless the client is of HTTP/1.0.
#[test]
fn interim_responses_are_passed_to_those_who_know_them() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while visit.request()?.is_some() {
                visit.wire.send("HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")?;
                visit.wire.send("HTTP/1.1 103 Early Hints\r\nLink: </b.css>\r\nConnection: x\r\nX: 1\r\n\r\n")?;
                visit.answer("ok")?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            for link in ["</a.css>", "</b.css>"] {
                let interim = client.response_head()?;
                assert_eq!((interim.status(), interim.header("link")), (103, Some(link)));
                assert_eq!((interim.header("content-length"), interim.header("x")), (None, None));
            }
            assert_eq!(client.response()?.text(), "ok");
        }
        client.send("GET / HTTP/1.0\r\n\r\n")?;
        assert_eq!(client.response_head()?.status(), 200, "HTTP/1.0 knows no interim responses");
        proxy.stop()?;
        Ok(())
    })
}

fn echo(visit: &mut Visit) -> Result<(), Error> {
    loop {
        let byte = visit.wire.take(1)?;
        visit.wire.send(byte)?;
    }
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            // Bytes right behind the head belong to the tunnel.
            visit.wire.send(format!("{SWITCHING}first"))?;
            let _ = echo(visit);
            visit.wire.send("last")
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        client.send(UPGRADE)?;
        let head = client.response_head()?;
        assert_eq!((head.status(), head.header("upgrade")), (101, Some("websocket")));
        assert_eq!((head.header("sec-websocket-accept"), head.header("x-edited")), (Some("y"), Some("yes")));
        assert_eq!(head.header("connection").map(str::to_ascii_lowercase).as_deref(), Some("upgrade"));
        assert_eq!(client.take(5)?, b"first");
        let text: Vec<u8> = (0..=255).cycle().take(20_000).collect();
        for piece in text.chunks(5000) {
            client.send(piece)?;
            assert_eq!(client.take(piece.len())?, piece);
        }
        // The client is done; what the upstream says to that still arrives.
        client.finish();
        assert_eq!(client.rest()?, (b"last".to_vec(), Ended::Closed));
        let request = upstream.requests().remove(0);
        assert_eq!((request.header("upgrade"), request.header("sec-websocket-key")), (Some("websocket"), Some("x")));
        let account = proxy.stop()?;
        assert_eq!((account.count("upgrades"), account.count("answered")), (1, 1));
        Ok(())
    })
}

/// The other half: the upstream has said all, the client has not.
#[test]
fn a_tunnel_stays_open_for_the_client_when_the_upstream_has_said_all() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            visit.wire.send(format!("{SWITCHING}all"))?;
            visit.wire.finish();
            let (bytes, ended) = visit.wire.rest()?;
            if ended == Ended::Closed {
                visit.note_body(bytes);
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        client.send(UPGRADE)?;
        client.response_head()?;
        assert_eq!(client.rest()?, (b"all".to_vec(), Ended::Closed));
        let text: Vec<u8> = (0..=255).cycle().take(3_000_000).collect();
        client.send(&text)?;
        client.finish();
        wait_until("the upstream's half", SOON, || upstream.requests().len() == 2)?;
        assert!(upstream.requests()[1].body == text, "only {} bytes came", upstream.requests()[1].body.len());
        proxy.stop()?;
        Ok(())
    })
}

/// A client may not speak before the 101: what it says could be another request (request smuggling by upgrade).
#[test]
fn bytes_before_the_101_wait_and_a_refused_upgrade_stays_http() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                if request.header("upgrade").is_none() {
                    visit.answer(format!("plain {}", request.target()))?;
                    continue;
                }
                let early = !visit.wire.stays_silent(MOMENT);
                if request.target() == "/chat" {
                    visit.answer(format!("refused, early {early}"))?;
                } else {
                    visit.wire.send(format!("{SWITCHING}{early}"))?;
                    return echo(visit);
                }
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        client.send(format!("{UPGRADE}GET /admin HTTP/1.1\r\nHost: a\r\n\r\n"))?;
        assert_eq!(client.response()?.text(), "refused, early false");
        assert_eq!(client.response()?.text(), "plain /admin", "it was a request of its own, and was treated as one");
        client.send(format!("{}early bytes", UPGRADE.replace("/chat", "/yes")))?;
        assert_eq!(client.response_head()?.status(), 101);
        assert_eq!(client.take(5)?, b"false");
        assert_eq!(client.take(11)?, b"early bytes");
        assert_eq!(upstream.targets(), ["/chat", "/admin", "/yes"]);
        drop(client);
        let account = proxy.stop()?;
        assert_eq!(account.count("upgrades"), 1);
        Ok(())
    })
}

#[test]
fn a_101_that_nobody_asked_for_is_refused() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                match request.target() {
                    "/well" => visit.answer("ok")?,
                    _ => visit.wire.send(SWITCHING)?,
                }
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        for line in ["", "Upgrade: websocket\r\n"] {
            let mut client = proxy.client()?;
            client.send(format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n"))?;
            assert_eq!(client.response()?.status(), 502);
        }
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!((account.reason("failed", "unasked-101"), account.count("upgrades")), (2, 0));
        Ok(())
    })
}

/// h2c is HTTP/2 on the same connection, past every function: it is never offered to an upstream.
#[test]
fn connect_and_h2c_lead_nowhere() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        client.send(
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
             HTTP2-Settings: AAMAAABk\r\n\r\n",
        )?;
        assert_eq!(client.response()?.status(), 200);
        let request = upstream.requests().remove(0);
        assert_eq!((request.header("upgrade"), request.header("http2-settings")), (None, None));
        client.send("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n")?;
        assert_eq!(client.response()?.status(), 501);
        assert_eq!(upstream.requests().len(), 1);
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!(account.reason("rejected", "connect"), 1);
        Ok(())
    })
}
