//! Clients that ask without pause and look closely at what they get.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Head, Wire, bad, read_body};
use crate::{Error, Netns};

/// A request that is not answered for this long hangs.
const HANGS: Duration = Duration::from_secs(15);

/// What clients saw.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Requests that were begun.
    pub asked: u64,
    /// Answered as they should be.
    pub fine: u64,
    /// Answered with another status, by status.
    pub refused: BTreeMap<u16, u64>,
    /// Connections that ended in the middle of a request.
    pub cut: u64,
    /// Requests that were not answered at all.
    pub hung: u64,
    /// Answers with what was asked for by nobody, or by somebody else.
    pub wrong: Vec<String>,
    /// The longest time to an answer.
    pub slowest: Duration,
}

impl Seen {
    /// Requests that were not answered as they should be.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.refused.values().sum::<u64>() + self.cut + self.hung + self.wrong.len() as u64
    }

    fn add(&mut self, other: &Self) {
        self.asked += other.asked;
        self.fine += other.fine;
        for (status, n) in &other.refused {
            *self.refused.entry(*status).or_default() += n;
        }
        self.cut += other.cut;
        self.hung += other.hung;
        self.wrong.extend_from_slice(&other.wrong);
        self.slowest = self.slowest.max(other.slowest);
    }
}

/// Many clients, each on a connection that it keeps. Each request asks for something that nobody else asks for, and its
/// answer must be for it. They end when [`Load::stop`] says so, after their last answer.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    seen: Vec<Arc<Mutex<Seen>>>,
}

/// What a load asks for: `GET {ask}{unique}`, and the backend is to see `GET {see}{unique}`.
#[derive(Debug, Clone, Copy)]
pub struct Asks {
    /// What the clients' targets begin with.
    pub ask: &'static str,
    /// What the backend's targets begin with.
    pub see: &'static str,
    /// A header that every answer of 200 must have, and its value.
    pub header: Option<(&'static str, &'static str)>,
    /// A pause before each request.
    pub pause: Duration,
    /// Every other request is a POST with a body of so many bytes; 0: none is.
    pub body_bytes: usize,
}

impl Asks {
    /// What goes through `url-rewrite` from `/old/` to `/new/`.
    pub const REWRITTEN: Self = Self { ask: "/old/", see: "/new/", header: None, pause: Duration::ZERO, body_bytes: 0 };
    /// What is not rewritten.
    pub const PLAIN: Self = Self { ask: "/plain/", see: "/plain/", header: None, pause: Duration::ZERO, body_bytes: 0 };
}

impl Load {
    /// Starts so many clients inside `netns`.
    ///
    /// # Errors
    ///
    /// [`Error::Enter`].
    ///
    /// # Panics
    ///
    /// If `address` is none.
    pub fn start(netns: &Netns, address: &str, clients: usize, asks: Asks) -> Result<Self, Error> {
        let address: SocketAddr = address.parse().expect("an address and port");
        let stop = Arc::new(AtomicBool::new(false));
        let seen: Vec<Arc<Mutex<Seen>>> = (0..clients).map(|_| Arc::default()).collect();
        let start = |(number, seen): (usize, &Arc<Mutex<Seen>>)| {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(seen));
            std::thread::spawn(move || ask_on(address, number, asks, &stop, &seen))
        };
        // Threads are where the one is that starts them.
        let threads = netns.enter(|| seen.iter().enumerate().map(start).collect())?;
        Ok(Self { stop, threads, seen })
    }

    /// What has been seen so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        let mut sum = Seen::default();
        self.seen.iter().for_each(|seen| sum.add(&lock(seen)));
        sum
    }

    /// Waits until `more` further requests have been answered as they should be.
    ///
    /// # Errors
    ///
    /// [`Error::TimedOut`].
    pub fn wait_for(&self, more: u64, deadline: Duration) -> Result<(), Error> {
        let before = self.seen().fine;
        crate::wait_until("the next good answers", deadline, || self.seen().fine >= before + more)
    }

    /// Ends the clients and says what they saw.
    #[must_use]
    pub fn stop(mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
        self.seen()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn ask_on(address: SocketAddr, client: usize, asks: Asks, stop: &AtomicBool, seen: &Mutex<Seen>) {
    let mut wire = None;
    let mut number = 0u64;
    while !stop.load(Ordering::Relaxed) {
        if wire.is_none() {
            match connect(address) {
                Ok(new) => wire = Some(new),
                Err(_) => {
                    std::thread::sleep(Duration::from_millis(5));
                    continue;
                }
            }
        }
        if !asks.pause.is_zero() {
            std::thread::sleep(asks.pause);
        }
        let Some(open) = &mut wire else { continue };
        number += 1;
        let unique = format!("{client}-{number}");
        let began = Instant::now();
        let body = if number.is_multiple_of(2) { asks.body_bytes } else { 0 };
        let answer = ask(open, &unique, asks, body);
        let mut seen = lock(seen);
        seen.asked += 1;
        seen.slowest = seen.slowest.max(began.elapsed());
        let keep = match answer {
            Ok((200, closes)) => {
                seen.fine += 1;
                !closes
            }
            Ok((status, closes)) => {
                *seen.refused.entry(status).or_default() += 1;
                !closes
            }
            Err(e) => {
                match e.kind() {
                    ErrorKind::InvalidData => seen.wrong.push(e.to_string()),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut => seen.hung += 1,
                    _ => seen.cut += 1,
                }
                false
            }
        };
        if !keep {
            wire = None;
        }
    }
}

fn connect(address: SocketAddr) -> io::Result<Wire> {
    let stream = TcpStream::connect_timeout(&address, HANGS)?;
    stream.set_read_timeout(Some(HANGS))?;
    stream.set_write_timeout(Some(HANGS))?;
    Wire::new(stream)
}

/// Asks once; the status, and whether the connection ends.
fn ask(wire: &mut Wire, unique: &str, asks: Asks, body_bytes: usize) -> io::Result<(u16, bool)> {
    let (method, length) = match body_bytes {
        0 => ("GET", String::new()),
        n => ("POST", format!("content-length: {n}\r\n")),
    };
    let head = format!("{method} {}{unique} HTTP/1.1\r\nhost: test\r\nx-client: {unique}\r\n{length}\r\n", asks.ask);
    let mut bytes = head.into_bytes();
    bytes.resize(bytes.len() + body_bytes, b'b');
    wire.send(&bytes)?;
    let Some(head) = Head::read(&mut wire.0)? else { return Err(ErrorKind::UnexpectedEof.into()) };
    let mut body = Vec::new();
    read_body(&mut wire.0, &head, |piece| body.extend_from_slice(piece))?;
    let status = head.status()?;
    if !wire.0.buffer().is_empty() {
        return Err(bad(format!("bytes behind the answer to {unique}: {:?}", wire.0.buffer())));
    }
    if status == 200 {
        let expected = format!("{method} {}{unique}", asks.see);
        if body != expected.as_bytes() {
            return Err(bad(format!("{:?} instead of {expected}", String::from_utf8_lossy(&body))));
        }
        if let Some((name, value)) = asks.header
            && head.header(name) != Some(value)
        {
            return Err(bad(format!("{unique}: no {name}: {value} in {:?}", head.headers)));
        }
    }
    Ok((status, head.closes()))
}
