//! The detector, and what it finds.

use std::ffi::{CStr, CString, c_char};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::bindings::{
    Class, Module, middlenet_ndpi_categories, middlenet_ndpi_category_name, middlenet_ndpi_free,
    middlenet_ndpi_give_up, middlenet_ndpi_kind, middlenet_ndpi_load, middlenet_ndpi_new, middlenet_ndpi_packet,
    middlenet_ndpi_protocol_name, middlenet_ndpi_protocols, middlenet_ndpi_ready,
};
use crate::flow::Seen;
use crate::{Error, Flow, signatures};

/// Zeros behind each packet, for a step beyond its end.
const MARGIN_BYTES: usize = 512;
/// Longest packet that nDPI takes.
const MOST_BYTES: usize = u16::MAX as usize;

/// nDPI's own state during the making of detectors is the program's, not the detector's.
static MAKING: Mutex<()> = Mutex::new(());
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What a detector loads beside its own signatures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The addresses of Tor's relays, as of nDPI's release.
    pub tor_hosts: bool,
}

/// How much stands behind a classification.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Confidence {
    /// Nothing is known.
    #[default]
    Unknown,
    /// The port only.
    Port,
    /// The address only.
    Address,
    /// What other flows between the same hosts were.
    Cache,
    /// The packets' contents.
    Inspected,
}

/// What is known of a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Classification {
    /// The protocol that carries the application, as HTTP or TLS; 0 if there is none or it is unknown.
    pub master: u16,
    /// The protocol or the application; 0 if it is unknown.
    pub app: u16,
    /// What kind of application it is.
    pub category: u16,
    /// How sure that is.
    pub confidence: Confidence,
    /// Whether further packets can tell more, as the name in a certificate.
    pub may_refine: bool,
}

impl Classification {
    /// Whether the protocol is known.
    pub fn is_known(&self) -> bool {
        self.master != 0 || self.app != 0
    }

    /// The most particular protocol known: the application, else what carries it; 0 if neither is known.
    pub fn protocol(&self) -> u16 {
        if self.app != 0 { self.app } else { self.master }
    }
}

impl From<Class> for Classification {
    fn from(class: Class) -> Self {
        let confidence = match class.confidence {
            0 => Confidence::Unknown,
            1 => Confidence::Port,
            2 => Confidence::Address,
            3 => Confidence::Cache,
            _ => Confidence::Inspected,
        };
        let Class { master, app, category, may_refine, .. } = class;
        Self { master, app, category, confidence, may_refine: may_refine != 0 }
    }
}

/// nDPI with its signatures.
#[derive(Debug)]
pub struct Detector {
    module: NonNull<Module>,
    /// What tells flows of this detector from those of others.
    number: u64,
    /// The copy that nDPI reads, and may point into until the next packet.
    packet: Box<[u8]>,
    protocols: Vec<String>,
    categories: Vec<String>,
}

// SAFETY: the module is heap memory that only this detector reaches, tied to no thread; what nDPI shares between modules it
// changes only while they are made and freed, under `MAKING`.
unsafe impl Send for Detector {}

impl Detector {
    /// A detector with nDPI's own signatures, and those in a file in the format of its `-p` option. Takes some tens of
    /// milliseconds and some megabytes.
    ///
    /// # Errors
    /// Where the file cannot be read, or a line of it is no rule.
    pub fn new(options: &Options, protocols_file: Option<&Path>) -> Result<Self, Error> {
        if let Some(path) = protocols_file {
            signatures::check(path)?;
        }
        let module = make(options, protocols_file)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let packet = vec![0; MOST_BYTES + MARGIN_BYTES].into_boxed_slice();
        let mut detector = Self { module, number, packet, protocols: Vec::new(), categories: Vec::new() };
        detector.read_names();
        Ok(detector)
    }

    /// Shows it a packet of a flow, from the IP header on, and says what is known of the flow now. Of a packet above 64 KiB it sees
    /// the beginning. The time may have any origin, the same for all packets.
    ///
    /// What is not a whole packet with a whole TCP or UDP header, or of another protocol than the flow's first packet, tells nothing;
    /// nor does a packet of a flow that was begun with another detector, or given up.
    pub fn packet(&mut self, flow: &mut Flow, l3: &[u8], now_ms: u64) -> Classification {
        let l3 = &l3[..l3.len().min(MOST_BYTES)];
        let bytes = l3.len() as u16;
        self.packet[..l3.len()].copy_from_slice(l3);
        self.packet[l3.len()..][..MARGIN_BYTES].fill(0);
        // SAFETY: the packet has `bytes` bytes.
        let kind = unsafe { middlenet_ndpi_kind(self.packet.as_ptr(), bytes) };
        let seen = Seen::Packets { detector: self.number, kind };
        match flow.seen {
            _ if kind < 0 => return Classification::default(),
            Seen::Over(found) => return found,
            Seen::Packets { .. } if flow.seen != seen => return Classification::default(),
            Seen::Packets { .. } | Seen::Nothing => flow.seen = seen,
        }
        // SAFETY: module and flow are valid and used by nobody else, as `&mut` says; the packet has `bytes` bytes, is of the flow's
        // kind, and lives as long as the module, which may point into it until the next call.
        unsafe { middlenet_ndpi_packet(self.module.as_ptr(), flow.raw(), self.packet.as_ptr(), bytes, now_ms) }.into()
    }

    /// Says what a flow is, of which no more packets are to be shown: with `guess`, by its ports and addresses if its packets did not
    /// tell.
    pub fn give_up(&mut self, flow: &mut Flow, guess: bool) -> Classification {
        match flow.seen {
            Seen::Packets { detector, .. } if detector == self.number => {}
            Seen::Over(found) => return found,
            Seen::Packets { .. } | Seen::Nothing => return Classification::default(),
        }
        // SAFETY: module and flow are valid and used by nobody else, as `&mut` says.
        let found = unsafe { middlenet_ndpi_give_up(self.module.as_ptr(), flow.raw(), guess.into()) }.into();
        flow.seen = Seen::Over(found);
        found
    }

    /// The names of all protocols, by number; those of the file come last. The first is `Unknown`.
    pub fn protocols(&self) -> &[String] {
        &self.protocols
    }

    /// The name of a protocol.
    pub fn protocol_name(&self, protocol: u16) -> &str {
        self.protocols.get(usize::from(protocol)).or(self.protocols.first()).map_or("", String::as_str)
    }

    /// The names of all categories, by number. The first is `Unspecified`.
    pub fn categories(&self) -> &[String] {
        &self.categories
    }

    /// The name of a category.
    pub fn category_name(&self, category: u16) -> &str {
        self.categories.get(usize::from(category)).or(self.categories.first()).map_or("", String::as_str)
    }

    fn read_names(&mut self) {
        let module = self.module.as_ptr();
        // SAFETY: the module is valid.
        let protocols = unsafe { middlenet_ndpi_protocols(module) };
        let numbers = |most: u32| 0..u16::try_from(most).unwrap_or(u16::MAX);
        // SAFETY: the module is valid, and the function takes any number.
        let protocol = |number| unsafe { middlenet_ndpi_protocol_name(module, number) };
        self.protocols = numbers(protocols).map(|number| text(protocol(number))).collect();
        // SAFETY: the function takes nothing and returns a constant.
        let categories = unsafe { middlenet_ndpi_categories() };
        // SAFETY: the module is valid, and the function takes any number.
        let category = |number| unsafe { middlenet_ndpi_category_name(module, number) };
        self.categories = numbers(categories).map(|number| text(category(number))).collect();
    }
}

impl Drop for Detector {
    fn drop(&mut self) {
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the module came from `make` and is freed once; no other is being made or freed (`MAKING`).
        unsafe { middlenet_ndpi_free(self.module.as_ptr()) };
    }
}

fn make(options: &Options, protocols_file: Option<&Path>) -> Result<NonNull<Module>, Error> {
    let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: the function takes a number and returns memory of its own or null; no other is being made (`MAKING`).
    let module = unsafe { middlenet_ndpi_new(options.tor_hosts.into()) };
    let module = NonNull::new(module).ok_or(Error::Memory)?;
    if let Some(path) = protocols_file
        && let Err(error) = load(module, path)
    {
        // SAFETY: the module is valid, reached by nobody else, and not used again.
        unsafe { middlenet_ndpi_free(module.as_ptr()) };
        return Err(error);
    }
    // SAFETY: the module is valid, and has not been made ready before.
    unsafe { middlenet_ndpi_ready(module.as_ptr()) };
    Ok(module)
}

fn load(module: NonNull<Module>, path: &Path) -> Result<(), Error> {
    let unread = |kind: io::ErrorKind| Error::Read { path: path.to_owned(), source: kind.into() };
    let name = CString::new(path.as_os_str().as_bytes()).map_err(|_| unread(io::ErrorKind::InvalidInput))?;
    // SAFETY: the module is valid and not ready yet; the name ends in a zero and outlives the call.
    let answer = unsafe { middlenet_ndpi_load(module.as_ptr(), name.as_ptr()) };
    if answer < 0 { Err(unread(io::ErrorKind::Other)) } else { Ok(()) }
}

fn text(name: *const c_char) -> String {
    if name.is_null() {
        return String::new();
    }
    // SAFETY: nDPI's names are strings that end in a zero and live as long as the module, which the caller holds.
    unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()
}
