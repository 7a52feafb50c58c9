use crate::{assert_refused, refused, request, request_within};
use middlenet_http::*;

fn accepted(bytes: impl AsRef<[u8]>) -> (RequestHead, Vec<HeaderSpan>) {
    let bytes = bytes.as_ref();
    let head = request(bytes).unwrap_or_else(|reject| panic!("{reject} in {:?}", String::from_utf8_lossy(bytes)));
    for end in 0..bytes.len() {
        assert_eq!(request(&bytes[..end]), Ok(None), "at {end} of {:?}", String::from_utf8_lossy(bytes));
    }
    head.expect("complete")
}

/// A request with these header lines after `Host`.
fn with(lines: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

#[test]
fn an_ordinary_request() {
    let bytes = b"GET /a?b HTTP/1.1\r\nHost: example.com:80\r\nX-Own:\t v w \t\r\nempty:\r\n\r\nnext";
    let mut spans = [HeaderSpan::EMPTY; MAX_HEADERS];
    let head = parse_request(bytes, &Limits::default(), &mut spans).unwrap().unwrap();
    assert_eq!((head.method, head.minor, head.headers), (Method::Get, 1, 3));
    assert_eq!(head.method_span.of(bytes), Some(&b"GET"[..]));
    assert_eq!(head.target.of(bytes), Some(&b"/a?b"[..]));
    assert_eq!(head.host.unwrap().of(bytes), Some(&b"example.com:80"[..]));
    assert_eq!(usize::from(head.length), bytes.len() - 4);
    assert_eq!(head.framing, Framing::None);
    assert!(head.keep_alive && !head.expect_continue && !head.upgrade);
    let own = spans[1];
    assert_eq!((own.name(bytes), own.value(bytes)), (Some(&b"X-Own"[..]), Some(&b"v w"[..])));
    assert_eq!((spans[0].known(), own.known()), (Known::Host, Known::Other));
    let pairs: Vec<_> = pairs(bytes, &spans[..3]).collect();
    assert_eq!(pairs[2], (&b"empty"[..], &b""[..]));
    assert_eq!(value_of(bytes, &spans[..3], Known::Host), Some(&b"example.com:80"[..]));
}

#[test]
fn spans_that_reach_beyond_the_head_are_refused() {
    let span =
        HeaderSpan { name_start: 60_000, value_start: 65_535, value_length: 65_535, name_length: 255, known: 200 };
    assert_eq!((span.name(b"abc"), span.value(b"abc"), span.known()), (None, None, Known::Other));
    assert_eq!(Span { start: 2, length: 2 }.of(b"abc"), None);
    assert_eq!(pairs(b"abc", &[span]).next(), Some((&b""[..], &b""[..])));
}

#[test]
fn one_leading_empty_line_is_skipped() {
    let (head, _) = accepted("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.method_span.start, head.length), (2, 29));
}

#[test]
fn lengths_and_chunks() {
    assert_eq!(accepted(with("Content-Length: 0\r\n")).0.framing, Framing::Length(0));
    assert_eq!(accepted(with("content-length: 18446744073709551615\r\n")).0.framing, Framing::Length(u64::MAX));
    assert_eq!(accepted(with("Content-Length: 007\r\n")).0.framing, Framing::Length(7));
    assert_eq!(accepted(with("transfer-encoding: Chunked\r\n")).0.framing, Framing::Chunked);
}

#[test]
fn keep_alive() {
    let keeps =
        |version: &str, lines: &str| accepted(format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n")).0.keep_alive;
    assert!(keeps("1.1", ""));
    assert!(!keeps("1.1", "Connection: Close\r\n"));
    assert!(!keeps("1.1", "Connection: keep-alive\r\nConnection: x , close\r\n"));
    assert!(!keeps("1.0", ""));
    assert!(keeps("1.0", "Connection: keep-alive\r\n"));
    assert!(!keeps("1.0", "Connection: keep-alive, close\r\n"));
}

#[test]
fn http_1_0_needs_no_host() {
    let (head, _) = accepted("GET / HTTP/1.0\r\n\r\n");
    assert_eq!((head.host, head.minor), (None, 0));
}

#[test]
fn expectations() {
    let expects = |version: &str, lines: &str| {
        accepted(format!("POST / HTTP/{version}\r\nHost: a\r\nExpect: 100-Continue\r\n{lines}\r\n")).0.expect_continue
    };
    assert!(expects("1.1", "Content-Length: 1\r\n"));
    assert!(expects("1.1", "Transfer-Encoding: chunked\r\n"));
    assert!(!expects("1.1", "Content-Length: 0\r\n"));
    assert!(!expects("1.1", ""));
    assert!(!expects("1.0", "Content-Length: 1\r\n"));
}

#[test]
fn upgrades() {
    let upgrades = |lines: &str| accepted(with(lines)).0.upgrade;
    assert!(upgrades("Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"));
    assert!(!upgrades("Upgrade: websocket\r\n"));
    assert!(!upgrades("Connection: upgrade\r\n"));
    assert!(!upgrades("Connection: upgrade\r\nUpgrade: websocket, h2c\r\n"));
    assert!(!upgrades("Connection: upgrade\r\nUpgrade: websocket\r\nUpgrade: other\r\n"));
    assert!(!upgrades("Connection: upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"));
    assert!(!upgrades("Connection: upgrade\r\nUpgrade: H2C/1\r\n"));
    assert!(!upgrades("Connection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 3\r\n"));
    assert!(!accepted("GET / HTTP/1.0\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").0.upgrade);
}

#[test]
fn targets() {
    accepted("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(accepted("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n").0.method, Method::Connect);
    let (head, _) = accepted("GET http://A:80/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.host, Some(Span { start: 34, length: 1 }));
    let (head, _) = accepted("GET http://b.c?x HTTP/1.0\r\n\r\n");
    assert_eq!(head.host, Some(Span { start: 11, length: 3 }));
    accepted("GET /\"<>|{}^`\\ HTTP/1.1\r\nHost: a\r\n\r\n");
}

refused! { request;
    length_with_encoding: with("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n") => LengthAndEncoding,
    encoding_with_length: with("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n") => LengthAndEncoding,
    two_lengths_that_differ: with("Content-Length: 3\r\nContent-Length: 4\r\n") => RepeatedContentLength,
    two_lengths_that_agree: with("Content-Length: 3\r\nContent-Length: 3\r\n") => RepeatedContentLength,
    length_as_a_list: with("Content-Length: 5, 5\r\n") => BadContentLength,
    length_empty: with("Content-Length:\r\n") => BadContentLength,
    length_with_plus: with("Content-Length: +5\r\n") => BadContentLength,
    length_with_minus: with("Content-Length: -5\r\n") => BadContentLength,
    length_in_hexadecimal: with("Content-Length: 0x5\r\n") => BadContentLength,
    length_with_inner_space: with("Content-Length: 5 5\r\n") => BadContentLength,
    length_of_2_to_64: with("Content-Length: 18446744073709551616\r\n") => BadContentLength,
    length_of_many_digits: with(&format!("Content-Length: {}\r\n", "9".repeat(200))) => BadContentLength,
    encoding_gzip_then_chunked: with("Transfer-Encoding: gzip, chunked\r\n") => TransferCodingUnsupported,
    encoding_chunked_twice: with("Transfer-Encoding: chunked, chunked\r\n") => BadTransferEncoding,
    encoding_chunked_in_two_lines: with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n") => RepeatedTransferEncoding,
    encoding_chunked_then_gzip: with("Transfer-Encoding: chunked, gzip\r\n") => BadTransferEncoding,
    encoding_xchunked: with("Transfer-Encoding: xchunked\r\n") => BadTransferEncoding,
    encoding_identity: with("Transfer-Encoding: identity\r\n") => BadTransferEncoding,
    encoding_empty: with("Transfer-Encoding:\r\n") => BadTransferEncoding,
    encoding_with_empty_members: with("Transfer-Encoding: ,chunked\r\n") => BadTransferEncoding,
    encoding_with_parameter: with("Transfer-Encoding: chunked;q=1\r\n") => BadTransferEncoding,
    encoding_quoted: with("Transfer-Encoding: \"chunked\"\r\n") => BadTransferEncoding,
    encoding_with_vertical_tab: with("Transfer-Encoding: \x0bchunked\r\n") => BadHeaderValue,
    encoding_in_http_1_0: "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" => TransferEncodingInOldVersion,

    bare_lf_after_the_request_line: "GET / HTTP/1.1\nHost: a\r\n\r\n" => BareLf,
    bare_lf_after_a_header: "GET / HTTP/1.1\r\nHost: a\n\r\n" => BareLf,
    bare_lf_ends_the_head: "GET / HTTP/1.1\r\nHost: a\r\n\n" => BareLf,
    bare_lf_before_the_request: "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" => BareLf,
    bare_lf_in_the_target: "GET /\nHTTP/1.1\r\n\r\n" => BareLf,
    bare_cr_in_a_value: "GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n" => BareCr,
    bare_cr_in_a_name: "GET / HTTP/1.1\r\nX\ry: a\r\n\r\n" => BareCr,
    bare_cr_in_the_target: "GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n" => BareCr,
    bare_cr_twice_at_the_end: "GET / HTTP/1.1\r\nHost: a\r\n\r\r\n" => BareCr,
    nul_in_the_method: "G\0T / HTTP/1.1\r\nHost: a\r\n\r\n" => Nul,
    nul_in_the_target: "GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n" => Nul,
    nul_in_a_name: with("X\0: y\r\n") => Nul,
    nul_in_a_value: with("X: y\0z\r\n") => Nul,

    folded_line: with("X: a\r\n b\r\n") => ObsFold,
    folded_line_with_a_tab: with("X: a\r\n\tb\r\n") => ObsFold,
    folded_length: with("Content-Length: 1\r\n 2\r\n") => ObsFold,
    white_space_before_the_first_header: "GET / HTTP/1.1\r\n Host: a\r\n\r\n" => LeadingWhitespace,
    space_before_the_colon: with("Content-Length : 5\r\n") => SpaceBeforeColon,
    tab_before_the_colon: with("Transfer-Encoding\t: chunked\r\n") => SpaceBeforeColon,
    empty_name: with(": x\r\n") => EmptyHeaderName,
    no_colon: with("Content-Length\r\n") => BadHeaderName,
    name_with_a_parenthesis: with("X(y): z\r\n") => BadHeaderName,
    name_with_a_control_byte: with("Content\x0bLength: 5\r\n") => BadHeaderName,
    name_beyond_ascii: with("X\u{e4}: y\r\n") => BadHeaderName,
    name_of_256_bytes: with(&format!("{}: x\r\n", "n".repeat(256))) => HeaderNameTooLong,
    control_byte_in_a_value: with("X: a\x07b\r\n") => BadHeaderValue,
    delete_in_a_value: with("X: a\x7fb\r\n") => BadHeaderValue,

    no_host: "GET / HTTP/1.1\r\n\r\n" => NoHost,
    two_hosts: "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n" => RepeatedHost,
    two_hosts_in_http_1_0: "GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n" => RepeatedHost,
    host_empty: "GET / HTTP/1.1\r\nHost:\r\n\r\n" => BadHost,
    host_with_user: "GET / HTTP/1.1\r\nHost: u@a\r\n\r\n" => BadHost,
    host_with_path: "GET / HTTP/1.1\r\nHost: a/b\r\n\r\n" => BadHost,
    host_as_a_list: "GET / HTTP/1.1\r\nHost: a, b\r\n\r\n" => BadHost,
    host_with_bad_port: "GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n" => BadHost,
    host_disagrees_with_the_target: "GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n" => HostDisagrees,

    http_0_9: "GET /\r\n" => VersionUnsupported,
    http_0_9_with_a_version: "GET / HTTP/0.9\r\nHost: a\r\n\r\n" => VersionUnsupported,
    http_1_2: "GET / HTTP/1.2\r\nHost: a\r\n\r\n" => VersionUnsupported,
    http_2_preface: "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" => VersionUnsupported,
    version_of_two_digits: "GET / HTTP/1.10\r\nHost: a\r\n\r\n" => BadRequestLine,
    version_in_lower_case: "GET / http/1.1\r\nHost: a\r\n\r\n" => BadRequestLine,
    version_without_minor: "GET / HTTP/2\r\nHost: a\r\n\r\n" => BadRequestLine,
    space_after_the_version: "GET / HTTP/1.1 \r\nHost: a\r\n\r\n" => BadRequestLine,
    two_spaces_before_the_version: "GET /  HTTP/1.1\r\nHost: a\r\n\r\n" => BadRequestLine,
    two_spaces_before_the_target: "GET  / HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    tab_between: "GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n" => BadMethod,
    leading_space: " GET / HTTP/1.1\r\nHost: a\r\n\r\n" => BadMethod,
    two_leading_empty_lines: "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n" => LeadingEmptyLines,
    method_alone: "GET\r\n\r\n" => BadRequestLine,
    method_that_is_no_token: "G(T / HTTP/1.1\r\nHost: a\r\n\r\n" => BadMethod,
    method_of_33_bytes: format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(33)) => MethodTooLong,
    tls_hello: [0x16, 3, 1, 0, 200] => BadMethod,

    target_beyond_ascii: "GET /\u{e4} HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    target_with_fragment: "GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    target_with_control_byte: "GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    target_without_slash: "GET index.html HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    target_asterisk_with_get: "GET * HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    target_of_another_scheme: "GET file:///etc/passwd HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    target_with_user: "GET http://u:p@a/ HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,
    target_connect_with_path: "CONNECT /a HTTP/1.1\r\nHost: a\r\n\r\n" => BadTarget,

    expectation_unknown: with("Expect: 200-maybe\r\nContent-Length: 1\r\n") => ExpectationUnknown,
    too_many_headers: with(&"X: y\r\n".repeat(100)) => TooManyHeaders,
    too_many_connection_options: with(&format!("Connection: {}\r\n", "a,".repeat(33))) => TooManyConnectionOptions,
    head_too_large: with(&format!("X: {}\r\n", "y".repeat(9000))) => HeadTooLarge,
    target_too_long: format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(8000)) => TargetTooLong,
    target_too_long_and_bad_after: format!("GET /{}\0", "a".repeat(8000)) => TargetTooLong,
}

#[test]
fn limits_are_exact() {
    let bytes = with("X: y\r\n");
    let tight = Limits { head_bytes: bytes.len(), headers: 2, target_bytes: 1, ..Limits::default() };
    assert!(request_within(bytes.as_bytes(), &tight).unwrap().is_some());
    let refused = |limits: Limits, reject| {
        assert_refused(bytes.as_bytes(), reject, |bytes| request_within(bytes, &limits));
    };
    refused(Limits { head_bytes: bytes.len() - 1, ..tight }, Reject::HeadTooLarge);
    refused(Limits { headers: 1, ..tight }, Reject::TooManyHeaders);
    refused(Limits { target_bytes: 0, ..tight }, Reject::TargetTooLong);
    refused(Limits { head_bytes: 10, ..tight }, Reject::TargetTooLong);
    assert_eq!(request_within(b"", &Limits { head_bytes: 0, ..tight }), Err(Reject::TargetTooLong));
}

#[test]
fn the_largest_head_has_offsets_that_fit() {
    let limits = Limits { head_bytes: usize::MAX, headers: usize::MAX, target_bytes: usize::MAX, ..Limits::default() };
    let start = with("X: \r\n").len();
    let bytes = with(&format!("X: {}\r\n", "y".repeat(65_535 - start)));
    let (head, spans) = request_within(bytes.as_bytes(), &limits).unwrap().unwrap();
    assert_eq!((head.length, usize::from(spans[1].value_length)), (65_535, 65_535 - start));
    let bytes = with(&format!("X: {}\r\n", "y".repeat(65_536 - start)));
    assert_eq!(request_within(bytes.as_bytes(), &limits), Err(Reject::HeadTooLarge));
    assert_eq!(request_within(with(&"X: y\r\n".repeat(127)).as_bytes(), &limits).unwrap().unwrap().1.len(), 128);
    assert_eq!(request_within(with(&"X: y\r\n".repeat(128)).as_bytes(), &limits), Err(Reject::TooManyHeaders));
}

#[test]
fn a_body_beyond_the_limit_is_refused_at_its_head() {
    let limits = Limits { body_bytes: 9, ..Limits::default() };
    assert!(request_within(with("Content-Length: 9\r\n").as_bytes(), &limits).is_ok());
    assert_eq!(request_within(with("Content-Length: 10\r\n").as_bytes(), &limits), Err(Reject::BodyTooLarge));
}
