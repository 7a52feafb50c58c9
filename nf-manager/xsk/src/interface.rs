//! What there is to know of a network interface before packets are taken from it.

use std::ffi::CStr;
use std::fs;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::{Error, Result};

/// `ETHTOOL_GDRVINFO`, `ETHTOOL_GCHANNELS` and `SIOCETHTOOL` of `linux/ethtool.h` and `linux/sockios.h`.
const ETHTOOL_GDRVINFO: u32 = 0x3;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const SIOCETHTOOL: u64 = 0x8946;

/// `struct packet_mreq` and its values, of `linux/if_packet.h`.
const PACKET_ADD_MEMBERSHIP: libc::c_int = 1;
const PACKET_MR_PROMISC: u16 = 1;

/// A network interface in the network namespace of the calling thread, as it was when looked up.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// The largest packet it carries behind the link header, in bytes.
    pub mtu_bytes: u32,
    /// Its Ethernet address; zero where it has none.
    pub mac: [u8; 6],
    /// Whether it is set up (`IFF_UP`).
    pub up: bool,
    /// Whether it can carry packets now (`IFF_RUNNING`): up, and with a link.
    pub running: bool,
    /// Receive queues in use, at least one; AF_XDP takes queues below this number.
    pub queues: u32,
    /// Name of its driver, such as `veth`; empty where the kernel does not tell.
    pub driver: String,
}

impl Interface {
    /// Looks an interface up by name.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`] when there is none of this name, [`Error::Interface`] when the kernel refuses a question.
    pub fn lookup(name: &str) -> Result<Self> {
        let missing = || Error::NoInterface { interface: name.to_owned() };
        if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
            return Err(missing());
        }
        let query = Query::new(name)?;
        let index = query.ask(libc::SIOCGIFINDEX, "find the index", |request| {
            // SAFETY: the call succeeded, so the kernel has set this member.
            unsafe { request.ifr_ifru.ifru_ifindex }
        });
        let index = index.map_err(|error| match error {
            Error::Interface { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => missing(),
            error => error,
        })?;
        let mtu = query.ask(libc::SIOCGIFMTU, "read the MTU", |request| {
            // SAFETY: as above.
            unsafe { request.ifr_ifru.ifru_mtu }
        })?;
        let flags = query.ask(libc::SIOCGIFFLAGS, "read the state", |request| {
            // SAFETY: as above.
            i32::from(unsafe { request.ifr_ifru.ifru_flags })
        })?;
        let address = query.ask(libc::SIOCGIFHWADDR, "read the address", |request| {
            // SAFETY: as above.
            unsafe { request.ifr_ifru.ifru_hwaddr }
        })?;
        let mut mac = [0; 6];
        if address.sa_family == libc::ARPHRD_ETHER {
            for (byte, &given) in mac.iter_mut().zip(&address.sa_data) {
                *byte = given as u8;
            }
        }
        let ifindex = u32::try_from(index).map_err(|_| missing())?;
        Ok(Self {
            name: name.to_owned(),
            ifindex,
            mtu_bytes: u32::try_from(mtu).unwrap_or(0),
            mac,
            up: flags & libc::IFF_UP != 0,
            running: flags & libc::IFF_RUNNING != 0,
            queues: query.channels().or_else(|| queues_in_sysfs(name, ifindex)).unwrap_or(1).max(1),
            driver: query.driver().unwrap_or_default(),
        })
    }

    /// Looks an interface up by index.
    ///
    /// # Errors
    ///
    /// As [`lookup`](Self::lookup).
    pub fn by_index(ifindex: u32) -> Result<Self> {
        let mut name = [0_u8; libc::IF_NAMESIZE];
        // SAFETY: the buffer has the IF_NAMESIZE bytes that if_indextoname(3) asks for.
        let found = unsafe { libc::if_indextoname(ifindex, name.as_mut_ptr().cast()) };
        let name = CStr::from_bytes_until_nul(&name).ok().and_then(|name| name.to_str().ok());
        match name {
            Some(name) if !found.is_null() => Self::lookup(name),
            _ => Err(Error::NoInterface { interface: format!("#{ifindex}") }),
        }
    }

    /// Makes the interface take packets for every Ethernet address while the returned guard lives.
    ///
    /// The kernel counts such wishes and drops ours when the guard goes or the process dies, so the interface is left as
    /// it was found.
    ///
    /// # Errors
    ///
    /// [`Error::Interface`] when the kernel refuses, as it does without CAP_NET_RAW.
    pub fn promiscuous(&self) -> Result<Promiscuous> {
        let failed = |source| Error::Interface { step: "set promiscuous mode", interface: self.name.clone(), source };
        // Protocol 0: this socket receives nothing, it holds the membership.
        let socket = datagram_socket(libc::AF_PACKET).map_err(failed)?;
        let membership =
            Membership { ifindex: self.ifindex as i32, kind: PACKET_MR_PROMISC, address_bytes: 0, address: [0; 8] };
        // SAFETY: the struct outlives the call and its true size is given.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                PACKET_ADD_MEMBERSHIP,
                (&raw const membership).cast(),
                size_of::<Membership>() as libc::socklen_t,
            )
        };
        if set != 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        Ok(Promiscuous { _socket: socket })
    }
}

/// Keeps an interface promiscuous; made by [`Interface::promiscuous`].
#[derive(Debug)]
pub struct Promiscuous {
    _socket: OwnedFd,
}

/// `struct packet_mreq`.
#[repr(C)]
struct Membership {
    ifindex: i32,
    kind: u16,
    address_bytes: u16,
    address: [u8; 8],
}

/// `struct ethtool_channels`.
#[repr(C)]
#[derive(Default)]
struct Channels {
    command: u32,
    max_rx: u32,
    max_tx: u32,
    max_other: u32,
    max_combined: u32,
    rx: u32,
    tx: u32,
    other: u32,
    combined: u32,
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    version: [u8; 32],
    firmware: [u8; 32],
    bus: [u8; 32],
    expansion_rom: [u8; 32],
    reserved: [u8; 12],
    sizes: [u32; 5],
}

/// Questions to the kernel about one interface, by ioctl(2): unlike sysfs they follow the thread's network namespace.
struct Query<'a> {
    name: &'a str,
    socket: OwnedFd,
}

impl<'a> Query<'a> {
    fn new(name: &'a str) -> Result<Self> {
        let failed = |source| Error::Interface { step: "ask for properties", interface: name.to_owned(), source };
        Ok(Self { name, socket: datagram_socket(libc::AF_INET).map_err(failed)? })
    }

    fn request(&self) -> libc::ifreq {
        // SAFETY: the struct is made of integers, a pointer and unions of these, for all of which zero is a value.
        let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
        // `lookup` checked that the name leaves room for the zero byte.
        for (to, from) in request.ifr_name.iter_mut().zip(self.name.bytes()) {
            *to = from as libc::c_char;
        }
        request
    }

    fn ask<T>(&self, question: libc::c_ulong, step: &'static str, read: impl FnOnce(&libc::ifreq) -> T) -> Result<T> {
        let mut request = self.request();
        // SAFETY: each question asked here reads and writes one `ifreq`, which outlives the call.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), question as _, &raw mut request) };
        if answer < 0 {
            let source = io::Error::last_os_error();
            return Err(Error::Interface { step, interface: self.name.to_owned(), source });
        }
        Ok(read(&request))
    }

    /// Puts an ethtool question; none when the driver does not answer it.
    ///
    /// # Safety
    ///
    /// `T` is the struct that the command at its start belongs to.
    unsafe fn ethtool<T>(&self, data: &mut T) -> Option<()> {
        let mut request = self.request();
        request.ifr_ifru.ifru_data = (&raw mut *data).cast();
        // SAFETY: the kernel writes to `data` what the command's struct holds, which the caller says `T` is.
        let answer = unsafe { libc::ioctl(self.socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) };
        (answer >= 0).then_some(())
    }

    /// Receive queues in use, by `ethtool --show-channels`.
    fn channels(&self) -> Option<u32> {
        let mut channels = Channels { command: ETHTOOL_GCHANNELS, ..Channels::default() };
        // SAFETY: `Channels` is the struct of this command.
        unsafe { self.ethtool(&mut channels) }?;
        Some(channels.rx.max(1).max(channels.combined + channels.rx)).filter(|_| channels.rx + channels.combined > 0)
    }

    /// Name of the driver, by `ethtool --driver`.
    fn driver(&self) -> Option<String> {
        // SAFETY: the struct is made of integers, for which zero is a value.
        let mut info: DriverInfo = unsafe { MaybeUninit::zeroed().assume_init() };
        info.command = ETHTOOL_GDRVINFO;
        // SAFETY: `DriverInfo` is the struct of this command.
        unsafe { self.ethtool(&mut info) }?;
        CStr::from_bytes_until_nul(&info.driver).ok()?.to_str().ok().map(str::to_owned)
    }
}

/// For drivers without channels. Sysfs shows the namespace it was mounted in, hence the look at the index.
fn queues_in_sysfs(name: &str, ifindex: u32) -> Option<u32> {
    let folder = format!("/sys/class/net/{name}");
    let index: u32 = fs::read_to_string(format!("{folder}/ifindex")).ok()?.trim().parse().ok()?;
    if index != ifindex {
        return None;
    }
    let entries = fs::read_dir(format!("{folder}/queues")).ok()?;
    let queues = entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-")).count();
    u32::try_from(queues).ok()
}

fn datagram_socket(family: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers.
    let raw = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is an open descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
