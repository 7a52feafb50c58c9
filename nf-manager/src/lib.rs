//! The L2/L3 data plane: a process that owns the packet buffers, polls ports and rings, and runs packets through chains.
//!
//! The path of a packet:
//!
//! ```text
//! worker::turn
//!   receive   a burst from a port's queue (port.rs)                    -> descriptors, journey = (ingress, direction)
//!   go        to the chain's first hop (worker/route.rs)
//!     call        an inline function, or
//!     hand_over   to a function process: ledger.give, ring  ...  collect: ring, ledger.take (worker/lanes.rs)
//!     after       each packet's verdict -> its next target (graph.rs), those with the same target together
//!   leave     at the end of the chain: by which port?
//!   transmit  to that port's queue; what it does not take is dropped and counted
//! ```
//!
//! The control thread (`control.rs`) speaks with the runtime, opens ports (`open.rs`) and sends commands to workers; it
//! never touches a packet. Workers never lock, log, allocate per packet or make a system call per packet.
//!
//! **Architecture invariant:** the manager does not parse manifests and names no function: it executes a
//! [`middlenet_plan::ManagerPlan`] and finds inline functions in the registry.

#![forbid(unsafe_code)]

mod command;
mod control;
mod counters;
mod fast_path;
mod graph;
mod inline;
mod lane;
mod latency;
mod nic;
mod open;
mod port;
mod report;
mod running;
mod steering;
mod watch;
mod worker;

pub use control::{ServeError, serve};

/// Why the manager cannot do what it was asked: one sentence and perhaps a remedy.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ManagerError {
    /// The sentence.
    pub message: String,
    /// The remedy.
    pub hint: Option<String>,
}

impl ManagerError {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// An error of a port with its causes, as one sentence.
pub(crate) fn sentence(port: &str, error: &dyn std::error::Error) -> ManagerError {
    ManagerError::new(format!("port `{port}`: {}", with_causes(error)))
}

/// An error with its causes, as one sentence.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !message.contains(&inner_text) {
            message.push_str(": ");
            message.push_str(&inner_text);
        }
        cause = inner.source();
    }
    message
}
