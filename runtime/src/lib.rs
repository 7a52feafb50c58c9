//! The `middlenet` command: from a manifest to running chains, and everything a person asks of them.
//!
//! ```text
//!   text --yaml--> Node --manifest--> Manifest --check--> Plan --supervisor--> processes
//!                  (spans)            (form)              (valid, pure)        (the only side effects)
//! ```
//!
//! **Architecture invariant:** planning touches nothing; only `supervisor`, `kernel_port` and the `sriov` crate change the host. Nothing here links
//! DPDK: the data plane is the `middlenet-nf-manager` process.

#![forbid(unsafe_code)]

pub mod api;
pub mod check;
pub mod claim;
pub mod cli;
pub mod confine;
pub mod diagnostic;
pub mod doctor;
pub mod domain;
pub mod kernel_port;
mod lock;
pub mod machine;
pub mod manifest;
pub mod other_runs;
pub mod plan;
pub mod render;
pub mod run_folder;
pub mod schema;
pub mod supervisor;
mod validate;
pub mod yaml;
