//! The programs that steer packets by rules: what stays on the interface, and the rule set, which is replaced under traffic.

mod counters;
mod flows;
mod meta;
mod rule_set;

use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};
use middlenet_steer::Tables;

use crate::error::io_error;
use crate::log;
use crate::skeletons::steer_root::SteerRootSkelBuilder;
use crate::xdp::{FreeInterface, Mode, XdpHook};
use crate::{Error, Result};

pub use counters::{RuleCounters, SteerCounters, SteerTotals};
pub use flows::FlowEntry;
pub use meta::{META_BYTES, take_tag};

use counters::Kept;
use flows::FlowCount;
use rule_set::RuleSet;

/// The name of the program on the interface, as `bpftool prog` shows it.
const PROGRAM: &str = "steer_root";

/// How long packets under way are waited for where the kernel does not say.
const FALLBACK_GRACE: Duration = Duration::from_millis(50);

/// The one slot of `next`.
const RULES: u32 = 0;

/// The programs and their maps in the kernel.
///
/// The root program reads the head of each packet and goes on to the rule set by a tail call. [`replace`](Self::replace)
/// makes a new rule set beside the old one and exchanges them by one update of the map that the tail call goes through: no
/// driver is asked, no packet is lost, and each meets the old rules or the new ones, never a mixture.
///
/// What becomes of a packet:
///
/// 1. A flow that was installed and has not expired decides (see [`install_flow`](Self::install_flow)).
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
    root: OwnedFd,
    next: MapHandle,
    shared: Shared,
    flows: FlowCount,
    rule_set: RuleSet,
    kept: Kept,
}

/// The maps that outlive a rule set.
#[derive(Debug)]
struct Shared {
    sockets: MapHandle,
    counters: MapHandle,
    heads: MapHandle,
    flows: MapHandle,
    control: MapHandle,
}

impl Steering {
    /// Loads the programs with a first rule set. They are on no interface yet.
    ///
    /// # Errors
    ///
    /// [`Error::NotPermitted`] and [`Error::Load`] when the kernel refuses a program, [`Error::Tables`] when it refuses the
    /// tables.
    pub fn load(tables: &Tables) -> Result<Self> {
        let (loaded, log) = log::listen(load_root);
        let Root { program: root, next, shared } = loaded.map_err(|error| Error::of_load(PROGRAM, &error, log))?;
        let rule_set = RuleSet::load(tables, &shared)?;
        enter(&next, &rule_set)?;
        Ok(Self { root, next, shared, flows: FlowCount::default(), kept: Kept::new(tables.rules().len()), rule_set })
    }

    /// Puts another rule set in place of the present one, under traffic. Rules of the same name and match keep their
    /// counters.
    ///
    /// It takes some milliseconds, and returns when no packet meets the old rules any more.
    ///
    /// # Errors
    ///
    /// [`Error::Load`] and [`Error::Tables`] when the kernel refuses the new one: the old one stays in place.
    /// [`Error::SteerCounters`] when the counters of the old one cannot be read: the new one is in place, and counts anew.
    pub fn replace(&mut self, tables: &Tables) -> Result<()> {
        let new = RuleSet::load(tables, &self.shared)?;
        enter(&self.next, &new)?;
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

    pub(crate) fn attach(self, interface: FreeInterface, mode: Mode) -> Result<SteeredAttachment> {
        let sockets = MapHandle::try_from(&self.shared.sockets)
            .map_err(|error| Error::of_load(PROGRAM, &error, String::new()))?;
        Ok(SteeredAttachment { hook: interface.attach(self.root.as_fd(), mode, sockets)?, steering: self })
    }

    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    pub(crate) fn sockets(&self) -> &MapHandle {
        &self.shared.sockets
    }
}

/// The programs on an interface. Dropping it, or the death of the process, detaches them.
#[derive(Debug)]
pub struct SteeredAttachment {
    // The link goes before the programs that packets go on to.
    hook: XdpHook,
    steering: Steering,
}

impl SteeredAttachment {
    /// The programs: their counters and flows.
    pub fn steering(&self) -> &Steering {
        &self.steering
    }

    /// The programs, to replace their rule set or to change their flows.
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

/// What is left of the root program's skeleton once the kernel holds program and maps.
struct Root {
    program: OwnedFd,
    next: MapHandle,
    shared: Shared,
}

fn load_root() -> libbpf_rs::Result<Root> {
    let mut object = MaybeUninit::uninit();
    let skeleton = SteerRootSkelBuilder::default().open(&mut object)?.load()?;
    let maps = &skeleton.maps;
    Ok(Root {
        program: skeleton.progs.steer_root.as_fd().try_clone_to_owned()?,
        next: MapHandle::try_from(&maps.next)?,
        shared: Shared {
            sockets: MapHandle::try_from(&maps.xsks)?,
            counters: MapHandle::try_from(&maps.counters)?,
            heads: MapHandle::try_from(&maps.heads)?,
            flows: MapHandle::try_from(&maps.flows)?,
            control: MapHandle::try_from(&maps.control)?,
        },
    })
}

fn enter(next: &MapHandle, rule_set: &RuleSet) -> Result<()> {
    let program = rule_set.program().as_raw_fd().to_ne_bytes();
    next.update(&RULES.to_ne_bytes(), &program, MapFlags::ANY)
        .map_err(|error| Error::Tables { rules: rule_set.rules().len(), source: io_error(&error) })
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
