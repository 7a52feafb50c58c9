//! What a new manifest would change in a running plan.

use middlenet_plan::{BrokerPlan, ManagerPlan, MessageHopPlan, SteeringPlan, Target};
use middlenet_sdk::peer::PeerAddress;
use serde::Serialize;
use serde_json::Value;

use super::hops::port_name;
use super::lines::target_name;
use super::{HopId, Plan, Plane};

/// What `apply` may change in a running plan.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Change {
    /// `chain/function`, or `steering of PORT`.
    pub label: String,
    /// What is new.
    pub piece: Piece,
}

/// A piece of a plan that can be replaced while it runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// A function's configuration.
    Config {
        /// The hop.
        hop: HopId,
        /// Its part of the manifest.
        config: Value,
        /// Hosts that it may dial.
        peers: Vec<PeerAddress>,
    },
    /// A port's steering rules.
    Steering {
        /// Port id.
        port: u8,
        /// The rules.
        steering: SteeringPlan,
    },
}

/// The difference between what runs and what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Difference {
    /// Configurations and rules that change, to be applied live.
    pub changes: Vec<Change>,
    /// What only a restart can change, a line each.
    pub structural: Vec<String>,
}

impl Difference {
    /// Compares two plans.
    pub fn between(old: &Plan, new: &Plan) -> Self {
        let mut difference = Self::default();
        difference.compare_settings(old, new);
        match (&old.manager, &new.manager) {
            (Some(a), Some(b)) => {
                difference.compare_managers(a, b);
                difference.compare_ports(old, a, new, b);
                difference.compare_hops((old, a), (new, b));
            }
            (None, None) => {}
            (a, _) => difference.structural.push(come_or_go("chains of layer l2l3", a.is_none())),
        }
        match (&old.broker, &new.broker) {
            (Some(a), Some(b)) => {
                difference.compare_brokers(a, b);
                difference.compare_message_hops((old, a), (new, b));
            }
            (None, None) => {}
            (a, _) => difference.structural.push(come_or_go("chains of layer l4l7", a.is_none())),
        }
        difference
    }

    fn note(&mut self, what: &str, a: impl ToString, b: impl ToString) {
        let (a, b) = (a.to_string().to_lowercase(), b.to_string().to_lowercase());
        if a != b {
            self.structural.push(format!("{what}: {a} would become {b}"));
        }
    }

    fn compare_settings(&mut self, old: &Plan, new: &Plan) {
        self.note("name", &old.name, &new.name);
        let (a, b) = (&old.runtime, &new.runtime);
        self.note("memory.hugepages", format!("{:?}", a.hugepages), format!("{:?}", b.hugepages));
        self.note("user", format!("{:?}", a.user), format!("{:?}", b.user));
        if a.vfs != b.vfs {
            self.structural.push("the virtual functions under `sriov` would be others".into());
        }
        self.note("heartbeat_ms", a.heartbeat.as_millis(), b.heartbeat.as_millis());
        self.note("drain_ms", a.drain.as_millis(), b.drain.as_millis());
    }

    fn compare_managers(&mut self, a: &ManagerPlan, b: &ManagerPlan) {
        self.note("cores.manager", format!("{:?}", a.workers), format!("{:?}", b.workers));
        self.note("memory.buffers", a.buffers, b.buffers);
        self.note("memory.buffer_bytes", a.buffer_bytes, b.buffer_bytes);
        self.note("ring_slots", a.ring_slots, b.ring_slots);
        self.note("wait", format!("{:?}", a.wait), format!("{:?}", b.wait));
    }

    fn compare_brokers(&mut self, a: &BrokerPlan, b: &BrokerPlan) {
        self.note("cores.broker", format!("{:?}", a.workers), format!("{:?}", b.workers));
        self.note("memory.messages", a.buffers, b.buffers);
        if a.ring_slots != b.ring_slots && !self.structural.iter().any(|l| l.starts_with("ring_slots")) {
            self.note("ring_slots", a.ring_slots, b.ring_slots);
        }
        let names = |plan: &BrokerPlan| plan.chains.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        compare_lists("chain", &names(a), &names(b), &mut self.structural, |o, n| a.chains[o] == b.chains[n]);
    }

    fn compare_ports(&mut self, old: &Plan, a: &ManagerPlan, new: &Plan, b: &ManagerPlan) {
        let form = |plan: &Plan, manager: &ManagerPlan, id: usize| {
            let host = plan.runtime.kernel_ports.iter().find(|k| usize::from(k.port) == id);
            // Rules can change, but not come or go.
            let mut port = manager.ports[id].clone();
            let is_steered = port.steering.take().is_some();
            (serde_json::to_value(&port).ok(), is_steered, host.cloned())
        };
        let names = |plan: &ManagerPlan| plan.ports.iter().map(|p| p.name.clone()).collect::<Vec<_>>();
        let mut changes = Vec::new();
        compare_lists("port", &names(a), &names(b), &mut self.structural, |o, n| {
            if let (Some(before), Some(after)) = (&a.ports[o].steering, &b.ports[n].steering)
                && before != after
            {
                let port = u8::try_from(o).unwrap_or(u8::MAX);
                let piece = Piece::Steering { port, steering: after.clone() };
                changes.push(Change { label: format!("steering of {}", a.ports[o].name), piece });
            }
            form(old, a, o) == form(new, b, n)
        });
        self.changes.append(&mut changes);
        let chains = |plan: &ManagerPlan| plan.chains.iter().map(|c| c.name.clone()).collect::<Vec<_>>();
        let ends = |plan: &ManagerPlan, id: usize| {
            let chain = &plan.chains[id];
            let right: Vec<_> = chain.right.iter().map(|&p| port_name(plan, p).to_owned()).collect();
            (port_name(plan, chain.left).to_owned(), right)
        };
        compare_lists("chain", &chains(a), &chains(b), &mut self.structural, |o, n| ends(a, o) == ends(b, n));
    }

    fn compare_hops(&mut self, (old, a): (&Plan, &ManagerPlan), (new, b): (&Plan, &ManagerPlan)) {
        self.compare_functions(Plane::Packets, old, new, |o, n| {
            let (x, y) = (&a.hops[o], &b.hops[n]);
            // Neighbours that come, go or move are told of by themselves.
            let outputs = |manager: &ManagerPlan, hop: &middlenet_plan::HopPlan| {
                let name = |t: &Target| target_name(manager, *t, "egress");
                hop.outputs.iter().map(|(output, t)| (output.clone(), name(t))).collect::<Vec<_>>()
            };
            (&x.function, x.placement, x.replicas, x.on_failure) == (&y.function, y.placement, y.replicas, y.on_failure)
                && outputs(a, x) == outputs(b, y)
                && x.steering == y.steering
                && x.fast_path == y.fast_path
        });
    }

    fn compare_message_hops(&mut self, (old, a): (&Plan, &BrokerPlan), (new, b): (&Plan, &BrokerPlan)) {
        self.compare_functions(Plane::Messages, old, new, |o, n| {
            let (x, y) = (&a.hops[o], &b.hops[n]);
            let outputs = |broker: &BrokerPlan, hop: &MessageHopPlan| {
                let name = |to: &u16| broker.hops[usize::from(*to)].name.clone();
                hop.outputs.iter().map(|(output, to)| (output.clone(), name(to))).collect::<Vec<_>>()
            };
            (&x.function, x.transport, x.replicas, x.on_failure) == (&y.function, y.transport, y.replicas, y.on_failure)
                && outputs(a, x) == outputs(b, y)
        });
    }

    /// Compares the functions of a data plane; `same` leaves configurations and processes out.
    fn compare_functions(&mut self, plane: Plane, old: &Plan, new: &Plan, same: impl Fn(usize, usize) -> bool) {
        let labels = |plan: &Plan| {
            let hops = plan.hops().into_iter().filter(|id| id.plane == plane);
            hops.filter_map(|id| plan.hop(id).map(|h| h.label())).collect::<Vec<_>>()
        };
        let (before, after) = (labels(old), labels(new));
        let (mut changes, mut other_files) = (Vec::new(), Vec::new());
        compare_lists("function", &before, &after, &mut self.structural, |o, n| {
            let processes = |plan: &Plan, id: usize| {
                let of_hop = plan.runtime.processes.iter().filter(|p| p.hop == HopId::new(plane, id));
                of_hop.map(|p| (p.program.clone(), p.cores.clone(), p.wait)).collect::<Vec<_>>()
            };
            let files = |plan: &Plan, id: usize| {
                let of_hop = plan.runtime.processes.iter().filter(|p| p.hop == HopId::new(plane, id));
                of_hop.map(|p| p.files.clone()).collect::<Vec<_>>()
            };
            let same = same(o, n) && processes(old, o) == processes(new, n);
            if same && files(old, o) != files(new, n) {
                other_files.push(format!("function `{}` would open other files", after[n]));
                return true;
            }
            let hop = HopId::new(plane, o);
            if let (Some(a), Some(b)) = (old.hop(hop), new.hop(HopId::new(plane, n)))
                && same
                && a.config != b.config
            {
                let piece = Piece::Config { hop, config: b.config.clone(), peers: b.peers.to_vec() };
                changes.push(Change { label: after[n].clone(), piece });
            }
            same
        });
        self.changes.append(&mut changes);
        self.structural.append(&mut other_files);
    }
}

fn come_or_go(what: &str, come: bool) -> String {
    format!("{what} would {}", if come { "be new" } else { "go" })
}

/// Lines for what was added, removed, moved, or is not the same.
fn compare_lists(
    what: &str,
    old: &[String],
    new: &[String],
    lines: &mut Vec<String>,
    mut same: impl FnMut(usize, usize) -> bool,
) {
    for (o, name) in old.iter().enumerate() {
        match new.iter().position(|n| n == name) {
            None => lines.push(format!("{what} `{name}` would go")),
            Some(n) if !same(o, n) => lines.push(format!("{what} `{name}` would be made differently")),
            Some(_) => {}
        }
    }
    for name in new.iter().filter(|n| !old.contains(n)) {
        lines.push(format!("{what} `{name}` would be new"));
    }
    let common = |a: &[String], b: &[String]| a.iter().filter(|n| b.contains(n)).cloned().collect::<Vec<_>>();
    if common(old, new) != common(new, old) {
        lines.push(format!("the order of {what}s would change"));
    }
}
