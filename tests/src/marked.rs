//! Packets that functions mark on their way (`middlenet-test-marker`), and the marks that they come with.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use middlenet_sdk::wire::{FlowKey, Layers, MacAddr, PacketBuilder};

use crate::{Error, Line, RawSocket};

/// How long a packet may take.
const ON_ITS_WAY: Duration = Duration::from_secs(5);
/// TTL of all packets at first.
const TTL: u8 = 64;
/// Where the number of a packet stands in its payload.
const NUMBER: &[u8; 8] = b"packet #";

/// Who dealt with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// Nobody whose mark this is.
    Nobody,
    /// A function's own code.
    Function,
    /// Its fast path.
    FastPath,
}

/// What a packet looks like where it arrives.
#[derive(Debug, Clone)]
pub struct Arrived {
    /// The frame.
    pub frame: Vec<u8>,
    /// Its flow.
    pub key: FlowKey,
    /// How many functions lowered its TTL.
    pub functions: u8,
    /// Who left marks in its Ethernet addresses, its source address, its destination address and its source port.
    pub marks: [By; 4],
}

/// A packet to be sent.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port of UDP.
    pub src_port: u16,
    /// Destination port of UDP.
    pub dst_port: u16,
}

impl Sent {
    /// From `10.1.0.2` to `10.2.0.2`, whatever end it is sent from.
    #[must_use]
    pub fn to_port(dst_port: u16) -> Self {
        let v4 = |side: u8| Ipv4Addr::new(10, side, 0, 2).into();
        Self { src: v4(1), dst: v4(2), src_port: 1000, dst_port }
    }

    /// The same by IPv6.
    #[must_use]
    pub fn six(self) -> Self {
        let v6 = |side: u16| Ipv6Addr::new(0xfd00 + side, 0, 0, 0, 0, 0, 0, 2).into();
        Self { src: v6(1), dst: v6(2), ..self }
    }

    /// The frame of packet `number`.
    #[must_use]
    pub fn frame(&self, number: u64) -> Vec<u8> {
        let payload = [&NUMBER[..], &number.to_be_bytes()].concat();
        let macs = (MacAddr([2, 0, 0, 0, 1, 2]), MacAddr([2, 0, 0, 0, 0, 1]));
        let builder = PacketBuilder::new().mac(macs.0, macs.1);
        let builder = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => builder.ipv4(src, dst),
            (IpAddr::V6(src), IpAddr::V6(dst)) => builder.ipv6(src, dst),
            mixed => panic!("addresses of different versions: {mixed:?}"),
        };
        builder.ttl(TTL).udp(self.src_port, self.dst_port).payload(&payload).build()
    }
}

/// Sends packets at one end of a line, and takes them at another.
#[derive(Debug)]
pub struct Marked {
    client: RawSocket,
    server: RawSocket,
    next: u64,
}

impl Marked {
    /// At both ends of a line.
    ///
    /// # Errors
    ///
    /// As [`RawSocket::open`].
    pub fn on(line: &Line) -> Result<Self, Error> {
        let (client, server) = (RawSocket::open(&line.client, "eth0")?, RawSocket::open(&line.server, "eth0")?);
        Ok(Self { client, server, next: 1 })
    }

    /// Sends a packet from the client, or from the server if `reverse`; what arrives at the other end.
    pub fn send(&mut self, packet: &Sent, reverse: bool) -> Option<Arrived> {
        let (from, to) = if reverse { (&self.server, &self.client) } else { (&self.client, &self.server) };
        let number = self.next;
        self.next += 1;
        assert!(from.send(&packet.frame(number)), "the kernel takes the packet");
        arrival(to, number, ON_ITS_WAY)
    }

    /// The same, where nothing is to arrive: waits no longer than a packet that does takes.
    pub fn send_in_vain(&mut self, packet: &Sent) -> Option<Arrived> {
        let number = self.next;
        self.next += 1;
        assert!(self.client.send(&packet.frame(number)), "the kernel takes the packet");
        arrival(&self.server, number, Duration::from_millis(300))
    }

    /// Sends a packet from the client that is to come back there.
    pub fn send_to_and_fro(&mut self, packet: &Sent) -> Option<Arrived> {
        let number = self.next;
        self.next += 1;
        assert!(self.client.send(&packet.frame(number)), "the kernel takes the packet");
        arrival(&self.client, number, ON_ITS_WAY)
    }
}

/// Waits for a packet of this number that comes in.
fn arrival(socket: &RawSocket, number: u64, patience: Duration) -> Option<Arrived> {
    let wanted = [&NUMBER[..], &number.to_be_bytes()].concat();
    let end = Instant::now() + patience;
    while Instant::now() < end {
        let Some(frame) = socket.receive_incoming() else { continue };
        if frame.windows(wanted.len()).any(|window| window == wanted) {
            return Some(read(frame));
        }
    }
    None
}

fn read(frame: Vec<u8>) -> Arrived {
    let layers = Layers::parse(&frame).expect("what arrives is well-formed");
    layers.verify_checksums(&frame).expect("its checksums are right");
    let key = FlowKey::parse(&frame).expect("it has a flow");
    let ttl = match layers.is_ipv6() {
        true => layers.ipv6(&frame).expect("IPv6").hop_limit(),
        false => layers.ipv4(&frame).expect("IPv4").ttl(),
    };
    let of = |byte: u8| match byte {
        0x50 => By::Function,
        0xfa => By::FastPath,
        _ => By::Nobody,
    };
    let of_port = |port: u16| port.checked_sub(40_000).map_or(By::Nobody, |mark| of(mark as u8));
    let marks = [of(frame[1]), of(key.src[15]), of(key.dst[15]), of_port(key.src_port)];
    Arrived { functions: TTL - ttl, marks, key, frame }
}
