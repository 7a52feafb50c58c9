//! A run at a moment.

use serde_json::{Value, json};
use std::fmt::Write;

use super::drops::{drop_rows, dropped, drops_table};
use super::table::{grouped, nanoseconds, rate};
use super::{Rates, Table, messages};
use crate::api::{FunctionStatus, Status};
use middlenet_plan::{Conservation, Stats};
use middlenet_sdk::Kind;

/// The run for people.
pub fn status_text(status: &Status, rates: &Rates) -> String {
    let mut out = format!(
        "{}: {} for {} (process {}, {})\n",
        status.name,
        status.state,
        duration(status.uptime_s),
        status.pid,
        status.manifest
    );
    for chain in &status.chains {
        let _ = writeln!(out, "  {}: {}", chain.name, chain.lines.first().map(String::as_str).unwrap_or_default());
    }
    let packets = status.data_plane.as_ref();
    match packets {
        Some(stats) => {
            let _ = write!(out, "\n{}", ports(stats, rates).render());
            out.push_str(&super::steering::of_status(stats));
            let _ = write!(out, "\n{}", hops(stats, rates).render());
            out.push_str(&super::fast_path::of_status(stats));
        }
        None if status.manager.state == "unused" => {}
        None => {
            let _ = writeln!(out, "\nthe data plane is down: the nf-manager is {}", status.manager.state);
        }
    }
    match (&status.messages, &status.broker) {
        (Some(stats), _) => out.push_str(&messages::tables(stats, rates)),
        (None, Some(broker)) => {
            let _ = writeln!(out, "\nrequests are not served: the message broker is {}", broker.state);
        }
        (None, None) => {}
    }
    let _ = write!(out, "\n{}", instances(status).render());
    if let Some(stats) = packets {
        let mut workers = Table::new(["WORKER", ">BUSY", ">SLEPT"]);
        for (i, worker) in stats.workers.iter().enumerate() {
            let busy = rates.workers.get(i).copied().unwrap_or_default();
            workers.row([format!("core {}", worker.core), format!("{:.0} %", 100.0 * busy), grouped(worker.parks)]);
        }
        let _ = write!(out, "\n{}", workers.render());
    }
    if let Some(stats) = status.messages.as_ref().filter(|s| !s.workers.is_empty()) {
        let _ = write!(out, "\n{}", messages::workers(stats).render());
    }
    out.push_str(&counters_text(status));
    if let Some(stats) = packets {
        let _ = write!(out, "\n{}", conservation(&stats.conservation));
    }
    if let Some(stats) = &status.messages {
        let _ = write!(out, "\n{}", messages::balance(stats));
    }
    for port in status.data_plane.iter().flat_map(|stats| &stats.ports) {
        let Some(trouble) = &port.trouble else { continue };
        let _ = match port.restarts {
            0 => writeln!(out, "note: port `{}`: {trouble}", port.name),
            times => writeln!(out, "note: port `{}` was restarted, {times} times so far: {trouble}", port.name),
        };
    }
    for note in &status.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn ports(stats: &Stats, rates: &Rates) -> Table {
    let mut table = Table::new([
        "PORT", "KIND", ">RX PKTS", ">RX RATE", ">RX BITS", ">TX PKTS", ">TX RATE", ">TX BITS", ">MISSED", ">DROPS",
    ]);
    for (i, port) in stats.ports.iter().enumerate() {
        let r = rates.ports.get(i).copied().unwrap_or_default();
        table.row([
            port.name.clone(),
            port.kind.clone(),
            grouped(port.received_pkts),
            rate(r.received_pps, "pps"),
            rate(r.received_bps, "b/s"),
            grouped(port.sent_pkts),
            rate(r.sent_pps, "pps"),
            rate(r.sent_bps, "b/s"),
            grouped(port.missed.iter().map(|(_, n)| n).sum()),
            grouped(dropped(&port.drops)),
        ]);
    }
    table
}

fn hops(stats: &Stats, rates: &Rates) -> Table {
    let columns = ["FUNCTION", "PLACEMENT", ">IN", ">RATE", ">OUT", ">DROPS", ">MADE", ">BYPASSED", ">P50", ">P99"];
    let mut table = Table::new(columns);
    for (i, hop) in stats.hops.iter().enumerate() {
        let r = rates.hops.get(i).copied().unwrap_or_default();
        table.row([
            format!("{}/{}", hop.chain, hop.name),
            hop.placement.clone(),
            grouped(hop.in_pkts),
            rate(r.in_pps, "pps"),
            grouped(hop.out_pkts),
            grouped(dropped(&hop.drops)),
            grouped(hop.originated_pkts),
            grouped(hop.bypassed_pkts),
            nanoseconds(hop.latency.p50_ns),
            nanoseconds(hop.latency.p99_ns),
        ]);
    }
    table
}

fn label(f: &FunctionStatus, all: &[FunctionStatus]) -> String {
    let replicas = all.iter().filter(|o| (&o.layer, o.hop) == (&f.layer, f.hop)).count();
    if replicas > 1 { format!("{}/{}#{}", f.chain, f.name, f.replica) } else { format!("{}/{}", f.chain, f.name) }
}

fn instances(status: &Status) -> Table {
    let mut table = Table::new(["PROCESS", ">PID", "STATE", ">RESTARTS", "CORES", "USER", ">HELD", "LAST END"]);
    let list = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut row = |name: String, process: &crate::api::ProcessStatus, cores: String, user: String, held: String| {
        table.row([
            name,
            process.pid.map_or("-".into(), |p| p.to_string()),
            process.state.clone(),
            process.restarts.to_string(),
            cores,
            user,
            held,
            process.last_exit.clone().unwrap_or_default(),
        ]);
    };
    let workers = status.data_plane.iter().flat_map(|d| &d.workers).map(|w| w.core).collect::<Vec<_>>();
    if status.manager.state != "unused" {
        row("nf-manager".into(), &status.manager, list(&workers), "-".into(), "-".into());
    }
    if let Some(broker) = &status.broker {
        let workers = status.messages.iter().flat_map(|d| &d.workers).map(|w| w.core).collect::<Vec<_>>();
        row("message broker".into(), broker, list(&workers), "-".into(), "-".into());
    }
    for f in status.functions.iter().filter(|f| f.placement == "process") {
        let user = f.user.clone().unwrap_or_else(|| "-".into());
        row(label(f, &status.functions), &f.process, list(&f.cores), user, grouped(f.held_pkts));
    }
    table
}

fn counters_text(status: &Status) -> String {
    let mut table = Table::new(["COUNTER", ">VALUE", "MEANING"]);
    for f in &status.functions {
        for counter in &f.counters {
            let unit = if counter.kind == Kind::Gauge { " (now)" } else { "" };
            let name = format!("{} {}", label(f, &status.functions), counter.name);
            table.row([name, grouped(counter.value), format!("{}{unit}", counter.help)]);
        }
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.render()) }
}

fn conservation(c: &Conservation) -> String {
    let mark = if c.packets_balance() { "=" } else { "~" };
    let f = &c.fast_paths;
    let fast = match f.entered_pkts {
        0 => String::new(),
        entered => format!(
            "fast paths: {} entered {} {} sent + {} dropped + {} slow path + {} kernel\n",
            grouped(entered),
            if f.balances() { "=" } else { "~" },
            grouped(f.sent_pkts),
            grouped(f.dropped_pkts),
            grouped(f.slow_pkts),
            grouped(f.kernel_pkts),
        ),
    };
    format!(
        "{fast}packets: {} received + {} made {mark} {} sent + {} dropped + {} held\nbuffers: {} = {} free + {} in ports + {} lent + {} in chains\n",
        grouped(c.received_pkts),
        grouped(c.originated_pkts),
        grouped(c.sent_pkts),
        grouped(c.dropped_pkts),
        grouped(c.held_pkts),
        grouped(c.buffers),
        grouped(c.buffers_free),
        grouped(c.buffers_in_ports),
        grouped(c.buffers_lent),
        grouped(c.buffers.saturating_sub(c.buffers_free + c.buffers_in_ports + c.buffers_lent)),
    )
}

/// What a finished run over captures did, for people.
pub fn summary_text(status: &Status) -> String {
    let Some(stats) = &status.data_plane else { return "nothing was counted\n".into() };
    let mut ports = Table::new(["PORT", ">RX PKTS", ">RX BYTES", ">TX PKTS", ">TX BYTES"]);
    for port in &stats.ports {
        ports.row([
            port.name.clone(),
            grouped(port.received_pkts),
            grouped(port.received_bytes),
            grouped(port.sent_pkts),
            grouped(port.sent_bytes),
        ]);
    }
    let mut functions = Table::new(["FUNCTION", ">IN", ">OUT", ">DROPS", ">MADE"]);
    for hop in &stats.hops {
        functions.row([
            format!("{}/{}", hop.chain, hop.name),
            grouped(hop.in_pkts),
            grouped(hop.out_pkts),
            grouped(dropped(&hop.drops)),
            grouped(hop.originated_pkts),
        ]);
    }
    let mut out = ports.render();
    if !functions.is_empty() {
        let _ = write!(out, "\n{}", functions.render());
    }
    out.push_str(&counters_text(status));
    let drops = drop_rows(stats, None);
    if !drops.is_empty() {
        let _ = write!(out, "\n{}", drops_table(&drops, false).render());
    }
    let _ = write!(out, "\n{}", conservation(&stats.conservation));
    out
}

/// The run for programs.
pub fn status_json(status: &Status, rates: &Rates) -> Value {
    let mut value = serde_json::to_value(status).unwrap_or_default();
    value["rates"] = json!(rates);
    value
}

/// `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`.
fn duration(seconds: f64) -> String {
    let s = seconds as u64;
    match s {
        0..60 => format!("{s} s"),
        60..3600 => format!("{} min {} s", s / 60, s % 60),
        3600..86400 => format!("{} h {} min", s / 3600, s % 3600 / 60),
        _ => format!("{} d {} h", s / 86400, s % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests;
