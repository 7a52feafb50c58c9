//! What a hop costs: descriptors go round broker -> A -> B -> broker, with nothing done to them on the way.
//!
//! ```text
//!   skmsg   broker ==> A ==> B ==> broker                   three messages, from function to function
//!   ring    broker ==> A ==> broker ==> B ==> broker        the broker checks between functions, so four rings
//! ```
//!
//! Broker and functions are processes of their own, as in a domain. The broker is the calling one; the functions are the
//! same program, started again: it must call [`serve_if_asked`] before it does anything else.

mod laps;
mod ring;
mod skmsg;

use std::env;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;

use crate::BenchError;

/// Set for the functions: what they are to do.
const ROLE: &str = "MIDDLENET_BENCH_HOP";
const RING: &str = "ring";
/// Hops of a round, in either case.
const HOPS: usize = 3;

/// What one run measured.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct HopResult {
    /// Hops of single descriptors, all of them together.
    pub hops_per_second: f64,
    /// A third of the time around, in the middle.
    pub latency_p50_ns: f64,
    /// A third of the time around that one in a hundred exceeds.
    pub latency_p99_ns: f64,
    /// Processors kept busy by the three processes.
    pub cpu: f64,
}

impl HopResult {
    /// Time on a processor that one hop of one descriptor costs. Other load on the host changes it least.
    pub fn cpu_ns_per_hop(&self) -> f64 {
        self.cpu * 1e9 / self.hops_per_second
    }
}

/// Over SK_MSG, with the filter or without it.
///
/// # Errors
/// What the kernel refuses; needs root.
pub fn skmsg(checked: bool, in_flight: usize, seconds: f64) -> Result<HopResult, BenchError> {
    skmsg::run(checked, in_flight, seconds)
}

/// Over rings with doorbells, checked by the broker.
///
/// # Errors
/// What the kernel refuses.
pub fn ring(in_flight: usize, seconds: f64) -> Result<HopResult, BenchError> {
    ring::run(in_flight, seconds)
}

/// Plays a function if this process was started as one, and says whether it did.
///
/// # Errors
/// What the kernel refuses.
pub fn serve_if_asked() -> Result<bool, BenchError> {
    let Ok(role) = env::var(ROLE) else { return Ok(false) };
    // A broker that is killed cannot end its functions.
    set_pdeathsig(Signal::SIGKILL).map_err(failed("prctl"))?;
    if role == RING {
        ring::serve()?;
    } else {
        let next = role.parse().map_err(|_| BenchError::Failed(format!("{ROLE}={role} names no function")))?;
        skmsg::serve(next)?;
    }
    Ok(true)
}

/// A function of this run.
struct Function(Child);

impl Function {
    /// Starts one whose standard input is its connection.
    fn start(role: &str, connection: OwnedFd) -> Result<Self, BenchError> {
        let program = env::current_exe().map_err(failed("own program"))?;
        let mut command = Command::new(program);
        command.env(ROLE, role).stdin(Stdio::from(connection));
        Ok(Self(command.spawn().map_err(failed("starting a function"))?))
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Function {
    /// It was told to end before, or there was an error and it is no loss.
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn failed<E: std::fmt::Display>(what: &str) -> impl FnOnce(E) -> BenchError {
    move |error| BenchError::Failed(format!("{what}: {error}"))
}
