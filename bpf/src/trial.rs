//! Runs of a program on one packet, without an interface: for tests and measurements.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use libbpf_rs::{MapCore, MapFlags};
use middlenet_steer::Tables;

use crate::fast::FastPort;
use crate::steer::{META_BYTES, Mark, Steering, take_mark};
use crate::xdp::Redirect;
use crate::{Error, Result};

/// What a program decides about a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is dropped (`XDP_DROP`).
    Drop,
    /// The kernel's own stack gets it (`XDP_PASS`).
    Pass,
    /// An AF_XDP socket gets it (`XDP_REDIRECT`).
    Redirect,
    /// Another number: the program failed, `XDP_ABORTED` being 0.
    Other(u32),
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// The program's decision, in the last repetition.
    pub verdict: Verdict,
    /// The tag in front of the packet.
    pub tag: Option<u16>,
    /// Nanoseconds that a run took, the mean over the repetitions.
    pub mean_ns: u32,
}

/// What came out of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The program's decision.
    pub verdict: Verdict,
    /// What is in front of the packet.
    pub mark: Option<Mark>,
    /// The packet.
    pub packet: Vec<u8>,
}

/// A program in the kernel and on no interface, with a socket for its one receive queue.
///
/// What runs here runs as it would on an interface, and counts as there (`BPF_PROG_TEST_RUN`).
#[derive(Debug)]
pub struct Trial {
    tried: Tried,
    _socket: Option<OwnedFd>,
}

#[derive(Debug)]
enum Tried {
    Redirect(OwnedFd),
    Steering(Box<Steering>),
}

impl Trial {
    /// The program of [`XdpPort`](crate::XdpPort).
    ///
    /// # Errors
    ///
    /// As there; [`Error::Trial`] when there is no socket to be had.
    pub fn redirect() -> Result<Self> {
        let loaded = Redirect::load()?;
        let socket = with_socket(&loaded.sockets, 0).map_err(|source| Error::Trial { bytes: 0, source })?;
        Ok(Self { tried: Tried::Redirect(loaded.program), _socket: Some(socket) })
    }

    /// The program of [`SteeredPort`](crate::SteeredPort).
    ///
    /// # Errors
    ///
    /// As there; [`Error::Trial`] when there is no socket to be had.
    pub fn steering(tables: &Tables) -> Result<Self> {
        Self::of(Steering::load(tables)?)
    }

    /// The same for a port whose chains have fast paths.
    ///
    /// # Errors
    ///
    /// As [`steering`](Self::steering).
    pub fn fast(tables: &Tables, port: FastPort) -> Result<Self> {
        Self::of(Steering::load_fast(tables, port)?)
    }

    /// The same without a socket for its queue.
    ///
    /// # Errors
    ///
    /// As [`steering`](Self::steering).
    pub fn fast_without_socket(tables: &Tables, port: FastPort) -> Result<Self> {
        let steering = Steering::load_fast(tables, port)?;
        Ok(Self { tried: Tried::Steering(Box::new(steering)), _socket: None })
    }

    fn of(steering: Steering) -> Result<Self> {
        let failed = |source| Error::Trial { bytes: 0, source };
        let socket = with_socket(steering.sockets(), steering.first_slot()).map_err(failed)?;
        Ok(Self { tried: Tried::Steering(Box::new(steering)), _socket: Some(socket) })
    }

    /// The steering, if it is that which is tried.
    pub fn steering_mut(&mut self) -> Option<&mut Steering> {
        match &mut self.tried {
            Tried::Redirect(_) => None,
            Tried::Steering(steering) => Some(steering),
        }
    }

    /// Runs the program on a packet as often as asked, once at least.
    ///
    /// # Errors
    ///
    /// [`Error::Trial`] when the kernel refuses: it takes no packet shorter than 14 bytes, nor longer than a page.
    pub fn run(&self, packet: &[u8], repeat: u32) -> Result<Run> {
        let (outcome, mean_ns) = self.outcome(packet, repeat, LOOPBACK)?;
        Ok(Run { verdict: outcome.verdict, tag: outcome.mark.map(|mark| mark.tag), mean_ns })
    }

    /// Runs the program on a packet once, as one that came in by this interface (0 for none in particular), which has to be up.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run); likewise if there is no such interface.
    pub fn pass(&self, packet: &[u8], ifindex: u32) -> Result<Outcome> {
        self.outcome(packet, 1, ifindex).map(|(outcome, _)| outcome)
    }

    /// Runs the program on a packet once, which has so much metadata in front of it already that no mark fits.
    ///
    /// # Errors
    ///
    /// As [`run`](Self::run).
    pub fn pass_without_room(&self, packet: &[u8]) -> Result<Outcome> {
        let bytes = [&[0; MOST_META_BYTES], packet].concat();
        self.run_on(&bytes, MOST_META_BYTES, 1, LOOPBACK).map(|(outcome, _)| outcome)
    }

    fn outcome(&self, packet: &[u8], repeat: u32, ifindex: u32) -> Result<(Outcome, u32)> {
        self.run_on(packet, 0, repeat, ifindex)
    }

    fn run_on(&self, bytes: &[u8], meta_bytes: usize, repeat: u32, ifindex: u32) -> Result<(Outcome, u32)> {
        let program = match &self.tried {
            Tried::Redirect(program) => program.as_fd(),
            Tried::Steering(steering) => steering.program(),
        };
        run(program, bytes, meta_bytes, repeat, ifindex).map_err(|source| Error::Trial { bytes: bytes.len(), source })
    }
}

/// No interface in particular.
const LOOPBACK: u32 = 0;
/// So much metadata in front of a packet that there is no room for a mark: of the 256 bytes there the kernel keeps 40 for itself.
const MOST_META_BYTES: usize = 212;

/// Enters a socket for queue 0. It is bound to nothing, so nothing is ever handed to it.
fn with_socket(sockets: &impl MapCore, slot: u32) -> io::Result<OwnedFd> {
    // SAFETY: socket(2) takes no pointers.
    let raw = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if raw < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded, so this is an open descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(raw) };
    let entered = sockets.update(&slot.to_ne_bytes(), &raw.to_ne_bytes(), MapFlags::ANY);
    entered.map_err(|error| crate::error::io_error(&error))?;
    Ok(socket)
}

/// `packet` is a packet with so many bytes of metadata in front of it.
fn run(
    program: BorrowedFd<'_>,
    packet: &[u8],
    meta_bytes: usize,
    repeat: u32,
    ifindex: u32,
) -> io::Result<(Outcome, u32)> {
    let context_bytes = size_of::<libbpf_sys::xdp_md>() as u32;
    let mut context_in = libbpf_sys::xdp_md {
        data: meta_bytes as u32,
        data_end: packet.len() as u32,
        ingress_ifindex: ifindex,
        ..Default::default()
    };
    let mut context_out = libbpf_sys::xdp_md::default();
    let mut out = vec![0_u8; packet.len() + META_BYTES];
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as libbpf_sys::size_t,
        data_in: packet.as_ptr().cast(),
        data_size_in: packet.len() as u32,
        data_out: out.as_mut_ptr().cast(),
        data_size_out: out.len() as u32,
        ctx_in: (&raw mut context_in).cast(),
        ctx_size_in: context_bytes,
        ctx_out: (&raw mut context_out).cast(),
        ctx_size_out: context_bytes,
        repeat: repeat.max(1) as i32,
        ..Default::default()
    };
    // SAFETY: packet, `out` and both contexts outlive the call, and their sizes are given; the program's descriptor is
    // borrowed, hence open.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &mut options) };
    // What did not fit into `out` is of no interest: repetitions put ever more in front of the packet.
    if result < 0 && result != -libc::ENOSPC {
        return Err(io::Error::from_raw_os_error(-result));
    }
    let verdict = match options.retval {
        1 => Verdict::Drop,
        2 => Verdict::Pass,
        4 => Verdict::Redirect,
        other => Verdict::Other(other),
    };
    let before = (context_out.data as usize).min(out.len());
    let mut packet = out.split_off(before);
    packet.truncate((context_out.data_end - context_out.data) as usize);
    let mark = out.first_chunk_mut().and_then(take_mark);
    Ok((Outcome { verdict, mark, packet }, options.duration))
}
