//! Opens the plan's ports and deals their queues out to the workers.

use crate::port::{Capture, Clock, Queue, SharedWriter, XdpQueue};
use crate::steering::tables;
use crate::{ManagerError, sentence};
use middlenet_bpf::{Mode, SteeredAttachment, XdpAttachment, XdpHook, XdpPort};
use middlenet_dpdk::{Eal, Pool, Port, PortConfig, Queues};
use middlenet_plan::{ManagerPlan, PortKind, PortPlan, XdpMode};
use middlenet_sdk::PortInfo;
use middlenet_xsk::{Interface, Promiscuous, Umem, XskConfig, XskQueue};
use std::collections::HashMap;
use std::sync::Arc;

/// Fewer posted buffers than two bursts lose packets at the first hiccup.
const FILL_MIN: u32 = 128;

/// A port's control side. Dropping it leaves the device as it was found.
pub(crate) enum Opened {
    Dpdk(Port),
    Xdp { program: XdpProgram, _promiscuous: Promiscuous },
    Capture,
}

impl Opened {
    /// How statistics name it.
    pub(crate) fn kind(&self) -> String {
        match self {
            Self::Dpdk(port) => format!("dpdk {}", port.capabilities().driver),
            Self::Xdp { program, .. } => format!("xdp {}", program.hook().mode()),
            Self::Capture => "pcap".into(),
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
}

/// What ports are opened with.
pub(crate) struct Opener<'a> {
    pub(crate) eal: &'a Eal,
    pub(crate) pool: &'a Arc<Pool>,
    pub(crate) umem: Arc<Umem>,
    pub(crate) clock: Clock,
    pub(crate) workers: usize,
    /// Empty buffers that each AF_XDP queue keeps posted.
    fill_slots: u32,
    writers: HashMap<String, SharedWriter>,
}

impl<'a> Opener<'a> {
    pub(crate) fn new(eal: &'a Eal, pool: &'a Arc<Pool>, workers: usize, clock: Clock) -> Self {
        Self {
            eal,
            pool,
            umem: Umem::new(pool.buffers().clone()),
            clock,
            workers,
            fill_slots: 0,
            writers: HashMap::new(),
        }
    }

    /// Opens every port, or none: what was opened before an error is closed again.
    pub(crate) fn open(mut self, plan: &ManagerPlan) -> Result<Ports, ManagerError> {
        self.fill_slots = self.share_of_buffers(plan);
        let queues = (0..self.workers).map(|_| Vec::new()).collect();
        let mut ports = Ports { opened: Vec::new(), infos: Vec::new(), notes: Vec::new(), queues };
        for (id, port) in (0..).zip(&plan.ports) {
            match &port.kind {
                PortKind::Dpdk { device } => self.open_dpdk(id, port, device, &mut ports)?,
                PortKind::Xdp { interface, mode } => self.open_xdp(id, port, interface, *mode, &mut ports)?,
                PortKind::Pcap { read, write } => {
                    self.open_capture(id, port, read.as_deref(), write.as_deref(), &mut ports)?;
                }
            }
        }
        Ok(ports)
    }

    /// AF_XDP queues hold back what is posted to them, so that together they may have half of all buffers.
    fn share_of_buffers(&self, plan: &ManagerPlan) -> u32 {
        let queues = plan.ports.iter().filter_map(|port| match &port.kind {
            PortKind::Xdp { interface, .. } => Interface::lookup(interface).ok(),
            _ => None,
        });
        let queues = queues.map(|interface| interface.queues).sum::<u32>().max(1);
        let share = (plan.buffers / 2 / queues).clamp(FILL_MIN, XskConfig::default().fill_slots);
        1 << share.ilog2()
    }

    fn open_dpdk(&self, id: u8, plan: &PortPlan, device: &str, ports: &mut Ports) -> Result<(), ManagerError> {
        let refuse = |e| sentence(&plan.name, &e);
        let workers = self.workers as u16;
        let rx_queues = if plan.queues == 0 { workers } else { plan.queues };
        let config = PortConfig { rx_queues, tx_queues: workers, number: id, ..PortConfig::default() };
        let mut port = Port::open(self.eal, device, self.pool, &config).map_err(refuse)?;
        let started = port.start().map_err(|e| sentence(&plan.name, &e))?;
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
        ports.opened.push(Opened::Dpdk(port));
        Ok(())
    }

    fn open_xdp(
        &self,
        id: u8,
        plan: &PortPlan,
        name: &str,
        mode: XdpMode,
        ports: &mut Ports,
    ) -> Result<(), ManagerError> {
        let interface = Interface::lookup(name).map_err(|e| sentence(&plan.name, &e))?;
        if !interface.up {
            let message = format!("port `{}`: interface `{name}` is down", plan.name);
            return Err(ManagerError::new(message).hint(format!("ip link set {name} up")));
        }
        let queues = interface.queues as usize;
        if queues < self.workers {
            let message =
                format!("port `{}`: interface `{name}` has {queues} queue(s) for {} workers", plan.name, self.workers);
            return Err(ManagerError::new(message)
                .hint(format!("ethtool -L {name} combined {}, or fewer cores for the manager", self.workers)));
        }
        let promiscuous = interface.promiscuous().map_err(|e| sentence(&plan.name, &e))?;
        let mode = match mode {
            XdpMode::Auto => Mode::Auto,
            XdpMode::Native => Mode::Native,
            XdpMode::Generic => Mode::Generic,
        };
        let program = match &plan.steering {
            None => XdpPort::attach(interface.ifindex, mode).map(XdpProgram::Plain),
            Some(steering) => {
                let tables = tables(&plan.name, steering)?;
                XdpPort::attach_steered(interface.ifindex, mode, &tables).map(|a| XdpProgram::Steered(Box::new(a)))
            }
        };
        let program = program.map_err(|e| sentence(&plan.name, &e))?;
        if let Some(refusal) = program.hook().native_refusal() {
            ports.notes.push(format!(
                "port `{}`: the driver of `{name}` has no native XDP ({refusal}); generic mode costs about half the rate",
                plan.name
            ));
        }
        let config = XskConfig { fill_slots: self.fill_slots, ..XskConfig::default() };
        let mut dealt: Vec<Vec<XdpQueue>> = (0..self.workers).map(|_| Vec::new()).collect();
        for queue in 0..interface.queues {
            let socket =
                XskQueue::bind(&self.umem, interface.ifindex, queue, &config).map_err(|e| sentence(&plan.name, &e))?;
            program.hook().set_socket(queue, socket.fd()).map_err(|e| sentence(&plan.name, &e))?;
            dealt[queue as usize % self.workers].push(XdpQueue::new(socket));
        }
        for (worker, queues) in ports.queues.iter_mut().zip(dealt) {
            worker.push(Some(Queue::Xdp(queues)));
        }
        let mtu = u16::try_from(interface.mtu_bytes).unwrap_or(u16::MAX);
        ports.infos.push(PortInfo { id, name: plan.name.clone(), mac: interface.mac, mtu });
        ports.opened.push(Opened::Xdp { program, _promiscuous: promiscuous });
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
