//! A response that functions look at: its bytes go through message buffers.

use middlenet_http::{BodyStep, Framing, Span, write_response_head};
use middlenet_sdk::middlebox::{Kind, READ_BYTES, VerdictCode, flag};

use crate::functions::Piece;
use crate::outbox::Sent;
use crate::response::{Came, INTERIM, LIMITS, passes_interim};
use crate::session::{End, Input, Phase, ResponseState, Session};
use crate::socket::{self, Read};
use crate::upstream::Conn;
use crate::worker::Worker;

impl Worker {
    /// A head that functions want to see, read into a message buffer.
    pub(crate) fn response_head_in_buffer(&mut self, s: &mut Session, conn: &mut Conn) -> Came {
        loop {
            if !conn.readable {
                return Came::Nothing;
            }
            let Some(input) = self.response_input(s) else { return Came::Nothing };
            match self.fill_response(s, conn, input) {
                Read::Bytes(..) => {}
                Read::Nothing => return Came::Nothing,
                ended @ (Read::End | Read::Broken) => return self.upstream_ended(s, input.end > input.start, ended),
            }
            while let Some(input) = &mut s.exchange.response_input {
                let (start, end, method) = (input.start, input.end, s.exchange.method);
                match self.pool.with(input.index, |m| m.read_response(start, end, method, &LIMITS)) {
                    Ok(None) if end == READ_BYTES => return Came::Bad("bad-response"),
                    Ok(None) => break,
                    Ok(Some(head)) if head.is_interim() => {
                        input.start += usize::from(head.length);
                        let index = input.index;
                        if passes_interim(s, head.status) {
                            let head_out = &mut self.head_out;
                            head_out.clear();
                            let _ = self.pool.with(index, |m| {
                                let reason = m.span(m.header().reason);
                                write_response_head(head_out, 1, head.status, reason, m.headers(), &INTERIM)
                            });
                            self.send_head_out(s);
                        }
                    }
                    Ok(Some(head)) => {
                        input.start += usize::from(head.length);
                        s.exchange.response_head_start = start;
                        s.exchange.response_head = Some(head);
                        return match self.begin_response(s, &head) {
                            Ok(()) => Came::Head,
                            Err(reason) => Came::Bad(reason),
                        };
                    }
                    Err(_) => return Came::Bad("bad-response"),
                }
            }
        }
    }

    fn response_input(&mut self, s: &mut Session) -> Option<Input> {
        if s.exchange.response_input.is_none() {
            let index = self.take_buffer(s)?;
            let kept = std::mem::take(&mut s.exchange.response_partial);
            self.pool.with(index, |m| m.data_mut()[..kept.len()].copy_from_slice(&kept));
            s.exchange.response_input = Some(Input { index, start: 0, end: kept.len() });
        }
        s.exchange.response_input
    }

    /// What a slow client does not take yet waits outside the pool.
    pub(crate) fn put_response_aside(&mut self, s: &mut Session) {
        if matches!(s.exchange.response, ResponseState::Body)
            && let Some(input) = s.exchange.response_input.take()
        {
            let kept = &mut s.exchange.response_partial;
            self.pool.with(input.index, |m| kept.extend_from_slice(&m.data_mut()[input.start..input.end]));
            self.free(input.index);
        }
    }

    fn fill_response(&mut self, s: &mut Session, conn: &mut Conn, input: Input) -> Read {
        let usual = self.chains[usize::from(s.chain)].read_bytes();
        let head = matches!(s.exchange.response, ResponseState::Head);
        // A head may be longer.
        let limit = if head && input.end >= usual { READ_BYTES } else { usual };
        if input.end >= limit {
            return Read::Broken;
        }
        let read = self.pool.with(input.index, |m| socket::read(&conn.socket, &mut m.data_mut()[input.end..limit]));
        match read {
            Read::Bytes(n, more) => {
                conn.readable = more || conn.hung_up;
                s.exchange.response_input = Some(Input { end: input.end + n, ..input });
            }
            Read::Nothing => conn.readable = false,
            Read::End | Read::Broken => {}
        }
        read
    }

    /// The body where functions look at it, or what came with the head.
    pub(crate) fn response_body_in_buffer(&mut self, s: &mut Session, conn: &mut Conn, shown: bool) -> Came {
        let nothing = s.exchange.response_input.is_none() && s.exchange.response_partial.is_empty();
        if !conn.readable && nothing && !s.exchange.response_body.is_done() {
            return Came::Nothing;
        }
        let Some(input) = self.response_input(s) else { return Came::Nothing };
        if input.start >= input.end && !s.exchange.response_body.is_done() {
            let input = Input { index: input.index, start: 0, end: 0 };
            s.exchange.response_input = Some(input);
            if !conn.readable {
                s.exchange.response_input = None;
                self.free(input.index);
                return Came::Nothing;
            }
            match self.fill_response(s, conn, input) {
                Read::Bytes(..) => s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.body_ms),
                Read::Nothing => return Came::Nothing,
                ended @ (Read::End | Read::Broken) => {
                    if ended == Read::Broken || s.exchange.response_body.end_of_stream().is_err() {
                        return Came::Bad("response-cut");
                    }
                    s.exchange.upstream_eof = true;
                }
            }
        }
        let Some(input) = &mut s.exchange.response_input else { return Came::Nothing };
        if shown {
            self.make_room(s.chain, input);
        }
        let (from, to, index) = (input.start, input.end, input.index);
        let body = &mut s.exchange.response_body;
        match self.pool.with(index, |m| body.next(&m.data_mut()[from..to])) {
            Ok(BodyStep::Data { start, length }) => {
                input.start = from + start + length;
                let last = s.exchange.response_body.is_done();
                let piece = Piece { start: from + start, length, end: to };
                let flags = flag::TO_CLIENT | if last { flag::LAST } else { 0 };
                self.make_piece(s, index, Kind::ResponseBody, piece, flags);
                s.exchange.response_piece_length = length;
                s.exchange.response_last_shown = last;
                if shown {
                    return Came::Piece { index };
                }
                let piece = self.pool.with(index, |m| m.header().body);
                self.piece_out(s, index, piece)
            }
            Ok(BodyStep::Need { consumed }) => {
                input.start += consumed;
                Came::More
            }
            Ok(BodyStep::End { consumed }) => {
                input.start += consumed;
                let clean = input.start == input.end && !s.exchange.upstream_eof;
                if shown && !s.exchange.response_last_shown {
                    s.exchange.response_last_shown = true;
                    s.exchange.response_piece_length = 0;
                    let piece = Piece { end: to, ..Piece::default() };
                    self.make_piece(s, index, Kind::ResponseBody, piece, flag::TO_CLIENT | flag::LAST);
                    return Came::Piece { index };
                }
                self.head_out.clear();
                self.write_end(s);
                self.send_head_out(s);
                Came::Complete { clean }
            }
            Err(_) => Came::Bad("bad-response-body"),
        }
    }

    /// Sends a piece that lies in a buffer.
    fn piece_out(&mut self, s: &mut Session, index: u32, piece: Span) -> Came {
        let (sent, bytes) = self.pool.with(index, |m| {
            let piece = m.span(piece);
            (crate::request::send_piece(s.exchange.response_out, &mut s.out, &s.socket, piece), piece.len() as u64)
        });
        if sent == Sent::Broken {
            s.broken = true;
        }
        self.sent(s, bytes);
        Came::More
    }

    /// Functions have let a piece of the response's body pass.
    pub(crate) fn response_piece_done(&mut self, s: &mut Session, index: u32) {
        s.exchange.response_away = false;
        if s.phase != Phase::Exchange || s.exchange.done {
            return;
        }
        // Read once: who writes where it should not may write at any time. A span that lies outside holds nothing.
        let (header, length) = self.pool.with(index, |m| {
            let header = *m.header();
            (header, m.span(header.body).len())
        });
        let resized = length != s.exchange.response_piece_length || length != usize::from(header.body.length);
        let fits = !resized || !matches!(s.exchange.response_out, Framing::Length(_));
        if VerdictCode::decode(header.verdict) != Some(VerdictCode::Next) || !fits {
            // The head is out: all that can be done is to stop.
            let reason = if fits { "closed-by-function" } else { "function-resized" };
            self.end(s, if fits { End::Rejected(reason) } else { End::Failed(reason) });
            return self.close(s);
        }
        self.piece_out(s, index, header.body);
    }
}
