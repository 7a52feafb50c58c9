//! What is wrong with a manifest, and where.

use miette::{GraphicalReportHandler, GraphicalTheme, LabeledSpan, NamedSource, SourceCode};
use serde::Serialize;
use std::fmt::Write as _;
use std::ops::Range;

/// One thing that is wrong: a sentence, its place, and how to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Bytes of the source.
    pub span: Range<usize>,
    /// One sentence without its full stop.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl Diagnostic {
    /// A sentence about a place.
    pub fn new(span: Range<usize>, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), hint: None }
    }

    /// Adds the remedy.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        self.with_optional_hint(Some(hint.into()))
    }

    /// Adds the remedy, if there is one.
    #[must_use]
    pub fn with_optional_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

/// A diagnostic with its place as people and editors count it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Placed {
    /// The file.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// The sentence.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

/// A manifest that cannot be run: everything that is wrong with it, in the order of the file.
#[derive(Debug, Clone)]
pub struct Refusal {
    file: String,
    source: String,
    diagnostics: Vec<Diagnostic>,
}

impl Refusal {
    /// Sorts what was found.
    pub fn new(file: impl Into<String>, source: impl Into<String>, mut diagnostics: Vec<Diagnostic>) -> Self {
        diagnostics.sort_by(|a, b| (a.span.start, &a.message).cmp(&(b.span.start, &b.message)));
        diagnostics.dedup();
        Self { file: file.into(), source: source.into(), diagnostics }
    }

    /// What is wrong.
    pub fn diagnostics(&self) -> &[Diagnostic] {
        &self.diagnostics
    }

    /// What is wrong, with lines and columns.
    pub fn placed(&self) -> Vec<Placed> {
        let place = |d: &Diagnostic| {
            let (line, column) = line_and_column(&self.source, d.span.start);
            Placed { file: self.file.clone(), line, column, message: d.message.clone(), hint: d.hint.clone() }
        };
        self.diagnostics.iter().map(place).collect()
    }

    /// For pipes and files: `file:line:column: sentence`, the line, and the hint.
    pub fn plain(&self) -> String {
        let mut out = String::new();
        for (diagnostic, placed) in self.diagnostics.iter().zip(self.placed()) {
            let Placed { file, line, column, message, hint } = placed;
            let text = self.source.lines().nth(line - 1).unwrap_or("");
            let number = line.to_string();
            let margin = " ".repeat(number.len());
            let _ = writeln!(out, "{file}:{line}:{column}: {message}");
            // A line of thousands of bytes (a generated file) would bury the sentence.
            if !text.trim().is_empty() && text.len() <= 400 {
                let marked = self.source.get(diagnostic.span.clone()).and_then(|s| s.lines().next()).unwrap_or("");
                let carets = "^".repeat(marked.chars().count().max(1));
                let _ = writeln!(out, "{margin} |\n{number} | {text}\n{margin} | {}{carets}", " ".repeat(column - 1));
            }
            if let Some(hint) = hint {
                let _ = writeln!(out, "{margin} = hint: {hint}");
            }
        }
        out
    }

    /// For terminals.
    pub fn graphical(&self, width: usize) -> String {
        let handler =
            GraphicalReportHandler::new_themed(GraphicalTheme::unicode()).with_width(width).with_context_lines(1);
        let named = NamedSource::new(&self.file, self.source.clone()).with_language("yaml");
        let mut out = String::new();
        for diagnostic in &self.diagnostics {
            let _ = handler.render_report(&mut out, &Graphical { diagnostic, text: &named });
        }
        out
    }

    /// Last line of a report: how much is wrong.
    pub fn summary(&self) -> String {
        match self.diagnostics.len() {
            1 => "1 error".into(),
            n => format!("{n} errors"),
        }
    }
}

/// What miette needs to draw one diagnostic.
#[derive(Debug, thiserror::Error)]
#[error("{}", .diagnostic.message)]
struct Graphical<'a> {
    diagnostic: &'a Diagnostic,
    text: &'a NamedSource<String>,
}

impl miette::Diagnostic for Graphical<'_> {
    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        self.diagnostic.hint.as_ref().map(|hint| Box::new(hint) as Box<dyn std::fmt::Display>)
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self.text)
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = self.diagnostic.span.clone();
        let one_line = self.text.inner().get(span.clone()).and_then(|s| s.lines().next()).map_or(0, str::len);
        Some(Box::new(std::iter::once(LabeledSpan::new(None, span.start, one_line))))
    }
}

/// Line and column of a byte, both from 1; columns count characters.
pub fn line_and_column(source: &str, byte: usize) -> (usize, usize) {
    let mut end = byte.min(source.len());
    while !source.is_char_boundary(end) {
        end -= 1;
    }
    let before = &source[..end];
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// ``did you mean `x`?`` for the closest of the names, if one is close.
pub fn did_you_mean<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(wrong, names).map(|name| format!("did you mean `{name}`?"))
}

/// The name that is close enough to be meant.
pub fn closest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wrong_folded = fold(wrong);
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&wrong_folded, &fold(name)), name))
        .filter(|(distance, name)| {
            *distance <= 1 + name.len().min(wrong.len()) / 4
                || (wrong.len() >= 3 && (name.contains(wrong) || wrong.contains(*name)))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Names differ in case and separators without differing in meaning.
fn fold(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_' | ' ')).flat_map(char::to_lowercase).collect()
}

/// `a, b or c`, each in backticks.
pub fn one_of<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.into_iter().map(|n| format!("`{n}`")).collect();
    match names.split_last() {
        None => "nothing".into(),
        Some((last, [])) => last.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_reports_name_the_place_and_show_the_line() {
        let source = "name: edge\nchainz: {}\n";
        let wrong = Diagnostic::new(11..17, "unknown key `chainz`").with_hint("did you mean `chains`?");
        let expected = "\
edge.yaml:2:1: unknown key `chainz`
  |
2 | chainz: {}
  | ^^^^^^
  = hint: did you mean `chains`?
";
        assert_eq!(Refusal::new("edge.yaml", source, vec![wrong]).plain(), expected);
    }

    #[test]
    fn graphical_reports_carry_the_same() {
        let wrong = Diagnostic::new(11..17, "unknown key `chainz`").with_hint("did you mean `chains`?");
        let out = Refusal::new("edge.yaml", "name: edge\nchainz: {}\n", vec![wrong]).graphical(80);
        for part in ["unknown key `chainz`", "edge.yaml:2:1", "did you mean `chains`?"] {
            assert!(out.contains(part), "{part} is missing in\n{out}");
        }
    }

    #[test]
    fn columns_count_characters() {
        assert_eq!(line_and_column("é: x", 4), (1, 4));
        assert_eq!(line_and_column("a\nb", 99), (2, 2));
    }

    #[test]
    fn close_names_are_offered_and_far_ones_not() {
        let names = ["firewall", "l3-router", "nat", "rate-limiter"];
        assert_eq!(closest("firewal", names), Some("firewall"));
        assert_eq!(closest("L3Router", names), Some("l3-router"));
        assert_eq!(closest("router", names), Some("l3-router"));
        assert_eq!(closest("nta", names), Some("nat"));
        assert_eq!(closest("ids", names), None);
    }
}
