//! A client that believes nothing: every response is compared byte by byte with what the request must have brought.
//!
//! Each request has a path of its own, and servers answer with their number and the path that reached them. So a response that
//! belongs to another request, a path that was not rewritten, and a body that was cut or mixed with another all show.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use super::backends;
use super::generator::Target;
use super::nginx::body;
use crate::BenchError;

/// How long a response may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest head of a response.
const MAX_HEAD: usize = 16 * 1024;
/// The smallest share that a server may get of requests that are dealt out in turn.
const LEAST_SHARE: f64 = 0.8 / backends::COUNT as f64;
/// Below this many requests a share says nothing.
const SHARES_FROM: u64 = 100;

/// What came of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Verified {
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// What was wrong first.
    pub(super) first: Option<String>,
    by_server: [u64; backends::COUNT],
}

impl Verified {
    /// Whether every server got its turn.
    pub(super) fn is_balanced(&self) -> bool {
        let answered: u64 = self.by_server.iter().sum();
        answered < SHARES_FROM || self.by_server.iter().all(|&n| n as f64 >= LEAST_SHARE * answered as f64)
    }

    fn note(&mut self, outcome: Result<usize, String>) {
        self.requests += 1;
        match outcome {
            Ok(server) => self.by_server[server - 1] += 1,
            Err(why) => {
                self.failed += 1;
                self.first.get_or_insert(why);
            }
        }
    }
}

/// Sends about `requests`, `concurrency` of them under way at a time, each on a kept connection of its own.
///
/// # Errors
/// When the namespace of the clients cannot be entered.
pub(super) fn verify(target: Target<'_>, concurrency: usize, requests: usize) -> Result<Verified, BenchError> {
    let rounds = (requests / concurrency).max(2);
    match target.netns {
        Some(netns) => Ok(netns.enter(|| rounds_of(target, concurrency, rounds))?),
        None => Ok(rounds_of(target, concurrency, rounds)),
    }
}

fn rounds_of(target: Target<'_>, concurrency: usize, rounds: usize) -> Verified {
    let mut verified = Verified::default();
    let mut clients: Vec<Option<Client>> = Vec::new();
    clients.resize_with(concurrency, || None);
    for round in 0..rounds {
        let path = |client: usize| format!("{}/{client}", round * concurrency);
        let sent: Vec<Result<(), String>> = clients
            .iter_mut()
            .enumerate()
            .map(|(at, client)| send(client, target, &path(at)).map_err(|e| format!("a request was not taken: {e}")))
            .collect();
        for (at, (client, sent)) in clients.iter_mut().zip(sent).enumerate() {
            let outcome = sent.and_then(|()| match client {
                Some(client) => client.receive().and_then(|response| check(&response, &path(at))),
                None => Err("there is no connection".into()),
            });
            if outcome.is_err() {
                // What else comes on this connection belongs to nothing.
                *client = None;
            }
            verified.note(outcome);
        }
    }
    verified
}

/// On the connection that is there, or on a new one.
fn send(client: &mut Option<Client>, target: Target<'_>, path: &str) -> io::Result<()> {
    let folder = if target.rewrites { "old" } else { "new" };
    let request = format!("GET /{folder}/{path} HTTP/1.1\r\nHost: verify\r\n\r\n");
    let client = match client {
        Some(client) => client,
        None => client.insert(Client::connect(target.address)?),
    };
    client.stream.write_all(request.as_bytes())
}

/// Which server answered, if the response is the one that `path` must bring.
fn check(response: &Response, path: &str) -> Result<usize, String> {
    if response.status != 200 {
        return Err(format!("status {}", response.status));
    }
    let path = format!("/new/{path}");
    let server = (1..=backends::COUNT).find(|&server| response.body == body(server, &path).as_bytes());
    server.ok_or_else(|| {
        let text = String::from_utf8_lossy(&response.body);
        let line: String = text.lines().next().unwrap_or_default().chars().take(80).collect();
        format!("not the body that {path} has, but {} bytes that begin with `{line}`", response.body.len())
    })
}

#[derive(Debug, PartialEq, Eq)]
struct Response {
    status: u16,
    body: Vec<u8>,
}

/// A connection, and what has arrived on it.
#[derive(Debug)]
struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// One response, and nothing behind it: no other request has been sent.
    fn receive(&mut self) -> Result<Response, String> {
        loop {
            if let Some((response, rest)) = parse(&self.received)? {
                if rest > 0 {
                    return Err(format!("{rest} bytes more than the response has"));
                }
                self.received.clear();
                return Ok(response);
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes) {
                Ok(0) => return Err(format!("the connection was closed after {} bytes", self.received.len())),
                Ok(n) => self.received.extend_from_slice(&bytes[..n]),
                Err(e) => return Err(format!("no response: {e}")),
            }
        }
    }
}

/// A whole response and how many bytes follow it, or nothing yet. Its length must be told by `Content-Length`, as the servers
/// tell it: a proxy has no reason to change that.
fn parse(bytes: &[u8]) -> Result<Option<(Response, usize)>, String> {
    let Some(end) = bytes.windows(4).position(|w| w == b"\r\n\r\n") else {
        return if bytes.len() > MAX_HEAD { Err("a head without an end".into()) } else { Ok(None) };
    };
    let head = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = head.split("\r\n");
    let status_line = lines.next().unwrap_or_default();
    let status = status_line.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)?.parse().ok());
    let status = status.ok_or_else(|| format!("not a status line: `{status_line}`"))?;
    let fields = lines.filter_map(|line| line.split_once(':'));
    let mut lengths = fields.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = match (lengths.next(), lengths.next()) {
        (Some((_, value)), None) => value.trim().parse().map_err(|_| format!("Content-Length is `{value}`"))?,
        _ => return Err("not exactly one Content-Length".into()),
    };
    let body = &bytes[end + 4..];
    Ok(body.get(..length).map(|whole| (Response { status, body: whole.to_vec() }, body.len() - length)))
}

#[cfg(test)]
mod tests;
