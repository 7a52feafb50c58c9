//! The control region: what the manager and one function instance share besides packets.

mod layout;
#[cfg(test)]
mod tests;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::{Consumer, Doorbell, EventDoorbell, Pages, Producer, Region, RingArea, ShmError};
pub use layout::{BOARD, COUNTERS, MAX_WORKERS};

/// The size of a control region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlGeometry {
    /// Workers of the manager; each has its own three rings. From 1 to [`MAX_WORKERS`].
    pub workers: u16,
    /// Slots per ring, a power of two; a ring holds one descriptor less.
    pub slots: u32,
}

/// What a function says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Attached, not yet ready for packets.
    Starting = 0,
    /// Taking packets.
    Running = 1,
    /// Finishing what it holds, because the manager asked it to stop.
    Draining = 2,
    /// Holds nothing and is about to exit.
    Stopped = 3,
}

impl State {
    /// The state of a word that a function wrote; `None` for a word that is no state.
    pub fn from_word(word: u32) -> Option<State> {
        [State::Starting, State::Running, State::Draining, State::Stopped].into_iter().find(|&s| s as u32 == word)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Manager,
    Function,
}

/// The rings of one worker, in their order in memory.
#[derive(Clone, Copy, Debug)]
enum Ring {
    ToFunction = 0,
    FromFunction = 1,
    Supply = 2,
}

impl Ring {
    const fn name(self) -> &'static str {
        match self {
            Ring::ToFunction => "to-function",
            Ring::FromFunction => "from-function",
            Ring::Supply => "supply",
        }
    }

    /// The side that writes the ring.
    fn writer(self) -> Side {
        match self {
            Ring::ToFunction | Ring::Supply => Side::Manager,
            Ring::FromFunction => Side::Function,
        }
    }
}

/// The control region of one function instance, seen from the side that made it or that opened it.
///
/// The manager makes it and relies on nothing in it: geometry and its own ring indexes are private copies. The function
/// trusts the manager, which owns the domain, and still checks that the header fits the memory.
///
/// Each end of each ring can be taken once, by the side to which it belongs.
#[derive(Debug)]
pub struct ControlRegion {
    region: Arc<Region>,
    geometry: ControlGeometry,
    side: Side,
    /// Which ends this side has taken, `worker * 3 + ring`.
    taken: Box<[AtomicBool]>,
}

impl ControlRegion {
    /// Makes the region and its empty rings: the manager's side.
    ///
    /// # Errors
    /// [`ShmError::Workers`] or [`ShmError::Slots`] for a geometry out of range; what [`Region::create`] says.
    pub fn create(name: &str, geometry: ControlGeometry) -> Result<Self, ShmError> {
        let bytes = layout::bytes(geometry)?;
        let region = Arc::new(Region::create(name, bytes, Pages::Auto)?);
        let control = Self::new(region, geometry, Side::Manager);
        for worker in 0..geometry.workers {
            for ring in [Ring::ToFunction, Ring::FromFunction, Ring::Supply] {
                control.area(worker, ring)?.init(&format!("{}-{worker}", ring.name()));
            }
        }
        layout::write_header(&control.region, geometry)?;
        Ok(control)
    }

    /// Opens a region that the manager made: the function's side.
    ///
    /// # Errors
    /// [`ShmError::Header`] when it is not a control region of this version, or does not fit its memory; what
    /// [`Region::open`] says.
    pub fn open(fd: OwnedFd) -> Result<Self, ShmError> {
        let region = Arc::new(Region::open(fd)?);
        let geometry = layout::read_header(&region)?;
        Ok(Self::new(region, geometry, Side::Function))
    }

    /// Opens a region that another process of the manager's side made with this geometry, which is not read from the
    /// memory: a function may have written there already. The ends it takes start at 0, so its rings must be unused: a manager
    /// that takes over from another makes new regions.
    ///
    /// # Errors
    /// [`ShmError::Workers`] or [`ShmError::Slots`] for a geometry out of range; [`ShmError::Header`] when the memory is
    /// too small for it; what [`Region::open`] says.
    pub fn adopt(fd: OwnedFd, geometry: ControlGeometry) -> Result<Self, ShmError> {
        let bytes = layout::bytes(geometry)?;
        let region = Arc::new(Region::open(fd)?);
        if region.length() < bytes {
            return Err(ShmError::Header {
                expected: layout::VERSION,
                found: format!("{} bytes, where its geometry needs {bytes}", region.length()),
            });
        }
        Ok(Self::new(region, geometry, Side::Manager))
    }

    fn new(region: Arc<Region>, geometry: ControlGeometry, side: Side) -> Self {
        let ends = usize::from(geometry.workers) * layout::RINGS_PER_WORKER;
        ControlRegion { region, geometry, side, taken: (0..ends).map(|_| AtomicBool::new(false)).collect() }
    }

    /// The file descriptor to pass to the function.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.region.fd()
    }

    /// The memory behind the region.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// This side's own copy of the geometry.
    pub fn geometry(&self) -> ControlGeometry {
        self.geometry
    }

    /// Counts up while the function is alive; written by the function.
    pub fn heartbeat(&self) -> &AtomicU64 {
        self.word64(layout::HEARTBEAT)
    }

    /// Buffers that the function holds on purpose; written by the function.
    pub fn held(&self) -> &AtomicU64 {
        self.word64(layout::HELD)
    }

    /// The function's [`State`]; written by the function, so the manager reads it with [`State::from_word`].
    pub fn state(&self) -> &AtomicU32 {
        self.word32(layout::STATE)
    }

    /// Not 0: the function is to drain and exit; written by the manager.
    pub fn stop(&self) -> &AtomicU32 {
        self.word32(layout::STOP)
    }

    /// Not 0: a message waits on the function's socket; set by the manager, cleared by the function.
    pub fn attention(&self) -> &AtomicU32 {
        self.word32(layout::ATTENTION)
    }

    /// The time of a run whose clock is logical, in ns; 0: use real time. Written by the manager.
    pub fn clock_ns(&self) -> &AtomicU64 {
        self.word64(layout::CLOCK_NS)
    }

    /// The function's counters, [`COUNTERS`] of them; written by the function, which describes them elsewhere.
    pub fn counters(&self) -> &[AtomicU64] {
        self.region.words64(layout::COUNTERS_OFFSET, COUNTERS).expect("the counters lie in the checked header page")
    }

    /// The state of the function's upstreams, [`BOARD`] words; written by the broker. What a word means is the SDK's.
    pub fn board(&self) -> &[AtomicU64] {
        self.region.words64(layout::BOARD_OFFSET, BOARD).expect("the board lies in the checked header page")
    }

    /// Wake-ups that the function found lost; written by the function.
    pub fn late_wakeups(&self) -> &AtomicU32 {
        self.word32(layout::LATE_WAKEUPS)
    }

    /// The doorbell on which the function sleeps.
    pub fn function_doorbell(&self) -> Doorbell {
        self.doorbell(layout::FUNCTION_DOORBELL)
    }

    /// The doorbell on which `worker` of the manager sleeps, with the eventfd if that is where it sleeps.
    ///
    /// # Errors
    /// [`ShmError::NoWorker`].
    pub fn manager_doorbell(&self, worker: u16, event: Option<OwnedFd>) -> Result<EventDoorbell, ShmError> {
        self.check_worker(worker)?;
        Ok(EventDoorbell::new(self.doorbell(layout::manager_doorbell(worker)), event))
    }

    /// Manager: where `worker` puts packets for the function.
    ///
    /// # Errors
    /// Here and in the other five: [`ShmError::NoWorker`], [`ShmError::OtherSide`], [`ShmError::Taken`].
    pub fn to_function_producer(&self, worker: u16) -> Result<Producer, ShmError> {
        self.producer(worker, Ring::ToFunction)
    }

    /// Function: where packets come from `worker`.
    ///
    /// # Errors
    /// As [`to_function_producer`](Self::to_function_producer).
    pub fn to_function_consumer(&self, worker: u16) -> Result<Consumer, ShmError> {
        self.consumer(worker, Ring::ToFunction)
    }

    /// Function: where packets go back to `worker`.
    ///
    /// # Errors
    /// As [`to_function_producer`](Self::to_function_producer).
    pub fn from_function_producer(&self, worker: u16) -> Result<Producer, ShmError> {
        self.producer(worker, Ring::FromFunction)
    }

    /// Manager: where `worker` finds what the function gave back.
    ///
    /// # Errors
    /// As [`to_function_producer`](Self::to_function_producer).
    pub fn from_function_consumer(&self, worker: u16) -> Result<Consumer, ShmError> {
        self.consumer(worker, Ring::FromFunction)
    }

    /// Manager: where `worker` puts empty buffers for packets that the function makes.
    ///
    /// # Errors
    /// As [`to_function_producer`](Self::to_function_producer).
    pub fn supply_producer(&self, worker: u16) -> Result<Producer, ShmError> {
        self.producer(worker, Ring::Supply)
    }

    /// Function: where empty buffers come from `worker`.
    ///
    /// # Errors
    /// As [`to_function_producer`](Self::to_function_producer).
    pub fn supply_consumer(&self, worker: u16) -> Result<Consumer, ShmError> {
        self.consumer(worker, Ring::Supply)
    }

    fn producer(&self, worker: u16, ring: Ring) -> Result<Producer, ShmError> {
        let area = self.take(worker, ring, true)?;
        Ok(match self.side {
            Side::Manager => area.producer(),
            Side::Function => area.producer_here(),
        })
    }

    fn consumer(&self, worker: u16, ring: Ring) -> Result<Consumer, ShmError> {
        let area = self.take(worker, ring, false)?;
        Ok(match self.side {
            Side::Manager => area.consumer(),
            Side::Function => area.consumer_here(),
        })
    }

    /// Each side has one end of each ring, so one flag per ring will do.
    fn take(&self, worker: u16, ring: Ring, to_write: bool) -> Result<RingArea, ShmError> {
        self.check_worker(worker)?;
        if (ring.writer() == self.side) != to_write {
            return Err(ShmError::OtherSide { ring: ring.name() });
        }
        let area = self.area(worker, ring)?;
        let end = usize::from(worker) * layout::RINGS_PER_WORKER + ring as usize;
        if self.taken[end].swap(true, Ordering::Relaxed) {
            return Err(ShmError::Taken { ring: ring.name(), worker });
        }
        Ok(area)
    }

    fn area(&self, worker: u16, ring: Ring) -> Result<RingArea, ShmError> {
        let offset = layout::ring(self.geometry.slots, worker, ring as usize);
        RingArea::new(self.region.clone(), offset, self.geometry.slots)
    }

    fn check_worker(&self, worker: u16) -> Result<(), ShmError> {
        if worker < self.geometry.workers { Ok(()) } else { Err(ShmError::NoWorker(worker)) }
    }

    fn doorbell(&self, offset: usize) -> Doorbell {
        Doorbell::new(self.region.clone(), offset).expect("doorbells lie in the checked head of the region")
    }

    fn word32(&self, offset: usize) -> &AtomicU32 {
        self.region.word32(offset).expect("the word lies in the checked header page")
    }

    fn word64(&self, offset: usize) -> &AtomicU64 {
        &self.region.words64(offset, 1).expect("the word lies in the checked header page")[0]
    }
}
