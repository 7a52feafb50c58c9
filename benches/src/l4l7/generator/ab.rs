//! `ab`, the papers' generator: HTTP/1.0, connections kept or one for each request.

use super::{Seen, Target, number_after, output};
use crate::BenchError;
use crate::l4l7::server::Tool;
use crate::work_folder::WorkFolder;

const AB: Tool = Tool { program: "ab", package: "apache2-utils" };
/// More requests than it can send in any time; the time ends it.
const REQUESTS: &str = "100000000";
/// Share of responses on kept connections below which they were not kept.
const KEPT: f64 = 0.9;

pub(super) fn run(
    target: Target<'_>,
    concurrency: usize,
    seconds: u64,
    keep: bool,
    folder: &WorkFolder,
) -> Result<Seen, BenchError> {
    // What it prints are whole milliseconds; the file has microseconds.
    let file = folder.path().join("ab.csv");
    let text = output(AB, target, seconds, |command| {
        // A limit of time sets a number of requests of its own, so ours comes after it.
        command.args(["-q", "-r", "-t", &seconds.to_string(), "-n", REQUESTS, "-c", &concurrency.to_string()]);
        command.args(keep.then_some("-k")).arg("-e").arg(&file).arg(target.url());
    })?;
    let percentiles = std::fs::read_to_string(&file).map_err(BenchError::file(&file))?;
    let seen = parse(&text, &percentiles)
        .ok_or_else(|| BenchError::Failed(format!("ab says what cannot be read: {}", text.trim())))?;
    let kept: u64 = number_after(&text, "Keep-Alive requests:").unwrap_or(0);
    if keep && (kept as f64) < KEPT * seen.responses as f64 {
        let all = seen.responses;
        return Err(BenchError::Failed(format!("connections were not kept: {kept} of {all} responses on kept ones")));
    }
    Ok(seen)
}

fn parse(text: &str, percentiles: &str) -> Option<Seen> {
    let percentile = |percent: &str| {
        let milliseconds = percentiles.lines().find_map(|line| line.strip_prefix(percent)?.strip_prefix(','))?;
        Some(milliseconds.trim().parse::<f64>().ok()? * 1e3)
    };
    let failed: u64 = number_after(text, "Failed requests:")?;
    Some(Seen {
        rate: number_after(text, "Requests per second:")?,
        p50_us: percentile("50")?,
        p99_us: percentile("99")?,
        responses: number_after(text, "Complete requests:")?,
        failed: failed + number_after::<u64>(text, "Non-2xx responses:").unwrap_or(0),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
This is ApacheBench, Version 2.3 <$Revision$>

Benchmarking 127.0.0.1 (be patient).....done


Server Software:        nginx/1.22.1
Document Path:          /new/x
Document Length:        1024 bytes

Concurrency Level:      64
Time taken for tests:   1.000 seconds
Complete requests:      223184
Failed requests:        15
   (Connect: 0, Receive: 10, Length: 0, Exceptions: 5)
Non-2xx responses:      7
Keep-Alive requests:    223184
Total transferred:      262018016 bytes
Requests per second:    223178.87 [#/sec] (mean)
Time per request:       0.287 [ms] (mean)
Time per request:       0.004 [ms] (mean, across all concurrent requests)

Percentage of the requests served within a certain time (ms)
  50%      0
  99%      0
 100%      3 (longest request)
";
    const FILE: &str = "Percentage served,Time in ms\n0,0.051\n5,0.247\n50,0.278\n9,0.251\n99,0.541\n100,3.001\n";

    #[test]
    fn figures_come_from_the_text_and_microseconds_from_the_file() {
        let expected = Seen { rate: 223_178.87, p50_us: 278.0, p99_us: 541.0, responses: 223_184, failed: 22 };
        let seen = parse(TEXT, FILE).unwrap();
        assert_eq!(Seen { p50_us: seen.p50_us.round(), p99_us: seen.p99_us.round(), ..seen }, expected);
    }

    #[test]
    fn no_failure_needs_no_second_line() {
        let text = TEXT.replace("Non-2xx responses:      7\n", "").replace("requests:        15", "requests:        0");
        assert_eq!(parse(&text, FILE).unwrap().failed, 0);
    }

    #[test]
    fn half_an_output_is_none() {
        assert_eq!(parse(TEXT, "Percentage served,Time in ms\n0,0.051\n"), None);
        assert_eq!(parse("apr_socket_recv: Connection refused (111)\n", FILE), None);
    }
}
