//! Columns of text.

use std::fmt::Write;

/// How a column is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Align {
    Left,
    Right,
}

/// A table with a head. A column whose name begins with `>` is aligned to the right.
#[derive(Debug, Clone)]
pub struct Table {
    head: Vec<String>,
    align: Vec<Align>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of these columns.
    pub fn new<const N: usize>(columns: [&str; N]) -> Self {
        let align = columns.map(|c| if c.starts_with('>') { Align::Right } else { Align::Left });
        Self {
            head: columns.iter().map(|c| c.trim_start_matches('>').to_owned()).collect(),
            align: align.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines of the table, each ending in a line break.
    pub fn render(&self) -> String {
        let lines = || std::iter::once(&self.head).chain(&self.rows);
        let width = |column: usize| lines().filter_map(|l| l.get(column)).map(|c| c.chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.head.len()).map(width).collect();
        let mut out = String::new();
        for line in lines() {
            let mut text = String::new();
            for ((cell, width), align) in line.iter().zip(&widths).zip(&self.align) {
                if !text.is_empty() {
                    text.push_str("  ");
                }
                let _ = match align {
                    Align::Left => write!(text, "{cell:<width$}"),
                    Align::Right => write!(text, "{cell:>width$}"),
                };
            }
            out.push_str(text.trim_end());
            out.push('\n');
        }
        out
    }
}

/// `1234567` as `1 234 567`: digits in groups are compared at a glance.
pub(super) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// A rate with its unit: `1.25 Mpps`.
pub(super) fn rate(per_second: f64, unit: &str) -> String {
    match per_second {
        r if r >= 1e9 => format!("{:.2} G{unit}", r / 1e9),
        r if r >= 1e6 => format!("{:.2} M{unit}", r / 1e6),
        r if r >= 1e3 => format!("{:.1} k{unit}", r / 1e3),
        r => format!("{r:.0} {unit}"),
    }
}

/// A duration in nanoseconds with its unit.
pub(super) fn nanoseconds(ns: u64) -> String {
    match ns {
        0 => "-".into(),
        n if n < 10_000 => format!("{n} ns"),
        n if n < 10_000_000 => format!("{:.1} us", n as f64 / 1e3),
        n => format!("{:.1} ms", n as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", ">COUNT"]);
        table.row(["a".into(), grouped(1_234_567)]);
        table.row(["longer".into(), grouped(12)]);
        assert_eq!(table.render(), "NAME        COUNT\na       1 234 567\nlonger         12\n");
    }

    #[test]
    fn figures_have_units() {
        assert_eq!([rate(0.0, "pps"), rate(1234.0, "pps"), rate(2.5e6, "pps")], ["0 pps", "1.2 kpps", "2.50 Mpps"]);
        assert_eq!([nanoseconds(0), nanoseconds(810), nanoseconds(12_300)], ["-", "810 ns", "12.3 us"]);
    }
}
