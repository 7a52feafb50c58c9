//! Chains of fast paths without interfaces, and their maps as functions write them.

use std::os::fd::AsRawFd;
use std::time::Duration;

use middlenet_bpf::{
    Entry, FastPaths, HopMaps, Outcome, PortDevice, SourceCheck, StageCounters, StagePlan, Target, Trial,
};
use middlenet_fast_path::{
    Action, Counted, Ends, FLOW_BYTES, FlowRule, FlowState, KEY_BYTES, MapKind, Mode, Rewrite, Service, ServiceRule,
    Settings, SettingsOf, Shape, Then, flow_key, port_slot, prefix_key,
};
use middlenet_steer::{Flow, Prefix, Tables};
use middlenet_wire::FlowKey;
use nix::time::{ClockId, clock_gettime};

pub(crate) const LEFT: u8 = 0;
pub(crate) const RIGHT: u8 = 1;

/// Loopback, as an interface that takes packets. Its address matters where packets leave by the kernel's tables.
pub(crate) const DEVICE: PortDevice = PortDevice {
    ifindex: 1,
    mtu: 1500,
    mac: [2, 0, 0, 0, 0, 9],
    takes_redirects: true,
    source_check: SourceCheck::Off,
};

/// `Destination` in `middlenet-plan`.
pub(crate) fn hop_tag(hop: u16) -> u16 {
    1 << 14 | hop
}

pub(crate) fn port_tag(port: u8) -> u16 {
    1 << 15 | u16::from(port)
}

/// The maps of a hop.
#[derive(Debug)]
pub(crate) struct Maps(pub(crate) HopMaps);

impl Maps {
    fn descriptor(&self, kind: MapKind) -> i32 {
        let (_, map) = self.0.iter().find(|(of, _)| *of == kind).unwrap_or_else(|| panic!("no {kind:?}"));
        map.as_raw_fd()
    }

    fn put(&self, kind: MapKind, key: &[u8], value: &[u8]) {
        // SAFETY: both are as long as the map wants them, by their types.
        let result = unsafe {
            libbpf_sys::bpf_map_update_elem(
                self.descriptor(kind),
                key.as_ptr().cast(),
                value.as_ptr().cast(),
                libbpf_sys::BPF_ANY.into(),
            )
        };
        assert_eq!(result, 0, "{kind:?} takes an element");
    }

    fn get<const N: usize>(&self, kind: MapKind, key: &[u8]) -> Option<[u8; N]> {
        let mut value = [0; N];
        // SAFETY: both are as long as the map wants them, by their types.
        let result = unsafe {
            libbpf_sys::bpf_map_lookup_elem(self.descriptor(kind), key.as_ptr().cast(), value.as_mut_ptr().cast())
        };
        (result == 0).then_some(value)
    }

    pub(crate) fn set_flow(&self, flow: &Flow, rule: &FlowRule) {
        let key = flow_key(flow).expect("of one version");
        self.put(MapKind::Flows, &key, &rule.encode(now_ns(), self.generation()));
    }

    /// A flow that lives long.
    pub(crate) fn set_action(&self, flow: &Flow, action: Action) {
        let rule = FlowRule { action, lifetime: Duration::from_secs(1000), idle: None, ends: Ends::Ignored };
        self.set_flow(flow, &rule);
    }

    pub(crate) fn flow(&self, flow: &Flow) -> Option<(Action, FlowState)> {
        let value: [u8; FLOW_BYTES] = self.get(MapKind::Flows, &flow_key(flow).expect("of one version"))?;
        Some((FlowState::action(&value).expect("an action"), FlowState::decode(&value)))
    }

    /// How many flows there are.
    pub(crate) fn flow_count(&self) -> usize {
        let (mut key, mut count) = ([0_u8; KEY_BYTES], 0);
        let descriptor = self.descriptor(MapKind::Flows);
        let mut before: *const u8 = std::ptr::null();
        loop {
            // SAFETY: both keys are as long as the map's, or the first is null.
            let result =
                unsafe { libbpf_sys::bpf_map_get_next_key(descriptor, before.cast(), key.as_mut_ptr().cast()) };
            if result != 0 {
                return count;
            }
            before = key.as_ptr();
            count += 1;
        }
    }

    pub(crate) fn generation(&self) -> u32 {
        let bytes = self.get(MapKind::Settings, &SettingsOf::Flows.key()).expect("settings");
        Settings::decode(&bytes).generation
    }

    pub(crate) fn set_generation(&self, generation: u32) {
        let settings = Settings { generation, ..Settings::default() };
        self.put(MapKind::Settings, &SettingsOf::Flows.key(), &settings.encode());
    }

    /// The lowest number of a rule that a port names, if one does, and whether the function has written what it has.
    pub(crate) fn set_ready(&self, first_port_rule: Option<u32>, ready: bool) {
        let first_port_rule = first_port_rule.map_or(0, |rule| rule + 1);
        let settings = Settings { first_port_rule, ready: ready.into(), ..Settings::default() };
        self.put(MapKind::Settings, &SettingsOf::Rules.key(), &settings.encode());
    }

    pub(crate) fn set_rule(&self, rule: u32, action: &Action) {
        self.put(MapKind::Rules, &rule.to_ne_bytes(), &action.encode());
    }

    /// Whatever bytes.
    pub(crate) fn set_raw_rule(&self, rule: u32, bytes: &[u8; Action::BYTES]) {
        self.put(MapKind::Rules, &rule.to_ne_bytes(), bytes);
    }

    pub(crate) fn set_src(&self, prefix: &Prefix, rule: u32) {
        self.put(MapKind::SrcPrefixes, &prefix_key(prefix), &rule.to_ne_bytes());
    }

    pub(crate) fn set_dst(&self, prefix: &Prefix, rule: u32) {
        self.put(MapKind::DstPrefixes, &prefix_key(prefix), &rule.to_ne_bytes());
    }

    pub(crate) fn set_src_port(&self, protocol: u8, port: u16, rule: u32) {
        let slot = port_slot(protocol, port).expect("with ports").to_ne_bytes();
        self.put(MapKind::SrcPorts, &slot, &(rule + 1).to_ne_bytes());
    }

    pub(crate) fn set_dst_port(&self, protocol: u8, port: u16, rule: u32) {
        let slot = port_slot(protocol, port).expect("with ports").to_ne_bytes();
        self.put(MapKind::DstPorts, &slot, &(rule + 1).to_ne_bytes());
    }

    pub(crate) fn set_service(&self, service: &Service, rule: &ServiceRule) {
        self.put(MapKind::Services, &service.encode(), &rule.encode());
    }

    pub(crate) fn set_slot(&self, slot: u32, rule: u32) {
        self.put(MapKind::Slots, &slot.to_ne_bytes(), &rule.to_ne_bytes());
    }

    pub(crate) fn rule_counts(&self, rule: u32) -> Counted {
        self.counted(MapKind::RuleCounts, rule)
    }

    pub(crate) fn class_counts(&self, class: u16) -> Counted {
        self.counted(MapKind::Classes, class.into())
    }

    /// Room for 64 processors.
    fn counted(&self, kind: MapKind, slot: u32) -> Counted {
        Counted::sum(&self.get::<1024>(kind, &slot.to_ne_bytes()).expect("a count"))
    }
}

/// CLOCK_MONOTONIC.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}

/// The flow of a packet as functions know it.
pub(crate) fn flow(packet: &[u8]) -> Flow {
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

pub(crate) fn reversed(flow: &Flow) -> Flow {
    Flow { src: flow.dst, dst: flow.src, src_port: flow.dst_port, dst_port: flow.src_port, ..*flow }
}

/// Goes on, written into.
pub(crate) fn writes(rewrite: Rewrite) -> Action {
    Action { rewrite, ..Action::default() }
}

pub(crate) fn then(then: Then) -> Action {
    Action { then, ..Action::default() }
}

/// A chain between two ports.
#[derive(Debug)]
pub(crate) struct Chain {
    pub(crate) paths: FastPaths,
    pub(crate) maps: Vec<Maps>,
    /// Packets that come by the left port, and by the right one.
    pub(crate) left: Trial,
    pub(crate) right: Trial,
}

/// A shape with everything.
pub(crate) fn full_shape() -> Shape {
    Shape::of(&[Mode::Proactive, Mode::Reactive, Mode::Offloading])
        .flows(4096)
        .prefixes(1000, 1000)
        .ports(true, true)
        .rules(256)
        .services(16, 256)
        .classes(16)
}

impl Chain {
    /// So many hops, each of which goes on to the next; `change` has the last word.
    pub(crate) fn new(hops: u16, shape: Shape, change: impl Fn(u16, &mut StagePlan)) -> Self {
        let paths = FastPaths::new(hops, 2).expect("maps");
        let maps = (0..hops).map(|hop| {
            let mut plan = StagePlan {
                shape,
                misses_to_kernel: false,
                ends_by_kernel: false,
                next_forward: if hop + 1 < hops { Target::Hop(hop + 1) } else { Target::Egress },
                next_reverse: hop.checked_sub(1).map_or(Target::Egress, Target::Hop),
                outputs: Vec::new(),
                left: LEFT,
                right: vec![RIGHT],
            };
            change(hop, &mut plan);
            let maps = Maps(paths.load_stage(hop, &plan).unwrap_or_else(|error| panic!("{error}")));
            maps.set_ready(None, true);
            maps
        });
        let maps = maps.collect();
        let tables = Tables::compile(&[], middlenet_steer::Action::Tag(0)).expect("no rule");
        let entry = |hop, reverse| [Entry { chain: 0, hop, reverse }];
        let left = Trial::fast(&tables, paths.port(LEFT, &entry(0, false)).expect("a map")).expect("rules");
        let right = Trial::fast(&tables, paths.port(RIGHT, &entry(hops - 1, true)).expect("a map")).expect("rules");
        Self { paths, maps, left, right }
    }

    /// A packet from the left.
    pub(crate) fn forward(&self, packet: &[u8]) -> Outcome {
        self.left.pass(packet, 0).expect("it runs")
    }

    /// A packet from the right.
    pub(crate) fn reverse(&self, packet: &[u8]) -> Outcome {
        self.right.pass(packet, 0).expect("it runs")
    }

    pub(crate) fn counters(&self, hop: u16) -> StageCounters {
        self.paths.counters(hop).expect("counters")
    }

    /// Every packet that entered has gone somewhere, once.
    pub(crate) fn assert_conserved(&self) {
        let all: Vec<StageCounters> = (0..self.maps.len()).map(|hop| self.counters(hop as u16)).collect();
        let entered: u64 = all.iter().map(|c| c.entered_pkts).sum();
        let left: u64 = all.iter().map(gone).sum();
        assert_eq!(entered, left, "{all:#?}");
    }
}

fn gone(counters: &StageCounters) -> u64 {
    let c = counters;
    c.sent_pkts
        + c.discarded_pkts
        + c.no_socket_pkts
        + c.untagged_pkts
        + c.slow_pkts.iter().sum::<u64>()
        + c.kernel_pkts.iter().sum::<u64>()
        + c.dropped_pkts.iter().sum::<u64>()
}
