//! The program that steers packets by rules, which is replaced under traffic.

mod counters;
mod flows;
mod meta;
mod rule_set;
mod small;

use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use libbpf_rs::MapHandle;
use middlenet_steer::Tables;

use crate::fast::FastPort;
use crate::xdp::{FreeInterface, Link, Mode, Sockets, XdpHook};
use crate::{Error, Result};

pub use counters::{RuleCounters, SteerCounters, SteerTotals};
pub use flows::FlowEntry;
pub use meta::{META_BYTES, Mark, take_mark, take_tag};

use counters::Kept;
use flows::FlowCount;
use rule_set::RuleSet;

/// How long packets under way are waited for where the kernel does not say.
const FALLBACK_GRACE: Duration = Duration::from_millis(50);

/// A rule set in the kernel, its program and its tables, and what outlives it.
///
/// [`replace`](Self::replace) makes a new rule set beside the old one and exchanges the programs by one update of the link
/// that holds them on the interface: drivers need no reset to go from program to program, no packet is lost, and each meets
/// the old rules or the new ones, never a mixture.
///
/// What becomes of a packet:
///
/// 1. A flow that was installed and has not expired decides (see [`install_flow`](Self::install_flow)), as `Flow::of` of
///    `middlenet-steer` says which one a packet is of; fragments are of none.
/// 2. Else the first rule that matches, as `Match::matches` of `middlenet-steer` says, decides; else the default.
/// 3. `Drop` drops it, `Kernel` hands it to the kernel's own stack, `Tag` hands it to the AF_XDP socket of its receive queue
///    with the tag in the [`META_BYTES`] bytes in front of it ([`take_tag`]). A queue without a socket hands it to the
///    kernel. Where the driver has no room for metadata, the packet arrives without a tag and is counted as untagged:
///    `Tables::action` on its head says the same.
///
/// A VLAN tag that the NIC, or a veth peer, has taken out of the packet is not seen: switch that off (`ethtool -K DEV rxvlan
/// off`; on the peer of a veth `txvlan off`).
#[derive(Debug)]
pub struct Steering {
    shared: Shared,
    flows: FlowCount,
    rule_set: RuleSet,
    kept: Kept,
    /// What holds the program on an interface, if any does.
    link: Option<Arc<Link>>,
}

/// The maps that outlive a rule set.
#[derive(Debug)]
struct Shared {
    sockets: MapHandle,
    counters: MapHandle,
    flows: MapHandle,
    /// What leads to the fast paths of functions, if there are any.
    fast: Option<FastPort>,
}

impl Shared {
    /// The slot of queue 0 among the sockets.
    fn first_slot(&self) -> u32 {
        self.fast.as_ref().map_or(0, FastPort::first_slot)
    }
}

impl Steering {
    /// Loads a first rule set. It is on no interface yet.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] and [`Error::Load`] when the kernel refuses the program, which takes CAP_BPF, CAP_NET_ADMIN and
    /// CAP_PERFMON; [`Error::Tables`] when it refuses the tables.
    pub fn load(tables: &Tables) -> Result<Self> {
        Self::load_with(tables, None)
    }

    /// The same for a port whose chains have fast paths: packets of such a chain go through these first.
    ///
    /// A packet that went into a chain's fast paths counts as redirected, whatever becomes of it there.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_fast(tables: &Tables, port: FastPort) -> Result<Self> {
        Self::load_with(tables, Some(port))
    }

    fn load_with(tables: &Tables, port: Option<FastPort>) -> Result<Self> {
        let (rule_set, shared) = RuleSet::load_first(tables, port)?;
        let kept = Kept::new(tables.rules().len());
        Ok(Self { shared, flows: FlowCount::default(), rule_set, kept, link: None })
    }

    /// Puts another rule set in place of the present one, under traffic. Rules of the same name and match keep their
    /// counters.
    ///
    /// It takes some milliseconds, and returns when no packet meets the old rules any more.
    ///
    /// # Errors
    ///
    /// [`Error::Load`], [`Error::Tables`] and [`Error::Flows`] when the kernel refuses the new one, or the interface is gone:
    /// the old one stays in place.
    /// [`Error::SteerCounters`] when the counters of the old one cannot be read: the new one is in place, and counts anew.
    pub fn replace(&mut self, tables: &Tables) -> Result<()> {
        let new = RuleSet::load(tables, &self.shared, self.flows.installed > 0)?;
        if let Some(link) = &self.link {
            link.update(new.program()).map_err(|source| Error::Tables { rules: tables.rules().len(), source })?;
        }
        wait_for_packets_under_way();
        let old = std::mem::replace(&mut self.rule_set, new);
        let counted = old.counters().map_err(|source| Error::SteerCounters { source });
        let before = std::mem::replace(&mut self.kept, Kept::new(tables.rules().len()));
        self.kept = before.carried_over(old.rules(), &counted?, tables.rules());
        Ok(())
    }

    /// What the rules and the program counted since it was loaded, over all rule sets.
    ///
    /// # Errors
    ///
    /// [`Error::SteerCounters`] when the kernel refuses the look-up.
    pub fn counters(&self) -> Result<SteerCounters> {
        let failed = |source| Error::SteerCounters { source };
        let of_rules = self.rule_set.counters().map_err(failed)?;
        let totals = SteerTotals::read(&self.shared.counters, self.flows.refused).map_err(failed)?;
        Ok(self.kept.sums(&of_rules, totals))
    }

    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.rule_set.program()
    }

    pub(crate) fn sockets(&self) -> &MapHandle {
        &self.shared.sockets
    }

    pub(crate) fn first_slot(&self) -> u32 {
        self.shared.first_slot()
    }
}

/// An interface about to get a program that steers packets by rules: as [`XdpPort`](crate::XdpPort), with a rule set.
#[derive(Debug)]
pub struct SteeredPort {
    interface: FreeInterface,
    sockets: Sockets,
    steering: Steering,
}

impl SteeredPort {
    /// Loads a rule set for the interface with this index, in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// As [`XdpPort::load`](crate::XdpPort::load) and [`Steering::load`].
    pub fn load(ifindex: u32, tables: &Tables) -> Result<Self> {
        Self::of(FreeInterface::find(ifindex)?, Steering::load(tables)?)
    }

    /// The same for a port whose chains have fast paths.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_fast(ifindex: u32, tables: &Tables, port: FastPort) -> Result<Self> {
        Self::of(FreeInterface::find(ifindex)?, Steering::load_fast(tables, port)?)
    }

    fn of(interface: FreeInterface, steering: Steering) -> Result<Self> {
        let sockets = MapHandle::try_from(&steering.shared.sockets)
            .map_err(|error| Error::of_load(rule_set::PROGRAM, &error, String::new()))?;
        let sockets = interface.sockets(sockets, steering.shared.first_slot());
        Ok(Self { sockets, interface, steering })
    }

    /// As [`XdpPort::set_socket`](crate::XdpPort::set_socket).
    ///
    /// # Errors
    ///
    /// As [`XdpHook::set_socket`].
    pub fn set_socket(&self, queue: u32, socket: impl AsFd) -> Result<()> {
        self.sockets.set(queue, socket)
    }

    /// Attaches the program.
    ///
    /// # Errors
    ///
    /// As [`XdpPort::attach`](crate::XdpPort::attach).
    pub fn attach(self, mode: Mode) -> Result<SteeredAttachment> {
        let Self { interface, sockets, mut steering } = self;
        let hook = interface.attach(steering.program(), mode, sockets)?;
        steering.link = Some(hook.link());
        Ok(SteeredAttachment { hook, steering })
    }
}

/// A rule set on an interface. Dropping it, or the death of the process, detaches it.
#[derive(Debug)]
pub struct SteeredAttachment {
    hook: XdpHook,
    steering: Steering,
}

impl SteeredAttachment {
    /// The rule set: its counters and flows.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// The rule set, to replace it or to change its flows.
    pub fn steering_mut(&mut self) -> &mut Steering {
        &mut self.steering
    }
}

impl AsRef<XdpHook> for SteeredAttachment {
    fn as_ref(&self) -> &XdpHook {
        &self.hook
    }
}

impl Deref for SteeredAttachment {
    type Target = XdpHook;

    fn deref(&self) -> &XdpHook {
        &self.hook
    }
}

/// Waits until each packet that the programs were at work on is through: until an RCU grace period has passed, since programs
/// run inside one.
fn wait_for_packets_under_way() {
    // SAFETY: membarrier(2) takes no pointers.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result != 0 {
        // Kernels with processors that never tick refuse it; a packet takes microseconds.
        std::thread::sleep(FALLBACK_GRACE);
    }
}
