//! Fast paths of functions in the kernel.

use middlenet_fast_path::{Mode, Shape};
use serde::{Deserialize, Serialize};

/// The fast path of a hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FastPathPlan {
    /// How it works.
    pub mode: Mode,
    /// What it can hold.
    pub shape: Shape,
}

/// What a hop's fast path did. `entered` is counted at the chain's first hop, so that over the hops of a chain entered = sent + replied
/// + dropped + slow path + kernel.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FastPathStats {
    /// How it works.
    pub mode: String,
    /// Packets that entered the chain here.
    pub entered: u64,
    /// Packets that a rule decided about here.
    pub hits: u64,
    /// Packets that left the chain here by a port.
    pub sent: u64,
    /// Packets that were dropped here.
    pub dropped: u64,
    /// Packets that went to the slow path here, by reason.
    pub slow: Vec<(String, u64)>,
    /// Packets that went to the kernel's own stack here, by reason.
    pub kernel: Vec<(String, u64)>,
    /// Connections that it remembered by itself.
    pub learned: u64,
}
