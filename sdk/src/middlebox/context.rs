//! What a function may know and ask for besides the message.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use super::layout::{MessageHeader, flag};
use super::{Board, Upstreams};

/// Time since the function was made: the host's, or the test's.
pub type Clock = Duration;

/// Timers that a function has set, kept by its host.
#[derive(Debug, Default)]
pub struct Timers {
    due: BinaryHeap<Reverse<(Duration, u64)>>,
}

impl Timers {
    /// Most timers at a time; one more is not set.
    pub const LIMIT: usize = 65_536;

    /// Takes out a timer that is due.
    pub fn expired(&mut self, now: Clock) -> Option<u64> {
        let Reverse((at, token)) = *self.due.peek()?;
        if at > now {
            return None;
        }
        self.due.pop();
        Some(token)
    }

    /// When the next is due.
    pub fn next(&self) -> Option<Clock> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }
}

/// Handed to every call of a function.
#[derive(Debug)]
pub struct Context<'a> {
    now: Clock,
    board: &'a Board,
    timers: &'a mut Timers,
    connection: u64,
    request: u64,
    peer: SocketAddr,
    local: SocketAddr,
}

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

impl<'a> Context<'a> {
    /// For a call that is about no message.
    pub fn new(now: Clock, board: &'a Board, timers: &'a mut Timers) -> Self {
        Self { now, board, timers, connection: 0, request: 0, peer: NOBODY, local: NOBODY }
    }

    /// For a call about the message with that header.
    #[inline]
    pub fn of(header: &MessageHeader, now: Clock, board: &'a Board, timers: &'a mut Timers) -> Self {
        let address = |bytes: [u8; 16], port: u16| {
            let ip = if header.flags & flag::IPV6 != 0 {
                IpAddr::V6(Ipv6Addr::from(bytes))
            } else {
                IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3]))
            };
            SocketAddr::new(ip, port)
        };
        Self {
            now,
            board,
            timers,
            connection: header.connection,
            request: header.request,
            peer: address(header.peer, header.peer_port),
            local: address(header.local, header.local_port),
        }
    }

    /// Time since the function was made. It is read once per burst of messages.
    pub fn now(&self) -> Clock {
        self.now
    }

    /// The client connection; unique in the run.
    pub fn connection_id(&self) -> u64 {
        self.connection
    }

    /// The request; unique in the run.
    pub fn request_id(&self) -> u64 {
        self.request
    }

    /// The client's address and port.
    pub fn client(&self) -> SocketAddr {
        self.peer
    }

    /// The address and port that the client connected to.
    pub fn listener(&self) -> SocketAddr {
        self.local
    }

    /// The upstreams that this function declared.
    pub fn upstreams(&self) -> Upstreams<'_> {
        self.board.upstreams()
    }

    /// Asks for [`timer`](super::MiddleboxFunction::timer) to be called with `token` after at least `delay`, to within
    /// 100 ms. A function holds at most [`Timers::LIMIT`] timers; `false`: this one was not set.
    pub fn set_timer(&mut self, delay: Duration, token: u64) -> bool {
        let fits = self.timers.due.len() < Timers::LIMIT;
        if fits {
            self.timers.due.push(Reverse((self.now + delay, token)));
        }
        fits
    }
}

/// The header fields of an address.
pub(super) fn address_bytes(ip: IpAddr) -> ([u8; 16], bool) {
    match ip {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            (bytes, false)
        }
        IpAddr::V6(ip) => (ip.octets(), true),
    }
}

impl MessageHeader {
    /// Sets the addresses of the connection; both are of one family.
    #[inline]
    pub fn set_addresses(&mut self, peer: SocketAddr, local: SocketAddr) {
        let (bytes, v6) = address_bytes(peer.ip());
        self.peer = bytes;
        self.local = address_bytes(local.ip()).0;
        (self.peer_port, self.local_port) = (peer.port(), local.port());
        self.flags = if v6 { self.flags | flag::IPV6 } else { self.flags & !flag::IPV6 };
    }
}
