//! Prints what fast paths cost for each packet, in the kernel and without an interface.
//!
//! ```console
//! # cargo run --profile fast -p middlenet-bpf --example fast_path_cost
//! ```
//!
//! Each figure is the least of several means. Packets leave directly by a port, as they would from a chain that knows their flow.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use middlenet_bpf::{Entry, FastPaths, HopMaps, PortDevice, Result, SourceCheck, StagePlan, Target, Trial};
use middlenet_fast_path::{Action, Ends, FlowRule, MapKind, Mode, Rewrite, Shape, flow_key, prefix_key};
use middlenet_steer::{Flow, Tables};
use middlenet_wire::PacketBuilder;

const REPEAT: u32 = 100_000;
const ROUNDS: usize = 7;
/// Loopback; nothing is sent.
const DEVICE: PortDevice =
    PortDevice { ifindex: 1, mtu: 1500, mac: [0; 6], takes_redirects: true, source_check: SourceCheck::Off };

fn main() -> Result<()> {
    let v4 = |last| IpAddr::from(Ipv4Addr::new(10, 0, 0, last));
    let v6 = |last| IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last));
    let udp4 = PacketBuilder::new().ipv4(Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)).udp(5, 6).build();
    let [IpAddr::V6(one), IpAddr::V6(two)] = [v6(1), v6(2)] else { unreachable!("they are") };
    let udp6 = PacketBuilder::new().ipv6(one, two).udp(5, 6).build();
    let flow = |src, dst| Flow { vlan: 0, src, dst, protocol: 17, src_port: 5, dst_port: 6 };
    let (of4, of6) = (flow(v4(1), v4(2)), flow(v6(1), v6(2)));

    println!("steering alone, to a socket without tag: {} ns", best(&alone()?, &udp4)?);
    let flows = Shape::of(&[Mode::Reactive]).flows(65_536);
    let nat = |src, dst| Rewrite { src: Some(src), dst: Some(dst), lower_ttl: false, ..Rewrite::default() };
    let ethernet = Rewrite { ethernet: Some(([2; 6], [4; 6])), ..Rewrite::default() };
    let none = Rewrite::default();
    let cases = [
        ("flow, nothing written", &udp4, of4, none),
        ("flow, Ethernet written", &udp4, of4, ethernet),
        ("flow, addresses written", &udp4, of4, nat(of4.src, of4.dst)),
        ("flow, IPv6, nothing written", &udp6, of6, none),
        ("flow, IPv6, addresses written", &udp6, of6, nat(of6.src, of6.dst)),
    ];
    println!("{:<32} {:>6} {:>6} {:>6}", "stages", 1, 2, 4);
    for (name, packet, flow, rewrite) in cases {
        let of = |stages| measure(stages, flows, packet, |maps| set_flow(maps, &flow, rewrite));
        println!("{name:<32} {:>3} ns {:>3} ns {:>3} ns", of(1)?, of(2)?, of(4)?);
    }
    let prefixes = Shape::of(&[Mode::Proactive]).prefixes(1000, 1000).rules(1000);
    for count in [1_u32, 100, 1000] {
        let of = |stages| measure(stages, prefixes, &udp4, |maps| set_prefixes(maps, count));
        println!("{:<32} {:>3} ns {:>3} ns {:>3} ns", format!("{count} + {count} prefixes"), of(1)?, of(2)?, of(4)?);
    }
    Ok(())
}

fn best(trial: &Trial, frame: &[u8]) -> Result<u32> {
    let means = (0..ROUNDS).map(|_| trial.run(frame, REPEAT).map(|run| run.mean_ns)).collect::<Result<Vec<u32>>>()?;
    Ok(means.into_iter().min().unwrap_or(0))
}

fn alone() -> Result<Trial> {
    Trial::steering(&Tables::compile(&[], middlenet_steer::Action::Tag(0)).expect("no rule"))
}

fn measure(stages: u16, shape: Shape, packet: &[u8], set: impl Fn(&HopMaps)) -> Result<u32> {
    let paths = FastPaths::new(stages, 2)?;
    paths.set_port(1, Some(DEVICE))?;
    for hop in 0..stages {
        let next_forward = if hop + 1 < stages { Target::Hop(hop + 1) } else { Target::Egress };
        let plan = StagePlan {
            shape,
            misses_to_kernel: false,
            ends_by_kernel: false,
            next_forward,
            next_reverse: Target::Egress,
            outputs: Vec::new(),
            left: 0,
            right: vec![1],
        };
        set(&paths.load_stage(hop, &plan)?);
    }
    let tables = Tables::compile(&[], middlenet_steer::Action::Tag(0)).expect("no rule");
    let trial = Trial::fast(&tables, paths.port(0, &[Entry { chain: 0, hop: 0, reverse: false }])?)?;
    let cost = best(&trial, packet)?;
    let sent = paths.counters(stages - 1)?.sent_pkts;
    assert_eq!(sent, u64::from(REPEAT) * ROUNDS as u64, "packets left by the port");
    Ok(cost)
}

fn put(maps: &HopMaps, kind: MapKind, key: &[u8], value: &[u8]) {
    let (_, map) = maps.iter().find(|(of, _)| *of == kind).expect("the shape has it");
    // SAFETY: both are as long as the map wants them, by their types.
    let result =
        unsafe { libbpf_sys::bpf_map_update_elem(map.as_raw_fd(), key.as_ptr().cast(), value.as_ptr().cast(), 0) };
    assert_eq!(result, 0, "the map takes it");
}

fn set_flow(maps: &HopMaps, flow: &Flow, rewrite: Rewrite) {
    let action = Action { rewrite, ..Action::default() };
    let rule = FlowRule { action, lifetime: Duration::MAX, idle: None, ends: Ends::Ignored };
    put(maps, MapKind::Flows, &flow_key(flow).expect("of one version"), &rule.encode(0, 0));
}

/// The first matches.
fn set_prefixes(maps: &HopMaps, count: u32) {
    for rule in 0..count {
        let address = Ipv4Addr::from(0x0a00_0000 + (rule << 8));
        let prefix = middlenet_steer::Prefix::new(address.into(), 24).expect("24 bits");
        for kind in [MapKind::SrcPrefixes, MapKind::DstPrefixes] {
            put(maps, kind, &prefix_key(&prefix), &rule.to_ne_bytes());
        }
        put(maps, MapKind::Rules, &rule.to_ne_bytes(), &Action::default().encode());
    }
}
