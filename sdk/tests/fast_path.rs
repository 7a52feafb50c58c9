//! A hybrid function's process: it is handed maps, and its rules are in the kernel when it says so.

use middlenet_fast_path::prefix_key;
use middlenet_sdk::fast_path::{Flow, MapKind, RuleTable};
use middlenet_sdk::prelude::*;
use middlenet_sdk::protocol::{FromFunction, Start, StartFastPath, ToFunction, VERSION, Wait};
use middlenet_sdk::{Channel, Registration, host};
use middlenet_shm::testkit::{MapType, create};
use middlenet_shm::{
    Buffers, Consumer, ControlGeometry, ControlRegion, Descriptor, KernelMap, MapSizes, Pages, Producer, Region,
};
use serde_json::{Value, json};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(10);

/// Installs a rule for the flow whose number is a packet's first byte, and a rule from its configuration.
struct Hybrid {
    class: u16,
    fast_path: FastPath,
}

#[derive(Deserialize, JsonSchema)]
struct Config {
    class: u16,
}

impl NetworkFunction for Hybrid {
    type Config = Config;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(64).rules(4).prefixes(4, 0);

    fn new(Config { class }: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let fast_path = init.fast_path();
        fast_path.set_rules(&RuleTable {
            rules: vec![Action { class: Some(class), ..Action::default() }],
            src: vec![("10.0.0.0/8".parse().map_err(|_| "no prefix")?, 0)],
            ..RuleTable::default()
        })?;
        if class == 0 {
            return Err(ConfigError::new("class 0 is no class"));
        }
        Ok(Self { class, fast_path })
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for packet in burst.iter_mut() {
            let Some(&number) = packet.data().first() else { continue };
            let action = Action { class: Some(self.class), ..Action::default() };
            let lifetime = Duration::from_secs(100);
            self.fast_path.install(&flow(number), &FlowRule { action, lifetime, idle: None, ends: Ends::Ignored });
        }
    }
}

fn flow(number: u8) -> Flow {
    let address = |last| std::net::IpAddr::from([10, 0, 0, last]);
    Flow { vlan: 0, src: address(number), dst: address(255), protocol: 17, src_port: 1, dst_port: 2 }
}

fn maps() -> Option<Vec<(MapKind, OwnedFd)>> {
    let make = |kind: MapKind| {
        let of = match kind {
            MapKind::Flows => MapType::LruHash,
            MapKind::SrcPrefixes => MapType::Trie,
            MapKind::RuleCounts => MapType::PerProcessorArray,
            _ => MapType::Array,
        };
        let entries = Hybrid::FAST_PATH.entries(kind);
        Some((kind, create(of, kind.key_bytes() as u32, kind.value_bytes() as u32, entries)?))
    };
    Hybrid::FAST_PATH.maps().map(make).collect()
}

struct Peer {
    channel: Channel,
    buffers: Buffers,
    to: Producer,
    from: Consumer,
    control: ControlRegion,
}

impl Peer {
    fn pass(&mut self, byte: u8) {
        let mut descriptor = Descriptor { index: 3, offset: 128, length: 1, generation: 9, ..Descriptor::default() };
        self.buffers.bytes_mut(&mut descriptor)[0] = byte;
        assert_eq!(self.to.enqueue(&[descriptor]), 1);
        self.control.function_doorbell().ring();
        let deadline = Instant::now() + PATIENCE;
        while self.from.dequeue(&mut [Descriptor::default()]) == 0 {
            assert!(Instant::now() < deadline, "the packet did not come back");
            std::thread::yield_now();
        }
    }

    fn reconfigure(&self, class: u16) -> FromFunction {
        self.channel.send(&ToFunction::Reconfigure { change: 0, config: json!({ "class": class }) }, &[]).unwrap();
        self.channel.receive_within(PATIENCE).unwrap().0
    }
}

fn start(config: Value, maps: &[(MapKind, OwnedFd)]) -> Channel {
    let (channel, theirs) = Channel::pair().unwrap();
    std::thread::spawn(move || host::run(&Registration::of::<Hybrid>(), theirs.into_fd()));
    let kinds = maps.iter().map(|(kind, _)| *kind).collect();
    let message = ToFunction::Start(Start {
        version: VERSION,
        name: "hybrid".into(),
        config,
        ports: Vec::new(),
        outputs: Vec::new(),
        steering: Vec::new(),
        fast_path: Some(StartFastPath { mode: Mode::Reactive, maps: kinds, instance: 0 }),
        wait: Wait::Auto,
        cores: Vec::new(),
        shares_core: false,
        logical_clock: false,
    });
    let fds: Vec<_> = maps.iter().map(|(_, fd)| fd.as_fd()).collect();
    channel.send(&message, &fds).unwrap();
    channel
}

fn attach(channel: Channel) -> Peer {
    let region = Arc::new(Region::create("packets", 64 * 2048, Pages::Small).unwrap());
    let control = ControlRegion::create("control", ControlGeometry { workers: 1, slots: 64 }).unwrap();
    channel.send(&ToFunction::Attach { buffer_bytes: 2048, skmsg: false }, &[region.fd(), control.fd()]).unwrap();
    let (attached, _) = channel.receive_within::<FromFunction>(PATIENCE).unwrap();
    assert!(matches!(attached, FromFunction::Attached), "{attached:?}");
    let (to, from) = (control.to_function_producer(0).unwrap(), control.from_function_consumer(0).unwrap());
    Peer { channel, buffers: Buffers::new(region, 2048).unwrap(), to, from, control }
}

#[test]
fn rules_are_in_the_kernel_when_the_packet_comes_back() {
    let Some(maps) = maps() else { return };
    let same = maps.iter().map(|(kind, fd)| (*kind, fd.try_clone().unwrap())).collect();
    let look = FastPath::open(Mode::Reactive, Hybrid::FAST_PATH, same, 0).unwrap();
    // The class that packets from 10.0.0.0/8 are counted in.
    let get = |kind: MapKind, key: &[u8]| {
        let (_, fd) = maps.iter().find(|(there, _)| *there == kind).unwrap();
        let (key_bytes, value_bytes) = (kind.key_bytes(), kind.value_bytes());
        let sizes = MapSizes { key_bytes, value_bytes, is_per_processor: false };
        let mut map = KernelMap::new(fd.try_clone().unwrap(), sizes, 1).unwrap();
        map.lookup(key).unwrap().map(<[u8]>::to_vec)
    };
    let class = || {
        let rule = get(MapKind::SrcPrefixes, &prefix_key(&"10.0.0.0/8".parse().unwrap()))?;
        let action = get(MapKind::Rules, &rule).expect("a rule that is named");
        Action::decode(&action.try_into().unwrap()).expect("an action").class
    };
    let channel = start(json!({ "class": 1 }), &maps);
    let (ready, _) = channel.receive_within(PATIENCE).unwrap();
    let FromFunction::Ready { counters, .. } = ready else { panic!("{ready:?}") };
    assert!(counters.iter().any(|counter| counter.name == "fast_installed"), "{counters:?}");
    assert_eq!(class(), None, "it has not taken over yet");
    let mut peer = attach(channel);
    assert_eq!(class(), Some(1));
    peer.pass(7);
    assert_eq!(look.query(&flow(7)).map(|(action, _)| action.class), Some(Some(1)));
    assert_eq!(look.query(&flow(8)), None);
    // A configuration that is refused changes nothing, though it had asked for rules before.
    assert!(matches!(peer.reconfigure(0), FromFunction::Refused { .. }));
    assert_eq!(class(), Some(1));
    assert!(matches!(peer.reconfigure(2), FromFunction::Reconfigured { .. }));
    assert_eq!(class(), Some(2));
    peer.pass(8);
    assert_eq!(look.query(&flow(8)).map(|(action, _)| action.class), Some(Some(2)));
}

#[test]
fn a_process_without_its_maps_ends() {
    let channel = start(json!({ "class": 1 }), &[]);
    assert!(channel.receive_within::<FromFunction>(PATIENCE).is_err());
}
