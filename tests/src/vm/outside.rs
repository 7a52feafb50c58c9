//! The host at the other end of the card's wire.

use std::collections::HashMap;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{End, Error, Netns, RawSocket, Scratch, Veth};

/// How often a relay looks whether it is to end.
const LOOK: Duration = Duration::from_millis(100);
/// Largest frame.
const FRAME: usize = 65536;

/// A host in a namespace. All that it sends on `eth0` goes on the wire, one datagram a frame, and the other way round.
#[derive(Debug)]
pub struct Outside {
    /// The host.
    pub host: Netns,
    shared: Arc<Shared>,
    relays: Vec<JoinHandle<()>>,
    /// The far end of the host's cable.
    _plug: (Netns, Veth),
    folder: Scratch,
}

#[derive(Debug)]
struct Shared {
    device: RawSocket,
    wire: UnixDatagram,
    guest: PathBuf,
    stop: AtomicBool,
    /// Frames from the guest by destination.
    seen: Mutex<HashMap<[u8; 6], u64>>,
}

impl Outside {
    /// A host with this address and link address.
    ///
    /// # Errors
    ///
    /// If namespaces or sockets cannot be made.
    pub fn new(address: &str, mac: &str) -> Result<Self, Error> {
        let (host, plug) = (Netns::new("outside")?, Netns::new("plug")?);
        let cable = Veth::between(
            &End::new(&host, "eth0").address(address).mac(mac).without_ipv6(),
            &End::new(&plug, "plug").without_ipv6(),
        )?;
        let folder = Scratch::new()?;
        let path = folder.file("outside");
        let fail = |source| Error::Socket { what: format!("be the wire at {}", path.display()), source };
        let wire = UnixDatagram::bind(&path).map_err(fail)?;
        wire.set_read_timeout(Some(LOOK)).map_err(fail)?;
        let shared = Arc::new(Shared {
            device: RawSocket::open(&plug, "plug")?,
            wire,
            guest: folder.file("guest"),
            stop: AtomicBool::new(false),
            seen: Mutex::default(),
        });
        let relays = [Shared::inwards, Shared::outwards].map(|relay| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || relay(&shared))
        });
        Ok(Self { host, shared, relays: relays.into(), _plug: (plug, cable), folder })
    }

    /// QEMU's argument for its end of the wire.
    pub(super) fn netdev(&self, id: &str) -> String {
        let [guest, outside] = ["guest", "outside"].map(|name| self.folder.file(name).display().to_string());
        format!("dgram,id={id},local.type=unix,local.path={guest},remote.type=unix,remote.path={outside}")
    }

    /// Puts a frame on the wire as it is: what goes through a device of this host loses its tag on the way. `false` if it is lost.
    #[must_use]
    pub fn send_frame(&self, frame: &[u8]) -> bool {
        self.shared.wire.send_to(frame, &self.shared.guest).is_ok()
    }

    /// How many frames to this link address have come from the guest.
    #[must_use]
    pub fn frames_to(&self, mac: [u8; 6]) -> u64 {
        self.shared.seen.lock().unwrap_or_else(PoisonError::into_inner).get(&mac).copied().unwrap_or(0)
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for relay in self.relays.drain(..) {
            let _ = relay.join();
        }
    }
}

impl Shared {
    fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn inwards(&self) {
        while !self.is_over() {
            if let Some(frame) = self.device.receive_incoming() {
                // Before QEMU is there, and after it is gone, frames get lost, as on any wire.
                let _ = self.wire.send_to(&frame, &self.guest);
            }
        }
    }

    fn outwards(&self) {
        let mut room = vec![0; FRAME];
        while !self.is_over() {
            let Ok(length) = self.wire.recv(&mut room) else { continue };
            if let Some(destination) = room[..length].first_chunk::<6>() {
                *self.seen.lock().unwrap_or_else(PoisonError::into_inner).entry(*destination).or_default() += 1;
            }
            self.device.send(&room[..length]);
        }
    }
}
