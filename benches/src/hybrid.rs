//! `middlenet-bench hybrid`: functions with a fast path in the kernel, beside the programs that do the same without one. The
//! figures 4 to 7 of the eVNF paper, on one host.
//!
//! ```text
//!   core 1            core 0                                core 1
//!   client   ======   firewall   ======   balancer  ======  servers
//!                                or inspection
//! ```
//!
//! | cases | what runs | reference |
//! |---|---|---|
//! | `web/cN` | `efw` and `elb` in a box each; `wrk` keeps N connections to two nginx with an empty answer | iptables and HAProxy (layer 4) |
//! | `tailcall/cN` | `efw` and `elb` in one box, joined by tail call | in two boxes |
//! | `elephants/P` | `efw` and `edpi`, 4 TCP flows, of which P percent are elephants that leave `edpi` for its fast path | `elephants/0` |
//! | `elephants/ndpi` | the same without the fast path of `edpi` | `elephants/0` |
//! | `elephants/iptables+ndpi` | that with iptables in the first box | `elephants/0` |
//! | `all-slow` | `edpi` with a fast path in which there is never a rule | `edpi` without |
//! | `install` | rules that a function puts into the kernel in bulk | |
//!
//! All hosts are namespaces. Every device receives in a kernel thread of its own, which belongs to the host it is in: so a
//! box's `cpu` holds what the kernel does with its packets, XDP programs, netfilter and routing included, beside the processes.
//! All that takes part has the first place on its core. Where packets come to a box, its thread takes the core from the box's
//! programs, as an interrupt would; with clients and servers it waits for them, which makes the load cheaper.
//! No core halts meanwhile (`/dev/cpu_dma_latency`).

mod charted;
mod elephants;
mod filter;
mod install;
mod parties;
mod row;
mod transfers;
mod web;

use crate::BenchError;
use crate::awake::Awake;
use crate::bench::{Bench, Options};
use crate::priority::Raised;
use crate::programs::Programs;
use crate::report::lines;

/// Name in results.
const BENCH: &str = "hybrid";
/// Core of the boxes with everything in them.
const BOX_CORE: usize = 0;
/// Core of clients and servers.
const LOAD_CORE: usize = 1;
/// Cores used by others than those that take part, from which on a repetition counts as disturbed.
const DISTURBED: f64 = 0.1;
/// How often a disturbed repetition is measured.
const ATTEMPTS: usize = 3;

/// Measures, prints, writes.
///
/// # Errors
/// When the host cannot do it at all, or when a case failed: then after all others.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let mut bench = Bench::begin(BENCH, Programs::folder()?, options)?;
    // The devices' threads have it, too, so that shares among those that take part are what they would be.
    let raised = Raised::now()?;
    let awake = Awake::now();
    if awake.is_none() {
        bench
            .progress("cores may halt: /dev/cpu_dma_latency cannot be used, so ways that leave cores idle look slower");
    }
    web::measure(&mut bench)?;
    elephants::measure(&mut bench)?;
    install::measure(&mut bench)?;
    drop((raised, awake));
    bench.end(options, |host, entries| lines(host, entries), charted::draw)
}
