//! `middlenet-bench l4l7`: chains of middlebox functions beside reverse proxies that do the same job.
//!
//! The job: spread requests over two servers in turn, and ask them for `/new/x` where the client asked for `/old/x`.
//!
//! ```text
//!   core 1                       core 0                           core 1
//!   wrk or ab, N connections --> a middlebox, all its processes --> two nginx with one worker each
//! ```
//!
//! | cases | what runs on core 0 | reference |
//! |---|---|---|
//! | `inline/proxy+rewrite/cN` | the message broker, which calls both functions | nginx |
//! | `skmsg/proxy+rewrite/cN`, `ring/proxy+rewrite/cN` | the broker and a process for each function | nginx |
//! | `peer/nginx/cN` | one nginx that does both, with one worker and kept connections to the servers | |
//! | `peer/haproxy/cN` | HAProxy, one thread, likewise | nginx |
//! | `peer/kvswitch/cN` | a namespace and an nginx for each function, joined by a Linux bridge | nginx |
//! | `.../ab/cN`, `.../ab-close/cN` | the same, under `ab` with and without keep-alive | nginx |
//! | `skmsg/burnerK/c512`, `ring/burnerK/c512` | a proxy and K functions that compute primes for every request | none |
//! | `hop/...` | see `hop.rs` | |
//! | `idle/skmsg` | broker and functions without traffic | none |
//!
//! N counts requests under way at a time. The servers answer 1,000 bytes and the path they were asked for, from memory.
//! `throughput` counts responses; `failed` those that were wrong, of the load generator's and of our own client's together,
//! which checks every byte (`verified` is how many it looked at); `cpu` is what the scheduler gave to the processes on core 0,
//! `load_cpu` to those on core 1. The kernel processes a packet that arrives over loopback or a veth cable in the sender's
//! time, so TCP's receive side of each is in the other's figure, and what it leaves to `ksoftirqd` in neither. When `load_cpu`
//! is near 1, the load is the limit: then compare `cpu_per_request`.

pub(crate) mod backends;
mod burner;
pub(crate) mod case;
mod charted;
pub(crate) mod generator;
pub(crate) mod haproxy;
mod hop;
mod idle;
mod kvswitch;
mod lineup;
mod middlebox;
pub(crate) mod nginx;
mod ours;
mod point;
mod ports;
mod report;
pub(crate) mod server;
mod sweep;
pub(crate) mod usage;
mod verify;

use crate::BenchError;
use crate::bench::{Bench, Options};
use crate::programs::Programs;

/// Name in results.
const BENCH: &str = "l4l7";
/// Core of the middlebox with all its processes.
const MIDDLEBOX_CORE: usize = 0;
/// Core of clients and servers.
const LOAD_CORE: usize = 1;

/// Measures, prints, writes.
///
/// # Errors
/// When the host cannot do it at all, or when a case failed: then after all others.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let mut bench = Bench::begin(BENCH, Programs::folder()?, options)?;
    sweep::measure(&mut bench)?;
    burner::measure(&mut bench)?;
    hop::measure(&mut bench)?;
    idle::measure(&mut bench)?;
    bench.end(options, report::text, charted::draw)
}
