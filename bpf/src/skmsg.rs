//! The program that passes groups of descriptors between sockets, and its maps.

mod connection;
mod counters;
mod keys;
mod ledger;
mod self_test;

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{MapCore, MapFlags, MapHandle};

use nix::sys::socket::{Shutdown, shutdown};

use crate::error::io_error;
use crate::log;
use crate::skeletons::skmsg_route::SkmsgRouteSkelBuilder;
use crate::{Error, Result};

pub use connection::socket_pair;
pub use counters::SkmsgCounters;
pub use keys::KeySet;
pub use ledger::{SharedLedger, entry, generation, holder};
pub use self_test::{Check, SelfTest, self_test};

/// The oldest kernel whose sockmap, socket storage and compare-and-swap the programs are written for.
const OLDEST: (u32, u32) = (5, 15);
const OLDEST_NAME: &str = "5.15";

/// What the program does with a group before it passes it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// Sender, edge and holder are checked, and the ledger follows each buffer.
    Checked,
    /// Nothing is checked and the ledger is left alone: the reference that benchmarks compare with, for nothing else.
    Plain,
}

impl Filter {
    /// The name of the program, as `bpftool prog` shows it.
    fn program(self) -> &'static str {
        match self {
            Self::Checked => "skmsg_route",
            Self::Plain => "skmsg_plain",
        }
    }
}

/// The program with its maps: parties, who may pass to whom, who holds what.
///
/// A party is a TCP socket under a key. What it sends with one call is one group: a head of 16 bytes (`count` u32,
/// `destination` u32, 8 bytes of zero) and `count` descriptors, 1 to 64. With [`Filter::Checked`]:
///
/// - A group that is refused whole gives its sender `EPIPE` (and SIGPIPE without `MSG_NOSIGNAL`); the ledger is as it was, so
///   the sender holds what it held, and may send again.
/// - A descriptor that is not the sender's to pass is struck out: its index arrives as `u32::MAX`. The others arrive. When
///   none is left, the group is refused.
/// - A group that passes arrives whole and in order, and the ledger names the receiver as the holder from before it can
///   be read.
/// - After the program has passed a group, the kernel may still fail to deliver it, and frees it: `EPIPE` when the receiver
///   has closed meanwhile, `ENOMEM` when TCP memory is short. The ledger then names the receiver as the holder of buffers
///   that it never got. With a receiver that is gone, they come back with all that it held; with one that lives, whoever
///   owns the ledger takes them back after a time by a new generation.
///
/// Nothing holds a sender back: on Linux 6.18 a receiver that does not read had a million groups waiting and no error came.
/// What waits is bounded by the number of buffers, as long as no party has an edge to itself and no two conspire, since
/// each group that passes moves one buffer at least. Beyond that, `ENOMEM` comes at the limit of `net.ipv4.tcp_mem`, or of
/// the cgroup, in bytes of groups; each takes about 1 KiB of kernel memory more that is not counted there.
///
/// Nothing is pinned: when the `Skmsg` is dropped, its parties are removed and the kernel frees programs and maps. A
/// process that dies leaves them until the sockets of its parties are closed too, since a socket holds its program:
/// meanwhile groups still pass, checked, and the first refusal silences its sender with `EACCES`.
#[derive(Debug)]
pub struct Skmsg {
    sockets: MapHandle,
    senders: MapHandle,
    edges: MapHandle,
    counters: MapHandle,
    ledger: SharedLedger,
    program: OwnedFd,
    /// What `sink` holds, and the peer that keeps it half open.
    _sink: (OwnedFd, OwnedFd),
}

impl Skmsg {
    /// Loads the program, with a ledger of as many buffers, all of them with holder 0 and generation 0.
    ///
    /// It takes CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON: the verifier allows no offset that varies without the last.
    ///
    /// # Errors
    ///
    /// [`Error::OldKernel`], [`Error::NotPermitted`], and [`Error::Load`] with the verifier's words when the kernel lacks a
    /// map type, a helper or its BTF. [`Error::Ledger`] when the ledger cannot be mapped.
    pub fn load(buffers: u32, filter: Filter) -> Result<Self> {
        let program = filter.program();
        check_release(program)?;
        let (loaded, log) = log::listen(|| load(buffers, filter));
        let loaded = loaded.map_err(|error| Error::of_load(program, &error, log))?;
        let sink = fill_sink(&loaded.sink).map_err(|source| Error::Sink { source })?;
        let ledger =
            SharedLedger::map(loaded.ledger.as_fd(), buffers).map_err(|source| Error::Ledger { buffers, source })?;
        Ok(Self {
            sockets: loaded.sockets,
            senders: loaded.senders,
            edges: loaded.edges,
            counters: loaded.counters,
            ledger,
            program: loaded.program,
            _sink: sink,
        })
    }

    /// Who holds which buffer. The program moves entries from sender to receiver; everything else is the caller's.
    pub fn ledger(&self) -> &SharedLedger {
        &self.ledger
    }

    /// The kernel's id of the program, as `bpftool prog show id` takes it; 0 when the kernel does not say.
    pub fn program_id(&self) -> u32 {
        program_id(self.program.as_fd())
    }

    /// Makes this socket the party of `key`. What the party sends is of `key`, whoever holds the descriptor.
    ///
    /// A socket that had the key before is no party any more. The peer of the socket must never write: bytes of the peer
    /// and groups do not keep an order between them.
    ///
    /// # Errors
    ///
    /// [`Error::Sockmap`] when the socket is no established TCP connection, or the program cannot be put on it.
    pub fn enter(&self, key: u8, socket: BorrowedFd<'_>) -> Result<()> {
        connection::check_established(socket).map_err(|source| Error::Sockmap { key, source })?;
        let failed = |error| Error::Sockmap { key, source: io_error(&error) };
        let descriptor = socket.as_raw_fd().to_ne_bytes();
        // First, so that no group of this socket is ever without a sender.
        self.senders.update(&descriptor, &u32::from(key).to_ne_bytes(), MapFlags::ANY).map_err(failed)?;
        let value = (socket.as_raw_fd() as u64).to_ne_bytes();
        self.sockets.update(&slot(key), &value, MapFlags::ANY).map_err(|error| {
            // The socket is none of ours.
            let _ = self.senders.delete(&descriptor);
            failed(error)
        })
    }

    /// Removes the party of a key: nothing reaches its socket from now on. No error when there is none.
    ///
    /// The socket itself is an ordinary one again, so what its owner sends reaches the peer of the connection: close the
    /// peer first.
    ///
    /// # Errors
    ///
    /// [`Error::Sockmap`] when the kernel refuses.
    pub fn remove(&self, key: u8) -> Result<()> {
        match self.sockets.delete(&slot(key)).map_err(|error| io_error(&error)) {
            Ok(()) => Ok(()),
            // A sockmap answers EINVAL for an empty slot.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) => Ok(()),
            Err(source) => Err(Error::Sockmap { key, source }),
        }
    }

    /// Whether the key has a party. The kernel forgets one by itself when its socket is closed.
    pub fn has_socket(&self, key: u8) -> bool {
        self.sockets.lookup(&slot(key), MapFlags::ANY).is_ok_and(|cookie| cookie.is_some())
    }

    /// From now on, `from` may pass groups to these keys and to no other.
    ///
    /// # Errors
    ///
    /// [`Error::Edges`] when the kernel refuses.
    pub fn set_edges(&self, from: u8, to: &KeySet) -> Result<()> {
        self.edges
            .update(&slot(from), &to.to_bytes(), MapFlags::ANY)
            .map_err(|error| Error::Edges { key: from, source: io_error(&error) })
    }

    /// What became of the groups that this key sent, summed over the processors. They go on when its socket is replaced.
    ///
    /// # Errors
    ///
    /// [`Error::SkmsgCounters`] when the kernel refuses the look-up.
    pub fn counters(&self, key: u8) -> Result<SkmsgCounters> {
        self.read_counters(key.into()).map_err(|source| Error::SkmsgCounters { party: format!("key {key}"), source })
    }

    /// The same for sockets that have the program and no key. There should be none, and all they send is refused.
    ///
    /// # Errors
    ///
    /// [`Error::SkmsgCounters`] when the kernel refuses the look-up.
    pub fn counters_of_unknown(&self) -> Result<SkmsgCounters> {
        self.read_counters(counters::UNKNOWN)
            .map_err(|source| Error::SkmsgCounters { party: "unknown senders".to_owned(), source })
    }

    fn read_counters(&self, slot: u32) -> io::Result<SkmsgCounters> {
        let per_cpu = self
            .counters
            .lookup_percpu(&slot.to_ne_bytes(), MapFlags::ANY)
            .map_err(|error| io_error(&error))?
            .ok_or(io::ErrorKind::NotFound)?;
        Ok(SkmsgCounters::sum(&per_cpu))
    }
}

impl Drop for Skmsg {
    /// Sockets hold their program: they are let go here, lest it lives as long as they do.
    fn drop(&mut self) {
        for key in 0..=u8::MAX {
            let _ = self.remove(key);
        }
    }
}

/// What is left of the skeleton once the kernel holds program and maps.
struct Loaded {
    program: OwnedFd,
    sockets: MapHandle,
    sink: MapHandle,
    senders: MapHandle,
    edges: MapHandle,
    ledger: MapHandle,
    counters: MapHandle,
}

fn load(buffers: u32, filter: Filter) -> libbpf_rs::Result<Loaded> {
    let mut object = MaybeUninit::uninit();
    let mut open = SkmsgRouteSkelBuilder::default().open(&mut object)?;
    open.maps.ledger.set_max_entries(buffers)?;
    open.progs.skmsg_route.set_autoload(filter == Filter::Checked);
    open.progs.skmsg_plain.set_autoload(filter == Filter::Plain);
    let skeleton = open.load()?;
    let program = match filter {
        Filter::Checked => &skeleton.progs.skmsg_route,
        Filter::Plain => &skeleton.progs.skmsg_plain,
    };
    program.attach_sockmap(skeleton.maps.sockets.as_fd().as_raw_fd())?;
    Ok(Loaded {
        program: program.as_fd().try_clone_to_owned()?,
        sockets: MapHandle::try_from(&skeleton.maps.sockets)?,
        sink: MapHandle::try_from(&skeleton.maps.sink)?,
        senders: MapHandle::try_from(&skeleton.maps.senders)?,
        edges: MapHandle::try_from(&skeleton.maps.edges)?,
        ledger: MapHandle::try_from(&skeleton.maps.ledger)?,
        counters: MapHandle::try_from(&skeleton.maps.counters)?,
    })
}

/// Puts a connection into the sink and then shuts it for writing. Both ends must stay open: a sockmap forgets what closes.
fn fill_sink(sink: &MapHandle) -> io::Result<(OwnedFd, OwnedFd)> {
    let (end, peer) = socket_pair()?;
    let value = (end.as_raw_fd() as u64).to_ne_bytes();
    sink.update(&slot(0), &value, MapFlags::ANY).map_err(|error| io_error(&error))?;
    shutdown(end.as_raw_fd(), Shutdown::Write)?;
    Ok((end, peer))
}

/// Said plainly before libbpf tries: an old kernel's own words are of no help.
fn check_release(program: &'static str) -> Result<()> {
    // Who cannot read it will hear from the kernel.
    let Ok(name) = nix::sys::utsname::uname() else { return Ok(()) };
    let release = name.release().to_string_lossy().into_owned();
    match parse_release(&release) {
        Some(found) if found < OLDEST => Err(Error::OldKernel { program, needed: OLDEST_NAME, release }),
        _ => Ok(()),
    }
}

fn parse_release(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn program_id(program: BorrowedFd<'_>) -> u32 {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut length = size_of::<libbpf_sys::bpf_prog_info>() as u32;
    // SAFETY: `info` outlives the call, `length` is its size, and the program's descriptor is borrowed, hence open. All
    // pointers in `info` are null, so the kernel writes to nothing else.
    let result =
        unsafe { libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &mut length) };
    if result == 0 { info.id } else { 0 }
}

fn slot(key: u8) -> [u8; 4] {
    u32::from(key).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::parse_release;

    #[test]
    fn releases_are_read_as_far_as_they_count() {
        assert_eq!(parse_release("6.18.44-fc"), Some((6, 18)));
        assert_eq!(parse_release("5.4.0-150-generic"), Some((5, 4)));
        assert_eq!(parse_release("6.1"), Some((6, 1)));
        assert_eq!(parse_release("strange"), None);
        assert_eq!(parse_release(""), None);
    }
}
