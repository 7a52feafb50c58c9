//! What each function costs per packet, without a host: bursts of 64 in a region of buffers, in release mode.
//!
//! `cargo bench -p middlenet-functions [-- NAME]`; `ROUTES=FILE` takes the router's prefixes from a file (one per line, default
//! route included) instead of making 10,000 up. The time that filling the buffers takes is measured alone and subtracted.
//! Cycles are computed from the processor's nominal clock.

#![forbid(unsafe_code)]

use middlenet_functions::registry;
use middlenet_sdk::serde_json::{Value, json};
use middlenet_sdk::shm::{Buffers, Descriptor, Pages, Region};
use middlenet_sdk::wire::PacketBuilder;
use middlenet_sdk::{BURST, Burst, BurstState, DynFunction, Init, PortInfo};
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Buffers in turn, as many as a pool's cache would hand out.
const BUFFERS: usize = 512;
const PACKETS: usize = 4096;
const FRAME_BYTES: usize = 60;
const LEFT: [u8; 6] = [2, 0, 0, 0, 0, 1];
const RIGHT: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// Name, functions with their configurations, packets.
type Case<'a> = (&'a str, Vec<(&'a str, Value)>, &'a [Vec<u8>]);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Without `--bench` it is a test run, which only shows that it works.
    let duration = Duration::from_millis(if arguments.iter().any(|a| a == "--bench") { 1000 } else { 5 });
    let wanted = arguments.iter().find(|a| !a.starts_with('-'));
    let ghz = nominal_ghz();
    let routed = packets(|random| random.routable());
    let prefixes = prefixes();
    let v6 = v6_packets();
    let forward = json!({ "dst": "02:00:00:00:02:01" });
    let routes: Vec<Value> = prefixes.iter().map(|p| json!(format!("{p} right"))).collect();
    let router = json!({ "routes": routes, "resolve": false, "gateway_mac": "02:00:00:00:02:01" });
    let lines: Vec<String> = prefixes6().into_iter().map(|p| format!("{p} right")).collect();
    let router6 = json!({ "routes": lines, "resolve": false, "gateway_mac": "02:00:00:00:02:01" });
    let chain = vec![("l3-router", router.clone()), ("l2-forward", forward.clone())];
    let cases: Vec<Case<'_>> = vec![
        ("l2-forward", vec![("l2-forward", forward)], &routed),
        ("l3-router-ipv4", vec![("l3-router", router)], &routed),
        ("l3-router-ipv6", vec![("l3-router", router6)], &v6),
        ("l3-router+l2-forward", chain, &routed),
        ("l2-bridge", vec![("l2-bridge", json!({}))], &routed),
        ("monitor", vec![("monitor", json!({}))], &routed),
    ];
    println!("{:<24} {:>8} {:>8} {:>8}", "case", "ns/pkt", "cycles", "Mpps");
    for (name, functions, packets) in cases {
        if wanted.is_none_or(|wanted| name.contains(wanted.as_str())) {
            let mut functions: Vec<_> = functions.into_iter().map(|(name, config)| create(name, config)).collect();
            let (ns, spread) = measure(&mut functions, packets, duration);
            println!("{name:<24} {ns:>8.2} {:>8.1} {:>8.1}   (median {spread:+.2} ns)", ns * ghz, 1e3 / ns);
        }
    }
}

fn create(name: &str, config: Value) -> Box<dyn DynFunction> {
    let port = |id, name: &str, mac| PortInfo { id, name: name.into(), mac, mtu: 1500 };
    let mut init = Init::new(vec![port(0, "left", LEFT), port(1, "right", RIGHT)], Vec::new());
    let registration = registry().iter().find(|r| r.name == name).expect("a built-in function");
    registration.create(config, &mut init).expect("a good configuration")
}

/// Nanoseconds per packet: the fastest twentieth of passes, and the median's distance from it. Fast passes are those that
/// nothing else on the host disturbed.
fn measure(functions: &mut [Box<dyn DynFunction>], packets: &[Vec<u8>], duration: Duration) -> (f64, f64) {
    let region = Region::create("bench", BUFFERS * 2048, Pages::Small).expect("a region");
    let buffers = Buffers::new(Arc::new(region), 2048).expect("buffers");
    let mut state = BurstState::default();
    let (start, mut filling, mut working) = (Instant::now(), Vec::new(), Vec::new());
    while start.elapsed() < duration {
        for _ in 0..16 {
            filling.push(pass(&buffers, &mut state, packets, &mut []));
            working.push(pass(&buffers, &mut state, packets, functions));
        }
    }
    let [filling, working] = [filling, working].map(|mut passes| {
        passes.sort_by(f64::total_cmp);
        [passes[passes.len() / 20], passes[passes.len() / 2]]
    });
    (working[0] - filling[0], (working[1] - filling[1]) - (working[0] - filling[0]))
}

/// Sends all packets through once; nanoseconds per packet.
fn pass(buffers: &Buffers, state: &mut BurstState, packets: &[Vec<u8>], functions: &mut [Box<dyn DynFunction>]) -> f64 {
    let (start, mut buffer) = (Instant::now(), 0);
    for burst in packets.chunks_exact(BURST) {
        let mut descriptors = [Descriptor::default(); BURST];
        for (descriptor, bytes) in descriptors.iter_mut().zip(burst) {
            (descriptor.index, descriptor.offset, descriptor.length) = (buffer, 128, bytes.len() as u16);
            buffer = (buffer + 1) % BUFFERS as u32;
            if let Some(room) = buffers.bytes_mut(descriptor).first_chunk_mut::<FRAME_BYTES>() {
                room.copy_from_slice(&bytes[..FRAME_BYTES]);
            }
        }
        for function in functions.iter_mut() {
            state.begin();
            function.process(&mut Burst::new(buffers, &mut descriptors, state));
        }
        assert!(state.emitted.is_empty(), "no packet of the benchmark needs an answer");
        black_box(&descriptors);
    }
    start.elapsed().as_nanos() as f64 / packets.len() as f64
}

fn packets(mut dst: impl FnMut(&mut Random) -> u32) -> Vec<Vec<u8>> {
    let mut random = Random(2);
    (0..PACKETS as u32)
        .map(|n| {
            let dst = dst(&mut random);
            let mut builder = PacketBuilder::new().mac(RIGHT.into(), LEFT.into());
            builder = builder.ipv4((0x0a00_0001 + n).into(), dst.into()).udp(1024 + (n % 1000) as u16, 53);
            padded(builder.payload(&[0; 18]).build())
        })
        .collect()
}

fn v6_packets() -> Vec<Vec<u8>> {
    let mut random = Random(3);
    (0..PACKETS)
        .map(|_| {
            let dst = 0x2001_0db8u128 << 96 | u128::from(random.next()) << 64 | 1;
            let builder = PacketBuilder::new().mac(RIGHT.into(), LEFT.into());
            padded(builder.ipv6("2001:db8::1".parse().expect("an address"), dst.into()).udp(1, 2).build())
        })
        .collect()
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(FRAME_BYTES), 0);
    frame
}

fn prefixes() -> Vec<String> {
    if let Ok(path) = std::env::var("ROUTES") {
        let text = std::fs::read_to_string(&path).expect("a readable routes file");
        return text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    }
    let mut random = Random(1);
    let mut prefixes = std::collections::BTreeSet::new();
    while prefixes.len() < 10_000 {
        let length = [16, 20, 22, 24, 24, 24, 24, 28][random.next() as usize % 8];
        prefixes.insert((random.routable() & u32::MAX << (32 - length), length));
    }
    let text = |(network, length): (u32, u32)| format!("{}/{length}", std::net::Ipv4Addr::from(network));
    prefixes.into_iter().map(text).chain(["0.0.0.0/0".to_owned()]).collect()
}

fn prefixes6() -> Vec<String> {
    let mut random = Random(4);
    let mut lines = String::from("::/0");
    for _ in 0..10_000 {
        let network = 0x2001_0db8u128 << 96 | u128::from(random.next() & 0xffff_0000) << 64;
        let _ = write!(lines, " {}/48", std::net::Ipv6Addr::from(network & u128::MAX << 80));
    }
    let mut lines: Vec<String> = lines.split(' ').map(str::to_owned).collect();
    lines.sort();
    lines.dedup();
    lines
}

/// A small generator (splitmix64); the same numbers in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) as u32
    }

    fn routable(&mut self) -> u32 {
        loop {
            let address = self.next();
            if (1..224).contains(&(address >> 24)) && address >> 24 != 127 {
                return address;
            }
        }
    }
}

fn nominal_ghz() -> f64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = text.lines().find(|line| line.starts_with("cpu MHz")).and_then(|line| line.split(':').nth(1));
    mhz.and_then(|mhz| mhz.trim().parse::<f64>().ok()).map_or(1.0, |mhz| mhz / 1e3)
}
