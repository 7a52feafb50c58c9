//! A prefix of a response is answered in the same way or not at all, and the spans lie within the head.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_http::{HeaderSpan, Limits, MAX_HEADERS, Method, parse_response};

fuzz_target!(|input: (bool, u16, &[u8])| {
    let (head, end, bytes) = input;
    let method = if head { Method::Head } else { Method::Get };
    let (limits, mut spans) = (Limits::default(), [HeaderSpan::EMPTY; MAX_HEADERS]);
    let part = parse_response(&bytes[..bytes.len().min(end.into())], method, &limits, &mut spans);
    let whole = parse_response(bytes, method, &limits, &mut spans);
    assert!(part == whole || part == Ok(None));
    let Ok(Some(head)) = whole else { return };
    let bytes = &bytes[..head.length.into()];
    assert!(head.reason.of(bytes).is_some());
    assert!(spans[..head.headers.into()].iter().all(|span| span.name(bytes).is_some() && span.value(bytes).is_some()));
});
