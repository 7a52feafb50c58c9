//! A client connection and what is under way on it.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Instant;

use middlenet_http::{BodyReader, Framing, Limits, Method};

use crate::outbox::Outbox;
use crate::slab::Key;

/// What a session is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It waits for a request head, or has a part of one.
    Head,
    /// Functions decide about the request head, or the connection in TCP chains.
    Deciding,
    /// A connection to the upstream is being made.
    Connecting,
    /// Request and response are relayed.
    Exchange,
    /// Bytes are relayed both ways.
    Tunnel,
    /// The response is out; what is left of the request's body is read and thrown away.
    Discarding,
    /// Nothing more is sent; what the client still sends is thrown away until it closes, so that it gets what was sent.
    Lingering,
}

/// Received bytes that are not yet used: a range of a buffer's data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Input {
    pub(crate) index: u32,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Answered by an upstream or a function.
    Answered,
    /// The client's fault.
    Rejected(&'static str),
    /// Ours, a function's or an upstream's.
    Failed(&'static str),
    /// The client went away.
    Aborted,
}

/// Where the response is.
#[derive(Debug)]
pub(crate) enum ResponseState {
    /// Its head has not come.
    Head,
    /// Functions look at its head.
    HeadAway,
    /// Its body is relayed.
    Body,
    /// It is complete.
    Done,
}

/// A request and its response.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) id: u64,
    pub(crate) began: Instant,
    pub(crate) method: Method,
    pub(crate) minor: u8,
    pub(crate) keep_alive: bool,
    pub(crate) expects_continue: bool,
    /// The protocol asked for by `Upgrade`.
    pub(crate) upgrade: Option<Vec<u8>>,
    /// Where the head begins in the input buffer, for another run of the chain.
    pub(crate) head_start: usize,
    /// Whether functions have seen the head, so that they are told of the end.
    pub(crate) shown: bool,
    /// Functions that want no more pieces, by place.
    pub(crate) offloaded: u32,

    pub(crate) request_framing: Framing,
    pub(crate) request_body: BodyReader,
    /// The framing towards the upstream.
    pub(crate) request_out: Framing,
    /// All of the request has been handed to the upstream's outbox.
    pub(crate) request_done: bool,
    /// Length of the piece that functions look at, as it came.
    pub(crate) piece_length: usize,
    /// The functions have seen the end of the request's body.
    pub(crate) last_shown: bool,
    /// A piece of the request's body is with functions.
    pub(crate) request_away: bool,
    /// The upstream answered early and takes no more.
    pub(crate) request_given_up: bool,
    /// The head as written, kept for another try.
    pub(crate) head: Vec<u8>,
    pub(crate) to_upstream: Outbox,

    pub(crate) upstream: Option<usize>,
    /// The hop whose list the upstream is from, for another try.
    pub(crate) router: Option<usize>,
    pub(crate) conn: Option<Key>,
    /// The upstream counts this request as under way.
    pub(crate) counted_active: bool,
    pub(crate) tries: u32,
    /// Bytes of this request have been sent to the upstream.
    pub(crate) sent_any: bool,
    /// The chain has been run again after a loss.
    pub(crate) rerun: bool,

    pub(crate) response: ResponseState,
    pub(crate) response_body: BodyReader,
    pub(crate) response_out: Framing,
    pub(crate) response_input: Option<Input>,
    /// Bytes of the response's body that wait outside the pool.
    pub(crate) response_partial: Vec<u8>,
    /// Where the response's head begins in its buffer, for another run.
    pub(crate) response_head_start: usize,
    /// The head as parsed, for after the functions.
    pub(crate) response_head: Option<middlenet_http::ResponseHead>,
    /// A piece of the response's body is with functions.
    pub(crate) response_away: bool,
    pub(crate) response_piece_length: usize,
    pub(crate) response_last_shown: bool,
    pub(crate) upstream_keep_alive: bool,
    pub(crate) upstream_eof: bool,
    pub(crate) status: u16,
    pub(crate) received_bytes: u64,
    pub(crate) sent_bytes: u64,
    /// The client has been sent bytes of the response: an error can no longer be told by a status.
    pub(crate) answering: bool,
    pub(crate) done: bool,
    /// Directions of a tunnel that have ended: from the client, from the upstream.
    pub(crate) tunnel_ended: [bool; 2],
    pub(crate) tunnel_away: [bool; 2],
    /// When all of it must be over, in ms; 0: no limit.
    pub(crate) deadline_total: u64,
}

impl Exchange {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            id: 0,
            began: Instant::now(),
            method: Method::Get,
            minor: 1,
            keep_alive: false,
            expects_continue: false,
            upgrade: None,
            head_start: 0,
            shown: false,
            offloaded: 0,
            request_framing: Framing::None,
            request_body: BodyReader::new(Framing::None, limits),
            request_out: Framing::None,
            request_done: false,
            piece_length: 0,
            last_shown: false,
            request_away: false,
            request_given_up: false,
            head: Vec::new(),
            to_upstream: Outbox::default(),
            upstream: None,
            router: None,
            conn: None,
            counted_active: false,
            tries: 0,
            sent_any: false,
            rerun: false,
            response: ResponseState::Head,
            response_body: BodyReader::new(Framing::None, limits),
            response_out: Framing::None,
            response_input: None,
            response_partial: Vec::new(),
            response_head_start: 0,
            response_head: None,
            response_away: false,
            response_piece_length: 0,
            response_last_shown: false,
            upstream_keep_alive: false,
            upstream_eof: false,
            status: 0,
            received_bytes: 0,
            sent_bytes: 0,
            answering: false,
            done: true,
            tunnel_ended: [false; 2],
            tunnel_away: [false; 2],
            deadline_total: 0,
        }
    }

    /// Whether it is the client's turn: the rest of its request has not come.
    pub(crate) fn waits_for_client(&self) -> bool {
        !(self.request_done || self.request_given_up || self.request_away || !self.to_upstream.is_empty())
    }

    /// Makes it ready for the next request; memory is kept.
    pub(crate) fn renew(&mut self, limits: &Limits) {
        let head = std::mem::take(&mut self.head);
        let mut to_upstream = std::mem::take(&mut self.to_upstream);
        to_upstream.clear();
        *self = Self::new(limits);
        self.head = head;
        self.head.clear();
        self.to_upstream = to_upstream;
        self.done = false;
    }
}

/// A client connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) key: Key,
    pub(crate) id: u64,
    pub(crate) socket: OwnedFd,
    pub(crate) chain: u16,
    pub(crate) peer: SocketAddr,
    /// The peer's address as text.
    pub(crate) peer_text: String,
    pub(crate) local: SocketAddr,
    pub(crate) phase: Phase,
    pub(crate) readable: bool,
    /// An event told that the peer has closed its side: a short read is followed by the end, of which no event tells again.
    pub(crate) hung_up: bool,
    /// It is over, and bytes of the client lie unread: it is not closed before the client has read its response.
    pub(crate) unread: bool,
    /// The connection is broken.
    pub(crate) broken: bool,
    pub(crate) input: Option<Input>,
    pub(crate) out: Outbox,
    pub(crate) requests: u32,
    /// No further request is taken.
    pub(crate) closing: bool,
    pub(crate) exchange: Exchange,
    /// In ms of the worker's clock; 0: none.
    pub(crate) deadline: u64,
    /// Bytes thrown away while discarding or lingering.
    pub(crate) discarded: u64,
    /// It waits for a free buffer.
    pub(crate) starved: bool,
    /// What waits outside the pool: a part of a head, or what came behind a request.
    pub(crate) partial: Vec<u8>,
    /// Bytes have come that no parser has seen.
    pub(crate) fresh: bool,
    /// Where it waits for a hop: the hop, its kind of message, the place in the order, and the buffer.
    pub(crate) parked: Vec<Parked>,
    /// The connection has been closed in all but name.
    pub(crate) over: bool,
}

/// A message that waits for a function to be started anew.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parked {
    pub(crate) hop: usize,
    pub(crate) kind: middlenet_sdk::middlebox::Kind,
    pub(crate) at: usize,
    pub(crate) index: u32,
    /// Since when, in ms.
    pub(crate) since_ms: u64,
    /// When it has waited long enough, in ms; 0: never.
    pub(crate) until_ms: u64,
}
