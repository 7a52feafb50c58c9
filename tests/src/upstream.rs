//! Servers whose behaviour a test writes down.

use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Error, Message, Netns, Wire};

/// How often the server looks for a connection.
const LOOK: Duration = Duration::from_millis(2);

/// A server that treats every connection as it was told to. Dropping it closes them all.
#[derive(Debug)]
pub struct Upstream {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Message>>,
}

/// A connection to an [`Upstream`].
#[derive(Debug)]
pub struct Visit {
    /// The connection.
    pub wire: Wire,
    /// Which connection it is, from 0.
    pub number: usize,
    seen: Arc<Seen>,
}

impl Visit {
    /// Reads a request and notes it; nothing if the connection ended.
    ///
    /// # Errors
    ///
    /// As [`Wire::request`].
    pub fn request(&mut self) -> Result<Option<Message>, Error> {
        let request = self.wire.request()?;
        request.iter().for_each(|request| self.note(request.clone()));
        Ok(request)
    }

    /// Reads a request's head only, and notes it.
    ///
    /// # Errors
    ///
    /// As [`Wire::head`].
    pub fn head(&mut self) -> Result<Option<Message>, Error> {
        let head = self.wire.head()?;
        head.iter().for_each(|head| self.note(head.clone()));
        Ok(head)
    }

    /// Notes bytes that are no request, as the body of one.
    pub fn note_body(&self, body: Vec<u8>) {
        self.note(Message { body, ..Message::default() });
    }

    fn note(&self, request: Message) {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).push(request);
    }

    /// Answers 200 with that body and its length.
    ///
    /// # Errors
    ///
    /// As [`Wire::send`].
    pub fn answer(&mut self, body: impl AsRef<[u8]>) -> Result<(), Error> {
        let body = body.as_ref();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        self.wire.send([head.as_bytes(), body].concat())
    }
}

impl Upstream {
    /// Listens at `address` inside `netns`; `behaviour` is called with each connection, on a thread of its own. Its error is
    /// as a rule that the other side has gone, and ends the connection.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if the address cannot be had.
    pub fn start(
        netns: &Netns,
        address: &str,
        behaviour: impl Fn(&mut Visit) -> Result<(), Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let fail = |source| Error::Socket { what: format!("listen on {address}"), source };
        let listener = netns.enter(|| TcpListener::bind(address))?.map_err(fail)?;
        listener.set_nonblocking(true).map_err(fail)?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Seen::default()));
        let thread = {
            let (stop, seen) = (Arc::clone(&stop), Arc::clone(&seen));
            std::thread::spawn(move || accept(&listener, &stop, &seen, &Arc::new(behaviour)))
        };
        Ok(Self { stop, seen, thread: Some(thread) })
    }

    /// A server that answers every request with 200 and a body that says what it got: `METHOD TARGET LENGTH-OF-BODY`.
    ///
    /// # Errors
    ///
    /// As [`Upstream::start`].
    pub fn plain(netns: &Netns, address: &str) -> Result<Self, Error> {
        Self::start(netns, address, |visit| {
            while let Some(request) = visit.request()? {
                visit.answer(format!("{} {} {}", request.method(), request.target(), request.body.len()))?;
            }
            Ok(())
        })
    }

    /// The requests that its behaviour has read so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Message> {
        self.seen.requests.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Their targets.
    #[must_use]
    pub fn targets(&self) -> Vec<String> {
        self.requests().iter().map(|request| request.target().to_owned()).collect()
    }

    /// Connections accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// Connections whose behaviour has not ended.
    #[must_use]
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept<B>(listener: &TcpListener, stop: &Arc<AtomicBool>, seen: &Arc<Seen>, behaviour: &Arc<B>)
where
    B: Fn(&mut Visit) -> Result<(), Error> + Send + Sync + 'static,
{
    let mut visits = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let Ok((stream, _)) = listener.accept() else {
            std::thread::sleep(LOOK);
            continue;
        };
        let wire = stream.set_nonblocking(false).ok().and_then(|()| Wire::new(stream).ok());
        let Some(wire) = wire.map(|wire| wire.until(Arc::clone(stop))) else { continue };
        let number = seen.connections.fetch_add(1, Ordering::SeqCst);
        seen.open.fetch_add(1, Ordering::SeqCst);
        let (behaviour, seen) = (Arc::clone(behaviour), Arc::clone(seen));
        visits.push(std::thread::spawn(move || {
            let mut visit = Visit { wire, number, seen: Arc::clone(&seen) };
            // A connection that broke is what many tests are about.
            let _ = behaviour(&mut visit);
            drop(visit);
            seen.open.fetch_sub(1, Ordering::SeqCst);
        }));
    }
    for visit in visits {
        let _ = visit.join();
    }
}
