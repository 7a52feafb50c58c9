//! The catalogue of built-in network functions: one module per function, each with its purpose, configuration, counters and
//! limits in the module's documentation.
//!
//! A function here is an ordinary [`NetworkFunction`](middlenet_sdk::NetworkFunction) of packets, or
//! [`MiddleboxFunction`](middlenet_sdk::middlebox::MiddleboxFunction) of requests and streams: nothing in this crate knows of
//! ports, sockets, rings or processes. [`registry()`] is how hosts find them by name.

#![forbid(unsafe_code)]

pub mod access_log;
#[cfg(test)]
mod applied;
pub mod balance;
mod cookies;
pub mod cpu_burner;
#[cfg(feature = "ndpi")]
pub mod edpi;
pub mod efw;
pub mod elb;
mod field_name;
pub mod firewall;
pub mod flow_stats;
mod flow_table;
pub mod header_edit;
mod header_text;
mod host_name;
pub mod http_rate_limit;
pub mod l2_bridge;
pub mod l2_forward;
pub mod l3_router;
mod link_address;
mod log_file;
pub mod monitor;
pub mod nat;
mod path_pattern;
pub mod rate_limiter;
mod registry;
mod request_key;
pub mod reverse_proxy;
pub mod router;
pub mod tcp_proxy;
pub mod url_rewrite;

pub use link_address::LinkAddress;
pub use registry::registry;
pub use request_key::RequestKey;
