//! What is accepted is read by httparse in the same way, and written anew it is the same request.
#![no_main]

use libfuzzer_sys::fuzz_target;
use middlenet_http::{Egress, HeaderSpan, Limits, MAX_HEADERS, pairs, parse_request, write_request_head};

fuzz_target!(|bytes: &[u8]| {
    let (limits, mut spans) = (Limits::default(), [HeaderSpan::EMPTY; MAX_HEADERS]);
    let Ok(Some(head)) = parse_request(bytes, &limits, &mut spans) else { return };
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(head.length.into())));
    let headers = pairs(bytes, &spans[..usize::from(head.headers)]);
    assert!(headers.clone().eq(request.headers.iter().map(|header| (header.name.as_bytes(), header.value))));
    let (method, target) = (head.method_span.of(bytes).unwrap(), head.target.of(bytes).unwrap());
    let host = [(&b"Host"[..], head.host.and_then(|host| host.of(bytes)).unwrap_or(b"a"))];
    let egress = Egress { framing: head.framing, close: !head.keep_alive, extra: &host, ..Egress::default() };
    let mut out = Vec::new();
    if write_request_head(&mut out, method, target, headers, &egress).is_ok() {
        let limits = Limits { headers: MAX_HEADERS, head_bytes: usize::MAX, ..limits };
        let again = parse_request(&out, &limits, &mut spans).unwrap().unwrap();
        assert_eq!((again.framing, again.keep_alive, again.length), (head.framing, head.keep_alive, out.len() as u16));
    }
});
