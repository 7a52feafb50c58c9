//! Where things lie in a control region.
//!
//! ```text
//!     0  magic, version, workers, slots, offset and stride of the rings      written once
//!    64  heartbeat, held, state, late wake-ups                                function
//!   128  stop, attention, clock                                              manager
//!   192  function's doorbell                                                 both
//!   512  board: the state of upstreams                                       broker
//!  2048  counters                                                            function
//!  4096  doorbells of the manager's workers, a cache line each               both
//!  8192  rings: worker 0 to-function, from-function, supply; worker 1 ...
//! ```

use std::sync::atomic::Ordering;

use super::ControlGeometry;
use crate::{Region, RingArea, ShmError};

/// Counters of a function.
pub const COUNTERS: usize = 256;

/// Words of the board, one per upstream that a function may declare.
pub const BOARD: usize = 128;

/// Most workers that one control region serves.
pub const MAX_WORKERS: u16 = 64;

/// "MIDLNET" and a digit, read as a little-endian number.
const MAGIC: u64 = u64::from_le_bytes(*b"MIDLNET\x31");
pub(super) const VERSION: u32 = 1;

const MAGIC_OFFSET: usize = 0;
const VERSION_OFFSET: usize = 8;
const WORKERS: usize = 12;
const SLOTS: usize = 16;
const RINGS_AT: usize = 20;
const RING_STRIDE: usize = 24;

pub(super) const HEARTBEAT: usize = 64;
pub(super) const HELD: usize = 72;
pub(super) const STATE: usize = 80;
pub(super) const LATE_WAKEUPS: usize = 84;
pub(super) const STOP: usize = 128;
pub(super) const ATTENTION: usize = 132;
pub(super) const CLOCK_NS: usize = 136;
pub(super) const FUNCTION_DOORBELL: usize = 192;
pub(super) const BOARD_OFFSET: usize = 512;
pub(super) const COUNTERS_OFFSET: usize = 2048;
const MANAGER_DOORBELLS: usize = 4096;
const CACHE_LINE: usize = 64;
const RINGS: usize = 8192;

pub(super) const RINGS_PER_WORKER: usize = 3;

const _: () = assert!(BOARD_OFFSET + BOARD * 8 <= COUNTERS_OFFSET);
const _: () = assert!(COUNTERS_OFFSET + COUNTERS * 8 <= MANAGER_DOORBELLS);
const _: () = assert!(MANAGER_DOORBELLS + MAX_WORKERS as usize * CACHE_LINE <= RINGS);

/// Offset of the doorbell of `worker`, which is below [`MAX_WORKERS`].
pub(super) fn manager_doorbell(worker: u16) -> usize {
    MANAGER_DOORBELLS + usize::from(worker) * CACHE_LINE
}

/// Bytes from one ring to the next. Not a multiple of the page size, so that the rings' indexes do not all
/// compete for one set of the cache; the prefetcher's pairs of lines are kept apart.
fn stride(slots: u32) -> usize {
    RingArea::bytes(slots).next_multiple_of(2 * CACHE_LINE)
}

/// Offset of a ring of `worker`.
pub(super) fn ring(slots: u32, worker: u16, ring: usize) -> usize {
    RINGS + (usize::from(worker) * RINGS_PER_WORKER + ring) * stride(slots)
}

/// Bytes of a region of this geometry, once it is found in range.
pub(super) fn bytes(geometry: ControlGeometry) -> Result<usize, ShmError> {
    let ControlGeometry { workers, slots } = geometry;
    if !(1..=MAX_WORKERS).contains(&workers) {
        return Err(ShmError::Workers(workers));
    }
    if !slots.is_power_of_two() || !(2..=1 << 20).contains(&slots) {
        return Err(ShmError::Slots(slots));
    }
    Ok(ring(slots, workers, 0))
}

/// Writes the header, the magic last.
pub(super) fn write_header(region: &Region, geometry: ControlGeometry) -> Result<(), ShmError> {
    let put = |at: usize, value: u32| region.word32(at).map(|w| w.store(value, Ordering::Relaxed));
    put(VERSION_OFFSET, VERSION)?;
    put(WORKERS, geometry.workers.into())?;
    put(SLOTS, geometry.slots)?;
    put(RINGS_AT, RINGS as u32)?;
    put(RING_STRIDE, stride(geometry.slots) as u32)?;
    region.words64(MAGIC_OFFSET, 1)?[0].store(MAGIC, Ordering::Release);
    Ok(())
}

/// Reads a header once, and checks the copy.
pub(super) fn read_header(region: &Region) -> Result<ControlGeometry, ShmError> {
    let wrong = |found: String| ShmError::Header { expected: VERSION, found };
    if region.length() < RINGS {
        return Err(wrong(format!("{} bytes", region.length())));
    }
    let magic = region.words64(MAGIC_OFFSET, 1)?[0].load(Ordering::Acquire);
    if magic != MAGIC {
        return Err(wrong(format!("magic {magic:#x}")));
    }
    let get = |at: usize| region.word32(at).map(|w| w.load(Ordering::Relaxed));
    let version = get(VERSION_OFFSET)?;
    if version != VERSION {
        return Err(wrong(format!("version {version}")));
    }
    let (workers, slots) = (get(WORKERS)?, get(SLOTS)?);
    let geometry = ControlGeometry { workers: u16::try_from(workers).unwrap_or(u16::MAX), slots };
    let needed = bytes(geometry).map_err(|e| wrong(e.to_string()))?;
    if needed > region.length() {
        return Err(wrong(format!("{workers} workers with rings of {slots} slots in {} bytes", region.length())));
    }
    Ok(geometry)
}
