//! Plays the runtime's part: starts the manager process, gives it a plan, and runs functions on threads of the test.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its part of it")]

pub mod functions;

use middlenet_plan::{
    ChainPlan, HopPlan, ManagerPlan, OnFailure, Placement, PortKind, PortPlan, Reply, Request, Stats, Target, Wait,
};
use middlenet_sdk::protocol::{FromFunction, SOCKET_VARIABLE, Start, ToFunction, VERSION};
use middlenet_sdk::{Channel, PortInfo, Registration, host};
use middlenet_shm::{ControlGeometry, ControlRegion, Pages, Region};
use serde_json::Value;
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

pub const SLOTS: u32 = 1024;

/// A chain `left -> hops -> right`, on one worker.
pub fn plan(left: PortKind, right: PortKind, hops: Vec<HopPlan>) -> ManagerPlan {
    let last = hops.len() as u16;
    let mut hops = hops;
    for (at, hop) in (0u16..).zip(hops.iter_mut()) {
        hop.next_forward = if at + 1 < last { Target::Hop(at + 1) } else { Target::Egress };
        hop.next_reverse = if at > 0 { Target::Hop(at - 1) } else { Target::Egress };
    }
    let (first, end) =
        if last == 0 { (Target::Egress, Target::Egress) } else { (Target::Hop(0), Target::Hop(last - 1)) };
    let port = |name: &str, kind| PortPlan { name: name.into(), kind, queues: 1, steering: None, isolated: false };
    ManagerPlan {
        name: "test".into(),
        buffers: 8192,
        buffer_bytes: 2048,
        workers: vec![0],
        wait: Wait::Auto,
        shares_core: false,
        ring_slots: SLOTS,
        ports: vec![port("left", left), port("right", right)],
        hops,
        chains: vec![ChainPlan {
            name: "chain".into(),
            left: 0,
            right: vec![1],
            entry_forward: first,
            entry_reverse: end,
        }],
        lockstep: false,
        unprivileged: true,
    }
}

/// A hop that runs a registered function.
pub fn hop(function: &str, placement: Placement, config: Value) -> HopPlan {
    HopPlan {
        name: function.into(),
        function: function.into(),
        config,
        placement,
        replicas: 1,
        on_failure: OnFailure::Drop,
        chain: 0,
        next_forward: Target::Egress,
        next_reverse: Target::Egress,
        outputs: Vec::new(),
        steering: Vec::new(),
        fast_path: None,
        peers: Vec::new(),
    }
}

pub fn null(index: u8, size: u16) -> PortKind {
    PortKind::Dpdk { device: format!("net_null{index},size={size}") }
}

pub fn dpdk(device: &str) -> PortKind {
    PortKind::Dpdk { device: device.into() }
}

/// The manager process under test.
pub struct Manager {
    child: Child,
    channel: Channel,
    region: Region,
    pub ports: Vec<PortInfo>,
    pub notes: Vec<String>,
    events: Vec<OwnedFd>,
    buffer_bytes: u32,
    workers: u16,
}

impl Manager {
    pub fn start(plan: ManagerPlan) -> Self {
        Self::try_start(plan).unwrap_or_else(|(message, hint)| panic!("{message} ({hint:?})"))
    }

    pub fn try_start(plan: ManagerPlan) -> Result<Self, (String, Option<String>)> {
        let (channel, theirs) = Channel::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_middlenet-nf-manager"))
            .env(SOCKET_VARIABLE, "0")
            .stdin(Stdio::from(theirs.into_fd()))
            .spawn()
            .unwrap();
        let bytes = (plan.buffers * plan.buffer_bytes) as usize;
        let region = Region::create("packets", bytes, Pages::Auto).unwrap();
        let (buffer_bytes, workers) = (plan.buffer_bytes, plan.workers.len() as u16);
        channel.send(&Request::Start { plan }, &[region.fd()]).unwrap();
        let mut manager = Self {
            child,
            channel,
            region,
            ports: Vec::new(),
            notes: Vec::new(),
            events: Vec::new(),
            buffer_bytes,
            workers,
        };
        match manager.receive() {
            (Reply::Started { ports, notes }, events) => {
                (manager.ports, manager.notes, manager.events) = (ports, notes, events);
                Ok(manager)
            }
            (Reply::Failed { message, hint }, _) => Err((message, hint)),
            (other, _) => panic!("{other:?}"),
        }
    }

    fn receive(&self) -> (Reply, Vec<OwnedFd>) {
        self.channel.receive_within(Duration::from_secs(20)).expect("the manager answers")
    }

    pub fn ask(&self, request: &Request) -> Reply {
        self.channel.send(request, &[]).unwrap();
        self.receive().0
    }

    pub fn stats(&self) -> Stats {
        match self.ask(&Request::Stats) {
            Reply::Stats(stats) => *stats,
            other => panic!("{other:?}"),
        }
    }

    pub fn wait_finished(&self) {
        assert!(matches!(self.receive().0, Reply::Finished));
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Stops the data plane; every packet and every buffer must be accounted for.
    pub fn stop(mut self) -> Stats {
        let Reply::Stopped(stats) = self.ask(&Request::Stop { drain_ms: 2000 }) else { panic!("not stopped") };
        assert!(self.child.wait().unwrap().success());
        let sums = &stats.conservation;
        assert!(sums.packets_balance(), "packets are missing: {sums:?}");
        assert_eq!(sums.held_pkts, 0, "{sums:?}");
        assert_eq!(sums.buffers_free, sums.buffers, "buffers are missing: {sums:?}");
        *stats
    }

    /// A control region for a new instance, and the message that hands it over.
    pub fn control(&self) -> ControlRegion {
        ControlRegion::create("control", ControlGeometry { workers: self.workers, slots: SLOTS }).unwrap()
    }

    /// Gives an instance with this control region its traffic.
    pub fn attach(&self, hop: u16, replica: u16, control: &ControlRegion) {
        self.channel.send(&Request::Attach { hop, replica, declared: None }, &[control.fd()]).unwrap();
        assert!(matches!(self.receive().0, Reply::Done));
    }

    /// The packets region, for a peer that plays a function by hand.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Runs a function on a thread, attached to a hop.
    pub fn function(
        &self,
        hop: u16,
        replica: u16,
        registration: &Registration,
        config: Value,
        cores: Vec<usize>,
    ) -> Function {
        let (channel, theirs) = Channel::pair().unwrap();
        let registration = registration.clone();
        let thread = std::thread::spawn(move || host::run(&registration, theirs.into_fd()));
        let start = Start {
            version: VERSION,
            name: "test".into(),
            config,
            ports: self.ports.clone(),
            outputs: Vec::new(),
            steering: Vec::new(),
            fast_path: None,
            wait: Wait::Auto,
            shares_core: cores.len() == 1,
            cores,
            logical_clock: false,
        };
        channel.send(&ToFunction::Start(start), &[]).unwrap();
        let (ready, _) = channel.receive_within::<FromFunction>(Duration::from_secs(5)).unwrap();
        assert!(matches!(ready, FromFunction::Ready { .. }), "{ready:?}");
        let control = self.control();
        let mut fds = vec![self.region.fd(), control.fd()];
        fds.extend(self.events.iter().map(AsFd::as_fd));
        channel.send(&ToFunction::Attach { buffer_bytes: self.buffer_bytes, skmsg: false }, &fds).unwrap();
        let (attached, _) = channel.receive_within::<FromFunction>(Duration::from_secs(5)).unwrap();
        assert!(matches!(attached, FromFunction::Attached), "{attached:?}");
        self.attach(hop, replica, &control);
        Function { channel: Some(channel), control, thread: Some(thread) }
    }
}

/// A function at work. Dropping it ends it.
pub struct Function {
    channel: Option<Channel>,
    pub control: ControlRegion,
    thread: Option<JoinHandle<Result<(), host::HostError>>>,
}

impl Drop for Function {
    fn drop(&mut self) {
        self.channel = None;
        self.control.function_doorbell().ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
