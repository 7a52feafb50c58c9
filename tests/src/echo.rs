//! Servers that send back what they get, and conversations with them that outlast whatever happens in between.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::{Error, Netns};

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// A TCP and a UDP server at one address that send back every byte. Dropping it ends them.
#[derive(Debug)]
pub struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    /// Starts both inside `netns`; they are reachable when this returns.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if the address cannot be had.
    pub fn start(netns: &Netns, address: &str) -> Result<Self, Error> {
        let fail = |what: &str| {
            let what = format!("{what} {address}");
            move |source| Error::Socket { what, source }
        };
        let listener = netns.enter(|| TcpListener::bind(address))?.map_err(fail("listen on"))?;
        let socket = netns.enter(|| UdpSocket::bind(address))?.map_err(fail("bind"))?;
        listener.set_nonblocking(true).map_err(fail("use"))?;
        socket.set_read_timeout(Some(LOOK)).map_err(fail("use"))?;
        let stop = Arc::new(AtomicBool::new(false));
        let tcp = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || accept(&listener, &stop))
        };
        let udp = {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || answer_datagrams(&socket, &stop))
        };
        Ok(Self { stop, threads: vec![tcp, udp] })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, stop: &Arc<AtomicBool>) {
    let mut conversations = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match listener.accept() {
            Ok((stream, _)) => {
                let stop = Arc::clone(stop);
                conversations.push(std::thread::spawn(move || answer_stream(stream, &stop)));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    for conversation in conversations {
        let _ = conversation.join();
    }
}

fn answer_stream(mut stream: TcpStream, stop: &AtomicBool) {
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_read_timeout(Some(LOOK));
    let _ = stream.set_nodelay(true);
    let mut room = [0; 65536];
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut room) {
            Ok(0) => return,
            Ok(n) => {
                if stream.write_all(&room[..n]).is_err() {
                    return;
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return,
        }
    }
}

fn answer_datagrams(socket: &UdpSocket, stop: &AtomicBool) {
    let mut room = [0; 65536];
    while !stop.load(Ordering::Relaxed) {
        if let Ok((n, peer)) = socket.recv_from(&mut room) {
            let _ = socket.send_to(&room[..n], peer);
        }
    }
}

/// A client's socket with an [`Echo`].
#[derive(Debug)]
pub enum Conversation {
    /// A TCP connection.
    Tcp(TcpStream),
    /// A connected UDP socket.
    Udp(UdpSocket),
}

impl Conversation {
    /// Opens a TCP connection from inside `netns`.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if it is refused or not answered within `deadline`.
    pub fn tcp(netns: &Netns, server: &str, deadline: Duration) -> Result<Self, Error> {
        let fail = |source| Error::Socket { what: format!("connect to {server}"), source };
        let address: SocketAddr = server.parse().map_err(|e| fail(std::io::Error::new(ErrorKind::InvalidInput, e)))?;
        let stream = netns.enter(|| TcpStream::connect_timeout(&address, deadline))?.map_err(fail)?;
        stream.set_nodelay(true).map_err(fail)?;
        Ok(Self::Tcp(stream))
    }

    /// Opens a UDP socket inside `netns`.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn udp(netns: &Netns, server: &str) -> Result<Self, Error> {
        let fail = |source| Error::Socket { what: format!("send to {server}"), source };
        let any = if server.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let socket = netns
            .enter(|| UdpSocket::bind(any).and_then(|socket| socket.connect(server).map(|()| socket)))?
            .map_err(fail)?;
        Ok(Self::Udp(socket))
    }

    /// The client's own address.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`].
    pub fn local_address(&self) -> Result<SocketAddr, Error> {
        let address = match self {
            Self::Tcp(stream) => stream.local_addr(),
            Self::Udp(socket) => socket.local_addr(),
        };
        address.map_err(|source| Error::Socket { what: "tell the socket's address".into(), source })
    }

    /// Says `text` and wants to hear it back, the whole of it and nothing else. UDP says it anew every 200 ms.
    ///
    /// # Errors
    ///
    /// [`Error::Socket`] if the connection breaks, or what comes back is something else; [`Error::TimedOut`].
    pub fn say(&mut self, text: &[u8], deadline: Duration) -> Result<(), Error> {
        match self {
            Self::Tcp(stream) => say_stream(stream, text, deadline),
            Self::Udp(socket) => say_datagram(socket, text, deadline),
        }
    }
}

fn say_stream(stream: &mut TcpStream, text: &[u8], deadline: Duration) -> Result<(), Error> {
    let fail = |source| Error::Socket { what: "go on with the TCP connection".into(), source };
    let end = Instant::now() + deadline;
    stream.set_write_timeout(Some(deadline)).map_err(fail)?;
    stream.write_all(text).map_err(fail)?;
    let mut heard = vec![0; text.len()];
    let mut at = 0;
    while at < heard.len() {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::TimedOut {
                what: format!("the echo over TCP ({at} of {} bytes)", text.len()),
                after: deadline,
            });
        }
        stream.set_read_timeout(Some(left)).map_err(fail)?;
        match stream.read(&mut heard[at..]) {
            Ok(0) => return Err(fail(ErrorKind::UnexpectedEof.into())),
            Ok(n) => at += n,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => return Err(fail(error)),
        }
    }
    if heard == text {
        Ok(())
    } else {
        Err(fail(std::io::Error::new(ErrorKind::InvalidData, "another text came back")))
    }
}

fn say_datagram(socket: &UdpSocket, text: &[u8], deadline: Duration) -> Result<(), Error> {
    let fail = |source| Error::Socket { what: "speak over UDP".into(), source };
    let end = Instant::now() + deadline;
    socket.set_read_timeout(Some(Duration::from_millis(200))).map_err(fail)?;
    let mut room = [0; 65536];
    while Instant::now() < end {
        // A port that was unreachable a moment ago shows as an error of the next call.
        let _ = socket.send(text);
        while let Ok(n) = socket.recv(&mut room) {
            if &room[..n] == text {
                return Ok(());
            }
        }
    }
    Err(Error::TimedOut { what: "the echo over UDP".into(), after: deadline })
}
