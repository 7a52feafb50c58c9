//! Addresses on loopback that nobody listens on.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};

use crate::BenchError;

/// Below the ports that Linux gives to outgoing connections, of which a benchmark has many.
const FIRST: u16 = 18_000;
const COUNT: u16 = 10_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// One that this process has not given out before.
///
/// # Errors
/// When all are taken.
pub(super) fn free() -> Result<SocketAddr, BenchError> {
    // Two benchmarks at the same time do not begin with the same ones.
    let start = u16::try_from(std::process::id() % 997).unwrap_or(0) * 10;
    for _ in 0..COUNT {
        let offset = (u32::from(start) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed))) % u32::from(COUNT);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + u16::try_from(offset).unwrap_or(0)));
        if TcpListener::bind(address).is_ok() {
            return Ok(address);
        }
    }
    Err(BenchError::Host("no port is free on 127.0.0.1".into()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn no_port_is_given_out_twice() {
        let ports: Vec<_> = (0..20).map(|_| super::free().unwrap()).collect();
        for (at, port) in ports.iter().enumerate() {
            assert!(port.ip().is_loopback() && !ports[..at].contains(port), "{port}");
        }
    }
}
