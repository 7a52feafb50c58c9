//! Aligned columns for a terminal.

/// Lines of cells. The first column is aligned left, all others right.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these headings.
    pub fn new<S: Into<String>>(headings: impl IntoIterator<Item = S>) -> Self {
        Self { rows: vec![headings.into_iter().map(Into::into).collect()] }
    }

    /// Adds a line.
    pub fn row<S: Into<String>>(&mut self, cells: impl IntoIterator<Item = S>) {
        self.rows.push(cells.into_iter().map(Into::into).collect());
    }

    /// Whether there are headings alone.
    pub fn is_empty(&self) -> bool {
        self.rows.len() < 2
    }

    /// The lines, each indented by `indent` spaces and ended by a newline.
    pub fn render(&self, indent: usize) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        let mut text = String::new();
        for row in &self.rows {
            let mut line = " ".repeat(indent);
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = " ".repeat(width - cell.chars().count());
                match column {
                    0 => line.extend([cell.as_str(), &gap]),
                    _ => line.extend(["  ", &gap, cell]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A number with as many decimals as three or four digits need.
pub fn number(value: f64) -> String {
    match value.abs() {
        0.0 => "0".into(),
        v if v < 0.01 => format!("{value:.4}"),
        v if v < 1.0 => format!("{value:.3}"),
        v if v < 10.0 => format!("{value:.2}"),
        v if v < 100.0 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

/// A count with its thousands apart: `1 234 567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(|group| String::from_utf8_lossy(group).into_owned());
    groups.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["case", "Mpps"]);
        assert!(table.is_empty());
        table.row(["inline", "21.4"]);
        table.row(["µ", "7"]);
        table.row(["alone"]);
        assert!(!table.is_empty());
        assert_eq!(table.render(2), "  case    Mpps\n  inline  21.4\n  µ          7\n  alone\n");
    }

    #[test]
    fn numbers_keep_what_matters() {
        let texts: Vec<_> = [0.0, 0.001_23, 0.5, 21.44, 350.2, 12_345.0].into_iter().map(number).collect();
        assert_eq!(texts, ["0", "0.0012", "0.500", "21.4", "350", "12345"]);
    }

    #[test]
    fn counts_are_grouped() {
        let texts: Vec<_> = [0, 999, 1000, 1_234_567].into_iter().map(count).collect();
        assert_eq!(texts, ["0", "999", "1 000", "1 234 567"]);
    }
}
