//! Limits of a chain, and what is left when clients use them up.

use std::time::{Duration, Instant};

use middlenet_tests::{Error, Proxy, Transport, Upstream, Wire, over, require_root};

const UPSTREAM: &str = "127.0.0.1:9001";
const MOMENT: Duration = Duration::from_millis(200);

#[test]
fn connections_beyond_the_limit_wait_for_their_turn() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["limits: { connections: 2 }"])?;
        let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        let mut first = proxy.client()?;
        let mut second = proxy.client()?;
        for client in [&mut first, &mut second] {
            client.send(get)?;
            assert_eq!(client.response()?.status(), 200);
        }
        let mut third = proxy.client()?;
        third.send(get)?;
        assert!(third.stays_silent(MOMENT));
        first.send(get)?;
        assert_eq!(first.response()?.status(), 200, "those that are in are served meanwhile");
        drop(first);
        assert_eq!(third.response()?.status(), 200);
        let account = proxy.account()?;
        assert_eq!((account.count("connections"), account.count("open_connections")), (3, 2));
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn a_connection_is_closed_after_its_last_request() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["limits: { requests: 3 }"])?;
        for pipelined in [false, true] {
            let mut client = proxy.client()?;
            let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
            if pipelined {
                client.send(get.repeat(5))?;
            }
            for n in 1..=3 {
                if !pipelined {
                    client.send(get)?;
                }
                assert_eq!(client.response()?.closes(), n == 3, "request {n}");
            }
            client.end()?;
        }
        assert_eq!(upstream.requests().len(), 6);
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn what_just_fits_passes_and_one_byte_more_does_not() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let limits = ["limits: { head_bytes: 1000, headers: 5, body_bytes: 2000 }"];
        let proxy = Proxy::three(netns, transport, UPSTREAM, &limits)?;
        let head = |bytes: usize| {
            let rest = "GET / HTTP/1.1\r\nHost: a\r\nX: \r\n\r\n".len();
            format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(bytes - rest))
        };
        let headers = |n: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(n - 1));
        let post = |framing: &str, body: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}\r\n\r\n{body}");
        let length = |n: usize| post(&format!("Content-Length: {n}"), &"x".repeat(n));
        let chunks = |n: usize| post("Transfer-Encoding: chunked", &format!("{n:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(n)));
        for (fits, over, status) in [
            (head(1000), head(1001), 431),
            (headers(5), headers(6), 431),
            (length(2000), length(2001), 413),
            (chunks(2000), chunks(2001), 413),
        ] {
            for (request, status) in [(fits, 200), (over, status)] {
                for bytewise in [false, true] {
                    let mut client = proxy.client()?;
                    // It is refused as soon as it is known to be too large.
                    let _ = if bytewise { client.send_bytewise(&request) } else { client.send(&request) };
                    let first: String = request.chars().take(60).collect();
                    assert_eq!(client.response()?.status(), status, "{} bytes: {first:?}", request.len());
                }
            }
        }
        assert_eq!(upstream.requests().len(), 8);
        proxy.stop()?;
        Ok(())
    })
}

/// A client that sends what it was going to send, and only then reads, gets to read why it was refused.
#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let _upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["limits: { body_bytes: 1000 }"])?;
        for begun in ["Content-Length: 5000000\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n4c4b40\r\n"] {
            let mut client = proxy.client()?;
            client.send(format!("POST / HTTP/1.1\r\nHost: a\r\n{begun}"))?;
            client.send(vec![b'x'; 5_000_000])?;
            let response = client.response()?;
            assert_eq!((response.status(), response.closes()), (413, true));
        }
        // Who asks first is told before the upload.
        let mut client = proxy.client()?;
        client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n")?;
        assert_eq!(client.response_head()?.status(), 413);
        proxy.stop()?;
        Ok(())
    })
}

/// Hundreds of clients that are slow in every phase keep no message buffer from those that are not.
#[test]
fn slow_clients_keep_no_buffers() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = format!("reverse-proxy: {{ upstreams: ['{UPSTREAM}'] }}");
        let functions = [Proxy::EDIT, Proxy::REWRITE, &proxy];
        let proxy = Proxy::start_with(netns, transport, &functions, &[], "memory: { messages: 64 }")?;
        let begun = [
            "GET / HTTP/1.1\r\nHost: a\r\nX: ",
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nabc",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        ];
        let rest = ["y\r\n\r\n", "defghij", "cde\r\n0\r\n\r\n"];
        let mut slow = Vec::new();
        for n in 0..150 {
            let mut client = proxy.client()?;
            client.send(begun[n % 3])?;
            slow.push(client);
        }
        let began = Instant::now();
        for _ in 0..20 {
            proxy.serves_well()?;
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        for (n, client) in slow.iter_mut().enumerate() {
            client.send(rest[n % 3])?;
        }
        for client in &mut slow {
            assert_eq!(client.response()?.status(), 200);
        }
        assert_eq!(upstream.requests().len(), 170);
        drop(slow);
        let account = proxy.stop()?;
        assert_eq!(account.count("answered"), 170);
        Ok(())
    })
}

/// More requests at once than there are message buffers: they wait for one, and none is lost.
#[test]
fn requests_wait_for_a_free_buffer() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                // Until all have arrived that can.
                visit.wire.stays_silent(Duration::from_millis(300));
                visit.answer(request.body)?;
            }
            Ok(())
        })?;
        let proxy = format!("reverse-proxy: {{ upstreams: ['{UPSTREAM}'] }}");
        let functions = [Proxy::EDIT, Proxy::REWRITE, &proxy];
        let proxy = Proxy::start_with(netns, transport, &functions, &[], "memory: { messages: 64 }")?;
        let mut clients = (0..200).map(|_| proxy.client()).collect::<Result<Vec<Wire>, _>>()?;
        // Another request behind it keeps the buffer in use.
        let both = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nokGET / HTTP/1.1\r\nHost: a\r\n\r\n";
        clients.iter_mut().try_for_each(|client| client.send(both))?;
        for client in &mut clients {
            assert_eq!(client.response()?.text(), "ok");
            assert_eq!(client.response()?.status(), 200);
        }
        assert_eq!(upstream.requests().len(), 400);
        drop(clients);
        let account = proxy.stop()?;
        assert_eq!(account.count("answered"), 400);
        Ok(())
    })
}
