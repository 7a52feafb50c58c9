//! Chains of messages at a moment.

use middlenet_plan::BrokerStats;
use std::fmt::Write;

use super::table::{grouped, nanoseconds, rate};
use super::{Rates, Table};

fn total(reasons: &[(String, u64)]) -> u64 {
    reasons.iter().map(|(_, n)| n).sum()
}

/// Where every request ended up, over all chains.
pub fn requests_line(stats: &BrokerStats) -> String {
    let sum = |of: fn(&middlenet_plan::MessageChainStats) -> u64| stats.chains.iter().map(of).sum::<u64>();
    let parts = [
        sum(|c| c.answered),
        sum(|c| total(&c.rejected)),
        sum(|c| total(&c.failed)),
        sum(|c| c.aborted),
        sum(|c| c.in_progress),
    ];
    let received = sum(|c| c.received);
    let mark = if received == parts.iter().sum::<u64>() { "=" } else { "~" };
    let [answered, rejected, failed, aborted, open] = parts.map(grouped);
    format!(
        "{} requests received {mark} {answered} answered + {rejected} rejected + {failed} failed + {aborted} aborted + {open} under way",
        grouped(received)
    )
}

/// Chains, functions and upstreams, for people.
pub(super) fn tables(stats: &BrokerStats, rates: &Rates) -> String {
    let tables = [chains(stats, rates), answers(stats), hops(stats, rates), upstreams(stats)];
    let mut out = String::new();
    for table in tables.iter().filter(|t| !t.is_empty()) {
        let _ = write!(out, "\n{}", table.render());
    }
    out
}

fn chains(stats: &BrokerStats, rates: &Rates) -> Table {
    let mut table = Table::new([
        "CHAIN",
        ">RECEIVED",
        ">RATE",
        ">ANSWERED",
        ">REJECTED",
        ">FAILED",
        ">ABORTED",
        ">UNDER WAY",
        ">P50",
        ">P99",
    ]);
    for (i, chain) in stats.chains.iter().enumerate() {
        let r = rates.message_chains.get(i).copied().unwrap_or_default();
        table.row([
            chain.name.clone(),
            grouped(chain.received),
            rate(r.received_rps, "rps"),
            grouped(chain.answered),
            grouped(total(&chain.rejected)),
            grouped(total(&chain.failed)),
            grouped(chain.aborted),
            grouped(chain.in_progress),
            nanoseconds(chain.latency.p50_ns),
            nanoseconds(chain.latency.p99_ns),
        ]);
    }
    table
}

fn answers(stats: &BrokerStats) -> Table {
    let mut table = Table::new([
        "CHAIN",
        "LISTENS ON",
        ">CLIENTS",
        ">OPEN",
        ">1XX",
        ">2XX",
        ">3XX",
        ">4XX",
        ">5XX",
        ">RETRIES",
        ">RERUNS",
        ">TUNNELS",
    ]);
    for chain in &stats.chains {
        let [informed, ok, moved, refused, failed] = chain.statuses.map(grouped);
        table.row([
            format!("{} ({})", chain.name, chain.protocol),
            chain.listen.join(", "),
            grouped(chain.connections),
            grouped(chain.open_connections),
            informed,
            ok,
            moved,
            refused,
            failed,
            grouped(chain.retries),
            grouped(chain.reruns),
            grouped(chain.upgrades),
        ]);
    }
    table
}

fn hops(stats: &BrokerStats, rates: &Rates) -> Table {
    let mut table =
        Table::new(["FUNCTION", "BY", ">MESSAGES", ">RATE", ">HELD", ">BYPASSED", ">RETURNED", ">LOST", ">REFUSED"]);
    for (i, hop) in stats.hops.iter().enumerate() {
        table.row([
            format!("{}/{}", hop.chain, hop.name),
            hop.transport.clone(),
            grouped(hop.messages),
            rate(rates.message_hops.get(i).copied().unwrap_or_default(), "mps"),
            grouped(hop.instances.iter().map(|i| i.held).sum()),
            grouped(hop.bypassed),
            grouped(total(&hop.returned)),
            grouped(total(&hop.failed)),
            grouped(total(&hop.refused)),
        ]);
    }
    table
}

fn upstreams(stats: &BrokerStats) -> Table {
    let mut table = Table::new([
        "UPSTREAM",
        "CHAIN",
        "STATE",
        ">ACTIVE",
        ">REQUESTS",
        ">FAILURES",
        ">CONNECTS",
        ">REUSED",
        ">CHECKS",
        ">TAKEN OUT",
    ]);
    for upstream in &stats.upstreams {
        let reused = 100.0 * upstream.reuses as f64 / upstream.requests.max(1) as f64;
        let [good, bad] = upstream.checks.map(grouped);
        table.row([
            upstream.address.clone(),
            upstream.chain.clone(),
            if upstream.healthy { "up".into() } else { "down".into() },
            grouped(upstream.active),
            grouped(upstream.requests),
            grouped(upstream.failures),
            grouped(upstream.connects),
            format!("{reused:.0} %"),
            format!("{good}/{bad}"),
            grouped(upstream.ejections),
        ]);
    }
    table
}

/// The broker's workers: how many descriptors each wake-up brings.
pub(super) fn workers(stats: &BrokerStats) -> Table {
    let mut table =
        Table::new(["BROKER", ">WAKE-UPS", ">SENT", ">PER GROUP", ">CAME BACK", ">PER WAKE-UP", ">LATE", ">TO RINGS"]);
    let mean = |n: u64, of: u64| if of == 0 { "-".to_owned() } else { format!("{:.1}", n as f64 / of as f64) };
    for worker in &stats.workers {
        table.row([
            format!("core {}", worker.core),
            grouped(worker.wakeups),
            grouped(worker.descriptors_sent),
            mean(worker.descriptors_sent, worker.groups_sent),
            grouped(worker.descriptors_received),
            mean(worker.descriptors_received, worker.hop_wakeups),
            grouped(worker.lost_wakeups),
            grouped(worker.transport_changes),
        ]);
    }
    table
}

/// Where every request and every buffer is.
pub(super) fn balance(stats: &BrokerStats) -> String {
    let with_broker = stats.buffers.saturating_sub(stats.buffers_free + stats.buffers_held);
    format!(
        "requests: {}\nmessage buffers: {} = {} free + {} with functions + {} with the broker; SK_MSG: {}\n",
        requests_line(stats),
        grouped(stats.buffers),
        grouped(stats.buffers_free),
        grouped(stats.buffers_held),
        grouped(with_broker),
        stats.skmsg
    )
}
