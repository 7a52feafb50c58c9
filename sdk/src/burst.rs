//! The packets a function is handed, and what it may do with each.

use crate::wire::FlowKey;
use crate::{BURST, DropReason, Output, Port, SteerTarget, SteeredFlow, Verdict};
use middlenet_shm::{Buffers, Descriptor};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// Flows that a function may steer in one burst.
pub const STEERED: usize = 256;
/// Bytes kept free in front of a packet that a function makes, for headers that later hops prepend.
const HEADROOM_BYTES: u16 = 256;

/// Up to [`BURST`] packets, each with the verdict [`Verdict::Next`] until another is set.
#[derive(Debug)]
pub struct Burst<'a> {
    buffers: &'a Buffers,
    descriptors: &'a mut [Descriptor],
    state: &'a mut BurstState,
}

impl<'a> Burst<'a> {
    /// For hosts: a burst over descriptors this side holds, whose verdicts are [`Verdict::Next`].
    #[inline]
    pub fn new(buffers: &'a Buffers, descriptors: &'a mut [Descriptor], state: &'a mut BurstState) -> Self {
        debug_assert!(descriptors.iter().all(|d| (d.verdict, d.argument) == Verdict::Next.encode()));
        Self { buffers, descriptors, state }
    }

    /// Packets in the burst.
    #[inline]
    pub fn len(&self) -> usize {
        self.descriptors.len()
    }

    /// Whether there is none, as in [`crate::NetworkFunction::tick`].
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.descriptors.is_empty()
    }

    /// The packets, in order of arrival.
    #[inline]
    pub fn iter_mut(&mut self) -> impl Iterator<Item = Packet<'_>> {
        let buffers = self.buffers;
        self.descriptors.iter_mut().map(move |descriptor| Packet { buffers, descriptor })
    }

    /// One packet by its place in the burst, for functions that make several passes (look-ups first, edits later).
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<Packet<'_>> {
        let buffers = self.buffers;
        self.descriptors.get_mut(index).map(|descriptor| Packet { buffers, descriptor })
    }

    /// Time since an arbitrary start. It never goes back; during a run over capture files it is the time of the packets.
    #[inline]
    pub fn now(&mut self) -> Duration {
        Duration::from_nanos(self.state.now_ns())
    }

    /// A new, empty packet that leaves with this burst; `None` when no buffer is to be had. Its verdict is
    /// [`Verdict::Next`] in the forward direction unless another is set: most want [`Packet::to_port`].
    #[inline]
    pub fn allocate(&mut self) -> Option<Packet<'_>> {
        let mut descriptor = self.state.spare.pop()?;
        (descriptor.offset, descriptor.length) = (HEADROOM_BYTES, 0);
        Some(self.emit(descriptor))
    }

    /// Puts a held packet back into the chain with this burst.
    #[inline]
    pub fn resume(&mut self, held: Held) -> Packet<'_> {
        let descriptor = held.0;
        std::mem::forget(held);
        self.emit(descriptor)
    }

    /// From soon on, packets of this flow, in this direction, go where the manifest lets the function steer flows under the
    /// target's name, instead of where the steering rules of the port say; for `lifetime`, unless steered again. Packets that
    /// are in the chain already stay in it. Returns false, and does nothing, beyond [`STEERED`] flows that have
    /// not been taken from the function yet: those of a burst, or of more when it steers faster than it is served. `status`
    /// shows how many were refused so.
    ///
    /// The other direction is a flow of its own: [`FlowKey::reverse`].
    pub fn steer(&mut self, flow: &FlowKey, to: SteerTarget, lifetime: Duration) -> bool {
        self.request(SteeredFlow::new(flow, Some(to), lifetime))
    }

    /// Lets packets of a flow go by the manifest's rules again, as [`Burst::steer`] otherwise does at the end of the lifetime.
    pub fn unsteer(&mut self, flow: &FlowKey) -> bool {
        self.request(SteeredFlow::new(flow, None, Duration::ZERO))
    }

    /// How many more flows [`Burst::steer`] and [`Burst::unsteer`] take now, for functions that have many and can wait.
    pub fn room_to_steer(&self) -> usize {
        STEERED.saturating_sub(self.state.steered.len())
    }

    fn request(&mut self, flow: SteeredFlow) -> bool {
        let fits = self.room_to_steer() > 0;
        if fits {
            self.state.steered.push(flow);
        } else {
            self.state.unheard += 1;
        }
        fits
    }

    fn emit(&mut self, mut descriptor: Descriptor) -> Packet<'_> {
        (descriptor.verdict, descriptor.argument) = (0, 0);
        let place = self.state.emitted.len();
        self.state.emitted.push(descriptor);
        Packet { buffers: self.buffers, descriptor: &mut self.state.emitted[place] }
    }
}

/// What a host keeps between bursts: empty buffers, packets that functions put in, the clock.
#[derive(Debug)]
pub struct BurstState {
    /// Empty buffers a function may fill.
    pub spare: Vec<Descriptor>,
    /// Packets that the function made or resumed, to be sent after the burst.
    pub emitted: Vec<Descriptor>,
    /// Flows that the function steers, to be told to the manager after the burst.
    pub steered: Vec<SteeredFlow>,
    /// Wishes to steer that found no room there since this was looked at.
    pub unheard: u64,
    start: Instant,
    logical_ns: Option<u64>,
    cached_ns: Option<u64>,
}

impl Default for BurstState {
    fn default() -> Self {
        Self {
            spare: Vec::with_capacity(4 * BURST),
            emitted: Vec::with_capacity(4 * BURST),
            steered: Vec::new(),
            unheard: 0,
            start: Instant::now(),
            logical_ns: None,
            cached_ns: None,
        }
    }
}

impl BurstState {
    /// Starts a burst; the clock is read when first asked for.
    #[inline]
    pub fn begin(&mut self) {
        self.cached_ns = None;
    }

    /// From here on time stands at `now_ns` until set again: for deterministic runs.
    pub fn set_logical_clock(&mut self, now_ns: u64) {
        self.logical_ns = Some(now_ns);
    }

    #[inline]
    fn now_ns(&mut self) -> u64 {
        if let Some(ns) = self.logical_ns {
            return ns;
        }
        *self.cached_ns.get_or_insert_with(|| {
            // From a fixed point in the past, so that "long ago" can be subtracted near the start.
            u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
        })
    }
}

/// A packet that a function kept back. It comes back with [`Burst::resume`]; while it is held, its buffer is not free. One
/// that is dropped instead is freed and counted as abandoned.
#[derive(Debug)]
#[must_use = "a held packet keeps its buffer until it is resumed"]
pub struct Held(Descriptor);

thread_local! {
    static ABANDONED: RefCell<Vec<Descriptor>> = const { RefCell::new(Vec::new()) };
}

impl Drop for Held {
    fn drop(&mut self) {
        // On a thread that is ending there is no host left to tell.
        let _ = ABANDONED.try_with(|list| list.borrow_mut().push(self.0));
    }
}

/// For hosts: the packets whose [`Held`] was dropped on this thread since the last call.
pub fn take_abandoned() -> Vec<Descriptor> {
    ABANDONED.with(|list| std::mem::take(&mut *list.borrow_mut()))
}

/// One packet: its bytes from the Ethernet header on, and its verdict.
#[derive(Debug)]
pub struct Packet<'b> {
    buffers: &'b Buffers,
    descriptor: &'b mut Descriptor,
}

impl Packet<'_> {
    /// Length in bytes, without FCS.
    #[inline]
    #[allow(clippy::len_without_is_empty, reason = "a packet is bytes, not a collection")]
    pub fn len(&self) -> usize {
        usize::from(self.descriptor.length)
    }

    /// The bytes, from the Ethernet header on.
    #[inline]
    pub fn data(&self) -> &[u8] {
        self.buffers.bytes(self.descriptor)
    }

    /// The bytes, to be edited in place.
    #[inline]
    pub fn data_mut(&mut self) -> &mut [u8] {
        self.buffers.bytes_mut(self.descriptor)
    }

    /// Brings the first bytes into the cache, for passes that touch them a few packets later.
    #[inline]
    pub fn prefetch(&self) {
        self.buffers.prefetch(self.descriptor);
    }

    /// The port the packet came in by.
    #[inline]
    pub fn ingress(&self) -> Port {
        Port(self.descriptor.port)
    }

    /// Adds `bytes` in front; `None` when the headroom is too small. Returns the new packet's bytes.
    pub fn prepend(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let n = u16::try_from(bytes).ok()?;
        let offset = self.descriptor.offset.checked_sub(n)?;
        self.resize_at(offset, self.descriptor.length.checked_add(n)?)
    }

    /// Removes `bytes` from the front; `None` when the packet is shorter.
    pub fn trim_front(&mut self, bytes: usize) -> Option<&mut [u8]> {
        let n = u16::try_from(bytes).ok()?;
        let length = self.descriptor.length.checked_sub(n)?;
        self.resize_at(self.descriptor.offset + n, length)
    }

    /// Sets the length, growing into the tail room or cutting the end; `None` when there is no room. Bytes gained are
    /// whatever the buffer held.
    pub fn resize(&mut self, bytes: usize) -> Option<&mut [u8]> {
        self.resize_at(self.descriptor.offset, u16::try_from(bytes).ok()?)
    }

    /// Replaces the whole packet by these bytes, if they fit.
    pub fn fill(&mut self, bytes: &[u8]) -> bool {
        self.resize(bytes.len()).map(|room| room.copy_from_slice(bytes)).is_some()
    }

    fn resize_at(&mut self, offset: u16, length: u16) -> Option<&mut [u8]> {
        if u32::from(offset) + u32::from(length) > self.buffers.buffer_bytes() {
            return None;
        }
        (self.descriptor.offset, self.descriptor.length) = (offset, length);
        Some(self.buffers.bytes_mut(self.descriptor))
    }

    /// Sets the verdict.
    #[inline]
    pub fn set_verdict(&mut self, verdict: Verdict) {
        (self.descriptor.verdict, self.descriptor.argument) = verdict.encode();
    }

    /// The verdict set so far.
    #[inline]
    pub fn verdict(&self) -> Verdict {
        Verdict::decode(self.descriptor.verdict, self.descriptor.argument).unwrap_or(Verdict::Next)
    }

    /// [`Verdict::Drop`].
    #[inline]
    pub fn drop(mut self, reason: DropReason) {
        self.set_verdict(Verdict::Drop(reason));
    }

    /// [`Verdict::Reply`].
    #[inline]
    pub fn reply(mut self) {
        self.set_verdict(Verdict::Reply);
    }

    /// [`Verdict::Port`].
    #[inline]
    pub fn to_port(mut self, port: Port) {
        self.set_verdict(Verdict::Port(port));
    }

    /// [`Verdict::Output`].
    #[inline]
    pub fn output(mut self, output: Output) {
        self.set_verdict(Verdict::Output(output));
    }

    /// [`Verdict::Flood`].
    #[inline]
    pub fn flood(mut self) {
        self.set_verdict(Verdict::Flood);
    }

    /// Keeps the packet back until [`Burst::resume`]. What a function holds when it dies is reclaimed by the manager.
    #[inline]
    pub fn hold(mut self) -> Held {
        let held = Held(*self.descriptor);
        self.set_verdict(Verdict::Hold);
        held
    }
}
