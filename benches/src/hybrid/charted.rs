//! Which results belong in which chart: the paper's figures 4 to 7.

use std::path::Path;

use crate::BenchError;
use crate::charts::{Chart, Form, Series};
use crate::outcome::Entry;

/// Metrics of the web that are drawn: name, ending of the file's name, what it is, unit.
const WEB: [(&str, &str, &str, &str); 4] = [
    ("throughput", "throughput", "Requests per second", "req/s"),
    ("latency_p50", "latency", "Median of latency", "us"),
    ("latency_p99", "latency-p99", "99th percentile of latency", "us"),
    ("cpu_per_request", "cpu-per-request", "Processor time of firewall and balancer per request", "us"),
];
const BOXES: [(&str, &str); 2] = [("cpu_firewall", "firewall"), ("cpu_balancer", "balancer")];
const INSPECTION: [(&str, &str, &str, &str); 2] = [
    ("throughput", "elephants", "Four TCP flows through a firewall and an inspection", "Gb/s"),
    ("cpu_inspection", "elephants-cpu", "Processor time of the inspection", "cores"),
];

/// Which of an entry's values.
type Of = fn(&Entry) -> Option<f64>;

pub(super) fn draw(entries: &[Entry], folder: &Path) -> Result<(), BenchError> {
    charts(entries).iter().try_for_each(|chart| chart.write(folder))
}

fn charts(entries: &[Entry]) -> Vec<Chart> {
    let chart = |name: &str, title: &str, x: &str, y: &str, series: Vec<Series>| Chart {
        name: format!("hybrid-{name}"),
        title: title.into(),
        x: x.into(),
        y: y.into(),
        form: Form::Lines,
        series: series.into_iter().filter(|series| !series.points.is_empty()).collect(),
    };
    let connections = "connections, a request under way on each";
    let mut charts = Vec::new();
    for (metric, file, title, unit) in WEB {
        let of = |prefix, name: &str, value: Of| by_number(entries, metric, prefix, name, value);
        let series = vec![
            of("web/c", "efw and elb", own),
            of("tailcall/c", "efw and elb in one box", own),
            of("web/c", "iptables and HAProxy", references),
        ];
        charts.push(chart(file, title, connections, unit, series));
    }
    let of_boxes = BOXES.iter().flat_map(|(metric, name)| {
        [("hybrid", own as Of), ("iptables, HAProxy", references)]
            .map(|(side, value)| by_number(entries, metric, "web/c", &format!("{name}, {side}"), value))
    });
    charts.push(chart("cpu", "Processor time of each box", connections, "cores", of_boxes.collect()));
    for (metric, file, title, unit) in INSPECTION {
        let level = |case: &str, name: &str| {
            let value = entries.iter().find(|entry| entry.case == case && entry.metric == metric).map(|e| e.value);
            let points = value.map(|value| [0.0, 100.0].map(|x| (x, value)));
            Series { name: name.into(), points: points.into_iter().flatten().collect() }
        };
        let series = vec![
            by_number(entries, metric, "elephants/", "efw and edpi", own),
            level("elephants/ndpi", "efw, edpi without fast path"),
            level("elephants/iptables+ndpi", "iptables, edpi without fast path"),
        ];
        charts.push(chart(file, title, "elephants, percent of the flows", unit, series));
    }
    charts
}

fn own(entry: &Entry) -> Option<f64> {
    Some(entry.value)
}

fn references(entry: &Entry) -> Option<f64> {
    entry.reference_value
}

/// A metric by the number behind a prefix of the case's name.
fn by_number(entries: &[Entry], metric: &str, prefix: &str, name: &str, value: Of) -> Series {
    let point = |entry: &Entry| Some((entry.case.strip_prefix(prefix)?.parse().ok()?, value(entry)?));
    let mut points: Vec<(f64, f64)> = entries.iter().filter(|e| e.metric == metric).filter_map(point).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.into(), points }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Figure;

    fn entry(case: &str, metric: &str, value: f64, reference: f64) -> Entry {
        let figure = |value| Figure { value, spread: 0.0 };
        Entry::new("hybrid", case, metric, "unit", figure(value)).against("reference", figure(reference))
    }

    #[test]
    fn each_result_finds_its_chart() {
        let entries = [
            entry("web/c36", "throughput", 9.0, 3.0),
            entry("web/c4", "throughput", 5.0, 2.0),
            entry("tailcall/c4", "throughput", 6.0, 5.0),
            entry("web/c4", "cpu_balancer", 0.1, 0.9),
            entry("elephants/0", "throughput", 3.0, 0.0),
            entry("elephants/100", "throughput", 5.0, 3.0),
            entry("elephants/ndpi", "throughput", 3.1, 3.0),
        ];
        let charts = charts(&entries);
        let points = |name: &str| {
            let chart = charts.iter().find(|chart| chart.name == name).unwrap();
            chart.series.iter().map(|series| series.points.clone()).collect::<Vec<_>>()
        };
        assert_eq!(
            points("hybrid-throughput"),
            [vec![(4.0, 5.0), (36.0, 9.0)], vec![(4.0, 6.0)], vec![(4.0, 2.0), (36.0, 3.0)]]
        );
        assert_eq!(points("hybrid-cpu"), [vec![(4.0, 0.1)], vec![(4.0, 0.9)]]);
        assert_eq!(points("hybrid-elephants"), [vec![(0.0, 3.0), (100.0, 5.0)], vec![(0.0, 3.1), (100.0, 3.1)]]);
    }
}
