//! Results for people: a line per case, the reference beside it.

use crate::outcome::{Entry, Host};
use crate::report::host_line;
use crate::table::{Table, number};

/// Metrics that have a column of their own; others are printed with their unit below.
const COLUMNS: [(&str, &str); 4] = [
    ("throughput", "Mpps"),
    ("cycles_per_packet", "cycles/pkt"),
    ("hop_latency_p50", "hop p50 ns"),
    ("hop_latency_p99", "hop p99 ns"),
];

/// Everything, with a line about the host.
pub(super) fn text(host: &Host, entries: &[Entry]) -> String {
    let mut text = host_line(host);
    let throughput = throughput(entries);
    if !throughput.is_empty() {
        text.push('\n');
        text.push_str(&throughput.render(0));
    }
    let others = others(entries);
    if !others.is_empty() {
        text.push('\n');
        text.push_str(&others.render(0));
    }
    text
}

fn throughput(entries: &[Entry]) -> Table {
    let headings = ["case"].into_iter().chain(COLUMNS.map(|(_, heading)| heading));
    let mut table = Table::new(headings.chain(["spread", "offered", "reference", "Mpps", "ratio"]));
    for rate in entries.iter().filter(|e| e.metric == "throughput") {
        let of = |metric: &str| entries.iter().find(|e| e.case == rate.case && e.metric == metric);
        let mut cells = vec![rate.case.clone()];
        cells.extend(COLUMNS.map(|(metric, _)| of(metric).map(|e| number(e.value)).unwrap_or_default()));
        cells.push(number(rate.spread));
        cells.push(of("offered").map(|e| number(e.value)).unwrap_or_default());
        cells.push(rate.reference.clone().unwrap_or_default());
        cells.push(rate.reference_value.map(number).unwrap_or_default());
        cells.push(rate.ratio.map(number).unwrap_or_default());
        table.row(cells);
    }
    table
}

fn others(entries: &[Entry]) -> Table {
    let mut table = Table::new(["case", "metric", "value", "spread", "unit"]);
    let has_line = |case: &str| entries.iter().any(|e| e.case == case && e.metric == "throughput");
    for entry in entries.iter().filter(|e| !has_line(&e.case)) {
        let (value, spread) = (number(entry.value), number(entry.spread));
        table.row([entry.case.clone(), entry.metric.clone(), value, spread, entry.unit.clone()]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Figure;

    fn entry(case: &str, metric: &str, value: f64) -> Entry {
        Entry::new("l2l3", case, metric, "unit", Figure { value, spread: 0.5 })
    }

    #[test]
    fn a_case_has_one_line_with_its_reference() {
        let entries = [
            entry("inline/x/64", "throughput", 20.0).against("testpmd-mac", Figure { value: 80.0, spread: 0.0 }),
            entry("inline/x/64", "cycles_per_packet", 100.0),
            entry("attach", "time", 4.0),
        ];
        let host = Host {
            cpu: "CPU".into(),
            cores: 2,
            kernel: "6.18".into(),
            memory_mib: 1,
            hugepages_2mib: 0,
            virtualised: true,
            load: 0.0,
        };
        let text = text(&host, &entries);
        let line =
            |start: &str| text.lines().find(|l| l.starts_with(start)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(text.lines().next(), Some("2 cores, virtual, CPU, Linux 6.18"));
        assert_eq!(line("inline/x/64"), ["inline/x/64", "20.0", "100", "0.500", "testpmd-mac", "80.0", "0.250"]);
        assert_eq!(line("attach"), ["attach", "time", "4.00", "0.500", "unit"]);
    }
}
