//! Bytes both ways: TCP chains, and connections after a 101.

use middlenet_http::Span;
use middlenet_sdk::middlebox::{DATA_OFFSET, Kind, VerdictCode, flag};
use rustix::net::Shutdown;

use crate::functions::Piece;
use crate::outbox::Sent;
use crate::session::{End, Input, Phase, Session};
use crate::socket::{self, Read};
use crate::upstream::Conn;
use crate::worker::Worker;

/// The two directions, as indexes.
const FROM_CLIENT: usize = 0;
const TO_CLIENT: usize = 1;

/// What came of a step in one direction.
enum Moved {
    Some,
    Nothing,
    Broken,
    Piece(u32),
}

impl Worker {
    /// A connection of a TCP chain: the functions choose its upstream.
    pub(crate) fn begin_connection(&mut self, s: &mut Session) {
        self.begin_exchange(s);
        let Some(index) = self.pool.take() else { return self.fail(s, 503, "no-buffer") };
        s.input = Some(Input { index, start: 0, end: 0 });
        self.decide_connection(s, index);
    }

    /// Shows a new connection to the functions.
    pub(crate) fn decide_connection(&mut self, s: &mut Session, index: u32) {
        self.address(s, index, Kind::Connection, 0);
        self.pool.with(index, |m| {
            m.header_mut().headers = 0;
            m.header_mut().tail = DATA_OFFSET as u16;
        });
        s.phase = Phase::Deciding;
        s.deadline = 0;
        s.exchange.shown = self.chains[usize::from(s.chain)].wants(Kind::Connection);
        let flow = self.run_functions(s, index, Kind::Connection, 0);
        self.proceed(s, index, Kind::Connection, flow);
    }

    /// The functions have decided about a connection.
    pub(crate) fn connection_decided(&mut self, s: &mut Session, index: u32) {
        let header = self.pool.with(index, |m| *m.header());
        if VerdictCode::decode(header.verdict) != Some(VerdictCode::Next) {
            self.end(s, End::Rejected("closed-by-function"));
            return self.close(s);
        }
        match self.route(s, &header) {
            Some(upstream) => self.connect_upstream(s, upstream),
            None => self.fail(s, 503, "no-upstream"),
        }
    }

    /// The upstream connection stands: from now on bytes go both ways.
    pub(crate) fn begin_tunnel(&mut self, s: &mut Session) {
        s.phase = Phase::Tunnel;
        s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.idle_ms);
        s.exchange.deadline_total = 0;
        let chain = usize::from(s.chain);
        if self.chains[chain].is_tcp() {
            if let Some(upstream) = s.exchange.upstream {
                self.upstreams[upstream].succeeded(false);
            }
        } else {
            self.counters.chains[chain].upgrades.inc();
        }
        // What came before the other side was ready is still there.
        s.readable = true;
        if let Some(conn) = s.exchange.conn.and_then(|key| self.conns.get_mut(key)) {
            conn.readable = true;
        }
    }

    /// Moves bytes both ways. Whether something came of it.
    pub(crate) fn pump_tunnel(&mut self, s: &mut Session) -> bool {
        let Some(mut conn) = s.exchange.conn.and_then(|key| self.conns.take(key)) else { return false };
        let key = conn.key;
        let mut broken =
            !s.exchange.to_upstream.is_empty() && s.exchange.to_upstream.flush(&conn.socket) == Sent::Broken;
        let forth = if broken { Moved::Nothing } else { self.move_forth(s, &mut conn) };
        let back = if broken { Moved::Nothing } else { self.move_back(s, &mut conn) };
        self.conns.put(key, conn);
        let mut went_on = false;
        for (moved, direction) in [(forth, FROM_CLIENT), (back, TO_CLIENT)] {
            if s.over {
                // A function has ended it, and the buffers are free.
                break;
            }
            match moved {
                Moved::Some => went_on = true,
                Moved::Nothing => {}
                Moved::Broken => broken = true,
                Moved::Piece(index) => {
                    s.exchange.tunnel_away[direction] = true;
                    let flow = self.run_functions(s, index, Kind::Stream, 0);
                    self.proceed(s, index, Kind::Stream, flow);
                    went_on = true;
                }
            }
        }
        if s.over {
            return false;
        }
        if went_on {
            s.deadline = self.deadline(self.chains[usize::from(s.chain)].plan.timeouts.idle_ms);
        }
        let ended = s.exchange.tunnel_ended == [true; 2] && s.out.is_empty() && s.exchange.to_upstream.is_empty();
        if broken || (ended && s.exchange.tunnel_away == [false; 2]) {
            self.end(s, End::Answered);
            self.close(s);
            return false;
        }
        went_on
    }

    fn move_forth(&mut self, s: &mut Session, conn: &mut Conn) -> Moved {
        let ex = &mut s.exchange;
        if ex.tunnel_ended[FROM_CLIENT] || ex.tunnel_away[FROM_CLIENT] || !ex.to_upstream.is_empty() {
            return Moved::Nothing;
        }
        let shown = self.chains[usize::from(s.chain)].wants(Kind::Stream);
        let chain = usize::from(s.chain);
        if !s.partial.is_empty() && self.input(s).is_none() {
            return Moved::Nothing;
        }
        let ex = &mut s.exchange;
        if let Some(mut input) = s.input.filter(|i| i.start < i.end) {
            if shown {
                self.make_room(s.chain, &mut input);
            }
            s.input = Some(Input { start: 0, end: 0, ..input });
            let piece = Piece { start: input.start, length: input.end - input.start, end: input.end };
            if shown {
                self.make_piece(s, input.index, Kind::Stream, piece, 0);
                return Moved::Piece(input.index);
            }
            let sent = self
                .pool
                .with(input.index, |m| ex.to_upstream.send(&conn.socket, &[&m.data_mut()[input.start..input.end]]));
            self.free_empty_input(s);
            return moved(sent);
        }
        if !s.readable {
            return Moved::Nothing;
        }
        let read = if shown {
            let Some(input) = self.input(s) else { return Moved::Nothing };
            let limit = self.chains[chain].read_bytes();
            let read = self.pool.with(input.index, |m| socket::read(&s.socket, &mut m.data_mut()[..limit]));
            if let Read::Bytes(n, _) = read {
                self.make_piece(s, input.index, Kind::Stream, Piece { start: 0, length: n, end: n }, 0);
            }
            read
        } else {
            self.free_empty_input(s);
            socket::read(&s.socket, &mut self.scratch)
        };
        match read {
            Read::Bytes(n, more) => {
                s.readable = more || s.hung_up;
                s.exchange.received_bytes += n as u64;
                self.counters.chains[chain].received_bytes.add(n as u64);
                match s.input {
                    Some(input) if shown => Moved::Piece(input.index),
                    _ => moved(s.exchange.to_upstream.send(&conn.socket, &[&self.scratch[..n]])),
                }
            }
            Read::Nothing => {
                s.readable = false;
                self.free_empty_input(s);
                Moved::Nothing
            }
            Read::End => {
                s.readable = false;
                s.exchange.tunnel_ended[FROM_CLIENT] = true;
                self.free_empty_input(s);
                let _ = rustix::net::shutdown(&conn.socket, Shutdown::Write);
                Moved::Some
            }
            Read::Broken => Moved::Broken,
        }
    }

    fn move_back(&mut self, s: &mut Session, conn: &mut Conn) -> Moved {
        let ex = &s.exchange;
        if ex.tunnel_ended[TO_CLIENT] || ex.tunnel_away[TO_CLIENT] || !s.out.is_empty() {
            return Moved::Nothing;
        }
        let shown = self.chains[usize::from(s.chain)].wants(Kind::Stream);
        if shown && let Some(mut input) = s.exchange.response_input.filter(|i| i.start < i.end) {
            // It came right behind the 101.
            self.make_room(s.chain, &mut input);
            s.exchange.response_input = Some(Input { start: 0, end: 0, ..input });
            let piece = Piece { start: input.start, length: input.end - input.start, end: input.end };
            self.make_piece(s, input.index, Kind::Stream, piece, flag::TO_CLIENT);
            return Moved::Piece(input.index);
        }
        if !conn.readable {
            return Moved::Nothing;
        }
        let read = if shown {
            if s.exchange.response_input.is_none() {
                let Some(index) = self.take_buffer(s) else { return Moved::Nothing };
                s.exchange.response_input = Some(Input { index, start: 0, end: 0 });
            }
            let Some(input) = s.exchange.response_input else { return Moved::Nothing };
            let limit = self.chains[usize::from(s.chain)].read_bytes();
            let read = self.pool.with(input.index, |m| socket::read(&conn.socket, &mut m.data_mut()[..limit]));
            if let Read::Bytes(n, _) = read {
                let piece = Piece { start: 0, length: n, end: n };
                self.make_piece(s, input.index, Kind::Stream, piece, flag::TO_CLIENT);
            }
            read
        } else {
            socket::read(&conn.socket, &mut self.scratch)
        };
        match read {
            Read::Bytes(n, more) => {
                conn.readable = more || conn.hung_up;
                match s.exchange.response_input {
                    Some(input) if shown => Moved::Piece(input.index),
                    _ => {
                        let sent = s.out.send(&s.socket, &[&self.scratch[..n]]);
                        self.sent(s, n as u64);
                        moved(sent)
                    }
                }
            }
            Read::Nothing => {
                conn.readable = false;
                self.free_response_input(s);
                Moved::Nothing
            }
            Read::End => {
                conn.readable = false;
                s.exchange.tunnel_ended[TO_CLIENT] = true;
                self.free_response_input(s);
                let _ = rustix::net::shutdown(&s.socket, Shutdown::Write);
                Moved::Some
            }
            Read::Broken => Moved::Broken,
        }
    }

    /// A tunnel in which nothing moves keeps no buffer from others.
    fn free_response_input(&mut self, s: &mut Session) {
        if let Some(input) = s.exchange.response_input.take() {
            self.free(input.index);
        }
    }

    /// Functions have let a piece of a stream pass.
    pub(crate) fn stream_piece_done(&mut self, s: &mut Session, index: u32) {
        let to_client = s.exchange.response_input.is_some_and(|i| i.index == index);
        s.exchange.tunnel_away[if to_client { TO_CLIENT } else { FROM_CLIENT }] = false;
        if s.phase != Phase::Tunnel {
            return;
        }
        let header = self.pool.with(index, |m| *m.header());
        if VerdictCode::decode(header.verdict) != Some(VerdictCode::Next) {
            self.end(s, End::Rejected("closed-by-function"));
            return self.close(s);
        }
        let piece: Span = header.body;
        let sent = if to_client {
            self.sent(s, piece.length.into());
            let sent = self.pool.with(index, |m| s.out.send(&s.socket, &[m.span(piece)]));
            self.free_response_input(s);
            sent
        } else {
            let Some(conn) = s.exchange.conn.and_then(|key| self.conns.take(key)) else { return };
            let sent = self.pool.with(index, |m| s.exchange.to_upstream.send(&conn.socket, &[m.span(piece)]));
            self.conns.put(conn.key, conn);
            self.free_empty_input(s);
            sent
        };
        if sent == Sent::Broken {
            s.broken = true;
        }
    }
}

fn moved(sent: Sent) -> Moved {
    match sent {
        Sent::All | Sent::Waits => Moved::Some,
        Sent::Broken => Moved::Broken,
    }
}
