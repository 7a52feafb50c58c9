//! What the tests of this folder share: cables, raw packets from a peer, and a pool that counts every buffer.

// Each test file uses its part of this.
#![allow(dead_code)]

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use middlenet_bpf::{Mode, XdpAttachment, XdpPort};
use middlenet_shm::{Buffers, Descriptor, Pages, Region};
use middlenet_tests::Netns;
use middlenet_xsk::{Interface, Result, Umem, XskConfig, XskQueue};

pub(crate) const SOON: Duration = Duration::from_secs(10);

/// A pair of namespaces' ends: `middle`'s device `near` is joined to `eth0` in `far`.
pub(crate) fn cable(middle: &Netns, near: &str, far: &Netns, queues: u32) {
    let queues = queues.to_string();
    let (middle_name, far_name) = (middle.name(), far.name());
    let count = ["numrxqueues", &queues, "numtxqueues", &queues];
    let arguments = ["link", "add", "name", near, "netns", middle_name];
    let peer = ["type", "veth", "peer", "name", "eth0", "netns", far_name];
    far.exec("ip", [&arguments[..], &count[..], &peer[..], &count[..]].concat()).expect("a cable");
    for (netns, device) in [(middle, near), (far, "eth0")] {
        let script = format!(
            "echo 1 > /proc/sys/net/ipv6/conf/{device}/disable_ipv6 && ethtool -K {device} tx off gro off >/dev/null \
             && ip link set dev {device} up"
        );
        netns.exec("sh", ["-c", &script]).expect("a configured device");
    }
}

/// A raw socket in a peer's namespace: what it sends leaves the device as it is, what arrives there it sees as it is.
pub(crate) struct Peer {
    socket: OwnedFd,
}

impl Peer {
    pub(crate) fn new(netns: &Netns, device: &str) -> Self {
        netns.enter(|| Self::open(device).expect("a packet socket")).expect("the namespace can be entered")
    }

    fn open(device: &str) -> io::Result<Self> {
        let interface = Interface::lookup(device).map_err(io::Error::other)?;
        let protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: socket(2) takes no pointers.
        let raw = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol.into()) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call succeeded, so this is an open descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(raw) };
        // SAFETY: the struct is made of integers, for which zero is a value.
        let mut address: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = protocol;
        address.sll_ifindex = interface.ifindex as i32;
        // SAFETY: the address outlives the call and its true size is given.
        let bound =
            unsafe { libc::bind(raw, (&raw const address).cast(), size_of::<libc::sockaddr_ll>() as libc::socklen_t) };
        if bound != 0 {
            return Err(io::Error::last_os_error());
        }
        for (option, bytes) in [(libc::SO_RCVBUFFORCE, 8 << 20), (libc::SO_SNDBUFFORCE, 8 << 20)] {
            // SAFETY: the value outlives the call and its true size is given.
            unsafe { libc::setsockopt(raw, libc::SOL_SOCKET, option, (&raw const bytes).cast(), 4) };
        }
        Ok(Self { socket })
    }

    pub(crate) fn send(&self, packet: &[u8]) {
        // SAFETY: the packet is borrowed for the call and its length is given.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        assert_eq!(sent, packet.len() as isize, "{}", io::Error::last_os_error());
    }

    /// Sends packets by as few calls as the kernel takes.
    pub(crate) fn send_burst(&self, packets: &[Vec<u8>]) {
        let mut parts: Vec<libc::iovec> = packets
            .iter()
            .map(|packet| libc::iovec { iov_base: packet.as_ptr().cast_mut().cast(), iov_len: packet.len() })
            .collect();
        let mut messages: Vec<libc::mmsghdr> = parts
            .iter_mut()
            .map(|part| {
                // SAFETY: the struct is made of integers and pointers, for which zero is a value.
                let mut message: libc::mmsghdr = unsafe { MaybeUninit::zeroed().assume_init() };
                (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (part, 1);
                message
            })
            .collect();
        let mut sent = 0;
        while sent < messages.len() {
            let rest = &mut messages[sent..];
            // SAFETY: the messages, their parts and the packets outlive the call, which only reads the packets.
            let taken =
                unsafe { libc::sendmmsg(self.socket.as_raw_fd(), rest.as_mut_ptr(), rest.len() as libc::c_uint, 0) };
            assert!(taken > 0, "{}", io::Error::last_os_error());
            sent += taken as usize;
        }
    }

    /// The next packet that arrived from outside, if one is there.
    pub(crate) fn receive(&self) -> Option<Vec<u8>> {
        loop {
            let mut packet = vec![0_u8; 4096];
            // SAFETY: the struct is made of integers, for which zero is a value.
            let mut from: libc::sockaddr_ll = unsafe { MaybeUninit::zeroed().assume_init() };
            let mut from_bytes = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address outlive the call and their true sizes are given.
            let length = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    packet.as_mut_ptr().cast(),
                    packet.len(),
                    libc::MSG_DONTWAIT,
                    (&raw mut from).cast(),
                    &raw mut from_bytes,
                )
            };
            packet.truncate(usize::try_from(length).ok()?);
            // A packet socket sees its own device's outgoing packets too.
            if from.sll_pkttype != libc::PACKET_OUTGOING {
                return Some(packet);
            }
        }
    }
}

/// An Ethernet frame with an IPv4 UDP packet of flow `flow`, whose payload begins with `number`.
pub(crate) fn packet(flow: u16, number: u32, length: usize) -> Vec<u8> {
    let mut packet = vec![0_u8; length];
    packet[..12].copy_from_slice(&[0x02, 0, 0, 0, 0, 0xbb, 0x02, 0, 0, 0, 0, 0xaa]);
    packet[12..14].copy_from_slice(&[0x08, 0x00]);
    packet[14] = 0x45;
    packet[16..18].copy_from_slice(&(length as u16 - 14).to_be_bytes());
    packet[22] = 64;
    packet[23] = 17;
    packet[26..34].copy_from_slice(&[10, 79, 0, 1, 10, 79, 0, 2]);
    let sum: u32 = packet[14..34].chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[24..26].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet[34..36].copy_from_slice(&(10_000 + flow).to_be_bytes());
    packet[36..38].copy_from_slice(&20_000_u16.to_be_bytes());
    packet[38..40].copy_from_slice(&(length as u16 - 34).to_be_bytes());
    packet[42..46].copy_from_slice(&number.to_be_bytes());
    for (position, byte) in packet[46..].iter_mut().enumerate() {
        *byte = (position as u32 ^ number) as u8;
    }
    packet
}

/// A region, and the indices of those of its buffers that are free.
pub(crate) struct Pool {
    pub(crate) umem: Arc<Umem>,
    pub(crate) free: Vec<u32>,
}

impl Pool {
    pub(crate) fn new(count: usize, buffer_bytes: u32) -> Self {
        let region = Region::create("xsk-test", count * buffer_bytes as usize, Pages::Small).expect("memory");
        let buffers = Buffers::new(Arc::new(region), buffer_bytes).expect("buffers");
        let free = (0..buffers.count()).collect();
        Self { umem: Umem::new(buffers), free }
    }

    pub(crate) fn take(&mut self, packet: &[u8]) -> Descriptor {
        let index = self.free.pop().expect("a free buffer");
        let mut descriptor = Descriptor { index, offset: 0, length: packet.len() as u16, ..Descriptor::default() };
        self.umem.buffers().bytes_mut(&mut descriptor).copy_from_slice(packet);
        descriptor
    }

    /// Fills a queue's ring, leaving `reserve` buffers free.
    pub(crate) fn fill(&mut self, queue: &mut XskQueue, reserve: usize) {
        let count = queue.fill_room().min(self.free.len().saturating_sub(reserve)).min(64);
        let from = self.free.len() - count;
        let taken = queue.fill(&self.free[from..]);
        assert_eq!(taken, count, "the ring said it had room");
        self.free.truncate(from);
    }

    pub(crate) fn collect(&mut self, queue: &mut XskQueue) {
        let mut burst = [0; 64];
        let count = queue.completed(&mut burst);
        self.free.extend_from_slice(&burst[..count]);
    }

    /// Every buffer of the region is free, once.
    pub(crate) fn assert_whole(&self) {
        let mut free = self.free.clone();
        free.sort_unstable();
        let all: Vec<u32> = (0..self.umem.buffers().count()).collect();
        assert!(free == all, "{} of {} buffers are free, or some twice", free.len(), all.len());
    }
}

/// The program on a device and a socket on each of its first `queues` queues.
pub(crate) fn open(
    netns: &Netns,
    device: &str,
    mode: Mode,
    umem: &Arc<Umem>,
    queues: u32,
    config: &XskConfig,
) -> (XdpAttachment, Vec<XskQueue>) {
    let opened = netns.enter(|| {
        let ifindex = Interface::lookup(device).expect("the device is there").ifindex;
        let attachment = XdpPort::load(ifindex).and_then(|port| port.attach(mode)).expect("the program attaches");
        let queues: Result<Vec<XskQueue>> = (0..queues)
            .map(|queue| {
                let socket = XskQueue::bind(umem, ifindex, queue, config)?;
                attachment.set_socket(queue, &socket).expect("the socket enters the map");
                Ok(socket)
            })
            .collect();
        (attachment, queues.expect("the queues can be bound"))
    });
    opened.expect("the namespace can be entered")
}

/// Calls `step` until it says that all is done.
pub(crate) fn until(what: &str, mut step: impl FnMut() -> bool) {
    let began = Instant::now();
    while !step() {
        assert!(began.elapsed() < SOON, "{what} did not happen");
        std::thread::sleep(Duration::from_micros(50));
    }
}
