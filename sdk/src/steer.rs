//! How a function sends a flow another way than the manifest's steering rules do.

use crate::wire::FlowKey;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::time::Duration;

/// Where a function may steer flows, from [`crate::Init::steering`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SteerTarget(pub u8);

/// A flow, in one direction, that a function steers from now on, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SteeredFlow {
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Source port; 0 without.
    pub src_port: u16,
    /// Destination port; 0 without.
    pub dst_port: u16,
    /// VLAN identifier; 0 if untagged.
    pub vlan: u16,
    /// Protocol.
    pub protocol: u8,
    /// Which of the function's targets; nothing: by the manifest's rules again.
    pub to: Option<u8>,
    /// For how long, in milliseconds.
    pub lifetime_ms: u64,
}

impl SteeredFlow {
    pub(crate) fn new(flow: &FlowKey, to: Option<SteerTarget>, lifetime: Duration) -> Self {
        Self {
            src: flow.src_ip(),
            dst: flow.dst_ip(),
            src_port: flow.src_port,
            dst_port: flow.dst_port,
            vlan: flow.vid,
            protocol: flow.protocol,
            to: to.map(|target| target.0),
            lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
        }
    }
}
