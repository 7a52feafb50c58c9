//! The promises of the framing, from outside. The tests of refusals are the rows of `docs/http-framing.md`.
#![forbid(unsafe_code)]

mod body;
mod egress;
mod properties;
mod request;
mod response;
mod target;

use middlenet_http::*;

/// Parses with the default limits.
fn request(bytes: &[u8]) -> Result<Option<(RequestHead, Vec<HeaderSpan>)>, Reject> {
    request_within(bytes, &Limits::default())
}

fn request_within(bytes: &[u8], limits: &Limits) -> Result<Option<(RequestHead, Vec<HeaderSpan>)>, Reject> {
    let mut spans = [HeaderSpan::EMPTY; MAX_HEADERS];
    let head = parse_request(bytes, limits, &mut spans)?;
    Ok(head.map(|head| (head, spans[..usize::from(head.headers)].to_vec())))
}

fn response(bytes: &[u8], method: Method) -> Result<Option<(ResponseHead, Vec<HeaderSpan>)>, Reject> {
    let mut spans = [HeaderSpan::EMPTY; MAX_HEADERS];
    let head = parse_response(bytes, method, &Limits::default(), &mut spans)?;
    Ok(head.map(|head| (head, spans[..usize::from(head.headers)].to_vec())))
}

/// Asserts that `parse` refuses `bytes`, and that no prefix of them is taken for anything else.
fn assert_refused<T: std::fmt::Debug>(
    bytes: &[u8],
    reject: Reject,
    parse: impl Fn(&[u8]) -> Result<Option<T>, Reject>,
) {
    let text = String::from_utf8_lossy(bytes).into_owned();
    assert_eq!(parse(bytes).unwrap_err(), reject, "{text:?}");
    for end in 0..bytes.len() {
        match parse(&bytes[..end]) {
            Ok(None) => {}
            Err(earlier) => assert_eq!(earlier, reject, "at {end} of {text:?}"),
            Ok(Some(head)) => panic!("{head:?} at {end} of {text:?}"),
        }
    }
}

/// One test per line: name, bytes, reject.
macro_rules! refused {
    ($parse:expr; $($name:ident: $bytes:expr => $reject:ident,)*) => { $(
        #[test]
        fn $name() {
            crate::assert_refused($bytes.as_ref(), middlenet_http::Reject::$reject, $parse);
        }
    )* };
}
use refused;
