//! Functions that look at bodies and streams, and change them.

use std::time::Duration;

use middlenet_tests::{
    Ended, Error, Message, Netns, Proxy, RunStatus, Transport, Upstream, Visit, Wire, over, require_root,
};

const UPSTREAM: &str = "127.0.0.1:9001";
const SOON: Duration = Duration::from_secs(10);
const UPGRADE: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n";
const SWITCHING: &str = "HTTP/1.1 101 S\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n";

/// Answers with the body it got, in the framing that the target names; notes what it got.
fn mirror(netns: &Netns) -> Result<Upstream, Error> {
    Upstream::start(netns, UPSTREAM, |visit| {
        while let Some(request) = visit.request()? {
            let body = &request.body;
            match request.target() {
                "/length" => visit.answer(body)?,
                "/chunked" => {
                    visit.wire.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
                    for piece in body.chunks(7000) {
                        let head = format!("{:x}\r\n", piece.len());
                        visit.wire.send([head.as_bytes(), piece, b"\r\n"].concat())?;
                    }
                    visit.wire.send("0\r\nX-Sum: 1\r\n\r\n")?;
                }
                "/close" => return visit.wire.send([b"HTTP/1.1 200 OK\r\n\r\n", &body[..]].concat()),
                _ => visit.answer("ok")?,
            }
        }
        Ok(())
    })
}

fn touched<'n>(netns: &'n Netns, transport: Transport, mode: &str, settings: &[&str]) -> Result<Proxy<'n>, Error> {
    let touch = format!("touch: {{ run: {}, config: {{ mode: {mode} }} }}", env!("CARGO_BIN_EXE_middlenet-test-touch"));
    let proxy = format!("reverse-proxy: {{ upstreams: ['{UPSTREAM}'] }}");
    Proxy::start(netns, transport, &[Proxy::EDIT, &touch, &proxy], settings)
}

/// The body in both framings, as bytes behind the request's first lines.
fn framings(body: &[u8]) -> [Vec<u8>; 2] {
    let length = format!("Content-Length: {}\r\n\r\n", body.len());
    let mut chunked = b"Transfer-Encoding: chunked\r\n\r\n".to_vec();
    for piece in body.chunks(5000) {
        chunked.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        chunked.extend_from_slice(&[piece, b"\r\n"].concat());
    }
    chunked.extend_from_slice(b"0\r\nX-Note: 2\r\n\r\n");
    [[length.as_bytes(), body].concat(), chunked]
}

/// Sends bodies of many sizes both ways, and compares what arrives with `expected`; answers how many bodies there were.
fn bodies(mode: &str, exact: bool, expected: impl Fn(&[u8]) -> Vec<u8>) -> Result<(), Error> {
    over(&Transport::PROCESSES, |netns, transport| {
        let upstream = mirror(netns)?;
        let proxy = touched(netns, transport, mode, &[])?;
        let mut exchanges = 0;
        for version in ["1.1", "1.0"] {
            let mut client = proxy.client()?;
            for size in [1usize, 100, 8192, 12_288, 12_300, 100_000] {
                let body: Vec<u8> = (b'a'..=b'z').cycle().take(size).collect();
                for (framing, bytes) in framings(&body).iter().enumerate() {
                    for target in ["/length", "/chunked", "/close"] {
                        if version == "1.0" {
                            if framing == 1 {
                                continue;
                            }
                            client = proxy.client()?;
                        }
                        client.send(format!("POST {target} HTTP/{version}\r\nHost: a\r\n"))?;
                        client.send(bytes)?;
                        let what = format!("{size} bytes, framing {framing}, back by {target}, HTTP/{version}");
                        let response = client.response().map_err(|e| panic!("{what}: {e}"))?;
                        let request = upstream.requests().pop().unwrap_or_default();
                        let (there, back) = (expected(&body), expected(&expected(&body)));
                        if exact {
                            assert!(request.body == there, "{what}: {} bytes came there", request.body.len());
                            assert!(response.body == back, "{what}: {} bytes came back", response.body.len());
                        } else {
                            let total = (request.body.len(), response.body.len());
                            assert!(total.0 <= there.len() + 64 && total.1 <= back.len() + 128, "{what}: {total:?}");
                        }
                        if framing == 1 {
                            assert_eq!(request.trailers, [("x-note".to_owned(), "2".to_owned())], "{what}");
                        }
                        exchanges += 1;
                    }
                }
            }
        }
        let account = proxy.wait_for_rest()?;
        assert_eq!(account.count("answered"), exchanges);
        let told = |s: &RunStatus| s.counter("touch", "finished") == exchanges;
        let status = proxy.run().wait_for("the function to hear of every end", SOON, told)?;
        let last = status.counter("touch", "last-pieces");
        // A body that was swallowed on its way there comes back empty, and may have no piece.
        assert!(last == 2 * exchanges || (!exact && last >= exchanges), "{last} last pieces of {exchanges} exchanges");
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn bodies_are_changed_in_place() -> Result<(), Error> {
    require_root!(Ok(()));
    bodies("upper", true, |body| body.to_ascii_uppercase())
}

#[test]
fn bodies_grow() -> Result<(), Error> {
    require_root!(Ok(()));
    let twice = |b: &u8| if *b == b'a' { vec![*b; 2] } else { vec![*b] };
    bodies("stretch", true, |body| body.iter().flat_map(twice).collect())
}

/// Where pieces begin is nobody's promise, so that only the lengths can be known, about.
#[test]
fn bodies_shrink() -> Result<(), Error> {
    require_root!(Ok(()));
    bodies("halve", false, |body| body.iter().copied().step_by(2).collect())
}

#[test]
fn bodies_vanish() -> Result<(), Error> {
    require_root!(Ok(()));
    bodies("swallow", false, |_| Vec::new())
}

/// Who has not said that it resizes cannot: the length in the head would be a lie.
#[test]
fn a_function_that_may_not_resize_cannot() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let upstream = mirror(netns)?;
        let proxy = touched(netns, transport, "cheat", &[])?;
        let mut client = proxy.client()?;
        for bytes in framings(b"hello") {
            client.send([b"POST /length HTTP/1.1\r\nHost: a\r\n", &bytes[..]].concat())?;
            assert_eq!(client.response()?.text(), "hello");
            assert_eq!(upstream.requests().pop().unwrap_or_default().text(), "hello");
        }
        proxy.stop()?;
        Ok(())
    })
}

/// What the body will be is not known from the head: HEAD announces no length that GET would not have.
#[test]
fn a_head_request_announces_no_length_that_will_not_be() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                match request.method() {
                    "HEAD" => visit.wire.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n")?,
                    _ => visit.answer("haahh")?,
                }
            }
            Ok(())
        })?;
        for (mode, length) in [("upper", Some("5")), ("stretch", None)] {
            let proxy = touched(netns, transport, mode, &[])?;
            let mut client = proxy.client()?;
            client.send("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            assert_eq!(client.response_head()?.header("content-length"), length, "{mode}");
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n")?;
            let get = client.response()?;
            assert_eq!(get.header("content-length"), length, "{mode}");
            assert_eq!(get.body.len(), if mode == "stretch" { 7 } else { 5 });
            proxy.stop()?;
        }
        Ok(())
    })
}

#[test]
fn a_function_that_has_seen_enough_is_left_out() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let upstream = mirror(netns)?;
        let proxy = touched(netns, transport, "glance", &[])?;
        let mut client = proxy.client()?;
        let body = vec![b'x'; 500_000];
        client.send(format!("POST /else HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()))?;
        client.send(&body)?;
        assert_eq!(client.response()?.status(), 200);
        let got = upstream.requests().pop().unwrap_or_default().body;
        assert_eq!(got.len(), body.len());
        let seen = got.iter().filter(|b| **b == b'X').count();
        assert!((1..20_000).contains(&seen), "{seen} bytes were seen");
        assert_eq!(proxy.run().status()?.counter("touch", "pieces"), 1, "nor the response: offloaded is offloaded");
        proxy.stop()?;
        Ok(())
    })
}

/// In the middle of a body, before and after the response has begun.
#[test]
fn a_function_may_end_a_request_in_its_body() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let upstream = mirror(netns)?;
        let proxy = touched(netns, transport, "judge", &[])?;
        let long = "x".repeat(40_000);
        let post =
            |body: &str| format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        for body in ["please refuse this", &format!("{long}refuse{long}")] {
            let mut client = proxy.client()?;
            client.send(post(body))?;
            assert_eq!(client.response()?.status(), 403);
        }
        for body in ["please close this", &format!("{long}close{long}")] {
            let mut client = proxy.client()?;
            // It may be closed while it is being sent.
            let _ = client.send(post(body));
            let (bytes, _) = client.rest()?;
            assert_eq!(bytes, b"", "no answer");
        }
        assert!(upstream.requests().is_empty(), "none was whole");
        let mut client = proxy.client()?;
        client.send(post("fine"))?;
        assert_eq!(client.response()?.text(), "fine");
        let account = proxy.stop()?;
        assert_eq!(account.reason("rejected", "closed-by-function"), 2, "{:#}", account.0["chains"][0]);
        Ok(())
    })
}

/// The head is out: the response can only be cut.
#[test]
fn a_function_that_ends_a_response_in_its_body_cuts_it() -> Result<(), Error> {
    require_root!(Ok(()));
    let long = "x".repeat(40_000);
    let rows = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 80005\r\n\r\n{long}close{long}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9c40\r\n{long}\r\n5\r\nclose\r\n0\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n\r\n{long}close{long}"),
    ];
    over(&Transport::PROCESSES, |netns, transport| {
        let rows = rows.clone();
        let _upstream = Upstream::start(netns, UPSTREAM, move |visit| {
            while let Some(request) = visit.request()? {
                match request.target().trim_start_matches('/').parse::<usize>() {
                    Ok(n) => return visit.wire.send(&rows[n]),
                    Err(_) => visit.answer("ok")?,
                }
            }
            Ok(())
        })?;
        let proxy = touched(netns, transport, "judge", &[])?;
        for n in 0..3 {
            for version in ["1.1", "1.0"] {
                let mut client = proxy.client()?;
                client.send(format!("GET /{n} HTTP/{version}\r\nHost: a\r\n\r\n"))?;
                let response = client.response();
                assert!(
                    response.is_err(),
                    "{n} HTTP/{version}: {} bytes",
                    response.map_or(0, |r: Message| r.body.len())
                );
            }
        }
        proxy.serves_well()?;
        let account = proxy.stop()?;
        assert_eq!(account.all_reasons("rejected"), 6, "{:#}", account.0["chains"][0]);
        Ok(())
    })
}

#[test]
fn functions_see_the_bytes_of_a_tunnel() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        for (mode, said, heard) in
            [("upper", "hello", "HELLO"), ("stretch", "abcdefgh", "aaaabcdefgh"), ("cheat", "abc", "abc")]
        {
            let _upstream = Upstream::start(netns, UPSTREAM, |visit| {
                visit.request()?;
                visit.wire.send(SWITCHING)?;
                let (bytes, ended) = visit.wire.rest()?;
                assert_eq!(ended, Ended::Closed);
                visit.wire.send(bytes)
            })?;
            let proxy = touched(netns, transport, mode, &[])?;
            let mut client = proxy.client()?;
            client.send(UPGRADE)?;
            assert_eq!(client.response_head()?.status(), 101);
            let times = 20_000;
            client.send(said.repeat(times))?;
            client.finish();
            let (bytes, ended) = client.rest()?;
            assert_eq!(ended, Ended::Closed);
            assert!(bytes == heard.repeat(times).as_bytes(), "{mode}: {} bytes came back", bytes.len());
            proxy.stop()?;
        }
        Ok(())
    })
}

/// Not only what comes once both sides know that it is a tunnel.
#[test]
fn functions_see_the_first_bytes_of_a_tunnel() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            visit.request()?;
            visit.wire.send(format!("{SWITCHING}right behind"))?;
            let bytes = visit.wire.take(8)?;
            visit.note_body(bytes);
            visit.wire.rest().map(drop)
        })?;
        let run = env!("CARGO_BIN_EXE_middlenet-test-touch");
        let touch = format!("touch: {{ run: {run}, config: {{ mode: upper }} }}");
        let proxy = format!("reverse-proxy: {{ upstreams: ['{UPSTREAM}'] }}");
        // With a function that looks at the response's head, and without.
        for functions in [&[Proxy::EDIT, &touch, &proxy][..], &[&touch, &proxy]] {
            let proxy = Proxy::start(netns, transport, functions, &[])?;
            let mut client = proxy.client()?;
            client.send(format!("{UPGRADE}too soon"))?;
            assert_eq!(client.response_head()?.status(), 101);
            assert_eq!(client.take(12)?, b"RIGHT BEHIND");
            middlenet_tests::wait_until("the client's bytes", SOON, || upstream.requests().len() % 2 == 0)?;
            assert_eq!(upstream.requests().pop().unwrap_or_default().text(), "TOO SOON");
            drop(client);
            proxy.stop()?;
        }
        Ok(())
    })
}

/// More tunnels than there are message buffers.
#[test]
fn tunnels_in_which_nothing_moves_keep_no_buffers() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::PROCESSES, |netns, transport| {
        let _upstream = Upstream::start(netns, UPSTREAM, |visit: &mut Visit| {
            visit.request()?;
            visit.wire.send(SWITCHING)?;
            loop {
                let bytes = visit.wire.take(1)?;
                visit.wire.send(bytes)?;
            }
        })?;
        let run = env!("CARGO_BIN_EXE_middlenet-test-touch");
        let touch = format!("touch: {{ run: {run}, config: {{ mode: upper }} }}");
        let proxy = format!("reverse-proxy: {{ upstreams: ['{UPSTREAM}'] }}");
        let memory = "memory: { messages: 64 }";
        let proxy = Proxy::start_with(netns, transport, &[Proxy::EDIT, &touch, &proxy], &[], memory)?;
        let mut clients = (0..100).map(|_| proxy.client()).collect::<Result<Vec<Wire>, _>>()?;
        for client in &mut clients {
            client.send(UPGRADE)?;
            assert_eq!(client.response_head()?.status(), 101);
        }
        for _ in 0..3 {
            clients.iter_mut().try_for_each(|client| client.send("abc"))?;
            for client in &mut clients {
                assert_eq!(client.take(3)?, b"ABC");
            }
        }
        let free = proxy.wait_for("all buffers free", |a| a.0["buffers_free"] == a.0["buffers"])?;
        assert_eq!(free.count("in_progress"), 100);
        drop(clients);
        proxy.stop()?;
        Ok(())
    })
}
