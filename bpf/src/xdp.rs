//! The program that hands packets to AF_XDP sockets, and its life on an interface.

use std::fmt;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use crate::error::io_error;
use crate::log;
use crate::skeletons::xdp_redirect::XdpRedirectSkelBuilder;
use crate::{Error, Result};

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

/// An interface about to get the program that hands packets to AF_XDP sockets.
#[derive(Debug)]
pub struct XdpPort;

impl XdpPort {
    /// Loads the program and attaches it to the interface with this index, in the caller's network namespace.
    ///
    /// Until a queue gets a socket by [`XdpAttachment::set_socket`], its packets go on to the kernel's own stack.
    ///
    /// # Errors
    ///
    /// [`Error::Occupied`] when another XDP program is attached: it is never replaced. [`Error::NotPermitted`],
    /// [`Error::NoInterface`], [`Error::Load`] and [`Error::Attach`] as their names say.
    pub fn attach(ifindex: u32, mode: Mode) -> Result<XdpAttachment> {
        let interface = interface_name(ifindex)?;
        let device = i32::try_from(ifindex).map_err(|_| Error::NoInterface { ifindex })?;
        if let Some(program_id) = attached_program(device) {
            return Err(Error::Occupied { interface, program_id });
        }

        let (loaded, log) = log::listen(load);
        let loaded = loaded.map_err(|error| match io_error(&error) {
            source if source.kind() == io::ErrorKind::PermissionDenied => {
                Error::NotPermitted { program: PROGRAM, source }
            }
            source => Error::Load { program: PROGRAM, source, log },
        })?;

        let attempts: &[XdpMode] = match mode {
            Mode::Auto => &[XdpMode::Native, XdpMode::Generic],
            Mode::Native => &[XdpMode::Native],
            Mode::Generic => &[XdpMode::Generic],
        };
        let mut refused: Option<(XdpMode, io::Error)> = None;
        for &attempt in attempts {
            match create_link(loaded.program.as_fd(), device, attempt) {
                Ok(link) => {
                    return Ok(XdpAttachment {
                        _link: link,
                        sockets: loaded.sockets,
                        counters: loaded.counters,
                        interface,
                        ifindex,
                        mode: attempt,
                        native_refusal: refused.map(|(_, source)| source),
                    });
                }
                // Somebody else attached a program since the look above.
                Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::EEXIST)) => {
                    let program_id = attached_program(device).unwrap_or(0);
                    return Err(Error::Occupied { interface, program_id });
                }
                Err(error) => refused = Some((attempt, error)),
            }
        }
        let (mode, source) = refused.unwrap_or((XdpMode::Generic, io::Error::from(io::ErrorKind::Unsupported)));
        Err(Error::Attach { interface, mode, source })
    }
}

/// The program on an interface. Dropping it, or the death of the process, detaches it.
#[derive(Debug)]
pub struct XdpAttachment {
    /// The kernel detaches the program when this descriptor is closed.
    _link: OwnedFd,
    sockets: MapHandle,
    counters: MapHandle,
    interface: String,
    ifindex: u32,
    mode: XdpMode,
    native_refusal: Option<io::Error>,
}

impl XdpAttachment {
    /// The mode the interface took.
    pub fn mode(&self) -> XdpMode {
        self.mode
    }

    /// Why the driver refused native mode, when [`Mode::Auto`] had to fall back to generic.
    pub fn native_refusal(&self) -> Option<&io::Error> {
        self.native_refusal.as_ref()
    }

    /// Index of the interface.
    pub fn ifindex(&self) -> u32 {
        self.ifindex
    }

    /// Name of the interface when the program was attached.
    pub fn interface(&self) -> &str {
        &self.interface
    }

    /// From now on, packets of receive queue `queue` go to this AF_XDP socket, which must be bound to the same queue.
    ///
    /// The kernel forgets the socket by itself when it is closed.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the queue number is beyond the map (1,024 queues) or the descriptor is no AF_XDP socket.
    pub fn set_socket(&self, queue: u32, socket: impl AsFd) -> Result<()> {
        let descriptor = socket.as_fd().as_raw_fd();
        self.sockets
            .update(&queue.to_ne_bytes(), &descriptor.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| self.socket_error(queue, &error))
    }

    /// From now on, packets of receive queue `queue` go to the kernel's own stack again.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the queue has no socket.
    pub fn clear_socket(&self, queue: u32) -> Result<()> {
        self.sockets.delete(&queue.to_ne_bytes()).map_err(|error| self.socket_error(queue, &error))
    }

    /// What the program did since it was attached, summed over the processors.
    ///
    /// # Errors
    ///
    /// [`Error::Counters`] when the kernel refuses the look-up.
    pub fn counters(&self) -> Result<XdpCounters> {
        Ok(XdpCounters {
            redirected_pkts: self.counter(REDIRECTED)?,
            passed_pkts: self.counter(PASSED)?,
            missing_pkts: self.counter(MISSING)?,
        })
    }

    fn counter(&self, slot: u32) -> Result<u64> {
        let failed = |source| Error::Counters { interface: self.interface.clone(), source };
        let per_cpu = self
            .counters
            .lookup_percpu(&slot.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| failed(io_error(&error)))?
            .ok_or_else(|| failed(io::Error::from(io::ErrorKind::NotFound)))?;
        per_cpu.iter().try_fold(0_u64, |sum, value| {
            let bytes: [u8; 8] =
                value.as_slice().try_into().map_err(|_| failed(io::Error::from(io::ErrorKind::InvalidData)))?;
            Ok(sum.wrapping_add(u64::from_ne_bytes(bytes)))
        })
    }

    fn socket_error(&self, queue: u32, error: &libbpf_rs::Error) -> Error {
        Error::Socket { interface: self.interface.clone(), queue, source: io_error(error) }
    }
}

/// What is left of the skeleton once the kernel holds program and maps.
struct Loaded {
    program: OwnedFd,
    sockets: MapHandle,
    counters: MapHandle,
}

fn load() -> libbpf_rs::Result<Loaded> {
    let mut object = MaybeUninit::uninit();
    let skeleton = XdpRedirectSkelBuilder::default().open(&mut object)?.load()?;
    Ok(Loaded {
        program: skeleton.progs.xdp_redirect.as_fd().try_clone_to_owned()?,
        sockets: MapHandle::try_from(&skeleton.maps.xsks)?,
        counters: MapHandle::try_from(&skeleton.maps.counters)?,
    })
}

/// `libbpf_rs` attaches by link without flags, so the kernel would choose the mode and not say which.
fn create_link(program: BorrowedFd<'_>, device: i32, mode: XdpMode) -> io::Result<OwnedFd> {
    // SAFETY: the struct is made of integers, pointers and unions of these, for all of which zero is a value.
    let mut options: libbpf_sys::bpf_link_create_opts = unsafe { MaybeUninit::zeroed().assume_init() };
    options.sz = size_of::<libbpf_sys::bpf_link_create_opts>() as libbpf_sys::size_t;
    options.flags = mode.link_flags();
    // SAFETY: `options` outlives the call and says its own size; the program's descriptor is borrowed, hence open.
    let result = unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), device, libbpf_sys::BPF_XDP, &options) };
    if result < 0 {
        return Err(io::Error::from_raw_os_error(-result));
    }
    // SAFETY: the call succeeded, so this is an open descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(result) })
}

/// The id of the XDP program on a device, in any mode; none when there is none or the kernel does not say.
fn attached_program(device: i32) -> Option<u32> {
    let mut query =
        libbpf_sys::bpf_xdp_query_opts { sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as _, ..Default::default() };
    let (result, _) = log::listen(|| {
        // SAFETY: `query` outlives the call and says its own size.
        unsafe { libbpf_sys::bpf_xdp_query(device, 0, &mut query) }
    });
    if result < 0 {
        return None;
    }
    [query.prog_id, query.drv_prog_id, query.skb_prog_id, query.hw_prog_id].into_iter().find(|&id| id != 0)
}

fn interface_name(ifindex: u32) -> Result<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname(3) asks for.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return Err(Error::NoInterface { ifindex });
    }
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..length]).into_owned())
}
