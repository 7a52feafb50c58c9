//! Where all the requests went.

use middlenet_plan::BrokerStats;

use crate::table::{Table, count};

/// Requests answered in full, over all chains.
pub(in crate::demo) fn answered(stats: &BrokerStats) -> u64 {
    stats.chains.iter().map(|chain| chain.answered).sum()
}

/// Whether every request that was received has ended in one of the ways there are.
pub(in crate::demo) fn is_even(stats: &BrokerStats) -> bool {
    Sums::of(stats).are_even()
}

struct Sums {
    received: u64,
    answered: u64,
    rejected: u64,
    failed: u64,
    aborted: u64,
    in_progress: u64,
}

impl Sums {
    fn of(stats: &BrokerStats) -> Self {
        let sum = |of: fn(&middlenet_plan::MessageChainStats) -> u64| stats.chains.iter().map(of).sum();
        Self {
            received: sum(|c| c.received),
            answered: sum(|c| c.answered),
            rejected: sum(|c| total(&c.rejected)),
            failed: sum(|c| total(&c.failed)),
            aborted: sum(|c| c.aborted),
            in_progress: sum(|c| c.in_progress),
        }
    }

    fn are_even(&self) -> bool {
        self.in_progress == 0 && self.received == self.answered + self.rejected + self.failed + self.aborted
    }
}

fn total(reasons: &[(String, u64)]) -> u64 {
    reasons.iter().map(|(_, requests)| requests).sum()
}

/// Tables of functions, descriptors, servers and what went wrong, and the sum.
pub(in crate::demo) fn text(stats: &BrokerStats) -> String {
    let mut text = String::new();
    for table in [functions(stats), descriptors(stats), servers(stats), ends(stats)] {
        if !table.is_empty() {
            text.push_str(&table.render(2));
            text.push('\n');
        }
    }
    for chain in &stats.chains {
        let [_, ok, moved, refused, failed] = chain.statuses;
        text.push_str(&format!(
            "  {} answers of 2xx, {} of 3xx, {} of 4xx, {} of 5xx; {} requests sent again to a server, {} shown again to \
             functions\n",
            count(ok),
            count(moved),
            count(refused),
            count(failed),
            count(chain.retries),
            count(chain.reruns)
        ));
    }
    let sums = Sums::of(stats);
    text.push_str(&format!(
        "  {} received = {} answered + {} rejected + {} failed + {} aborted by clients: {}\n",
        count(sums.received),
        count(sums.answered),
        count(sums.rejected),
        count(sums.failed),
        count(sums.aborted),
        if sums.are_even() { "the account is even" } else { "REQUESTS ARE MISSING" }
    ));
    text.push_str(&format!(
        "  {} message buffers = {} free + {} in use: {}\n",
        count(stats.buffers),
        count(stats.buffers_free),
        count(stats.buffers.saturating_sub(stats.buffers_free)),
        if stats.buffers == stats.buffers_free { "all are back" } else { "BUFFERS ARE MISSING" }
    ));
    text
}

fn functions(stats: &BrokerStats) -> Table {
    let mut table = Table::new(["function", "reached by", "requests", "came back", "lost with it", "refused"]);
    for hop in &stats.hops {
        table.row([
            hop.name.clone(),
            hop.transport.clone(),
            count(hop.messages),
            count(total(&hop.returned)),
            count(total(&hop.failed)),
            count(total(&hop.refused)),
        ]);
    }
    table
}

/// What a wake-up is worth: the more descriptors it brings, the less each costs.
fn descriptors(stats: &BrokerStats) -> Table {
    let mut table =
        Table::new(["broker", "sent", "groups", "per group", "returned", "wake-ups", "per wake-up", "lost wake-ups"]);
    let mean = |n: u64, of: u64| format!("{:.1}", n as f64 / of.max(1) as f64);
    for (number, worker) in stats.workers.iter().enumerate() {
        table.row([
            format!("worker {number}, core {}", worker.core),
            count(worker.descriptors_sent),
            count(worker.groups_sent),
            mean(worker.descriptors_sent, worker.groups_sent),
            count(worker.descriptors_received),
            count(worker.hop_wakeups),
            mean(worker.descriptors_received, worker.hop_wakeups),
            count(worker.lost_wakeups),
        ]);
    }
    table
}

fn servers(stats: &BrokerStats) -> Table {
    let mut table = Table::new(["server", "now", "requests", "failed there", "connections", "taken out"]);
    for upstream in &stats.upstreams {
        table.row([
            upstream.address.clone(),
            if upstream.healthy { "up".into() } else { "down".into() },
            count(upstream.requests),
            count(upstream.failures),
            count(upstream.connects),
            count(upstream.ejections),
        ]);
    }
    table
}

/// One line per reason for which a request did not end well.
fn ends(stats: &BrokerStats) -> Table {
    let mut table = Table::new(["not answered", "reason", "requests"]);
    for chain in &stats.chains {
        for (end, reasons) in [("rejected", &chain.rejected), ("failed", &chain.failed)] {
            for (reason, requests) in reasons.iter().filter(|(_, requests)| *requests > 0) {
                table.row([end.to_owned(), reason.clone(), count(*requests)]);
            }
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_plan::{BrokerWorkerStats, MessageChainStats};

    fn stats() -> BrokerStats {
        BrokerStats {
            chains: vec![MessageChainStats {
                received: 1010,
                answered: 1000,
                failed: vec![("function-died".into(), 7), ("no-upstream".into(), 0)],
                aborted: 3,
                ..MessageChainStats::default()
            }],
            workers: vec![BrokerWorkerStats {
                descriptors_received: 30,
                hop_wakeups: 12,
                ..BrokerWorkerStats::default()
            }],
            buffers: 8,
            buffers_free: 8,
            ..BrokerStats::default()
        }
    }

    #[test]
    fn reasons_are_listed_if_something_happened_for_them() {
        let text = text(&stats());
        assert!(text.contains("function-died") && !text.contains("no-upstream"), "{text}");
        assert!(text.contains("1 010 received = 1 000 answered + 0 rejected + 7 failed + 3 aborted"), "{text}");
        assert!(text.contains("the account is even") && text.contains("all are back"), "{text}");
        assert!(text.contains("2.5"), "{text}");
        assert!(is_even(&stats()));
    }

    #[test]
    fn what_is_missing_is_said_aloud() {
        let mut stats = stats();
        stats.chains[0].answered -= 1;
        stats.buffers_free -= 1;
        let text = text(&stats);
        assert!(text.contains("REQUESTS ARE MISSING") && text.contains("BUFFERS ARE MISSING"), "{text}");
        assert!(!is_even(&stats));
    }
}
