//! A request on its way to an upstream: routing, the head, the body.

use middlenet_http::{BodyStep, CHUNK_END, Egress, Framing, Known, KnownSet, write_chunk_head, write_last_chunk};
use middlenet_sdk::middlebox::{Kind, MessageHeader, NO_HOP, VerdictCode, flag};

use crate::functions::Piece;
use crate::outbox::Sent;
use crate::session::{End, Phase, ResponseState, Session};
use crate::socket::{self, Read};
use crate::worker::{Origin, SCRATCH_BYTES, Worker};

impl Worker {
    /// The functions have decided about a request head.
    pub(crate) fn decided(&mut self, s: &mut Session, index: u32) {
        let header = self.pool.with(index, |m| *m.header());
        if header.flags & flag::NO_ROOM != 0 {
            return self.fail(s, 500, "no-room");
        }
        match VerdictCode::decode(header.verdict) {
            Some(VerdictCode::Next) => {}
            Some(VerdictCode::Respond) => return self.answer_of_function(s, index),
            Some(VerdictCode::Close) => {
                self.end(s, End::Rejected("closed-by-function"));
                return self.close(s);
            }
            None => return self.fail(s, 502, "function-verdict"),
        }
        let Some(upstream) = self.route(s, &header) else { return self.fail(s, 503, "no-upstream") };
        if let Err(bad) = self.write_request(s, index, upstream) {
            return self.fail(s, 500, bad.reason());
        }
        self.connect_upstream(s, upstream);
    }

    /// The upstream that a function chose, or the next of the chain's own.
    pub(crate) fn route(&mut self, s: &mut Session, header: &MessageHeader) -> Option<usize> {
        let chain = &mut self.chains[usize::from(s.chain)];
        if header.router != NO_HOP {
            let hop = *chain.hops.get(usize::from(header.router))?;
            s.exchange.router = Some(hop);
            return self.hops[hop].upstreams.get(usize::from(header.upstream)).copied();
        }
        let count = chain.upstreams.len();
        let first = chain.next_upstream;
        chain.next_upstream = first.wrapping_add(1);
        let in_turn = |n: usize| chain.upstreams.get(first.wrapping_add(n) % count.max(1)).copied();
        let up = (0..count).filter_map(in_turn).find(|&u| self.upstreams[u].is_up());
        // Fail-open: if the checks say that all are down, they may be wrong.
        up.or_else(|| in_turn(0))
    }

    /// Writes the head for the upstream.
    fn write_request(&mut self, s: &mut Session, index: u32, upstream: usize) -> Result<(), middlenet_http::BadHead> {
        let chain = &self.chains[usize::from(s.chain)];
        let ex = &mut s.exchange;
        ex.request_out = match ex.request_framing {
            framing if framing.is_empty() => framing,
            _ if chain.resizes_request => Framing::Chunked,
            framing => framing,
        };
        let trusted = chain.trusts(s.peer.ip());
        self.pool.with(index, |m| {
            let header = *m.header();
            let named = |known: Known| {
                let found = m.index().iter().find(|h| h.known == known as u8);
                found.and_then(|h| h.value(m.bytes()))
            };
            let mut appended = Vec::new();
            if trusted {
                // Several lines are one list (RFC 9110 5.3).
                let before = m.index().iter().filter(|h| h.known == Known::XForwardedFor as u8);
                for value in before.filter_map(|h| h.value(m.bytes())).filter(|v| !v.is_empty()) {
                    appended.extend_from_slice(value);
                    appended.extend_from_slice(b", ");
                }
                appended.extend_from_slice(s.peer_text.as_bytes());
            }
            let forwarded = if trusted { &appended[..] } else { s.peer_text.as_bytes() };
            let mut extra: [(&[u8], &[u8]); 3] = [(b"x-forwarded-for", forwarded), (b"", b""), (b"", b"")];
            let mut count = 1;
            let mut replace = KnownSet::of(&[Known::XForwardedFor]);
            if !trusted {
                replace = replace.union(KnownSet::of(&[
                    Known::XForwardedProto,
                    Known::XForwardedHost,
                    Known::XForwardedPort,
                    Known::Forwarded,
                    Known::XRealIp,
                ]));
                extra[count] = (b"x-forwarded-proto", b"http");
                count += 1;
            }
            let host =
                if named(Known::Host).is_none() { self.upstreams[upstream].address.to_string() } else { String::new() };
            if !host.is_empty() {
                extra[count] = (b"host", host.as_bytes());
                count += 1;
            }
            let egress = Egress {
                framing: ex.request_out,
                upgrade: ex.upgrade.as_deref(),
                replace,
                extra: &extra[..count],
                ..Egress::default()
            };
            ex.head.clear();
            let (method, target) = (m.span(header.method), m.span(header.target));
            middlenet_http::write_request_head(&mut ex.head, method, target, m.headers(), &egress)?;
            // Where a response ends depends on the method, so the upstream must not see another one than the client sent.
            let written = ex.head.split(|&b| b == b' ').next().unwrap_or_default();
            if middlenet_http::Method::classify(written) != ex.method {
                return Err(middlenet_http::BadHead::Method);
            }
            Ok(())
        })
    }

    /// Finds a connection to an upstream, or begins one.
    pub(crate) fn connect_upstream(&mut self, s: &mut Session, upstream: usize) {
        self.connect(s, upstream, true);
    }

    /// `pooled`: an idle connection will do.
    pub(crate) fn connect(&mut self, s: &mut Session, upstream: usize, pooled: bool) {
        s.exchange.upstream = Some(upstream);
        s.exchange.response = ResponseState::Head;
        s.exchange.counted_active = true;
        self.upstreams[upstream].begin();
        while pooled && let Some(key) = self.idle[upstream].pop_back() {
            let Some(conn) = self.conns.get_mut(key) else { continue };
            if !socket::is_silent(&conn.socket) {
                self.drop_conn(key);
                continue;
            }
            conn.session = Some(s.key);
            conn.used += 1;
            self.upstreams[upstream].reuses.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            s.exchange.conn = Some(key);
            self.publish(upstream);
            return self.send_request(s);
        }
        self.upstreams[upstream].connects.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.publish(upstream);
        match socket::connect(self.upstreams[upstream].address) {
            Ok((socket, connected)) => {
                let session = s.key;
                let key = self.conns.insert(|key| crate::upstream::Conn {
                    key,
                    socket,
                    upstream,
                    session: Some(session),
                    readable: false,
                    hung_up: false,
                    writable: connected,
                    used: 0,
                    idle_since: 0,
                    partial: Vec::new(),
                });
                s.exchange.conn = Some(key);
                let fine = match self.conns.take(key) {
                    Some(conn) => {
                        let fine = self.register(&conn.socket, Origin::Upstream, key);
                        self.conns.put(key, conn);
                        fine
                    }
                    None => false,
                };
                if !fine {
                    return self.upstream_failed(s, "no-socket");
                }
                if connected {
                    return self.send_request(s);
                }
                s.phase = Phase::Connecting;
                s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.connect_ms);
            }
            Err(e) => {
                // It counts as active until here; there is no connection to release.
                let reason = if socket::is_ours(&e) { "no-socket" } else { "connect" };
                self.upstream_failed(s, reason);
            }
        }
    }

    /// Whether a connection that was begun stands. Whether something came of it.
    pub(crate) fn check_connected(&mut self, s: &mut Session) -> bool {
        let Some(conn) = s.exchange.conn.and_then(|key| self.conns.get_mut(key)) else { return false };
        if !conn.writable && !conn.readable {
            return false;
        }
        if !socket::connected(&conn.socket) {
            self.upstream_failed(s, "connect");
            return true;
        }
        conn.writable = true;
        self.send_request(s);
        true
    }

    /// Sends the head, and what there is of the body.
    fn send_request(&mut self, s: &mut Session) {
        if self.chains[usize::from(s.chain)].is_tcp() {
            return self.begin_tunnel(s);
        }
        s.phase = Phase::Exchange;
        let timeouts = self.chains[usize::from(s.chain)].plan.timeouts;
        let Some(mut conn) = s.exchange.conn.and_then(|key| self.conns.take(key)) else { return };
        let ex = &mut s.exchange;
        ex.to_upstream.clear();
        ex.sent_any = true;
        let sent = ex.to_upstream.send(&conn.socket, &[&ex.head]);
        conn.writable = sent == Sent::All;
        self.conns.put(conn.key, conn);
        if sent == Sent::Broken {
            return self.upstream_failed(s, "write");
        }
        if ex.request_framing.is_empty() {
            ex.request_done = true;
            self.put_aside(s);
            s.deadline = self.deadline(timeouts.first_byte_ms);
            return;
        }
        s.deadline = self.deadline(timeouts.body_ms);
        if s.exchange.expects_continue && s.input.is_none_or(|i| i.start >= i.end) {
            s.exchange.expects_continue = false;
            if s.out.send(&s.socket, &[b"HTTP/1.1 100 Continue\r\n\r\n"]) == Sent::Broken {
                s.broken = true;
            }
        }
    }

    /// Moves the request's body on. Whether something came of it.
    pub(crate) fn pump_request(&mut self, s: &mut Session) -> bool {
        let Some(mut conn) = s.exchange.conn.and_then(|key| self.conns.take(key)) else { return false };
        let (key, ex) = (conn.key, &mut s.exchange);
        if !ex.to_upstream.is_empty() {
            match ex.to_upstream.flush(&conn.socket) {
                Sent::All => {}
                Sent::Waits => {
                    self.conns.put(key, conn);
                    if !s.exchange.request_away {
                        // A slow upstream keeps no buffer from others either.
                        self.put_aside(s);
                    }
                    return false;
                }
                Sent::Broken => {
                    self.conns.put(key, conn);
                    return self.request_refused(s);
                }
            }
        }
        if ex.request_done || ex.request_away || ex.request_given_up {
            self.conns.put(key, conn);
            return false;
        }
        let went_on = self.relay_request(s, &mut conn);
        self.conns.put(key, conn);
        match went_on {
            Relayed::Some => true,
            Relayed::Nothing => false,
            Relayed::Refused => self.request_refused(s),
            Relayed::Rejected(reject) => {
                self.reject(s, reject);
                true
            }
            Relayed::ClientGone => {
                self.close(s);
                true
            }
            Relayed::Piece { index } => {
                s.exchange.request_away = true;
                let flow = self.run_functions(s, index, Kind::RequestBody, 0);
                self.proceed(s, index, Kind::RequestBody, flow);
                !s.exchange.request_away
            }
        }
    }

    /// The upstream takes no more of the request: its response may be on the way, and says why.
    fn request_refused(&mut self, s: &mut Session) -> bool {
        if s.exchange.request_given_up {
            return false;
        }
        s.exchange.request_given_up = true;
        s.exchange.to_upstream.clear();
        s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.first_byte_ms);
        if let Some(conn) = s.exchange.conn.and_then(|key| self.conns.get_mut(key)) {
            conn.readable = true;
        }
        true
    }

    /// One step of the body from the client to the upstream.
    fn relay_request(&mut self, s: &mut Session, conn: &mut crate::upstream::Conn) -> Relayed {
        let body_ms = self.chains[usize::from(s.chain)].plan.timeouts.body_ms;
        let shown = self.chains[usize::from(s.chain)].wants(Kind::RequestBody);
        if !s.partial.is_empty() && self.input(s).is_none() {
            return Relayed::Nothing;
        }
        if let Some(input) = &mut s.input {
            if shown {
                self.make_room(s.chain, input);
            }
            let (from, to) = (input.start, input.end);
            let ex = &mut s.exchange;
            let step = match self.pool.with(input.index, |m| ex.request_body.next(&m.data_mut()[from..to])) {
                Ok(step) => step,
                Err(reject) => return Relayed::Rejected(reject),
            };
            match step {
                BodyStep::Data { start, length } => {
                    input.start = from + start + length;
                    let index = input.index;
                    let last = ex.request_body.is_done();
                    if shown {
                        let flags = if last { flag::LAST } else { 0 };
                        let piece = Piece { start: from + start, length, end: to };
                        self.make_piece(s, index, Kind::RequestBody, piece, flags);
                        s.exchange.piece_length = length;
                        return Relayed::Piece { index };
                    }
                    let sent = self.pool.with(index, |m| {
                        let piece = &m.data_mut()[from + start..from + start + length];
                        send_piece(ex.request_out, &mut ex.to_upstream, &conn.socket, piece)
                    });
                    if last && matches!(ex.request_out, Framing::Length(_)) {
                        self.request_complete(s, conn);
                    }
                    s.deadline = s.deadline.max(self.deadline(body_ms));
                    return relayed(sent);
                }
                BodyStep::Need { consumed } => input.start += consumed,
                BodyStep::End { consumed } => {
                    input.start += consumed;
                    let index = input.index;
                    if shown && !s.exchange.last_shown {
                        let piece = Piece { end: to, ..Piece::default() };
                        self.make_piece(s, index, Kind::RequestBody, piece, flag::LAST);
                        s.exchange.piece_length = 0;
                        s.exchange.last_shown = true;
                        return Relayed::Piece { index };
                    }
                    return self.request_complete(s, conn);
                }
            }
            if input.start >= input.end {
                (input.start, input.end) = (0, 0);
            }
        }
        if !s.readable {
            // A slow client keeps no buffer from others.
            self.free_empty_input(s);
            return Relayed::Nothing;
        }
        if let (false, Some(left)) = (shown, s.exchange.request_body.left())
            && left > 0
            && s.input.is_none_or(|i| i.start >= i.end)
        {
            self.free_empty_input(s);
            return self.relay_plain(s, conn, left, body_ms);
        }
        let Some(input) = self.input(s) else { return Relayed::Nothing };
        match self.fill(s, input) {
            Read::Bytes(..) => {
                s.deadline = self.deadline(body_ms);
                Relayed::Some
            }
            Read::Nothing => {
                self.free_empty_input(s);
                Relayed::Nothing
            }
            Read::End | Read::Broken => Relayed::ClientGone,
        }
    }

    /// A body of known length that nobody looks at: read and sent in large pieces.
    fn relay_plain(&mut self, s: &mut Session, conn: &mut crate::upstream::Conn, left: u64, body_ms: u64) -> Relayed {
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(SCRATCH_BYTES);
        match socket::read(&s.socket, &mut self.scratch[..room]) {
            Read::Bytes(n, more) => {
                s.readable = more || s.hung_up;
                s.deadline = self.deadline(body_ms);
                self.counters.chains[usize::from(s.chain)].received_bytes.add(n as u64);
                let ex = &mut s.exchange;
                ex.received_bytes += n as u64;
                // Of a length, this is all of it: the step cannot fail.
                let _ = ex.request_body.next(&self.scratch[..n]);
                let sent = send_piece(ex.request_out, &mut ex.to_upstream, &conn.socket, &self.scratch[..n]);
                if ex.request_body.is_done() {
                    self.request_complete(s, conn);
                }
                relayed(sent)
            }
            Read::Nothing => {
                s.readable = false;
                Relayed::Nothing
            }
            Read::End | Read::Broken => Relayed::ClientGone,
        }
    }

    /// The whole request has been handed on.
    fn request_complete(&mut self, s: &mut Session, conn: &mut crate::upstream::Conn) -> Relayed {
        let first_byte_ms = self.chains[usize::from(s.chain)].plan.timeouts.first_byte_ms;
        let ex = &mut s.exchange;
        if ex.request_done {
            return Relayed::Some;
        }
        ex.request_done = true;
        s.deadline = if first_byte_ms == 0 { 0 } else { self.now_ms + first_byte_ms };
        let mut sent = Sent::All;
        if ex.request_out == Framing::Chunked {
            self.head_out.clear();
            if write_last_chunk(&mut self.head_out, ex.request_body.trailers()).is_err() {
                self.head_out.extend_from_slice(middlenet_http::LAST_CHUNK);
            }
            sent = ex.to_upstream.send(&conn.socket, &[&self.head_out]);
        }
        self.put_aside(s);
        relayed(sent)
    }

    /// Functions have let a piece of the request's body pass.
    pub(crate) fn request_piece_done(&mut self, s: &mut Session, index: u32) {
        s.exchange.request_away = false;
        if s.phase != Phase::Exchange || s.exchange.done {
            return;
        }
        let (header, length) = self.pool.with(index, |m| {
            let header = *m.header();
            (header, m.span(header.body).len())
        });
        match VerdictCode::decode(header.verdict) {
            Some(VerdictCode::Next) => {}
            Some(VerdictCode::Respond) => return self.answer_of_function(s, index),
            _ => {
                self.end(s, End::Rejected("closed-by-function"));
                return self.close(s);
            }
        }
        // A span that lies outside holds nothing.
        let resized = length != s.exchange.piece_length || length != usize::from(header.body.length);
        if resized && s.exchange.request_out != Framing::Chunked {
            return self.fail(s, 502, "function-resized");
        }
        let Some(mut conn) = s.exchange.conn.and_then(|key| self.conns.take(key)) else { return };
        let ex = &mut s.exchange;
        let sent = self
            .pool
            .with(index, |m| send_piece(ex.request_out, &mut ex.to_upstream, &conn.socket, m.span(header.body)));
        if sent != Sent::Broken && ex.request_body.is_done() {
            ex.last_shown = true;
            self.request_complete(s, &mut conn);
        }
        self.conns.put(conn.key, conn);
        if sent == Sent::Broken {
            self.request_refused(s);
        }
        self.free_empty_input(s);
    }

    /// Lets go of the session's upstream connection: it waits for the next request, or is closed.
    pub(crate) fn release_conn(&mut self, s: &mut Session, keep: bool) {
        // The upstream counts the request from when it was chosen to here, whether or not there came to be a connection.
        let Some(upstream) = s.exchange.upstream else { return };
        if std::mem::take(&mut s.exchange.counted_active) {
            self.upstreams[upstream].end();
            self.publish(upstream);
        }
        let Some(key) = s.exchange.conn.take() else { return };
        let limit = self.chains[usize::from(s.chain)].plan.upstream.idle_connections as usize;
        let full = self.idle[upstream].len() >= limit;
        match self.conns.get_mut(key) {
            Some(conn) if keep && !full && self.stopping.is_none() && !conn.hung_up && !conn.readable => {
                conn.session = None;
                conn.idle_since = self.now_ms;
                self.idle[upstream].push_back(key);
            }
            _ => self.drop_conn(key),
        }
    }
}

/// What came of a step.
enum Relayed {
    Some,
    Nothing,
    /// The upstream takes no more.
    Refused,
    /// The client broke the rules.
    Rejected(middlenet_http::Reject),
    ClientGone,
    /// A piece for the functions.
    Piece {
        index: u32,
    },
}

fn relayed(sent: Sent) -> Relayed {
    match sent {
        Sent::All | Sent::Waits => Relayed::Some,
        Sent::Broken => Relayed::Refused,
    }
}

/// Sends a piece of a body in its framing.
pub(crate) fn send_piece(
    framing: Framing,
    outbox: &mut crate::outbox::Outbox,
    socket: &std::os::fd::OwnedFd,
    piece: &[u8],
) -> Sent {
    if piece.is_empty() {
        return Sent::All;
    }
    if framing != Framing::Chunked {
        return outbox.send(socket, &[piece]);
    }
    let mut head = Vec::with_capacity(20);
    write_chunk_head(&mut head, piece.len());
    outbox.send(socket, &[&head, piece, CHUNK_END])
}
