//! Results in the form that all benchmarks share.

mod host;

pub use host::{Host, Versions};

use crate::statistics::Figure;
use serde::Serialize;
use std::fs;
use std::path::Path;

use crate::BenchError;

/// All that a benchmark writes.
#[derive(Debug, Serialize)]
pub struct Outcome {
    /// Where it ran.
    pub host: Host,
    /// What was built from what.
    pub versions: Versions,
    /// The figures.
    pub results: Vec<Entry>,
}

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Entry {
    /// `l2l3`.
    pub bench: String,
    /// `inline/router+l2fwd/64`.
    pub case: String,
    /// `throughput`.
    pub metric: String,
    /// `Mpps`.
    pub unit: String,
    /// Median of the repetitions.
    pub value: f64,
    /// Largest less smallest repetition.
    pub spread: f64,
    /// What it is compared with, measured in the same run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The reference's value, in the same unit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference_value: Option<f64>,
    /// `value` divided by `reference_value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
}

impl Entry {
    /// A figure without a reference.
    pub fn new(bench: &str, case: &str, metric: &str, unit: &str, figure: Figure) -> Self {
        Self {
            bench: bench.into(),
            case: case.into(),
            metric: metric.into(),
            unit: unit.into(),
            value: rounded(figure.value),
            spread: rounded(figure.spread),
            reference: None,
            reference_value: None,
            ratio: None,
        }
    }

    /// With a reference of the same unit. One that is 0 gives no ratio.
    #[must_use]
    pub fn against(mut self, reference: &str, figure: Figure) -> Self {
        let ratio = self.value / figure.value;
        self.reference = Some(reference.into());
        self.reference_value = Some(rounded(figure.value));
        self.ratio = ratio.is_finite().then(|| rounded(ratio));
        self
    }
}

/// To five significant digits: more would pretend an accuracy that no repetition has.
fn rounded(value: f64) -> f64 {
    format!("{value:.4e}").parse().unwrap_or(value)
}

impl Outcome {
    /// Writes one JSON object.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), BenchError> {
        let mut text = serde_json::to_vec_pretty(self).map_err(|e| BenchError::Failed(e.to_string()))?;
        text.push(b'\n');
        fs::write(path, text).map_err(BenchError::file(path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_is_written_as_the_design_has_it() {
        let entry = Entry::new(
            "l2l3",
            "inline/router+l2fwd/64",
            "throughput",
            "Mpps",
            Figure { value: 21.400_000_01, spread: 0.6 },
        );
        assert_eq!(
            serde_json::to_value(&entry).unwrap(),
            json!({ "bench": "l2l3", "case": "inline/router+l2fwd/64", "metric": "throughput", "unit": "Mpps",
                    "value": 21.4, "spread": 0.6 })
        );
        let entry = entry.against("testpmd-mac", Figure { value: 80.0, spread: 1.0 });
        assert_eq!(
            serde_json::to_value(&entry).unwrap(),
            json!({ "bench": "l2l3", "case": "inline/router+l2fwd/64", "metric": "throughput", "unit": "Mpps",
                    "value": 21.4, "spread": 0.6,
                    "reference": "testpmd-mac", "reference_value": 80.0, "ratio": 0.2675 })
        );
    }

    #[test]
    fn a_reference_of_nothing_gives_no_ratio() {
        let entry = Entry::new("l2l3", "x", "cpu", "cores", Figure { value: 1.0, spread: 0.0 });
        assert_eq!(entry.against("y", Figure { value: 0.0, spread: 0.0 }).ratio, None);
    }

    #[test]
    fn figures_are_rounded_to_what_they_can_mean() {
        assert_eq!(rounded(12.345_678), 12.346);
        assert_eq!(rounded(0.000_123_456_7), 0.000_123_46);
        assert_eq!(rounded(0.0), 0.0);
    }
}
