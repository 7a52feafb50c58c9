//! Which results belong in which chart.

use std::path::Path;

use crate::BenchError;
use crate::charts::{Chart, Form, Series};
use crate::outcome::Entry;

pub(super) fn draw(entries: &[Entry], folder: &Path) -> Result<(), BenchError> {
    charts(entries).iter().try_for_each(|chart| chart.write(folder))
}

fn charts(entries: &[Entry]) -> Vec<Chart> {
    let by_size = ["inline/router+l2fwd/", "process/router+l2fwd/", "inline/trivial2/", "process/trivial2/"];
    let sizes = |prefix: &str| {
        series(entries, "throughput", prefix.trim_end_matches('/'), |c| c.strip_prefix(prefix)?.parse().ok())
    };
    let lengths = |metric: &str, placement: &str, name: &str| {
        series(entries, metric, name, |case| {
            case.strip_prefix(placement)?.strip_prefix("/chain")?.strip_suffix("/64")?.parse().ok()
        })
    };
    let chart = |name: &str, title: &str, x: &str, y: &str, series: Vec<Series>| Chart {
        name: name.into(),
        title: title.into(),
        x: x.into(),
        y: y.into(),
        form: Form::Lines,
        series,
    };
    vec![
        chart(
            "throughput-by-size",
            "Throughput by packet size",
            "packet size, bytes with FCS",
            "Mpps",
            by_size.iter().map(|prefix| sizes(prefix)).chain(references(entries)).collect(),
        ),
        chart(
            "throughput-by-length",
            "Throughput by length of the chain, 64 bytes",
            "functions",
            "Mpps",
            ["inline", "process"].map(|p| lengths("throughput", p, p)).into(),
        ),
        chart(
            "hop-latency",
            "Time in one hop at the limit, processes, 64 bytes",
            "functions",
            "ns",
            vec![
                lengths("hop_latency_p50", "process", "median"),
                lengths("hop_latency_p99", "process", "99th percentile"),
            ],
        ),
        chart(
            "overload",
            "Delivered by offered load, manager and two functions on one core",
            "offered, Mpps",
            "delivered, Mpps",
            overload(entries).into(),
        ),
    ]
}

/// Values of a metric by the number in a case's name.
fn series(entries: &[Entry], metric: &str, name: &str, x: impl Fn(&str) -> Option<f64>) -> Series {
    let of_metric = entries.iter().filter(|e| e.metric == metric);
    let mut points: Vec<(f64, f64)> = of_metric.filter_map(|e| Some((x(&e.case)?, e.value))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    Series { name: name.into(), points }
}

/// What the cases by size were compared with.
fn references(entries: &[Entry]) -> Vec<Series> {
    let peers = [("testpmd-mac", "inline/router+l2fwd/"), ("rte-ring-c", "process/trivial2/")];
    let line = |(name, prefix): (&str, &str)| {
        let x = |e: &Entry| e.case.strip_prefix(prefix)?.parse().ok();
        let throughput = entries.iter().filter(|e| e.metric == "throughput" && e.reference.as_deref() == Some(name));
        let mut points: Vec<(f64, f64)> = throughput.filter_map(|e| Some((x(e)?, e.reference_value?))).collect();
        points.sort_by(|a, b| a.0.total_cmp(&b.0));
        Series { name: name.into(), points }
    };
    peers.map(line).into_iter().filter(|s| !s.points.is_empty()).collect()
}

/// What is delivered, and what would be if nothing were lost.
fn overload(entries: &[Entry]) -> [Series; 2] {
    let offered = entries.iter().filter(|e| e.metric == "offered");
    let delivered = |case: &str| entries.iter().find(|e| e.case == case && e.metric == "throughput").map(|e| e.value);
    let mut points: Vec<(f64, f64)> = offered.filter_map(|e| Some((e.value, delivered(&e.case)?))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let all = points.iter().map(|(offered, _)| (*offered, *offered)).collect();
    [Series { name: "delivered".into(), points }, Series { name: "offered".into(), points: all }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Figure;

    fn entry(case: &str, metric: &str, value: f64) -> Entry {
        Entry::new("l2l3", case, metric, "unit", Figure { value, spread: 0.0 })
    }

    #[test]
    fn each_result_finds_its_chart() {
        let entries = [
            entry("inline/router+l2fwd/1518", "throughput", 9.0),
            entry("inline/router+l2fwd/64", "throughput", 20.0)
                .against("testpmd-mac", Figure { value: 80.0, spread: 0.0 }),
            entry("process/chain3/64", "throughput", 5.0),
            entry("process/chain3/64", "hop_latency_p50", 7000.0),
            entry("overload/process/most", "offered", 0.6),
            entry("overload/process/most", "throughput", 0.3),
        ];
        let charts = charts(&entries);
        let points = |chart: usize, name: &str| {
            charts[chart].series.iter().find(|s| s.name == name).map(|s| s.points.clone()).unwrap()
        };
        assert_eq!(points(0, "inline/router+l2fwd"), [(64.0, 20.0), (1518.0, 9.0)]);
        assert_eq!(points(0, "testpmd-mac"), [(64.0, 80.0)]);
        assert_eq!(points(1, "process"), [(3.0, 5.0)]);
        assert_eq!(points(2, "median"), [(3.0, 7000.0)]);
        assert_eq!(points(3, "delivered"), [(0.6, 0.3)]);
    }
}
