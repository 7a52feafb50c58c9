//! Requests that break the rules, over real sockets: the rows of `docs/http-framing.md`.

use std::collections::BTreeMap;

use middlenet_tests::{Error, Proxy, Transport, Upstream, over, require_root};

const UPSTREAM: &str = "127.0.0.1:9001";
/// What arrives behind a bad request: never to be taken for one.
const BEHIND: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// A request, and with what status and for what reason it is refused.
type Row = (Vec<u8>, u16, &'static str);

/// Sends each request on a connection of its own, with another one behind it, and wants it refused and the connection closed.
fn refused(rows: &[Row]) -> Result<(), Error> {
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::plain(netns, UPSTREAM)?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &["limits: { body_bytes: 100000 }"])?;
        let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
        for (request, status, reason) in rows {
            let shown: String = String::from_utf8_lossy(request).chars().take(200).collect();
            let mut client = proxy.client()?;
            client.send([request, BEHIND.as_bytes()].concat())?;
            let response = client.response().map_err(|e| panic!("{shown:?} ({reason}): {e}"))?;
            assert_eq!(response.status(), *status, "{shown:?} ({reason})");
            assert!(response.closes(), "{shown:?} ({reason})");
            client.end().map_err(|e| panic!("{shown:?} ({reason}): {e}"))?;
            *reasons.entry(reason).or_default() += 1;
        }
        assert_eq!(upstream.targets(), Vec::<String>::new(), "nothing bad goes through, nor what is behind it");
        proxy.serves_well()?;
        let account = proxy.stop()?;
        for (reason, count) in reasons {
            assert_eq!(account.reason("rejected", reason), count, "{reason}: {:#}", account.0["chains"][0]["rejected"]);
        }
        assert_eq!(account.all_reasons("failed"), 0);
        Ok(())
    })
}

fn row(request: impl AsRef<[u8]>, status: u16, reason: &'static str) -> Row {
    (request.as_ref().to_vec(), status, reason)
}

/// A POST with these header lines, and an empty chunked body.
fn post(lines: &str, status: u16, reason: &'static str) -> Row {
    row(format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n"), status, reason)
}

/// A GET with these header lines.
fn get(lines: &str, status: u16, reason: &'static str) -> Row {
    row(format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n"), status, reason)
}

#[test]
fn lengths_in_doubt_are_refused() -> Result<(), Error> {
    require_root!(Ok(()));
    let mut rows = vec![
        post("Content-Length: 5\r\nTransfer-Encoding: chunked", 400, "length-and-encoding"),
        post("Transfer-Encoding: chunked\r\nContent-Length: 5", 400, "length-and-encoding"),
        post("Content-Length: 5\r\nContent-Length: 5", 400, "repeated-content-length"),
        post("Content-Length: 5\r\nContent-Length: 6", 400, "repeated-content-length"),
        post("Content-Length: 100001", 413, "body-too-large"),
        post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400, "repeated-transfer-encoding"),
        post("Transfer-Encoding: gzip, chunked", 501, "transfer-coding-unsupported"),
        row("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "transfer-encoding-in-old-version"),
    ];
    for length in ["", "+5", "-5", "0x5", "5a", "5, 5", "5 5", "18446744073709551616", "٥"] {
        rows.push(post(&format!("Content-Length: {length}"), 400, "bad-content-length"));
    }
    let codings =
        ["", "chunked, chunked", "chunked, gzip", "xchunked", "identity", "\"chunked\"", "chunked;q=1", ",chunked"];
    for coding in codings {
        rows.push(post(&format!("Transfer-Encoding: {coding}"), 400, "bad-transfer-encoding"));
    }
    refused(&rows)
}

#[test]
fn bad_lines_and_bytes_are_refused() -> Result<(), Error> {
    require_root!(Ok(()));
    let many = |n: usize, line: &str| line.repeat(n).trim_end().to_owned();
    refused(&[
        row("GET / HTTP/1.1\nHost: a\r\n\r\n", 400, "bare-lf"),
        row("GET / HTTP/1.1\r\nHost: a\n\r\n", 400, "bare-lf"),
        row("GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "bare-lf"),
        get("X: a\rY: b", 400, "bare-cr"),
        row("GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "nul"),
        row("GE\0T / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "nul"),
        get("X\0Y: a", 400, "nul"),
        get("X: a\0b", 400, "nul"),
        get("X: a\r\n b", 400, "obs-fold"),
        get("X: a\r\n\tContent-Length: 5", 400, "obs-fold"),
        row("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400, "leading-whitespace"),
        get("Content-Length : 5", 400, "space-before-colon"),
        get("Transfer-Encoding\t: chunked", 400, "space-before-colon"),
        get(": a", 400, "empty-header-name"),
        get("X@Y: a", 400, "bad-header-name"),
        get("nocolon", 400, "bad-header-name"),
        get(&format!("{}: a", "n".repeat(256)), 431, "header-name-too-long"),
        get("X: a\u{1}b", 400, "bad-header-value"),
        get("X: a\u{7f}b", 400, "bad-header-value"),
        get(&many(100, "X: a\r\n"), 431, "too-many-headers"),
        get(&many(2000, "X: a\r\n"), 431, "too-many-headers"),
        get(&format!("X: {}", "v".repeat(8200)), 431, "head-too-large"),
        get(&format!("X: {}", "v".repeat(100_000)), 431, "head-too-large"),
        get(&format!("Connection: {}", "a, ".repeat(33)), 400, "too-many-connection-options"),
    ])
}

#[test]
fn bad_request_lines_are_refused() -> Result<(), Error> {
    require_root!(Ok(()));
    let line = |line: &str, status, reason| row(format!("{line}\r\nHost: a\r\n\r\n"), status, reason);
    let long = "a".repeat(8001);
    let longer = "a".repeat(100_000);
    let mut rows = vec![
        row("\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "leading-empty-lines"),
        line("G@T / HTTP/1.1", 400, "bad-method"),
        line(" GET / HTTP/1.1", 400, "bad-method"),
        line("GET\t/ HTTP/1.1", 400, "bad-method"),
        row(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03\r\n\r\n", 400, "bad-method"),
        line(&format!("{} / HTTP/1.1", "M".repeat(33)), 501, "method-too-long"),
        line(&format!("GET /{long} HTTP/1.1"), 414, "target-too-long"),
        line(&format!("GET /{longer} HTTP/1.1"), 414, "target-too-long"),
        line("GET / http/1.1", 400, "bad-request-line"),
        line("GET / HTTP/1.10", 400, "bad-request-line"),
        line("GET / HTTP/1.1 ", 400, "bad-request-line"),
        line("GET /  HTTP/1.1", 400, "bad-request-line"),
        line("GET", 400, "bad-request-line"),
        line("GET / HTTP/0.9", 505, "version-unsupported"),
        line("GET /", 505, "version-unsupported"),
        line("GET / HTTP/1.2", 505, "version-unsupported"),
        row("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "version-unsupported"),
        line("GET /.. HTTP/1.1", 400, "path-escapes-root"),
        line("GET /a/../../b HTTP/1.1", 400, "path-escapes-root"),
        line("GET /%2e%2E/etc HTTP/1.1", 400, "path-escapes-root"),
        line("GET /a/%2e./%2e%2e HTTP/1.1", 400, "path-escapes-root"),
        line("GET /a%2fb HTTP/1.1", 400, "ambiguous-path"),
        line("GET /a%5Cb HTTP/1.1", 400, "ambiguous-path"),
        line("GET /a\\..\\b HTTP/1.1", 400, "ambiguous-path"),
        line("GET /a%00 HTTP/1.1", 400, "ambiguous-path"),
        line("GET /..;x/admin HTTP/1.1", 400, "ambiguous-path"),
        line("GET /% HTTP/1.1", 400, "bad-percent"),
        line("GET /%2 HTTP/1.1", 400, "bad-percent"),
        line("GET /%2g HTTP/1.1", 400, "bad-percent"),
    ];
    for target in ["/a\u{1}", "/ä", "/a#b", "*", "ftp://a/", "http://u@a/", "a", "//\u{7f}"] {
        rows.push(line(&format!("GET {target} HTTP/1.1"), 400, "bad-target"));
    }
    rows.push(line("GET  / HTTP/1.1", 400, "bad-target"));
    refused(&rows)
}

#[test]
fn hosts_and_expectations_in_doubt_are_refused() -> Result<(), Error> {
    require_root!(Ok(()));
    let mut rows = vec![
        row("GET / HTTP/1.1\r\n\r\n", 400, "no-host"),
        get("Host: a", 400, "repeated-host"),
        get("Host: b", 400, "repeated-host"),
        row("GET / HTTP/1.0\r\nHost: a\r\nHost: b\r\n\r\n", 400, "repeated-host"),
        row("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "host-disagrees"),
        get("Expect: 200-ok\r\nContent-Length: 5", 417, "expectation-unknown"),
        row("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", 501, "connect"),
    ];
    for host in ["", "u@a", "a/b", "a,b", "a%41", "a:x", "a:99999", "[::1", "a b"] {
        rows.push(row(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), 400, "bad-host"));
    }
    refused(&rows)
}

#[test]
fn bad_chunks_and_trailers_are_refused() -> Result<(), Error> {
    require_root!(Ok(()));
    let chunked = |body: &str, status, reason| {
        row(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}"), status, reason)
    };
    let mut rows = vec![
        chunked("5\nhello\r\n", 400, "bare-lf"),
        chunked("5\r\nhello\n", 400, "bare-lf"),
        chunked("5;\u{1}\r\nhello\r\n", 400, "bad-chunk-extension"),
        chunked("5;\0\r\nhello\r\n", 400, "nul"),
        chunked(&format!("5;{}\r\nhello\r\n", "e".repeat(300)), 400, "chunk-line-too-long"),
        chunked(&format!("1;{}\r\nx\r\n", "e".repeat(200)).repeat(90), 400, "chunk-overhead"),
        chunked("5\r\nhelloworld\r\n", 400, "bad-chunk-end"),
        chunked("5\r\nhello0\r\n\r\n", 400, "bad-chunk-end"),
        chunked("ffffffffffffffff\r\nhello\r\n", 413, "body-too-large"),
        chunked(&format!("c350\r\n{}\r\n", "b".repeat(50_000)).repeat(3), 413, "body-too-large"),
        chunked(&format!("0\r\nX: {}\r\n\r\n", "t".repeat(5000)), 431, "trailers-too-large"),
        chunked("0\r\nnocolon\r\n\r\n", 400, "bad-header-name"),
        chunked("0\r\nX : y\r\n\r\n", 400, "space-before-colon"),
        chunked("0\r\nX: y\r\n folded\r\n\r\n", 400, "obs-fold"),
        chunked("0\r\nX: y\n\r\n", 400, "bare-lf"),
    ];
    for size in ["", "-5", "+5", "0x5", " 5", "5 ", "5 ;x", "g", "11111111111111111", "00000000000000005"] {
        rows.push(chunked(&format!("{size}\r\nhello\r\n0\r\n\r\n"), 400, "bad-chunk-size"));
    }
    refused(&rows)
}

/// Requests whose end can be misjudged, each with another behind it: both arrive, and nothing else.
#[test]
fn the_upstream_sees_what_was_meant_and_nothing_else() -> Result<(), Error> {
    require_root!(Ok(()));
    let inner = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let length = inner.len();
    let requests = [
        (format!("POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}"), length),
        (format!("POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{inner}\r\n0\r\n\r\n"), length),
        (format!("GET /3 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}"), length),
        (format!("HEAD /4 HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{inner}"), length),
        ("POST /5 HTTP/1.1\r\nHost: a\r\nContent-Length:    0005\t \r\n\r\n0\r\n\r\n".into(), 5),
        ("POST /6 HTTP/1.1\r\nHost: a\r\ntransfer-ENCODING: ChUnKeD\r\n\r\n005;a=\"\r\"\r\nhello\r\n0;x\r\n\r\n".replace("\"\r\"", "b"), 5),
        ("POST /7 HTTP/1.1\r\nHost: a\r\nX: Content-Length: 100\r\nContent-Length: 1\r\n\r\nx".into(), 1),
        ("OPTIONS /8 HTTP/1.1\r\nHost: a\r\nConnection: transfer-encoding\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: y\r\n\r\n".into(), 1),
        ("POST /9 HTTP/1.1\r\nHost: a\r\nConnection: content-length\r\nContent-Length: 3\r\n\r\nabc".into(), 3),
        ("\r\nPOST /10 HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n".into(), 0),
    ];
    over(&Transport::ALL, |netns, transport| {
        let upstream = Upstream::start(netns, UPSTREAM, |visit| {
            while let Some(request) = visit.request()? {
                if request.method() == "HEAD" {
                    visit.wire.send("HTTP/1.1 204 No Content\r\n\r\n")?;
                } else {
                    visit.answer("ok")?;
                }
            }
            Ok(())
        })?;
        let proxy = Proxy::three(netns, transport, UPSTREAM, &[])?;
        for bytewise in [false, true] {
            let mut client = proxy.client()?;
            let before = upstream.requests().len();
            for (request, _) in &requests {
                let both = format!("{request}GET /next HTTP/1.1\r\nHost: a\r\n\r\n");
                if bytewise {
                    client.send_bytewise(both)?
                } else {
                    client.send(both)?
                }
                assert!([200, 204].contains(&client.response()?.status()), "{request}");
                assert_eq!(client.response()?.status(), 200, "{request}");
            }
            let seen = upstream.requests().split_off(before);
            let seen: Vec<(&str, usize)> = seen.iter().map(|r| (r.target(), r.body.len())).collect();
            let numbers: Vec<String> = (1..=requests.len()).map(|n| format!("/{n}")).collect();
            let expected =
                requests.iter().zip(&numbers).flat_map(|((_, n), target)| [(target.as_str(), *n), ("/next", 0)]);
            assert_eq!(seen, expected.collect::<Vec<_>>());
        }
        proxy.stop()?;
        Ok(())
    })
}
