//! Where all the packets went.

use middlenet_plan::Stats;

use crate::table::{Table, count};

/// Tables of ports, functions and drops, and the sum.
pub(in crate::demo) fn text(stats: &Stats) -> String {
    let mut text = String::new();
    for table in [ports(stats), functions(stats), drops(stats)] {
        if !table.is_empty() {
            text.push_str(&table.render(2));
            text.push('\n');
        }
    }
    text.push_str(
        "  p50 and p99: how long a function kept a packet, from hand-over to return, waiting in its ring included\n",
    );
    let sums = &stats.conservation;
    text.push_str(&format!(
        "  {} received + {} made by functions = {} sent + {} dropped + {} held: {}\n",
        count(sums.received_pkts),
        count(sums.originated_pkts),
        count(sums.sent_pkts),
        count(sums.dropped_pkts),
        count(sums.held_pkts),
        if sums.packets_balance() { "the account is even" } else { "PACKETS ARE MISSING" }
    ));
    text
}

fn ports(stats: &Stats) -> Table {
    let mut table = Table::new(["port", "packets in", "packets out", "MB in", "MB out", "missed"]);
    for port in &stats.ports {
        table.row([
            port.name.clone(),
            count(port.received_pkts),
            count(port.sent_pkts),
            count(port.received_bytes / 1_000_000),
            count(port.sent_bytes / 1_000_000),
            count(port.missed.iter().map(|(_, packets)| packets).sum()),
        ]);
    }
    table
}

fn functions(stats: &Stats) -> Table {
    let mut table = Table::new(["function", "packets in", "packets out", "made", "dropped", "p50 us", "p99 us"]);
    for hop in &stats.hops {
        table.row([
            hop.name.clone(),
            count(hop.in_pkts),
            count(hop.out_pkts),
            count(hop.originated_pkts),
            count(hop.drops.iter().map(|(.., packets)| packets).sum()),
            format!("{:.1}", hop.latency.p50_ns as f64 / 1e3),
            format!("{:.1}", hop.latency.p99_ns as f64 / 1e3),
        ]);
    }
    table
}

/// One line per place and reason, most first.
fn drops(stats: &Stats) -> Table {
    let ports = stats.ports.iter().flat_map(|port| port.drops.iter().map(|d| (format!("port {}", port.name), d)));
    let hops = stats.hops.iter().flat_map(|hop| hop.drops.iter().map(|d| (hop.name.clone(), d)));
    let mut rows: Vec<_> = ports.chain(hops).filter(|(_, (.., packets))| *packets > 0).collect();
    rows.sort_by_key(|(_, (.., packets))| std::cmp::Reverse(*packets));
    let mut table = Table::new(["dropped by", "stage", "reason", "packets"]);
    for (place, (stage, reason, packets)) in rows {
        table.row([place, stage.clone(), reason.clone(), count(*packets)]);
    }
    table
}

/// Packets that a function decided to drop.
pub(in crate::demo) fn dropped_by(stats: &Stats, function: &str) -> u64 {
    let hops = stats.hops.iter().filter(|hop| hop.name == function);
    let drops = hops.flat_map(|hop| &hop.drops).filter(|(stage, ..)| stage == middlenet_plan::drop_stage::FUNCTION);
    drops.map(|(.., packets)| packets).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use middlenet_plan::{Conservation, HopStats, PortStats};

    fn stats() -> Stats {
        let drop = |stage: &str, reason: &str, packets| (stage.to_owned(), reason.to_owned(), packets);
        Stats {
            ports: vec![PortStats { name: "left".into(), received_pkts: 1010, ..PortStats::default() }],
            hops: vec![HopStats {
                name: "firewall".into(),
                in_pkts: 1010,
                out_pkts: 1000,
                drops: vec![drop("function", "no-rule", 7), drop("hop", "function-down", 3), drop("hop", "full", 0)],
                ..HopStats::default()
            }],
            conservation: Conservation {
                received_pkts: 1010,
                sent_pkts: 1000,
                dropped_pkts: 10,
                ..Conservation::default()
            },
            ..Stats::default()
        }
    }

    #[test]
    fn drops_are_listed_by_reason_and_those_that_did_not_happen_are_not() {
        let text = text(&stats());
        assert!(text.contains("no-rule") && text.contains("function-down") && !text.contains("full"), "{text}");
        assert!(
            text.contains(
                "1 010 received + 0 made by functions = 1 000 sent + 10 dropped + 0 held: the account is even"
            )
        );
    }

    #[test]
    fn a_missing_packet_is_said_aloud() {
        let mut stats = stats();
        stats.conservation.sent_pkts -= 1;
        assert!(text(&stats).contains("PACKETS ARE MISSING"));
    }

    #[test]
    fn a_functions_own_drops_are_those_it_decided() {
        assert_eq!(dropped_by(&stats(), "firewall"), 7);
        assert_eq!(dropped_by(&stats(), "monitor"), 0);
    }
}
