//! A plan, before it is run.

use middlenet_plan::{PortKind, PortPlan, Transport};
use middlenet_sdk::peer::PeerKind;
use serde_json::{Value, json};
use std::fmt::Write;

use super::Table;
use crate::check::ranges;
use crate::machine::Machine;
use crate::manifest::Hugepages;
use crate::plan::{DomainUser, Plan, Plane, Program};

fn device(plan: &Plan, id: usize, port: &PortPlan) -> (&'static str, String) {
    if let Some(kernel) = plan.runtime.kernel_ports.iter().find(|k| usize::from(k.port) == id) {
        let addresses = kernel.addresses.iter().map(|a| format!(" {a}")).collect::<String>();
        return ("kernel", format!("{}{addresses}", kernel.interface));
    }
    if let Some(device) = super::sriov::device(plan, id) {
        return ("vf", device);
    }
    match &port.kind {
        PortKind::Dpdk { device } => ("dpdk", device.clone()),
        PortKind::Xdp { interface, mode } => ("xdp", format!("{interface} ({mode:?})").to_lowercase()),
        PortKind::Pcap { read, write } => {
            let part = |word: &str, path: &Option<String>| path.as_ref().map(|p| format!("{word} {p}"));
            let parts: Vec<String> = part("read", read).into_iter().chain(part("write", write)).collect();
            ("pcap", parts.join(", "))
        }
    }
}

fn pages(plan: &Plan, plane: Plane, machine: &Machine) -> (u64, &'static str) {
    let bytes = plan.region_bytes(plane);
    let huge = bytes.div_ceil(2 << 20);
    match plan.runtime.hugepages {
        Hugepages::Never => (bytes.div_ceil(4096), "4 KiB"),
        Hugepages::Auto if huge > machine.huge_pages => (bytes.div_ceil(4096), "4 KiB"),
        _ => (huge, "2 MiB"),
    }
}

/// The plan for people.
pub fn plan_text(plan: &Plan, machine: &Machine) -> String {
    let processes = match plan.runtime.processes.len() + plan.planes().count() {
        1 => "1 process besides this one".to_owned(),
        n => format!("{n} processes besides this one"),
    };
    let mut out = format!("{}: {}, {processes}\n", plan.name, plan.summary());
    for chain in plan.drawn_chains() {
        let _ = writeln!(out, "\nchain {}", chain.name);
        for line in chain.lines {
            let _ = writeln!(out, "  {line}");
        }
    }
    let of_ports = [super::sriov::of_plan(plan), ports(plan), super::steering::of_plan(plan)];
    let rest = [listeners(plan), functions(plan), peers(plan), super::fast_path::of_plan(plan), processes_table(plan)];
    for table in of_ports.iter().chain(&rest).filter(|t| !t.is_empty()) {
        let _ = write!(out, "\n{}", table.render());
    }
    out.push('\n');
    if !plan.runtime.processes.is_empty() {
        let user = match plan.runtime.user {
            DomainUser::Own => "a user of the run's own".to_owned(),
            DomainUser::Given(ids) => format!("the user {}", ids.uid),
        };
        let _ = writeln!(out, "functions: under {user}, if root starts the run");
    }
    for plane in plan.planes() {
        let (pages, size) = pages(plan, plane, machine);
        let what = match plane {
            Plane::Packets => "memory",
            Plane::Messages => "messages",
        };
        let _ = writeln!(
            out,
            "{what}: {} buffers of {} bytes, {} MiB in {pages} pages of {size}; rings of {} slots",
            plan.buffers(plane),
            plan.buffer_bytes(plane),
            plan.region_bytes(plane) >> 20,
            plan.ring_slots(plane)
        );
    }
    for note in &plan.runtime.notes {
        let _ = writeln!(out, "note: {note}");
    }
    for obstacle in &plan.runtime.obstacles {
        let _ = writeln!(out, "as this host is now, the run would not start: {obstacle}");
    }
    out
}

fn ports(plan: &Plan) -> Table {
    let mut table = Table::new(["PORT", "KIND", "DEVICE", ">QUEUES"]);
    for (id, port) in plan.manager.iter().flat_map(|m| m.ports.iter().enumerate()) {
        let (kind, device) = device(plan, id, port);
        let queues = if port.queues == 0 { "auto".into() } else { port.queues.to_string() };
        table.row([port.name.clone(), kind.into(), device, queues]);
    }
    table
}

fn listeners(plan: &Plan) -> Table {
    let mut table = Table::new(["LISTENER", "CHAIN", "SPEAKS", "UPSTREAMS"]);
    for chain in plan.broker.iter().flat_map(|b| &b.chains) {
        let upstreams = match chain.upstreams.as_slice() {
            [] => "as functions route".to_owned(),
            some if some.len() <= 4 => some.join(", "),
            many => format!("{} and {} more", many[..3].join(", "), many.len() - 3),
        };
        for address in &chain.listen {
            let speaks = format!("{:?}", chain.protocol).to_lowercase();
            table.row([address.to_string(), chain.name.clone(), speaks, upstreams.clone()]);
        }
    }
    table
}

fn functions(plan: &Plan) -> Table {
    let mut table = Table::new(["FUNCTION", "WHAT", "PLACEMENT", ">REPLICAS", "WHEN DOWN"]);
    let lower = |text: String| text.to_lowercase();
    for (id, hop) in plan.hops().into_iter().filter_map(|id| Some((id, plan.hop(id)?))) {
        let at = usize::from(id.hop);
        let (placement, replicas, down) = match (id.plane, &plan.manager, &plan.broker) {
            (Plane::Packets, Some(manager), _) => {
                let hop = &manager.hops[at];
                (lower(format!("{:?}", hop.placement)), hop.replicas, lower(format!("{:?}", hop.on_failure)))
            }
            (Plane::Messages, _, Some(broker)) => {
                let hop = &broker.hops[at];
                let placement = match hop.transport {
                    Transport::Inline => "inline".to_owned(),
                    other => format!("process ({})", lower(format!("{other:?}"))),
                };
                (placement, hop.replicas, lower(format!("{:?}", hop.on_failure)))
            }
            _ => continue,
        };
        let down = if hop.inline { "-".to_owned() } else { down };
        table.row([hop.label(), hop.function.to_owned(), placement, replicas.to_string(), down]);
    }
    table
}

/// Hosts that functions ask for something by themselves, past all ports.
fn peers(plan: &Plan) -> Table {
    let mut table = Table::new(["PEERS OF", "BY", ">HOSTS", "WHICH"]);
    for hop in plan.hops().into_iter().filter_map(|id| plan.hop(id)) {
        for (kind, by) in [(PeerKind::Udp, "udp"), (PeerKind::Tcp, "tcp")] {
            let of_kind = hop.peers.iter().filter(|peer| peer.kind == kind);
            let addresses: Vec<String> = of_kind.map(|peer| peer.address.to_string()).collect();
            let which = match addresses.as_slice() {
                [] => continue,
                some if some.len() <= 4 => some.join(", "),
                many => format!("{} and {} more", many[..3].join(", "), many.len() - 3),
            };
            table.row([hop.label(), by.into(), addresses.len().to_string(), which]);
        }
    }
    table
}

fn processes_table(plan: &Plan) -> Table {
    let mut table = Table::new(["PROCESS", "PROGRAM", "CORES", "WAITS"]);
    let waits = |wait: middlenet_sdk::protocol::Wait| format!("{wait:?}").to_lowercase();
    if let Some(manager) = &plan.manager {
        table.row(["nf-manager".into(), "middlenet-nf-manager".into(), ranges(&manager.workers), waits(manager.wait)]);
    }
    if let Some(broker) = &plan.broker {
        table.row([
            "message-broker".into(),
            "middlenet-message-broker".into(),
            ranges(&broker.workers),
            "event".into(),
        ]);
    }
    for process in &plan.runtime.processes {
        let program = match &process.program {
            Program::BuiltIn(name) => format!("middlenet fn {name}"),
            Program::External(path) => path.display().to_string(),
        };
        // Over a socket it sleeps in the kernel, whatever rings are asked to do.
        let wait = match plan.hop(process.hop).is_some_and(|h| h.skmsg) {
            true => "event".to_owned(),
            false => waits(process.wait),
        };
        table.row([process.label.clone(), program, ranges(&process.cores), wait]);
    }
    table
}

/// The plan for programs.
pub fn plan_json(plan: &Plan, machine: &Machine) -> Value {
    let processes = plan.runtime.processes.iter().map(|p| {
        json!({
            "layer": p.hop.plane.layer().name(), "hop": p.hop.hop, "replica": p.replica, "label": p.label,
            "program": p.program, "cores": p.cores, "wait": p.wait, "shares_core": p.shares_core, "files": p.files,
        })
    });
    let memory = |plane| {
        let (pages, size) = pages(plan, plane, machine);
        json!({ "bytes": plan.region_bytes(plane), "pages": pages, "page_size": size })
    };
    let chains = plan.drawn_chains().into_iter();
    let chains = chains.map(|c| json!({ "name": c.name, "layer": c.plane.layer().name(), "lines": c.lines }));
    json!({
        "ok": true,
        "name": plan.name,
        "user": plan.runtime.user,
        "chains": chains.collect::<Vec<_>>(),
        "processes": processes.collect::<Vec<_>>(),
        "kernel_ports": plan.runtime.kernel_ports,
        "sriov": plan.runtime.vfs,
        "vf_ports": plan.runtime.vf_ports,
        "memory": plan.manager.as_ref().map(|_| memory(Plane::Packets)),
        "message_memory": plan.broker.as_ref().map(|_| memory(Plane::Messages)),
        "heartbeat_ms": plan.runtime.heartbeat.as_millis(),
        "drain_ms": plan.runtime.drain.as_millis(),
        "notes": plan.runtime.notes,
        "obstacles": plan.runtime.obstacles,
        "manager": plan.manager,
        "broker": plan.broker,
    })
}
