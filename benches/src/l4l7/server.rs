//! Servers and load generators: foreground children on a core of their own, which end with us.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use middlenet_tests::{Netns, Process};

use crate::BenchError;
use crate::run::go_on;
pub(crate) use crate::tool::Tool;

/// How long one may take until it accepts connections.
const START_PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to end.
const END_PATIENCE: Duration = Duration::from_secs(5);
/// Between two attempts to connect.
const POLL: Duration = Duration::from_millis(5);

impl Tool {
    /// A command of it on one core, perhaps in a namespace, which gets SIGTERM should we end without a word.
    ///
    /// # Errors
    /// When it is not installed.
    pub(crate) fn command(self, core: usize, netns: Option<&Netns>) -> Result<Command, BenchError> {
        let program = self.path()?;
        let mut command = netns.map_or_else(|| Command::new("taskset"), |netns| netns.command("taskset"));
        command.args(["-c", &core.to_string(), "setpriv", "--pdeathsig", "TERM"]).arg(program);
        // A terminal's Ctrl-C is for us: we say when they stop.
        command.process_group(0);
        Ok(command)
    }
}

/// A server. Dropping it asks it to end, so that it ends its own children, and waits.
#[derive(Debug)]
pub(crate) struct Server {
    process: Option<Process>,
}

impl Server {
    /// Starts one; returns when all its addresses accept connections.
    ///
    /// # Errors
    /// When it does not get there; what it said is in the error.
    pub(crate) fn start(
        mut command: Command,
        netns: Option<&Netns>,
        addresses: &[SocketAddr],
    ) -> Result<Self, BenchError> {
        go_on()?;
        let mut server = Self { process: Some(Process::spawn(&mut command)?) };
        for &address in addresses {
            server.wait_for(netns, address)?;
        }
        Ok(server)
    }

    fn wait_for(&mut self, netns: Option<&Netns>, address: SocketAddr) -> Result<(), BenchError> {
        let connect = || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok();
        let start = Instant::now();
        loop {
            go_on()?;
            let connected = match netns {
                Some(netns) => netns.enter(connect)?,
                None => connect(),
            };
            let runs = self.process.as_mut().is_some_and(Process::is_running);
            match (runs, connected) {
                // Whoever else answers there is not what was started.
                (false, _) => return Err(self.ended()),
                (true, true) => return Ok(()),
                (true, false) if start.elapsed() >= START_PATIENCE => {
                    return Err(BenchError::Failed(format!("nobody listens on {address}: {}", self.said())));
                }
                (true, false) => std::thread::sleep(POLL),
            }
        }
    }

    /// An end before its time, with all that it said.
    fn ended(&mut self) -> BenchError {
        let output = self.process.take().map(|process| process.wait(END_PATIENCE));
        match output {
            Some(Ok(output)) => {
                let said = one_line(&(output.stderr + &output.stdout));
                BenchError::Failed(format!("a server ended at its start with {}: {said}", output.status))
            }
            Some(Err(error)) => error.into(),
            None => BenchError::Failed("a server ended at its start".into()),
        }
    }

    fn said(&self) -> String {
        self.process.as_ref().map(|p| one_line(&(p.stderr() + &p.stdout()))).unwrap_or_default()
    }

    /// The pid of the first of its processes.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(process) = self.process.take() {
            // Killed after its patience, which is all that can be done here.
            let _ = process.stop(END_PATIENCE);
        }
    }
}

fn one_line(text: &str) -> String {
    text.trim().replace('\n', "; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_says_why() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo no such luck >&2; exit 1"]);
        let error = Server::start(command, None, &[SocketAddr::from(([127, 0, 0, 1], 1))]).unwrap_err();
        assert!(error.to_string().contains("no such luck"), "{error}");
    }
}
