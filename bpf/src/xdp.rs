//! The program that hands all packets to AF_XDP sockets, and the life of programs on an interface.

mod hook;

use std::fmt;
use std::mem::MaybeUninit;
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};

use libbpf_rs::MapHandle;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};

use crate::counters::per_cpu_sums;
use crate::skeletons::xdp_redirect::XdpRedirectSkelBuilder;
use crate::{Error, Result, log};

pub use hook::XdpHook;
pub(crate) use hook::{FreeInterface, Link, QUEUES, Sockets, interface_name};

/// The name of the program, as `bpftool prog` and `ip -details link` show it.
const PROGRAM: &str = "xdp_redirect";

/// Slots of the map `counters` in `xdp_redirect.bpf.c`.
const REDIRECTED: u32 = 0;
const PASSED: u32 = 1;
const MISSING: u32 = 2;

/// Which XDP mode is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Native where the driver has it, else generic.
    #[default]
    Auto,
    /// In the driver, before the kernel allocates a socket buffer; fails where the driver lacks it.
    Native,
    /// In the kernel's receive path, after the socket buffer is allocated: any interface, at a lower rate.
    Generic,
}

/// The XDP mode an attachment got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver (`XDP_FLAGS_DRV_MODE`).
    Native,
    /// In the kernel's receive path (`XDP_FLAGS_SKB_MODE`).
    Generic,
}

impl XdpMode {
    fn link_flags(self) -> u32 {
        match self {
            Self::Native => libbpf_sys::XDP_FLAGS_DRV_MODE,
            Self::Generic => libbpf_sys::XDP_FLAGS_SKB_MODE,
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}

/// What the program did with the packets of its interface since it was attached.
///
/// `redirected + passed` is every packet the program saw. A redirected packet may still be dropped by the socket when
/// its fill ring is empty or its receive ring is full; the socket's own statistics count that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct XdpCounters {
    /// Packets handed to an AF_XDP socket.
    pub redirected_pkts: u64,
    /// Packets handed to the kernel's own stack, for any reason.
    pub passed_pkts: u64,
    /// Of those passed: packets whose receive queue had no socket.
    pub missing_pkts: u64,
}

/// An interface about to get the program that hands every packet to an AF_XDP socket: the program is in the kernel, and not
/// attached yet.
///
/// Sockets are best set before it is attached. Packets of a queue without one go on to the kernel's own stack.
#[derive(Debug)]
pub struct XdpPort {
    interface: FreeInterface,
    sockets: Sockets,
    program: OwnedFd,
    counters: MapHandle,
}

impl XdpPort {
    /// Loads the program for the interface with this index, in the caller's network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] when another XDP program is attached: it is never replaced. [`Error::NotPermitted`],
    /// [`Error::NoInterface`] and [`Error::Load`] as their names say.
    pub fn load(ifindex: u32) -> Result<Self> {
        let interface = FreeInterface::find(ifindex)?;
        let Redirect { program, sockets, counters } = Redirect::load()?;
        Ok(Self { sockets: interface.sockets(sockets, 0), interface, program, counters })
    }

    /// Once the program is attached, packets of receive queue `queue` go to this AF_XDP socket.
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
    /// [`Error::Attach`] when the interface does not take it, [`Error::Occupied`] when somebody else was faster.
    pub fn attach(self, mode: Mode) -> Result<XdpAttachment> {
        let hook = self.interface.attach(self.program.as_fd(), mode, self.sockets)?;
        Ok(XdpAttachment { hook, counters: self.counters })
    }
}

/// The program on an interface. Dropping it, or the death of the process, detaches it.
#[derive(Debug)]
pub struct XdpAttachment {
    hook: XdpHook,
    counters: MapHandle,
}

impl AsRef<XdpHook> for XdpAttachment {
    fn as_ref(&self) -> &XdpHook {
        &self.hook
    }
}

impl Deref for XdpAttachment {
    type Target = XdpHook;

    fn deref(&self) -> &XdpHook {
        &self.hook
    }
}

impl XdpAttachment {
    /// What the program did since it was attached, summed over the processors.
    ///
    /// # Errors
    ///
    /// [`Error::Counters`] when the kernel refuses the look-up.
    pub fn counters(&self) -> Result<XdpCounters> {
        let counter = |slot| {
            per_cpu_sums::<1>(&self.counters, slot)
                .map(|[sum]| sum)
                .map_err(|source| Error::Counters { interface: self.interface().to_owned(), source })
        };
        Ok(XdpCounters {
            redirected_pkts: counter(REDIRECTED)?,
            passed_pkts: counter(PASSED)?,
            missing_pkts: counter(MISSING)?,
        })
    }
}

/// The program that hands over every packet, in the kernel and on no interface.
pub(crate) struct Redirect {
    pub(crate) program: OwnedFd,
    pub(crate) sockets: MapHandle,
    counters: MapHandle,
}

impl Redirect {
    pub(crate) fn load() -> Result<Self> {
        let (loaded, log) = log::listen(|| {
            let mut object = MaybeUninit::uninit();
            let skeleton = XdpRedirectSkelBuilder::default().open(&mut object)?.load()?;
            Ok(Self {
                program: skeleton.progs.xdp_redirect.as_fd().try_clone_to_owned()?,
                sockets: MapHandle::try_from(&skeleton.maps.xsks)?,
                counters: MapHandle::try_from(&skeleton.maps.counters)?,
            })
        });
        loaded.map_err(|error| Error::of_load(PROGRAM, &error, log))
    }
}
