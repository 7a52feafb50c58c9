//! Which results belong in which chart: the paper's figure 13, and what rules cost.

use std::path::Path;

use super::join::{LOADS, name, point_of};
use super::site::Layout;
use crate::BenchError;
use crate::charts::{Chart, Form, Series};
use crate::outcome::Entry;

pub(super) fn draw(entries: &[Entry], folder: &Path) -> Result<(), BenchError> {
    charts(entries).iter().try_for_each(|chart| chart.write(folder))
}

fn charts(entries: &[Entry]) -> Vec<Chart> {
    let chart = |name: &str, title: &str, x: &str, y: &str, form, series: Vec<Series>| Chart {
        name: name.into(),
        title: title.into(),
        x: x.into(),
        y: y.into(),
        form,
        series: series.into_iter().filter(|series| !series.points.is_empty()).collect(),
    };
    let rules = |suffix: &str, words: &str| {
        let x = |case: &str| case.strip_prefix("steer/rules")?.strip_suffix(suffix)?.parse().ok();
        both(entries, "throughput", x, [&format!("rules, {words}"), &format!("every packet redirected, {words}")])
    };
    let of_size = |suffix: &str, words: &str| {
        let x = |case: &str| case.strip_prefix("aggregate/")?.strip_suffix(suffix)?.parse().ok();
        both(entries, "throughput", x, [&format!("{words}, one interface"), &format!("{words}, two interfaces")])
    };
    let join = Layout::BOTH.into_iter().flat_map(|layout| LOADS.map(|load| over_time(entries, layout, load)));
    vec![
        chart(
            "unified-rules",
            "Packets delivered to AF_XDP, one core",
            "rules",
            "Mpps",
            Form::Doubling,
            [rules("", "from a socket"), rules("/frames", "as XDP frames")].into_iter().flatten().collect(),
        ),
        chart(
            "unified-aggregate",
            "Packets and requests together",
            "packet size, bytes with FCS",
            "Mb/s",
            Form::Lines,
            [of_size("", "sum"), of_size("/responses", "responses")].into_iter().flatten().collect(),
        ),
        chart("unified-join", "Requests join packets, and leave", "seconds", "Mb/s", Form::Lines, join.collect()),
    ]
}

/// A metric and its reference by the number in a case's name.
fn both(entries: &[Entry], metric: &str, x: impl Fn(&str) -> Option<f64>, names: [&str; 2]) -> [Series; 2] {
    let of_metric = entries.iter().filter(|entry| entry.metric == metric);
    let mut points: Vec<(f64, f64, Option<f64>)> =
        of_metric.filter_map(|entry| Some((x(&entry.case)?, entry.value, entry.reference_value))).collect();
    points.sort_by(|a, b| a.0.total_cmp(&b.0));
    let reference = points.iter().filter_map(|&(x, _, reference)| Some((x, reference?))).collect();
    let values = points.iter().map(|&(x, value, _)| (x, value)).collect();
    [(names[0], values), (names[1], reference)].map(|(name, points)| Series { name: name.into(), points })
}

fn over_time(entries: &[Entry], layout: Layout, load: &str) -> Series {
    let points = entries.iter().filter_map(|entry| match point_of(&entry.case)? {
        (of, what, second) if of == name(layout) && what == load => Some((second, entry.value)),
        _ => None,
    });
    let words = match layout {
        Layout::Unified => "one interface",
        Layout::Separate => "two interfaces",
    };
    Series { name: format!("{load}, {words}"), points: points.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Figure;

    fn entry(case: &str, value: f64, reference: f64) -> Entry {
        let figure = |value| Figure { value, spread: 0.0 };
        Entry::new("unified", case, "throughput", "unit", figure(value)).against("reference", figure(reference))
    }

    #[test]
    fn each_result_finds_its_chart() {
        let entries = [
            entry("steer/rules1000", 1.0, 1.2),
            entry("steer/rules10", 1.1, 1.3),
            entry("steer/rules10/frames", 2.0, 3.0),
            entry("aggregate/64", 100.0, 110.0),
            entry("aggregate/64/packets", 60.0, 66.0),
            entry("join/unified/packets/0.25", 200.0, 0.0),
            entry("join/separate/responses/0.25", 5.0, 0.0),
        ];
        let charts = charts(&entries);
        let series = |chart: usize| charts[chart].series.iter().map(|s| s.points.clone()).collect::<Vec<_>>();
        let rules =
            [vec![(10.0, 1.1), (1000.0, 1.0)], vec![(10.0, 1.3), (1000.0, 1.2)], vec![(10.0, 2.0)], vec![(10.0, 3.0)]];
        assert_eq!(series(0), rules);
        assert_eq!(series(1), [vec![(64.0, 100.0)], vec![(64.0, 110.0)]]);
        assert_eq!(series(2), [vec![(0.25, 200.0)], vec![(0.25, 5.0)]]);
    }
}
