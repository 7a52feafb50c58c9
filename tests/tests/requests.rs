//! Requests and responses as they should be, through a chain of three functions.

use std::time::Duration;

use middlenet_tests::{Ended, Error, Proxy, Transport, Upstream, over, require_root, wait_until};

const UPSTREAM: &str = "127.0.0.1:9001";

#[test]
fn a_connection_serves_many_requests_and_closes_when_asked() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        for n in 0..5 {
            client.send(format!("GET /old/{n} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
            let response = client.response()?;
            assert_eq!((response.status(), response.text()), (200, format!("GET /new/{n} 0")));
            assert_eq!(response.header("x-edited"), Some("yes"));
            assert!(!response.closes());
        }
        client.send("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
        assert!(client.response()?.closes());
        assert_eq!(client.end()?, Ended::Closed);
        let ids: Vec<String> = upstream.requests().iter().filter_map(|r| r.header("x-id").map(str::to_owned)).collect();
        assert_eq!(ids.len(), 6);
        assert_eq!(upstream.connections(), 1, "the upstream's connection is kept as well");
        let account = proxy.stop()?;
        assert_eq!((account.count("received"), account.count("answered")), (6, 6));
        assert_eq!(account.count("connections"), 1);
        Ok(())
    })
}

#[test]
fn old_clients_get_a_close_unless_they_ask_to_stay() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        client.send("GET /1 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")?;
        let response = client.response()?;
        assert_eq!(response.header("connection"), Some("keep-alive"), "{response:?}");
        client.send("GET /2 HTTP/1.0\r\n\r\n")?;
        let response = client.response()?;
        assert!(response.closes(), "{response:?}");
        assert_eq!(client.end()?, Ended::Closed);
        assert_eq!(upstream.targets(), ["/1", "/2"]);
        let hosts: Vec<String> = upstream.requests().iter().map(|r| r.all("host").join("|")).collect();
        assert_eq!(hosts, [UPSTREAM, UPSTREAM], "who names no host asks for the upstream");
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn ten_requests_in_one_write_are_answered_in_order() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut all = String::new();
        let mut expected = Vec::new();
        for n in 0..10 {
            // Bodies between them, in both framings.
            let (method, length, body) = match n % 3 {
                0 => ("GET", 0, "\r\n"),
                1 => ("POST", 5, "Content-Length: 5\r\n\r\nhello"),
                _ => ("PUT", 5, "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
            };
            all.push_str(&format!("{method} /{n} HTTP/1.1\r\nHost: a\r\n{body}"));
            expected.push(format!("{method} /{n} {length}"));
        }
        for bytewise in [false, true] {
            let mut client = proxy.client()?;
            if bytewise {
                client.send_bytewise(&all)?
            } else {
                client.send(&all)?
            }
            for text in &expected {
                assert_eq!(&client.response()?.text(), text);
            }
        }
        assert_eq!(upstream.requests().len(), 20);
        let account = proxy.stop()?;
        assert_eq!(account.count("answered"), 20);
        Ok(())
    })
}

/// More requests at once than fit one read.
#[test]
fn hundreds_of_requests_in_one_write_are_answered() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let padding = "p".repeat(90);
        let all: String = (0..300).map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\nX: {padding}\r\n\r\n")).collect();
        let mut client = proxy.client()?;
        client.send(all)?;
        for n in 0..300 {
            assert_eq!(client.response()?.text(), format!("GET /{n} 0"));
        }
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn responses_without_a_body_are_understood() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                visit.wire.send(match request.target() {
                    "/length" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
                    "/chunked" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                    "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                    "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 77\r\nETag: \"x\"\r\n\r\n",
                    _ => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                })?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        for (request, status, length) in [
            ("HEAD /length", 200, Some("1000")),
            ("HEAD /chunked", 200, None),
            ("GET /204", 204, None),
            ("GET /304", 304, Some("77")),
            ("HEAD /304", 304, Some("77")),
        ] {
            client.send(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
            let head = client.response_head()?;
            assert_eq!((head.status(), head.header("content-length")), (status, length), "{request}");
            assert!(!head.closes(), "{request}");
            // No body: the next response begins at once.
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(client.response()?.text(), "ok", "{request}");
        }
        assert_eq!(upstream.connections(), 1);
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn bodies_arrive_whole_in_every_framing() -> Result<(), Error> {
    require_root!(Ok(()));
    let sizes = [1usize, 100, 8191, 8192, 12_288, 12_289, 65_536, 300_000];
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                let body = &request.body;
                match request.target() {
                    "/length" => visit.answer(body)?,
                    "/chunked" => {
                        visit.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                        for piece in body.chunks(7000) {
                            visit.wire.send(format!("{:x}\r\n", piece.len()))?;
                            visit.wire.send([piece, b"\r\n"].concat())?;
                        }
                        visit.wire.send("0\r\n\r\n")?;
                    }
                    _ => return visit.wire.send([b"HTTP/1.1 200 OK\r\n\r\n", &body[..]].concat()),
                }
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        let mut sent = 0;
        for size in sizes {
            let body: Vec<u8> = (0..=250u8).cycle().take(size).collect();
            let mut chunks = Vec::new();
            for piece in body.chunks(5000) {
                chunks.extend_from_slice(format!("{:X};note=\"x\"\r\n", piece.len()).as_bytes());
                chunks.extend_from_slice(&[piece, b"\r\n"].concat());
            }
            chunks.extend_from_slice(b"0\r\n\r\n");
            let framings = [(format!("Content-Length: {size}"), &body), ("Transfer-Encoding: chunked".into(), &chunks)];
            for answer in ["length", "chunked", "close"] {
                for (framing, bytes) in &framings {
                    client.send(format!("POST /{answer} HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n"))?;
                    client.send(bytes)?;
                    let got = client.response()?.body;
                    assert!(got == body, "{framing}, {size} bytes, back by {answer}: {} came", got.len());
                    sent += 1;
                }
            }
        }
        assert_eq!(upstream.requests().len(), sent);
        let account = proxy.stop()?;
        assert_eq!(account.count("answered"), sent as u64);
        Ok(())
    })
}

/// A client of HTTP/1.0 knows no chunks: it gets the bytes and then the end of the connection.
#[test]
fn chunks_become_a_close_for_old_clients() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while visit.request()?.is_some() {
                let body = "3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
                visit.wire.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}"))?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")?;
        let response = client.response()?;
        assert_eq!((response.text(), response.header("transfer-encoding")), ("abcdefg".into(), None));
        assert!(response.closes());
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn trailers_pass_both_ways_except_those_that_must_not() -> Result<(), Error> {
    require_root!(Ok(()));
    let trailers = "X-Sum: 1\r\nContent-Length: 5\r\nHost: evil\r\nTransfer-Encoding: chunked\r\nX-Last: 2\r\n";
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, move |visit| {
            while visit.request()?.is_some() {
                let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
                visit.wire.send(format!("{head}2\r\nok\r\n0\r\n{trailers}\r\n"))?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        client.send_bytewise(format!("{head}3\r\nabc\r\n0\r\n{trailers}\r\n"))?;
        let response = client.response()?;
        let kept = [("x-sum".to_owned(), "1".to_owned()), ("x-last".to_owned(), "2".to_owned())];
        assert_eq!((response.text().as_str(), response.trailers.as_slice()), ("ok", &kept[..]));
        let request = upstream.requests().remove(0);
        assert_eq!((request.text().as_str(), request.trailers.as_slice()), ("abc", &kept[..]));
        proxy.stop()?;
        Ok(())
    })
}

/// What the client has sent before it shuts its side down is answered, and then the connection is closed.
#[test]
fn a_client_that_has_said_all_is_answered_and_left() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        for _ in 0..20 {
            let mut client = proxy.client()?;
            client
                .send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")?;
            client.finish();
            assert_eq!(client.response()?.text(), "GET /1 0");
            assert_eq!(client.response()?.text(), "POST /2 1");
            client.set_patience(Duration::from_secs(5));
            assert_eq!(client.end()?, Ended::Closed, "nobody waits for the idle time-out");
        }
        assert_eq!(upstream.requests().len(), 40);
        proxy.stop()?;
        Ok(())
    })
}

/// An upstream that says nothing of it and closes behind its response: its connection is not used again.
#[test]
fn a_response_with_the_end_right_behind_it_is_no_trap_for_the_next_request() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            visit.answer("once")
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let mut client = proxy.client()?;
        for n in 0..20 {
            // Not to be sent twice: it must not meet the dead connection in the first place.
            client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx")?;
            let response = client.response()?;
            assert_eq!((response.status(), response.text().as_str()), (200, "once"), "request {n}");
            wait_until("the upstream's end", Duration::from_secs(5), || upstream.open() == 0)?;
        }
        let account = proxy.stop()?;
        assert_eq!((account.count("answered"), account.count("retries")), (20, 0));
        Ok(())
    })
}
