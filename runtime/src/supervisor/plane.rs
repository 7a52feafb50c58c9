//! A data plane: its process, what it was asked, and its restarts.

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use middlenet_fast_path::MapKind;
use middlenet_sdk::PortInfo;
use middlenet_shm::Region;

use super::backoff::Backoff;
use super::changes::Taker;
use super::process::Process;
use crate::api::ProcessStatus;
use crate::plan::{Plan, Plane};

/// How long a data plane may take to start; DPDK probes devices meanwhile.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long any other answer may take; draining an instance is the longest.
const PATIENCE: Duration = Duration::from_secs(10);

/// The answer that is awaited. A data plane answers in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    Started,
    Joined { slot: usize, instance: u64 },
    Detached,
    Changed(Taker),
    Steered { slot: usize, instance: u64 },
    Stats,
    Stopped,
}

impl Expected {
    pub(super) fn patience(self) -> Duration {
        match self {
            Self::Started | Self::Stopped => START_PATIENCE,
            _ => PATIENCE,
        }
    }
}

/// The maps that a function shares with its fast path, as long as their data plane lives.
#[derive(Debug)]
pub(super) struct SharedMaps {
    pub(super) hop: u16,
    pub(super) kinds: Vec<MapKind>,
    pub(super) maps: Vec<OwnedFd>,
}

/// What is there while it is open.
#[derive(Debug)]
pub(super) struct Up {
    pub(super) region: Region,
    pub(super) ports: Vec<PortInfo>,
    /// One per worker.
    pub(super) events: Vec<OwnedFd>,
    /// Of the hops whose fast paths are in the kernel.
    pub(super) fast_paths: Vec<SharedMaps>,
}

/// Where a data plane is on its way to the end of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    No,
    /// It drains.
    Asked,
    Done,
}

#[derive(Debug)]
pub(super) struct DataPlane {
    pub(super) plane: Plane,
    pub(super) process: Option<Process>,
    /// Made before the process starts, moved into `up` when it has.
    pub(super) region: Option<Region>,
    pub(super) up: Option<Up>,
    /// Maps that came before it is up, moved into `up` when it is.
    pub(super) fast_paths: Vec<SharedMaps>,
    pub(super) expected: VecDeque<(Expected, Instant)>,
    pub(super) retry: Option<Instant>,
    pub(super) backoff: Backoff,
    pub(super) restarts: u64,
    pub(super) last_exit: Option<String>,
    /// What it said when it started.
    pub(super) notes: Vec<String>,
    pub(super) hung: bool,
    /// Counts the statistics received, so that who waits knows a new one from an old one.
    pub(super) serial: u64,
    pub(super) end: End,
}

impl DataPlane {
    fn new(plane: Plane) -> Self {
        Self {
            plane,
            process: None,
            region: None,
            up: None,
            fast_paths: Vec::new(),
            expected: VecDeque::new(),
            retry: None,
            backoff: Backoff::default(),
            restarts: 0,
            last_exit: None,
            notes: Vec::new(),
            hung: false,
            serial: 0,
            end: End::No,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.is_some()
    }

    pub(super) fn expects(&self, what: Expected) -> bool {
        self.expected.iter().any(|(expected, _)| *expected == what)
    }

    pub(super) fn due(&self) -> Option<Instant> {
        let deadline = self.expected.front().map(|(expected, since)| *since + expected.patience());
        deadline.into_iter().chain(self.retry).min()
    }

    pub(super) fn kill(&mut self) {
        if let Some(process) = &mut self.process {
            process.kill();
        }
    }

    pub(super) fn status(&self) -> ProcessStatus {
        let state = match (&self.process, &self.up) {
            (Some(_), Some(_)) => "running",
            (Some(_), None) => "starting",
            (None, _) => "restarting",
        };
        ProcessStatus {
            pid: self.process.as_ref().map(Process::pid),
            state: state.into(),
            restarts: self.restarts,
            last_exit: self.last_exit.clone(),
        }
    }
}

/// The data planes of a run: one or both.
#[derive(Debug)]
pub(super) struct Planes(Vec<DataPlane>);

impl Planes {
    pub(super) fn of(plan: &Plan) -> Self {
        Self(plan.planes().map(DataPlane::new).collect())
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &DataPlane> {
        self.0.iter()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut DataPlane> {
        self.0.iter_mut()
    }

    pub(super) fn get(&self, plane: Plane) -> Option<&DataPlane> {
        self.0.iter().find(|p| p.plane == plane)
    }

    pub(super) fn get_mut(&mut self, plane: Plane) -> Option<&mut DataPlane> {
        self.0.iter_mut().find(|p| p.plane == plane)
    }

    pub(super) fn up(&self, plane: Plane) -> Option<&Up> {
        self.get(plane)?.up.as_ref()
    }
}
