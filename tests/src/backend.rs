//! A web server whose answers show what it was asked.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::socket::{Backlog, listen};

use crate::http::{Head, Wire, read_body, send_pattern};
use crate::{Error, Netns, Pattern};

/// Connections that wait to be accepted.
const BACKLOG: i32 = 4096;
/// How often it looks whether it is to end.
const LOOK: Duration = Duration::from_millis(5);

/// A server. Dropping it closes its listener and all its connections, as its death would.
///
/// | asked for | answers |
/// |---|---|
/// | `/bytes/N`, `/chunked/N` | N bytes of [`Pattern`], of known length or in chunks |
/// | `/check/N` | reads the request's body, which is to be N bytes of [`Pattern`]; `fine` or what is wrong |
/// | `/check-slowly/N` | the same, with a pause of 10 ms after each 256 KiB |
/// | `/socket` | 101 if asked to upgrade, then sends back every byte |
/// | `/late/MS/...` | waits before it answers |
/// | anything | method and target |
#[derive(Debug)]
pub struct Backend {
    address: String,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    requests: AtomicU64,
    malformed: Mutex<Vec<String>>,
    open: Mutex<Vec<Arc<TcpStream>>>,
}

impl Backend {
    /// Starts one inside `netns`; it is reachable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if the address cannot be had.
    pub fn start(netns: &Netns, address: &str) -> Result<Self, Error> {
        let fail = |source| Error::Socket { what: format!("listen on {address}"), source };
        let wanted: SocketAddr = address.parse().map_err(|e| fail(crate::http::bad(e)))?;
        let listener = netns.enter(|| TcpListener::bind(wanted))?.map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        // The standard library's 128 are too few for hundreds of connections at once.
        Backlog::new(BACKLOG).and_then(|backlog| listen(&listener, backlog)).map_err(|e| fail(e.into()))?;
        let shared = Arc::new(Shared::default());
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.accept(&listener))
        };
        Ok(Self { address: address.to_owned(), shared, thread: Some(thread) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What it got that was no request.
    #[must_use]
    pub fn malformed(&self) -> Vec<String> {
        self.shared.malformed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests it has read so far.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.shared.requests.load(Ordering::Relaxed)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        for stream in self.shared.open().drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, Vec<Arc<TcpStream>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        while !self.stop.load(Ordering::Relaxed) {
            let Ok((stream, _)) = listener.accept() else {
                std::thread::sleep(LOOK);
                continue;
            };
            let Ok(kept) = stream.try_clone() else { continue };
            let kept = Arc::new(kept);
            self.open().push(Arc::clone(&kept));
            let shared = Arc::clone(self);
            std::thread::spawn(move || {
                let _ = stream.set_nonblocking(false);
                // A client that is gone is no error of the server's.
                if let Err(e) = Wire::new(stream).and_then(|mut wire| shared.serve(&mut wire))
                    && e.kind() == io::ErrorKind::InvalidData
                {
                    shared.malformed.lock().unwrap_or_else(PoisonError::into_inner).push(e.to_string());
                }
                let _ = kept.shutdown(std::net::Shutdown::Both);
                shared.open().retain(|other| !Arc::ptr_eq(other, &kept));
            });
        }
    }

    fn serve(&self, wire: &mut Wire) -> io::Result<()> {
        while let Some(head) = Head::read(&mut wire.0)? {
            self.requests.fetch_add(1, Ordering::Relaxed);
            let target = head.line.get(1).cloned().unwrap_or_default();
            let mut words = target.trim_start_matches('/').split('/');
            let (what, number) = (words.next().unwrap_or_default(), words.next().and_then(|n| n.parse::<u64>().ok()));
            match (what, number) {
                ("bytes", Some(n)) => {
                    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {n}\r\n\r\n").as_bytes())?;
                    send_pattern(wire.0.get_mut(), n, false)?;
                }
                ("chunked", Some(n)) => {
                    wire.send(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
                    send_pattern(wire.0.get_mut(), n, true)?;
                }
                ("check" | "check-slowly", Some(n)) => {
                    let (mut pattern, mut fine, mut pause_at) = (Pattern::default(), true, 256 << 10);
                    let length = read_body(&mut wire.0, &head, |piece| {
                        fine = fine && pattern.check(piece);
                        if what == "check-slowly" && pattern.position() >= pause_at {
                            pause_at += 256 << 10;
                            std::thread::sleep(Duration::from_millis(10));
                        }
                    })?;
                    let text = if fine && length == n { "fine".to_owned() } else { format!("{length} bytes, {fine}") };
                    answer(wire, &text)?;
                }
                ("socket", _) if head.header("upgrade").is_some() => {
                    wire.send(
                        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
                    )?;
                    let mut out = wire.stream().try_clone()?;
                    io::copy(&mut wire.0, &mut out)?;
                    return Ok(());
                }
                _ => {
                    if what == "late" {
                        std::thread::sleep(Duration::from_millis(number.unwrap_or(0)));
                    }
                    read_body(&mut wire.0, &head, |_| {})?;
                    answer(wire, &format!("{} {target}", head.line[0]))?;
                }
            }
            if head.closes() {
                return Ok(());
            }
        }
        Ok(())
    }
}

fn answer(wire: &mut Wire, body: &str) -> io::Result<()> {
    let length = body.len();
    wire.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nserver: backend\r\n\r\n{body}").as_bytes())
}
