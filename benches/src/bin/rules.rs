//! A function that puts rules into its fast path in bulk and takes them out again, and reports how long that took.

#![forbid(unsafe_code)]

use middlenet_sdk::fast_path::{Action, Ends, FastPath, Flow, FlowRule, Mode, Shape};
use middlenet_sdk::prelude::*;
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

/// Flows at most.
const MAX_FLOWS: u32 = 1 << 17;

/// How much is to be done.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Rules of a turn.
    flows: u32,
    /// Turns.
    turns: usize,
}

struct MiddlenetBenchRules {
    rules: Vec<(Flow, FlowRule)>,
    turns: usize,
    fast_path: FastPath,
    /// Of the turns so far: how many rules were in place, and nanoseconds of putting them there and of taking them out.
    done: Vec<(usize, u128, u128)>,
}

impl NetworkFunction for MiddlenetBenchRules {
    type Config = Config;
    const FAST_PATH: Shape = Shape::of(&[Mode::Reactive]).flows(MAX_FLOWS);

    fn new(Config { flows, turns }: Config, init: &mut Init) -> Result<Self, ConfigError> {
        if flows > MAX_FLOWS {
            return Err(ConfigError::new(format!("`flows` of {flows} is above {MAX_FLOWS}")));
        }
        let rule = FlowRule {
            action: Action::default(),
            lifetime: Duration::from_secs(3600),
            idle: Some(Duration::from_secs(60)),
            ends: Ends::ToSlowPath,
        };
        let rules = (0..flows).map(|number| (flow(number), rule)).collect();
        Ok(Self { rules, turns, fast_path: init.fast_path(), done: Vec::new() })
    }

    fn process(&mut self, _: &mut Burst<'_>) {}

    fn tick(&mut self, _: &mut Burst<'_>) {
        if self.done.len() >= self.turns || !self.fast_path.is_active() {
            return;
        }
        let start = Instant::now();
        let installed = self.fast_path.install_all(&self.rules);
        let install_ns = start.elapsed().as_nanos();
        // The last one is asked for, so that nobody only says that it is there.
        let is_there = self.rules.last().is_none_or(|(flow, _)| self.fast_path.query(flow).is_some());
        let start = Instant::now();
        for (flow, _) in &self.rules {
            self.fast_path.remove(flow);
        }
        self.done.push((if is_there { installed } else { 0 }, install_ns, start.elapsed().as_nanos()));
    }

    fn report(&self) -> Value {
        let turn = |&(installed, install_ns, remove_ns): &(usize, u128, u128)| {
            let ns = |ns: u128| u64::try_from(ns).unwrap_or(u64::MAX);
            json!({ "installed": installed, "install_ns": ns(install_ns), "remove_ns": ns(remove_ns) })
        };
        json!({ "turns": self.done.iter().map(turn).collect::<Vec<_>>() })
    }
}

/// Clients of one server: addresses and ports that differ, as they would.
fn flow(number: u32) -> Flow {
    Flow {
        vlan: 0,
        src: IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number / 16)),
        dst: IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        protocol: 6,
        src_port: u16::try_from(40_000 + number % 16).unwrap_or(u16::MAX),
        dst_port: 443,
    }
}

middlenet_sdk::main!(MiddlenetBenchRules);
