//! Chains as lines for people.

use middlenet_plan::{BrokerPlan, HopPlan, ManagerPlan, Target};

use super::hops::port_name;
use super::{Plan, Plane};
use crate::supervisor::count;

/// More upstreams than these are counted, not named.
const UPSTREAMS_SHOWN: usize = 4;

/// A chain, drawn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawnChain {
    /// Its name.
    pub name: String,
    /// The data plane it belongs to.
    pub plane: Plane,
    /// `wan -> firewall -> lan`, one line per direction, then one per output; `10.1.0.1:80 -> proxy -> upstreams`.
    pub lines: Vec<String>,
}

impl Plan {
    /// `2 ports, 1 listener, 2 chains, 3 functions`.
    pub fn summary(&self) -> String {
        let (manager, broker) = (self.manager.as_ref(), self.broker.as_ref());
        let listeners = broker.map(|b| b.chains.iter().map(|c| c.listen.len()).sum());
        let chains = manager.map_or(0, |m| m.chains.len()) + broker.map_or(0, |b| b.chains.len());
        let parts = [
            manager.map(|m| count(m.ports.len(), "port")),
            listeners.map(|n| count(n, "listener")),
            Some(count(chains, "chain")),
            Some(count(self.hops().len(), "function")),
        ];
        parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// All chains, those of packets first.
    pub fn drawn_chains(&self) -> Vec<DrawnChain> {
        let packets = self.manager.iter().flat_map(|m| {
            m.chains.iter().enumerate().map(|(id, c)| DrawnChain {
                name: c.name.clone(),
                plane: Plane::Packets,
                lines: packet_lines(m, id),
            })
        });
        let messages = self.broker.iter().flat_map(|b| {
            b.chains.iter().enumerate().map(|(id, c)| DrawnChain {
                name: c.name.clone(),
                plane: Plane::Messages,
                lines: message_lines(b, id),
            })
        });
        packets.chain(messages).collect()
    }
}

/// `wan -> firewall -> l3-router -> lan`; the second line is the way back.
fn packet_lines(manager: &ManagerPlan, chain: usize) -> Vec<String> {
    let plan = &manager.chains[chain];
    let right = plan.right.iter().map(|&p| port_name(manager, p)).collect::<Vec<_>>().join(" | ");
    let left = port_name(manager, plan.left).to_owned();
    let right = if right.is_empty() { left.clone() } else { right };
    let mut lines = vec![line(manager, &left, plan.entry_forward, &right, |h| h.next_forward)];
    if !plan.right.is_empty() {
        lines.push(line(manager, &right, plan.entry_reverse, &left, |h| h.next_reverse));
    }
    for hop in manager.hops.iter().filter(|h| usize::from(h.chain) == chain) {
        for (name, target) in &hop.outputs {
            lines.push(format!("{}.{name} -> {}", hop.name, target_name(manager, *target, "out")));
        }
    }
    lines
}

fn line(manager: &ManagerPlan, from: &str, entry: Target, to: &str, next: impl Fn(&HopPlan) -> Target) -> String {
    let mut line = from.to_owned();
    let mut target = entry;
    // Valid plans end; the bound is for those who construct others.
    for _ in 0..=manager.hops.len() {
        line.push_str(" -> ");
        line.push_str(&target_name(manager, target, to));
        let Target::Hop(hop) = target else { break };
        match manager.hops.get(usize::from(hop)) {
            Some(hop) => target = next(hop),
            None => break,
        }
    }
    line
}

pub(super) fn target_name(manager: &ManagerPlan, target: Target, egress: &str) -> String {
    match target {
        Target::Hop(hop) => manager.hops.get(usize::from(hop)).map_or("?", |h| &h.name).to_owned(),
        Target::Port(port) => port_name(manager, port).to_owned(),
        Target::Egress => egress.to_owned(),
        Target::Drop => "drop".to_owned(),
    }
}

/// `10.1.0.1:80 -> reverse-proxy -> upstreams`; responses come back the same way.
fn message_lines(broker: &BrokerPlan, chain: usize) -> Vec<String> {
    let plan = &broker.chains[chain];
    let hops = || broker.hops.iter().filter(|h| usize::from(h.chain) == chain);
    let listen = plan.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ");
    let end = match plan.upstreams.len() {
        0 => "upstreams".to_owned(),
        1..=UPSTREAMS_SHOWN => plan.upstreams.join(" | "),
        n => format!("{n} upstreams"),
    };
    let stops = hops().map(|h| h.name.clone());
    let mut lines = vec![std::iter::once(listen).chain(stops).chain([end]).collect::<Vec<_>>().join(" -> ")];
    for hop in hops() {
        for (name, to) in &hop.outputs {
            let to = broker.hops.get(usize::from(*to)).map_or("?", |h| &h.name);
            lines.push(format!("{}.{name} -> {to}", hop.name));
        }
    }
    lines
}
