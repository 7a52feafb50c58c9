//! Results for people: a line per case, the reference beside it.

use crate::outcome::{Entry, Host};
use crate::report::{host_line, table};
use crate::table::{Table, number};

/// Metrics that have a column of their own.
const COLUMNS: [(&str, &str); 7] = [
    ("latency_p50", "p50 us"),
    ("latency_p99", "p99 us"),
    ("cpu", "cpu"),
    ("load_cpu", "load cpu"),
    ("cpu_per_request", "cpu us/req"),
    ("verified", "verified"),
    ("failed", "failed"),
];

/// Everything, with a line about the host.
pub(super) fn text(host: &Host, entries: &[Entry]) -> String {
    let mut text = host_line(host);
    for part in [requests(entries), others(entries)] {
        if !part.is_empty() {
            text.push('\n');
            text.push_str(&part.render(0));
        }
    }
    text
}

fn is_rate(entry: &Entry) -> bool {
    entry.metric == "throughput" && entry.unit == "req/s"
}

fn requests(entries: &[Entry]) -> Table {
    let headings = ["case", "req/s", "spread"].into_iter().chain(COLUMNS.map(|(_, heading)| heading));
    let mut table = Table::new(headings.chain(["reference", "req/s", "ratio"]));
    for rate in entries.iter().filter(|e| is_rate(e)) {
        let of = |metric: &str| entries.iter().find(|e| e.case == rate.case && e.metric == metric);
        let mut cells = vec![rate.case.clone(), number(rate.value), number(rate.spread)];
        cells.extend(COLUMNS.map(|(metric, _)| of(metric).map(|e| number(e.value)).unwrap_or_default()));
        cells.push(rate.reference.clone().unwrap_or_default());
        cells.push(rate.reference_value.map(number).unwrap_or_default());
        cells.push(rate.ratio.map(number).unwrap_or_default());
        table.row(cells);
    }
    table
}

fn others(entries: &[Entry]) -> Table {
    let has_line = |case: &str| entries.iter().any(|e| e.case == case && is_rate(e));
    table(entries.iter().filter(|e| !has_line(&e.case)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Figure;

    fn entry(case: &str, metric: &str, unit: &str, value: f64) -> Entry {
        Entry::new("l4l7", case, metric, unit, Figure { value, spread: 0.5 })
    }

    #[test]
    fn a_case_has_one_line_with_its_reference() {
        let reference = |value| Figure { value, spread: 0.0 };
        let entries = [
            entry("skmsg/x/c8", "throughput", "req/s", 40_000.0).against("nginx", reference(50_000.0)),
            entry("skmsg/x/c8", "cpu", "cores", 0.9).against("nginx", reference(1.0)),
            entry("skmsg/x/c8", "failed", "requests", 0.0),
            entry("hop/skmsg-checked", "throughput", "hops/s", 900.0).against("skmsg-plain", reference(1000.0)),
        ];
        let host = Host {
            cpu: "CPU".into(),
            cores: 2,
            kernel: "6.18".into(),
            memory_mib: 1,
            hugepages_2mib: 0,
            virtualised: false,
            load: 0.0,
        };
        let text = text(&host, &entries);
        let line =
            |start: &str| text.lines().find(|l| l.starts_with(start)).unwrap().split_whitespace().collect::<Vec<_>>();
        assert_eq!(line("skmsg/x"), ["skmsg/x/c8", "40000", "0.500", "0.900", "0", "nginx", "50000", "0.800"]);
        assert_eq!(
            line("hop/"),
            ["hop/skmsg-checked", "throughput", "900", "0.500", "hops/s", "skmsg-plain", "1000", "0.900"]
        );
    }
}
