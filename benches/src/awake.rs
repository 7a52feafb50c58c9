//! Cores that do not halt while something is measured.

use std::fs::{File, OpenOptions};
use std::io::Write;

/// The kernel's request for how soon a core must work again, in microseconds (its PM QoS documentation).
const LATENCY: &str = "/dev/cpu_dma_latency";

/// Cores without work poll for it until this is dropped. A halted core takes up to tens of microseconds to wake, on a virtual
/// machine above all: more than many of the ways measured take altogether. So one that does little, and whose core halts often,
/// would look slower than one that keeps its core busy.
#[derive(Debug)]
pub(crate) struct Awake {
    _request: File,
}

impl Awake {
    /// From now on; nothing where the kernel takes no such requests.
    pub(crate) fn now() -> Option<Self> {
        let mut request = OpenOptions::new().write(true).open(LATENCY).ok()?;
        request.write_all(&0_i32.to_ne_bytes()).ok()?;
        Some(Self { _request: request })
    }
}
