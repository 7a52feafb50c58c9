//! Counts of tests, read from what the test runners print.

use std::fmt;
use std::ops::AddAssign;

/// How many tests did what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// Reads the closing line of a runner; `None` for every other line.
    pub(crate) fn read(line: &str) -> Option<Self> {
        read_nextest(line).or_else(|| read_libtest(line))
    }

    /// Moves tests that returned early, and that the runner counted as passed, to the skipped ones.
    pub(crate) fn skip_passed(&mut self, skipped: u64) {
        let moved = skipped.min(self.passed);
        self.passed -= moved;
        self.skipped += moved;
    }

    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

/// `     Summary [   0.015s] 12 tests run: 10 passed (1 slow), 1 failed, 1 timed out, 3 skipped`
///
/// What nextest calls skipped includes the tests that a filter left out, so it is not counted: ignored tests are asked
/// for with `nextest list`.
fn read_nextest(line: &str) -> Option<Tally> {
    let (_, counts) = line.trim_start().strip_prefix("Summary [")?.split_once("run: ")?;
    let mut tally = Tally::default();
    for (number, word) in counted(&without_parentheses(counts), ',') {
        match word {
            "passed" => tally.passed += number,
            "skipped" => {}
            // failed, exec failed, timed out
            _ => tally.failed += number,
        }
    }
    Some(tally)
}

/// `test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s`
fn read_libtest(line: &str) -> Option<Tally> {
    let (_, counts) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let mut tally = Tally::default();
    for (number, word) in counted(counts, ';') {
        match word {
            "passed" => tally.passed += number,
            "failed" => tally.failed += number,
            "ignored" => tally.skipped += number,
            _ => {}
        }
    }
    Some(tally)
}

fn counted(counts: &str, separator: char) -> impl Iterator<Item = (u64, &str)> {
    counts.split(separator).filter_map(|part| {
        let (number, word) = part.trim().split_once(' ')?;
        Some((number.parse().ok()?, word.trim()))
    })
}

fn without_parentheses(text: &str) -> String {
    let mut depth = 0u32;
    let outside = text.chars().filter(|letter| match letter {
        '(' => {
            depth += 1;
            false
        }
        ')' => {
            depth = depth.saturating_sub(1);
            false
        }
        _ => depth == 0,
    });
    outside.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Tally {
        Tally { passed, failed, skipped }
    }

    #[test]
    fn nextest_is_read() {
        let read = |line| Tally::read(line);
        assert_eq!(read("     Summary [   3.506s] 18 tests run: 18 passed, 0 skipped"), Some(tally(18, 0, 0)));
        assert_eq!(read("     Summary [   0.1s] 1 test run: 1 passed, 40 skipped"), Some(tally(1, 0, 0)));
        assert_eq!(read("     Summary [   0.1s] 0 tests run: 0 passed, 40 skipped"), Some(tally(0, 0, 0)));
        assert_eq!(
            read(
                "     Summary [  9.0s] 7/9 tests run: 4 passed (1 slow, 1 flaky), 1 failed, 1 exec failed, 1 timed out, 2 skipped"
            ),
            Some(tally(4, 3, 0))
        );
    }

    #[test]
    fn libtest_is_read() {
        assert_eq!(
            Tally::read(
                "test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 3 filtered out; finished in 0.00s"
            ),
            Some(tally(5, 0, 1))
        );
        assert_eq!(
            Tally::read(
                "test result: FAILED. 5 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.2s"
            ),
            Some(tally(5, 2, 0))
        );
    }

    #[test]
    fn other_lines_are_not_counted() {
        for line in ["running 3 tests", "test a ... ok", "        PASS [   0.1s] a b", "", "12 passed"] {
            assert_eq!(Tally::read(line), None, "{line}");
        }
    }

    #[test]
    fn tests_that_returned_early_are_skipped_not_passed() {
        let mut sum = tally(5, 1, 1);
        sum.skip_passed(2);
        assert_eq!(sum, tally(3, 1, 3));
        sum.skip_passed(9);
        assert_eq!(sum, tally(0, 1, 6));
        assert_eq!(sum.to_string(), "0 passed, 1 failed, 6 skipped");
    }
}
