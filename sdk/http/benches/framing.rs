//! What a head costs to parse and to write, without a host.
//!
//! `cargo bench -p middlenet-http [-- NAME]`. A figure is the fastest twentieth of passes: those that nothing else on the host
//! disturbed. The rows of httparse do less (no spans, no meaning, no strict line ends) and are there to compare with.

#![forbid(unsafe_code)]

use middlenet_http::*;
use std::hint::black_box;
use std::time::{Duration, Instant};

const AB: &[u8] = b"GET /index.html HTTP/1.0\r\nConnection: Keep-Alive\r\nHost: 10.0.0.2:8080\r\n\
    User-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n";
const WRK: &[u8] = b"GET /api/items HTTP/1.1\r\nHost: 10.0.0.2:8080\r\nUser-Agent: wrk/4.2\r\nAccept: */*\r\n\
    X-Request-ID: 7f3a\r\n\r\n";
const NGINX: &[u8] = b"HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Mon, 06 Jan 2025 12:00:00 GMT\r\n\
    Content-Type: text/html\r\nContent-Length: 615\r\nLast-Modified: Tue, 28 May 2024 13:22:30 GMT\r\n\
    Connection: keep-alive\r\nETag: \"6655da96-267\"\r\nAccept-Ranges: bytes\r\n\r\n";
const BROWSER: &[u8] = b"GET /a/b/c/page.html?id=1234567&lang=en HTTP/1.1\r\nHost: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Accept-Encoding: gzip, deflate, br\r\nAccept-Language: en-US,en;q=0.5\r\nReferer: https://www.example.com/a/b/\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef0123456789abcdef; theme=dark; consent=1; _ga=GA1.2.3456789.987654321\r\n\
    Cache-Control: max-age=0\r\nUpgrade-Insecure-Requests: 1\r\nSec-Fetch-Mode: navigate\r\nConnection: keep-alive\r\n\r\n";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Without `--bench` it is a test run, which only shows that it works.
    let duration = Duration::from_millis(if arguments.iter().any(|a| a == "--bench") { 500 } else { 5 });
    let wanted = arguments.iter().find(|a| !a.starts_with('-'));
    println!("{:<28} {:>6} {:>9} {:>9}", "case", "bytes", "ns", "median");
    let run = |name: &str, bytes: usize, work: &mut dyn FnMut()| {
        if wanted.is_none_or(|wanted| name.contains(wanted.as_str())) {
            let (ns, median) = measure(duration, work);
            println!("{name:<28} {bytes:>6} {ns:>9.1} {median:>9.1}");
        }
    };
    let limits = Limits::default();
    let mut spans = [HeaderSpan::EMPTY; MAX_HEADERS];
    let mut out = Vec::with_capacity(4096);
    for (name, bytes) in [("ab", AB), ("wrk", WRK), ("browser", BROWSER)] {
        run(&format!("parse request {name}"), bytes.len(), &mut || {
            black_box(parse_request(black_box(bytes), &limits, &mut spans)).unwrap().unwrap();
        });
        run(&format!("httparse request {name}"), bytes.len(), &mut || {
            let mut headers = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
            let mut request = httparse::Request::new(&mut []);
            black_box(request.parse_with_uninit_headers(black_box(bytes), &mut headers)).unwrap();
        });
        let head = parse_request(bytes, &limits, &mut spans).unwrap().unwrap();
        let spans = &spans[..usize::from(head.headers)];
        let extra: [(&[u8], &[u8]); 2] = [(b"X-Forwarded-For", b"10.0.0.1"), (b"X-Forwarded-Proto", b"http")];
        let (method, target) = (head.method_span.of(bytes).unwrap(), head.target.of(bytes).unwrap());
        for (what, extra) in [("", &[][..]), ("+2", &extra[..])] {
            let egress = Egress { extra, ..Egress::default() };
            run(&format!("write request {name}{what}"), bytes.len(), &mut || {
                out.clear();
                write_request_head(&mut out, method, target, pairs(black_box(bytes), spans), &egress).unwrap();
                black_box(&out);
            });
        }
        run(&format!("canonical target {name}"), target.len(), &mut || {
            black_box(canonical_target(black_box(target), &mut out)).unwrap();
        });
    }
    let mut hostile = b"GET / HTTP/1.1\r\nHost: a\r\n".to_vec();
    for option in 0..32 {
        hostile.extend_from_slice(format!("Connection: {option:0200}\r\n").as_bytes());
    }
    hostile.extend_from_slice(&b"x:\r\n".repeat(66));
    hostile.extend_from_slice(b"\r\n");
    run("parse request hostile", hostile.len(), &mut || {
        black_box(parse_request(black_box(&hostile), &limits, &mut spans)).unwrap().unwrap();
    });
    let head = parse_request(&hostile, &limits, &mut spans).unwrap().unwrap();
    run("write request hostile", hostile.len(), &mut || {
        out.clear();
        let headers = pairs(black_box(&hostile), &spans[..usize::from(head.headers)]);
        write_request_head(&mut out, b"GET", b"/", headers, &Egress::default()).unwrap();
        black_box(&out);
    });
    run("parse response nginx", NGINX.len(), &mut || {
        black_box(parse_response(black_box(NGINX), Method::Get, &limits, &mut spans)).unwrap().unwrap();
    });
    run("httparse response nginx", NGINX.len(), &mut || {
        let mut headers = [const { std::mem::MaybeUninit::uninit() }; MAX_HEADERS];
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        black_box(config.parse_response_with_uninit_headers(&mut response, black_box(NGINX), &mut headers)).unwrap();
    });
    let head = parse_response(NGINX, Method::Get, &limits, &mut spans).unwrap().unwrap();
    let egress = Egress { framing: head.framing, ..Egress::default() };
    run("write response nginx", NGINX.len(), &mut || {
        out.clear();
        let headers = pairs(black_box(NGINX), &spans[..usize::from(head.headers)]);
        write_response_head(&mut out, 1, head.status, b"OK", headers, &egress).unwrap();
        black_box(&out);
    });
    let mut chunks = Vec::new();
    for _ in 0..16 {
        write_chunk_head(&mut chunks, 1024);
        chunks.extend_from_slice(&[b'x'; 1024]);
        chunks.extend_from_slice(CHUNK_END);
    }
    chunks.extend_from_slice(LAST_CHUNK);
    run("read 16 chunks of 1 KiB", chunks.len(), &mut || {
        let mut body = BodyReader::new(Framing::Chunked, &limits);
        let mut rest = black_box(&chunks[..]);
        while let BodyStep::Data { start, length } = body.next(rest).unwrap() {
            rest = &rest[start + length..];
        }
        assert!(body.is_done());
    });
}

/// Nanoseconds per call: the fastest twentieth of passes, and the median.
fn measure(duration: Duration, work: &mut dyn FnMut()) -> (f64, f64) {
    const CALLS: u32 = 500;
    let (start, mut passes) = (Instant::now(), Vec::new());
    while start.elapsed() < duration {
        let pass = Instant::now();
        for _ in 0..CALLS {
            work();
        }
        passes.push(pass.elapsed().as_nanos() as f64 / f64::from(CALLS));
    }
    passes.sort_by(f64::total_cmp);
    (passes[passes.len() / 20], passes[passes.len() / 2])
}
