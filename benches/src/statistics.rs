//! From repetitions to a figure.

/// Median of repetitions, and how far apart they lie.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Figure {
    /// The median; of an even number the mean of the middle two.
    pub value: f64,
    /// Largest less smallest.
    pub spread: f64,
}

impl Figure {
    /// Of at least one value; nothing otherwise. What is not a number is left out.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (first, last) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let value = match sorted.len() % 2 {
            1 => sorted[middle],
            _ => (sorted[middle - 1] + sorted[middle]) / 2.0,
        };
        Some(Self { value, spread: last - first })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_odd_and_even_numbers() {
        assert_eq!(Figure::of(&[3.0, 1.0, 2.5]), Some(Figure { value: 2.5, spread: 2.0 }));
        assert_eq!(Figure::of(&[4.0, 1.0, 2.0, 3.0]), Some(Figure { value: 2.5, spread: 3.0 }));
        assert_eq!(Figure::of(&[7.0]), Some(Figure { value: 7.0, spread: 0.0 }));
    }

    #[test]
    fn nothing_comes_of_nothing() {
        assert_eq!(Figure::of(&[]), None);
        assert_eq!(Figure::of(&[f64::NAN]), None);
        assert_eq!(Figure::of(&[f64::INFINITY, 1.0]), Some(Figure { value: 1.0, spread: 0.0 }));
    }
}
