//! What fast paths have to know of a port's interface: above all whether packets can leave by it without a detour through the data plane.

use std::fs;
use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use crate::log;
use crate::xdp::interface_name;
use crate::{Error, Result};

/// `NETDEV_XDP_ACT_NDO_XMIT` in `linux/netdev.h`: the driver transmits packets that programs of other interfaces redirect to it.
const TRANSMITS: u64 = 1 << 2;

/// Whether the kernel asks if packets of IPv4 come from where it would send answers to (`rp_filter`, RFC 3704).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceCheck {
    /// It does not.
    Off = 0,
    /// Answers leave by the interface that the packet came by.
    Strict = 1,
    /// Answers leave by some interface.
    Loose = 2,
}

/// A port's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortDevice {
    /// Index of the interface, in the caller's network namespace.
    pub ifindex: u32,
    /// Its MTU; larger packets go out by the slow path.
    pub mtu: u32,
    /// Its MAC address: the kernel's tables forward packets that came by the port only if they are addressed to it.
    pub mac: [u8; 6],
    /// Whether it takes packets from programs of other interfaces. A kernel before Linux 6.3 does not say so of any.
    pub takes_redirects: bool,
    /// Of packets that came by the port and leave by the kernel's tables.
    pub source_check: SourceCheck,
}

impl PortDevice {
    /// What the driver and the kernel say of an interface now.
    ///
    /// That may change: many drivers take packets while they have a program of their own, a veth does while its peer has one or `gro` is
    /// on there. So the question is worth asking again once all ports are open.
    ///
    /// # Errors
    ///
    /// [`Error::NoInterface`]; [`Error::FastPaths`] when the kernel does not say.
    pub fn find(ifindex: u32) -> Result<Self> {
        let device = i32::try_from(ifindex).map_err(|_| Error::NoInterface { ifindex })?;
        let name = interface_name(ifindex)?;
        let mut query = libbpf_sys::bpf_xdp_query_opts {
            sz: size_of::<libbpf_sys::bpf_xdp_query_opts>() as _,
            ..Default::default()
        };
        let (result, _) = log::listen(|| {
            // SAFETY: `query` outlives the call and says its own size.
            unsafe { libbpf_sys::bpf_xdp_query(device, 0, &mut query) }
        });
        if result < 0 {
            return Err(Error::FastPaths { source: io::Error::from_raw_os_error(-result) });
        }
        let (mtu, mac) = mtu_and_mac(&name).map_err(|source| Error::FastPaths { source })?;
        let takes_redirects = query.feature_flags & TRANSMITS != 0;
        Ok(Self { ifindex, mtu, mac, takes_redirects, source_check: source_check(&name) })
    }
}

/// The stricter one of what holds for all interfaces and for this one, as the kernel has it. Where it does not say, the strictest: what it
/// would refuse is left to it.
fn source_check(interface: &str) -> SourceCheck {
    let of = |name: &str| -> Option<u8> {
        fs::read_to_string(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter")).ok()?.trim().parse().ok()
    };
    match of("all").zip(of(interface)).map(|(all, own)| all.max(own)) {
        Some(0) => SourceCheck::Off,
        Some(2) => SourceCheck::Loose,
        _ => SourceCheck::Strict,
    }
}

fn mtu_and_mac(interface: &str) -> io::Result<(u32, [u8; 6])> {
    let of_mtu = ask(interface, libc::SIOCGIFMTU)?;
    // SAFETY: the call succeeded, so this is the field that it has written.
    let mtu = unsafe { of_mtu.ifr_ifru.ifru_mtu };
    let of_mac = ask(interface, libc::SIOCGIFHWADDR)?;
    // SAFETY: likewise.
    let address = unsafe { of_mac.ifr_ifru.ifru_hwaddr };
    let mac = std::array::from_fn(|i| address.sa_data[i] as u8);
    Ok((u32::try_from(mtu).map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?, mac))
}

fn ask(interface: &str, what: libc::Ioctl) -> io::Result<libc::ifreq> {
    // SAFETY: the struct is made of integers, for which zero is a value, and a union of these.
    let mut request: libc::ifreq = unsafe { MaybeUninit::zeroed().assume_init() };
    // The last byte stays 0: names that the kernel gives have one less than there is room.
    for (to, from) in request.ifr_name.iter_mut().zip(interface.bytes().take(libc::IFNAMSIZ - 1)) {
        *to = from as libc::c_char;
    }
    // SAFETY: socket(2) takes no pointers.
    let raw = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is an open descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: the request outlives the call, and its name ends with a zero.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), what, &raw mut request) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(request) }
}
