//! A function that marks packets, each with one of two marks: its own, or that of its fast path. So a test sees who dealt with a packet,
//! and how often.

#![forbid(unsafe_code)]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use middlenet_sdk::fast_path::{
    Action, Ends, FastPath, Flow, FlowRule, Mode, Rewrite, RuleTable, Service, ServiceRule, Shape, Then, flow_of,
};
use middlenet_sdk::prelude::*;
use middlenet_sdk::wire::FlowKey;
use middlenet_sdk::wire::protocol::{TCP, UDP};
use middlenet_sdk::wire::rewrite::{Side, endpoint, port};

/// The mark of the function's own code, and that of its fast path.
const OWN: u8 = 0x50;
const FAST: u8 = 0xfa;
/// What its fast path knows packets by, where that is not their flow.
const SRC: &str = "10.66.0.0/16";
const DST: &str = "10.77.0.0/16";
const SRC_PORT: u16 = 6666;
const DST_PORT: u16 = 7777;
const SERVICE: Service = Service { address: IpAddr::V4(Ipv4Addr::new(10, 88, 0, 1)), port: 80, protocol: UDP };

/// Configuration.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The field that it marks.
    field: Field,
    /// What its fast path knows packets by.
    #[serde(default)]
    by: By,
    /// Its fast path gets the flows to destination ports that have this bit; default: all.
    bit: Option<u8>,
    /// How long a flow stays.
    #[serde(default = "minute")]
    lifetime_ms: u64,
    /// What becomes of packets.
    #[serde(default)]
    then: What,
    /// Flows that are there from the start, from UDP port 10000 on.
    #[serde(default)]
    from_the_start: u16,
}

fn minute() -> u64 {
    60_000
}

/// A field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Field {
    /// Both addresses of the Ethernet header.
    Ethernet,
    /// The source address.
    Src,
    /// The destination address.
    Dst,
    /// The source port.
    SrcPort,
    /// None: packets stay as they are, but for their TTL.
    Nothing,
}

/// A matcher.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum By {
    /// Flows, as they come.
    #[default]
    Flow,
    /// Prefixes of source addresses.
    Src,
    /// Prefixes of destination addresses.
    Dst,
    /// Source ports.
    SrcPort,
    /// Destination ports.
    DstPort,
    /// A service.
    Service,
}

/// A verdict.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum What {
    /// On.
    #[default]
    Next,
    /// Nowhere.
    Drop,
    /// Back.
    Reply,
    /// To the output `out`.
    Output,
    /// To the port `lan`.
    Lan,
    /// To the kernel.
    Kernel,
    /// To the function, also where its fast path knows them, and on from there.
    SlowPath,
}

struct Marker {
    config: Config,
    fast_path: FastPath,
    verdict: Verdict,
    rule: FlowRule,
    seen: Counter,
}

impl NetworkFunction for Marker {
    type Config = Config;
    const FAST_PATH: Shape = Shape::of(&[Mode::Proactive, Mode::Reactive, Mode::Offloading])
        .flows(2048)
        .prefixes(16, 16)
        .ports(true, true)
        .rules(16)
        .services(4, 16)
        .classes(4);

    fn new(config: Config, init: &mut Init) -> Result<Self, ConfigError> {
        let unwanted = init.drop_reason("unwanted", "packets that the configuration drops");
        let (verdict, then) = match config.then {
            What::Next => (Verdict::Next, Then::Next),
            What::Drop => (Verdict::Drop(unwanted), Then::Drop(unwanted.0)),
            What::Reply => (Verdict::Reply, Then::Reply),
            What::Output => {
                let output = init.output("out").ok_or("the manifest has no output `out`")?;
                (Verdict::Output(output), Then::Output(output.0))
            }
            What::Lan => {
                let lan = init.port("lan")?;
                (Verdict::Port(lan), Then::Port(lan.0))
            }
            What::Kernel => (Verdict::Next, Then::Kernel),
            What::SlowPath => (Verdict::Next, Then::SlowPath),
        };
        let rewrite = match config.then {
            What::SlowPath => Rewrite::default(),
            _ => Rewrite { lower_ttl: true, ..mark(config.field, FAST) },
        };
        let action = Action { then, rewrite, class: Some(1), mtu: None };
        let lifetime = Duration::from_millis(config.lifetime_ms);
        let rule = FlowRule { action, lifetime, idle: None, ends: Ends::Ignored };
        let seen = init.counter("seen", "packets that came to the function itself");
        let marker = Self { fast_path: init.fast_path(), config, verdict, rule, seen };
        marker.set_up()?;
        Ok(marker)
    }

    fn process(&mut self, burst: &mut Burst<'_>) {
        for mut packet in burst.iter_mut() {
            let Some(key) = packet.flow_key().filter(|key| matches!(key.protocol, TCP | UDP)) else { continue };
            self.seen.inc();
            if self.config.by == By::Flow && self.config.bit.is_none_or(|bit| key.dst_port >> bit & 1 == 1) {
                self.fast_path.install(&flow_of(&key), &self.rule_of(&key));
            }
            if self.set_mark(packet.data_mut()).is_some() {
                packet.set_verdict(self.verdict);
            }
        }
    }
}

impl Marker {
    /// Rules and flows that are there from the start.
    fn set_up(&self) -> Result<(), ConfigError> {
        let prefix = |text: &str| text.parse().ok().map(|prefix| (prefix, 0));
        let mut table = RuleTable { rules: vec![self.rule.action], ..RuleTable::default() };
        match self.config.by {
            By::Flow => {}
            By::Src => table.src.extend(prefix(SRC)),
            By::Dst => table.dst.extend(prefix(DST)),
            By::SrcPort => table.src_ports.push((UDP, SRC_PORT, 0)),
            By::DstPort => table.dst_ports.push((UDP, DST_PORT, 0)),
            By::Service => {}
        }
        let refuse = |error: &dyn std::fmt::Display| ConfigError::new(error.to_string());
        self.fast_path.set_rules(&table).map_err(|e| refuse(&e))?;
        if self.config.by == By::Service {
            let rule = ServiceRule { first: 0, count: 2, idle: self.rule.lifetime, closing: self.rule.lifetime };
            self.fast_path.set_slots(0, &[0, 0]).map_err(|e| refuse(&e))?;
            self.fast_path.set_service(&SERVICE, &rule).map_err(|e| refuse(&e))?;
        }
        let flow = |src_port| Flow {
            vlan: 0,
            src: Ipv4Addr::new(10, 1, 0, 2).into(),
            dst: Ipv4Addr::new(10, 2, 0, 2).into(),
            protocol: UDP,
            src_port,
            dst_port: DST_PORT,
        };
        let flows: Vec<_> = (0..self.config.from_the_start).map(|n| (flow(10_000 + n), self.rule)).collect();
        self.fast_path.install_all(&flows);
        Ok(())
    }

    /// The rule for a flow: addresses of its own version.
    fn rule_of(&self, key: &FlowKey) -> FlowRule {
        let mut rule = self.rule;
        if key.is_ipv6 {
            let six = |address: Option<IpAddr>| address.map(six);
            let Rewrite { src, dst, .. } = rule.action.rewrite;
            (rule.action.rewrite.src, rule.action.rewrite.dst) = (six(src), six(dst));
        }
        rule
    }

    /// What the fast path does, done here.
    fn set_mark(&self, data: &mut [u8]) -> Option<()> {
        let layers = middlenet_sdk::wire::Layers::parse(data).ok()?;
        let mark = mark(self.config.field, OWN);
        let of_version = |address: IpAddr| if layers.is_ipv6() { six(address) } else { address };
        if let Some(src) = mark.src {
            endpoint(data, &layers, Side::Source, of_version(src), None).ok()?;
        }
        if let Some(dst) = mark.dst {
            endpoint(data, &layers, Side::Destination, of_version(dst), None).ok()?;
        }
        if let Some(src_port) = mark.src_port {
            port(data, &layers, Side::Source, src_port).ok()?;
        }
        if layers.is_ipv6() {
            let mut ip = layers.ipv6_mut(data).ok()?;
            let hops = ip.view().hop_limit();
            ip.set_hop_limit(hops.checked_sub(1)?);
        } else {
            let mut ip = layers.ipv4_mut(data).ok()?;
            let ttl = ip.ttl();
            ip.set_ttl(ttl.checked_sub(1)?);
        }
        if let Some((dst, src)) = mark.ethernet {
            data[..6].copy_from_slice(&dst);
            data[6..12].copy_from_slice(&src);
        }
        Some(())
    }
}

/// An address of IPv4, where IPv6 has it.
fn six(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, u16::from_be_bytes([v4.octets()[2], v4.octets()[3]])).into()
        }
        v6 => v6,
    }
}

/// The mark in a field.
fn mark(field: Field, mark: u8) -> Rewrite {
    let nothing = Rewrite::default();
    match field {
        Field::Ethernet => Rewrite { ethernet: Some(([2, mark, 0, 0, 0, 1], [2, mark, 0, 0, 0, 2])), ..nothing },
        Field::Src => Rewrite { src: Some(Ipv4Addr::new(10, 9, 1, mark).into()), ..nothing },
        Field::Dst => Rewrite { dst: Some(Ipv4Addr::new(10, 9, 2, mark).into()), ..nothing },
        Field::SrcPort => Rewrite { src_port: Some(40_000 + u16::from(mark)), ..nothing },
        Field::Nothing => nothing,
    }
}

middlenet_sdk::main!(Marker);
