//! What the stateful functions cost per packet, without a host: 60-byte TCP of 1,000 (or more) established flows in bursts of
//! 64, in release mode.
//!
//! `cargo bench -p middlenet-functions --bench stateful [-- NAME]`. The time that filling the buffers takes is measured alone
//! and subtracted. Cycles are computed from the processor's nominal clock.

#![forbid(unsafe_code)]

use middlenet_functions::firewall::Firewall;
use middlenet_functions::nat::Nat;
use middlenet_functions::rate_limiter::RateLimiter;
use middlenet_sdk::serde_json::{Value, json};
use middlenet_sdk::shm::{Buffers, Descriptor, Pages, Region};
use middlenet_sdk::wire::{PacketBuilder, TcpFlags};
use middlenet_sdk::{BURST, Burst, BurstState, DynFunction, Init, NetworkFunction, PortInfo, Registration, Verdict};
use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

const BUFFERS: usize = 512;
const PACKETS: usize = 4096;
const FRAME_BYTES: usize = 60;
const SERVER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const POOL: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// Packets before the measurement, each with the port it comes in by, and those of the measurement, all from one port.
struct Traffic {
    opening: Vec<(u8, Vec<u8>)>,
    packets: Vec<Vec<u8>>,
    port: u8,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    // Without `--bench` it is a test run, which only shows that it works.
    let duration = Duration::from_millis(if arguments.iter().any(|a| a == "--bench") { 1000 } else { 5 });
    let wanted = arguments.iter().find(|a| !a.starts_with('-'));
    let web = json!({"rules": [{"proto": "tcp", "dst_port": [80, 443], "allow": true}], "default": "drop"});
    let nat = json!({"inside": "left", "pool": "203.0.113.1", "ports_per_host": 60000, "sessions_per_host": 60000});
    let cases: Vec<(&str, Box<dyn DynFunction>, Traffic)> = vec![
        ("firewall-established-1k", create::<Firewall>(web.clone()), established(1000, None)),
        ("firewall-established-30k", create::<Firewall>(web), established(30_000, None)),
        ("firewall-stateless-8-rules", create::<Firewall>(rules(8)), established(1000, None)),
        ("firewall-stateless-1000-rules", create::<Firewall>(rules(1000)), established(1000, None)),
        ("firewall-stateless-8000-rules", create::<Firewall>(rules(8000)), established(1000, None)),
        ("nat-outbound-1k", create::<Nat>(nat.clone()), established(1000, None)),
        ("nat-inbound-1k", create::<Nat>(nat.clone()), established(1000, Some(POOL))),
        ("nat-outbound-30k", create::<Nat>(nat), established(30_000, None)),
        ("rate-limiter-all", create::<RateLimiter>(json!({"rate": "900Gbps"})), established(1000, None)),
        (
            "rate-limiter-per-flow-1k",
            create::<RateLimiter>(json!({"rate": "900Gbps", "per": "flow"})),
            established(1000, None),
        ),
    ];
    let ghz = nominal_ghz();
    println!("{:<32} {:>8} {:>8} {:>8}", "case", "ns/pkt", "cycles", "Mpps");
    for (name, mut function, traffic) in cases {
        if wanted.is_none_or(|wanted| name.contains(wanted.as_str())) {
            let (ns, spread) = measure(function.as_mut(), &traffic, duration);
            println!("{name:<32} {ns:>8.2} {:>8.1} {:>8.1}   (median {spread:+.2} ns)", ns * ghz, 1e3 / ns);
        }
    }
}

fn create<F: NetworkFunction>(config: Value) -> Box<dyn DynFunction> {
    let port = |id: u8, name: &str| PortInfo { id, name: name.into(), mac: [2, 0, 0, 0, 0, id + 1], mtu: 1500 };
    let mut init = Init::new(vec![port(0, "left"), port(1, "right")], Vec::new());
    Registration::of::<F>().create(config, &mut init).expect("a good configuration")
}

/// Rules of which the last one matches the traffic.
fn rules(count: u32) -> Value {
    let mut rules: Vec<Value> = (1..count)
        .map(|n| {
            let network = Ipv4Addr::from(0x0b00_0000 + n * 256);
            json!({"proto": "tcp", "src": format!("{network}/24"), "dst_port": 1 + n % 1000, "allow": false})
        })
        .collect();
    rules.push(json!({"proto": "tcp", "dst_port": [80, 443], "allow": true}));
    json!({"stateful": false, "rules": rules})
}

/// Handshakes of that many flows, then segments of them in random order: from the clients, or to the given outside address.
fn established(flows: u32, to: Option<Ipv4Addr>) -> Traffic {
    let client = |n: u32| (Ipv4Addr::from(0x0a00_0001 + n % 10), (2000 + n) as u16);
    let there = |n, flags, seq, ack| {
        let (address, port) = client(n);
        frame(PacketBuilder::new().ipv4(address, SERVER).tcp(port, 80, flags).tcp_numbers(seq, ack))
    };
    let back = |n, to: Option<Ipv4Addr>, flags, seq, ack| {
        let (address, port) = client(n);
        frame(PacketBuilder::new().ipv4(SERVER, to.unwrap_or(address)).tcp(80, port, flags).tcp_numbers(seq, ack))
    };
    let mut opening = Vec::new();
    for n in 0..flows {
        opening.push((0, there(n, TcpFlags::SYN, 100, 0)));
        // A translator refuses the one to its inside, a filter the one to the outside: each takes its own.
        opening.push((1, back(n, None, TcpFlags::SYN.union(TcpFlags::ACK), 500, 101)));
        opening.push((1, back(n, Some(POOL), TcpFlags::SYN.union(TcpFlags::ACK), 500, 101)));
        opening.push((0, there(n, TcpFlags::ACK, 101, 501)));
    }
    let mut random = 1u64;
    let packets = (0..PACKETS)
        .map(|_| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = (random >> 33) as u32 % flows;
            if to.is_some() { back(n, to, TcpFlags::ACK, 501, 101) } else { there(n, TcpFlags::ACK, 101, 501) }
        })
        .collect();
    Traffic { opening, packets, port: u8::from(to.is_some()) }
}

fn frame(builder: PacketBuilder<'_>) -> Vec<u8> {
    builder.padded().build()
}

/// Nanoseconds per packet: the fastest twentieth of passes, and the median's distance from it. Fast passes are those that
/// nothing else on the host disturbed.
fn measure(function: &mut dyn DynFunction, traffic: &Traffic, duration: Duration) -> (f64, f64) {
    let region = Region::create("bench", BUFFERS * 2048, Pages::Small).expect("a region");
    let buffers = Buffers::new(Arc::new(region), 2048).expect("buffers");
    let mut state = BurstState::default();
    for (port, packet) in &traffic.opening {
        let mut descriptors = [fill(&buffers, 0, *port, packet)];
        state.begin();
        function.process(&mut Burst::new(&buffers, &mut descriptors, &mut state));
    }
    let (start, mut filling, mut working) = (Instant::now(), Vec::new(), Vec::new());
    while start.elapsed() < duration {
        for _ in 0..16 {
            filling.push(pass(&buffers, &mut state, traffic, None));
            working.push(pass(&buffers, &mut state, traffic, Some(&mut *function)));
        }
    }
    let [filling, working] = [filling, working].map(|mut passes| {
        passes.sort_by(f64::total_cmp);
        [passes[passes.len() / 20], passes[passes.len() / 2]]
    });
    (working[0] - filling[0], (working[1] - filling[1]) - (working[0] - filling[0]))
}

/// Sends all packets through once; nanoseconds per packet.
fn pass(
    buffers: &Buffers,
    state: &mut BurstState,
    traffic: &Traffic,
    mut function: Option<&mut dyn DynFunction>,
) -> f64 {
    let (start, mut buffer) = (Instant::now(), 0);
    for burst in traffic.packets.chunks_exact(BURST) {
        let mut descriptors = [Descriptor::default(); BURST];
        for (descriptor, bytes) in descriptors.iter_mut().zip(burst) {
            *descriptor = fill(buffers, buffer, traffic.port, bytes);
            buffer = (buffer + 1) % BUFFERS as u32;
        }
        if let Some(function) = &mut function {
            state.begin();
            function.process(&mut Burst::new(buffers, &mut descriptors, state));
            let passed = |d: &Descriptor| Verdict::decode(d.verdict, d.argument) == Some(Verdict::Next);
            debug_assert!(descriptors.iter().all(passed));
            assert!(passed(&descriptors[0]), "established traffic passes");
        }
        black_box(&descriptors);
    }
    start.elapsed().as_nanos() as f64 / traffic.packets.len() as f64
}

fn fill(buffers: &Buffers, index: u32, port: u8, bytes: &[u8]) -> Descriptor {
    let length = FRAME_BYTES as u16;
    let mut descriptor = Descriptor { index, offset: 128, length, port, ..Descriptor::default() };
    if let (Some(room), Some(bytes)) =
        (buffers.bytes_mut(&mut descriptor).first_chunk_mut::<FRAME_BYTES>(), bytes.first_chunk::<FRAME_BYTES>())
    {
        *room = *bytes;
    }
    descriptor
}

fn nominal_ghz() -> f64 {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let mhz = text.lines().find(|line| line.starts_with("cpu MHz")).and_then(|line| line.split(':').nth(1));
    mhz.and_then(|mhz| mhz.trim().parse::<f64>().ok()).map_or(1.0, |mhz| mhz / 1e3)
}
