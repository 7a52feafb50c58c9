//! What of a request and a response goes on to the other side, and what does not.

use middlenet_tests::{Error, Message, Proxy, Transport, Upstream, over, require_root};

const UPSTREAM: &str = "127.0.0.1:9001";

/// Sends a request with these lines, and answers with what the upstream got and what the client got.
fn through(proxy: &Proxy<'_>, upstream: &Upstream, address: &str, lines: &str) -> Result<(Message, Message), Error> {
    let before = upstream.requests().len();
    let mut client = proxy.client_of(address)?;
    client.send(format!("{lines}\r\n\r\n"))?;
    let response = client.response()?;
    assert_eq!(response.status(), 200, "{lines}: {response:?}");
    Ok((upstream.requests().remove(before), response))
}

#[test]
fn forwarded_headers_are_replaced_unless_the_peer_is_trusted() -> Result<(), Error> {
    require_root!(Ok(()));
    let lines = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.9.9.9\r\nX-Other: 1\r\n\
                 X-Forwarded-For: 10.8.8.8, 10.7.7.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
                 X-Forwarded-Port: 1\r\nX-Real-IP: 10.9.9.9\r\nForwarded: for=10.9.9.9";
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["trusted_proxies: ['::1/128']"])?;
        let (got, _) = through(&proxy, &upstream, Proxy::ADDRESS, lines)?;
        assert_eq!(got.all("x-forwarded-for"), ["127.0.0.1"]);
        assert_eq!(got.all("x-forwarded-proto"), ["http"]);
        for name in ["x-forwarded-host", "x-forwarded-port", "x-real-ip", "forwarded"] {
            assert_eq!(got.header(name), None, "{name} of a stranger");
        }
        assert_eq!(got.header("x-other"), Some("1"));
        let (got, _) = through(&proxy, &upstream, Proxy::ADDRESS6, lines)?;
        assert_eq!(got.all("x-forwarded-for").join(", "), "10.9.9.9, 10.8.8.8, 10.7.7.7, ::1");
        for (name, value) in [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("x-forwarded-port", "1"),
            ("x-real-ip", "10.9.9.9"),
            ("forwarded", "for=10.9.9.9"),
        ] {
            assert_eq!(got.all(name), [value], "{name} of a trusted proxy");
        }
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn what_belongs_to_one_hop_stays_there() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while visit.request()?.is_some() {
                visit.wire.send(
                    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-secret, keep-alive\r\nX-Secret: 1\r\n\
                     Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nX-Open: 1\r\n\r\nok",
                )?;
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let (got, response) = through(
            &proxy,
            &upstream,
            Proxy::ADDRESS,
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-secret, TE\r\nX-Secret: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
             Proxy-Connection: close\r\nX-Open: 1\r\nConnection: X-More\r\nx-more: 2",
        )?;
        for name in ["x-secret", "x-more", "te", "keep-alive", "proxy-connection"] {
            assert_eq!(got.header(name), None, "{name} to the upstream");
            assert_eq!(response.header(name), None, "{name} to the client");
        }
        assert_eq!((got.header("x-open"), response.header("x-open")), (Some("1"), Some("1")));
        assert!(!response.closes());
        proxy.stop()?;
        Ok(())
    })
}

/// A client cannot have the broker strip what the next server relies on.
#[test]
fn a_client_cannot_nominate_what_the_broker_adds() -> Result<(), Error> {
    require_root!(Ok(()));
    let nominated = "x-forwarded-for, host, content-length, x-forwarded-proto";
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        let lines = format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: {nominated}\r\nContent-Length: 0");
        let (got, _) = through(&proxy, &upstream, Proxy::ADDRESS, &lines)?;
        assert_eq!((got.header("host"), got.header("x-forwarded-for")), (Some("a"), Some("127.0.0.1")));
        assert_eq!((got.header("x-forwarded-proto"), got.header("content-length")), (Some("http"), Some("0")));
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn one_spelling_of_a_path_is_matched_and_forwarded() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        for (sent, forwarded) in [
            ("/old/x", "/new/x"),
            ("/%6fld/x", "/new/x"),
            ("/y/../old/x", "/new/x"),
            ("//old///x", "/new/x"),
            ("/./old/%2e/x", "/new/x"),
            ("/a/./b/../c?d=/../%2e", "/a/c?d=/../%2e"),
            ("/%c3%a4", "/%C3%A4"),
            ("/%252e%252e/", "/%252e%252e/"),
            ("http://a/old/x?y", "/new/x?y"),
            ("http://a", "/"),
        ] {
            let (got, _) = through(&proxy, &upstream, Proxy::ADDRESS, &format!("GET {sent} HTTP/1.1\r\nHost: a"))?;
            assert_eq!(got.target(), forwarded, "of {sent}");
        }
        let (got, _) = through(&proxy, &upstream, Proxy::ADDRESS, "OPTIONS * HTTP/1.1\r\nHost: a")?;
        assert_eq!(got.target(), "*");
        proxy.stop()?;
        Ok(())
    })
}

#[test]
fn ipv6_clients_and_upstreams() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, "[::1]:9001")?;
        let proxy = Proxy::three(netns, transport, "[::1]:9001", &[])?;
        let (got, response) = through(&proxy, &upstream, Proxy::ADDRESS6, "GET /6 HTTP/1.0")?;
        assert_eq!((got.header("x-forwarded-for"), got.header("host")), (Some("::1"), Some("[::1]:9001")));
        assert_eq!(response.text(), "GET /6 0");
        let (got, _) = through(&proxy, &upstream, Proxy::ADDRESS, "GET /4 HTTP/1.1\r\nHost: [::1]:8080")?;
        assert_eq!((got.header("x-forwarded-for"), got.header("host")), (Some("127.0.0.1"), Some("[::1]:8080")));
        proxy.stop()?;
        Ok(())
    })
}

/// Without functions, requests go to the chain's own upstreams in turn.
#[test]
fn a_chain_without_functions_spreads_requests() -> Result<(), Error> {
    require_root!(Ok(()));
    over(&[Transport::Inline], |netns, transport| {
        let upstreams = [Upstream::plain(netns, UPSTREAM)?, Upstream::plain(netns, "127.0.0.1:9002")?];
        let proxy = Proxy::start(netns, transport, &[], &["upstreams: ['127.0.0.1:9001', '127.0.0.1:9002']"])?;
        let mut client = proxy.client()?;
        for n in 0..10 {
            client.send(format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))?;
            assert_eq!(client.response()?.status(), 200);
        }
        assert_eq!(upstreams.each_ref().map(|u| u.requests().len()), [5, 5]);
        proxy.stop()?;
        Ok(())
    })
}
