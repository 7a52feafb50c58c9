//! What each function of layer L4/L7 costs per request, without a host: parsed heads in message buffers, in release mode.
//!
//! `cargo bench -p middlenet-functions --bench middlebox [-- NAME]`. The time that filling the buffers takes is measured alone and
//! subtracted. Heads are those of a browser: 7 headers, about 400 bytes.

#![forbid(unsafe_code)]

use middlenet_functions::registry;
use middlenet_sdk::http::Limits;
use middlenet_sdk::middlebox::{
    Board, Context, DATA_OFFSET, DynMiddlebox, Kind, MESSAGE_BYTES, Message, MessageHeader, NO_HOP, Timers, Verdict,
};
use middlenet_sdk::serde_json::{Value, json};
use middlenet_sdk::shm::{Buffers, Descriptor, Pages, Region};
use middlenet_sdk::{Init, Layer};
use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

const REQUESTS: usize = 1000;
/// Buffers in turn, as many as are in flight at a time.
const BUFFERS: usize = 64;

/// What is put into a buffer: the bytes of a message up to its tail room.
struct Image(Vec<u8>);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Without `--bench` it is a test run, which only shows that it works.
    let duration = Duration::from_millis(if arguments.iter().any(|a| a == "--bench") { 1000 } else { 5 });
    let wanted = arguments.iter().find(|a| !a.starts_with('-'));
    let regex = json!({"rules": [{"match": "^/old/(.*)$", "to": "/new/$1"}]});
    let engine = json!({"rules": [{"match": "^/old/([a-z]+)/.*$", "to": "/new/$1"}]});
    let many: Vec<Value> = (0..100).map(|n| json!({"match": format!("^/old{n}/(.*)$"), "to": "/new/$1"})).collect();
    let upstreams: Vec<String> = (1..=8).map(|n| format!("10.2.0.{n}:80")).collect();
    let proxy = |balance: &str| json!({"upstreams": upstreams, "balance": balance});
    let hosts: Vec<Value> = (0..1000)
        .map(|n| json!({"host": format!("h{n}.example"), "prefix": "/old", "upstream": "10.2.0.1:80"}))
        .collect();
    let edits = json!({"request": [
        {"remove_prefix": "x-internal-"},
        {"set": {"name": "X-Real-IP", "value": "$client_ip"}},
        {"set": {"name": "X-Via", "value": "edge"}}
    ]});
    let sticky = json!({"upstreams": upstreams, "sticky": {"cookie": "node", "secret": "0123456789abcdef"}});
    let hit = requests("/old/products/chairs?page=2");
    let miss = requests("/products/chairs?page=2");
    let cases: Vec<(&str, &str, Value, &[Image])> = vec![
        ("url-rewrite-regex", "url-rewrite", regex.clone(), &hit),
        ("url-rewrite-regex-engine", "url-rewrite", engine, &hit),
        ("url-rewrite-regex-miss", "url-rewrite", regex, &miss),
        ("url-rewrite-search-miss", "url-rewrite", json!({"rules": [{"match": "chair$", "to": "/x"}]}), &miss),
        ("url-rewrite-prefix", "url-rewrite", json!({"rules": [{"prefix": "/old", "to": "/new"}]}), &hit),
        ("url-rewrite-100-rules-miss", "url-rewrite", json!({ "rules": many }), &miss),
        ("reverse-proxy-round-robin", "reverse-proxy", proxy("round-robin"), &hit),
        ("reverse-proxy-least", "reverse-proxy", proxy("least-connections"), &hit),
        ("reverse-proxy-hash", "reverse-proxy", proxy("consistent-hash"), &hit),
        ("reverse-proxy-two-choices", "reverse-proxy", proxy("random-two-choices"), &hit),
        ("reverse-proxy-sticky-new", "reverse-proxy", sticky, &hit),
        ("header-edit-3", "header-edit", edits, &hit),
        ("router-1000-hosts", "router", json!({ "rules": hosts }), &hit),
        ("http-rate-limit", "http-rate-limit", json!({"rate": 1_000_000}), &hit),
        ("http-rate-limit-cookie", "http-rate-limit", json!({"rate": 1_000_000, "key": "cookie sid"}), &hit),
        ("access-log-head", "access-log", json!({"file": "/dev/null"}), &hit),
        ("cpu-burner-10000", "cpu-burner", json!({}), &hit),
    ];
    println!("{:<28} {:>10}", "case", "ns/request");
    for (name, function, config, images) in cases {
        if wanted.is_none_or(|wanted| name.contains(wanted.as_str())) {
            let mut function = create(function, config);
            let (ns, spread) = measure(function.as_mut(), images, duration);
            println!("{name:<28} {ns:>10.1}   (median {spread:+.1} ns)");
        }
    }
}

fn create(name: &str, config: Value) -> Box<dyn DynMiddlebox> {
    let registration =
        registry().iter().find(|r| r.name == name && r.layer() == Layer::L4l7).expect("it is registered");
    registration.create_middlebox(config, &mut Init::default()).expect("a good configuration")
}

/// Requests of as many clients, for hosts in turn.
fn requests(target: &str) -> Vec<Image> {
    let buffers = buffers(1);
    (0..REQUESTS as u32).map(|n| image(&buffers, n, target)).collect()
}

fn image(buffers: &Buffers, n: u32, target: &str) -> Image {
    let text = format!(
        "GET {target} HTTP/1.1\r\nHost: h{}.example\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 \
         Firefox/128.0\r\nAccept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\nAccept-Language: \
         en-US,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br\r\nReferer: https://h.example/\r\nCookie: theme=dark; sid={n:08x}\
         \r\n\r\n",
        n % 1000
    );
    let mut descriptor = Descriptor::default();
    let mut message = Message::new(buffers.room_mut(&mut descriptor));
    *message.header_mut() = MessageHeader {
        kind: Kind::RequestHead as u8,
        connection: n.into(),
        request: n.into(),
        jump: NO_HOP,
        router: NO_HOP,
        tail: DATA_OFFSET as u16,
        ..MessageHeader::default()
    };
    let client = SocketAddr::from((Ipv4Addr::from_bits(0x0a00_0000 + n), 40_000));
    message.header_mut().set_addresses(client, ([192, 0, 2, 80], 80).into());
    message.data_mut()[..text.len()].copy_from_slice(text.as_bytes());
    message.read_request(0, text.len(), &Limits::default()).expect("a request").expect("a whole one");
    Image(message.bytes()[..DATA_OFFSET + text.len()].to_vec())
}

fn buffers(count: usize) -> Buffers {
    let region = Region::create("bench", count * MESSAGE_BYTES, Pages::Small).expect("a region");
    Buffers::new(Arc::new(region), MESSAGE_BYTES as u32).expect("buffers")
}

/// Nanoseconds per request: the fastest twentieth of passes, and the median's distance from it.
fn measure(function: &mut dyn DynMiddlebox, images: &[Image], duration: Duration) -> (f64, f64) {
    let (buffers, board, mut timers) = (buffers(BUFFERS), Board::default(), Timers::default());
    let (start, mut filling, mut working) = (Instant::now(), Vec::new(), Vec::new());
    while start.elapsed() < duration {
        filling.push(pass(&buffers, images, |message| {
            black_box(message.bytes());
            true
        }));
        let now = start.elapsed();
        working.push(pass(&buffers, images, |message| {
            let mut context = Context::of(&message.header().clone(), now, &board, &mut timers);
            !matches!(black_box(function.handle(message, &mut context)), Verdict::Close(_))
        }));
    }
    let [filling, working] = [filling, working].map(|mut passes| {
        passes.sort_by(f64::total_cmp);
        [passes[passes.len() / 20], passes[passes.len() / 2]]
    });
    (working[0] - filling[0], (working[1] - filling[1]) - (working[0] - filling[0]))
}

/// Fills a buffer for each request and shows it; nanoseconds per request.
fn pass(buffers: &Buffers, images: &[Image], mut show: impl FnMut(&mut Message<'_>) -> bool) -> f64 {
    let (start, mut buffer) = (Instant::now(), 0);
    for image in images {
        let mut descriptor = Descriptor { index: buffer, ..Descriptor::default() };
        let room = buffers.room_mut(&mut descriptor);
        room[..image.0.len()].copy_from_slice(&image.0);
        assert!(show(&mut Message::new(room)), "nothing is closed");
        buffer = (buffer + 1) % BUFFERS as u32;
    }
    start.elapsed().as_nanos() as f64 / images.len() as f64
}
