//! The two ends of a TCP connection of this host to itself: what SK_MSG hops travel on. The kernel's sockmap takes TCP sockets.

use std::io::{Error, ErrorKind, Result};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

/// Connections of strangers that are turned away before it counts as a failure.
const STRANGERS: usize = 256;

/// How long the kernel may take, which only a packet filter on the loopback interface can draw out.
const PATIENCE: Duration = Duration::from_millis(500);

/// A connection to a function.
#[derive(Debug)]
pub(super) struct Loopback {
    /// The function's end.
    pub(super) function: TcpStream,
    /// The other.
    pub(super) broker: TcpStream,
}

impl Loopback {
    /// Makes one. Whoever else connects to the port meanwhile is turned away.
    ///
    /// # Errors
    /// Where the host has no loopback interface that is up, or no descriptors are left.
    pub(super) fn new() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let function = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
        // The connection waits to be accepted; nobody is to make us wait for another.
        listener.set_nonblocking(true)?;
        for _ in 0..STRANGERS {
            let (broker, peer) = listener.accept()?;
            if peer == function.local_addr()? && broker.local_addr()? == function.peer_addr()? {
                broker.set_nodelay(true)?;
                function.set_nodelay(true)?;
                return Ok(Self { function, broker });
            }
        }
        Err(Error::new(ErrorKind::AddrInUse, "others keep connecting to it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};

    #[test]
    fn both_ends_are_ours() {
        let mut pair = Loopback::new().unwrap();
        pair.function.write_all(b"to the broker").unwrap();
        let mut bytes = [0; 13];
        pair.broker.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"to the broker");
        drop(pair.broker);
        assert_eq!(pair.function.read(&mut bytes).unwrap(), 0);
    }
}
