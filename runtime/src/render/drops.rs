//! Where and why packets are dropped and requests fail, most first.

use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;

use super::Table;
use super::table::{grouped, rate};
use crate::api::Status;
use middlenet_plan::{BrokerStats, Stats};

pub(super) fn dropped(drops: &[(String, String, u64)]) -> u64 {
    drops.iter().map(|(.., n)| n).sum()
}

/// One counter of dropped packets.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Drops {
    stage: String,
    place: String,
    reason: String,
    packets: u64,
    rate_pps: f64,
}

/// All drops, most first. Losses before a packet was received are stage `missed`.
pub(super) fn drop_rows(stats: &Stats, before: Option<&Stats>) -> Vec<Drops> {
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

pub(super) fn drops_table(rows: &[Drops], with_rate: bool) -> Table {
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

/// One counter of requests, or of messages at a hop, that came to no good end.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Failures {
    stage: String,
    place: String,
    reason: String,
    requests: u64,
    rate_rps: f64,
}

/// All of them, most first. Stages: `rejected` (the client's error), `failed` (ours or an upstream's), and at hops `lost` (a
/// function died or did not answer) and `refused` (by the filter).
fn failure_rows(stats: &BrokerStats, before: Option<&BrokerStats>) -> Vec<Failures> {
    type Row = (&'static str, String, String, u64);
    fn all(stats: &BrokerStats) -> Vec<Row> {
        let rows = |stage: &'static str, place: String, reasons: &[(String, u64)]| -> Vec<Row> {
            reasons.iter().map(|(reason, n)| (stage, place.clone(), reason.clone(), *n)).collect()
        };
        let chains = stats.chains.iter().flat_map(|c| {
            let rejected = rows("rejected", c.name.clone(), &c.rejected);
            rejected.into_iter().chain(rows("failed", c.name.clone(), &c.failed))
        });
        let hops = stats.hops.iter().flat_map(|h| {
            let place = format!("{}/{}", h.chain, h.name);
            rows("lost", place.clone(), &h.failed).into_iter().chain(rows("refused", place, &h.refused))
        });
        chains.chain(hops).collect()
    }
    let seconds = before.map_or(0.0, |b| stats.uptime_s - b.uptime_s);
    let earlier = before.map(all).unwrap_or_default();
    let counted = all(stats).into_iter().filter(|(.., requests)| *requests > 0);
    let mut rows: Vec<Failures> = counted
        .map(|(stage, place, reason, requests)| {
            let same = |e: &&Row| e.0 == stage && e.1 == place && e.2 == reason;
            let was = earlier.iter().find(same).map_or(0, |e| e.3);
            let rate_rps = if seconds > 0.0 { requests.saturating_sub(was) as f64 / seconds } else { 0.0 };
            Failures { stage: stage.into(), place, reason, requests, rate_rps }
        })
        .collect();
    rows.sort_by(|a, b| (b.requests, &a.place, &a.reason).cmp(&(a.requests, &b.place, &b.reason)));
    rows
}

fn failures_text(stats: &BrokerStats, before: Option<&BrokerStats>) -> String {
    let rows = failure_rows(stats, before);
    if rows.is_empty() {
        let received = stats.chains.iter().map(|c| c.received).sum();
        return format!("no request failed of {} received\n", grouped(received));
    }
    let mut table = Table::new(["STAGE", "PLACE", "REASON", ">REQUESTS", ">RATE"]);
    for r in rows {
        table.row([r.stage, r.place, r.reason, grouped(r.requests), rate(r.rate_rps, "rps")]);
    }
    table.render()
}

/// All drops of a run for people, most first.
pub fn drops_text(before: &Status, after: &Status) -> String {
    let mut out = String::new();
    if after.manager.state != "unused" {
        out.push_str(&match &after.data_plane {
            None => "the data plane is down\n".to_owned(),
            Some(stats) => packets_text(stats, before.data_plane.as_ref()),
        });
    }
    if after.broker.is_some() {
        let text = match &after.messages {
            None => "the message broker is down\n".to_owned(),
            Some(stats) => failures_text(stats, before.messages.as_ref()),
        };
        let gap = if out.is_empty() { "" } else { "\n" };
        let _ = write!(out, "{gap}{text}");
    }
    out
}

fn packets_text(stats: &Stats, before: Option<&Stats>) -> String {
    let rows = drop_rows(stats, before);
    if rows.is_empty() {
        return format!("no packet dropped of {} received\n", grouped(stats.conservation.received_pkts));
    }
    drops_table(&rows, true).render()
}

/// All drops of a run for programs.
pub fn drops_json(before: &Status, after: &Status) -> Value {
    let packets = after.data_plane.as_ref().map(|stats| drop_rows(stats, before.data_plane.as_ref()));
    let messages = after.messages.as_ref().map(|stats| failure_rows(stats, before.messages.as_ref()));
    let mut rows: Vec<Value> = packets.iter().flatten().map(|row| json!(row)).collect();
    rows.extend(messages.iter().flatten().map(|row| json!(row)));
    json!({ "name": after.name, "drops": rows })
}
