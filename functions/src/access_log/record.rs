//! What is remembered of a request until it ends.

use middlenet_sdk::middlebox::Request;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Bytes of a field, and of the target, that are logged.
const FIELD_BYTES: usize = 1024;
const TARGET_BYTES: usize = 2048;

/// Parts of a request's head, one after the other in one buffer that is used again.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) client: SocketAddr,
    /// Since 1970.
    pub(super) at: Duration,
    pub(super) minor: u8,
    bytes: Vec<u8>,
    ends: [u16; 5],
    /// Which of them were there.
    present: [bool; 5],
}

/// The parts, in their order.
#[derive(Clone, Copy, Debug)]
pub(super) enum Part {
    Method,
    Target,
    Host,
    Referer,
    UserAgent,
}

impl Default for Record {
    fn default() -> Self {
        let client = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self { client, at: Duration::ZERO, minor: 1, bytes: Vec::new(), ends: [0; 5], present: [false; 5] }
    }
}

impl Record {
    /// Of a request whose head was not seen.
    pub(super) fn unknown(client: SocketAddr, at: Duration) -> Self {
        Self { client, at, ..Self::default() }
    }

    /// Takes a request's parts.
    pub(super) fn fill(&mut self, request: &Request<'_>, client: SocketAddr, at: Duration) {
        let parts = [
            Some(request.method_bytes()),
            Some(request.target()),
            request.host(),
            request.header("referer"),
            request.header("user-agent"),
        ];
        (self.client, self.at, self.minor) = (client, at, request.minor_version());
        self.bytes.clear();
        for (i, part) in parts.into_iter().enumerate() {
            let limit = if i == Part::Target as usize { TARGET_BYTES } else { FIELD_BYTES };
            let bytes = part.unwrap_or_default();
            self.bytes.extend_from_slice(&bytes[..bytes.len().min(limit)]);
            // Five parts of these lengths stay below 64 Ki.
            (self.ends[i], self.present[i]) = (self.bytes.len() as u16, part.is_some());
        }
    }

    /// A part, if the request had it.
    pub(super) fn part(&self, part: Part) -> Option<&[u8]> {
        let i = part as usize;
        let start = i.checked_sub(1).map_or(0, |before| usize::from(self.ends[before]));
        self.bytes.get(start..usize::from(self.ends[i])).filter(|_| self.present[i])
    }
}
