//! ab, and what it saw.

use std::path::PathBuf;
use std::time::Duration;

use middlenet_tests::Process;
use serde::Serialize;

use crate::BenchError;
use crate::stage::Stage;
use crate::table::count;
use crate::tool::Tool;
use crate::work_folder::WorkFolder;

pub(in crate::demo) const AB: Tool = Tool { program: "ab", package: "apache2-utils" };

/// Requests under way at a time.
const CONCURRENCY: &str = "32";
/// More than it can send in any time: the time ends it.
const REQUESTS: &str = "100000000";
/// Beyond its time.
const PATIENCE: Duration = Duration::from_secs(15);

/// A load that is under way.
pub(in crate::demo) struct Load {
    process: Process,
    percentiles: PathBuf,
}

impl Load {
    /// Begins to send requests on kept connections, for some whole seconds.
    ///
    /// # Errors
    /// When ab cannot be started.
    pub(in crate::demo) fn start(
        stage: &Stage,
        folder: &WorkFolder,
        listen: &str,
        time: Duration,
    ) -> Result<Self, BenchError> {
        // What it prints are whole milliseconds; the file has microseconds.
        let percentiles = folder.path().join("ab.csv");
        let mut command = stage.client.command(AB.path()?);
        // A limit of time sets a number of requests of its own, so ours comes after it. `-r`: it goes on after errors; `-l`:
        // answers may differ in length; `-s`: seconds until it gives a request up.
        command.args(["-q", "-k", "-r", "-l", "-s", "10", "-c", CONCURRENCY, "-t", &time.as_secs().to_string()]);
        command.args(["-n", REQUESTS, "-e"]).arg(&percentiles).arg(format!("http://{listen}/old/page"));
        Ok(Self { process: Process::spawn(&mut command)?, percentiles })
    }

    /// Waits for its end; returns what it saw.
    ///
    /// # Errors
    /// When it does not end well.
    pub(in crate::demo) fn wait(self) -> Result<Seen, BenchError> {
        let output = self.process.wait(PATIENCE)?;
        if !output.status.success() {
            let said = (output.stderr + &output.stdout).trim().replace('\n', "; ");
            return Err(BenchError::Failed(format!("ab ended with {}: {said}", output.status)));
        }
        let percentiles = std::fs::read_to_string(&self.percentiles).map_err(BenchError::file(&self.percentiles))?;
        Seen::read(&output.stdout, &percentiles)
            .ok_or_else(|| BenchError::Failed(format!("ab says what cannot be read: {}", output.stdout.trim())))
    }
}

/// What the clients saw.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::demo) struct Seen {
    /// Requests that came to an end.
    pub(in crate::demo) complete: u64,
    /// Of these: no connection, or no whole answer.
    pub(in crate::demo) failed: u64,
    /// Of these: answers with another status than 2xx.
    pub(in crate::demo) not_2xx: u64,
    pub(in crate::demo) rate_rps: f64,
    pub(in crate::demo) p50_ms: f64,
    pub(in crate::demo) p99_ms: f64,
    pub(in crate::demo) longest_ms: f64,
}

impl Seen {
    fn read(text: &str, percentiles: &str) -> Option<Self> {
        let number = |beginning: &str| -> Option<f64> {
            let rest = text.lines().find_map(|line| line.trim_start().strip_prefix(beginning))?;
            rest.split_whitespace().next()?.parse().ok()
        };
        let percentile = |percent: &str| -> Option<f64> {
            let ms = percentiles.lines().find_map(|line| line.strip_prefix(percent)?.strip_prefix(','))?;
            ms.trim().parse().ok()
        };
        Some(Self {
            complete: number("Complete requests:")? as u64,
            failed: number("Failed requests:")? as u64,
            not_2xx: number("Non-2xx responses:").unwrap_or(0.0) as u64,
            rate_rps: number("Requests per second:")?,
            p50_ms: percentile("50")?,
            p99_ms: percentile("99")?,
            longest_ms: number("100%")?,
        })
    }

    /// Requests that did not get what they asked for.
    pub(in crate::demo) fn bad(&self) -> u64 {
        self.failed + self.not_2xx
    }

    /// For people.
    pub(in crate::demo) fn lines(&self) -> [String; 2] {
        [
            format!(
                "what the clients saw: {} requests, {} answered with 200, {} with another status, {} failed",
                count(self.complete),
                count(self.complete.saturating_sub(self.bad())),
                count(self.not_2xx),
                count(self.failed)
            ),
            format!(
                "{} requests/s over all; {:.2} ms for half of them, {:.2} ms for 99 of 100, {:.0} ms at most",
                count(self.rate_rps as u64),
                self.p50_ms,
                self.p99_ms,
                self.longest_ms
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_come_from_the_text_and_times_from_the_file() {
        let text = "Complete requests:      2000\nFailed requests:        3\n   (Connect: 0, Receive: 2, Length: 0, \
                    Exceptions: 1)\nNon-2xx responses:      7\nRequests per second:    999.50 [#/sec] (mean)\n\
                    \x20 50%      0\n 100%     41 (longest request)\n";
        let file = "Percentage served,Time in ms\n0,0.051\n5,0.1\n50,0.278\n99,0.541\n";
        let seen = Seen::read(text, file).unwrap();
        let expected = Seen {
            complete: 2000,
            failed: 3,
            not_2xx: 7,
            rate_rps: 999.5,
            p50_ms: 0.278,
            p99_ms: 0.541,
            longest_ms: 41.0,
        };
        assert_eq!(seen, expected);
        assert_eq!(seen.bad(), 10);
        assert!(seen.lines()[0].contains("2 000 requests, 1 990 answered with 200"), "{:?}", seen.lines());
        assert_eq!(Seen::read("apr_socket_recv: Connection refused (111)\n", file), None);
    }
}
