//! TCP flows by iperf3, each to a port of its own, so that each can be told from the others.

use std::os::unix::process::CommandExt;
use std::time::Duration;

use middlenet_tests::{Netns, Process};

use super::LOAD_CORE;
use crate::BenchError;
use crate::run::go_on;
use crate::tool::Tool;

const IPERF: Tool = Tool { program: "iperf3", package: "iperf3" };
/// What the servers listen on.
pub(super) const PORTS: [u16; 4] = [5201, 5202, 5203, 5204];
/// Of each flow: all four have no more packets under way than a ring of veth holds (256). Otherwise threads that take turns on a core
/// overflow them, up to a sixth of the packets were lost, and what was measured was how TCP takes that.
const WINDOW: &str = "80K";
/// Whatever the host's default is: with a window like this there is nothing to control, but BBR takes the shortest time it saw for
/// the path's, and where threads share a core a packet can wait for milliseconds after one that waited for none.
const CONGESTION_CONTROL: &str = "cubic";
const START_PATIENCE: Duration = Duration::from_secs(5);
/// Beyond the time of a transfer.
const END_PATIENCE: Duration = Duration::from_secs(10);

fn spawn(netns: &Netns, arguments: &[&str]) -> Result<Process, BenchError> {
    go_on()?;
    let mut command = netns.command("taskset");
    command.args(["-c", &LOAD_CORE.to_string(), "setpriv", "--pdeathsig", "TERM"]).arg(IPERF.path()?).args(arguments);
    // A terminal's Ctrl-C is for us.
    Ok(Process::spawn(command.process_group(0))?)
}

/// The servers of all ports; they end when this goes.
#[derive(Debug)]
pub(super) struct Servers(Vec<Process>);

impl Servers {
    /// Starts them; returns when all listen.
    ///
    /// # Errors
    /// When iperf3 is not installed, or does not listen.
    pub(super) fn start(netns: &Netns) -> Result<Self, BenchError> {
        let start = |port: &u16| spawn(netns, &["-s", "-p", &port.to_string(), "--forceflush"]);
        let mut servers = PORTS.iter().map(start).collect::<Result<Vec<_>, _>>()?;
        servers.iter_mut().try_for_each(|server| server.wait_for_output("Server listening", START_PATIENCE))?;
        Ok(Self(servers))
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.0.iter().map(Process::pid)
    }
}

/// A flow to each port.
#[derive(Debug)]
pub(super) struct Transfers {
    clients: Vec<Process>,
    time: Duration,
}

impl Transfers {
    /// Starts them, for some whole seconds.
    ///
    /// # Errors
    /// When iperf3 cannot be started.
    pub(super) fn start(netns: &Netns, server: &str, seconds: u64) -> Result<Self, BenchError> {
        let start = |port: &u16| {
            let line = format!("-c {server} -p {port} -t {seconds} -C {CONGESTION_CONTROL} -w {WINDOW}");
            spawn(netns, &line.split(' ').collect::<Vec<_>>())
        };
        let clients = PORTS.iter().map(start).collect::<Result<_, _>>()?;
        Ok(Self { clients, time: Duration::from_secs(seconds) })
    }

    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.clients.iter().map(Process::pid)
    }

    /// Waits for their end, and wants that each went well.
    ///
    /// # Errors
    /// When one did not.
    pub(super) fn end(self) -> Result<(), BenchError> {
        for client in self.clients {
            let output = client.wait(self.time + END_PATIENCE)?;
            go_on()?;
            if !output.status.success() {
                let said = (output.stderr + &output.stdout).trim().replace('\n', "; ");
                return Err(BenchError::Failed(format!("iperf3 ended with {}: {said}", output.status)));
            }
        }
        Ok(())
    }
}
