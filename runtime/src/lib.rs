//! The `middlenet` command: from a manifest to running chains, and everything a person asks of them.
//!
//! ```text
//!   text --yaml--> Node --manifest--> Manifest --check--> Plan --supervisor--> processes
//!                  (spans)            (form)              (valid, pure)        (the only side effects)
//! ```
//!
//! **Architecture invariant:** planning touches nothing; only `supervisor` and `kernel_port` change the host. Nothing here links
//! DPDK: the data plane is the `middlenet-nf-manager` process.

#![forbid(unsafe_code)]

pub mod check;
pub mod diagnostic;
pub mod machine;
pub mod manifest;
pub mod plan;
pub mod schema;
mod validate;
pub mod yaml;
