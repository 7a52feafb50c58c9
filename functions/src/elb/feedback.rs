//! Weights from the load of servers.

use serde::Deserialize;

/// The load that is aimed at: below it a weight grows, above it shrinks.
const TARGET: f64 = 0.95;

/// How fast weights follow, and how far.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Adjustment {
    /// A in the formula, in units of the configured weight: how much a poll changes.
    pub step: f64,
    /// Least weight, in units of the configured one.
    pub least: f64,
    /// Largest weight, in units of the configured one.
    pub most: f64,
}

impl Default for Adjustment {
    fn default() -> Self {
        Self { step: 0.05, least: 0.1, most: 2.0 }
    }
}

/// The next weight of a server: `w' = w + A * cbrt(0.95 - load)`, within bounds that are in proportion to the configured weight
/// (W. Zhang, "Dynamic Feedback Load Balancing Scheduling", Linux Virtual Server project; reference 26 of eVNF).
///
/// `load` is from 0 (idle) to 1 (busy). The cube root is steep around the aim and flat far from it, so that weights settle.
pub(super) fn next_weight(weight: f64, configured: f64, load: f64, by: &Adjustment) -> f64 {
    let load = if load.is_finite() { load.clamp(0.0, 1.0) } else { return weight };
    let next = weight + by.step * configured * (TARGET - load).cbrt();
    next.clamp(by.least * configured, by.most * configured)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn weights_follow_the_formula() {
        let by = Adjustment { step: 5.0, least: 0.0, most: 100.0 };
        let near = |a: f64, b: f64| (a - b).abs() < 1e-9;
        assert!(near(next_weight(10.0, 1.0, 0.95, &by), 10.0));
        assert!(near(next_weight(10.0, 1.0, 0.95 - 0.125, &by), 10.0 + 5.0 * 0.5));
        assert!(near(next_weight(10.0, 1.0, 1.0, &by), 10.0 - 5.0 * 0.05_f64.cbrt()));
        assert!(near(next_weight(10.0, 1.0, f64::NAN, &by), 10.0));
    }

    #[test]
    fn the_busier_server_ends_with_the_smaller_weight() {
        let by = Adjustment::default();
        let (mut busy, mut idle) = (100.0, 100.0);
        for _ in 0..100 {
            busy = next_weight(busy, 100.0, 1.0, &by);
            idle = next_weight(idle, 100.0, 0.1, &by);
        }
        assert!((busy - 10.0).abs() < 1e-9 && (idle - 200.0).abs() < 1e-9, "{busy} {idle}");
    }

    proptest! {
        #[test]
        fn weights_stay_within_bounds(weight in 0.0..1000.0_f64, configured in 1.0..256.0_f64, load in -1.0..2.0_f64) {
            let by = Adjustment::default();
            let next = next_weight(weight, configured, load, &by);
            prop_assert!((by.least * configured..=by.most * configured).contains(&next));
        }
    }
}
