//! How the load of a server is asked for.

mod http;
mod snmp;

pub use http::HttpLoad;
pub use snmp::{Metric, SnmpLoad};

pub(super) use http::Exchange;
#[cfg(test)]
pub(super) use snmp::response;
