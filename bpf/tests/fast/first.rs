//! What a fast path does with the flows that its function installs.

use std::os::fd::AsRawFd;
use std::time::Duration;

use middlenet_bpf::{Entry, FastPaths, HopMaps, StagePlan, Target, Trial, Verdict};
use middlenet_fast_path::{Action, Ends, FlowRule, MapKind, Mode, Shape, Then, flow_key};
use middlenet_steer::{Flow, Tables};
use middlenet_tests::require_root;
use middlenet_wire::{FlowKey, PacketBuilder};

fn flow(packet: &[u8]) -> Flow {
    let key = FlowKey::parse(packet).expect("it is IP");
    Flow {
        vlan: key.vid,
        src: key.src_ip(),
        dst: key.dst_ip(),
        protocol: key.protocol,
        src_port: key.src_port,
        dst_port: key.dst_port,
    }
}

fn install(maps: &HopMaps, flow: &Flow, action: Action) {
    let (_, map) = maps.iter().find(|(kind, _)| *kind == MapKind::Flows).expect("flows");
    let rule = FlowRule { action, lifetime: Duration::from_secs(100), idle: None, ends: Ends::Ignored };
    let (key, value) = (flow_key(flow).unwrap(), rule.encode(now(), 0));
    // SAFETY: as long as the map's keys and values are.
    let result =
        unsafe { libbpf_sys::bpf_map_update_elem(map.as_raw_fd(), key.as_ptr().cast(), value.as_ptr().cast(), 0) };
    assert_eq!(result, 0);
}

fn now() -> u64 {
    let mut now = std::mem::MaybeUninit::<[i64; 2]>::zeroed();
    // SAFETY: a timespec is two words.
    unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, now.as_mut_ptr().cast());
        let [s, ns] = now.assume_init();
        s as u64 * 1_000_000_000 + ns as u64
    }
}

#[test]
fn two_hops() {
    require_root!();
    let paths = FastPaths::new(2, 2).unwrap();
    let plan = |next_forward, next_reverse| StagePlan {
        shape: Shape::of(&[Mode::Reactive])
            .flows(1000)
            .prefixes(100, 100)
            .ports(true, true)
            .rules(100)
            .services(10, 100)
            .classes(10),
        misses_to_kernel: false,
        ends_by_kernel: false,
        next_forward,
        next_reverse,
        outputs: vec![],
        left: 0,
        right: vec![1],
    };
    let first = paths.load_stage(0, &plan(Target::Hop(1), Target::Egress)).unwrap_or_else(|e| panic!("{e}"));
    let second = paths.load_stage(1, &plan(Target::Egress, Target::Hop(0))).unwrap();
    let port = paths.port(0, &[Entry { chain: 0, hop: 0, reverse: false }]).unwrap();
    let trial = Trial::fast(&Tables::compile(&[], middlenet_steer::Action::Tag(0)).unwrap(), port).unwrap();
    let packet = PacketBuilder::new().ipv4("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap()).udp(5, 6).build();
    let out = trial.pass(&packet, 0).unwrap();
    println!("{out:?}");
    assert_eq!((out.verdict, out.mark.unwrap().tag), (Verdict::Redirect, 1 << 14));
    install(&first, &flow(&packet), Action::default());
    let out = trial.pass(&packet, 0).unwrap();
    assert_eq!((out.verdict, out.mark.unwrap().tag), (Verdict::Redirect, 1 << 14 | 1));
    install(&second, &flow(&packet), Action::default());
    let out = trial.pass(&packet, 0).unwrap();
    assert_eq!((out.verdict, out.mark.unwrap().tag), (Verdict::Redirect, 1 << 15 | 1));
    install(&second, &flow(&packet), Action { then: Then::Drop(3), ..Action::default() });
    let out = trial.pass(&packet, 0).unwrap();
    assert_eq!((out.verdict, out.mark), (Verdict::Drop, None));
    println!("{:?} {:?}", paths.counters(0).unwrap(), paths.counters(1).unwrap());
    for _ in 0..5 {
        println!("{:?}", trial.run(&packet, 1_000_000).unwrap());
    }
    let _ = second.iter().map(|(_, m)| m.as_raw_fd());
}
