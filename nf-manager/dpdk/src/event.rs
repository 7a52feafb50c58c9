//! What devices say unasked.

use std::ffi::{c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU8, Ordering};

use dpdk_sys as sys;

use crate::Port;

const RESET: u8 = 1;
const REMOVED: u8 = 2;

/// By port: what has been said and not been asked for yet. DPDK calls from a thread of its own, so there is nothing here
/// that has an end.
static SAID: [AtomicU8; sys::RTE_MAX_ETHPORTS as usize] = [const { AtomicU8::new(0) }; sys::RTE_MAX_ETHPORTS as usize];

/// The events that are asked for, with what is noted of each.
const EVENTS: [(sys::rte_eth_event_type, u8); 2] =
    [(sys::RTE_ETH_EVENT_INTR_RESET, RESET), (sys::RTE_ETH_EVENT_INTR_RMV, REMOVED)];

/// What a device has said since it was last asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Its physical function was reset, and with it the queues of this virtual one: it neither receives nor sends until it
    /// is stopped and started.
    pub reset: bool,
    /// It was taken out of the host.
    pub removed: bool,
}

unsafe extern "C" fn note(port: u16, event: sys::rte_eth_event_type, _: *mut c_void, _: *mut c_void) -> c_int {
    let what = EVENTS.iter().find(|(known, _)| *known == event).map_or(0, |(_, what)| *what);
    if let Some(said) = SAID.get(usize::from(port)) {
        said.fetch_or(what, Ordering::AcqRel);
    }
    0
}

/// Wants to be told. A device without events is asked in vain, so there is nothing to fail.
pub(crate) fn subscribe(port: u16) {
    SAID[usize::from(port)].store(0, Ordering::Release);
    for (event, _) in EVENTS {
        // SAFETY: the port is open; `note` takes any arguments and uses nothing that ends.
        unsafe { sys::rte_eth_dev_callback_register(port, event, Some(note), null_mut()) };
    }
}

pub(crate) fn unsubscribe(port: u16) {
    for (event, _) in EVENTS {
        // SAFETY: takes back what `subscribe` has asked for; waits for a call under way.
        unsafe { sys::rte_eth_dev_callback_unregister(port, event, Some(note), null_mut()) };
    }
}

impl Port {
    /// What the device has said since this was last called.
    pub fn take_events(&self) -> Events {
        let said = SAID[usize::from(self.id())].swap(0, Ordering::AcqRel);
        Events { reset: said & RESET != 0, removed: said & REMOVED != 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_noted_for_its_port() {
        let last = (sys::RTE_MAX_ETHPORTS - 1) as u16;
        // SAFETY: `note` takes any arguments.
        let say = |port, event| unsafe { note(port, event, null_mut(), null_mut()) };
        say(last, sys::RTE_ETH_EVENT_INTR_RESET);
        say(last - 1, sys::RTE_ETH_EVENT_INTR_LSC);
        say(u16::MAX, sys::RTE_ETH_EVENT_INTR_RMV);
        assert_eq!(SAID[usize::from(last)].swap(0, Ordering::AcqRel), RESET);
        assert_eq!(SAID[usize::from(last - 1)].load(Ordering::Acquire), 0);
    }
}
