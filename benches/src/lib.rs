//! The measuring harness: runs the built programs as an operator would, against peers on the same host in the same run.
//!
//! ```text
//!   l2l3, l4l7, unified, hybrid, demo      what is measured or shown
//!     hops              the same descriptors round and round, without a runtime: what a hop by itself costs
//!     run, testpmd, ring_pipeline, stage     a run of the runtime; peers; namespaces with traffic
//!     input, sample, statistics              pure: packets and routes, counters to figures, repetitions to a value
//!   outcome, table, report, charts           results as JSON, for a terminal, as pictures
//! ```
//!
//! **Architecture invariant:** nothing here reaches into the data plane. Figures come from `middlenet`'s status, from the
//! kernel's counters and from the peers' own output; `hops` and the lanes of `unified` use its building blocks by themselves.

#![forbid(unsafe_code)]

mod awake;
pub mod bench;
pub mod charts;
pub mod clock;
pub mod cpu;
pub mod demo;
mod error;
pub mod hops;
pub mod hybrid;
pub mod input;
pub mod l2l3;
pub mod l4l7;
pub mod lifetime;
mod napi;
pub mod outcome;
mod priority;
pub mod programs;
mod report;
pub mod ring_pipeline;
pub mod run;
pub mod sample;
pub mod sender;
pub mod stage;
pub mod statistics;
pub mod table;
pub mod testpmd;
mod tool;
pub mod unified;
pub mod work_folder;

pub use error::BenchError;
