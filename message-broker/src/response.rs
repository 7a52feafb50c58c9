//! A response on its way to the client: the head, the body.
//!
//! Where no function looks, the bytes never enter a message buffer: they are read into the worker's own, and written from it.

use middlenet_http::{
    BodyReader, BodyStep, CHUNK_END, Egress, Framing, KnownSet, Limits, ResponseHead, parse_response, write_chunk_head,
    write_last_chunk, write_response_head,
};
use middlenet_sdk::middlebox::{Kind, READ_BYTES, VerdictCode, flag};

use crate::outbox::Sent;
use crate::session::{End, Phase, ResponseState, Session};
use crate::socket::{self, Read};
use crate::upstream::Conn;
use crate::worker::Worker;

/// Limits on what upstreams may send: they are not as hostile as clients, but not ours either.
pub(crate) const LIMITS: Limits = Limits {
    head_bytes: READ_BYTES,
    headers: middlenet_http::MAX_HEADERS,
    target_bytes: 0,
    body_bytes: u64::MAX,
    chunk_line_bytes: 256,
    trailer_bytes: 4096,
};
/// Up to this length a piece is copied behind what goes before it, which costs less than another element for the kernel.
const COPY_BYTES: usize = 4096;

/// What came of bytes from the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Came {
    /// More is needed, and there may be more.
    More,
    /// Nothing for now.
    Nothing,
    /// The response is complete; `clean`: nothing followed it.
    Complete { clean: bool },
    /// The upstream broke the rules, or the connection broke.
    Bad(&'static str),
    /// The head is with functions, or is to go to them.
    Head,
    /// It is a tunnel from now on.
    Tunnel,
    /// A piece is to go to the functions.
    Piece { index: u32 },
}

impl Worker {
    /// Moves the response on. Whether something came of it.
    pub(crate) fn pump_response(&mut self, s: &mut Session) -> bool {
        let ex = &s.exchange;
        if ex.done || ex.response_away || matches!(ex.response, ResponseState::HeadAway) {
            return false;
        }
        if !s.out.is_empty() {
            self.put_response_aside(s);
            return false;
        }
        let Some(mut conn) = ex.conn.and_then(|key| self.conns.take(key)) else { return false };
        let key = conn.key;
        let chain = &self.chains[usize::from(s.chain)];
        let (head, body) = (chain.wants(Kind::ResponseHead), chain.wants(Kind::ResponseBody));
        // What may come right behind a 101 is for the functions that look at streams.
        let stream = s.exchange.upgrade.is_some() && chain.wants(Kind::Stream);
        let aside = !s.exchange.response_partial.is_empty();
        let waiting = aside || s.exchange.response_input.is_some_and(|i| i.start < i.end);
        let came = match s.exchange.response {
            ResponseState::Head if head || body || stream => self.response_head_in_buffer(s, &mut conn),
            ResponseState::Body if waiting || body => self.response_body_in_buffer(s, &mut conn, body),
            ResponseState::Head | ResponseState::Body => self.response_in_scratch(s, &mut conn),
            ResponseState::HeadAway | ResponseState::Done => Came::Nothing,
        };
        self.conns.put(key, conn);
        match came {
            Came::More => true,
            Came::Nothing => false,
            Came::Complete { clean } => {
                self.response_complete(s, clean);
                true
            }
            Came::Bad(reason) => {
                self.response_bad(s, reason);
                true
            }
            Came::Head => {
                let Some(input) = s.exchange.response_input else { return false };
                self.decide_response(s, input.index);
                true
            }
            Came::Tunnel => {
                self.begin_tunnel(s);
                true
            }
            Came::Piece { index } => {
                s.exchange.response_away = true;
                let flow = self.run_functions(s, index, Kind::ResponseBody, 0);
                self.proceed(s, index, Kind::ResponseBody, flow);
                !s.exchange.response_away
            }
        }
    }

    /// Head and body where no function looks.
    fn response_in_scratch(&mut self, s: &mut Session, conn: &mut Conn) -> Came {
        if !conn.readable {
            return Came::Nothing;
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        let kept = conn.partial.len();
        scratch[..kept].copy_from_slice(&conn.partial);
        let came = match socket::read(&conn.socket, &mut scratch[kept..]) {
            Read::Bytes(n, more) => {
                conn.readable = more || conn.hung_up;
                conn.partial.clear();
                self.head_out.clear();
                let bytes = &scratch[..kept + n];
                match s.exchange.response {
                    ResponseState::Head => self.take_response_head(s, conn, bytes),
                    _ => self.relay_response(s, bytes),
                }
            }
            Read::Nothing => {
                conn.readable = false;
                Came::Nothing
            }
            ended @ (Read::End | Read::Broken) => self.upstream_ended(s, kept > 0, ended),
        };
        self.scratch = scratch;
        came
    }

    /// Reads a head from bytes of the worker's own, and relays what follows it.
    fn take_response_head(&mut self, s: &mut Session, conn: &mut Conn, bytes: &[u8]) -> Came {
        let mut at = 0;
        let head = loop {
            match parse_response(&bytes[at..], s.exchange.method, &LIMITS, &mut self.spans) {
                Ok(Some(head)) if head.is_interim() => {
                    if passes_interim(s, head.status) {
                        let head_bytes = &bytes[at..at + usize::from(head.length)];
                        let headers = middlenet_http::pairs(head_bytes, &self.spans[..usize::from(head.headers)]);
                        let reason = head.reason.of(head_bytes).unwrap_or_default();
                        // One that cannot be written is left out: the response itself is still to come.
                        let _ = write_response_head(&mut self.head_out, 1, head.status, reason, headers, &INTERIM);
                    }
                    at += usize::from(head.length);
                }
                Ok(Some(head)) => break head,
                Ok(None) => {
                    self.send_head_out(s);
                    conn.partial.extend_from_slice(&bytes[at..]);
                    return if conn.readable { Came::More } else { Came::Nothing };
                }
                Err(_) => return Came::Bad("bad-response"),
            }
        };
        if let Err(reason) = self.begin_response(s, &head) {
            return Came::Bad(reason);
        }
        let head_bytes = &bytes[at..at + usize::from(head.length)];
        let reason = head.reason.of(head_bytes).unwrap_or_default();
        let headers = middlenet_http::pairs(head_bytes, &self.spans[..usize::from(head.headers)]);
        let upgrade = upgrade_of(s, &head);
        let egress = egress(s, &head, upgrade.as_deref());
        let written = write_response_head(&mut self.head_out, 1, head.status, reason, headers, &egress);
        if written.is_err() {
            return Came::Bad("bad-response");
        }
        self.head_is_out(s, head.status);
        if upgrade.is_some() {
            return self.switch(s, &bytes[at + usize::from(head.length)..]);
        }
        self.relay_response(s, &bytes[at + usize::from(head.length)..])
    }

    /// Sends the head of a 101 with what followed it.
    fn switch(&mut self, s: &mut Session, rest: &[u8]) -> Came {
        self.head_out.extend_from_slice(rest);
        self.send_head_out(s);
        Came::Tunnel
    }

    /// What a response's head means for the exchange.
    pub(crate) fn begin_response(&mut self, s: &mut Session, head: &ResponseHead) -> Result<(), &'static str> {
        if let Some(upstream) = s.exchange.upstream {
            self.upstreams[upstream].succeeded(false);
        }
        if head.status == 101 && (s.exchange.upgrade.is_none() || !head.upgrade) {
            return Err("unasked-101");
        }
        let resizes = self.chains[usize::from(s.chain)].resizes_response;
        let stopping = self.stopping.is_some();
        let ex = &mut s.exchange;
        ex.response_body = BodyReader::new(head.framing, &LIMITS);
        ex.upstream_keep_alive = head.keep_alive;
        ex.response_out = match head.framing {
            Framing::None => Framing::None,
            Framing::Length(n) if n == 0 || !resizes => Framing::Length(n),
            // HTTP/1.0 knows no chunks.
            _ if ex.minor == 0 => Framing::UntilClose,
            _ => Framing::Chunked,
        };
        s.closing |= !ex.keep_alive || ex.response_out == Framing::UntilClose || stopping;
        Ok(())
    }

    /// The head is in `head_out` and goes out with the next bytes.
    fn head_is_out(&mut self, s: &mut Session, status: u16) {
        s.exchange.status = status;
        s.exchange.answering = true;
        s.exchange.response = ResponseState::Body;
        s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.body_ms);
        self.counters.chains[usize::from(s.chain)].status(status);
    }

    pub(crate) fn send_head_out(&mut self, s: &mut Session) {
        if self.head_out.is_empty() {
            return;
        }
        let bytes = self.head_out.len() as u64;
        if s.out.send(&s.socket, &[&self.head_out]) == Sent::Broken {
            s.broken = true;
        }
        self.sent(s, bytes);
        self.head_out.clear();
    }

    /// Relays bytes of the body, behind what is in `head_out`.
    fn relay_response(&mut self, s: &mut Session, bytes: &[u8]) -> Came {
        let mut at = 0;
        let chunked = s.exchange.response_out == Framing::Chunked;
        loop {
            match s.exchange.response_body.next(&bytes[at..]) {
                Ok(BodyStep::Data { start, length }) => {
                    let piece = &bytes[at + start..at + start + length];
                    at += start + length;
                    if chunked {
                        write_chunk_head(&mut self.head_out, length);
                    }
                    if length <= COPY_BYTES {
                        self.head_out.extend_from_slice(piece);
                    } else {
                        let sent = (self.head_out.len() + length) as u64;
                        if s.out.send(&s.socket, &[&self.head_out, piece]) == Sent::Broken {
                            s.broken = true;
                        }
                        self.sent(s, sent);
                        self.head_out.clear();
                    }
                    if chunked {
                        self.head_out.extend_from_slice(CHUNK_END);
                    }
                    if s.exchange.response_body.is_done() {
                        break;
                    }
                }
                Ok(BodyStep::Need { .. }) => {
                    self.send_head_out(s);
                    s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.body_ms);
                    return Came::More;
                }
                Ok(BodyStep::End { consumed }) => {
                    at += consumed;
                    break;
                }
                Err(_) => return Came::Bad("bad-response-body"),
            }
        }
        self.write_end(s);
        self.send_head_out(s);
        Came::Complete { clean: at == bytes.len() }
    }

    /// Appends the end of a chunked body to `head_out`.
    pub(crate) fn write_end(&mut self, s: &Session) {
        if s.exchange.response_out == Framing::Chunked
            && write_last_chunk(&mut self.head_out, s.exchange.response_body.trailers()).is_err()
        {
            self.head_out.extend_from_slice(middlenet_http::LAST_CHUNK);
        }
    }

    /// The upstream sends no more.
    pub(crate) fn upstream_ended(&mut self, s: &mut Session, began: bool, ended: Read) -> Came {
        if !matches!(s.exchange.response, ResponseState::Body) {
            return Came::Bad(if began { "response-cut" } else { "upstream-closed" });
        }
        // A reset is no end, also where the end of the connection is that of the body.
        if ended == Read::Broken || s.exchange.response_body.end_of_stream().is_err() {
            return Came::Bad("response-cut");
        }
        self.head_out.clear();
        self.write_end(s);
        self.send_head_out(s);
        Came::Complete { clean: false }
    }

    /// Shows a response's head to the functions.
    pub(crate) fn decide_response(&mut self, s: &mut Session, index: u32) {
        s.exchange.response = ResponseState::HeadAway;
        s.exchange.response_away = true;
        s.deadline = 0;
        self.address(s, index, Kind::ResponseHead, flag::TO_CLIENT);
        let flow = self.run_functions(s, index, Kind::ResponseHead, 0);
        self.proceed(s, index, Kind::ResponseHead, flow);
    }

    /// The functions have let a response's head pass, or decided otherwise.
    pub(crate) fn response_decided(&mut self, s: &mut Session, index: u32) {
        s.exchange.response_away = false;
        if s.phase != Phase::Exchange || s.exchange.done {
            return;
        }
        let header = self.pool.with(index, |m| *m.header());
        if header.flags & flag::NO_ROOM != 0 {
            return self.fail(s, 500, "no-room");
        }
        match VerdictCode::decode(header.verdict) {
            Some(VerdictCode::Next) => {}
            Some(VerdictCode::Respond) => return self.answer_of_function(s, index),
            _ => {
                self.end(s, End::Rejected("closed-by-function"));
                return self.close(s);
            }
        }
        let Some(head) = s.exchange.response_head else { return };
        let upgrade = upgrade_of(s, &head);
        // A function may change the status, but not to one that changes what follows.
        let framing_status = |status: u16| status < 200 || status == 204 || status == 304;
        let status =
            if framing_status(header.status) || framing_status(head.status) { head.status } else { header.status };
        let mut egress = egress(s, &head, upgrade.as_deref());
        if self.chains[usize::from(s.chain)].resizes_response {
            // What GET would answer has another length.
            egress.announced_length = None;
        }
        let head_out = &mut self.head_out;
        head_out.clear();
        let written = self.pool.with(index, |m| {
            let reason = m.span(header.reason);
            let reason = if reason.is_empty() { crate::answers::reason(status).as_bytes() } else { reason };
            write_response_head(head_out, 1, status, reason, m.headers(), &egress)
        });
        if let Err(bad) = written {
            return self.fail(s, 502, bad.reason());
        }
        self.head_is_out(s, status);
        let body = self.chains[usize::from(s.chain)].wants(Kind::ResponseBody);
        if body && upgrade.is_none() && !s.exchange.response_body.is_done() {
            return self.send_head_out(s);
        }
        if upgrade.is_some() && self.chains[usize::from(s.chain)].wants(Kind::Stream) {
            // What came behind the head is for the functions.
            self.send_head_out(s);
            return self.begin_tunnel(s);
        }
        // Nobody looks at the body: it goes out behind the head, and the buffer is free.
        let Some(input) = s.exchange.response_input.take() else { return };
        let mut scratch = std::mem::take(&mut self.scratch);
        let length = input.end - input.start;
        self.pool.with(input.index, |m| scratch[..length].copy_from_slice(&m.data_mut()[input.start..input.end]));
        self.free(input.index);
        let came = if upgrade.is_some() {
            self.switch(s, &scratch[..length])
        } else {
            self.relay_response(s, &scratch[..length])
        };
        self.scratch = scratch;
        match came {
            Came::Complete { clean } => self.response_complete(s, clean),
            Came::Bad(reason) => self.response_bad(s, reason),
            Came::Tunnel => self.begin_tunnel(s),
            _ => {}
        }
    }

    /// The response has been sent in full.
    fn response_complete(&mut self, s: &mut Session, clean: bool) {
        let ex = &mut s.exchange;
        ex.response = ResponseState::Done;
        let keep = clean && ex.upstream_keep_alive && ex.request_done && ex.to_upstream.is_empty();
        self.release_conn(s, keep);
        self.end(s, End::Answered);
        self.after_response(s);
    }
}

/// How an interim response goes out.
pub(crate) const INTERIM: Egress<'_> = Egress {
    framing: Framing::None,
    announced_length: None,
    close: false,
    keep_alive_explicit: false,
    upgrade: None,
    replace: KnownSet::EMPTY,
    extra: &[],
};

/// Whether an interim response is for the client (RFC 9110 15.2): 100 is the broker's to send.
pub(crate) fn passes_interim(s: &Session, status: u16) -> bool {
    status != 100 && s.exchange.minor > 0
}

fn upgrade_of(s: &Session, head: &ResponseHead) -> Option<Vec<u8>> {
    if head.status == 101 { s.exchange.upgrade.clone() } else { None }
}

/// How the head goes out to the client.
fn egress<'a>(s: &Session, head: &ResponseHead, upgrade: Option<&'a [u8]>) -> Egress<'a> {
    Egress {
        framing: s.exchange.response_out,
        announced_length: head.announced_length,
        close: s.closing,
        keep_alive_explicit: s.exchange.minor == 0 && !s.closing,
        upgrade,
        ..Egress::default()
    }
}
