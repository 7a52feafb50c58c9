//! A plan, before it is run.

use middlenet_plan::{OnFailure, PortKind, PortPlan};
use serde_json::{Value, json};
use std::fmt::Write;

use super::Table;
use crate::check::ranges;
use crate::machine::Machine;
use crate::manifest::Hugepages;
use crate::plan::{Plan, Program, is_process};
use crate::supervisor::count;

fn device(plan: &Plan, id: usize, port: &PortPlan) -> (&'static str, String) {
    if let Some(kernel) = plan.runtime.kernel_ports.iter().find(|k| usize::from(k.port) == id) {
        let addresses = kernel.addresses.iter().map(|a| format!(" {a}")).collect::<String>();
        return ("kernel", format!("{}{addresses}", kernel.interface));
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

fn pages(plan: &Plan, machine: &Machine) -> (u64, &'static str) {
    let bytes = plan.packet_bytes();
    let huge = bytes.div_ceil(2 << 20);
    match plan.runtime.hugepages {
        Hugepages::Never => (bytes.div_ceil(4096), "4 KiB"),
        Hugepages::Auto if huge > machine.huge_pages => (bytes.div_ceil(4096), "4 KiB"),
        _ => (huge, "2 MiB"),
    }
}

/// The plan for people.
pub fn plan_text(plan: &Plan, machine: &Machine) -> String {
    let manager = &plan.manager;
    let mut out = format!(
        "{}: {}, {}, {}, {}\n",
        manager.name,
        count(manager.ports.len(), "port"),
        count(manager.chains.len(), "chain"),
        count(manager.hops.len(), "function"),
        match plan.runtime.processes.len() + 1 {
            1 => "1 process besides this one".to_owned(),
            n => format!("{n} processes besides this one"),
        }
    );
    for (id, chain) in manager.chains.iter().enumerate() {
        let _ = writeln!(out, "\nchain {}", chain.name);
        for line in plan.chain_lines(id) {
            let _ = writeln!(out, "  {line}");
        }
    }
    let mut ports = Table::new(["PORT", "KIND", "DEVICE", ">QUEUES"]);
    for (id, port) in manager.ports.iter().enumerate() {
        let (kind, device) = device(plan, id, port);
        let queues = if port.queues == 0 { "auto".into() } else { port.queues.to_string() };
        ports.row([port.name.clone(), kind.into(), device, queues]);
    }
    let mut functions = Table::new(["FUNCTION", "WHAT", "PLACEMENT", ">REPLICAS", "WHEN DOWN"]);
    for hop in &manager.hops {
        let chain = &manager.chains[usize::from(hop.chain)].name;
        let down = match (is_process(hop), hop.on_failure) {
            (false, _) => "-",
            (true, OnFailure::Drop) => "drop",
            (true, OnFailure::Bypass) => "bypass",
        };
        functions.row([
            format!("{chain}/{}", hop.name),
            hop.function.clone(),
            format!("{:?}", hop.placement).to_lowercase(),
            hop.replicas.to_string(),
            down.into(),
        ]);
    }
    let mut processes = Table::new(["PROCESS", "PROGRAM", "CORES", "WAITS"]);
    let waits = |wait: middlenet_sdk::protocol::Wait| format!("{wait:?}").to_lowercase();
    processes.row(["nf-manager".into(), "middlenet-nf-manager".into(), ranges(&manager.workers), waits(manager.wait)]);
    for process in &plan.runtime.processes {
        let program = match &process.program {
            Program::BuiltIn(name) => format!("middlenet fn {name}"),
            Program::External(path) => path.display().to_string(),
        };
        processes.row([process.label.clone(), program, ranges(&process.cores), waits(process.wait)]);
    }
    for table in [ports, functions, processes].iter().filter(|t| !t.is_empty()) {
        let _ = write!(out, "\n{}", table.render());
    }
    let (pages, size) = pages(plan, machine);
    let _ = writeln!(
        out,
        "\nmemory: {} buffers of {} bytes, {} MiB in {pages} pages of {size}; rings of {} slots",
        manager.buffers,
        manager.buffer_bytes,
        plan.packet_bytes() >> 20,
        manager.ring_slots
    );
    for note in &plan.runtime.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

/// The plan for programs.
pub fn plan_json(plan: &Plan, machine: &Machine) -> Value {
    let processes = plan.runtime.processes.iter().map(|p| {
        json!({
            "hop": p.hop, "replica": p.replica, "label": p.label, "program": p.program,
            "cores": p.cores, "wait": p.wait, "shares_core": p.shares_core,
        })
    });
    let (pages, size) = pages(plan, machine);
    let chains = plan.manager.chains.iter().enumerate();
    json!({
        "ok": true,
        "name": plan.manager.name,
        "chains": chains.map(|(id, c)| json!({ "name": c.name, "lines": plan.chain_lines(id) })).collect::<Vec<_>>(),
        "processes": processes.collect::<Vec<_>>(),
        "kernel_ports": plan.runtime.kernel_ports,
        "memory": { "bytes": plan.packet_bytes(), "pages": pages, "page_size": size },
        "heartbeat_ms": plan.runtime.heartbeat.as_millis(),
        "drain_ms": plan.runtime.drain.as_millis(),
        "notes": plan.runtime.notes,
        "manager": plan.manager,
    })
}
