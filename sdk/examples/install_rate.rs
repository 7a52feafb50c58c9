//! How many rules for flows a function installs per second: in bulk, and in bursts of 64 as from `process`.
//!
//! `cargo run --profile fast -p middlenet-sdk --example install_rate` (as root)
#![forbid(unsafe_code)]

use middlenet_sdk::fast_path::{Action, Ends, FastPath, Flow, FlowRule, MapKind, Mode, Shape};
use middlenet_shm::testkit::{MapType, create};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

const FLOWS: u32 = 500_000;
const SHAPE: Shape = Shape::of(&[Mode::Reactive]).flows(FLOWS * 2);
const BURST: usize = 64;

fn maps() -> Option<Vec<(MapKind, OwnedFd)>> {
    let make = |kind: MapKind| {
        let of = if kind == MapKind::Flows { MapType::LruHash } else { MapType::Array };
        let fd = create(of, kind.key_bytes() as u32, kind.value_bytes() as u32, SHAPE.entries(kind))?;
        Some((kind, fd))
    };
    SHAPE.maps().map(make).collect()
}

fn report(what: &str, flows: usize, began: Instant) {
    let took = began.elapsed();
    println!("{what}: {flows} in {} ms, {:.0} per second", took.as_millis(), flows as f64 / took.as_secs_f64());
}

fn main() {
    let Some(maps) = maps() else { return };
    let fast_path = FastPath::open(Mode::Reactive, SHAPE, maps, 0).expect("maps of this shape");
    fast_path.begin();
    let rule = FlowRule {
        action: Action::default(),
        lifetime: Duration::from_secs(600),
        idle: Some(Duration::from_secs(60)),
        ends: Ends::Tracked,
    };
    let address = |number: u32| std::net::IpAddr::V4(number.into());
    let flow = |number: u32| Flow {
        vlan: 0,
        src: address(0x0a00_0000 + number),
        dst: address(0xc000_0201),
        protocol: 6,
        src_port: 1000,
        dst_port: 80,
    };
    let rules: Vec<_> = (0..FLOWS).map(|number| (flow(number), rule)).collect();
    let began = Instant::now();
    assert_eq!(fast_path.install_all(&rules), rules.len());
    report("in bulk", rules.len(), began);

    let began = Instant::now();
    for burst in rules.chunks(BURST) {
        burst.iter().for_each(|(flow, rule)| fast_path.install(flow, rule));
        fast_path.flush();
    }
    report("in bursts of 64", rules.len(), began);

    let began = Instant::now();
    let mut over = 0;
    fast_path.clear();
    while over < rules.len() {
        fast_path.sweep(4096, &mut |_, _| over += 1);
    }
    report("swept", rules.len(), began);
}
