//! Heads whose parts are small but many times named.

use middlenet_http::{BadHead, Egress, write_request_head};

#[test]
fn a_head_that_names_the_same_bytes_again_and_again_is_refused() {
    let value = vec![b'a'; 15_000];
    let headers = std::iter::once((&b"host"[..], &b"a"[..])).chain((0..100).map(|_| (&b"x"[..], &value[..])));
    let mut out = Vec::new();
    let written = write_request_head(&mut out, b"GET", b"/", headers, &Egress::default());
    assert_eq!(written, Err(BadHead::TooLarge));
    assert!(out.is_empty() && out.capacity() < 128 << 10);
}
