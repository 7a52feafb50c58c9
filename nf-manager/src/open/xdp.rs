//! Opens AF_XDP ports, at the start and again when an interface that was gone is back.

use super::XdpProgram;
use crate::fast_path::FastPaths;
use crate::port::{Queue, XdpQueue};
use crate::{ManagerError, sentence};
use middlenet_bpf::{Mode, SteeredPort, XdpPort};
use middlenet_plan::{ManagerPlan, PortKind, PortPlan, XdpMode};
use middlenet_sdk::PortInfo;
use middlenet_steer::Tables;
use middlenet_xsk::{Interface, Promiscuous, Umem, XskConfig, XskQueue};
use std::os::fd::BorrowedFd;
use std::sync::Arc;

/// Fewer posted buffers than two bursts lose packets at the first hiccup.
const FILL_MIN: u32 = 128;

/// What AF_XDP ports are opened with.
pub(crate) struct XdpOpener {
    umem: Arc<Umem>,
    workers: usize,
    /// Empty buffers that each queue keeps posted.
    fill_slots: u32,
    /// What the kernel does of the chains' work, if anything.
    pub(crate) fast_paths: Option<FastPaths>,
}

/// An AF_XDP port, open.
pub(crate) struct OpenedXdp {
    pub(crate) program: XdpProgram,
    pub(crate) promiscuous: Promiscuous,
    pub(crate) interface: Interface,
    /// By worker.
    pub(crate) queues: Vec<Queue>,
    /// What a person should know.
    pub(crate) note: Option<String>,
}

impl XdpOpener {
    pub(super) fn new(umem: Arc<Umem>, plan: &ManagerPlan, notes: &mut Vec<String>) -> Result<Self, ManagerError> {
        let fast_paths = FastPaths::load(plan, notes)?;
        Ok(Self { umem, workers: plan.workers.len(), fill_slots: share_of_buffers(plan), fast_paths })
    }

    /// Binds a socket to each queue, and then attaches the program, with rules if the port has some; on an error nothing is left.
    /// In this order, a packet meets no queue without a socket, which would leave it to the kernel whatever the rules say.
    pub(crate) fn open(&self, run: &ManagerPlan, id: u8, tables: Option<&Tables>) -> Result<OpenedXdp, ManagerError> {
        let plan = &run.ports[usize::from(id)];
        let PortKind::Xdp { interface: name, mode } = &plan.kind else {
            return Err(ManagerError::new(format!("port `{}` is no `xdp` port", plan.name)));
        };
        let refuse = |e: &dyn std::error::Error| sentence(&plan.name, e);
        let interface = Interface::lookup(name).map_err(|e| refuse(&e))?;
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
        let promiscuous = interface.promiscuous().map_err(|e| refuse(&e))?;
        let mode = match mode {
            XdpMode::Auto => Mode::Auto,
            XdpMode::Native => Mode::Native,
            XdpMode::Generic => Mode::Generic,
        };
        let program = match tables {
            None => XdpPort::load(interface.ifindex).map(Unattached::Plain),
            Some(tables) => {
                let fast_paths = self.fast_paths.as_ref().map(|fast_paths| fast_paths.port(run, id));
                let port = match fast_paths.transpose().map_err(|e| refuse(&e))?.flatten() {
                    Some(fast_path) => SteeredPort::load_fast(interface.ifindex, tables, fast_path),
                    None => SteeredPort::load(interface.ifindex, tables),
                };
                port.map(|port| Unattached::Steered(Box::new(port)))
            }
        };
        let program = program.map_err(|e| refuse(&e))?;
        let config = XskConfig { fill_slots: self.fill_slots, ..XskConfig::default() };
        let mut dealt: Vec<Vec<XdpQueue>> = (0..self.workers).map(|_| Vec::new()).collect();
        for queue in 0..interface.queues {
            let socket = XskQueue::bind(&self.umem, interface.ifindex, queue, &config).map_err(|e| refuse(&e))?;
            program.set_socket(queue, socket.fd()).map_err(|e| refuse(&e))?;
            dealt[queue as usize % self.workers].push(XdpQueue::new(socket));
        }
        let program = program.attach(mode).map_err(|e| refuse(&e))?;
        let note = program.hook().native_refusal().map(|refusal| {
            format!(
                "port `{}`: the driver of `{name}` has no native XDP ({refusal}); generic mode costs about half the rate",
                plan.name
            )
        });
        let queues = dealt.into_iter().map(Queue::Xdp).collect();
        Ok(OpenedXdp { program, promiscuous, interface, queues, note })
    }
}

/// What functions are told of a port with this interface.
pub(crate) fn info(id: u8, plan: &PortPlan, interface: &Interface) -> PortInfo {
    let mtu = u16::try_from(interface.mtu_bytes).unwrap_or(u16::MAX);
    PortInfo { id, name: plan.name.clone(), mac: interface.mac, mtu }
}

/// What is going to be attached.
enum Unattached {
    Plain(XdpPort),
    Steered(Box<SteeredPort>),
}

impl Unattached {
    fn set_socket(&self, queue: u32, socket: BorrowedFd<'_>) -> middlenet_bpf::Result<()> {
        match self {
            Self::Plain(port) => port.set_socket(queue, socket),
            Self::Steered(port) => port.set_socket(queue, socket),
        }
    }

    fn attach(self, mode: Mode) -> middlenet_bpf::Result<XdpProgram> {
        match self {
            Self::Plain(port) => port.attach(mode).map(XdpProgram::Plain),
            Self::Steered(port) => port.attach(mode).map(|attachment| XdpProgram::Steered(Box::new(attachment))),
        }
    }
}

/// Queues hold back what is posted to them, so that together they may have half of all buffers.
fn share_of_buffers(plan: &ManagerPlan) -> u32 {
    let queues = plan.ports.iter().filter_map(|port| match &port.kind {
        PortKind::Xdp { interface, .. } => Interface::lookup(interface).ok(),
        _ => None,
    });
    let queues = queues.map(|interface| interface.queues).sum::<u32>().max(1);
    let share = (plan.buffers / 2 / queues).clamp(FILL_MIN, XskConfig::default().fill_slots);
    1 << share.ilog2()
}
