//! Chains of messages at a moment.

use middlenet_plan::BrokerStats;

use super::table::grouped;

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
