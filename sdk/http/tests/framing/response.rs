use crate::{refused, response};
use middlenet_http::*;

fn get(bytes: &[u8]) -> Result<Option<(ResponseHead, Vec<HeaderSpan>)>, Reject> {
    response(bytes, Method::Get)
}

fn accepted(bytes: impl AsRef<[u8]>, method: Method) -> ResponseHead {
    let bytes = bytes.as_ref();
    for end in 0..bytes.len() {
        assert_eq!(response(&bytes[..end], method), Ok(None), "at {end} of {:?}", String::from_utf8_lossy(bytes));
    }
    response(bytes, method).expect("good").expect("complete").0
}

/// A response with this status and these header lines, to GET.
fn with(status: u16, lines: &str) -> ResponseHead {
    accepted(format!("HTTP/1.1 {status} X\r\n{lines}\r\n"), Method::Get)
}

#[test]
fn an_ordinary_response() {
    let bytes = b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\n";
    let head = accepted(bytes, Method::Get);
    assert_eq!((head.status, head.minor, head.headers), (404, 1, 1));
    assert_eq!(head.reason.of(bytes), Some(&b"Not Found"[..]));
    assert_eq!((head.framing, usize::from(head.length)), (Framing::Length(3), bytes.len()));
    assert!(head.keep_alive && !head.upgrade && !head.is_interim());
}

#[test]
fn a_reason_may_be_empty_or_absent_or_beyond_ascii() {
    assert_eq!(accepted(b"HTTP/1.1 200 \r\n\r\n", Method::Get).reason.length, 0);
    assert_eq!(accepted(b"HTTP/1.1 200\r\n\r\n", Method::Get).reason.length, 0);
    assert_eq!(accepted(b"HTTP/1.1 200 \xe4\t!\r\n\r\n", Method::Get).reason.length, 3);
}

#[test]
fn without_a_length_the_body_ends_with_the_connection() {
    let head = with(200, "");
    assert_eq!((head.framing, head.keep_alive), (Framing::UntilClose, false));
    assert_eq!(with(200, "Transfer-Encoding: chunked\r\n").framing, Framing::Chunked);
}

#[test]
fn head_and_304_announce_and_do_not_send() {
    let bytes = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n";
    let head = accepted(bytes, Method::Head);
    assert_eq!((head.framing, head.announced_length, head.keep_alive), (Framing::None, Some(7), true));
    let head = with(304, "Content-Length: 7\r\n");
    assert_eq!((head.framing, head.announced_length, head.keep_alive), (Framing::None, Some(7), true));
    let head = accepted("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Method::Head);
    assert_eq!((head.framing, head.announced_length, head.keep_alive), (Framing::None, None, true));
}

#[test]
fn interim_and_204_have_no_body_and_lose_the_connection_if_they_claim_one() {
    for status in [100, 103, 204] {
        assert_eq!((with(status, "").framing, with(status, "").keep_alive), (Framing::None, true));
        assert!(with(status, "Content-Length: 0\r\n").keep_alive);
        assert!(!with(status, "Content-Length: 5\r\n").keep_alive);
        assert!(!with(status, "Transfer-Encoding: chunked\r\n").keep_alive);
        assert_eq!(with(status, "Content-Length: 5\r\n").announced_length, None);
        assert_eq!(with(status, "").is_interim(), status < 200);
    }
}

#[test]
fn only_a_whole_101_upgrades() {
    let lines = "Connection: upgrade\r\nUpgrade: websocket\r\n";
    assert!(with(101, lines).upgrade && !with(101, lines).is_interim());
    assert!(!with(101, "Connection: upgrade\r\n").upgrade);
    assert!(!with(101, "Upgrade: websocket\r\n").upgrade);
    assert!(!with(200, &format!("{lines}Content-Length: 0\r\n")).upgrade);
}

#[test]
fn a_tunnel_has_no_body() {
    let head = accepted("HTTP/1.1 200 OK\r\n\r\n", Method::Connect);
    assert_eq!((head.framing, head.keep_alive), (Framing::None, true));
    assert!(!accepted("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", Method::Connect).keep_alive);
}

#[test]
fn hosts_and_expectations_mean_nothing_here() {
    with(204, "Host: ,\r\nHost: b\r\nExpect: x\r\n");
}

#[test]
fn old_versions_close_unless_told() {
    assert!(!accepted("HTTP/1.0 204 X\r\n\r\n", Method::Get).keep_alive);
    assert!(accepted("HTTP/1.0 204 X\r\nConnection: keep-alive\r\n\r\n", Method::Get).keep_alive);
}

refused! { get;
    length_with_encoding: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" => LengthAndEncoding,
    two_lengths: "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n" => RepeatedContentLength,
    encoding_gzip: "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n" => BadTransferEncoding,
    encoding_in_http_1_0: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" => TransferEncodingInOldVersion,
    status_of_two_digits: "HTTP/1.1 20 OK\r\n\r\n" => BadStatusLine,
    status_of_four_digits: "HTTP/1.1 2000 OK\r\n\r\n" => BadStatusLine,
    status_below_100: "HTTP/1.1 099 OK\r\n\r\n" => BadStatusLine,
    status_signed: "HTTP/1.1 +20 OK\r\n\r\n" => BadStatusLine,
    two_spaces: "HTTP/1.1  200 OK\r\n\r\n" => BadStatusLine,
    no_version: "200 OK\r\n\r\n" => BadStatusLine,
    leading_empty_line: "\r\nHTTP/1.1 200 OK\r\n\r\n" => BadStatusLine,
    http_2: "HTTP/2.0 200 OK\r\n\r\n" => VersionUnsupported,
    icy: "ICY 200 OK\r\n\r\n" => BadStatusLine,
    control_byte_in_the_reason: "HTTP/1.1 200 \x1b[0m\r\n\r\n" => BadStatusLine,
    nul_in_the_reason: "HTTP/1.1 200 \0\r\n\r\n" => Nul,
    bare_lf_after_the_status_line: "HTTP/1.1 200 OK\nX: y\r\n\r\n" => BareLf,
    bare_cr_in_the_reason: "HTTP/1.1 200 O\rK\r\n\r\n" => BareCr,
    folded_line: "HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n" => ObsFold,
    too_large: format!("HTTP/1.1 200 {}\r\n\r\n", "K".repeat(9000)) => HeadTooLarge,
}
