//! Opens the plan's ports and deals their queues out to the workers.

mod xdp;

pub(crate) use xdp::{OpenedXdp, XdpOpener, info};

use crate::nic::NicFlows;
use crate::port::{Capture, Clock, Queue, SharedWriter};
use crate::steering::tables;
use crate::{ManagerError, sentence};
use middlenet_bpf::{SteeredAttachment, XdpAttachment, XdpHook};
use middlenet_dpdk::{DpdkError, Eal, Pool, Port, PortConfig, Queues};
use middlenet_plan::{ManagerPlan, PortKind, PortPlan};
use middlenet_sdk::PortInfo;
use middlenet_steer::Tables;
use middlenet_xsk::{Promiscuous, Umem};
use std::collections::HashMap;
use std::sync::Arc;

/// A port's control side. Dropping it leaves the device as it was found.
pub(crate) enum Opened {
    Dpdk {
        /// What it is asked for, if it is isolated. Before the port, so that it is taken back first.
        flows: NicFlows,
        port: Port,
    },
    Xdp {
        program: XdpProgram,
        ifindex: u32,
        _promiscuous: Promiscuous,
    },
    Capture,
    /// An interface that is gone.
    Gone,
}

impl Opened {
    /// How statistics name it.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Dpdk { port, .. } => format!("dpdk {}", port.capabilities().driver),
            Self::Xdp { program, .. } => format!("xdp {}", program.hook().mode()),
            Self::Capture => "pcap".into(),
            Self::Gone => "gone".into(),
        }
    }
}

/// What is attached to the interface of an AF_XDP port.
pub(crate) enum XdpProgram {
    /// It hands over every packet.
    Plain(XdpAttachment),
    /// It goes by rules.
    Steered(Box<SteeredAttachment>),
}

impl XdpProgram {
    fn hook(&self) -> &XdpHook {
        match self {
            Self::Plain(attachment) => attachment,
            Self::Steered(attachment) => attachment,
        }
    }
}

/// All ports, open.
pub(crate) struct Ports {
    pub(crate) opened: Vec<Opened>,
    pub(crate) infos: Vec<PortInfo>,
    /// What a person should know.
    pub(crate) notes: Vec<String>,
    /// By worker, then by port.
    pub(crate) queues: Vec<Vec<Option<Queue>>>,
    /// The rules of ports that have some.
    pub(crate) tables: Vec<Option<Tables>>,
    /// To open an AF_XDP port again.
    pub(crate) xdp: XdpOpener,
}

/// What ports are opened with.
pub(crate) struct Opener<'a> {
    pub(crate) eal: &'a Eal,
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) clock: Clock,
    pub(crate) workers: usize,
    writers: HashMap<String, SharedWriter>,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(eal: &'a Eal, pool: &'a Arc<Pool>, workers: usize, clock: Clock) -> Self {
        Self { eal, pool, clock, workers, writers: HashMap::new() }
    }

    /// Opens every port, or none: what was opened before an error is closed again.
    pub(crate) fn open(mut self, plan: &ManagerPlan) -> Result<Ports, ManagerError> {
        let queues = (0..self.workers).map(|_| Vec::new()).collect();
        let mut notes = Vec::new();
        let xdp = XdpOpener::new(Umem::new(self.pool.buffers().clone()), plan, &mut notes)?;
        let mut ports = Ports { opened: Vec::new(), infos: Vec::new(), notes, queues, tables: Vec::new(), xdp };
        for (id, port) in (0..).zip(&plan.ports) {
            ports.tables.push(port.steering.as_ref().map(|steering| tables(&port.name, steering)).transpose()?);
            match &port.kind {
                PortKind::Dpdk { device } => self.open_dpdk(id, port, device, &mut ports)?,
                PortKind::Xdp { .. } => self.open_xdp(id, plan, &mut ports)?,
                PortKind::Pcap { read, write } => {
                    self.open_capture(id, port, read.as_deref(), write.as_deref(), &mut ports)?;
                }
            }
        }
        Ok(ports)
    }

    fn open_dpdk(&self, id: u8, plan: &PortPlan, device: &str, ports: &mut Ports) -> Result<(), ManagerError> {
        let refuse = |e| match e {
            DpdkError::Flow { .. } => sentence(&plan.name, &e)
                .hint("take the rules to `kernel` out, so that all packets are DPDK's; or use an `xdp` port"),
            e => sentence(&plan.name, &e),
        };
        let workers = self.workers as u16;
        let rx_queues = if plan.queues == 0 { workers } else { plan.queues };
        let config =
            PortConfig { rx_queues, tx_queues: workers, number: id, isolated: plan.isolated, ..PortConfig::default() };
        let mut port = Port::open(self.eal, device, self.pool, &config).map_err(refuse)?;
        let started = port.start().map_err(|e| sentence(&plan.name, &e))?;
        let mut flows = NicFlows::default();
        if let Some(steering) = plan.steering.as_ref().filter(|_| plan.isolated) {
            flows.add(&port, &plan.name, steering)?;
        }
        if rx_queues > 1 && !port.capabilities().rss {
            ports
                .notes
                .push(format!("port `{}`: its driver spreads no flows over queues; one of them gets all", plan.name));
        }
        for (worker, queue) in ports.queues.iter_mut().zip(deal(started, self.workers)) {
            worker.push(Some(queue));
        }
        ports.infos.push(PortInfo {
            id,
            name: plan.name.clone(),
            mac: port.mac().unwrap_or_default(),
            mtu: port.mtu().unwrap_or(1500),
        });
        ports.opened.push(Opened::Dpdk { flows, port });
        Ok(())
    }

    fn open_xdp(&self, id: u8, plan: &ManagerPlan, ports: &mut Ports) -> Result<(), ManagerError> {
        let tables = ports.tables.get(usize::from(id)).and_then(Option::as_ref);
        let OpenedXdp { program, promiscuous, interface, queues, note } = ports.xdp.open(plan, id, tables)?;
        ports.notes.extend(note);
        for (worker, queue) in ports.queues.iter_mut().zip(queues) {
            worker.push(Some(queue));
        }
        ports.infos.push(xdp::info(id, &plan.ports[usize::from(id)], &interface));
        ports.opened.push(Opened::Xdp { program, ifindex: interface.ifindex, _promiscuous: promiscuous });
        Ok(())
    }

    fn open_capture(
        &mut self,
        id: u8,
        plan: &PortPlan,
        read: Option<&str>,
        write: Option<&str>,
        ports: &mut Ports,
    ) -> Result<(), ManagerError> {
        let refuse = |message| ManagerError::new(format!("port `{}`: {message}", plan.name));
        let writer = match write {
            None => None,
            Some(path) => Some(match self.writers.get(path) {
                Some(writer) => Arc::clone(writer),
                None => {
                    let writer = Capture::create(path).map_err(refuse)?;
                    self.writers.insert(path.to_owned(), Arc::clone(&writer));
                    writer
                }
            }),
        };
        let capture =
            Capture::new(self.pool.buffers().clone(), read, writer, Arc::clone(&self.clock)).map_err(refuse)?;
        let mut capture = Some(Box::new(capture));
        for worker in &mut ports.queues {
            worker.push(capture.take().map(Queue::Capture));
        }
        ports.infos.push(PortInfo { id, name: plan.name.clone(), mac: [2, 0, 0, 0, 0, id + 1], mtu: 1500 });
        ports.opened.push(Opened::Capture);
        Ok(())
    }
}

/// Deals the queues of a port out to the workers: receive queue `q` to worker `q % workers`, and a transmit queue to each.
pub(crate) fn deal(queues: Queues, workers: usize) -> Vec<Queue> {
    let mut receive: Vec<Vec<_>> = (0..workers).map(|_| Vec::new()).collect();
    for (queue, rx) in queues.rx.into_iter().enumerate() {
        receive[queue % workers].push(rx);
    }
    receive.into_iter().zip(queues.tx).map(|(receive, send)| Queue::Dpdk { receive, send }).collect()
}
