use std::mem::MaybeUninit;
use std::ptr::NonNull;
use std::sync::Arc;

use dpdk_sys as sys;
use middlenet_shm::Descriptor;

use crate::Worker;
use crate::mbuf::Mbuf;
use crate::pool::Pool;
use crate::port::Shared;

/// Most packets that one call receives or sends.
pub const MAX_BURST: usize = 64;

/// A receive queue of a started port. Whoever has it is the only one to poll it.
#[derive(Debug)]
pub struct RxQueue {
    shared: Arc<Shared>,
    queue: u16,
    port: u8,
    segmented: u64,
}

impl RxQueue {
    pub(crate) fn new(shared: Arc<Shared>, queue: u16, port: u8, segmented: u64) -> RxQueue {
        RxQueue { shared, queue, port, segmented }
    }

    /// Number of the queue at its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// What [`receive`](Self::receive) writes to [`Descriptor::port`].
    pub fn port(&self) -> u8 {
        self.port
    }

    /// Packets dropped because the device spread them over several buffers.
    pub fn segmented(&self) -> u64 {
        self.segmented
    }

    /// Receives up to [`MAX_BURST`] packets into the front of `out`; returns how many. The caller then holds their
    /// buffers, until it sends or frees them.
    ///
    /// Descriptors carry index, offset, length and port; the other fields are zero.
    #[inline]
    pub fn receive(&mut self, _: &Worker, out: &mut [Descriptor]) -> usize {
        let mut mbufs = [const { MaybeUninit::<*mut sys::rte_mbuf>::uninit() }; MAX_BURST];
        let want = out.len().min(MAX_BURST);
        // SAFETY: the port is started for as long as `shared` has queues; `&mut self` makes this the only poll of the
        // queue; `mbufs` has room for `want` pointers.
        let got =
            unsafe { sys::rte_eth_rx_burst(self.shared.port, self.queue, mbufs.as_mut_ptr().cast(), want as u16) };
        let got = usize::from(got).min(want);
        let layout = self.shared.pool.layout();
        let port = u64::from(self.port) << 56;
        let mut slots = out.iter_mut();
        let mut dropped = 0;
        for pointer in &mbufs[..got] {
            // SAFETY: the driver wrote `got` pointers, none null, to mbufs of the pool that the queue was set up with.
            let mbuf = unsafe { Mbuf::new(NonNull::new_unchecked(pointer.assume_init().cast())) };
            if mbuf.segments() != 1 {
                drop_segmented(mbuf);
                dropped += 1;
                continue;
            }
            let Some(slot) = slots.next() else { break };
            mbuf.mark_out();
            // Two stores for the descriptor, where field by field there would be six.
            let (index, offset) = layout.place_of(mbuf);
            let place = u64::from(offset) | u64::from(mbuf.data_length()) << 16;
            *slot = zerocopy::transmute!([u64::from(index) | place << 32, port]);
        }
        self.segmented += dropped as u64;
        got - dropped
    }
}

/// A chain of buffers has no descriptor. Ports are set up without scatter, so only a few virtual devices make one.
#[cold]
fn drop_segmented(mbuf: Mbuf) {
    // SAFETY: received and not passed on; frees the whole chain.
    unsafe { sys::rte_pktmbuf_free(mbuf.as_ptr()) };
}

/// A transmit queue of a started port. Whoever has it is the only one to send on it.
#[derive(Debug)]
pub struct TxQueue {
    shared: Arc<Shared>,
    queue: u16,
}

impl TxQueue {
    pub(crate) fn new(shared: Arc<Shared>, queue: u16) -> TxQueue {
        TxQueue { shared, queue }
    }

    /// Number of the queue at its port.
    pub fn queue(&self) -> u16 {
        self.queue
    }

    /// Sends the first [`MAX_BURST`] of `descriptors`, in order; returns how many the port took. The caller still holds
    /// the buffers of the rest.
    ///
    /// Ends early at a descriptor that cannot be sent: its index is not out, it is empty, or it reaches beyond its
    /// buffer. That is counted in [`Pool::refused`], and it will be refused again: free it.
    #[inline]
    pub fn send(&mut self, _: &Worker, descriptors: &[Descriptor]) -> usize {
        let mut mbufs = [const { MaybeUninit::<*mut sys::rte_mbuf>::uninit() }; MAX_BURST];
        let pool: &Pool = &self.shared.pool;
        let layout = pool.layout();
        let buffer_bytes = layout.buffer_bytes();
        let mut ready = 0;
        for (descriptor, slot) in descriptors.iter().zip(&mut mbufs) {
            // The last byte; far outside for an empty packet.
            let last = u32::from(descriptor.offset) + u32::from(descriptor.length.wrapping_sub(1));
            let Some(mbuf) = layout.out(descriptor.index).filter(|_| last < buffer_bytes) else {
                pool.refuse(1);
                break;
            };
            mbuf.set_packet(layout.data_offset(mbuf, descriptor.offset), descriptor.length);
            slot.write(mbuf.as_ptr());
            ready += 1;
        }
        if ready == 0 {
            return 0;
        }
        // SAFETY: the port is started for as long as `shared` has queues; `&mut self` makes this the only sender on the
        // queue; the first `ready` slots hold mbufs of the pool, each one segment inside its buffer.
        let sent =
            unsafe { sys::rte_eth_tx_burst(self.shared.port, self.queue, mbufs.as_mut_ptr().cast(), ready as u16) };
        let sent = usize::from(sent).min(ready);
        if sent < ready {
            self.take_back(&descriptors[sent..ready]);
        }
        sent
    }

    /// The port was full: these are the caller's again.
    #[cold]
    fn take_back(&self, descriptors: &[Descriptor]) {
        for descriptor in descriptors {
            self.shared.pool.layout().mbuf(descriptor.index).mark_out();
        }
    }
}
