//! The hosts of the transfers, with one set of functions in the boxes.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::Sample;
use crate::BenchError;
use crate::bench::Bench;
use crate::hybrid::parties::Parties;
use crate::hybrid::row::{Host, Row};
use crate::hybrid::transfers::{PORTS, Servers, Transfers};
use crate::hybrid::{BOX_CORE, LOAD_CORE, filter};
use crate::run::{Run, pause};
use crate::sender::Sender;
use crate::stage::received;

const SERVER: &str = "10.72.0.2";
/// Where datagrams go; a socket is there that nobody reads.
const SINK: &str = "10.72.0.2:9";
/// The smallest frame, without FCS.
const SMALL_BYTES: usize = 60;
/// Until flows are classified and have found their speed.
const LEAD: Duration = Duration::from_millis(700);
/// How a protocol of ours is called.
const ELEPHANT: &str = "Elephant";
/// A port of that protocol to which nobody sends: the protocol is there even when no flow belongs to it.
const UNUSED_PORT: u16 = 5299;

/// The first box.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Firewall {
    /// There is none.
    None,
    /// `efw`.
    Efw,
    /// The same rules in netfilter.
    Iptables,
}

/// The second box, in which nothing routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inspection {
    /// `edpi` with its fast path, and so many of the flows elephants.
    Elephants(usize),
    /// `edpi` without a fast path.
    Legacy,
}

/// It goes with everything when this goes.
#[derive(Debug)]
pub(super) struct Site {
    // Programs end before their namespaces.
    runs: Vec<Run>,
    servers: Servers,
    _sink: UdpSocket,
    row: Row,
}

impl Site {
    /// Builds it, and waits until packets pass.
    ///
    /// # Errors
    /// Without the privilege to make namespaces, or when a program is missing or does not start.
    pub(super) fn start(bench: &Bench, firewall: Firewall, inspection: Inspection) -> Result<Self, BenchError> {
        let row = lay(firewall)?;
        let servers = Servers::start(&row.server().netns)?;
        let sink: std::io::Result<UdpSocket> = row.server().netns.enter(|| UdpSocket::bind(SINK))?;
        let sink = sink.map_err(|e| BenchError::Failed(format!("nobody can listen on {SINK}: {e}")))?;
        let signatures = bench.folder.write("signatures", signatures(inspection).as_bytes())?;
        let edpi = edpi(inspection, &signatures.display().to_string());
        let start = |host: &Host, function: Value| {
            Run::start(&bench.programs, &bench.folder, Some(&host.netns), manifest(host, function))
        };
        let mut runs = Vec::new();
        match firewall {
            Firewall::None => {}
            Firewall::Efw => runs.push(start(&row.boxes()[0], filter::efw(&PORTS))?),
            Firewall::Iptables => filter::in_kernel(&row.boxes()[0], &bench.folder, &PORTS)?,
        }
        runs.push(start(&row.boxes()[row.boxes().len() - 1], edpi)?);
        row.client().netns.exec("ping", ["-n", "-c", "2", "-i", "0.05", "-W", "5", SERVER])?;
        Ok(Self { runs, servers, _sink: sink, row })
    }

    fn inspection(&mut self) -> Result<[u64; 2], BenchError> {
        let run = self.runs.last_mut().ok_or_else(|| BenchError::Failed("no run inspects".into()))?;
        let stats = run.stats()?;
        let hop = stats.hops.first().ok_or_else(|| BenchError::Failed("the run has no function".into()))?;
        let fast = hop.fast_path.as_ref().map_or(0, |fast| fast.hits);
        Ok([fast, hop.in_pkts])
    }

    /// Lets the flows run.
    ///
    /// # Errors
    /// When one fails.
    pub(super) fn transfers(&mut self, time: Duration) -> Result<Sample, BenchError> {
        // iperf3 takes whole seconds, and its connections are to outlast the time.
        let seconds = time.as_secs() + 2;
        let transfers = Transfers::start(&self.row.client().netns, SERVER, seconds)?;
        let sample = self.sample(time, transfers.pids())?;
        transfers.end()?;
        Ok(sample)
    }

    /// Lets the smallest packets come, as many as the client can send.
    ///
    /// # Errors
    /// When they cannot be sent.
    pub(super) fn small_packets(&mut self, time: Duration) -> Result<Sample, BenchError> {
        let sink: SocketAddr = SINK.parse().map_err(|_| BenchError::Failed(format!("`{SINK}` is no address")))?;
        let sender = Sender::start_with(&self.row.client().netns, sink, LOAD_CORE, None, SMALL_BYTES)?;
        let sample = self.sample(time, [])?;
        drop(sender);
        Ok(sample)
    }

    fn sample(&mut self, time: Duration, clients: impl IntoIterator<Item = u32>) -> Result<Sample, BenchError> {
        pause(LEAD)?;
        let boxes = self.row.boxes();
        let mut roots: Vec<Vec<u32>> = boxes.iter().map(|host| host.threads().collect()).collect();
        for (roots, run) in roots.iter_mut().rev().zip(self.runs.iter().rev()) {
            roots.extend(run.pid());
        }
        let load = self.row.client().threads().chain(self.row.server().threads()).chain(self.servers.pids());
        let parties = Parties::new(roots, load.chain(clients).collect());
        let before = self.inspection()?;
        let (server, device) = (&self.row.server().netns, self.row.server().devices()[0].to_owned());
        let (arrived, used) = parties.during(|| {
            let (start, before) = (Instant::now(), received(server, &device)?);
            pause(time)?;
            let (seconds, after) = (start.elapsed().as_secs_f64(), received(server, &device)?);
            Ok([after.bytes - before.bytes, after.pkts - before.pkts].map(|count| count as f64 / seconds))
        })?;
        let after = self.inspection()?;
        let [fast, slow] = [0, 1].map(|at| after[at].saturating_sub(before[at]) as f64);
        Ok(Sample {
            bits_per_s: arrived[0] * 8.0,
            packets_per_s: arrived[1],
            fast_share: if fast > 0.0 { fast / (fast + slow) } else { 0.0 },
            used,
        })
    }

    pub(super) fn stop(self) -> Result<(), BenchError> {
        self.runs.into_iter().try_for_each(|run| run.stop().map(drop))
    }
}

fn lay(firewall: Firewall) -> Result<Row, BenchError> {
    let outer = [Some("10.71.0.2/24"), Some("10.71.0.1/24")];
    let inner = [None, Some("10.72.0.2/24")];
    if firewall == Firewall::None {
        return Row::lay(&["client", "dpi", "server"], &[[Some("10.72.0.1/24"), None], inner]);
    }
    let row = Row::lay(&["client", "fw", "dpi", "server"], &[outer, [Some("10.72.0.1/24"), None], inner])?;
    row.client().route("default", "10.71.0.1")?;
    row.server().route("default", "10.72.0.1")?;
    Ok(row)
}

/// nDPI's own format.
fn signatures(inspection: Inspection) -> String {
    let elephants = match inspection {
        Inspection::Elephants(count) => &PORTS[..count],
        Inspection::Legacy => &[],
    };
    let mut text = String::new();
    for port in elephants.iter().chain([&UNUSED_PORT]) {
        let _ = writeln!(text, "tcp:{port}@{ELEPHANT}");
    }
    text
}

fn edpi(inspection: Inspection, signatures: &str) -> Value {
    let mut edpi = json!({ "config": { "signatures": signatures, "elephants": [{ "protocols": [ELEPHANT] }] } });
    if inspection != Inspection::Legacy {
        edpi["mode"] = Value::from("reactive");
    }
    json!({ "edpi": edpi })
}

fn manifest(host: &Host, function: Value) -> Value {
    let devices = host.devices();
    json!({
        "ports": { "left": { "xdp": devices[0] }, "right": { "xdp": devices[1] } },
        "cores": { "manager": [BOX_CORE], "functions": [BOX_CORE] },
        "chains": { "transit": { "ports": ["left", "right"], "functions": [function] } },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_ports_are_elephants() {
        assert_eq!(signatures(Inspection::Elephants(0)), "tcp:5299@Elephant\n");
        assert_eq!(signatures(Inspection::Elephants(2)), "tcp:5201@Elephant\ntcp:5202@Elephant\ntcp:5299@Elephant\n");
        assert_eq!(edpi(Inspection::Legacy, "x")["edpi"]["mode"], Value::Null);
        assert_eq!(edpi(Inspection::Elephants(0), "x")["edpi"]["mode"], "reactive");
    }
}
