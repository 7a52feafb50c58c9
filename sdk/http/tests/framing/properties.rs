//! What holds for any bytes.

use crate::body::read;
use crate::{request, response};
use middlenet_http::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

/// Bytes from which heads are made more often than by chance.
fn fragments() -> impl Strategy<Value = Vec<u8>> {
    let pieces: Vec<&[u8]> = vec![
        b"GET / HTTP/1.1\r\n",
        b"POST http://a/b HTTP/1.1\r\n",
        b"GET /../ HTTP/1.0\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 304 \r\n",
        b"Host: a\r\n",
        b"Host: b:80\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: ",
        b"\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Transfer-Encoding: ",
        b"chunked",
        b"Connection: ",
        b"close",
        b"upgrade",
        b",",
        b"Upgrade: websocket\r\n",
        b"Expect: 100-continue\r\n",
        b"X-Own: some value, longer than one word\r\n",
        b":",
        b" ",
        b"\t",
        b"\n",
        b"\r",
        b"\0",
        b"\x7f",
        b"\xff",
        b"5",
        b"0\r\n\r\n",
        b"hello",
        b"5\r\nhello\r\n",
        b"a;x=y\r\n",
        b"FFFF",
        b"%2e",
        b"/",
        b"..",
        b"?",
    ];
    let piece = prop_oneof![8 => select(pieces).prop_map(<[u8]>::to_vec), 1 => vec(any::<u8>(), 0..4)];
    vec(piece, 0..14).prop_map(|pieces| pieces.concat())
}

/// Header lines that can be written.
fn headers() -> impl Strategy<Value = Vec<(String, String)>> {
    let name = prop_oneof![
        "[a-zA-Z][a-zA-Z0-9!#$%&'*+.^_`|~-]{0,20}",
        select(vec!["Connection", "Upgrade", "TE", "Content-Length", "Transfer-Encoding", "Expect", "Via", "Accept",])
            .prop_map(str::to_owned)
    ];
    vec((name, "([!-~]([ -~\t]{0,30}[!-~])?)?"), 0..8)
}

fn framing() -> impl Strategy<Value = Framing> {
    prop_oneof![Just(Framing::None), any::<u64>().prop_map(Framing::Length), Just(Framing::Chunked)]
}

/// How long a head is, and its header lines.
type Opinion = (usize, Vec<(String, Vec<u8>)>);

/// What httparse makes of `bytes`.
fn second_opinion(bytes: &[u8]) -> Option<Opinion> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = request.parse(bytes).ok()? else { return None };
    Some((length, request.headers.iter().map(|header| (header.name.to_owned(), header.value.to_vec())).collect()))
}

proptest! {
    #[test]
    fn a_prefix_of_a_request_says_the_same_or_nothing(bytes in fragments()) {
        let whole = request(&bytes);
        for end in 0..bytes.len() {
            let part = request(&bytes[..end]);
            prop_assert!(part == whole || part == Ok(None), "{:?} at {}, {:?}", part, end, whole);
        }
        if let Ok(Some((head, _))) = whole {
            prop_assert_eq!(request(&bytes[..usize::from(head.length)]), whole);
            prop_assert_eq!(request(&bytes[..usize::from(head.length) - 1]), Ok(None));
        }
    }

    #[test]
    fn a_prefix_of_a_response_says_the_same_or_nothing(bytes in fragments(), head in any::<bool>()) {
        let method = if head { Method::Head } else { Method::Get };
        let whole = response(&bytes, method);
        for end in 0..bytes.len() {
            let part = response(&bytes[..end], method);
            prop_assert!(part == whole || part == Ok(None), "{:?} at {}, {:?}", part, end, whole);
        }
    }

    #[test]
    fn any_bytes_are_survived(bytes in vec(any::<u8>(), 0..300)) {
        let _ = (request(&bytes), response(&bytes, Method::Get));
        let _ = canonical_target(&bytes, &mut Vec::new());
        let _ = read(&mut BodyReader::new(Framing::Chunked, &Limits::default()), &bytes, 7);
    }

    #[test]
    fn a_second_parser_reads_what_is_accepted_in_the_same_way(bytes in fragments()) {
        if let Ok(Some((head, spans))) = request(&bytes) {
            let (length, headers) = second_opinion(&bytes).expect("httparse is more lenient");
            prop_assert_eq!(length, usize::from(head.length));
            let ours: Vec<_> = pairs(&bytes, &spans).map(|(n, v)| (String::from_utf8(n.to_vec()).unwrap(), v.to_vec())).collect();
            prop_assert_eq!(ours, headers);
        }
    }

    #[test]
    fn a_body_does_not_depend_on_how_it_is_split(bytes in fragments(), chunked in any::<bool>(), piece in 1usize..9) {
        let framing = if chunked { Framing::Chunked } else { Framing::Length(9) };
        let mut whole = BodyReader::new(framing, &Limits::default());
        let mut split = BodyReader::new(framing, &Limits::default());
        let (payload, consumed, end) = read(&mut whole, &bytes, 1 << 20);
        let (split_payload, split_consumed, split_end) = read(&mut split, &bytes, piece);
        prop_assert_eq!((payload, end), (split_payload, split_end));
        if !matches!(end, Some(Err(_))) {
            prop_assert_eq!(consumed, split_consumed);
        }
        prop_assert!(whole.trailers().eq(split.trailers()));
    }

    #[test]
    fn chunks_written_are_chunks_read(
        chunks in vec(vec(any::<u8>(), 1..50), 0..10), trailers in headers(), piece in 1usize..60,
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            write_chunk_head(&mut bytes, chunk.len());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(CHUNK_END);
        }
        write_last_chunk(&mut bytes, trailers.iter().map(|(n, v)| (n.as_bytes(), v.as_bytes()))).unwrap();
        let mut reader = BodyReader::new(Framing::Chunked, &Limits::default());
        let (payload, consumed, end) = read(&mut reader, &bytes, piece);
        prop_assert_eq!((payload, consumed, end), (chunks.concat(), bytes.len(), Some(Ok(()))));
        prop_assert!(reader.trailers().count() <= trailers.len());
    }

    #[test]
    fn a_request_written_is_the_request_read(lines in headers(), framing in framing(), close in any::<bool>()) {
        let mut out = Vec::new();
        let host = [("Host".to_owned(), "h".to_owned())];
        let lines = || host.iter().chain(&lines).map(|(n, v)| (n.as_bytes(), v.as_bytes()));
        let egress = Egress { framing, close, ..Egress::default() };
        if write_request_head(&mut out, b"PUT", b"/x", lines(), &egress).is_ok() {
            let (head, spans) = request(&out).unwrap().unwrap();
            prop_assert_eq!((head.framing, head.keep_alive, usize::from(head.length)), (framing, !close, out.len()));
            let written: Vec<_> = pairs(&out, &spans).filter(|(n, _)| Known::classify(n) == Known::Other).collect();
            let nominated = |name: &[u8]| lines()
                .filter(|(n, _)| Known::classify(n) == Known::Connection)
                .any(|(_, v)| v.split(|&b| b == b',').any(|option| option.trim_ascii().eq_ignore_ascii_case(name)));
            let expected: Vec<_> =
                lines().filter(|(n, _)| Known::classify(n) == Known::Other && !nominated(n)).collect();
            prop_assert_eq!(written, expected);
        }
    }

    #[test]
    fn what_is_read_can_be_written_and_read_again(bytes in fragments()) {
        let Ok(Some((head, spans))) = request(&bytes) else { return Ok(()) };
        let (method, target) = (head.method_span.of(&bytes).unwrap(), head.target.of(&bytes).unwrap());
        let framing = head.framing;
        let extra = [(&b"Host"[..], &b"h"[..])];
        let egress = Egress { framing, close: !head.keep_alive, extra: &extra, ..Egress::default() };
        let mut out = Vec::new();
        let written = write_request_head(&mut out, method, target, pairs(&bytes, &spans), &egress);
        // Without a Host of its own the request gets one, which need not be that of an absolute target.
        prop_assert_eq!(written, Ok(()));
        match request(&out) {
            Ok(again) => prop_assert_eq!(again.unwrap().0.framing, framing),
            Err(reject) => prop_assert_eq!(reject, Reject::HostDisagrees),
        }
    }

    #[test]
    fn edited_parts_never_make_another_head(
        method in vec(any::<u8>(), 0..4), target in fragments(), lines in vec((fragments(), fragments()), 0..4),
    ) {
        let mut out = Vec::new();
        let method = if method.len() < 2 { b"GET".to_vec() } else { method };
        let lines = lines.iter().map(|(n, v)| (&n[..], &v[..]));
        let extra = [(&b"Host"[..], &b"a"[..])];
        let egress = Egress { framing: Framing::Chunked, extra: &extra, ..Egress::default() };
        if write_request_head(&mut out, &method, &target, lines, &egress).is_ok() {
            match request(&out) {
                Ok(head) => prop_assert_eq!(usize::from(head.unwrap().0.length), out.len()),
                Err(reject) => prop_assert_eq!(reject, Reject::HostDisagrees),
            }
        }
    }

    #[test]
    fn canonical_is_canonical(path in "/([a-c./%?;]|%2[0-9a-fE]|%[4-7][0-9a-f]){0,24}") {
        let mut out = Vec::new();
        if let Ok(changed) = canonical_target(path.as_bytes(), &mut out) {
            let once = if changed { out } else { path.clone().into_bytes() };
            prop_assert_eq!(canonical_target(&once, &mut Vec::new()), Ok(false));
            let path = once.split(|&b| b == b'?').next().unwrap();
            prop_assert!(path.starts_with(b"/"));
            for segment in path.split(|&b| b == b'/') {
                prop_assert!(segment != b"." && segment != b"..");
            }
        }
    }
}
