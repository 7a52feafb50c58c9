//! ping and iperf3, and what they print.

use std::time::Duration;

use middlenet_tests::Process;
use serde::Serialize;
use serde_json::Value;

use super::{OPEN_PORT, SERVER};
use crate::BenchError;
use crate::stage::Stage;

/// Longer than any transfer of the demo.
const PATIENCE: Duration = Duration::from_secs(20);

/// What ping summed up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Ping {
    pub(super) sent: u64,
    pub(super) answered: u64,
    pub(super) least_ms: f64,
    pub(super) average_ms: f64,
    pub(super) most_ms: f64,
}

impl Ping {
    pub(super) fn parse(output: &str) -> Result<Self, BenchError> {
        Self::read(output).ok_or_else(|| BenchError::Failed(format!("ping printed no summary: {}", output.trim())))
    }

    fn read(output: &str) -> Option<Self> {
        let counts = output.lines().find(|line| line.contains("packets transmitted"))?;
        let number = |what: &str| {
            let part = counts.split(',').find(|part| part.contains(what))?;
            part.split_whitespace().next()?.parse().ok()
        };
        let times = output.lines().find_map(|line| line.strip_prefix("rtt ")?.split_once("= "))?.1;
        let mut times = times.split_whitespace().next()?.split('/').map(str::parse::<f64>);
        let mut time = || times.next()?.ok();
        Some(Self {
            sent: number("transmitted")?,
            answered: number("received")?,
            least_ms: time()?,
            average_ms: time()?,
            most_ms: time()?,
        })
    }
}

/// What iperf3 summed up. What does not apply to the protocol is 0.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(in crate::demo) struct Transfer {
    /// As the receiver saw it.
    pub(in crate::demo) received_bps: f64,
    /// TCP segments.
    pub(super) resent: u64,
    /// UDP.
    pub(super) datagrams: u64,
    /// UDP.
    pub(super) lost: u64,
    /// What was sent, by interval.
    pub(in crate::demo) intervals_bps: Vec<f64>,
}

impl Transfer {
    /// From the client to the server, to its end.
    pub(super) fn run(stage: &Stage, options: &[&str]) -> Result<Self, BenchError> {
        Self::parse(&Self::start(stage, options)?.wait(PATIENCE)?.stdout)
    }

    pub(super) fn start(stage: &Stage, options: &[&str]) -> Result<Process, BenchError> {
        Self::start_to(stage, SERVER, options)
    }

    /// From the client to a server of another address.
    pub(in crate::demo) fn start_to(stage: &Stage, server: &str, options: &[&str]) -> Result<Process, BenchError> {
        let port = OPEN_PORT.to_string();
        let arguments = ["-c", server, "-p", &port, "-J", "--connect-timeout", "3000"];
        Ok(stage.client.spawn("iperf3", arguments.iter().chain(options))?)
    }

    pub(in crate::demo) fn parse(output: &str) -> Result<Self, BenchError> {
        let value: Value = serde_json::from_str(output)
            .map_err(|e| BenchError::Failed(format!("iperf3 printed no JSON ({e}): {}", output.trim())))?;
        if let Some(error) = value["error"].as_str() {
            return Err(BenchError::Failed(format!("iperf3: {error}")));
        }
        let end = &value["end"];
        let udp = end["sum"]["lost_packets"].is_u64();
        let bps = |sum: &Value| sum["bits_per_second"].as_f64().unwrap_or(0.0);
        let whole = |value: &Value| value.as_u64().unwrap_or(0);
        let (datagrams, lost) = (whole(&end["sum"]["packets"]), whole(&end["sum"]["lost_packets"]));
        // Of UDP, older versions sum up only what was sent.
        let share = if udp { 1.0 - lost as f64 / datagrams.max(1) as f64 } else { 1.0 };
        let received = if udp { bps(&end["sum"]) * share } else { bps(&end["sum_received"]) };
        let intervals = value["intervals"].as_array().map(Vec::as_slice).unwrap_or_default();
        Ok(Self {
            received_bps: received,
            resent: whole(&end["sum_sent"]["retransmits"]),
            datagrams,
            lost,
            intervals_bps: intervals.iter().map(|interval| bps(&interval["sum"])).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_is_read_from_its_last_two_lines() {
        let output = "PING 10.2.0.2 (10.2.0.2) 56(84) bytes of data.\n\n--- 10.2.0.2 ping statistics ---\n\
                      20 packets transmitted, 19 received, 5% packet loss, time 970ms\n\
                      rtt min/avg/max/mdev = 0.055/0.091/0.234/0.040 ms\n";
        let expected = Ping { sent: 20, answered: 19, least_ms: 0.055, average_ms: 0.091, most_ms: 0.234 };
        assert_eq!(Ping::parse(output).unwrap(), expected);
        assert!(Ping::parse("ping: connect: Network is unreachable").is_err());
    }

    #[test]
    fn tcp_counts_what_the_receiver_got() {
        let output = r#"{"intervals":[{"sum":{"bits_per_second":2e9}},{"sum":{"bits_per_second":0.0}}],
            "end":{"sum_sent":{"bits_per_second":3e9,"retransmits":7},"sum_received":{"bits_per_second":2.5e9}}}"#;
        let expected =
            Transfer { received_bps: 2.5e9, resent: 7, intervals_bps: vec![2e9, 0.0], ..Transfer::default() };
        assert_eq!(Transfer::parse(output).unwrap(), expected);
    }

    #[test]
    fn udp_counts_what_was_not_lost() {
        let output = r#"{"intervals":[],"end":{"sum":{"bits_per_second":1e9,"packets":200,"lost_packets":50}}}"#;
        let expected = Transfer { received_bps: 7.5e8, datagrams: 200, lost: 50, ..Transfer::default() };
        assert_eq!(Transfer::parse(output).unwrap(), expected);
    }

    #[test]
    fn iperf3_says_why_it_failed() {
        let error = Transfer::parse(r#"{"error":"unable to connect to server"}"#).unwrap_err();
        assert_eq!(error.to_string(), "iperf3: unable to connect to server");
    }
}
