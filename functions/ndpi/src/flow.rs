//! What nDPI keeps of one flow.

use std::ptr::NonNull;

use crate::Classification;
use crate::bindings::{RawFlow, middlenet_ndpi_flow_free, middlenet_ndpi_flow_new};

/// What nDPI has seen of one flow, both its directions: about a kilobyte, and more with some protocols. Its memory is freed
/// when it is dropped.
#[derive(Debug)]
pub struct Flow {
    raw: NonNull<RawFlow>,
    pub(crate) seen: Seen,
}

/// What the packets of a flow must have in common: nDPI keeps different things in one place for TCP and for UDP, and trusts its
/// caller not to mix them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    Nothing,
    Packets {
        /// The detector that was shown them.
        detector: u64,
        /// IP version and protocol.
        kind: i32,
    },
    /// No more packets are to be shown.
    Over(Classification),
}

// SAFETY: a flow's memory is nDPI's heap memory, reached by nobody else and tied to no thread.
unsafe impl Send for Flow {}

impl Flow {
    /// A flow of which nothing has been seen; nothing if there is no memory for it.
    pub fn new() -> Option<Self> {
        // SAFETY: the function takes nothing, and returns memory of its own or null.
        let raw = unsafe { middlenet_ndpi_flow_new() };
        NonNull::new(raw).map(|raw| Self { raw, seen: Seen::Nothing })
    }

    pub(crate) fn raw(&mut self) -> *mut RawFlow {
        self.raw.as_ptr()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        // SAFETY: the pointer came from `middlenet_ndpi_flow_new` and is freed once; a detector keeps no pointer to a flow
        // beyond the call that was handed it.
        unsafe { middlenet_ndpi_flow_free(self.raw.as_ptr()) }
    }
}
