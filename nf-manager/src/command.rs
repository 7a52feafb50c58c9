//! What the control thread asks of a worker. Each command is carried out between two bursts.

use crate::port::Queue;
use crate::steering::{Diverted, RuleSet};
use crossbeam_channel::Sender;
use middlenet_sdk::{DynFunction, Init};
use middlenet_shm::ControlRegion;
use serde_json::Value;
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// An inline function to be put in place.
pub(crate) struct Made {
    pub(crate) function: Box<dyn DynFunction>,
    pub(crate) init: Init,
}

/// From the control thread to one worker.
pub(crate) enum Command {
    /// Give this replica of a hop its traffic through these rings. What was there before is drained first.
    Attach { hop: u16, replica: u16, holder: u16, control: Arc<ControlRegion>, event: OwnedFd, done: Sender<()> },
    /// No more traffic to this replica.
    Detach { hop: u16, replica: u16, drain: bool, done: Sender<()> },
    /// Replace an inline function; the new one inherits the state of the old.
    Reconfigure { hop: u16, made: Box<Made>, done: Sender<()> },
    /// The report of an inline function.
    Report { hop: u16, done: Sender<Value> },
    /// Steer the packets of a port by these rules from now on.
    Steer { port: u8, rules: Arc<RuleSet>, done: Sender<()> },
    /// Send these flows, by port, elsewhere than the rules say.
    Divert { flows: Arc<Vec<(u8, Diverted)>>, done: Sender<()> },
    /// Give up the queue at a port, for as long as the port is being restarted: what was to leave by it is dropped.
    TakeQueue { port: u8, done: Sender<Option<Queue>> },
    /// Use this queue at a port from now on.
    GiveQueue { port: u8, queue: Queue },
    /// Receive nothing more.
    StopReceiving,
    /// Take everything back and return.
    Quit,
}
