//! Sockets for functions: to the peers that their configuration names, and to nobody else.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use middlenet_sdk::peer::{DialError, PeerAddress, PeerKind};
use middlenet_sdk::protocol::ToFunction;

use super::Supervisor;
use super::relay::Held;

/// Sockets that a function process gets at once, and how often another one. Two polls of each of a thousand servers in ten
/// seconds are within it; a function that dials in a loop is not.
const BURST: u32 = 1024;
const PER_SOCKET: Duration = Duration::from_millis(5);

/// Sockets for datagrams that a function process may hold beyond one for each of its peers.
const SPARE: usize = 16;

/// How many sockets a function process may still have.
#[derive(Debug)]
pub(super) struct Allowance {
    /// Its sockets for datagrams.
    held: Held,
    left: u32,
    since: Instant,
}

impl Allowance {
    pub(super) fn new(now: Instant) -> Self {
        Self { held: Held::default(), left: BURST, since: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let more = now.saturating_duration_since(self.since).as_nanos() / PER_SOCKET.as_nanos();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        if more > 0 {
            self.since = if self.left.saturating_add(more) >= BURST { now } else { self.since + PER_SOCKET * more };
            self.left = self.left.saturating_add(more).min(BURST);
        }
        let may = self.left > 0;
        self.left -= u32::from(may);
        may
    }
}

impl Supervisor {
    /// Makes a socket to a peer for an instance, or tells it why not.
    pub(super) fn dial(&mut self, at: usize, id: u64, peer: PeerAddress) {
        let slot = &mut self.slots[at];
        let peers = self.plan.hop(slot.plan.hop).map_or(&[][..], |hop| hop.peers);
        let is_declared = peers.contains(&peer);
        let most = peers.iter().filter(|peer| peer.kind == PeerKind::Udp).count() + SPARE;
        let Some(instance) = slot.instance_mut(id) else { return };
        let connected = if !is_declared {
            Err(DialError::Refused("the configuration names no such peer".into()))
        } else if !instance.dials.take(Instant::now()) {
            Err(DialError::Refused("the function dials too often".into()))
        } else {
            let socket = peer.connect();
            let passed = match peer.kind {
                PeerKind::Udp => socket.and_then(|socket| self.relay.carry(socket, &instance.dials.held, most)),
                PeerKind::Tcp => socket,
            };
            passed.map_err(DialError::from)
        };
        let (fd, error) = match connected {
            Ok(fd) => (Some(fd), None),
            Err(error) => (None, Some(error)),
        };
        let fds: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
        // One that takes no messages has other troubles.
        instance.tell(&ToFunction::Dialed { peer, error }, &fds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_dials_without_end_gets_a_socket_now_and_then() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert!((0..BURST).all(|_| allowance.take(start)));
        assert!(!allowance.take(start + PER_SOCKET / 2));
        assert!(allowance.take(start + PER_SOCKET) && !allowance.take(start + PER_SOCKET));
        let later = start + PER_SOCKET * 3 + PER_SOCKET / 2;
        assert!(allowance.take(later) && allowance.take(later) && !allowance.take(later));
        assert!(allowance.take(start + PER_SOCKET * 4), "what is left of a step is not lost");
        let much_later = start + Duration::from_secs(3600);
        assert!((0..BURST).all(|_| allowance.take(much_later)) && !allowance.take(much_later));
    }
}
