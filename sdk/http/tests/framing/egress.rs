use middlenet_http::*;

type Pair<'a> = (&'a [u8], &'a [u8]);

fn pairs<'a>(lines: &[(&'a str, &'a str)]) -> Vec<Pair<'a>> {
    lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect()
}

fn request(lines: &[(&str, &str)], egress: &Egress<'_>) -> Result<String, BadHead> {
    write("GET", "/", lines, egress)
}

fn write(method: &str, target: &str, lines: &[(&str, &str)], egress: &Egress<'_>) -> Result<String, BadHead> {
    let mut out = b"before".to_vec();
    let result = write_request_head(&mut out, method.as_bytes(), target.as_bytes(), pairs(lines), egress);
    if let Err(bad) = result {
        assert_eq!(out, b"before", "nothing is left of a bad head");
        return Err(bad);
    }
    Ok(String::from_utf8(out).unwrap()["before".len()..].to_owned())
}

fn response(minor: u8, status: u16, lines: &[(&str, &str)], egress: &Egress<'_>) -> Result<String, BadHead> {
    let mut out = Vec::new();
    write_response_head(&mut out, minor, status, b"Fine", pairs(lines), egress)?;
    Ok(String::from_utf8(out).unwrap())
}

#[test]
fn what_is_passed_on_and_what_is_not() {
    let extra = [(&b"X-Forwarded-For"[..], &b"10.0.0.1"[..]), (b"Via", b"1.1 m"), (b"Connection", b"x"), (b"TE", b"y")];
    let egress = Egress {
        framing: Framing::Length(5),
        replace: KnownSet::of(&[Known::XForwardedFor]),
        extra: &extra,
        ..Egress::default()
    };
    let lines = [
        ("Host", "a:80"),
        ("Accept", "*/*"),
        ("host", "b"),
        ("connection", "keep-alive, X-Hop ,close, Accept"),
        ("Keep-Alive", "timeout=5"),
        ("Proxy-Connection", "keep-alive"),
        ("TE", "trailers"),
        ("Trailer", "X"),
        ("Transfer-Encoding", "chunked"),
        ("Upgrade", "websocket"),
        ("HTTP2-Settings", "AA"),
        ("Content-Length", "9"),
        ("Expect", "100-continue"),
        ("x-hop", "secret"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Own", "kept"),
    ];
    let expected = "GET / HTTP/1.1\r\nHost: a:80\r\nAccept: */*\r\nX-Own: kept\r\nX-Forwarded-For: 10.0.0.1\r\nVia: 1.1 m\r\n\
                    Content-Length: 5\r\n\r\n";
    assert_eq!(request(&lines, &egress).as_deref(), Ok(expected));
}

#[test]
fn options_in_several_lines_name_headers_before_and_after() {
    let lines =
        [("A", "1"), ("Connection", "b"), ("B", "2"), ("Host", "h"), ("Connection", "a"), ("C", "3"), ("b", "4")];
    assert_eq!(request(&lines, &Egress::default()).as_deref(), Ok("GET / HTTP/1.1\r\nHost: h\r\nC: 3\r\n\r\n"));
}

#[test]
fn an_output_that_is_used_again_does_not_grow() {
    let lines = pairs(&[("Host", "h"), ("Connection", "x-hop"), ("X-Hop", "1"), ("Accept", "*/*")]);
    let mut out = Vec::new();
    let mut write = || {
        out.clear();
        write_request_head(&mut out, b"GET", b"/", lines.iter().copied(), &Egress::default()).unwrap();
        (out.as_ptr(), out.capacity())
    };
    let first = write();
    assert!((0..100).all(|_| write() == first));
}

#[test]
fn known_names_that_go_to_the_end_cannot_be_named_away() {
    let lines = [("Host", "h"), ("Connection", "host, x-forwarded-for, Authorization"), ("X-Forwarded-For", "1")];
    let expected = "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 1\r\n\r\n";
    assert_eq!(request(&lines, &Egress::default()).as_deref(), Ok(expected));
}

#[test]
fn a_host_of_the_sender() {
    let extra = [(&b"Host"[..], &b"upstream"[..])];
    let egress = Egress { extra: &extra, ..Egress::default() };
    assert_eq!(request(&[], &egress).as_deref(), Ok("GET / HTTP/1.1\r\nHost: upstream\r\n\r\n"));
    assert_eq!(request(&[("Host", "a")], &egress).as_deref(), Ok("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    let egress = Egress { replace: KnownSet::of(&[Known::Host]), ..egress };
    assert_eq!(request(&[("Host", "a")], &egress).as_deref(), Ok("GET / HTTP/1.1\r\nHost: upstream\r\n\r\n"));
}

#[test]
fn connection_of_the_sender() {
    let host = [("Host", "a")];
    let end = |egress: Egress<'_>| {
        request(&host, &egress).map(|head| head["GET / HTTP/1.1\r\nHost: a\r\n".len()..].to_owned())
    };
    assert_eq!(end(Egress { close: true, ..Egress::default() }).as_deref(), Ok("Connection: close\r\n\r\n"));
    let explicit = Egress { keep_alive_explicit: true, ..Egress::default() };
    assert_eq!(end(explicit).as_deref(), Ok("Connection: keep-alive\r\n\r\n"));
    let upgrade = Egress { upgrade: Some(b"websocket"), close: true, ..Egress::default() };
    assert_eq!(end(upgrade).as_deref(), Ok("Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"));
    assert_eq!(end(Egress { upgrade: Some(b"a\r\nb"), ..Egress::default() }), Err(BadHead::Value));
    let chunked = Egress { framing: Framing::Chunked, ..Egress::default() };
    assert_eq!(end(chunked).as_deref(), Ok("Transfer-Encoding: chunked\r\n\r\n"));
}

#[test]
fn what_is_not_http_is_not_written() {
    let host = [("Host", "a")];
    let plain = Egress::default();
    for method in ["", "G T", "GET\r\nX:", "G\0", &"M".repeat(33)] {
        assert_eq!(write(method, "/", &host, &plain), Err(BadHead::Method), "{method}");
    }
    assert_eq!(write("CONNECT", "a:443", &host, &plain), Err(BadHead::Connect));
    for target in ["", "a", "/a b", "/\r\n", "/\0", "/\u{e4}", "/#", "*", "http://", "http://u@a/"] {
        assert_eq!(write("GET", target, &host, &plain), Err(BadHead::Target), "{target}");
    }
    for name in ["", "a b", "a:", "a\r\nb", "\0", "\u{e4}", &"n".repeat(256)] {
        assert_eq!(request(&[("Host", "a"), (name, "x")], &plain), Err(BadHead::Name), "{name}");
    }
    for value in ["a\r\nb: c", "a\nb", "a\rb", "\0", "\x7f", " a", "a ", "\ta"] {
        assert_eq!(request(&[("Host", "a"), ("X", value)], &plain), Err(BadHead::Value), "{value}");
        assert_eq!(request(&[("Host", "a"), ("Connection", value)], &plain), Err(BadHead::Value), "{value}");
        let extra = [(&b"X"[..], value.as_bytes())];
        assert_eq!(request(&host, &Egress { extra: &extra, ..plain }), Err(BadHead::Value), "{value}");
    }
    assert_eq!(request(&[], &plain), Err(BadHead::NoHost));
    assert_eq!(request(&[("Host", "a/b")], &plain), Err(BadHead::Host));
    assert_eq!(request(&[("Host", "a"), ("Connection", &"x,".repeat(33))], &plain), Err(BadHead::ConnectionOptions));
    assert_eq!(request(&host, &Egress { framing: Framing::UntilClose, ..plain }), Err(BadHead::Framing));
}

#[test]
fn responses() {
    let length = Egress { framing: Framing::Length(3), ..Egress::default() };
    let expected = "HTTP/1.1 200 Fine\r\nServer: s\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(response(1, 200, &[("Server", "s"), ("content-length", "9")], &length).as_deref(), Ok(expected));
    let close = Egress { framing: Framing::UntilClose, ..Egress::default() };
    assert_eq!(response(0, 200, &[], &close).as_deref(), Ok("HTTP/1.0 200 Fine\r\nConnection: close\r\n\r\n"));
    let announced = Egress { announced_length: Some(7), ..Egress::default() };
    assert_eq!(response(1, 304, &[], &announced).as_deref(), Ok("HTTP/1.1 304 Fine\r\nContent-Length: 7\r\n\r\n"));
    assert_eq!(response(1, 204, &[], &announced).as_deref(), Ok("HTTP/1.1 204 Fine\r\n\r\n"));
    let none = Egress { framing: Framing::Length(0), ..Egress::default() };
    assert_eq!(response(1, 204, &[], &none).as_deref(), Ok("HTTP/1.1 204 Fine\r\n\r\n"));
    let chunked = Egress { framing: Framing::Chunked, ..Egress::default() };
    let expected = "HTTP/1.1 200 Fine\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(response(1, 200, &[], &chunked).as_deref(), Ok(expected));
}

#[test]
fn responses_that_cannot_be() {
    let chunked = Egress { framing: Framing::Chunked, ..Egress::default() };
    assert_eq!(response(0, 200, &[], &chunked), Err(BadHead::Framing));
    for status in [100, 101, 204, 304] {
        for framing in [Framing::Chunked, Framing::Length(1), Framing::UntilClose] {
            let egress = Egress { framing, ..Egress::default() };
            assert_eq!(response(1, status, &[], &egress), Err(BadHead::Framing), "{status} {framing:?}");
        }
    }
    assert_eq!(response(1, 99, &[], &Egress::default()), Err(BadHead::Status));
    assert_eq!(response(1, 1000, &[], &Egress::default()), Err(BadHead::Status));
    let mut out = Vec::new();
    assert_eq!(write_response_head(&mut out, 1, 200, b"a\r\nb", [], &Egress::default()), Err(BadHead::Reason));
    assert!(out.is_empty());
}

#[test]
fn the_chunked_coding() {
    let mut out = Vec::new();
    write_chunk_head(&mut out, 0x1af);
    write_chunk_head(&mut out, 0);
    write_chunk_head(&mut out, usize::MAX);
    assert_eq!(out, format!("1af\r\n{:x}\r\n", usize::MAX).as_bytes());
    out.clear();
    write_last_chunk(&mut out, []).unwrap();
    assert_eq!(out, LAST_CHUNK);
    out.clear();
    let lines = [("X", "y"), ("Content-Length", "3"), ("Connection", "close"), ("Trailer", "X"), ("Host", "h")];
    write_last_chunk(&mut out, pairs(&lines)).unwrap();
    assert_eq!(out, b"0\r\nX: y\r\n\r\n");
    assert_eq!(write_last_chunk(&mut out, pairs(&[("X", "a\r\n\r\nb")])), Err(BadHead::Value));
    assert_eq!(out, b"0\r\nX: y\r\n\r\n");
}

#[test]
fn reasons_are_indexed() {
    for (index, bad) in BadHead::ALL.iter().enumerate() {
        assert_eq!(bad.index(), index);
        assert!(bad.reason().starts_with("egress-"));
    }
}
