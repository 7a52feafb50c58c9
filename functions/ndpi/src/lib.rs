//! Which application the packets of a flow belong to, found by [nDPI](https://www.ntop.org/products/deep-packet-inspection/ndpi/).
//!
//! A [`Detector`] is shown the packets of flows, from the IP header on, and keeps what it has seen of each in a [`Flow`]:
//!
//! ```
//! use middlenet_ndpi::{Detector, Flow, Options};
//!
//! let mut detector = Detector::new(&Options::default(), None)?;
//! let mut flow = Flow::new().expect("memory for a flow");
//! let nothing = detector.packet(&mut flow, &[], 0);
//! assert!(!nothing.is_known());
//! assert_eq!(detector.protocol_name(7), "HTTP");
//! # Ok::<(), middlenet_ndpi::Error>(())
//! ```
//!
//! **Trust.** nDPI is a large C library that parses what strangers send. It is given a copy of each packet, so that nobody can change
//! the bytes while it reads them, with zeros behind, so that a short step beyond the end reads zeros. What else it may do wrong
//! is the process's own loss: let it run in a confined one.
//!
//! **Threads.** A detector works for one thread at a time and may move between threads. nDPI cannot make two at once, so making and
//! dropping them is serialised.

mod bindings;
mod detector;
mod flow;
pub mod samples;
mod signatures;

pub use detector::{Classification, Confidence, Detector, Options};
pub use flow::Flow;

use std::path::PathBuf;

/// Why there is no detector.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// nDPI could not be set up: there is not enough memory.
    #[error("nDPI could not be set up for want of memory")]
    Memory,
    /// The file of signatures cannot be read.
    #[error("the signatures in {path} cannot be read: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line of the file of signatures is no rule. nDPI itself passes over such lines in silence.
    #[error("line {line} of {path} {problem}")]
    Signature {
        /// The file.
        path: PathBuf,
        /// The line, from 1 on.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
}
