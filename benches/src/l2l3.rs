//! `middlenet-bench l2l3`: chains of packet functions against the limits of the host.
//!
//! | cases | what runs | reference |
//! |---|---|---|
//! | `inline/router+l2fwd/SIZE` | `l3-router` with 10,000 routes and `l2-forward`, called by one worker on core 0; 4,096 random destinations from a capture played without end, into a null device | testpmd, same devices |
//! | `process/router+l2fwd/SIZE` | the same functions as two processes on core 1, the manager on core 0 | none |
//! | `inline/trivial2/SIZE` | `l2-forward` twice between null devices | testpmd, same devices |
//! | `process/trivial2/SIZE` | TTL and address rewriting, unchecked, as two processes on core 1 | the same pipeline in C on `rte_ring` |
//! | `inline/chainN/64`, `process/chainN/64` | N times `l2-forward` between null devices | none |
//! | `overload/process` | see `overload.rs` | its own peak |
//! | `idle/auto`, `attach`, `restart`, `restart/kills` | see `lifecycle.rs` | none |
//!
//! SIZE counts the FCS, as RFC 2544 does. Sources never pause, so a chain is always at its limit, and hop latency is that
//! of full rings: what a burst waits behind those before it. `cycles_per_packet` are those of the manager's worker.

mod charted;
mod lifecycle;
mod overload;
mod report;
mod subject;
mod throughput;

use crate::BenchError;
use crate::bench::{Bench, Options};
use crate::programs::Programs;

/// Name in results.
const BENCH: &str = "l2l3";
/// Core of the manager's worker.
const MANAGER_CORE: usize = 0;
/// Core of function processes.
const FUNCTION_CORE: usize = 1;

/// Measures, prints, writes.
///
/// # Errors
/// When the host cannot do it at all, or when a case failed: then after all others.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let mut bench = Bench::begin(BENCH, Programs::find()?, options)?;
    throughput::measure(&mut bench)?;
    overload::measure(&mut bench)?;
    lifecycle::measure(&mut bench)?;
    bench.end(options, report::text, charted::draw)
}
