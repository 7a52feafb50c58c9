//! The hold of an XDP program on an interface.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;
use std::sync::Arc;

use libbpf_rs::{MapCore, MapFlags, MapHandle};

use super::{Mode, XdpMode};
use crate::error::io_error;
use crate::log;
use crate::{Error, Result};

/// Receive queues that a map of sockets has room for.
pub(crate) const QUEUES: u32 = 1024;

/// The hold of an XDP program on an interface, and the AF_XDP sockets that it hands packets to. Dropping it, or the death of
/// the process, detaches the program.
#[derive(Debug)]
pub struct XdpHook {
    link: Arc<Link>,
    sockets: Sockets,
    ifindex: u32,
    mode: XdpMode,
    native_refusal: Option<io::Error>,
}

/// What holds a program on an interface: the kernel detaches it when the descriptor is closed.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Puts another program in place of the present one: each packet meets one of them.
    pub(crate) fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        // SAFETY: both descriptors are open while they are borrowed, and a null pointer stands for no options.
        let result = unsafe { libbpf_sys::bpf_link_update(self.0.as_raw_fd(), program.as_raw_fd(), ptr::null()) };
        if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
    }
}

/// The AF_XDP sockets of an interface, by receive queue.
#[derive(Debug)]
pub(crate) struct Sockets {
    map: MapHandle,
    /// The slot of queue 0.
    first: u32,
    interface: String,
}

impl Sockets {
    pub(crate) fn set(&self, queue: u32, socket: impl AsFd) -> Result<()> {
        let descriptor = socket.as_fd().as_raw_fd();
        self.map
            .update(&self.slot(queue)?, &descriptor.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| self.refused(queue, &error))
    }

    fn clear(&self, queue: u32) -> Result<()> {
        self.map.delete(&self.slot(queue)?).map_err(|error| self.refused(queue, &error))
    }

    /// The slots behind those of this interface may be another's.
    fn slot(&self, queue: u32) -> Result<[u8; 4]> {
        if queue >= QUEUES {
            let source = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(Error::Socket { interface: self.interface.clone(), queue, source });
        }
        Ok((self.first + queue).to_ne_bytes())
    }

    fn refused(&self, queue: u32, error: &libbpf_rs::Error) -> Error {
        Error::Socket { interface: self.interface.clone(), queue, source: io_error(error) }
    }
}

/// An interface that has no XDP program yet.
#[derive(Debug)]
pub(crate) struct FreeInterface {
    name: String,
    ifindex: u32,
    device: i32,
}

impl FreeInterface {
    /// The interface with this index, in the caller's network namespace.
    pub(crate) fn find(ifindex: u32) -> Result<Self> {
        let name = interface_name(ifindex)?;
        let device = i32::try_from(ifindex).map_err(|_| Error::NoInterface { ifindex })?;
        if let Some(program_id) = attached_program(device) {
            return Err(Error::Occupied { interface: name, program_id });
        }
        Ok(Self { name, ifindex, device })
    }

    /// The sockets of this interface, in the map by which its program will find that of a queue, from slot `first` on.
    pub(crate) fn sockets(&self, map: MapHandle, first: u32) -> Sockets {
        Sockets { map, first, interface: self.name.clone() }
    }

    /// Attaches a program, which finds its sockets in the map of `sockets`.
    pub(crate) fn attach(self, program: BorrowedFd<'_>, mode: Mode, sockets: Sockets) -> Result<XdpHook> {
        let attempts: &[XdpMode] = match mode {
            Mode::Auto => &[XdpMode::Native, XdpMode::Generic],
            Mode::Native => &[XdpMode::Native],
            Mode::Generic => &[XdpMode::Generic],
        };
        let Self { name: interface, ifindex, device } = self;
        let mut refused: Option<(XdpMode, io::Error)> = None;
        for &attempt in attempts {
            match create_link(program, device, attempt) {
                Ok(link) => {
                    let native_refusal = refused.map(|(_, source)| source);
                    return Ok(XdpHook { link: Arc::new(link), sockets, ifindex, mode: attempt, native_refusal });
                }
                // Somebody else attached a program since the look before.
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

impl XdpHook {
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
        &self.sockets.interface
    }

    /// From now on, packets of receive queue `queue` go to this AF_XDP socket, which must be bound to the same queue.
    ///
    /// The kernel forgets the socket by itself when it is closed.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the queue number is beyond the map (1,024 queues) or the descriptor is no AF_XDP socket.
    pub fn set_socket(&self, queue: u32, socket: impl AsFd) -> Result<()> {
        self.sockets.set(queue, socket)
    }

    /// From now on, packets of receive queue `queue` go to the kernel's own stack again.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] when the queue has no socket.
    pub fn clear_socket(&self, queue: u32) -> Result<()> {
        self.sockets.clear(queue)
    }

    pub(crate) fn link(&self) -> Arc<Link> {
        Arc::clone(&self.link)
    }
}

/// `libbpf_rs` attaches by link without flags, so the kernel would choose the mode and not say which.
fn create_link(program: BorrowedFd<'_>, device: i32, mode: XdpMode) -> io::Result<Link> {
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
    Ok(Link(unsafe { OwnedFd::from_raw_fd(result) }))
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

pub(crate) fn interface_name(ifindex: u32) -> Result<String> {
    let mut name = [0_u8; libc::IF_NAMESIZE];
    // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname(3) asks for.
    let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
    if found.is_null() {
        return Err(Error::NoInterface { ifindex });
    }
    let length = name.iter().position(|&byte| byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..length]).into_owned())
}
