use std::ffi::{CStr, c_uint};

use dpdk_sys as sys;

use crate::error::check;
use crate::{DpdkError, Port};

/// What a port has counted since it was opened or its counters were reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Packets received.
    pub received_pkts: u64,
    /// Packets sent.
    pub sent_pkts: u64,
    /// Bytes received, without the checksum of the Ethernet frame.
    pub received_bytes: u64,
    /// Bytes sent, without the checksum of the Ethernet frame.
    pub sent_bytes: u64,
    /// Packets the device dropped because no receive descriptor was free: the worker polled too seldom.
    pub missed_pkts: u64,
    /// Packets received in error.
    pub receive_errors: u64,
    /// Packets that failed to be sent.
    pub send_errors: u64,
    /// Receive buffers that could not be refilled because the pool was empty.
    pub no_buffer: u64,
}

/// One of a device's own counters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xstat {
    /// The driver's name for it.
    pub name: String,
    /// Its value.
    pub value: u64,
}

impl Port {
    /// The port's counters.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the driver has none.
    pub fn stats(&self) -> Result<Stats, DpdkError> {
        // SAFETY: a structure of integers.
        let mut stats: sys::rte_eth_stats = unsafe { std::mem::zeroed() };
        // SAFETY: the port is open; the call fills the structure.
        check("rte_eth_stats_get", unsafe { sys::rte_eth_stats_get(self.id(), &mut stats) })?;
        Ok(Stats {
            received_pkts: stats.ipackets,
            sent_pkts: stats.opackets,
            received_bytes: stats.ibytes,
            sent_bytes: stats.obytes,
            missed_pkts: stats.imissed,
            receive_errors: stats.ierrors,
            send_errors: stats.oerrors,
            no_buffer: stats.rx_nombuf,
        })
    }

    /// Sets the port's counters to zero.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the driver cannot.
    pub fn reset_stats(&self) -> Result<(), DpdkError> {
        // SAFETY: the port is open.
        check("rte_eth_stats_reset", unsafe { sys::rte_eth_stats_reset(self.id()) }).map(drop)
    }

    /// All counters the driver has, by its own names.
    ///
    /// # Errors
    /// [`DpdkError::Call`] when the driver has none.
    pub fn xstats(&self) -> Result<Vec<Xstat>, DpdkError> {
        // SAFETY: with no room given, the call returns how many there are.
        let count = unsafe { sys::rte_eth_xstats_get_names(self.id(), std::ptr::null_mut(), 0) };
        let count = check("rte_eth_xstats_get_names", count)? as usize;
        // SAFETY: structures of integers and characters.
        let mut names: Vec<sys::rte_eth_xstat_name> = vec![unsafe { std::mem::zeroed() }; count];
        let mut values = vec![sys::rte_eth_xstat { id: 0, value: 0 }; count];
        // SAFETY: both have room for `count` entries, and the calls are told so.
        let (named, valued) = unsafe {
            (
                sys::rte_eth_xstats_get_names(self.id(), names.as_mut_ptr(), count as c_uint),
                sys::rte_eth_xstats_get(self.id(), values.as_mut_ptr(), count as c_uint),
            )
        };
        let named = check("rte_eth_xstats_get_names", named)? as usize;
        let valued = check("rte_eth_xstats_get", valued)? as usize;
        names.truncate(named.min(count));
        values.truncate(valued.min(count));
        let name = |value: &sys::rte_eth_xstat| {
            let name = names.get(value.id as usize)?;
            // SAFETY: DPDK terminates the names, which lie inside `names`.
            Some(unsafe { CStr::from_ptr(name.name.as_ptr()) }.to_string_lossy().into_owned())
        };
        Ok(values.iter().filter_map(|v| Some(Xstat { name: name(v)?, value: v.value })).collect())
    }
}
