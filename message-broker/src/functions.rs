//! The way of a message through the functions of its chain.
//!
//! Inline functions are called here and now. For function processes the message leaves the worker: as far as the next stops
//! are reached by SK_MSG, it goes from one to the next and then home; by ring, it comes back after each. What comes back
//! goes on where it was ([`Worker::returned`]).

use middlenet_http::Span;
use middlenet_plan::OnLoss;
use middlenet_sdk::middlebox::{DATA_OFFSET, Kind, MAX_ROUTE, NO_HOP, Onward, Stop, VerdictCode};

use crate::hop::{Called, Place};
use crate::pool::Away;
use crate::session::{Parked, Phase, Session};
use crate::slab::Key;
use crate::worker::Worker;

/// How far a message got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flow {
    /// Past all functions, or one has decided: the header says.
    Done,
    /// Functions have it; it comes back.
    Away,
    /// It waits for a function to be started anew.
    Parked,
    /// A function is not there, or failed.
    Failed { status: u16, reason: &'static str },
}

/// Where a piece lies in a buffer's data, and where that data ends.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Piece {
    pub(crate) start: usize,
    pub(crate) length: usize,
    pub(crate) end: usize,
}

/// Whose message it is.
#[derive(Debug, Clone, Copy)]
struct Whose {
    session: Option<Key>,
    id: u64,
    chain: usize,
    /// Functions to leave out, by place.
    offloaded: u32,
    /// Since when it has waited for the function that is next, in ms.
    since_ms: u64,
}

/// Why a message cannot be sent to a function.
enum Absent {
    Down,
    /// The chain's functions have all the buffers that they may have.
    Full,
}

impl Worker {
    /// Takes a message of a session through the functions from place `at` of the order of its kind.
    pub(crate) fn run_functions(&mut self, s: &mut Session, index: u32, kind: Kind, at: usize) -> Flow {
        self.run_since(s, index, kind, at, self.now_ms)
    }

    /// As [`run_functions`](Self::run_functions), for a message that has waited for the function at `at` since `since_ms`.
    fn run_since(&mut self, s: &mut Session, index: u32, kind: Kind, at: usize, since_ms: u64) -> Flow {
        let chain = usize::from(s.chain);
        if at >= self.chains[chain].orders[kind as usize].len() {
            return Flow::Done;
        }
        let whose = Whose { session: Some(s.key), id: s.id, chain, offloaded: s.exchange.offloaded, since_ms };
        let flow = self.visit(whose, index, kind, at);
        if flow != Flow::Away {
            s.exchange.offloaded |= self.pool.with(index, |m| m.header().offloaded);
        }
        if flow == Flow::Parked {
            let (hop, at) = self.parked_at;
            return self.park(s, index, kind, hop, at, since_ms);
        }
        flow
    }

    /// Shows the functions a message that belongs to no session any more.
    pub(crate) fn run_for_nobody(&mut self, s: &Session, index: u32, kind: Kind) {
        let chain = usize::from(s.chain);
        let whose = Whose { session: None, id: s.id, chain, offloaded: 0, since_ms: self.now_ms };
        if self.visit(whose, index, kind, 0) != Flow::Away {
            self.free(index);
        }
    }

    fn visit(&mut self, whose: Whose, index: u32, kind: Kind, mut at: usize) -> Flow {
        let Whose { chain, .. } = whose;
        while let Some(&position) = self.chains[chain].orders[kind as usize].get(at) {
            if leaves_out(whose.offloaded, kind, position) {
                at += 1;
                continue;
            }
            let hop_at = self.chains[chain].hops[usize::from(position)];
            let hop = &mut self.hops[hop_at];
            if let Place::Inline(inline) = &mut hop.place {
                self.counters.hops[hop_at].messages.inc();
                match self.pool.with(index, |m| inline.call(m, position, self.now)) {
                    Called::Went(Onward::Next) => at += 1,
                    Called::Went(Onward::Home) => return Flow::Done,
                    Called::Went(Onward::Output(output)) => {
                        let Some(&target) = hop.outputs.get(usize::from(output)) else { return NO_OUTPUT };
                        // Responses travel the other way: an output leads on, or nowhere.
                        match self.place_from(chain, kind, target) {
                            next if next > at => at = next,
                            _ => return NO_OUTPUT,
                        }
                    }
                    Called::Panicked => {
                        self.counters.hops[hop_at].failed.inc("panicked");
                        if hop.on_loss != OnLoss::Bypass {
                            return Flow::Failed { status: 502, reason: "function-panicked" };
                        }
                        at += 1;
                    }
                }
                continue;
            }
            match self.send(whose, index, kind, at) {
                Ok(()) => return Flow::Away,
                Err(Absent::Full) => {
                    self.counters.hops[hop_at].failed.inc("too-many");
                    return Flow::Failed { status: 503, reason: "functions-busy" };
                }
                Err(Absent::Down) => match self.on_loss(hop_at) {
                    OnLoss::Bypass => {
                        self.counters.hops[hop_at].bypassed.inc();
                        at += 1;
                    }
                    OnLoss::Retry if whose.session.is_some() => {
                        self.parked_at = (hop_at, at);
                        return Flow::Parked;
                    }
                    OnLoss::Drop | OnLoss::Retry => {
                        self.counters.hops[hop_at].failed.inc("down");
                        return Flow::Failed { status: 503, reason: "function-down" };
                    }
                },
            }
        }
        Flow::Done
    }

    /// The first place in an order whose hop is at `target` in the chain, or behind it.
    fn place_from(&self, chain: usize, kind: Kind, target: u8) -> usize {
        let order = &self.chains[chain].orders[kind as usize];
        order.iter().position(|&p| p >= target).unwrap_or(order.len())
    }

    /// Sends a message to the function at place `at`, and to those behind it that are reached without the broker.
    fn send(&mut self, whose: Whose, index: u32, kind: Kind, at: usize) -> Result<(), Absent> {
        if self.pool.is_exhausted_by(whose.chain) {
            return Err(Absent::Full);
        }
        let mut route = [Stop::default(); MAX_ROUTE];
        let (mut stops, mut next) = (0, at);
        let mut by_ring = None;
        let chain = &self.chains[whose.chain];
        let order = &chain.orders[kind as usize];
        while let Some(&position) = order.get(next)
            && stops < MAX_ROUTE - 1
        {
            if leaves_out(whose.offloaded, kind, position) {
                next += 1;
                continue;
            }
            let hop = chain.hops[usize::from(position)];
            let Some((replica, instance)) = self.hops[hop].instance_for(whose.id) else { break };
            if !instance.skmsg && stops > 0 {
                break;
            }
            route[stops] = Stop { position, key: instance.key };
            self.counters.hops[hop].messages.inc();
            stops += 1;
            next += 1;
            if !instance.skmsg {
                by_ring = Some((hop, replica));
                break;
            }
        }
        if stops == 0 {
            return Err(Absent::Down);
        }
        let first = route[0].key;
        route[stops] = Stop { position: NO_HOP, key: self.number };
        let (router, upstream, offloaded) = self.pool.with(index, |m| {
            let header = m.header_mut();
            (header.route, header.stops, header.cursor) = (route, stops as u8 + 1, 0);
            header.verdict = VerdictCode::Next as u8;
            header.jump = NO_HOP;
            (header.router, header.upstream, header.offloaded)
        });
        let away = Away {
            session: whose.session,
            id: whose.id,
            chain: whose.chain as u16,
            kind,
            resume: next as u8,
            from: at as u8,
            since_ms: whose.since_ms,
            overdue: false,
            router,
            upstream,
            offloaded,
        };
        self.pool.send_away(index, away);
        match by_ring {
            Some((hop, replica)) => self.put_in_ring(hop, replica, index),
            None => self.queue_group(first, index),
        }
        Ok(())
    }

    /// A message has come back from its functions.
    pub(crate) fn returned(&mut self, index: u32) {
        let Some(away) = self.pool.come_back(index) else { return };
        let Some(mut s) = away.session.and_then(|key| self.sessions.take(key)) else {
            return self.go_on_for_nobody(index, away);
        };
        let flow = self.go_on(&mut s, index, away);
        self.proceed(&mut s, index, away.kind, flow);
        self.drive(&mut s);
        self.put_back(s);
    }

    /// What tells of an end goes to all that want to know; what belonged to a session that has ended concerns nobody.
    fn go_on_for_nobody(&mut self, index: u32, away: Away) {
        let whose =
            Whose { session: None, id: away.id, chain: usize::from(away.chain), offloaded: 0, since_ms: self.now_ms };
        let tells = matches!(away.kind, Kind::Finished | Kind::Closed);
        if !tells || self.visit(whose, index, away.kind, usize::from(away.resume)) != Flow::Away {
            self.free(index);
        }
    }

    /// Goes on behind the functions that a message was sent to, as their verdict says.
    fn go_on(&mut self, s: &mut Session, index: u32, away: Away) -> Flow {
        let visited = self.visited(&away);
        let bits = visited.iter().fold(0, |bits, &p| bits | 1u32.checked_shl(p.into()).unwrap_or(0));
        let (verdict, jump, jumper) = self.pool.with(index, |m| {
            let header = m.header_mut();
            // Functions speak for themselves alone: for others stands what was so before.
            header.offloaded = away.offloaded | (header.offloaded & bits);
            if !visited.contains(&header.router) {
                (header.router, header.upstream) = (away.router, away.upstream);
            }
            s.exchange.offloaded |= header.offloaded;
            (header.verdict, header.jump, header.jumper)
        });
        match VerdictCode::decode(verdict) {
            None => Flow::Failed { status: 502, reason: "function-verdict" },
            Some(VerdictCode::Respond | VerdictCode::Close) => Flow::Done,
            Some(VerdictCode::Next) if jump == NO_HOP => {
                self.run_functions(s, index, away.kind, usize::from(away.resume))
            }
            Some(VerdictCode::Next) => self.jump(s, index, away, jumper, jump),
        }
    }

    /// The places that a message was sent to; none if the order has changed since so that they are there no more.
    fn visited(&self, away: &Away) -> &[u8] {
        let order = &self.chains[usize::from(away.chain)].orders[away.kind as usize];
        order.get(usize::from(away.from)..usize::from(away.resume)).unwrap_or_default()
    }

    /// Whether a message that is away was sent to a hop, first or on its way.
    pub(crate) fn was_sent_to(&self, index: u32, hop: usize) -> bool {
        let Some(away) = self.pool.away(index) else { return false };
        let hops = &self.chains[usize::from(away.chain)].hops;
        self.visited(away).iter().any(|&position| hops[usize::from(position)] == hop)
    }

    /// Goes on at a named output, if the manifest has it where the message has been.
    fn jump(&mut self, s: &mut Session, index: u32, away: Away, jumper: u8, output: u8) -> Flow {
        let chain = usize::from(away.chain);
        let hop = self.visited(&away).contains(&jumper).then(|| self.chains[chain].hops[usize::from(jumper)]);
        match hop.and_then(|hop| self.hops[hop].outputs.get(usize::from(output))) {
            Some(&target) => {
                self.pool.with(index, |m| m.header_mut().jump = NO_HOP);
                let at = self.place_from(chain, away.kind, target);
                // Responses travel the other way: an output leads on, or nowhere.
                let on = self.chains[chain].orders[away.kind as usize].iter().position(|&p| p == jumper);
                if on.is_some_and(|on| at > on) { self.run_functions(s, index, away.kind, at) } else { NO_OUTPUT }
            }
            None => NO_OUTPUT,
        }
    }

    /// What follows when a message is past its functions.
    pub(crate) fn proceed(&mut self, s: &mut Session, index: u32, kind: Kind, flow: Flow) {
        match (flow, kind) {
            (Flow::Away | Flow::Parked, _) => {}
            (_, Kind::Finished | Kind::Closed) => self.free(index),
            (Flow::Failed { status, reason }, _) => self.functions_failed(s, kind, status, reason),
            (Flow::Done, Kind::RequestHead) => self.decided(s, index),
            (Flow::Done, Kind::Connection) => self.connection_decided(s, index),
            (Flow::Done, Kind::RequestBody) => self.request_piece_done(s, index),
            (Flow::Done, Kind::ResponseHead) => self.response_decided(s, index),
            (Flow::Done, Kind::ResponseBody) => self.response_piece_done(s, index),
            (Flow::Done, Kind::Stream) => self.stream_piece_done(s, index),
        }
    }

    pub(crate) fn functions_failed(&mut self, s: &mut Session, kind: Kind, status: u16, reason: &'static str) {
        match kind {
            Kind::RequestBody => s.exchange.request_away = false,
            Kind::ResponseHead | Kind::ResponseBody => s.exchange.response_away = false,
            Kind::Stream => s.broken = true,
            _ => {}
        }
        if s.phase == Phase::Deciding {
            s.phase = Phase::Exchange;
        }
        self.fail(s, status, reason);
    }

    /// A function died with a message, which is the worker's again but may be half edited.
    pub(crate) fn lost(&mut self, index: u32, hop: usize, reason: &'static str) {
        let Some(away) = self.pool.come_back(index) else { return };
        self.counters.hops[hop].failed.inc(reason);
        let Some(mut s) = away.session.and_then(|key| self.sessions.take(key)) else { return self.free(index) };
        let again = self.on_loss(hop) != OnLoss::Drop && !s.exchange.rerun;
        match away.kind {
            Kind::RequestHead if again && self.reread_request(&s, index) => {
                s.exchange.rerun = true;
                self.counters.chains[usize::from(s.chain)].reruns.inc();
                self.decide(&mut s, index);
            }
            Kind::ResponseHead if again && self.reread_response(&s, index) => {
                s.exchange.rerun = true;
                self.counters.chains[usize::from(s.chain)].reruns.inc();
                self.decide_response(&mut s, index);
            }
            Kind::Connection if again => {
                s.exchange.rerun = true;
                self.counters.chains[usize::from(s.chain)].reruns.inc();
                self.decide_connection(&mut s, index);
            }
            kind => self.functions_failed(&mut s, kind, 502, "function-died"),
        }
        self.drive(&mut s);
        self.put_back(s);
    }

    /// Gives a buffer back, or when functions have it, sees to it that it is when they return it.
    pub(crate) fn let_go(&mut self, index: u32) {
        match self.pool.away_mut(index) {
            Some(away) => away.session = None,
            None => self.free(index),
        }
    }

    /// Reads a request head anew from the bytes that came; functions edit elsewhere.
    fn reread_request(&self, s: &Session, index: u32) -> bool {
        let limits = &self.chains[usize::from(s.chain)].limits;
        let Some(input) = s.input.filter(|i| i.index == index) else { return false };
        let from = s.exchange.head_start;
        self.pool.with(index, |m| matches!(m.read_request(from, input.end, limits), Ok(Some(_))))
    }

    fn reread_response(&self, s: &Session, index: u32) -> bool {
        let limits = &self.chains[usize::from(s.chain)].limits;
        let Some(input) = s.exchange.response_input.filter(|i| i.index == index) else { return false };
        let (from, method) = (s.exchange.response_head_start, s.exchange.method);
        self.pool.with(index, |m| matches!(m.read_response(from, input.end, method, limits), Ok(Some(_))))
    }

    /// A message that the next hop did not take: on from there, as far as that hop's manifest allows.
    pub(crate) fn undelivered(&mut self, index: u32, reason: &'static str) {
        let Some(away) = self.pool.come_back(index) else { return };
        let Some(mut s) = away.session.and_then(|key| self.sessions.take(key)) else { return self.free(index) };
        // Where it stopped, as far as the message can be believed: one of the stops it was sent to, else the way home.
        let stop = self.pool.with(index, |m| {
            let header = m.header();
            let nowhere = Stop { position: NO_HOP, key: 0 };
            header.route.get(usize::from(header.cursor)).copied().unwrap_or(nowhere)
        });
        let chain = usize::from(away.chain);
        let found = self.visited(&away).iter().position(|&p| p == stop.position);
        let flow = match found {
            Some(at) => {
                let at = usize::from(away.from) + at;
                let hop = self.chains[chain].hops[usize::from(stop.position)];
                self.counters.hops[hop].returned.inc(reason);
                // Another instance has taken its place, or the same one is on rings now: that is no failure of anybody's.
                let elsewhere = self.hops[hop].instance_for(s.id).is_some_and(|(_, i)| i.key != stop.key || !i.skmsg);
                match self.on_loss(hop) {
                    _ if elsewhere && reason != "ring-full" => {
                        self.run_since(&mut s, index, away.kind, at, away.since_ms)
                    }
                    OnLoss::Bypass => {
                        self.counters.hops[hop].bypassed.inc();
                        self.run_functions(&mut s, index, away.kind, at + 1)
                    }
                    OnLoss::Drop => Flow::Failed { status: 503, reason: "function-unreachable" },
                    OnLoss::Retry => self.park(&mut s, index, away.kind, hop, at, away.since_ms),
                }
            }
            // It was on its way home.
            None => self.go_on(&mut s, index, away),
        };
        self.proceed(&mut s, index, away.kind, flow);
        self.drive(&mut s);
        self.put_back(s);
    }

    /// Lets a message wait for a function, at most until the time for it to come back is over.
    fn park(&mut self, s: &mut Session, index: u32, kind: Kind, hop: usize, at: usize, since_ms: u64) -> Flow {
        let function_ms = self.chains[usize::from(s.chain)].plan.timeouts.function_ms;
        let until_ms = if function_ms == 0 { 0 } else { since_ms + function_ms };
        s.parked.push(Parked { hop, kind, at, index, since_ms, until_ms });
        self.hops[hop].waiting.push_back(s.key);
        Flow::Parked
    }

    /// Sessions that wait for a function go on if it is there.
    pub(crate) fn resume_waiting(&mut self) {
        for hop in 0..self.hops.len() {
            if !self.hops[hop].waiting.is_empty() {
                self.resume_hop(hop);
                let sessions = &mut self.sessions;
                self.hops[hop].waiting.retain(|&key| sessions.get_mut(key).is_some_and(|s| !s.parked.is_empty()));
            }
        }
    }

    pub(crate) fn resume_hop(&mut self, hop: usize) {
        if self.hops[hop].instances_mut().next().is_none() {
            return;
        }
        for key in std::mem::take(&mut self.hops[hop].waiting) {
            let Some(mut s) = self.sessions.take(key) else { continue };
            let (mine, others) = std::mem::take(&mut s.parked).into_iter().partition(|p| p.hop == hop);
            s.parked = others;
            let mine: Vec<Parked> = mine;
            for parked in mine {
                // One direction may have ended the other.
                let inputs = [s.input, s.exchange.response_input];
                if s.over || !inputs.into_iter().flatten().any(|i| i.index == parked.index) {
                    continue;
                }
                let flow = self.run_since(&mut s, parked.index, parked.kind, parked.at, parked.since_ms);
                self.proceed(&mut s, parked.index, parked.kind, flow);
            }
            self.drive(&mut s);
            self.put_back(s);
        }
    }

    /// Messages that functions have had for too long: their requests fail, and the buffers wait for the functions.
    pub(crate) fn find_overdue_messages(&mut self) {
        if self.pool.away_count() == 0 {
            return;
        }
        let now_ms = self.now_ms;
        let chains = &self.chains;
        let late = |away: &Away| {
            let limit = chains[usize::from(away.chain)].plan.timeouts.function_ms;
            limit > 0 && !away.overdue && now_ms.saturating_sub(away.since_ms) > limit
        };
        let overdue: Vec<u32> = self.pool.all_away().filter(|(_, away)| late(away)).map(|(index, _)| index).collect();
        for index in overdue {
            let Some(away) = self.pool.away_mut(index) else { continue };
            away.overdue = true;
            let (session, kind, at, chain) = (away.session.take(), away.kind, away.from, usize::from(away.chain));
            if let Some(&position) = self.chains[chain].orders[kind as usize].get(usize::from(at)) {
                let hop = self.chains[chain].hops[usize::from(position)];
                self.counters.hops[hop].failed.inc("timeout");
            }
            let Some(mut s) = session.and_then(|key| self.sessions.take(key)) else { continue };
            // The buffer stays with the function until it returns it or dies: nobody else may have it before.
            s.input.take_if(|i| i.index == index);
            s.exchange.response_input.take_if(|i| i.index == index);
            s.exchange.request_away = false;
            s.exchange.response_away = false;
            if s.phase == Phase::Tunnel {
                s.broken = true;
            }
            if s.phase == Phase::Deciding {
                s.phase = Phase::Exchange;
            }
            s.closing = true;
            self.fail(&mut s, 504, "function-timeout");
            self.drive(&mut s);
            self.put_back(s);
        }
    }

    /// Makes a piece of a body or stream out of bytes that lie in a buffer's data.
    ///
    /// `end`: where the bytes end that lie in the buffer, looked at or not.
    pub(crate) fn make_piece(&self, s: &Session, index: u32, kind: Kind, piece: Piece, flags: u8) {
        self.address(s, index, kind, flags);
        let Piece { start, length, end } = piece;
        self.pool.with(index, |m| {
            let header = m.header_mut();
            header.headers = 0;
            header.body = Span { start: (DATA_OFFSET + start) as u16, length: length as u16 };
            header.tail = (DATA_OFFSET + end.max(start + length)) as u16;
        });
    }
}

/// A function named an output that its manifest does not have.
const NO_OUTPUT: Flow = Flow::Failed { status: 502, reason: "function-output" };

/// Whether a function wants no more of a body or stream.
#[inline]
fn leaves_out(offloaded: u32, kind: Kind, position: u8) -> bool {
    let pieces = matches!(kind, Kind::RequestBody | Kind::ResponseBody | Kind::Stream);
    pieces && offloaded & 1u32.checked_shl(position.into()).unwrap_or(0) != 0
}
