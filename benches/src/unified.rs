//! `middlenet-bench unified`: packets and requests on one interface, and what it costs to tell them apart. The paper's figure 13.
//!
//! | cases | what runs | reference |
//! |---|---|---|
//! | `steer/rulesN` | N rules in XDP in front of an AF_XDP socket; a mix of packets that meet the first rule, the last, any and none | every packet redirected by XDP |
//! | `steer/rulesN/frames` | the same with packets that are XDP frames already, as from a NIC's driver | likewise |
//! | `steer/rulesN/first`, `/last`, `/random`, `/none` | the BPF programs alone on such packets | likewise |
//! | `aggregate/SIZE` | packets of SIZE bytes through a chain and requests through another by one interface | an interface each |
//! | `aggregate/SIZE/packets`, `/responses` | the parts of that sum | likewise |
//! | `join` | by how much packets become fewer while there are requests | an interface each |
//! | `join/LAYOUT/LOAD/SECOND` | the time series | |
//! | `replace/rules1000` | 1,000 rules replaced again and again while packets pass | |
//!
//! SIZE counts the FCS. In `steer` all threads have the first place on their cores: beside others on the host the figures would
//! be those of a part of a core. In the other cases they do not, as the kernel's own threads receive packets there.

mod aggregate;
mod charted;
mod join;
mod lane;
mod replace;
mod report;
mod rules;
mod site;
mod source;
mod steer;

use crate::BenchError;
use crate::bench::{Bench, Options};
use crate::programs::Programs;

/// Name in results.
const BENCH: &str = "unified";
/// Core of the interface and of what runs on the box.
const BOX_CORE: usize = 0;
/// Core of whoever sends, and of whoever takes what was sent.
const LOAD_CORE: usize = 1;

/// Measures, prints, writes.
///
/// # Errors
/// When the host cannot do it at all, or when a case failed: then after all others.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let mut bench = Bench::begin(BENCH, Programs::folder()?, options)?;
    steer::measure(&mut bench)?;
    aggregate::measure(&mut bench)?;
    join::measure(&mut bench)?;
    replace::measure(&mut bench)?;
    bench.end(options, report::text, charted::draw)
}
