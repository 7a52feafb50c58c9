//! A run at a moment.

use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;

use super::Table;
use super::table::{grouped, nanoseconds, rate};
use crate::api::{FunctionStatus, Status};
use middlenet_plan::{Conservation, Stats};
use middlenet_sdk::Kind;

/// Rates between two looks at a run.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Rates {
    /// Seconds between the two.
    pub seconds: f64,
    /// By port id: packets and bits per second, in and out.
    pub ports: Vec<PortRates>,
    /// By hop id.
    pub hops: Vec<HopRates>,
    /// By worker: share of its turns that found packets, from 0 to 1.
    pub workers: Vec<f64>,
}

/// Rates of a port.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct PortRates {
    /// Packets received per second.
    pub received_pps: f64,
    /// Packets sent per second.
    pub sent_pps: f64,
    /// Bits received per second.
    pub received_bps: f64,
    /// Bits sent per second.
    pub sent_bps: f64,
}

/// Rates of a hop.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct HopRates {
    /// Packets in per second.
    pub in_pps: f64,
    /// Packets out per second.
    pub out_pps: f64,
    /// Packets dropped per second.
    pub dropped_pps: f64,
}

fn dropped(drops: &[(String, String, u64)]) -> u64 {
    drops.iter().map(|(.., n)| n).sum()
}

impl Rates {
    /// What happened from `before` to `after`. After a restart of the manager, which counts from nothing, everything is zero.
    pub fn between(before: &Status, after: &Status) -> Self {
        let (Some(a), Some(b)) = (&before.data_plane, &after.data_plane) else { return Self::default() };
        let seconds = b.uptime_s - a.uptime_s;
        if seconds <= 0.0 {
            return Self::default();
        }
        let per_second = |a: u64, b: u64| b.saturating_sub(a) as f64 / seconds;
        let ports = a.ports.iter().zip(&b.ports).map(|(a, b)| PortRates {
            received_pps: per_second(a.received_pkts, b.received_pkts),
            sent_pps: per_second(a.sent_pkts, b.sent_pkts),
            received_bps: 8.0 * per_second(a.received_bytes, b.received_bytes),
            sent_bps: 8.0 * per_second(a.sent_bytes, b.sent_bytes),
        });
        let hops = a.hops.iter().zip(&b.hops).map(|(a, b)| HopRates {
            in_pps: per_second(a.in_pkts, b.in_pkts),
            out_pps: per_second(a.out_pkts, b.out_pkts),
            dropped_pps: per_second(dropped(&a.drops), dropped(&b.drops)),
        });
        let workers = a.workers.iter().zip(&b.workers).map(|(a, b)| {
            let busy = b.busy_turns.saturating_sub(a.busy_turns);
            let turns = busy + b.idle_turns.saturating_sub(a.idle_turns);
            if turns == 0 { 0.0 } else { busy as f64 / turns as f64 }
        });
        Self { seconds, ports: ports.collect(), hops: hops.collect(), workers: workers.collect() }
    }
}

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
    match &status.data_plane {
        Some(stats) => {
            let _ = write!(out, "\n{}", ports(stats, rates).render());
            let _ = write!(out, "\n{}", hops(stats, rates).render());
        }
        None => {
            let _ = writeln!(out, "\nthe data plane is down: the nf-manager is {}", status.manager.state);
        }
    }
    let _ = write!(out, "\n{}", instances(status).render());
    if let Some(stats) = &status.data_plane {
        let mut workers = Table::new(["WORKER", ">BUSY", ">SLEPT"]);
        for (i, worker) in stats.workers.iter().enumerate() {
            let busy = rates.workers.get(i).copied().unwrap_or_default();
            workers.row([format!("core {}", worker.core), format!("{:.0} %", 100.0 * busy), grouped(worker.parks)]);
        }
        let _ = write!(out, "\n{}", workers.render());
    }
    out.push_str(&counters_text(status));
    if let Some(stats) = &status.data_plane {
        let _ = write!(out, "\n{}", conservation(&stats.conservation));
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
    let replicas = all.iter().filter(|o| o.hop == f.hop).count();
    if replicas > 1 { format!("{}/{}#{}", f.chain, f.name, f.replica) } else { format!("{}/{}", f.chain, f.name) }
}

fn instances(status: &Status) -> Table {
    let mut table = Table::new(["PROCESS", ">PID", "STATE", ">RESTARTS", "CORES", ">HELD", "LAST END"]);
    let list = |cores: &[usize]| cores.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
    let mut row = |name: String, process: &crate::api::ProcessStatus, cores: String, held: String| {
        table.row([
            name,
            process.pid.map_or("-".into(), |p| p.to_string()),
            process.state.clone(),
            process.restarts.to_string(),
            cores,
            held,
            process.last_exit.clone().unwrap_or_default(),
        ]);
    };
    let workers = status.data_plane.iter().flat_map(|d| &d.workers).map(|w| w.core).collect::<Vec<_>>();
    row("nf-manager".into(), &status.manager, list(&workers), "-".into());
    for f in status.functions.iter().filter(|f| f.placement == "process") {
        row(label(f, &status.functions), &f.process, list(&f.cores), grouped(f.held_pkts));
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
    format!(
        "packets: {} received + {} made {mark} {} sent + {} dropped + {} held\nbuffers: {} = {} free + {} in ports + {} lent + {} in chains\n",
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

/// One counter of dropped packets.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Drops {
    stage: String,
    place: String,
    reason: String,
    packets: u64,
    rate_pps: f64,
}

/// All drops, most first. Losses before a packet was received are stage `missed`.
fn drop_rows(stats: &Stats, before: Option<&Stats>) -> Vec<Drops> {
    fn all(stats: &Stats) -> Vec<(String, String, String, u64)> {
        let missed = stats.ports.iter().flat_map(|p| {
            p.missed.iter().map(|(reason, n)| ("missed".to_owned(), format!("port {}", p.name), reason.clone(), *n))
        });
        let ports = stats.ports.iter().flat_map(|p| {
            p.drops.iter().map(|(stage, reason, n)| (stage.clone(), format!("port {}", p.name), reason.clone(), *n))
        });
        let hops = stats.hops.iter().flat_map(|h| {
            let place = format!("{}/{}", h.chain, h.name);
            h.drops.iter().map(move |(stage, reason, n)| (stage.clone(), place.clone(), reason.clone(), *n))
        });
        missed.chain(ports).chain(hops).collect()
    }
    let seconds = before.map_or(0.0, |b| stats.uptime_s - b.uptime_s);
    let earlier = before.map(all).unwrap_or_default();
    let mut rows: Vec<Drops> = all(stats)
        .into_iter()
        .filter(|(.., packets)| *packets > 0)
        .map(|(stage, place, reason, packets)| {
            let same = |e: &&(String, String, String, u64)| e.0 == stage && e.1 == place && e.2 == reason;
            let was = earlier.iter().find(same).map_or(0, |e| e.3);
            let rate_pps = if seconds > 0.0 { packets.saturating_sub(was) as f64 / seconds } else { 0.0 };
            Drops { stage, place, reason, packets, rate_pps }
        })
        .collect();
    rows.sort_by(|a, b| (b.packets, &a.place, &a.reason).cmp(&(a.packets, &b.place, &b.reason)));
    rows
}

fn drops_table(rows: &[Drops], with_rate: bool) -> Table {
    if !with_rate {
        let mut table = Table::new(["STAGE", "PLACE", "REASON", ">PACKETS"]);
        rows.iter().for_each(|d| table.row([d.stage.clone(), d.place.clone(), d.reason.clone(), grouped(d.packets)]));
        return table;
    }
    let mut table = Table::new(["STAGE", "PLACE", "REASON", ">PACKETS", ">RATE"]);
    for d in rows {
        let cells = [d.stage.clone(), d.place.clone(), d.reason.clone(), grouped(d.packets), rate(d.rate_pps, "pps")];
        table.row(cells);
    }
    table
}

/// All drops of a run for people, most first.
pub fn drops_text(before: &Status, after: &Status) -> String {
    let Some(stats) = &after.data_plane else { return "the data plane is down\n".into() };
    let rows = drop_rows(stats, before.data_plane.as_ref());
    if rows.is_empty() {
        return format!("no packet dropped of {} received\n", grouped(stats.conservation.received_pkts));
    }
    drops_table(&rows, true).render()
}

/// All drops of a run for programs.
pub fn drops_json(before: &Status, after: &Status) -> Value {
    let rows = after.data_plane.as_ref().map(|stats| drop_rows(stats, before.data_plane.as_ref())).unwrap_or_default();
    json!({ "name": after.name, "drops": rows })
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
mod tests {
    use super::*;
    use middlenet_plan::{HopStats, PortStats, WorkerStats};

    fn status(uptime_s: f64, packets: u64) -> Status {
        let port = |name: &str, received_pkts, sent_pkts| PortStats {
            name: name.into(),
            kind: "xdp native".into(),
            received_pkts,
            received_bytes: received_pkts * 100,
            sent_pkts,
            ..PortStats::default()
        };
        let hop = HopStats {
            name: "firewall".into(),
            chain: "transit".into(),
            in_pkts: packets,
            drops: vec![
                ("function".into(), "denied".into(), packets / 2),
                ("hop".into(), "ring-full".into(), 7),
                ("hop".into(), "no-instance".into(), 0),
            ],
            ..HopStats::default()
        };
        let conservation = Conservation {
            received_pkts: packets,
            dropped_pkts: packets / 2,
            sent_pkts: packets / 2,
            ..Default::default()
        };
        Status {
            name: "edge".into(),
            state: "running".into(),
            uptime_s: 3725.0,
            data_plane: Some(Stats {
                uptime_s,
                ports: vec![port("wan", packets, 0), port("lan", 0, packets / 2)],
                hops: vec![hop],
                workers: vec![WorkerStats { core: 0, busy_turns: packets, idle_turns: packets, ..Default::default() }],
                conservation,
            }),
            ..Status::default()
        }
    }

    #[test]
    fn rates_are_differences_over_the_data_planes_own_time() {
        let rates = Rates::between(&status(10.0, 1000), &status(12.0, 5000));
        assert_eq!(rates.ports[0].received_pps, 2000.0);
        assert_eq!(rates.ports[0].received_bps, 1_600_000.0);
        assert_eq!(rates.hops[0].dropped_pps, 1000.0);
        assert_eq!(rates.workers, [0.5]);
        // The manager restarted meanwhile.
        assert!(Rates::between(&status(10.0, 1000), &status(1.0, 5)).ports.is_empty());
    }

    #[test]
    fn drops_are_sorted_and_zeroes_left_out() {
        let text = drops_text(&status(10.0, 1000), &status(12.0, 5000));
        let expected = "\
STAGE     PLACE             REASON     PACKETS      RATE
function  transit/firewall  denied       2 500  1.0 kpps
hop       transit/firewall  ring-full        7     0 pps
";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_status_names_everything_once() {
        let after = status(12.0, 5000);
        let text = status_text(&after, &Rates::between(&status(10.0, 1000), &after));
        for part in [
            "edge: running for 1 h 2 min",
            "2.0 kpps",
            "nf-manager",
            "packets: 5 000 received + 0 made = 2 500 sent + 2 500 dropped + 0 held",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
