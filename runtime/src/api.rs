//! The control API: one JSON object per line, over a socket that only the run's owner may open.
//!
//! ```text
//! -> {"type":"status"}
//! <- {"type":"status","name":"edge",...}
//! ```
//!
//! A line that is no request gets `{"type":"failed",...}`; a client that sends more than [`LINE_BYTES`] without a line's end, or
//! nothing for [`IDLE`], is cut off.

use middlenet_plan::{BrokerStats, Stats};
use middlenet_sdk::Kind;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// The longest line in bytes. Manifests travel in lines, so it is generous.
pub const LINE_BYTES: usize = 16 << 20;
/// How long a client may say nothing.
pub const IDLE: Duration = Duration::from_secs(30);
/// How long a command waits for an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a client may ask.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Request {
    /// Everything that is known of the run: [`Response::Status`].
    Status {
        /// Whether functions are asked for their reports.
        #[serde(default)]
        reports: bool,
    },
    /// Change the configuration of functions to that of this manifest: [`Response::Applied`] or [`Response::NeedsRestart`].
    Apply {
        /// Its text.
        manifest: String,
        /// The folder that its relative paths begin at.
        folder: String,
    },
    /// Start a new instance of each replica of a function beside the old, let it take over, stop the old:
    /// [`Response::Replaced`].
    Replace {
        /// The chain.
        chain: String,
        /// The function.
        function: String,
    },
    /// Drain and end the run: [`Response::Stopping`].
    Stop,
}

/// What a client is answered.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// Everything that is known.
    Status(Box<Status>),
    /// What was changed, a line each; empty when there was nothing to change.
    Applied {
        /// `chain/function`.
        changed: Vec<String>,
    },
    /// Nothing was changed, because these differences need a restart.
    NeedsRestart {
        /// A line each.
        differences: Vec<String>,
    },
    /// The new instances have taken over.
    Replaced {
        /// Process ids of the new instances.
        pids: Vec<u32>,
    },
    /// The run is ending.
    Stopping,
    /// It was not done.
    Failed {
        /// Why, in one sentence.
        message: String,
        /// The remedy.
        hint: Option<String>,
    },
}

impl Response {
    /// A failure.
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed { message: message.into(), hint: None }
    }
}

/// A run at a moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Status {
    /// Name of the run.
    pub name: String,
    /// Path of its manifest.
    pub manifest: String,
    /// Process id of the supervisor.
    pub pid: u32,
    /// `starting`, `running`, `degraded` (something is down), `stopping`, `stopped`.
    pub state: String,
    /// Seconds since the supervisor started.
    pub uptime_s: f64,
    /// The nf-manager; its state is `unused` where no chain is of layer l2l3.
    pub manager: ProcessStatus,
    /// The message broker; nothing where no chain is of layer l4l7.
    #[serde(default)]
    pub broker: Option<ProcessStatus>,
    /// The chains as drawn by `check`.
    pub chains: Vec<ChainStatus>,
    /// Functions, in the order of hops: one entry per process, and one for an inline function, whichever workers call it.
    pub functions: Vec<FunctionStatus>,
    /// Counters of the nf-manager; nothing while it is down.
    pub data_plane: Option<Stats>,
    /// Counters of the message broker; nothing while it is down.
    #[serde(default)]
    pub messages: Option<BrokerStats>,
    /// What a person should know.
    pub notes: Vec<String>,
}

/// A process.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// Process id, while there is one.
    pub pid: Option<u32>,
    /// `starting`, `running`, `restarting`, `unused`.
    pub state: String,
    /// How often it was started anew.
    pub restarts: u64,
    /// Why it ended last time.
    pub last_exit: Option<String>,
}

/// A chain.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ChainStatus {
    /// Name.
    pub name: String,
    /// `l2l3` or `l4l7`.
    #[serde(default)]
    pub layer: String,
    /// `wan -> firewall -> lan`, one line per direction; `10.1.0.1:80 -> proxy -> upstreams`.
    pub lines: Vec<String>,
}

/// A function: one of its processes, or an inline function as a whole. Each worker of the data plane calls an instance of its own of an inline
/// function; what they hold and count is added up.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FunctionStatus {
    /// Hop id; each layer has its own.
    pub hop: u16,
    /// `l2l3` or `l4l7`.
    #[serde(default)]
    pub layer: String,
    /// Its chain.
    pub chain: String,
    /// Its name in the chain.
    pub name: String,
    /// What it is: a built-in function's name or a path.
    pub function: String,
    /// `inline` or `process`.
    pub placement: String,
    /// Replica number.
    pub replica: u16,
    /// Its process; the data plane's for an inline function.
    pub process: ProcessStatus,
    /// Cores it may use; those of the workers that call it, for an inline function.
    pub cores: Vec<usize>,
    /// The user that its process runs under: a name, or a number that has none. Nothing for an inline function.
    #[serde(default)]
    pub user: Option<String>,
    /// How far its process is confined: all of `no-capabilities`, `no-new-privileges`, `seccomp` that the kernel shows. Landlock, the kernel
    /// does not show.
    #[serde(default)]
    pub confined: Vec<String>,
    /// Packets or messages that it holds now.
    pub held_pkts: u64,
    /// Its counters.
    pub counters: Vec<CounterStatus>,
    /// What it reports of itself; null if it was not asked or has nothing to say. Of an inline function that several workers call it is an array
    /// of their instances' reports, in the order of `cores`.
    pub report: Value,
}

/// A counter of a function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CounterStatus {
    /// Name.
    pub name: String,
    /// What is counted.
    pub help: String,
    /// Counter or gauge.
    pub kind: Kind,
    /// Its value now. Of an inline function, gauges too are sums over the workers' instances: what two of them know counts twice.
    pub value: u64,
}

/// Why a run could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nothing listens.
    #[error("the run does not answer on {path}: {source}")]
    Connect {
        /// The socket.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// It went away, or took too long.
    #[error("the run did not answer: {0}")]
    Io(#[from] std::io::Error),
    /// The answer was none.
    #[error("the run's answer is not understood: {0}")]
    Form(#[from] serde_json::Error),
}

/// The client's side of the socket.
#[derive(Debug)]
pub struct Client(BufReader<UnixStream>);

impl Client {
    /// Connects to a run.
    ///
    /// # Errors
    /// [`ClientError::Connect`].
    pub fn connect(path: &Path) -> Result<Self, ClientError> {
        let connect = |source| ClientError::Connect { path: path.display().to_string(), source };
        let stream = UnixStream::connect(path).map_err(connect)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Asks and waits for the answer.
    ///
    /// # Errors
    /// When the run goes away or sends something else.
    pub fn ask(&mut self, request: &Request) -> Result<Response, ClientError> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.0.get_mut().write_all(&line)?;
        let mut answer = Vec::new();
        (&mut self.0).take(4 * LINE_BYTES as u64).read_until(b'\n', &mut answer)?;
        if answer.is_empty() {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        Ok(serde_json::from_slice(&answer)?)
    }
}
