//! Which results belong in which chart: the paper's figures 10 and 11.

use std::path::Path;

use super::burner;
use super::case::{self, Load, Subject};
use super::ours::Hop;
use crate::BenchError;
use crate::charts::{Chart, Form, Series};
use crate::outcome::Entry;

/// Metrics that are drawn: name in results, in file names, in words, unit.
const METRICS: [(&str, &str, &str, &str); 4] = [
    ("throughput", "throughput", "Requests per second", "req/s"),
    ("latency_p99", "latency-p99", "99th percentile of latency", "us"),
    ("cpu", "cpu", "Processor time of the middlebox", "cores"),
    ("cpu_per_request", "cpu-per-request", "Processor time of the middlebox per request", "us"),
];
/// More functions than any chain has.
const MAX_BURNERS: usize = 32;

pub(super) fn draw(entries: &[Entry], folder: &Path) -> Result<(), BenchError> {
    charts(entries).iter().try_for_each(|chart| chart.write(folder))
}

fn charts(entries: &[Entry]) -> Vec<Chart> {
    let mut charts = Vec::new();
    for &load in Load::all(false) {
        let (suffix, under) = match load {
            Load::Wrk => ("", "wrk"),
            Load::Ab => ("-ab", "ab -k"),
            Load::AbClose => ("-ab-close", "ab"),
        };
        for (metric, file, title, unit) in METRICS {
            charts.push(Chart {
                name: format!("l4l7-{file}{suffix}"),
                title: format!("{title}, proxy and rewriting under {under}"),
                x: "concurrent requests".into(),
                y: unit.into(),
                form: Form::Doubling,
                series: Subject::ALL
                    .into_iter()
                    .map(|subject| by_concurrency(entries, metric, subject, load))
                    .collect(),
            });
        }
    }
    for (metric, file, title, unit) in METRICS {
        charts.push(Chart {
            name: format!("l4l7-burner-{file}"),
            title: format!("{title}, chains of functions that compute"),
            x: "computing functions".into(),
            y: unit.into(),
            form: Form::Bars,
            series: [Hop::Skmsg, Hop::Ring].into_iter().map(|hop| by_burners(entries, metric, hop)).collect(),
        });
    }
    charts.iter_mut().for_each(|chart| chart.series.retain(|series| !series.points.is_empty()));
    charts
}

fn value(entries: &[Entry], case: &str, metric: &str) -> Option<f64> {
    entries.iter().find(|e| e.case == case && e.metric == metric).map(|e| e.value)
}

fn by_concurrency(entries: &[Entry], metric: &str, subject: Subject, load: Load) -> Series {
    let point = |&n: &usize| Some((n as f64, value(entries, &case::name(subject, load, n), metric)?));
    Series { name: subject.title().into(), points: case::concurrencies(false).iter().filter_map(point).collect() }
}

fn by_burners(entries: &[Entry], metric: &str, hop: Hop) -> Series {
    let point = |n: usize| Some((n as f64, value(entries, &burner::case(hop, n), metric)?));
    Series { name: hop.name().into(), points: (1..=MAX_BURNERS).filter_map(point).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Figure;

    #[test]
    fn each_result_finds_its_chart() {
        let entry =
            |case: &str, metric: &str, value| Entry::new("l4l7", case, metric, "unit", Figure { value, spread: 0.0 });
        let entries = [
            entry("inline/proxy+rewrite/c8", "throughput", 5.0),
            entry("inline/proxy+rewrite/c1", "throughput", 2.0),
            entry("peer/nginx/c1", "throughput", 1.0),
            entry("peer/haproxy/ab-close/c64", "latency_p99", 7.0),
            entry("ring/burner4/c512", "cpu", 1.5),
        ];
        let charts = charts(&entries);
        let points = |name: &str, series: &str| {
            let chart = charts.iter().find(|c| c.name == name).unwrap();
            chart.series.iter().find(|s| s.name == series).map(|s| s.points.clone())
        };
        assert_eq!(points("l4l7-throughput", "inline").unwrap(), [(1.0, 2.0), (8.0, 5.0)]);
        assert_eq!(points("l4l7-throughput", "nginx").unwrap(), [(1.0, 1.0)]);
        assert_eq!(points("l4l7-throughput", "HAProxy"), None, "no line without points");
        assert_eq!(points("l4l7-latency-p99-ab-close", "HAProxy").unwrap(), [(64.0, 7.0)]);
        assert_eq!(points("l4l7-burner-cpu", "ring").unwrap(), [(4.0, 1.5)]);
    }
}
