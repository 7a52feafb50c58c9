//! The client's side of a session: opening, heads, errors, closing.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use middlenet_http::{Framing, Method, Reject, RequestHead};
use middlenet_sdk::middlebox::{Kind, MessageHeader, NO_HOP, flag};
use rustix::net::{Shutdown, sockopt};

use crate::outbox::{Outbox, Sent};
use crate::session::{End, Exchange, Phase, ResponseState, Session};
use crate::socket::{self, Read};
use crate::worker::{Origin, Worker};

/// Bytes of a client that are thrown away so that it gets to read its response; more, and it is cut off.
const DISCARD_BYTES: u64 = 16 << 20;
/// Steps of one session before others get their turn.
const STEPS: u32 = 64;
/// How long a client has to close after its last response.
const LINGER_MS: u64 = 2_000;

impl Worker {
    /// A new client connection.
    pub(crate) fn open(&mut self, socket: OwnedFd, peer: SocketAddr, local: Option<SocketAddr>, chain: u16) {
        let Some(local) = local.or_else(|| socket::local_address(&socket).ok()) else { return };
        self.next_session += 1;
        let id = (self.next_session << 8) | u64::from(self.number);
        let at = &self.chains[usize::from(chain)];
        let (is_tcp, head_ms) = (at.is_tcp(), at.plan.timeouts.head_ms);
        let exchange = Exchange::new(&at.limits);
        let deadline = self.deadline(head_ms);
        let key = self.sessions.insert(|key| Session {
            key,
            id,
            socket,
            chain,
            peer,
            peer_text: peer.ip().to_canonical().to_string(),
            local,
            phase: Phase::Head,
            readable: false,
            hung_up: false,
            unread: false,
            broken: false,
            input: None,
            out: Outbox::default(),
            requests: 0,
            closing: false,
            exchange,
            deadline,
            discarded: 0,
            starved: false,
            fresh: false,
            partial: Vec::new(),
            parked: Vec::new(),
            over: false,
        });
        let Some(mut session) = self.sessions.take(key) else { return };
        let counters = &self.counters.chains[usize::from(chain)];
        counters.connections.inc();
        counters.open_connections.inc();
        if !self.register(&session.socket, Origin::Client, key) {
            session.broken = true;
        }
        if is_tcp {
            self.begin_connection(&mut session);
        }
        self.drive(&mut session);
        self.put_back(session);
    }

    /// Goes on with a session as far as it can.
    pub(crate) fn drive(&mut self, s: &mut Session) {
        let mut steps = 0;
        while !s.over {
            steps += 1;
            if steps > STEPS {
                // Others have their turn first.
                return self.ready.push_back(s.key);
            }
            if !s.broken && !s.out.is_empty() && s.out.flush(&s.socket) == Sent::Broken {
                s.broken = true;
            }
            if s.broken {
                return self.close(s);
            }
            let went_on = match s.phase {
                Phase::Head => self.read_head(s),
                Phase::Deciding => false,
                Phase::Connecting => self.check_connected(s),
                Phase::Exchange => {
                    let request = self.pump_request(s);
                    let response = !s.over && s.phase == Phase::Exchange && self.pump_response(s);
                    request || response
                }
                Phase::Tunnel => self.pump_tunnel(s),
                Phase::Discarding => self.discard(s),
                Phase::Lingering => self.linger(s),
            };
            if !went_on {
                break;
            }
        }
    }

    /// Reads towards a request head. Whether something came of it.
    fn read_head(&mut self, s: &mut Session) -> bool {
        if !s.out.is_empty() {
            return false;
        }
        if s.fresh && s.exchange.done {
            // Pipelined: its first bytes have been here since before the last response.
            self.first_byte(s);
        }
        if s.fresh && s.input.is_none() && self.input(s).is_none() {
            return false;
        }
        loop {
            if let Some(input) = s.input
                && s.fresh
            {
                s.fresh = false;
                let limits = self.chains[usize::from(s.chain)].limits;
                let read = self.pool.with(input.index, |m| m.read_request(input.start, input.end, &limits));
                match read {
                    Ok(Some(head)) => {
                        self.begin_request(s, head);
                        return true;
                    }
                    Ok(None) if input.start > 0 => {
                        let mut input = input;
                        self.move_to_front(&mut input);
                        s.input = Some(input);
                    }
                    Ok(None) => {}
                    Err(reject) => {
                        self.reject(s, reject);
                        return true;
                    }
                }
            }
            if s.closing && s.input.is_none() && s.partial.is_empty() {
                self.close(s);
                return true;
            }
            if !s.readable {
                self.put_aside(s);
                return false;
            }
            let Some(input) = self.input(s) else { return false };
            match self.fill(s, input) {
                Read::Bytes(..) => {
                    if s.exchange.done {
                        self.first_byte(s);
                    }
                    // A head that comes byte by byte is looked at once a line.
                    let limit = self.chains[usize::from(s.chain)].limits.head_bytes;
                    let (from, to) = (input.end, s.input.map_or(input.end, |i| i.end));
                    let line = self.pool.with(input.index, |m| m.data_mut()[from..to].contains(&b'\n'));
                    s.fresh = line || to - input.start >= limit;
                }
                Read::Nothing => {}
                Read::End | Read::Broken => {
                    self.close(s);
                    return true;
                }
            }
        }
    }

    /// A request begins with its first byte.
    fn first_byte(&mut self, s: &mut Session) {
        let at = &self.chains[usize::from(s.chain)];
        let (head_ms, total_ms) = (at.plan.timeouts.head_ms, at.plan.timeouts.total_ms);
        self.begin_exchange(s);
        s.deadline = self.deadline(head_ms);
        s.exchange.deadline_total = self.deadline(total_ms);
    }

    /// A request, or the connection of a TCP chain, has a number and is counted from here on.
    pub(crate) fn begin_exchange(&mut self, s: &mut Session) {
        s.exchange.renew(&self.chains[usize::from(s.chain)].limits);
        s.exchange.began = self.now;
        self.next_request += 1;
        s.exchange.id = (self.next_request << 8) | u64::from(self.number);
        let counters = &self.counters.chains[usize::from(s.chain)];
        counters.received.inc();
        counters.in_progress.inc();
    }

    /// A whole request head has come.
    fn begin_request(&mut self, s: &mut Session, head: RequestHead) {
        let Some(input) = &mut s.input else { return };
        let index = input.index;
        let ex = &mut s.exchange;
        ex.began = self.now;
        ex.head_start = input.start;
        input.start += usize::from(head.length);
        ex.received_bytes = (input.end - ex.head_start) as u64;
        (ex.method, ex.minor, ex.keep_alive) = (head.method, head.minor, head.keep_alive);
        ex.expects_continue = head.expect_continue;
        ex.request_framing = head.framing;
        let chain = &self.chains[usize::from(s.chain)];
        ex.request_body = middlenet_http::BodyReader::new(head.framing, &chain.limits);
        if head.upgrade {
            ex.upgrade = self.pool.with(index, |m| {
                let upgrade = m.headers().find(|(name, _)| name.eq_ignore_ascii_case(b"upgrade"));
                upgrade.map(|(_, value)| value.to_vec())
            });
        }
        if ex.method == Method::Connect {
            return self.refuse(s, 501, "connect");
        }
        s.requests += 1;
        let limit = chain.plan.limits.requests;
        if limit > 0 && s.requests >= limit {
            s.closing = true;
        }
        self.decide(s, index);
    }

    /// Shows a request head to the functions.
    pub(crate) fn decide(&mut self, s: &mut Session, index: u32) {
        self.address(s, index, Kind::RequestHead, 0);
        s.phase = Phase::Deciding;
        s.exchange.shown = self.chains[usize::from(s.chain)].wants(Kind::RequestHead);
        if s.exchange.shown {
            s.deadline = 0;
        }
        let flow = self.run_functions(s, index, Kind::RequestHead, 0);
        self.proceed(s, index, Kind::RequestHead, flow);
    }

    /// Fills in the header fields that every message has; those of the head stay.
    pub(crate) fn address(&self, s: &Session, index: u32, kind: Kind, flags: u8) {
        self.pool.with(index, |m| {
            let header = m.header_mut();
            *header = MessageHeader {
                connection: s.id,
                request: s.exchange.id,
                kind: kind as u8,
                flags,
                worker: self.number,
                jump: NO_HOP,
                router: NO_HOP,
                method: header.method,
                target: header.target,
                reason: header.reason,
                status: header.status,
                headers: header.headers,
                tail: header.tail,
                minor: header.minor,
                method_code: header.method_code,
                offloaded: s.exchange.offloaded,
                ..MessageHeader::default()
            };
            header.set_addresses(s.peer, s.local);
        });
    }

    /// Answers a client that broke the rules, and closes.
    pub(crate) fn reject(&mut self, s: &mut Session, reject: Reject) {
        self.refuse(s, reject.status(), reject.reason());
    }

    /// Answers with an error of the client's, and closes.
    pub(crate) fn refuse(&mut self, s: &mut Session, status: u16, reason: &'static str) {
        s.closing = true;
        self.answer(s, status, End::Rejected(reason));
    }

    /// Answers with an error of ours.
    pub(crate) fn fail(&mut self, s: &mut Session, status: u16, reason: &'static str) {
        self.answer(s, status, End::Failed(reason));
    }

    /// Sends an answer of the broker's own, if the client can still be told, and ends the request.
    fn answer(&mut self, s: &mut Session, status: u16, end: End) {
        self.release_conn(s, false);
        if s.exchange.answering || self.chains[usize::from(s.chain)].is_tcp() {
            self.end(s, end);
            return self.close(s);
        }
        // Functions may still have the buffer with what came behind the head: then nothing more can be read from it.
        if let Some(input) = s.input.take_if(|i| self.pool.away(i.index).is_some()) {
            self.let_go(input.index);
            s.exchange.request_away = false;
            s.closing = true;
        }
        let unread = !s.exchange.request_body.is_done();
        let close = s.closing || !s.exchange.keep_alive || unread;
        let body = format!("{status} {}\n", crate::answers::reason(status));
        self.head_out.clear();
        crate::answers::write(&mut self.head_out, status, &body, close, s.exchange.minor, s.exchange.method);
        self.send_answer(s, status);
        s.closing |= close;
        self.end(s, end);
        self.after_response(s);
    }

    /// Sends `head_out` as the response.
    pub(crate) fn send_answer(&mut self, s: &mut Session, status: u16) {
        let bytes = self.head_out.len() as u64;
        if s.out.send(&s.socket, &[&self.head_out]) == Sent::Broken {
            s.broken = true;
        }
        self.sent(s, bytes);
        s.exchange.status = status;
        s.exchange.answering = true;
        s.exchange.response = ResponseState::Done;
        self.counters.chains[usize::from(s.chain)].status(status);
    }

    /// Counts bytes to the client.
    #[inline]
    pub(crate) fn sent(&self, s: &mut Session, bytes: u64) {
        s.exchange.sent_bytes += bytes;
        self.counters.chains[usize::from(s.chain)].sent_bytes.add(bytes);
    }

    /// What follows a response: the next request, or the end.
    pub(crate) fn after_response(&mut self, s: &mut Session) {
        if s.over {
            return;
        }
        s.discarded = 0;
        let body_ms = self.chains[usize::from(s.chain)].plan.timeouts.body_ms;
        if s.closing {
            s.phase = Phase::Lingering;
            // A client that lingers keeps no buffer from others.
            s.unread = !s.partial.is_empty() || s.input.is_some_and(|i| i.start < i.end);
            s.partial = Vec::new();
            if let Some(input) = s.input.take() {
                self.let_go(input.index);
            }
            s.deadline = self.deadline(if s.out.is_empty() { LINGER_MS } else { body_ms.max(LINGER_MS) });
        } else if !s.exchange.request_body.is_done() || s.exchange.request_away {
            s.phase = Phase::Discarding;
            s.deadline = self.deadline(body_ms);
        } else {
            self.next_request(s);
        }
    }

    fn next_request(&mut self, s: &mut Session) {
        self.free_empty_input(s);
        s.phase = Phase::Head;
        let timeouts = self.chains[usize::from(s.chain)].plan.timeouts;
        if s.input.is_some() || !s.partial.is_empty() {
            s.fresh = true;
            s.deadline = self.deadline(timeouts.body_ms);
        } else {
            s.deadline = self.deadline(timeouts.idle_ms);
        }
    }

    /// Reads the rest of a request's body for nothing.
    fn discard(&mut self, s: &mut Session) -> bool {
        if s.exchange.request_away {
            return false;
        }
        loop {
            if s.exchange.request_body.is_done() {
                self.next_request(s);
                return true;
            }
            if !s.partial.is_empty() && self.input(s).is_none() {
                return false;
            }
            if let Some(input) = &mut s.input {
                let (start, end) = (input.start, input.end);
                let body = &mut s.exchange.request_body;
                let step = self.pool.with(input.index, |m| body.next(&m.data_mut()[start..end]));
                use middlenet_http::BodyStep::{Data, End, Need};
                match step {
                    Ok(Data { start, length }) => input.start += start + length,
                    Ok(Need { consumed }) => input.start += consumed,
                    Ok(End { consumed }) => input.start += consumed,
                    Err(_) => {
                        self.close(s);
                        return true;
                    }
                }
                if input.start < input.end || s.exchange.request_body.is_done() {
                    continue;
                }
                (input.start, input.end) = (0, 0);
            }
            if !s.readable {
                self.free_empty_input(s);
                return false;
            }
            let Some(input) = self.input(s) else { return false };
            match self.fill(s, input) {
                Read::Bytes(n, _) => s.discarded += n as u64,
                Read::Nothing => {
                    self.free_empty_input(s);
                    return false;
                }
                Read::End | Read::Broken => s.broken = true,
            }
            if s.broken || s.discarded > DISCARD_BYTES {
                self.close(s);
                return true;
            }
        }
    }

    /// Waits for the client to close, so that a reset does not take the response from it (RFC 9112 9.6).
    fn linger(&mut self, s: &mut Session) -> bool {
        if !s.out.is_empty() {
            return false;
        }
        // A client that has sent all it has to send can be left at once.
        let quiet = s.exchange.request_body.is_done() && !s.readable && !s.unread;
        if quiet {
            self.close(s);
            return true;
        }
        if s.discarded == 0 {
            let _ = rustix::net::shutdown(&s.socket, Shutdown::Write);
            s.deadline = self.deadline(LINGER_MS);
        }
        while s.readable {
            match socket::read(&s.socket, &mut self.scratch) {
                Read::Bytes(n, more) => {
                    s.discarded += n as u64;
                    s.readable = more || s.hung_up;
                }
                Read::Nothing => s.readable = false,
                Read::End | Read::Broken => s.broken = true,
            }
            if s.broken || s.discarded > DISCARD_BYTES {
                self.close(s);
                return true;
            }
        }
        s.discarded = s.discarded.max(1);
        false
    }

    /// A session's time is up.
    pub(crate) fn overdue(&mut self, s: &mut Session) {
        let total = s.exchange.deadline_total;
        let total_over = !s.exchange.done && total != 0 && self.now_ms >= total;
        let now_ms = self.now_ms;
        let waited = s.parked.iter().position(|p| p.until_ms != 0 && now_ms >= p.until_ms);
        if let Some(at) = waited.filter(|_| !total_over) {
            let parked = s.parked.remove(at);
            return self.functions_failed(s, parked.kind, 503, "function-down");
        }
        s.deadline = 0;
        match s.phase {
            Phase::Head if s.exchange.done => self.close(s),
            Phase::Head => self.refuse(s, 408, "head-timeout"),
            Phase::Lingering | Phase::Discarding | Phase::Tunnel => {
                if s.phase == Phase::Tunnel {
                    self.end(s, End::Answered);
                }
                self.close(s);
            }
            Phase::Exchange if total_over && s.exchange.waits_for_client() => self.refuse(s, 408, "total-timeout"),
            _ if total_over => self.fail(s, 504, "total-timeout"),
            Phase::Deciding => self.fail(s, 504, "function-timeout"),
            Phase::Connecting => self.upstream_failed(s, "connect-timeout"),
            Phase::Exchange => self.exchange_overdue(s),
        }
    }

    /// Ends a request: counts it, and tells the functions.
    pub(crate) fn end(&mut self, s: &mut Session, end: End) {
        if s.exchange.done {
            return;
        }
        s.exchange.done = true;
        s.exchange.deadline_total = 0;
        // A message that waited for a function goes with its request: its buffer is about to be free.
        if std::mem::take(&mut s.parked).iter().any(|parked| parked.kind == Kind::RequestBody) {
            s.exchange.request_away = false;
        }
        if let Some(input) = s.exchange.response_input.take() {
            self.let_go(input.index);
        }
        s.exchange.response_partial = Vec::new();
        let counters = &self.counters.chains[usize::from(s.chain)];
        counters.in_progress.sub(1);
        match end {
            End::Answered => {
                counters.answered.inc();
                counters.latency.note(self.now.saturating_duration_since(s.exchange.began).as_nanos() as u64);
            }
            End::Rejected(reason) => counters.rejected.inc(reason),
            End::Failed(reason) => counters.failed.inc(reason),
            End::Aborted => counters.aborted.inc(),
        }
        if s.exchange.shown && self.chains[usize::from(s.chain)].wants(Kind::Finished) {
            self.tell_finished(s, end);
        }
    }

    fn tell_finished(&mut self, s: &Session, end: End) {
        let Some(index) = self.pool.take() else { return };
        self.address(s, index, Kind::Finished, if end == End::Answered { flag::LAST } else { 0 });
        let upstream = s.exchange.upstream.and_then(|u| self.upstreams.get(u)).map(|u| u.address.to_string());
        let duration = self.now.saturating_duration_since(s.exchange.began);
        self.pool.with(index, |m| {
            let header = m.header_mut();
            header.tail = middlenet_sdk::middlebox::DATA_OFFSET as u16;
            header.headers = 0;
            header.status = s.exchange.status;
            header.received_bytes = s.exchange.received_bytes;
            header.sent_bytes = s.exchange.sent_bytes;
            header.duration_us = duration.as_micros() as u64;
            let target = m.append(&[upstream.unwrap_or_default().as_bytes()]).unwrap_or_default();
            m.header_mut().target = target;
        });
        self.run_for_nobody(s, index, Kind::Finished);
    }

    /// Ends a session, whatever it was doing.
    pub(crate) fn close(&mut self, s: &mut Session) {
        if s.over {
            return;
        }
        s.over = true;
        let cut = s.exchange.answering && !matches!(s.exchange.response, ResponseState::Done);
        if cut && s.exchange.response_out == Framing::UntilClose {
            // An ordinary close would make it look whole; a socket that refuses is closed so all the same.
            let _ = sockopt::set_socket_linger(&s.socket, Some(Duration::ZERO));
        }
        self.release_conn(s, false);
        self.end(s, if s.phase == Phase::Tunnel { End::Answered } else { End::Aborted });
        for input in [s.input.take(), s.exchange.response_input.take()].into_iter().flatten() {
            self.let_go(input.index);
        }
        s.parked.clear();
        if self.chains[usize::from(s.chain)].wants(Kind::Closed)
            && let Some(index) = self.pool.take()
        {
            self.address(s, index, Kind::Closed, 0);
            self.run_for_nobody(s, index, Kind::Closed);
        }
        self.counters.chains[usize::from(s.chain)].open_connections.sub(1);
    }
}
