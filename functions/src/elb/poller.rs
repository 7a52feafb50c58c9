//! Asking servers for their load, without ever waiting for one.

use super::config::Feedback;
use super::load::{Exchange, HttpLoad, SnmpLoad};
use middlenet_sdk::peer::{Connected, DialError, Peer, PeerKind};
use middlenet_sdk::prelude::*;
use std::collections::BTreeSet;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

/// Datagrams that are read of a host in one tick.
const DATAGRAMS: usize = 8;
/// The largest datagram of interest.
const DATAGRAM_BYTES: usize = 8192;
/// Connections per second; the runtime lets a function open 200.
const MOST_DIALS: f64 = 150.0;

/// How the load is asked for.
#[derive(Clone, Debug)]
enum Source {
    Snmp(SnmpLoad),
    Http(HttpLoad),
}

/// What a poll came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Outcome {
    /// The load of a host.
    Load(IpAddr, f64),
    /// A host that did not tell it: how many times in a row, and since when it has been silent.
    Silent(IpAddr, u32, Duration),
    /// There was no socket to ask a host by, which says nothing about it.
    NotAsked,
}

/// What a host told when it was polled.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Told {
    Load(f64),
    /// It did not answer, or nothing that tells a load.
    Nothing,
    /// It was not asked.
    NotAsked,
}

/// Asks all hosts in turn.
#[derive(Debug)]
pub(super) struct Poller {
    source: Source,
    interval: Duration,
    timeout: Duration,
    hosts: Vec<Host>,
}

/// A host with servers.
#[derive(Debug)]
struct Host {
    address: IpAddr,
    peer: Peer,
    state: State,
    socket: Option<UdpSocket>,
    next: Duration,
    number: i32,
    failures: u32,
    answered: Duration,
}

#[derive(Debug)]
enum State {
    Idle,
    /// A socket was asked for, then.
    Dialling(Duration),
    /// A datagram was sent, then.
    Asked(Duration),
    /// A connection was begun, then.
    Talking(Duration, TcpStream, Exchange),
}

impl Poller {
    /// For these hosts, which become peers.
    pub(super) fn new(feedback: &Feedback, hosts: BTreeSet<IpAddr>, init: &mut Init) -> Result<Self, ConfigError> {
        let wrong = |why: String| ConfigError::new(format!("`feedback`: {why}"));
        let source = match (&feedback.snmp, &feedback.http) {
            (Some(snmp), None) => Source::Snmp(snmp.clone()),
            (None, Some(http)) => Source::Http(http.clone()),
            _ => return Err(wrong("exactly one of `snmp` and `http` is needed".into())),
        };
        let (problem, kind, port) = match &source {
            Source::Snmp(snmp) => (snmp.problem(), PeerKind::Udp, snmp.port),
            Source::Http(http) => (http.problem(), PeerKind::Tcp, http.port),
        };
        if let Some(problem) = problem {
            return Err(wrong(problem));
        }
        if !(200..=3_600_000).contains(&feedback.interval_ms) {
            return Err(wrong(format!("`interval_ms` of {} is not between 200 and 3600000", feedback.interval_ms)));
        }
        if feedback.timeout_ms == 0 || feedback.timeout_ms > feedback.interval_ms {
            return Err(wrong(format!("`timeout_ms` of {} is 0 or above `interval_ms`", feedback.timeout_ms)));
        }
        // Each request is a connection of its own, and so many of them a function may open.
        let rate = hosts.len() as f64 * 1000.0 / f64::from(feedback.interval_ms);
        if kind == PeerKind::Tcp && rate > MOST_DIALS {
            let least = (hosts.len() as f64 * 1000.0 / MOST_DIALS).ceil();
            return Err(wrong(format!("{} hosts need an `interval_ms` of {least} at least", hosts.len())));
        }
        let by = &feedback.adjustment;
        let is_fine =
            by.step >= 0.0 && by.step.is_finite() && by.least >= 0.0 && by.most >= by.least && by.most.is_finite();
        if !is_fine {
            return Err(wrong("`adjustment` needs a `step` from 0 on, and `least` at most `most`".into()));
        }
        let hosts = hosts.into_iter().map(|address| {
            Ok(Host {
                address,
                peer: init.peer(kind, SocketAddr::new(address, port))?,
                state: State::Idle,
                socket: None,
                next: Duration::ZERO,
                number: 0,
                failures: 0,
                answered: Duration::ZERO,
            })
        });
        Ok(Self {
            source,
            interval: Duration::from_millis(feedback.interval_ms.into()),
            timeout: Duration::from_millis(feedback.timeout_ms.into()),
            hosts: hosts.collect::<Result<_, ConfigError>>()?,
        })
    }

    /// Goes on where another poller was: silence does not begin anew.
    pub(super) fn inherit(&mut self, old: &Self) {
        for host in &mut self.hosts {
            if let Some(before) = old.hosts.iter().find(|before| before.peer.address() == host.peer.address()) {
                (host.failures, host.answered, host.number) = (before.failures, before.answered, before.number);
            }
        }
    }

    /// Moves each poll on as far as it can go now.
    pub(super) fn drive(&mut self, now: Duration, mut outcome: impl FnMut(Outcome)) {
        let count = self.hosts.len() as u32;
        for (at, host) in (0..).zip(&mut self.hosts) {
            if host.next.is_zero() {
                // Spread over an interval. A host that never answers is silent from the first poll on.
                host.next = now + self.interval * at / count;
                if host.answered.is_zero() {
                    host.answered = now;
                }
            }
            let result = host.drive(now, &self.source, self.interval, self.timeout);
            match result {
                None => {}
                Some(Told::Load(load)) => {
                    (host.failures, host.answered) = (0, now);
                    outcome(Outcome::Load(host.address, load));
                }
                Some(Told::NotAsked) => {
                    // Time in which nobody asks is no silence.
                    host.answered = (host.answered + self.interval).min(now);
                    outcome(Outcome::NotAsked);
                }
                Some(Told::Nothing) => {
                    host.failures = host.failures.saturating_add(1);
                    outcome(Outcome::Silent(host.address, host.failures, now.saturating_sub(host.answered)));
                }
            }
        }
    }
}

impl Host {
    /// What a poll came to, if one is over.
    fn drive(&mut self, now: Duration, source: &Source, interval: Duration, timeout: Duration) -> Option<Told> {
        if matches!(self.state, State::Idle) {
            if now < self.next {
                return None;
            }
            // Late ticks do not make up for polls that were left out.
            self.next = (self.next + interval).max(now);
            self.begin(now, source);
        }
        let result = self.go_on(now, source).or_else(|| {
            // The host's time begins when there is a socket.
            let (since, limit, told) = match self.state {
                State::Idle => return None,
                State::Dialling(since) => (since, interval, Told::NotAsked),
                State::Asked(since) | State::Talking(since, ..) => (since, timeout, Told::Nothing),
            };
            (now.saturating_sub(since) >= limit).then_some(told)
        });
        if result.is_some() {
            self.state = State::Idle;
        }
        result
    }

    fn begin(&mut self, now: Duration, source: &Source) {
        self.state = match source {
            Source::Snmp(_) if self.socket.is_some() => State::Asked(now),
            Source::Snmp(_) | Source::Http(_) => {
                // One that came too late for its poll.
                drop(self.peer.take());
                self.peer.dial();
                State::Dialling(now)
            }
        };
        if matches!(self.state, State::Asked(_)) {
            self.ask(source);
        }
    }

    /// Sends a request by datagram. What the system says of it is for the answer to tell: there will be none.
    fn ask(&mut self, source: &Source) {
        self.number = (self.number + 1) % (1 << 30);
        if let (Source::Snmp(snmp), Some(socket)) = (source, &self.socket) {
            let _ = socket.send(&snmp.request(self.number));
        }
    }

    fn go_on(&mut self, now: Duration, source: &Source) -> Option<Told> {
        if let State::Dialling(_) = self.state {
            match self.peer.take()? {
                Ok(Connected::Udp(socket)) => {
                    self.socket = Some(socket);
                    self.state = State::Asked(now);
                    self.ask(source);
                }
                Ok(Connected::Tcp(stream)) => {
                    let Source::Http(http) = source else { return Some(Told::NotAsked) };
                    self.state = State::Talking(now, stream, Exchange::new(http, self.peer.address().address));
                }
                Err(DialError::Refused(_)) => return Some(Told::NotAsked),
                Err(DialError::Unreachable(_)) => return Some(Told::Nothing),
            }
        }
        match (&mut self.state, source) {
            (State::Asked(_), Source::Snmp(snmp)) => {
                let answer = heard(self.socket.as_ref()?, snmp, self.number);
                if answer == Some(Told::Nothing) {
                    // The host refuses: the next poll begins with a new socket.
                    self.socket = None;
                }
                answer
            }
            (State::Talking(_, stream, exchange), Source::Http(http)) => talk(stream, exchange, http),
            _ => None,
        }
    }
}

/// The load, if its datagram is there, or that there will be none.
fn heard(socket: &UdpSocket, snmp: &SnmpLoad, number: i32) -> Option<Told> {
    let mut bytes = [0; DATAGRAM_BYTES];
    for _ in 0..DATAGRAMS {
        match socket.recv(&mut bytes) {
            // Whoever carries datagrams has given up.
            Ok(0) => return Some(Told::Nothing),
            Ok(length) => {
                // Others are answers that came late.
                if let Some(load) = snmp.load(&bytes[..length], number) {
                    return Some(Told::Load(load));
                }
            }
            Err(e) if is_wait(&e) => return None,
            Err(_) => return Some(Told::Nothing),
        }
    }
    None
}

/// The same by HTTP.
fn talk(stream: &mut TcpStream, exchange: &mut Exchange, http: &HttpLoad) -> Option<Told> {
    while !exchange.to_send().is_empty() {
        match stream.write(exchange.to_send()) {
            Ok(sent) => exchange.sent(sent),
            Err(e) if is_wait(&e) || e.kind() == ErrorKind::NotConnected => return None,
            Err(_) => return Some(Told::Nothing),
        }
    }
    let mut bytes = [0; 4096];
    loop {
        match stream.read(&mut bytes) {
            Ok(length) => match exchange.received(http, &bytes[..length]) {
                Ok(None) => {}
                Ok(Some(load)) => return Some(Told::Load(load)),
                Err(()) => return Some(Told::Nothing),
            },
            Err(e) if is_wait(&e) => return None,
            Err(_) => return Some(Told::Nothing),
        }
    }
}

fn is_wait(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
