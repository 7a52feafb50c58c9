//! The limit: `dpdk-testpmd` in mac forwarding mode on one core.

use std::process::Command;
use std::time::Duration;

use middlenet_tests::{Process, wait_until};

use crate::BenchError;

/// How long it may take to start and to print what is wanted.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long it may take to end.
const END_PATIENCE: Duration = Duration::from_secs(10);

/// Forwards between two virtual devices; returns packets per second, both directions summed.
///
/// Its first second covers its start, so the rate is that of the second `seconds` after the first.
///
/// # Errors
/// When it is not installed or prints no rates.
pub fn run(left: &str, right: &str, seconds: usize) -> Result<f64, BenchError> {
    let mut command = Command::new("dpdk-testpmd");
    command.args(["-l", "0-1", "--no-pci", "--in-memory"]);
    command.arg(format!("--vdev={left}")).arg(format!("--vdev={right}"));
    command.args(["--", "--forward-mode=mac", "--nb-cores=1", "--total-num-mbufs=16384", "--stats-period", "1"]);
    let process = Process::spawn(&mut command)?;
    let waited = wait_until("the output of dpdk-testpmd", PATIENCE, || rates(&process.stdout()).len() > seconds);
    let shown = process.stdout();
    let stopped = process.stop(END_PATIENCE);
    let measured = rates(&shown);
    if let Err(error) = waited {
        let said = stopped.map(|o| o.stderr).unwrap_or_default();
        let last = said.lines().last().unwrap_or_default();
        return Err(BenchError::Failed(format!("{error}; it said last: {last}")));
    }
    let counted = &measured[1..];
    Ok(counted.iter().sum::<f64>() / counted.len() as f64)
}

/// Packets sent per second by all ports, one entry per period for which both ports have been printed.
fn rates(output: &str) -> Vec<f64> {
    let mut periods: Vec<Vec<f64>> = Vec::new();
    for line in output.lines() {
        if line.contains("NIC statistics for port 0 ") {
            periods.push(Vec::new());
        }
        if let (Some(rest), Some(period)) = (line.trim().strip_prefix("Tx-pps:"), periods.last_mut()) {
            period.extend(rest.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()));
        }
    }
    periods.iter().filter(|ports| ports.len() == 2).map(|ports| ports.iter().sum()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: &str = "
  ######################## NIC statistics for port 0  ########################
  RX-packets: 39116544   RX-missed: 0          RX-bytes:  2503458816
  RX-errors: 0
  RX-nombuf:  0
  TX-packets: 39116512   TX-errors: 0          TX-bytes:  2503456768

  Throughput (since last show)
  Rx-pps:     38774120          Rx-bps:  19852351624
  Tx-pps:     38774100          Tx-bps:  19852351416
  ############################################################################

  ######################## NIC statistics for port 1  ########################
  TX-packets: 39116512   TX-errors: 0          TX-bytes:  2503456768

  Throughput (since last show)
  Rx-pps:     38774120          Rx-bps:  19852351624
  Tx-pps:     38774000          Tx-bps:  19852351416
  ############################################################################
";

    #[test]
    fn both_directions_are_summed_per_period() {
        assert_eq!(rates(&PERIOD.repeat(2)), [77_548_100.0, 77_548_100.0]);
    }

    #[test]
    fn a_period_that_is_cut_off_does_not_count() {
        let cut = PERIOD.find("port 1").unwrap();
        assert_eq!(rates(&PERIOD[..cut]), [] as [f64; 0]);
        assert_eq!(rates("EAL: Detected CPU lcores: 2"), [] as [f64; 0]);
    }
}
