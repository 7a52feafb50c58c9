//! `wrk`: connections kept, one request under way on each.

use super::{Seen, Target, number_after, output};
use crate::BenchError;
use crate::l4l7::server::Tool;

const WRK: Tool = Tool { program: "wrk", package: "wrk" };

pub(super) fn run(target: Target<'_>, concurrency: usize, seconds: u64) -> Result<Seen, BenchError> {
    let text = output(WRK, target, seconds, |command| {
        command.args(["-t1", "--latency", &format!("-c{concurrency}"), &format!("-d{seconds}s"), &target.url()]);
    })?;
    parse(&text).ok_or_else(|| BenchError::Failed(format!("wrk says what cannot be read: {}", text.trim())))
}

fn parse(text: &str) -> Option<Seen> {
    // Before this line there are other percentages.
    let (_, distribution) = text.split_once("Latency Distribution")?;
    let percentile = |percent: &str| {
        let line = distribution.lines().find_map(|line| line.trim_start().strip_prefix(percent))?;
        microseconds(line.trim())
    };
    let requests = text.lines().find(|line| line.contains(" requests in "))?;
    Some(Seen {
        rate: number_after(text, "Requests/sec:")?,
        p50_us: percentile("50%")?,
        p99_us: percentile("99%")?,
        responses: requests.split_whitespace().next()?.parse().ok()?,
        failed: number_after(text, "Non-2xx or 3xx responses:").unwrap_or(0) + socket_errors(text),
    })
}

/// `Socket errors: connect 0, read 12, write 0, timeout 3`, a line that is there only if one is not 0.
fn socket_errors(text: &str) -> u64 {
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("Socket errors:")).unwrap_or_default();
    line.split(',').filter_map(|part| part.split_whitespace().nth(1)?.parse::<u64>().ok()).sum()
}

/// `33.00us`, `1.53ms`, `2.10s`, `1.20m`.
fn microseconds(text: &str) -> Option<f64> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.')?;
    let (value, unit) = text.split_at(digits);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        "h" => 3600e6,
        _ => return None,
    };
    Some(value.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "\
Running 1s test @ http://127.0.0.1:28081/new/x
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    51.89us  164.67us   3.95ms   99.16%
    Req/Sec   162.83k     4.99k  168.23k    70.00%
  Latency Distribution
     50%   38.00us
     75%   43.00us
     90%   57.00us
     99%    1.69ms
  161826 requests in 1.00s, 181.18MB read
Requests/sec: 161435.81
Transfer/sec:    180.75MB
";
    const BAD: &str = "\
Running 1s test @ http://127.0.0.1:28081/zzz
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    35.74us   39.31us   1.53ms   95.50%
    Req/Sec   184.90k     3.22k  188.96k    45.50%
  Latency Distribution
     50%    1.05s 
     75%   37.00us
     90%   55.00us
     99%   83.00us
  202280 requests in 1.10s, 59.42MB read
  Socket errors: connect 1, read 20, write 300, timeout 4000
  Non-2xx or 3xx responses: 202280
Requests/sec: 183928.70
Transfer/sec:     54.03MB
";

    #[test]
    fn rate_latency_and_responses_are_read() {
        let expected = Seen { rate: 161_435.81, p50_us: 38.0, p99_us: 1690.0, responses: 161_826, failed: 0 };
        assert_eq!(parse(GOOD), Some(expected));
    }

    #[test]
    fn every_kind_of_failure_counts() {
        let seen = parse(BAD).unwrap();
        assert_eq!((seen.failed, seen.p50_us, seen.p99_us), (4321 + 202_280, 1_050_000.0, 83.0));
    }

    #[test]
    fn half_an_output_is_none() {
        let cut = GOOD.find("Requests/sec").unwrap();
        assert_eq!(parse(&GOOD[..cut]), None);
        assert_eq!(parse("unable to connect to 127.0.0.1:28089 Connection refused\n"), None);
    }

    #[test]
    fn times_have_units() {
        assert_eq!(microseconds("1.20m"), Some(72_000_000.0));
        assert_eq!(microseconds("12"), None);
        assert_eq!(microseconds("1.2parsecs"), None);
    }
}
